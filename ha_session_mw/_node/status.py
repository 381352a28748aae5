"""The state of a node at a glance, for operators. It contains no ids, subjects or keys."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .node import Node


def cache_requests(node: Node) -> tuple[int, int]:
    """Return how many requests found their token in the cache of verified tokens, and how many did not."""
    validator = node.validator
    decided_anew = validator.missed - validator.missed_undecided
    return validator.accepted + validator.not_accepted - decided_anew, validator.missed


def status_of(node: Node) -> dict[str, object]:
    """Return the state and the counts of a node."""
    why_not_ready = node.why_not_ready()
    sync_lag = node.log.sync_lag()
    age_s = max(0.0, node.clock.boot_s() - node.view.fresh_at)
    hits, misses = cache_requests(node)
    devices, look_ups, peering, listeners = node.devices, node.look_ups, node.peering, node.listeners
    return {
        "node": node.node_id,
        "cluster": node.backend.scheme,
        "ready": why_not_ready is None,
        "not_ready_because": why_not_ready,
        "mismatches": list(node.log.mismatches()),
        "exposed_because": node.log.exposure(),
        "member_lists": node.log.member_lists(),
        "freshness_age_s": age_s if age_s < math.inf else None,  # JSON has no infinity
        "sync_lag": sync_lag.told() if sync_lag is not None else None,
        "revocation_entries": len(node.view),
        "revocation_bytes": node.growth.bytes,
        "revocations_per_minute": node.growth.per_minute,
        "cache_hits": hits,
        "cache_misses": misses,
        "cached_tokens": len(node.cache),
        "cached_token_bytes": node.cache.bytes,
        "cached_records": len(node.copies),
        "sessions_recovered": dict(node.recoveries.recovered),
        "lost_session_data": node.recoveries.lost,
        "accepted": node.validator.accepted,
        "refused": dict(node.errors.counts),
        "errors": node.errors.told(),
        "logouts_by_infrastructure": node.errors.logouts_by_infrastructure,
        "accepts_after_revocation": node.second_look.accepts_after_revocation if node.second_look else 0,
        "kids": list(node.keys.ring.kids),
        "look_ups": dict(look_ups.results) if look_ups else {},
        "refused_peer_calls": peering.server.refused if peering else 0,
        "peers": peering.faults.told() if peering else {},
        "redirected": node.ownership.redirected,
        "forwards": dict(node.ownership.forwards),
        "unreachable_owners": dict(node.ownership.unreachable_owners),
        "provisional_log_outs": len(node.revoker.provisional),
        "locks": node.locks.status(),
        "restarted_tasks": dict(node.supervisor.crashes),
        "unwritten_notes": len(devices) if devices is not None else 0,
        "lost_notes": devices.lost if devices is not None else 0,
        "listeners": len(listeners),
        "missed_events": listeners.missed,
        "failed_callbacks": listeners.failures,
        "recent_log_outs": node.recent_log_outs.told() if node.recent_log_outs is not None else None,
    }
