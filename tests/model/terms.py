"""The terms of both models: discrete time, the session that a log-out ends, how far a log-out has got, a request under way."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from ha_session_mw._core.accept_rule import Accept, decide
from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.cluster.view import View
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.models import Claims, Deny, FamilyId, KeyId, NodeId, SessionId

Thing = TypeVar("Thing", bound=Hashable)

NOW = Moment(0, 0)
"""The constant current time: time passes by moving all past moments back. Wall clocks stand still, because no question depends on them."""
UNIT_S = 100
LIMIT_S = 2 * UNIT_S
RATES = (101, 99, 99, 99, 99)
"""Rate of each member's clock: the first, which logs out, is 1 % fast, and the others are 1 % slow."""
ENDS_MS = 10**12
LONG = 3
"""Units after which a moment counts as infinitely long ago: every lease and every fence is over."""
_LONG_S = (LONG + 1) * UNIT_S


def aged(time_s: float, by_s: float) -> float:
    """Return the same moment, after this much time has passed."""
    return time_s - by_s if time_s - by_s > -_LONG_S else -math.inf


def units_since(time_s: float, rate: float) -> int:
    """How many units of time ago that was; too long, if a lease from then is over."""
    return round(-time_s / rate) if is_fresh(time_s) else LONG


def session(log_out: int) -> Verified:
    """The session that a log-out ends."""
    claims = Claims(
        sid=SessionId(f"session {log_out}"),
        subject=None,
        family=FamilyId(f"family {log_out}"),
        cuts=(),
        issued_ms=0,
        authenticated_ms=0,
        idle_end_ms=ENDS_MS,
        absolute_end_ms=ENDS_MS,
        issuer=NodeId("n0"),
    )
    return Verified.of(claims, KeyId("key"), renew_at_ms=math.inf)


SESSIONS = tuple(map(session, range(2)))
ENTRIES = tuple(Deny(verified.claims.sid, ENDS_MS, replaced_ms) for replaced_ms, verified in enumerate(SESSIONS))
"""The first is a log-out; the second, of a session that took a new id, must have the same force."""


def accepts(log_out: int, view: View, fresh_at: float) -> bool:
    """The accept rule for the session that a log-out ends."""
    return isinstance(decide(SESSIONS[log_out], view, fresh_at, NOW.boot_s, NOW.wall_ms, LIMIT_S), Accept)


def is_fresh(fresh_at: float) -> bool:
    return NOW.boot_s - fresh_at <= LIMIT_S


def knows(log_out: int, view: View) -> bool:
    return ENTRIES[log_out].id in view.denied


NOT_MADE, MADE, DURABLE, FENCED = range(4)


class LogOut(NamedTuple):
    """A log-out's progress as its member knew it, and for how long it has been durable, in units of time."""

    standing: int = NOT_MADE
    durable_age: int = 0

    def older(self) -> LogOut:
        return self._replace(durable_age=min(self.durable_age + 1, LONG) if self.standing >= DURABLE else 0)


class Request(NamedTuple):
    """A request for the session that the first log-out ended, begun after that was acknowledged as fenced.

    Attributes:
        member: the member that answers it.
        life: which process of it.
        read: its reading at the begin: ``fresh_at``; by the broken order, whether the session was valid.
        accepted: whether it has been accepted.
    """

    member: int
    life: str
    read: float
    accepted: bool = False


class Numbered(Generic[Thing]):
    """Things by their numbers; equal things share one number."""

    def __init__(self) -> None:
        self._numbers: dict[Thing, int] = {}
        self._things: list[Thing] = []

    def number(self, thing: Thing) -> int:
        found = self._numbers.setdefault(thing, len(self._things))
        if found == len(self._things):
            self._things.append(thing)
        return found

    def __getitem__(self, number: int) -> Thing:
        return self._things[number]

    def __len__(self) -> int:
        return len(self._things)


def order(numbers: set[int]) -> dict[int, int]:
    """New numbers that compare as the old ones do."""
    return {number: place for place, number in enumerate(sorted(numbers))}


def added(things: tuple[int, ...], one: int, most: int) -> list[tuple[int, ...]]:
    """Some things and one more; in the place of any other if there are too many."""
    if one in things:
        return [things]
    if len(things) < most:
        return [(*things, one)]
    return [(*things[:place], *things[place + 1 :], one) for place in range(len(things))]
