"""The circuit breaker: when it opens, and when it lets an attempt through."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.calls.breaker import FAILURES, MAX_PAUSE_S, PAUSE_S, Breaker


def opened(at_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.allows(at_s)
        breaker.failed(at_s)
    return breaker


def test_some_failures_in_a_row_open_it_and_fewer_do_not() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed(0)
    assert breaker.allows(0)
    breaker.succeeded()
    for _ in range(FAILURES - 1):
        breaker.failed(0)
    assert breaker.allows(0)
    breaker.failed(0)
    assert not breaker.allows(0)


def test_after_a_pause_it_lets_one_attempt_through() -> None:
    breaker = opened()
    assert not breaker.allows(PAUSE_S - 0.001)
    assert breaker.allows(PAUSE_S)
    assert not breaker.allows(PAUSE_S)


def test_a_success_closes_it_and_all_is_forgotten() -> None:
    breaker = opened()
    assert breaker.allows(PAUSE_S)
    breaker.succeeded()
    for _ in range(FAILURES - 1):
        breaker.failed(PAUSE_S)
        assert breaker.allows(PAUSE_S)
    breaker.failed(PAUSE_S)
    assert not breaker.allows(2 * PAUSE_S - 0.001)
    assert breaker.allows(2 * PAUSE_S)


def test_each_attempt_that_fails_doubles_the_pause_up_to_a_limit() -> None:
    breaker, now_s, pauses = opened(), 0.0, []
    for _ in range(8):
        begun_s = now_s
        while not breaker.allows(now_s):
            now_s += 0.25
        pauses.append(now_s - begun_s)
        breaker.failed(now_s)
    assert pauses == [1, 2, 4, 8, 15, 15, 15, 15]


def test_failures_of_attempts_that_were_under_way_when_it_opened_do_not_prolong_the_pause() -> None:
    breaker = Breaker()
    assert all(breaker.allows(0) for _ in range(64))
    for _ in range(64):
        breaker.failed(0.25)
    assert breaker.allows(0.25 + PAUSE_S)


def test_an_unreported_attempt_does_not_close_it_for_ever() -> None:
    breaker = opened()
    assert breaker.allows(PAUSE_S)
    assert not breaker.allows(PAUSE_S)
    assert breaker.allows(PAUSE_S + 2 * PAUSE_S)


@given(st.lists(st.tuples(st.sampled_from(["ask", "fail", "succeed"]), st.floats(0, 20))))
def test_after_any_history_it_allows_an_attempt_within_its_longest_pause(story: list[tuple[str, float]]) -> None:
    breaker, now_s = Breaker(), 0.0
    for act, passed_s in story:
        now_s += passed_s
        if act == "ask":
            breaker.allows(now_s)
        elif act == "fail":
            breaker.failed(now_s)
        else:
            breaker.succeeded()
            assert breaker.allows(now_s)
    assert breaker.allows(now_s + MAX_PAUSE_S)
