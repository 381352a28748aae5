"""Renewal: the same parent in the same step gives the same successor, which lives long enough and never too long."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.token.renewal import STEPS, begin, change, due_ms, successor
from ha_session_mw._core.token.tokens import sign
from ha_session_mw.models import Claims, CutId, FamilyId, NodeId, SessionId

from ..builders import HOUR_MS, KEY, MINUTE_MS, NOW_MS, claims

IDLE_MS = 30 * MINUTE_MS
LIVES_MS = st.integers(1, 20 * 24 * HOUR_MS)


@st.composite
def parents(draw: st.DrawFn) -> Claims:
    idle_ms = draw(LIVES_MS)
    return claims(idle_end_ms=NOW_MS + idle_ms, absolute_end_ms=NOW_MS + idle_ms + draw(st.integers(0, 10**9)))


@given(parents(), st.data())
def test_any_two_moments_of_the_same_step_give_the_same_token(parent: Claims, choice: st.DataObject) -> None:
    """Two tabs renew at once, on two nodes: neither tab may get a token that the other's token replaces."""
    idle_ms = parent.idle_end_ms - parent.issued_ms
    step = max(1, idle_ms // STEPS)
    number = choice.draw(st.integers(0, idle_ms // step - 1))
    one, other = (
        parent.issued_ms + number * step + choice.draw(st.floats(0, step, exclude_max=True, allow_subnormal=False)) for _ in range(2)
    )

    first, second = (successor(parent, min(moment, parent.issued_ms + (number + 1) * step - 0.5), idle_ms) for moment in (one, other))

    assert sign(first, KEY) == sign(second, KEY)


@given(parents(), LIVES_MS, st.floats(0, 1, exclude_max=True))
def test_a_successor_has_at_least_fifteen_sixteenths_of_an_idle_life_and_never_more_than_the_absolute_end(
    parent: Claims, idle_ms: int, part: float
) -> None:
    """Even if the idle timeout was changed in the meantime, to a much shorter or longer one."""
    now_ms = parent.issued_ms + (parent.idle_end_ms - parent.issued_ms) * part
    child = successor(parent, now_ms, idle_ms)

    assert child.idle_end_ms <= parent.absolute_end_ms
    assert child.issued_ms <= now_ms
    assert child.idle_end_ms >= min(now_ms + idle_ms * (STEPS - 1) / STEPS - 1, parent.absolute_end_ms)
    assert child.idle_end_ms <= now_ms + idle_ms


@given(parents(), LIVES_MS, st.floats(0, 1, exclude_max=True))
def test_a_successor_copies_all_but_the_times(parent: Claims, idle_ms: int, part: float) -> None:
    child = successor(parent, parent.issued_ms + (parent.idle_end_ms - parent.issued_ms) * part, idle_ms)

    assert msgspec.structs.replace(child, issued_ms=parent.issued_ms, idle_end_ms=parent.idle_end_ms) == parent


@given(parents())
def test_a_token_is_due_when_half_of_its_idle_life_is_over_and_not_before(parent: Claims) -> None:
    due = due_ms(parent)

    assert due == math.inf or due == (parent.issued_ms + parent.idle_end_ms) / 2


def test_a_token_whose_idle_end_is_the_absolute_one_is_never_due() -> None:
    assert due_ms(claims(idle_end_ms=NOW_MS + HOUR_MS, absolute_end_ms=NOW_MS + HOUR_MS)) == math.inf
    assert due_ms(claims(idle_end_ms=NOW_MS + HOUR_MS, absolute_end_ms=NOW_MS + HOUR_MS + 2)) == NOW_MS + HOUR_MS / 2


def test_a_session_in_steady_use_is_renewed_until_its_absolute_end_and_not_beyond() -> None:
    token = claims(idle_end_ms=NOW_MS + IDLE_MS, absolute_end_ms=NOW_MS + 12 * HOUR_MS)
    renewals, now_ms = 0, NOW_MS
    while now_ms < token.idle_end_ms:
        if now_ms >= due_ms(token):
            token = successor(token, now_ms, IDLE_MS)
            renewals += 1
            assert token.idle_end_ms > now_ms
        now_ms += 10_000

    assert NOW_MS + 12 * HOUR_MS <= now_ms < NOW_MS + 12 * HOUR_MS + 10_000
    assert 12 * HOUR_MS / IDLE_MS <= renewals <= 2.2 * 12 * HOUR_MS / IDLE_MS


def test_a_shorter_idle_timeout_does_not_hand_out_tokens_that_are_already_over() -> None:
    """A deployment lowers 12 h to 30 min. A sixteenth of the parent's life is longer than the whole of the child's."""
    parent = claims(idle_end_ms=NOW_MS + 12 * HOUR_MS, absolute_end_ms=NOW_MS + 48 * HOUR_MS)
    now_ms = NOW_MS + 7 * HOUR_MS + 44 * MINUTE_MS

    assert successor(parent, now_ms, IDLE_MS).idle_end_ms >= now_ms + IDLE_MS * 15 // 16


# Beginning and changing


def new(*, idle_ms: int, absolute_ms: int) -> Claims:
    ids = SessionId("s"), FamilyId("f"), "ada"
    return begin(*ids, cuts=(CutId("c~1"),), now_ms=NOW_MS, idle_ms=idle_ms, absolute_ms=absolute_ms, issuer=NodeId("n"))


def test_a_new_session_begins_now_and_knows_the_live_cuts() -> None:
    found = new(idle_ms=IDLE_MS, absolute_ms=12 * HOUR_MS)

    assert found == Claims(
        sid=SessionId("s"),
        subject="ada",
        family=FamilyId("f"),
        cuts=(CutId("c~1"),),
        issued_ms=NOW_MS,
        authenticated_ms=NOW_MS,
        idle_end_ms=NOW_MS + IDLE_MS,
        absolute_end_ms=NOW_MS + 12 * HOUR_MS,
        issuer=NodeId("n"),
    )


@pytest.mark.parametrize("life_ms", [0, -1, -HOUR_MS])
def test_a_life_of_zero_or_less_is_legal_and_over_at_once(life_ms: int) -> None:
    assert new(idle_ms=life_ms, absolute_ms=life_ms).idle_end_ms <= NOW_MS


@given(LIVES_MS, LIVES_MS)
def test_no_idle_end_lies_beyond_the_absolute_one(idle_ms: int, absolute_ms: int) -> None:
    found = new(idle_ms=idle_ms, absolute_ms=absolute_ms)
    later = change(found, b"\x80", now_ms=NOW_MS + absolute_ms // 2, idle_ms=idle_ms, issuer=NodeId("m"))

    assert found.idle_end_ms <= found.absolute_end_ms
    assert later.idle_end_ms <= later.absolute_end_ms == found.absolute_end_ms


def test_a_change_counts_as_use_and_keeps_the_subject_and_the_log_in_time() -> None:
    found = change(claims(), b"\x81\xa1a\x01", now_ms=NOW_MS + MINUTE_MS, idle_ms=IDLE_MS, issuer=NodeId("node-b"))

    assert found == msgspec.structs.replace(
        claims(content={"a": 1}), issued_ms=NOW_MS + MINUTE_MS, idle_end_ms=NOW_MS + MINUTE_MS + IDLE_MS, issuer=NodeId("node-b")
    )
