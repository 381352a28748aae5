"""A denial until the absolute end holds in every order. A shorter one holds only without the troubles that the explanation names."""

from __future__ import annotations

import pytest

from .denials import ABSOLUTE, IDLE, MARGIN, Case, accepts, cases, is_without_trouble


def test_no_order_lets_a_session_back_in_whose_denial_lives_until_its_absolute_end() -> None:
    assert [case for case in cases() if accepts(case)] == []


@pytest.mark.parametrize(
    "is_alone",
    [
        lambda case: case.dated <= MARGIN and not case.ahead,
        lambda case: case.idle == IDLE and case.dated <= MARGIN,
        lambda case: case.idle == IDLE and not case.ahead,
    ],
    ids=["a longer idle timeout before", "clocks that go back", "a late date"],
)
def test_each_trouble_alone_revives_a_session_whose_denial_ends_after_the_idle_timeout(is_alone: object) -> None:
    assert callable(is_alone)
    assert any(is_alone(case) and accepts(case, until_the_end=False) for case in cases())


def test_without_them_the_shorter_life_would_do() -> None:
    orders = [case for case in cases() if is_without_trouble(case)]
    assert len(orders) > 100
    assert not any(accepts(case, until_the_end=False) for case in orders)


def test_the_orders_reach_beyond_the_end_of_every_denial() -> None:
    assert max(case.presented + case.ahead for case in cases()) > ABSOLUTE + IDLE
    assert Case(IDLE, 0, 0, 0, 1) in set(cases())
