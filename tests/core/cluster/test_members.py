"""The members by their heartbeats: which are alive, which clocks are trusted, and which entries may expire."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.cluster.freshness import Moment, fence_wait_s
from ha_session_mw._core.cluster.members import Heartbeat, Members
from ha_session_mw._core.cluster.view import FLOOR_MARGIN_MS, View
from ha_session_mw.events import MemberDraining, MemberJoined, MemberLeft
from ha_session_mw.models import Deny, KeyId, NodeId

from ..builders import HOUR_MS, NOW_MS

LIMIT_S = 5.0
OVER_S = fence_wait_s(LIMIT_S)


def heartbeat(name: str, *, ahead_s: float = 0.0, at_s: float = 0.0, sequence: int = 1, life: str = "", **more: object) -> Heartbeat:
    plain = Heartbeat(NodeId(name), life or name, "", "ready", sequence, round(NOW_MS + (ahead_s + at_s) * 1000), (), LIMIT_S, HOUR_MS)
    return msgspec.structs.replace(plain, **more)


def now(seconds: float = 0.0, *, ahead_s: float = 0.0) -> Moment:
    return Moment(seconds, NOW_MS + (seconds + ahead_s) * 1000)


def members(of: int, **ahead_s: float) -> Members:
    """This node, in a cluster of so many, with the others as they were heard just now."""
    found = Members(heartbeat("own"), majority=of // 2 + 1)
    for name, ahead in ahead_s.items():
        found.heard(name, heartbeat(name, ahead_s=ahead), 0.0)
    return found


# Live members.


def test_a_member_joins_drains_and_leaves_once() -> None:
    seen = members(3)
    assert seen.heard("b", heartbeat("b"), 0.0) == MemberJoined(NodeId("b"))
    assert seen.heard("b", heartbeat("b", sequence=2), 1.0) is None
    assert seen.heard("b", heartbeat("b", sequence=3, state="draining"), 2.0) == MemberDraining(NodeId("b"))
    assert seen.heard("b", heartbeat("b", sequence=4, state="draining"), 3.0) is None
    assert seen.tick(now(3 + OVER_S)) == []
    assert seen.tick(now(3 + OVER_S + 0.01)) == [MemberLeft(NodeId("b"))]
    assert seen.tick(now(100)) == []


def test_a_member_that_started_anew_joins_again() -> None:
    seen = members(3, b=0)
    assert seen.heard("b", heartbeat("b", life="second"), 1.0) == MemberJoined(NodeId("b"))


def test_a_member_that_says_so_has_left() -> None:
    seen = members(3, b=0)
    seen.heard("c", heartbeat("c", freshness_limit_s=9.0), 0.0)
    assert seen.left("c") == MemberLeft(NodeId("c"))
    assert seen.left("c") is None
    assert [each.member for each in seen.live(0.0)] == ["b"]
    assert seen.fence_wait_s == OVER_S
    assert seen.tick(now(OVER_S)) == []


def test_a_late_heartbeat_changes_nothing() -> None:
    seen = members(3)
    seen.heard("b", heartbeat("b", sequence=5, state="draining"), 0.0)
    assert seen.heard("b", heartbeat("b", sequence=4, ahead_s=100), 1.0) is None
    assert [each.state for each in seen.live(1.0)] == ["draining"]


def test_the_kids_of_live_members_count_and_of_departed_ones_do_not() -> None:
    seen = members(3)
    seen.heard("b", heartbeat("b", kids=(KeyId("new"),)), 0.0)
    seen.heard("c", heartbeat("c", kids=(KeyId("old"),)), OVER_S)
    assert seen.announced_kids(OVER_S) == [("new",), ("old",)]
    assert seen.announced_kids(OVER_S + 1) == [("old",)]


# Limits.


def test_the_smallest_limit_accepts_and_the_largest_fences() -> None:
    seen = members(3)
    seen.heard("b", heartbeat("b", freshness_limit_s=2.0), 0.0)
    seen.heard("c", heartbeat("c", freshness_limit_s=9.0), 0.0)
    assert seen.acceptance_limit_s == 2.0
    assert seen.fence_wait_s == fence_wait_s(9.0)
    assert seen.limits_differ


def test_only_the_member_whose_limit_is_the_odd_one_finds_fault_with_itself() -> None:
    odd, one_of_two = members(3), members(3)
    for name in ("b", "c"):
        odd.heard(name, heartbeat(name, freshness_limit_s=9.0), 0.0)
    one_of_two.heard("b", heartbeat("b", freshness_limit_s=9.0), 0.0)
    one_of_two.heard("c", heartbeat("c"), 0.0)
    assert odd.limits_differ
    assert not one_of_two.limits_differ


def test_a_limit_counts_until_every_lease_under_it_is_over() -> None:
    seen = members(3)
    seen.heard("b", heartbeat("b", freshness_limit_s=9.0), 0.0)
    seen.tick(now(fence_wait_s(9.0)))
    assert seen.fence_wait_s == fence_wait_s(9.0)
    seen.tick(now(fence_wait_s(9.0) + 0.1))
    assert seen.fence_wait_s == OVER_S


def test_a_limit_that_was_set_right_counts_at_once() -> None:
    seen = members(3)
    seen.heard("b", heartbeat("b", freshness_limit_s=9.0), 0.0)
    seen.heard("b", heartbeat("b", life="second"), 1.0)
    assert seen.fence_wait_s == OVER_S


# Clocks.


@pytest.mark.parametrize("ahead_s", [-3600, -31, 31, 3600])
def test_a_clock_far_from_the_median_is_not_trusted(ahead_s: float) -> None:
    assert not members(3, b=0, c=0).clock_trusted(now(ahead_s=ahead_s))


@pytest.mark.parametrize("ahead_s", [-29, 0, 29])
def test_a_clock_near_the_median_is_trusted_despite_one_other(ahead_s: float) -> None:
    assert members(3, b=0, c=3600).clock_trusted(now(ahead_s=ahead_s))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=9), st.integers(0, 8))
def test_two_clocks_that_are_trusted_at_one_time_differ_by_a_minute_at_the_most(aheads_s: list[float], leave: int) -> None:
    walls = [NOW_MS + ahead * 1000 for ahead in aheads_s]
    trusted = []
    for own, wall in enumerate(walls):
        seen = Members(heartbeat("own"), majority=1)
        for other, ahead in enumerate(aheads_s):
            if other != own:
                seen.heard(str(other), heartbeat(str(other), ahead_s=ahead), 0.0)
        if seen.clock_trusted(Moment(0.0, wall)):
            trusted.append(wall)
    assert not trusted or max(trusted) - min(trusted) <= 60_002


def test_two_clocks_that_disagree_are_both_not_trusted() -> None:
    assert not members(3, b=45).clock_trusted(now())
    assert members(3, b=29).clock_trusted(now())


def test_others_are_compared_by_their_clocks_current_time() -> None:
    seen = members(3, b=0, c=0)
    assert seen.clock_trusted(now(4))
    assert abs(seen.skew_ms(now(4, ahead_s=2)) - 2000) < 1


def test_a_node_that_is_alone_notices_that_its_clock_was_stepped() -> None:
    seen = members(3, b=0, c=0)
    seen.tick(now(1))
    seen.tick(now(100))
    assert not seen.live(100)
    assert seen.clock_trusted(now(101))
    assert not seen.clock_trusted(now(102, ahead_s=3600))
    assert seen.clock_trusted(now(103))


def test_a_clock_without_agreement_does_not_become_right_by_being_alone() -> None:
    seen = members(3, b=0, c=0)
    seen.tick(now(1, ahead_s=3600))
    seen.tick(now(100, ahead_s=3600))
    assert not seen.live(100)
    assert not seen.clock_trusted(now(101, ahead_s=3600))
    assert seen.clock_trusted(now(102))


def test_an_old_heartbeat_is_only_a_lower_bound() -> None:
    seen = members(2)
    seen.heard("b", heartbeat("b", ahead_s=-600), 0.0, late=True)
    assert not seen.clock_trusted(now())
    assert seen.announced_kids(0.0) == [()]
    assert seen.unknown_end_ms(now(ahead_s=-3600)) == NOW_MS - 600_000 + HOUR_MS + 60_000
    seen.heard("b", heartbeat("b", sequence=2), 0.0)
    assert seen.clock_trusted(now())


def test_a_node_that_has_always_been_alone_has_no_clock_to_compare_with() -> None:
    assert not members(3).clock_trusted(now())
    assert members(1).clock_trusted(now())


def together(seen: Members, boot_s: float, ahead_s: float) -> Moment:
    """Let all three clocks be ahead by this much from now on; return this moment by the own one."""
    for name in "bc":
        seen.heard(name, heartbeat(name, sequence=int(boot_s) + 2, ahead_s=boot_s + ahead_s), boot_s)
    return now(boot_s, ahead_s=ahead_s)


@pytest.mark.parametrize("seconds", [31, 24 * 3600])
def test_clocks_that_are_set_forward_together_must_prove_their_new_time(seconds: float) -> None:
    seen = members(3, b=0, c=0)
    assert seen.clock_trusted(now())
    for boot_s in range(1, 61):
        moment = together(seen, boot_s, seconds)
        assert (seen.clock_trusted(moment), seen.floor_ms(moment)) == (False, None)
    moment = together(seen, 61, seconds)
    assert seen.clock_trusted(moment)
    assert seen.floor_ms(moment) is not None


@pytest.mark.parametrize("seconds", [-24 * 3600, -31, 29])
def test_clocks_that_are_set_back_or_a_little_forward_together_are_trusted(seconds: float) -> None:
    seen = members(3, b=0, c=0)
    assert seen.clock_trusted(now())
    assert seen.clock_trusted(together(seen, 1, seconds))


def test_a_node_that_is_cut_off_while_all_clocks_are_wrong_keeps_to_the_time_of_before() -> None:
    seen = members(3, b=0, c=0)
    seen.tick(now(1))
    seen.tick(together(seen, 2, 3600))
    seen.tick(now(100, ahead_s=3600))
    assert not seen.live(100)
    assert not seen.clock_trusted(now(101, ahead_s=3600))
    assert seen.clock_trusted(now(102))


def test_a_node_that_is_the_whole_cluster_holds_its_clock_against_the_boot_time_clock() -> None:
    seen = members(1)
    assert seen.clock_trusted(now())
    assert not seen.clock_trusted(now(1, ahead_s=3600))
    assert seen.floor_ms(now(1, ahead_s=3600)) is None
    assert seen.clock_trusted(now(2))
    for boot_s in (3, 62.9):
        seen.tick(now(boot_s, ahead_s=3600))
        assert not seen.clock_trusted(now(boot_s, ahead_s=3600))
    seen.tick(now(63, ahead_s=3600))
    assert seen.clock_trusted(now(63, ahead_s=3600))


# Expiry.


def test_the_floor_follows_the_slowest_trusted_clock() -> None:
    assert members(3, b=-20, c=-3600).floor_ms(now()) == NOW_MS - 20_000 - FLOOR_MARGIN_MS


def test_too_few_clocks_that_agree_raise_no_floor() -> None:
    assert members(3).floor_ms(now()) is None
    assert members(3, b=3600).floor_ms(now()) is None
    assert members(5, b=0, c=3600, d=-3600).floor_ms(now()) is None
    assert members(5, b=0, c=0, d=3600).floor_ms(now()) is not None
    assert members(5, b=0).floor_ms(now()) is None


@given(own_s=st.floats(-1e6, 1e6), other_s=st.floats(-1e6, 1e6), skew_s=st.floats(-10, 10))
def test_a_minority_of_wrong_clocks_moves_no_floor_beyond_true_time(own_s: float, other_s: float, skew_s: float) -> None:
    seen = members(5, b=0, c=skew_s, d=-skew_s, e=other_s)
    floor = seen.floor_ms(now(ahead_s=own_s))
    assert floor is None or floor <= NOW_MS - FLOOR_MARGIN_MS + 11_000


def test_a_stepping_clock_ends_no_log_out() -> None:
    seen, view = members(3, b=0, c=0), View()
    view.merge(Deny("x", NOW_MS + HOUR_MS))
    for step_s in (7200.0, -7200.0, 0.0):
        floor = seen.floor_ms(now(ahead_s=step_s))
        if floor is not None:
            view.raise_floor(floor)
    assert "x" in view.denied


def test_an_unknown_end_lies_beyond_every_token_of_every_member() -> None:
    seen = members(3, b=-5, c=20)
    seen.heard("d", heartbeat("d", absolute_ms=3 * HOUR_MS), 0.0)
    assert seen.unknown_end_ms(now()) == NOW_MS + 20_000 + 3 * HOUR_MS + 60_000


def test_a_slow_clock_that_is_alone_ends_no_log_out_early() -> None:
    seen = members(3, b=0, c=0)
    seen.tick(now(1))
    seen.tick(now(100))
    assert seen.unknown_end_ms(now(101, ahead_s=-3600)) >= NOW_MS + 101_000 + HOUR_MS
    assert math.isfinite(members(3).unknown_end_ms(now()))
