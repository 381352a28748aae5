"""A denial lives until the absolute end of its session. Shorter ones, as long as an idle timeout, are the broken variant."""

from __future__ import annotations

from base64 import b64encode

import pytest

from ha_session_mw import SessionExpired, SessionRevoked
from ha_session_mw._core.accept_rule import ACCEPT, Refuse
from ha_session_mw._core.cluster.view import END_STEP_MS, FLOOR_MARGIN_MS, View
from ha_session_mw._core.token.legacy import TakeOver, take_over
from ha_session_mw.models import Claims, Deny, FamilyId, NodeId

from .builders import HOUR_MS, KEY, MINUTE_MS, NOW_MS, RING, claims, fresh_view, judge
from .token.test_legacy import SignerAt

IDLE_MS = 30 * MINUTE_MS
MARGIN_MS = 2 * MINUTE_MS

CAPTURED = claims()
OLD_COOKIE = SignerAt(KEY.secret).sign(b64encode(b'{"user": "ada"}'))
TAKEN_OVER = take_over(
    OLD_COOKIE, RING, TakeOver(idle_ms=IDLE_MS, absolute_ms=12 * HOUR_MS), now_ms=NOW_MS + HOUR_MS, issuer=NodeId("node-a")
).claims
FROM_BEFORE_THE_IDLE_TIMEOUT_WAS_SHORTENED = claims(idle_end_ms=NOW_MS + 11 * HOUR_MS)
RENEWED_BY_A_THREAD_THAT_STOOD_STILL = claims(issued_ms=NOW_MS + HOUR_MS, idle_end_ms=NOW_MS + HOUR_MS + IDLE_MS)


def denied_until(until_ms: int, *, now_ms: int, family: FamilyId = CAPTURED.family) -> View:
    """A view in which the session is denied from ``NOW_MS`` on, when a clock says that it is ``now_ms``."""
    view = fresh_view()
    view.merge(Deny(family, until_ms))
    view.raise_floor(now_ms - FLOOR_MARGIN_MS)
    view.check()
    return view


STORIES = {
    "a longer idle timeout before": (FROM_BEFORE_THE_IDLE_TIMEOUT_WAS_SHORTENED, HOUR_MS, HOUR_MS),
    "a clock that was an hour ahead": (CAPTURED, HOUR_MS, MINUTE_MS),
    "a thread that stood still": (RENEWED_BY_A_THREAD_THAT_STOOD_STILL, HOUR_MS, HOUR_MS + MINUTE_MS),
    "a cookie of Starlette's": (TAKEN_OVER, HOUR_MS, HOUR_MS),
}
"""The token; how far the clock comes, in milliseconds; and where it stands when the token is presented."""


@pytest.mark.parametrize(("token", "came_ms", "then_ms"), STORIES.values(), ids=STORIES)
def test_a_denial_until_the_absolute_end_holds_and_one_for_an_idle_timeout_lets_the_session_back_in(
    token: Claims, came_ms: int, then_ms: int
) -> None:
    now_ms, at_ms = NOW_MS + came_ms, NOW_MS + then_ms

    right = judge(token, denied_until(token.absolute_end_ms, now_ms=now_ms, family=token.family), wall_ms=at_ms)
    assert isinstance(right, Refuse)
    assert isinstance(right.problem, SessionRevoked)
    short = denied_until(NOW_MS + IDLE_MS + MARGIN_MS, now_ms=now_ms, family=token.family)
    assert judge(token, short, wall_ms=at_ms) is ACCEPT


def test_a_clock_that_passes_the_absolute_end_and_comes_back_revives_nothing() -> None:
    view = denied_until(CAPTURED.absolute_end_ms, now_ms=CAPTURED.absolute_end_ms + FLOOR_MARGIN_MS + END_STEP_MS)

    assert CAPTURED.family not in view.denied
    decision = judge(CAPTURED, view)
    assert isinstance(decision, Refuse)
    assert isinstance(decision.problem, SessionExpired)
