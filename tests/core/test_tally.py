"""A histogram of plain integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.tally import Tally


def test_a_value_at_a_bound_belongs_to_the_bound_s_bucket() -> None:
    tally = Tally((0.1, 1.0))
    for value in (0.1, 0.5, 1.0, 7.0):
        tally.observe(value)
    assert tally.cumulated() == [("0.1", 1), ("1", 3), ("+Inf", 4)]
    assert tally.sum == 8.6


def test_a_negative_value_counts_as_nothing() -> None:
    tally = Tally((1.0,))
    tally.observe(-3.0, times=2)
    assert (tally.counts, tally.sum, tally.total) == ([2, 0], 0.0, 2)


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1))
def test_the_bound_of_a_share_is_the_least_that_holds_so_many_values(values: list[float], share: float) -> None:
    tally = Tally((0.1, 1.0, 10.0))
    for value in values:
        tally.observe(value)
    bound = tally.at_most(share)
    assert sum(value <= bound for value in values) >= share * len(values)
    lower = max((other for other in (0.0, *tally.bounds) if other < bound), default=-1.0)
    assert sum(value <= lower for value in values) < share * len(values) or bound == 0.1


def test_without_values_there_is_nothing_to_tell() -> None:
    assert Tally((1.0,)).told() == {"count": 0, "mean_s": 0.0, "p50_s": 0.0, "p99_s": 0.0}


def test_a_bound_beyond_the_last_one_is_told_as_unknown() -> None:
    tally = Tally((1.0,))
    tally.observe(2.0)
    assert tally.told() == {"count": 1, "mean_s": 2.0, "p50_s": None, "p99_s": None}


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 5))))
def test_the_last_bucket_has_every_value(values: list[tuple[float, int]]) -> None:
    tally = Tally((0.1, 1.0, 10.0))
    for value, times in values:
        tally.observe(value, times)
    cumulated = [count for _, count in tally.cumulated()]
    assert cumulated == sorted(cumulated)
    assert cumulated[-1] == tally.total == sum(times for _, times in values)
