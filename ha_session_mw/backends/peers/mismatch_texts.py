"""Why this node and a member cannot work together, in words for operators."""

from __future__ import annotations

from ..._core.cluster.members import Heartbeat
from ..._core.quorum.messages import Mismatch
from ..common.membered import why_skipped


def why_apart(name: str, why: Mismatch, its: Heartbeat | None, own: Heartbeat) -> str:
    """Return a sentence with the remedy.

    Args:
        name: of the member.
        why: what is different.
        its: the newest heartbeat of the member; None if it has sent none of its own.
        own: this node's heartbeat.
    """
    match why:
        case "list":
            return f"{name} has another HA_SESSION_PEERS; they must name the same members everywhere"
        case "identity":
            return f"{name} claims to be another member; each node's HA_SESSION_ADVERTISE_URL must be its own"
        case "change":
            return f"{name} is ahead or behind in the change of the list of members, and does not count for now"
        case "version":
            return _of_versions(name, its, own)


def _of_versions(name: str, its: Heartbeat | None, own: Heartbeat) -> str:
    if its is None or its.protocol.common(own.protocol) is not None:
        return f"{name} writes in a version of the protocol that this node does not read; run one release on both"
    return why_skipped(name, its, own)
