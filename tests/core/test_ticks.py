"""The common instants of regular work."""

from __future__ import annotations

import pytest

from ha_session_mw._core.ticks import until_tick_s


@pytest.mark.parametrize(("now_s", "left_s"), [(10.0, 1.0), (10.25, 0.75), (10.9, 0.1)])
def test_tasks_that_wait_for_multiples_of_an_interval_wake_up_together(now_s: float, left_s: float) -> None:
    assert until_tick_s(now_s, 1.0) == pytest.approx(left_s)


def test_a_timer_that_ends_a_millisecond_early_causes_no_second_turn() -> None:
    assert until_tick_s(10.999, 1.0) == pytest.approx(1.001)
    assert until_tick_s(10.4995, 0.5) == pytest.approx(0.5005)
