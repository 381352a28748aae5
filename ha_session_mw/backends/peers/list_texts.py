"""The words for operators about member lists and their change."""

from __future__ import annotations

from ..._core.quorum.log import Quorum
from ..._core.quorum.membership import MOVED, OPEN, Stage

TOLD: dict[Stage, str] = {
    "joint": "both lists of members are in force; give them to the other nodes, too",
    "sealed": "all nodes have both lists of members; the old one is being given up",
    "moved": "the list in HA_SESSION_PEERS_NEXT stands alone now; set HA_SESSION_PEERS to it and unset HA_SESSION_PEERS_NEXT, node by node",
    "steady": "the list in HA_SESSION_PEERS stands alone now",
    "retired": "the list in HA_SESSION_PEERS was given up for another one; set it to the list that the other nodes have",
    "waiting": "the list in HA_SESSION_PEERS does not stand alone yet",
}
"""The line that tells of each phase of a change."""


def why_not_serving(quorum: Quorum) -> str | None:
    """Return why this node may not validate sessions by its member lists; None if they are no reason."""
    membership = quorum.membership
    if quorum.recovering and quorum.amnesia.is_claimed and membership.phase == "steady" and not quorum.mismatched:
        return (
            "nodes with another HA_SESSION_PEERS take this node for a member, so they may know log-outs that this one does not; "
            "give all the same list, or stop those nodes"
        )
    if membership.serves:
        return None
    if membership.phase == "waiting":
        return (
            "the list in HA_SESSION_PEERS does not stand alone yet: set HA_SESSION_PEERS and HA_SESSION_PEERS_NEXT on the nodes that have "
            "the old list alone"
        )
    if membership.stage == OPEN:
        return "HA_SESSION_PEERS does not name this node: it serves once all nodes have this HA_SESSION_PEERS_NEXT"
    if membership.is_joint and membership.stage <= MOVED and membership.phase != "retired":
        named = membership.me in membership.lists[1]
        return "the old list of members is being given up" if named else "HA_SESSION_PEERS_NEXT does not name this node: stop it"
    return TOLD["retired"]
