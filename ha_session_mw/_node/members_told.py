"""The members of the cluster as one node sees them, for operators."""

from __future__ import annotations

from typing import Any

from ..version import __version__
from .node import Node


def members_of(node: Node) -> list[dict[str, Any]]:
    """Return a row for each member, this node's first. A member that left is there for a short while."""
    log = node.log
    own = {
        "member": node.node_id,
        "url": node.settings.advertise_url or "",
        "state": "draining"
        if node.draining.begun
        else "ready"
        if node.why_not_ready() is None
        else "starting"
        if log.is_starting()
        else "not ready",
        "here": True,
        "heard_ago_s": 0.0,
        "ahead_s": 0.0,
        "kids": list(node.keys.ring.kids),
        "freshness_limit_s": node.settings.freshness_limit,
        "release": __version__,
        "weight": node.settings.weight,
    }
    others = [
        {
            "member": seen.heartbeat.member,
            "url": seen.heartbeat.url,
            "state": seen.heartbeat.state if seen.is_live else "gone",
            "here": False,
            "heard_ago_s": seen.heard_ago_s,
            "ahead_s": seen.ahead_s,
            "kids": list(seen.heartbeat.kids),
            "freshness_limit_s": seen.heartbeat.freshness_limit_s,
            "release": seen.heartbeat.release,
            "weight": seen.heartbeat.weight,
        }
        for seen in log.sightings()
    ]
    return [own, *others]
