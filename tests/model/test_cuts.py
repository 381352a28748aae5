"""A log-out everywhere ends the sessions that began before it, and none that certainly began after it."""

from __future__ import annotations

from ha_session_mw._core.cluster.view import CUT_TOLERANCE_MS

from .cuts import wrongly_accepted, wrongly_refused


def test_no_order_and_no_trusted_clock_breaks_a_log_out_everywhere() -> None:
    assert wrongly_accepted() == []
    assert wrongly_refused() == []


def test_the_tolerance_is_as_small_as_it_may_be() -> None:
    assert wrongly_accepted(tolerance_ms=CUT_TOLERANCE_MS - 10_000)
    assert wrongly_accepted(tolerance_ms=0)


def test_a_cut_without_a_time_is_caught() -> None:
    assert wrongly_refused(dated=False)
