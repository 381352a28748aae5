"""The table of metrics: the name, the labels and the source of each. Every label has a closed set of values, none of them an id.

The sources are plain integers that the node counts anyhow. Reading them waits for nothing and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .._core.tally import FAST_S, Tally
from .._node.node import Node
from .._node.standing import farthest_skew_s
from .._node.status import cache_requests
from ..exceptions import problem_types
from ..version import __version__

Labels = tuple[str, ...]
Samples = Iterable[tuple[Labels, float]]
Kind = Literal["counter", "gauge", "histogram"]

MOST_PLACES = 32
"""Members of ``HA_SESSION_PEERS`` that have a series of their own."""
LOOK_UP_RESULTS = ("yes", "revoked", "unknown", "failed", "garbage", "lied", "outrun", "breaker_open")
FORWARDS = ("answered", "fell_back", "refused", "unknown", "cut_off", "gone")
STATES = ("ready", "starting", "draining")


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric.

    Attributes:
        name, kind, help, labels: as Prometheus shows them.
        read: returns the value for each set of label values; counters and gauges only.
        tallies: returns the tally for each set of label values; histograms only.
        combine: how the values of several nodes of a process, or of several workers, become one. Those of counters are added.
    """

    name: str
    kind: Kind
    help: str
    labels: Labels = ()
    read: Callable[[Node], Samples] = field(default=lambda _: ())
    tallies: Callable[[Node], Iterable[tuple[Labels, Tally]]] = field(default=lambda _: ())
    combine: Literal["sum", "max", "min"] = "sum"


def _one(value: Callable[[Node], float]) -> Callable[[Node], Samples]:
    return lambda node: [((), float(value(node)))]


def _validations(node: Node) -> Samples:
    counts, validator = node.errors.counts, node.validator
    refused = {"client": 0, "operator": 0, "infrastructure": 0}
    for code, kind in problem_types().items():
        if code not in ("token_missing", *_NOT_OF_A_TOKEN):
            refused[kind.turn] += counts[code]
    return [
        (("accepted",), validator.accepted - validator.for_peers),
        (("relaxed",), validator.relaxed),
        (("for_peer",), validator.for_peers),
        (("refused",), refused["client"]),
        (("unknown",), refused["operator"] + refused["infrastructure"]),
    ]


_NOT_OF_A_TOKEN = frozenset(
    (
        *("headers_too_large", "idempotency_key_reused", "insufficient_user_authentication", "quorum_lost", "request_cross_site"),
        *("request_in_flight", "session_conflict", "session_limit_reached", "session_locked", "session_unknown", "store_unavailable"),
        *("too_many_log_ins", "forward_loop", "forward_outcome_unknown", "peer_unreachable", "overloaded"),
    )
)
"""Codes of refusals that do not concern the validity of a token."""


def _errors(node: Node) -> Samples:
    return [((code, kind.turn), node.errors.counts[code]) for code, kind in sorted(problem_types().items())]


def _entries(node: Node) -> Samples:
    view = node.view
    return [
        (("session",), len(view.denied) - len(view.superseded)),
        (("replaced",), len(view.superseded)),
        (("cut",), len(view.known_cuts)),
        (("key",), len(view.denied_keys)),
    ]


def _cache(node: Node) -> Samples:
    hits, misses = cache_requests(node)
    return [(("hit",), hits), (("miss",), misses)]


def _look_ups(node: Node) -> Samples:
    results: Mapping[str, int] = node.look_ups.results if node.look_ups is not None else {}
    return [((result,), results.get(result, 0)) for result in LOOK_UP_RESULTS]


def _members(node: Node) -> Samples:
    log = node.log
    own = "draining" if node.draining.begun or log.is_draining() else "starting" if log.is_starting() else "ready"
    states = [own, *(member.state for member in log.members())]
    return [((state,), states.count(state)) for state in STATES]


def skews_of(node: Node) -> dict[str, float]:
    """Return how many seconds this node's wall clock is ahead of others', by a closed set of names.

    ``1`` and so on are the places of members in ``HA_SESSION_PEERS``, ``engine`` is the cluster's server, and ``farthest`` the clock of
    all that differs most.
    """
    places = {url: place for place, url in enumerate(node.settings.peers[:MOST_PLACES], 1)}
    ahead = {seen.heartbeat.url: -seen.ahead_s for seen in node.log.sightings() if seen.is_live and seen.ahead_s is not None}
    known = {str(place): ahead[url] for url, place in places.items() if url in ahead}
    engine_s = node.log.engine_ahead_s()
    if engine_s is not None:
        known["engine"] = -engine_s
    return {**known, "farthest": farthest_skew_s(node.log)}


def _skew(node: Node) -> Samples:
    return [((peer,), seconds) for peer, seconds in skews_of(node).items()]


def _forwards(node: Node) -> Samples:
    forwards = node.ownership.forwards
    return [(("redirected",), node.ownership.redirected), *(((result,), forwards[result]) for result in FORWARDS)]


def freshness_age_s(node: Node) -> float:
    """Return how old this node's knowledge is, in seconds; infinity before it knows anything."""
    return max(0.0, node.clock.boot_s() - node.view.fresh_at)


def _lag(node: Node) -> Iterable[tuple[Labels, Tally]]:
    lag = node.log.sync_lag()
    return [] if lag is None else [((), lag)]


def _durations(node: Node) -> Iterable[tuple[Labels, Tally]]:
    node.sampling.take_in()
    return [((path,), tally) for path, tally in node.validator.durations.items()]


def _look_up_durations(node: Node) -> Iterable[tuple[Labels, Tally]]:
    return [((), node.look_ups.durations if node.look_ups is not None else Tally(FAST_S))]


FIGURES: Sequence[Figure] = (
    Figure("ha_session_build_info", "gauge", "The release of the package, and the kind of cluster.", ("version", "cluster"),
           lambda node: [((__version__, node.backend.scheme), 1.0)], combine="max"),
    Figure("ha_session_ready", "gauge", "1 if the node can validate sessions.", read=_one(lambda node: node.why_not_ready() is None),
           combine="min"),
    Figure("ha_session_validations_total", "counter", "Tokens of requests, by what became of them; and those of other nodes' questions.",
           ("result",), _validations),
    Figure("ha_session_errors_total", "counter", "Refusals, by problem code and whose turn it is.", ("code", "turn"), _errors),
    Figure("ha_session_validation_duration_seconds", "histogram",
           "Time of validations. Of those by cache and signature, one in 64 is measured.", ("path",),
           tallies=_durations),
    Figure("ha_session_freshness_age_seconds", "gauge", "How old the node's knowledge is.", read=_one(freshness_age_s), combine="max"),
    Figure("ha_session_freshness_limit_seconds", "gauge", "How old the node's knowledge may be when it accepts a session.",
           read=_one(lambda node: node.log.freshness_limit_s), combine="min"),
    Figure("ha_session_sync_lag_seconds", "histogram",
           "peers://: age of each log-out of another node when applied here. etcd://: time of each own heartbeat through the log.",
           tallies=_lag),
    Figure("ha_session_applied_position", "gauge", "How far the node has applied the log.", read=_one(lambda node: node.log.position()),
           combine="min"),
    Figure("ha_session_revocation_ack_seconds", "histogram", "Time until a log-out, or the replacement of an id, was acknowledged.",
           ("mode",), tallies=lambda node: [((mode,), tally) for mode, tally in node.revoker.took.items()]),
    Figure("ha_session_revocation_entries", "gauge", "Revocations that the node remembers.", ("kind",), _entries, combine="max"),
    Figure("ha_session_revocations_pending", "gauge", "Log-outs under way, or provisional: no majority is known to hold them.",
           read=_one(lambda node: len(node.revoker.provisional) + node.revoker.under_way)),
    Figure("ha_session_cache_requests_total", "counter", "Look-ups in the cache of verified tokens.", ("result",), _cache),
    Figure("ha_session_peer_requests_total", "counter", "Questions to other nodes about a token.", ("result",), _look_ups),
    Figure("ha_session_peer_request_duration_seconds", "histogram", "Time of such questions.", tallies=_look_up_durations),
    Figure("ha_session_members", "gauge", "Live members as this node sees them, itself included.", ("state",), _members, combine="max"),
    Figure("ha_session_quorum_size", "gauge", "Members that must take a log-out to make it durable.",
           read=_one(lambda node: node.log.quorum_size()), combine="max"),
    Figure("ha_session_quorum_available", "gauge", "1 if log-outs become durable now.",
           read=_one(lambda node: node.log.has_quorum()), combine="min"),
    Figure("ha_session_clock_skew_seconds", "gauge", "How far this node's clock is ahead of a member's, by place in HA_SESSION_PEERS, "
           "of the cluster server's, and of the clock that differs most.", ("peer",), _skew, combine="max"),
    Figure("ha_session_forwards_total", "counter", "Requests led to the owner of their session.", ("result",),
           _forwards),
    Figure("ha_session_lock_wait_seconds", "histogram", "Time that requests waited for locks.",
           tallies=lambda node: [((), node.locks.waits)]),
    Figure("ha_session_signing_key_age_seconds", "gauge", "Age of the newest key, as far as this process, or the key's file, knows.",
           read=_one(lambda node: node.keys.signing_age_s(node.clock.boot_s(), node.clock.wall_s())), combine="max"),
    Figure("ha_session_divergences_total", "counter", "Times that two members read the log differently up to the same position.",
           read=_one(lambda node: node.divergences)),
    Figure("ha_session_task_restarts_total", "counter", "Background tasks that crashed and were started again.",
           read=_one(lambda node: sum(node.supervisor.crashes.values()))),
    Figure("ha_session_accepts_after_revocation_total", "counter",
           "Sampled requests whose session was accepted after its log-out was fenced. Must stay 0.",
           read=_one(lambda node: node.second_look.accepts_after_revocation if node.second_look is not None else 0)),
    Figure("ha_session_logouts_by_infrastructure_total", "counter",
           "Refusals that ended a session because of a fault of the infrastructure. Must stay 0.",
           read=_one(lambda node: node.errors.logouts_by_infrastructure)),
)  # fmt: skip
"""All metrics. Series of counters exist from the start with all label values, because a rule never fires on one that is missing."""


def combined(figure: Figure, nodes: Sequence[Node]) -> dict[Labels, float]:
    """Return the values of a counter or a gauge over several nodes."""
    found: dict[Labels, float] = {}
    for node in nodes:
        for labels, value in figure.read(node):
            if labels not in found:
                found[labels] = value
            elif figure.combine == "sum":
                found[labels] += value
            else:
                found[labels] = (max if figure.combine == "max" else min)(found[labels], value)
    return {labels: value for labels, value in found.items() if not math.isnan(value)}


def combined_tallies(figure: Figure, nodes: Sequence[Node]) -> dict[Labels, Tally]:
    """Return the tallies of a histogram, added up over several nodes."""
    found: dict[Labels, Tally] = {}
    for node in nodes:
        for labels, tally in figure.tallies(node):
            one = found.setdefault(labels, Tally(tally.bounds))
            one.counts = [mine + its for mine, its in zip(one.counts, tally.counts, strict=True)]
            one.sum += tally.sum
    return found
