"""The rate limiter: how much passes at once, and how long the rest waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.calls.rate_limit import RateLimiter


def test_a_burst_within_the_limit_costs_no_wait_and_the_excess_waits_for_the_refill() -> None:
    pace = RateLimiter(per_s=8, at_once=3)
    assert [pace.spend(1, 0.0) for _ in range(5)] == [0, 0, 0, 0.125, 0.25]


def test_it_refills_and_never_beyond_its_capacity() -> None:
    pace = RateLimiter(per_s=8, at_once=3)
    pace.spend(3, 0.0)
    assert pace.spend(1, 0.125) == 0
    assert [pace.spend(1, 1000.0) for _ in range(4)] == [0, 0, 0, 0.125]


def test_a_caller_that_would_wait_too_long_uses_nothing() -> None:
    pace = RateLimiter(per_s=8, at_once=1)
    pace.spend(1, 0.0)
    assert [pace.spend(1, 0.0, patience_s=0.05) for _ in range(3)] == [None] * 3
    assert pace.spend(1, 0.0) == 0.125


def test_the_wait_for_an_amount_is_known_without_spending_it() -> None:
    limit = RateLimiter(10, 10)
    assert limit.wait_s(10, 0) == 0
    assert limit.spend(10, 0) == 0
    assert limit.wait_s(1, 0) == limit.wait_s(1, 0) == pytest.approx(0.1)
    assert limit.spend(1, 0) == pytest.approx(0.1)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=1, max_size=60))
def test_over_any_time_no_more_goes_through_than_the_allowance(waits: list[tuple[float, int]]) -> None:
    pace, now_s, spent, last_s = RateLimiter(per_s=20, at_once=40), 0.0, 0, 0.0
    for wait_s, amount in waits:
        now_s += wait_s
        due_s = now_s + (pace.spend(amount, now_s) or 0.0)
        spent, last_s = spent + amount, max(last_s, due_s)
        assert spent <= 40 + 20 * last_s + 1e-6
