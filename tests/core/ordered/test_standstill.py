"""An engine that takes no writes: reads take the place of heartbeats, and silence proves nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.ordered.log import REMOVE_AFTER_S
from ha_session_mw._core.ordered.ready import BeatDeleted, Look
from ha_session_mw._core.ordered.standstill import may_stand_s, must_stand_s

from .test_log import HEARTBEAT_S, LIMIT_S, OVER_S, Log, Member, at, go_on, revoked

STAND_S = must_stand_s(LIMIT_S)


def look(log: Log, one: Member, now: Moment) -> Look:
    """A process has its heartbeat refused, and looks at the log."""
    one.beat(now)
    look = one.look(now)
    assert look is not None
    newest = max([stored.position for stored in log.beats.values()] + [position for position, _ in log.changes[-1:]])
    one.looked(look, log.position, is_quiet=one.slot in log.beats and newest <= look.position, now=now)
    one.check(now)
    return look


def stand_still(log: Log, since_s: float, until_s: float, *members: Member) -> None:
    """Nobody can write for a while."""
    for number in range(1 + round((until_s - since_s) / HEARTBEAT_S)):
        now = at(since_s + number * HEARTBEAT_S)
        for one in members:
            one.tick(now)
            look(log, one, now)


def test_a_process_stays_fresh_by_reads_for_as_long_as_nobody_can_write() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    for seconds in range(1, 1000, 100):
        stand_still(log, seconds, seconds + 99.5, one, two)
        assert one.view.fresh_at == at(seconds + 99.5).boot_s
        assert one.is_ready(at(seconds + 99.5))
        assert [member.member for member in one.members.live(at(seconds + 99.5).boot_s)] == ["b"]  # it cannot be heard, and has not left
    assert one.take_events() == []


def test_no_read_counts_before_nobody_has_written_for_longer_than_others_notice() -> None:
    log = Log()
    one, _ = log.ready("a", "b")
    stand_still(log, 1, 1 + STAND_S - HEARTBEAT_S, one)
    assert one.view.fresh_at == at(0).boot_s
    assert one.due_s == at(1 + STAND_S).boot_s
    look(log, one, at(1 + STAND_S))
    assert one.view.fresh_at == at(1 + STAND_S).boot_s


def test_the_next_try_comes_when_reads_begin_to_count() -> None:
    log = Log()
    one, _ = log.ready("a", "b")
    look(log, one, at(1))
    look(log, one, at(1 + STAND_S - 0.2))
    assert one.due_s == pytest.approx(at(1 + STAND_S).boot_s)
    look(log, one, at(1 + STAND_S))
    assert one.due_s == pytest.approx(at(1 + STAND_S + HEARTBEAT_S).boot_s)


def test_a_process_whose_heartbeats_alone_are_refused_is_not_fresh() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    for number in range(40):
        now = at(1 + number * HEARTBEAT_S)
        log.beat(two, now)
        log.deliver(now, one, two)
        look(log, one, now)
    assert one.view.fresh_at == at(0).boot_s


def test_a_write_that_was_not_delivered_yet_makes_the_read_worthless() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    stand_still(log, 1, 1 + STAND_S, one)
    log.beat(two, at(4))
    stand_still(log, 4, 4 + 2 * STAND_S, one)
    assert one.view.fresh_at == at(1 + STAND_S).boot_s


def test_a_read_that_was_overtaken_by_a_delivery_is_ignored() -> None:
    log = Log()
    one, _ = log.ready("a", "b")
    stand_still(log, 1, 1 + STAND_S, one)
    asked = one.look(at(4))
    assert asked is not None
    log.write(BeatDeleted("c/1"))
    log.deliver(at(4), one)
    one.looked(asked, log.position, is_quiet=True, now=at(4))
    assert one.view.fresh_at == at(1 + STAND_S).boot_s


def test_a_process_without_a_heartbeat_in_the_log_does_not_read_in_its_place() -> None:
    log = Log()
    (one,) = log.ready("a")
    assert log.member("b").look(at(1)) is None
    del log.beats[one.slot]
    stand_still(log, 1, 1 + 2 * STAND_S, one)
    assert one.view.fresh_at == at(0).boot_s


def test_nor_does_one_that_must_load_or_has_left_or_was_set_back() -> None:
    log = Log()
    one, two, three = log.ready("a", "b", "c")
    asked = two.look(at(1))
    assert asked is not None
    one.quarantine()
    two.leave()
    three.looked(Look(three.slot, log.position, at(1).boot_s), log.position - 1, is_quiet=True, now=at(1))
    assert three.rolled_back == "position"
    assert [each.look(at(1)) for each in (one, two, three)] == [None] * 3
    two.looked(asked, log.position, is_quiet=True, now=at(1))
    two.looked(asked, log.position, is_quiet=True, now=at(1 + STAND_S))
    assert two.view.fresh_at == -math.inf


def test_a_log_whose_history_was_discarded_is_loaded_again_and_the_lease_goes_on() -> None:
    log = Log()
    one, _ = log.ready("a", "b")
    stand_still(log, 1, 1 + STAND_S, one)
    one.reload()
    assert one.look(at(4)) is None
    assert one.view.fresh_at == at(1 + STAND_S).boot_s
    one.loaded(log.snapshot(), at(4))
    assert one.view.fresh_at == at(1 + STAND_S).boot_s
    stand_still(log, 4, 4 + STAND_S, one)
    assert one.view.fresh_at == at(4 + STAND_S).boot_s


def test_after_a_standstill_a_fence_waits_for_whoever_may_have_read_meanwhile() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    stand_still(log, 1, 20, one, two)
    assert two.view.fresh_at == at(20).boot_s  # and it is never heard again
    log.beat(one, at(20.1))
    log.deliver(at(20.1), one)
    receipt = revoked(log, one, "x", at(20.2))
    log.deliver(at(20.2), one)
    assert one.fenced_by(*receipt) == pytest.approx(at(20.1 + OVER_S).boot_s)
    go_on(log, one, 20.6, 20.1 + OVER_S)
    later = revoked(log, one, "y", at(20.1 + OVER_S))
    log.deliver(at(20.1 + OVER_S), one)
    assert one.is_fenced(*later, at(20.1 + OVER_S))  # it has cost its wait once


def test_an_entry_that_is_the_first_write_after_a_standstill_is_fenced_by_waiting() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    stand_still(log, 1, 20, one, two)
    receipt = revoked(log, one, "x", at(20.1))
    log.deliver(at(20.1), one)
    assert one.fenced_by(*receipt) == pytest.approx(at(20.1 + OVER_S).boot_s)


def test_a_process_that_can_write_again_confirms_as_ever() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    stand_still(log, 1, 20, one, two)
    for each in (one, two):
        log.beat(each, at(20.1))
    receipt = revoked(log, one, "x", at(20.2))
    log.deliver(at(20.2), one, two)
    log.beat(two, at(20.3))
    log.deliver(at(20.3), one)
    assert one.is_fenced(*receipt, at(20.3))
    assert not one.stands_still


def test_the_limit_of_a_process_counts_until_its_slot_is_deleted() -> None:
    log = Log()
    two = log.member("b", limit_s=60.0)
    log.beat(two, at(0))
    one = log.member("a")
    go_on(log, one, 0, 100)
    one.tick(at(100))
    assert one.members.live(at(100).boot_s) == []
    stand_still(log, 100.5, 120, one)
    log.beat(one, at(120.5))
    log.deliver(at(120.5), one)
    receipt = revoked(log, one, "x", at(121))
    log.deliver(at(121), one)
    assert one.fenced_by(*receipt) == pytest.approx(at(120.5).boot_s + 60.0 * 1.02 + 0.05)


def test_nobody_is_removed_for_having_been_silent_while_nobody_could_write() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    stand_still(log, 1, 2 * REMOVE_AFTER_S, one, two)
    assert one.to_remove(at(2 * REMOVE_AFTER_S)) == []


@given(st.floats(0.1, 300), st.floats(0.99, 1.01), st.floats(0.99, 1.01))
def test_whoever_fences_notices_a_standstill_in_which_reads_count(limit_s: float, rate: float, other_rate: float) -> None:
    true_s = must_stand_s(limit_s) / rate
    assert may_stand_s(limit_s) < true_s * other_rate
