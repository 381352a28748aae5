"""A lease is over on every clock once the fence has waited."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.cluster.freshness import acceptance_limit_s, fence_wait_s, fencing_limit_s


@given(limit_s=st.floats(0.05, 240), holder=st.floats(0.99, 1.01), waiter=st.floats(0.99, 1.01))
def test_a_fence_outlasts_every_lease_though_clocks_drift_by_a_hundredth(limit_s: float, holder: float, waiter: float) -> None:
    assert fence_wait_s(limit_s) / waiter > limit_s / holder


def test_the_default_of_five_seconds_is_waited_out_in_little_more() -> None:
    assert fence_wait_s(5.0) == pytest.approx(5.15)


def test_acceptance_takes_the_smallest_limit_and_fences_the_largest() -> None:
    assert acceptance_limit_s([5.0, 2.0, 9.0]) == 2.0
    assert fencing_limit_s([5.0, 2.0, 9.0]) == 9.0
