"""Which member owns a session: weighted rendezvous hashing (Thaler and Ravishankar 1998; weights: Schindelhauer and Schomaker 2005).

Every node finds the same owners without asking. A member that joins or leaves moves its own sessions only. Sessions fall into
``BUCKETS`` buckets, and a bucket has an owner. So a look-up does not cost more in a larger cluster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b

from ..structured_fields import TransferReason
from .members import Heartbeat

BUCKETS = 1 << 14
"""Into how many buckets sessions fall. It never changes. 100 members of equal weight own 164 buckets each, give or take 13."""

NO_WEIGHTS: Mapping[str, int] = {}
_HASHES = 1 << 64


def owners(key: str, members: Iterable[str], weights: Mapping[str, int] = NO_WEIGHTS) -> list[str]:
    """Return all members: the owner first, the others in the order in which they would succeed it.

    Args:
        key: what is owned.
        members: the members.
        weights: how many keys a member owns, relative to the others. 1 for a member that is not named.
    """
    return sorted(members, key=lambda member: _score(key, member, weights.get(member, 1)), reverse=True)


def bucket_of(session_id: str) -> int:
    """Return the bucket into which a session falls."""
    return int.from_bytes(blake2b(session_id.encode(), digest_size=8).digest()) % BUCKETS


class OwnerTable:
    """The owner of each session among given members. Computes the owner of a bucket once, when it is asked for.

    Args:
        weights: the members, each with its weight; not empty.
    """

    __slots__ = ("_owners", "weights")

    def __init__(self, weights: Mapping[str, int]) -> None:
        if not weights:
            raise ValueError("a session needs a member that owns it")
        self.weights = dict(weights)
        self._owners: dict[int, str] = {}

    def owner_of(self, session_id: str) -> str:
        """Return the member that owns a session."""
        bucket = bucket_of(session_id)
        owner = self._owners.get(bucket)
        if owner is None:
            owner = self._owners[bucket] = max(self.weights, key=lambda member: _score(str(bucket), member, self.weights[member]))
        return owner


def nearest(session_id: str, members: Iterable[Heartbeat], *, issuer: str | None, but: str) -> list[str]:
    """Return the members' URLs, those first that may know most of a session: the issuer of its token, then its owners.

    Args:
        session_id: the id of the session.
        members: the live members. Those that are starting know nothing yet and are left out.
        issuer: the member that issued the token; None if that is unknown.
        but: a URL to leave out: the asker's own.
    """
    asked = [one for one in members if one.state != "starting" and one.url not in ("", but)]
    urls = {one.url: one.member for one in asked}
    order = owners(str(bucket_of(session_id)), urls.values(), {one.member: one.weight for one in asked})
    return sorted(urls, key=lambda url: (urls[url] != issuer, order.index(urls[url])))


def share_out(members: Iterable[Heartbeat]) -> dict[str, int]:
    """Return the members that own sessions, with their weights: those that are ready; if there is none, those that are draining."""
    listed = [*members]
    for state in ("ready", "draining"):
        found: dict[str, int] = {one.member: one.weight for one in listed if one.state == state}
        if found:
            return found
    return {}


def reason_of_transfer(issuer: str, members: Iterable[Heartbeat]) -> TransferReason:
    """Return why a session has moved away from the node that issued its token.

    Args:
        issuer: that node.
        members: the other live members.
    """
    state = next((one.state for one in members if one.member == issuer), "starting")  # a node that starts anew has been away, too
    return "drain" if state == "draining" else "rebalance" if state == "ready" else "failover"


def _score(key: str, member: str, weight: int) -> tuple[float, bytes]:
    digest = blake2b(f"{member}\n{key}".encode(), digest_size=8).digest()
    # Among n members of equal weight each has the highest hash for one key in n. The logarithm of a uniform hash, divided by the
    # weight, keeps that in proportion. The hash itself decides between two that are rounded to the same logarithm.
    return math.log((int.from_bytes(digest) + 1) / _HASHES) / weight, digest
