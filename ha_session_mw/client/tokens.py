"""The session tokens that pass a client: finds them in requests and responses, and replaces one by its successor.

A token is only ever replaced by one that a node handed out in answer to it. So one client never sends another's token, even if
several share a transport.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cachetools import LRUCache

PREFIX = "hs1."
TOKEN_FIELD = "session-token"  # noqa: S105 - the name of a header field
MOST = 1_000
"""How many replaced tokens are remembered. A request with an older one is sent as it is."""


class Carried(NamedTuple):
    """A token with its way.

    Attributes:
        cookie: the name of the cookie; None for a bearer token.
        token: the token.
    """

    cookie: str | None
    token: str


def carried_by(fields: Iterable[tuple[str, str]]) -> Carried | None:
    """Return the session token in the header fields of a request; None if there is none, or more than one."""
    found: list[Carried] = []
    for name, value in fields:
        if name.lower() == "authorization" and value[:7].lower() == "bearer " and value[7:].strip().startswith(PREFIX):
            found.append(Carried(None, value[7:].strip()))
        elif name.lower() == "cookie":
            pairs = (pair.strip().partition("=") for pair in value.split(";"))
            found += [Carried(cookie, token) for cookie, _, token in pairs if token.startswith(PREFIX)]
    return found[0] if len(found) == 1 else None


def handed_out_by(fields: Iterable[tuple[str, str]]) -> Carried | None:
    """Return the session token that a response hands out; None if it hands out none."""
    for name, value in fields:
        if name.lower() == TOKEN_FIELD and value.startswith(PREFIX):
            return Carried(None, value)
        if name.lower() == "set-cookie":
            cookie, _, token = value.partition(";")[0].strip().partition("=")
            if token.startswith(PREFIX):
                return Carried(cookie, token)
    return None


def with_token(fields: Iterable[tuple[str, str]], old: Carried | None, new: Carried) -> list[tuple[str, str]]:
    """Return the header fields of a request with a token replaced, or added if there was none."""
    if old is not None:
        return [(name, value.replace(old.token, new.token) if name.lower() in _CREDENTIALS else value) for name, value in fields]
    if new.cookie is None:
        return [*fields, ("authorization", f"Bearer {new.token}")]
    cookies = [value for name, value in fields if name.lower() == "cookie"]
    others = [field for field in fields if field[0].lower() != "cookie"]
    return [*others, ("cookie", "; ".join([*cookies, f"{new.cookie}={new.token}"]))]


_CREDENTIALS = ("authorization", "cookie")


class Successors:
    """Which token took the place of which."""

    def __init__(self) -> None:
        self._of: LRUCache[str, str] = LRUCache(MOST)

    def note(self, old: str, new: str) -> None:
        """Note that a node handed out ``new`` in answer to ``old``."""
        if old == new:
            return
        newest = self.newest(old, under_any_id=True)
        if _sid(newest) != _sid(old) == _sid(new):
            self._of[new] = newest  # a late answer, of a node that has not heard of the new id yet
        else:
            self._of.pop(new, None)  # the newest one has no successor, so there is no circle
            self._of[old] = new

    def newest(self, token: str, *, under_any_id: bool) -> str:
        """Return the last successor of a token, which may be the token itself.

        Args:
            token: the token.
            under_any_id: whether the session may have got a new id meanwhile, by a log-in for example. A request must not become one
                of another session unless a node says that its own is superseded.
        """
        newest = token
        while (successor := self._of.get(newest)) is not None and (under_any_id or _sid(successor) == _sid(token)):
            newest = successor
        return newest


def _sid(token: str) -> str:
    return token.split(".")[1]
