"""A process's heartbeats, and its conclusions from the heartbeats of others."""

from __future__ import annotations

import math

import msgspec

from ha_session_mw._core.cluster.freshness import Moment, fence_wait_s
from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.cluster.speaker import Speaker
from ha_session_mw._core.cluster.view import FLOOR_MARGIN_MS, View
from ha_session_mw.events import FoundQuorum, MemberDraining, MemberJoined, MemberLeft
from ha_session_mw.models import Deny, KeyId, NodeId

from ..builders import HOUR_MS, NOW_MS

LIMIT_S = 5.0
OWN = Heartbeat(NodeId("own"), "life", "http://own", "starting", 0, 0, (KeyId("key"),), LIMIT_S, HOUR_MS, "1.0")


def at(seconds: float, *, ahead_s: float = 0.0) -> Moment:
    return Moment(seconds, NOW_MS + (seconds + ahead_s) * 1000)


def speaker(*, majority: int = 2) -> Speaker[FoundQuorum]:
    return Speaker(View(), OWN, majority=majority)


def other(name: str, seconds: float, sequence: int = 1, **more: object) -> Heartbeat:
    plain = Heartbeat(NodeId(name), name, "", "ready", sequence, round(NOW_MS + seconds * 1000), (), LIMIT_S, HOUR_MS)
    return msgspec.structs.replace(plain, **more)


# Its own heartbeats.


def test_a_heartbeat_carries_the_constant_parts_the_wall_clock_and_a_running_number() -> None:
    one = speaker()
    first, second = one.heartbeat(at(1), starting=False), one.heartbeat(at(2), starting=False)
    assert first == msgspec.structs.replace(OWN, state="ready", sequence=1, wall_ms=NOW_MS + 1000)
    assert second == msgspec.structs.replace(OWN, state="ready", sequence=2, wall_ms=NOW_MS + 2000)


def test_a_heartbeat_says_starting_then_ready_and_in_any_state_draining() -> None:
    one = speaker()
    assert one.heartbeat(at(0), starting=True).state == "starting"
    assert one.heartbeat(at(0), starting=False).state == "ready"
    one.draining = True
    assert one.heartbeat(at(0), starting=True).state == "draining"
    assert one.heartbeat(at(0), starting=False).state == "draining"


def test_keys_that_were_announced_later_are_in_the_next_heartbeat() -> None:
    one = speaker()
    one.members.own = msgspec.structs.replace(OWN, kids=(KeyId("key"), KeyId("next")))
    assert one.heartbeat(at(0), starting=False).kids == ("key", "next")


# The heartbeats of others.


def test_members_join_drain_leave_and_fall_silent_as_events() -> None:
    one = speaker()
    one.hear("b", other("b", 0), at(0))
    one.hear("c", other("c", 0), at(0))
    one.hear("b", other("b", 1, sequence=2, state="draining"), at(1))
    one.remove("b")
    one.remove("b")
    one.tick(at(1 + fence_wait_s(LIMIT_S)))
    assert one.take_events() == [
        MemberJoined(NodeId("b")),
        MemberJoined(NodeId("c")),
        MemberDraining(NodeId("b")),
        MemberLeft(NodeId("b")),
        MemberLeft(NodeId("c")),
    ]


def test_events_of_the_log_and_of_members_keep_their_order_and_are_taken_once() -> None:
    one = speaker()
    one.note(FoundQuorum())
    one.hear("b", other("b", 0), at(0))
    assert one.take_events() == [FoundQuorum(), MemberJoined(NodeId("b"))]
    assert one.take_events() == []


def test_a_heartbeat_that_may_be_old_tells_nothing_of_a_clock() -> None:
    one = speaker()
    one.hear("b", other("b", -600), at(0), late=True)
    assert one.tick(at(0)) is None  # no other clock to compare with
    one.hear("b", other("b", 0, sequence=2), at(0))
    assert one.tick(at(0)) is not None


# The floor and the cuts.


def test_the_floor_follows_the_slowest_trusted_clock_and_a_majority_of_them() -> None:
    one = speaker()
    assert one.tick(at(0)) is None
    one.hear("b", other("b", -10), at(0))
    assert one.tick(at(0)) == NOW_MS - 10_000 - FLOOR_MARGIN_MS


def test_the_floor_never_falls_and_a_rise_is_news() -> None:
    one = speaker()
    one.view.merge(Deny("x", NOW_MS))
    assert one.raise_floor(NOW_MS)
    assert not one.view.denied
    assert not one.raise_floor(NOW_MS)
    assert not one.raise_floor(NOW_MS - 1)
    assert one.view.floor_ms == NOW_MS


def test_cuts_are_given_up_by_their_ends_and_stay_given_up() -> None:
    one = speaker()
    one.give_up_cuts(NOW_MS)
    one.give_up_cuts(NOW_MS - 1)
    assert one.view.forgotten_cuts_end_ms == NOW_MS + HOUR_MS


# Readiness.


def ready() -> Speaker[FoundQuorum]:
    one = speaker()
    one.hear("b", other("b", 0), at(0))
    one.view.fresh_at = 0.0
    assert one.is_ready(at(0))
    return one


def test_it_is_fresh_for_as_long_as_the_smallest_limit_says() -> None:
    one = ready()
    assert one.is_fresh(at(LIMIT_S))
    assert not one.is_fresh(at(LIMIT_S + 0.01))
    one.hear("b", other("b", 0, sequence=2, freshness_limit_s=1.0), at(0))
    assert not one.is_fresh(at(2))


def test_it_is_not_ready_while_stale_draining_with_a_wrong_clock_or_with_another_limit() -> None:
    one = ready()
    one.view.fresh_at = -math.inf
    assert not one.is_ready(at(0))
    one = ready()
    one.draining = True
    assert not one.is_ready(at(0))
    assert not ready().is_ready(at(0, ahead_s=31))
    one = ready()
    for name in "bcd":
        one.hear(name, other(name, 0, sequence=2, freshness_limit_s=6.0), at(0))
    assert one.is_fresh(at(0))
    assert not one.is_ready(at(0))
