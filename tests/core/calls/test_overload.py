"""When a node refuses requests: only if its event loop has been late for a while and gets later, and no longer than that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.calls.overload import BUSY, HINTS, LATE_S, RETRY_S, SESSIONS_LATE_S, STANDS_S, TICK_S, OverloadGuard, retry_after_s

Round = tuple[float, int]
"""How late its tick was, and how many requests began in time before that."""

delays = st.floats(0.0, 3600.0)
counts = st.integers(0, 100)
rounds = st.tuples(delays, counts)
in_time = st.tuples(st.floats(0.0, LATE_S * 0.99), counts)


def after(*rounds: Round, guard: OverloadGuard | None = None, now_s: float = 100.0) -> tuple[OverloadGuard, float]:
    """Return a guard after these rounds of the loop, and the time."""
    if guard is None:
        guard = OverloadGuard()
        guard.begin(now_s)
    for late_s, begun in rounds:
        for _ in range(begun):
            guard.refuses(now_s, has_session=True)
        now_s += TICK_S + late_s
        guard.tick(now_s)
    return guard, now_s


def refused(guard: OverloadGuard, late_s: float, now_s: float, begun: int = BUSY) -> list[tuple[bool, bool]]:
    """Return, for each of some requests, whether it is refused without a session, and with one."""
    at_s = now_s + TICK_S + late_s
    return [(guard.refuses(at_s, has_session=False), guard.refuses(at_s, has_session=True)) for _ in range(begun)]


def overloaded() -> tuple[OverloadGuard, float]:
    guard, now_s = after((0.5, 25))
    assert refused(guard, 2.5, now_s)[-1] == (True, True)
    return after((2.6, 0), guard=guard, now_s=now_s)


def test_rounds_that_get_longer_and_longer_have_their_rest_refused_visitors_first() -> None:
    guard, now_s = overloaded()
    assert not guard.refuses(now_s, has_session=True)
    assert refused(guard, LATE_S + 0.01, now_s)[-1] == (True, False)
    assert refused(guard, SESSIONS_LATE_S + 0.01, now_s)[-1] == (True, True)


def test_visitors_get_no_room_for_a_second_after_a_user_was_refused() -> None:
    guard, now_s = overloaded()
    assert refused(guard, SESSIONS_LATE_S + 0.01, now_s)[-1] == (True, True)
    refused_s = now_s + TICK_S + SESSIONS_LATE_S + 0.01
    for at_s in (refused_s, refused_s + STANDS_S * 0.9):
        guard.tick(at_s)
        assert (guard.refuses(at_s, has_session=False), guard.refuses(at_s, has_session=True)) == (True, False)
    guard.tick(refused_s + STANDS_S)
    assert not guard.refuses(refused_s + STANDS_S, has_session=False)


def test_it_is_found_within_the_second_round() -> None:
    guard, now_s = after((0.5, 25))
    assert refused(guard, 0.3, now_s)[-1] == (False, False)  # it may be the rest of a burst
    assert refused(guard, 0.6, now_s)[-1] == (True, True)


@given(st.lists(in_time), delays)
def test_a_loop_in_time_refuses_nothing_whatever_delays_it_next(before: list[Round], next_s: float) -> None:
    guard, now_s = after(*before)
    assert set(refused(guard, next_s, now_s)) == {(False, False)}


@given(st.lists(in_time), delays, st.floats(0.0, 3600.0), st.floats(0.0, 0.99))
def test_a_pause_and_the_requests_that_came_meanwhile_are_refused_nothing(
    before: list[Round], pause_s: float, backlog_s: float, share: float
) -> None:
    """The pause delays one round, in which few requests begin. The next serves those that waited, the one after it the others."""
    guard, now_s = after(*before, (pause_s, BUSY - 1))
    assert set(refused(guard, backlog_s, now_s)) == {(False, False)}
    guard, now_s = after((backlog_s, 0), guard=guard, now_s=now_s)
    assert set(refused(guard, backlog_s * share, now_s)) == {(False, False)}


@given(st.lists(st.tuples(delays, st.integers(0, BUSY - 1))), delays)
def test_handlers_that_block_the_loop_one_after_the_other_are_refused_nothing(before: list[Round], next_s: float) -> None:
    guard, now_s = after(*before)
    assert set(refused(guard, next_s, now_s)) == {(False, False)}


@given(st.lists(in_time, min_size=1), delays)
def test_it_is_over_once_the_loop_has_been_in_time_for_a_second(calm: list[Round], next_s: float) -> None:
    guard, now_s = overloaded()
    guard, now_s = after(*calm, *[(0.0, 0)] * (int(STANDS_S / TICK_S) + 1), guard=guard, now_s=now_s)
    assert not guard.is_overloaded
    assert set(refused(guard, next_s, now_s)) == {(False, False)}


@given(st.lists(rounds), delays)
def test_whatever_is_refused_with_a_session_is_refused_without(before: list[Round], next_s: float) -> None:
    guard, now_s = after(*before)
    assert all(without or not with_session for without, with_session in refused(guard, next_s, now_s)[BUSY // 2 + 1 :])


@given(st.lists(rounds), delays)
def test_where_nobody_measures_nothing_is_refused(before: list[Round], next_s: float) -> None:
    guard, now_s = after(*before)
    guard.stop()
    assert set(refused(guard, next_s, now_s)) == {(False, False)}


def test_the_hints_are_spread_over_their_bounds() -> None:
    hints_s = {retry_after_s(roll) for roll in range(256)}
    assert (min(hints_s), max(hints_s), len(hints_s)) == (*RETRY_S, HINTS)
