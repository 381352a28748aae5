"""Decide where a request is answered whose handler keeps state on a node: here, or by the owner of its session.

Performs no I/O and reads no clock. The target is always the owner, at the URL that it announced. A request can only forbid that it leaves
this node, and name the origins to which its sender follows a redirect. No field of it is ever a target.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from ..calls.origins import origin_of
from ..request_fields import Header, values
from .members import Heartbeat

FOLLOWS_HEADER = b"session-follows"
"""Request field: the origins to which the sender, a balancer or a client, carries this request on a redirect. A comma list."""

FORWARDED = "ha_session_mw.forwarded"
"""The key of the ASGI scope of a request that a member has forwarded to this node."""
MAX_FOLLOWS_BYTES = 16 * 1024
"""The most bytes of that field: room for some 500 nodes. A longer one counts as none."""


@dataclass(frozen=True, slots=True)
class ServeHere:
    """Answer the request on this node, as every node can.

    Attributes:
        why: ``owner``: this node owns the session. ``forwarded``: the request has made its one hop. ``no_target``: the owner announces no
            URL, or this node's. ``not_followed``: the sender does not follow a redirect to the owner.
    """

    why: Literal["owner", "forwarded", "no_target", "not_followed"]


@dataclass(frozen=True, slots=True)
class Redirect:
    """Tell the sender to send the request to this origin, which is among those that it named."""

    origin: str


@dataclass(frozen=True, slots=True)
class Forward:
    """Send the request to this member, and pass its answer on."""

    owner: Heartbeat


Decision = ServeHere | Redirect | Forward


def decide(
    routing: Literal["redirect", "forward"], owner: Heartbeat | None, *, own_url: str, is_forwarded: bool, follows: Collection[str]
) -> Decision:
    """Return where to answer a request of a session.

    Args:
        routing: how a request gets to the owner.
        owner: the member that owns the session; None if that is this node.
        own_url: the URL that this node announces.
        is_forwarded: whether another member has forwarded the request to this node.
        follows: the origins that the sender names.
    """
    if is_forwarded:
        return ServeHere("forwarded")
    if owner is None:
        return ServeHere("owner")
    origin = origin_of(owner.url)
    if origin is None or origin == origin_of(own_url):
        return ServeHere("no_target")
    if routing == "forward":
        return Forward(owner)
    return Redirect(origin) if origin in follows else ServeHere("not_followed")


def follows_of(headers: Iterable[Header]) -> frozenset[str]:
    """Return the origins that the sender of a request follows a redirect to, each as :func:`.origin_of` spells it."""
    found = values(headers, FOLLOWS_HEADER)
    if not found or sum(map(len, found)) > MAX_FOLLOWS_BYTES:
        return frozenset()
    return frozenset(item.strip() for item in b",".join(found).decode("latin-1").split(","))
