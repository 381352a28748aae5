"""Every order of a log-out, the date of the last token, and the moment at which somebody presents it, for two lives of a denial."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from ha_session_mw._core.accept_rule import Accept, decide
from ha_session_mw._core.cluster.view import FLOOR_MARGIN_MS, View
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.models import Claims, Deny, FamilyId, KeyId, NodeId, SessionId

STEP_MS = 60_000
START_MS = 1_800_000_000_000
ABSOLUTE, IDLE, LONGER_IDLE, MARGIN = 30, 5, 12, 3
"""Lives and the margin, in steps. The session begins at the latest moment before its log-out, or earlier."""


class Case(NamedTuple):
    """One order, in steps of true time after the log-out.

    Attributes:
        idle: the idle timeout under which the token was issued.
        began: the session began; not after its log-out.
        dated: the token was dated. After the log-out, if the decision on its request was before it, and its answer took so long.
        ahead: by how much all clocks were ahead for a while, after the token was dated and before it is presented.
        presented: somebody presents the token.
    """

    idle: int
    began: int
    dated: int
    ahead: int
    presented: int


def cases() -> Iterator[Case]:
    """All orders."""
    every = product(
        (IDLE, LONGER_IDLE), range(-2 * IDLE, 1, 2), range(-IDLE, 2 * IDLE), range(0, ABSOLUTE + IDLE, IDLE), range(1, ABSOLUTE)
    )
    return (case for case in (Case(*found) for found in every) if case.began <= case.dated < case.presented)


def is_without_trouble(case: Case) -> bool:
    """Whether nothing of what the explanation names has happened."""
    return case.idle == IDLE and case.dated <= MARGIN and not case.ahead


def accepts(case: Case, *, until_the_end: bool = True) -> bool:
    """Whether a node accepts the token.

    Args:
        case: the order.
        until_the_end: whether the denial ends with the session; else after the idle timeout and the margin.
    """
    end = case.began + ABSOLUTE
    view = View(fresh_at=0.0)
    view.merge(Deny("family", START_MS + STEP_MS * (end if until_the_end else min(end, IDLE + MARGIN))))
    view.raise_floor(START_MS + STEP_MS * (case.presented + case.ahead) - FLOOR_MARGIN_MS)
    view.drop_ended()
    claims = Claims(
        sid=SessionId("session"),
        subject="ada",
        family=FamilyId("family"),
        cuts=(),
        issued_ms=START_MS + STEP_MS * case.dated,
        authenticated_ms=START_MS + STEP_MS * case.began,
        idle_end_ms=START_MS + STEP_MS * min(case.dated + case.idle, end),
        absolute_end_ms=START_MS + STEP_MS * end,
        issuer=NodeId("n0"),
    )
    now_ms = float(START_MS + STEP_MS * case.presented)
    return isinstance(decide(Verified.of(claims, KeyId("key")), view, 0.0, 0.0, now_ms, 1.0), Accept)
