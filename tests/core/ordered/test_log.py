"""One process's part in a log that an engine orders, step by step. The simulation covers many processes together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.cluster.view import FLOOR_MARGIN_MS, View, new_cut_id
from ha_session_mw._core.ordered.keys import LogId, entry_key, key_end_ms
from ha_session_mw._core.ordered.loading import PIECE
from ha_session_mw._core.ordered.log import REMOVE_AFTER_S, Ordered
from ha_session_mw._core.ordered.own_beats import LEAST_BEAT_S, STORM_BEAT_S
from ha_session_mw._core.ordered.ready import (
    BeatDeleted,
    BeatPut,
    CaughtUp,
    EntryDeleted,
    EntryPut,
    FloorRaised,
    Item,
    OrderedEvent,
    Ready,
    Sent,
    Snapshot,
    StoredBeat,
)
from ha_session_mw.events import Diverged, MemberDraining, MemberJoined, MemberLeft, RolledBack
from ha_session_mw.models import Cut, Deny, DenyKey, Entry, KeyId, NodeId

from ..builders import HOUR_MS, NOW_MS

LIMIT_S = 5.0
OVER_S = LIMIT_S * 1.02 + 0.05
HEARTBEAT_S = 0.5
LOG = LogId("log", NOW_MS - 30 * 24 * HOUR_MS)


def at(seconds: float, *, ahead_s: float = 0.0) -> Moment:
    return Moment(1000 + seconds, NOW_MS + (seconds + ahead_s) * 1000)


START = at(0)


def own(name: str, life: str = "1", *, limit_s: float = LIMIT_S) -> Heartbeat:
    return Heartbeat(NodeId(name), life, "", "starting", 0, 0, (KeyId("key"),), limit_s, 12 * HOUR_MS)


def deny(name: str, until_ms: int = NOW_MS + HOUR_MS) -> Deny:
    return Deny(name, until_ms)


class Member(Ordered):
    """One process, checked after each call, whose events are kept until a test takes them."""

    def __init__(self, view: View, own: Heartbeat, *, heartbeat_s: float) -> None:
        super().__init__(view, own, heartbeat_s=heartbeat_s)
        self._kept: list[OrderedEvent] = []

    def _keep(self, ready: Ready, now: Moment) -> Ready:
        self.check(now)
        self._kept += ready.events
        return ready

    def tick(self, now: Moment) -> Ready:
        return self._keep(super().tick(now), now)

    def delivered(self, position: int, items: Sequence[Item], now: Moment) -> Ready:
        return self._keep(super().delivered(position, items, now), now)

    def loaded(self, snapshot: Snapshot, now: Moment) -> None:
        for _ in self.load(snapshot, lambda: now):
            pass
        self._keep(self.ready(now), now)

    def take_events(self) -> list[OrderedEvent]:
        """Return the events since the last call, whichever call handed them out."""
        self._kept += self.speaker.take_events()
        events, self._kept = self._kept, []
        return events

    def answered(self, sent: Sent, position: int) -> Ready:
        ready = super().answered(sent, position)
        self._kept += ready.events
        return ready

    def is_fenced(self, position: int, durable_s: float, now: Moment) -> bool:
        """Whether no request that starts now is accepted anywhere that the entries up to there deny."""
        return now.boot_s >= self.fenced_by(position, durable_s)

    def to_prune(self, now: Moment) -> int | None:
        return self._keep(self.ready(now), now).floor_ms

    def to_remove(self, now: Moment) -> list[tuple[str, int]]:
        return [*self._keep(self.ready(now), now).remove]


class Log:
    """A faultless engine: keeps every item, and delivers it to the chosen members."""

    def __init__(self, log: LogId = LOG) -> None:
        self.id = log
        self.position = 10
        self.entries: dict[str, Entry] = {}
        self.beats: dict[str, StoredBeat] = {}
        self.floor_ms = 0
        self.changes: list[tuple[int, list[Item]]] = []

    def member(self, name: str, life: str = "1", *, now: Moment = START, limit_s: float = LIMIT_S) -> Member:
        """A process that has just loaded."""
        one = Member(View(), own(name, life, limit_s=limit_s), heartbeat_s=HEARTBEAT_S)
        one.loaded(self.snapshot(), now)
        return one

    def ready(self, *names: str) -> list[Member]:
        """Leases that have all read each other's beats."""
        members = [self.member(name) for name in names]
        for one in members:
            self.beat(one, at(0))
        self.deliver(at(0), *members)
        for one in members:
            self.beat(one, at(0))  # the first of them have not heard the last ones yet when they count
        self.deliver(at(0), *members)
        for one in members:
            one.take_events()
        return members

    def snapshot(self) -> Snapshot:
        return Snapshot(self.position, self.id, [*self.entries.values()], [*self.beats.values()], self.floor_ms)

    def write(self, *items: Item) -> int:
        self.position += 1
        self.changes.append((self.position, [*items]))
        return self.position

    def put(self, *entries: Entry) -> int:
        items: list[Item] = []
        for entry in entries:
            items.append(EntryPut(entry, entry_key(entry) not in self.entries))
            self.entries[entry_key(entry)] = entry
        return self.write(*items)

    def delete(self, *entries: Entry, floor_ms: int | None = None) -> int:
        items: list[Item] = []
        if floor_ms is not None:
            self.floor_ms = floor_ms
            items.append(FloorRaised(floor_ms))
        for entry in entries:
            del self.entries[entry_key(entry)]
            items.append(EntryDeleted(entry_key(entry)))
        return self.write(*items)

    def take(self, sent: Sent) -> int:
        position = self.write(BeatPut(sent.slot, sent.beat))
        self.beats[sent.slot] = StoredBeat(sent.slot, sent.beat, position)
        return position

    def beat(self, one: Member, now: Moment) -> Sent:
        sent = one.beat(now)
        one.answered(sent, self.take(sent))
        return sent

    def leave(self, one: Member) -> None:
        one.leave()
        del self.beats[one.slot]
        self.write(BeatDeleted(one.slot))

    def deliver(self, now: Moment, *members: Member, upto: int | None = None) -> None:
        """Deliver to each member all changes that it has not received yet."""
        for one in members:
            for position, items in self.changes:
                if one.position < position <= (upto or self.position):
                    one.delivered(position, items, now)


# Starting.


def long_log() -> Log:
    log = Log()
    log.put(*(Deny(f"{number}", NOW_MS + HOUR_MS) for number in range(3 * PIECE)))
    return log


def test_a_log_taken_in_piece_by_piece_comes_to_the_same_as_at_once_and_counts_from_its_end_only() -> None:
    log = long_log()
    whole, one = log.member("a"), Member(View(), own("a"), heartbeat_s=HEARTBEAT_S)
    pieces = 0
    for _ in one.load(log.snapshot(), lambda: START):
        pieces += 1
        assert one.needs_load
        assert (one.position, one.log, one.view.fresh_at, one.due_s) == (0, None, -math.inf, math.inf)
    assert pieces >= 3
    assert not one.needs_load
    assert (one.position, one.log, one.view.denied) == (whole.position, whole.log, whole.view.denied)
    assert one.beat(START).beat == whole.beat(START).beat


@pytest.mark.parametrize("after", range(3))
def test_an_append_during_a_load_is_no_rollback_and_is_seen_in_the_log_later(after: int) -> None:
    log = long_log()
    one = log.member("a")
    one.quarantine()
    mine = [Deny("mine", NOW_MS + HOUR_MS), Deny("0", NOW_MS + HOUR_MS)]
    for number, _ in enumerate(one.load(log.snapshot(), lambda: START)):
        if number == after:
            one.append(mine)
    assert one.rolled_back is None
    log.put(*mine)
    log.deliver(START, one)
    one.quarantine()
    one.loaded(log.snapshot(), START)
    assert one.rolled_back is None


@pytest.mark.parametrize("after", range(3))
def test_a_member_that_leaves_or_rolls_back_during_a_load_validates_nothing_after_it(after: int) -> None:
    log = long_log()
    for leaves in (True, False):
        one = log.member("a")
        sent = one.beat(START)
        one.quarantine()
        for number, _ in enumerate(one.load(log.snapshot(), lambda: START)):
            if number == after:
                one.leave() if leaves else one.answered(sent, sent.beat.applied)
        assert one.view.fresh_at == -math.inf
        assert one.needs_load is not leaves  # a member that has left reads on, for its open connections


def test_a_node_validates_nothing_before_it_has_read_its_own_heartbeat() -> None:
    log = Log()
    one = log.member("a")
    assert one.catching_up
    assert one.due_s == -math.inf
    sent = log.beat(one, at(1))
    assert one.view.fresh_at == -math.inf
    assert not one.is_ready(at(1.1))
    log.deliver(at(1.2), one)
    assert one.view.fresh_at == sent.sent_s == at(1).boot_s
    assert one.is_ready(at(1.2))
    assert one.take_events() == [CaughtUp()]


def test_nothing_is_put_before_the_log_was_loaded() -> None:
    one = Member(View(), own("a"), heartbeat_s=HEARTBEAT_S)
    assert one.needs_load
    assert one.due_s == math.inf


def test_logged_entries_are_known_after_the_load_and_later_ones_after_their_delivery() -> None:
    log = Log()
    cut = Cut(new_cut_id("c", NOW_MS + HOUR_MS), "ada", NOW_MS + HOUR_MS)
    log.put(deny("x"), cut, DenyKey(KeyId("bad"), NOW_MS + HOUR_MS))
    one = log.member("a")
    assert ("x" in one.view.denied, one.view.live_cuts("ada"), "bad" in one.view.denied_keys) == (True, (cut.id,), True)
    log.put(deny("y"))
    log.deliver(at(1), one)
    assert "y" in one.view.denied
    assert one.position == log.position


def test_a_node_says_that_it_starts_that_it_is_ready_and_that_it_drains() -> None:
    log = Log()
    one = log.member("a")
    assert log.beat(one, at(0)).beat.heartbeat.state == "starting"
    log.deliver(at(0), one)
    assert one.beat(at(0)).beat.heartbeat.state == "ready"
    one.drain()
    assert one.due_s == at(LEAST_BEAT_S).boot_s
    assert one.beat(at(1)).beat.heartbeat.state == "draining"
    assert not one.is_ready(at(0))


# Freshness.


def test_fresh_is_the_sending_of_the_beat_that_was_read_and_not_of_a_later_one_that_was_only_acknowledged() -> None:
    log = Log()
    (one,) = log.ready("a")
    log.beat(one, at(1))
    read = log.position
    log.beat(one, at(2))
    log.deliver(at(3), one, upto=read)
    assert one.view.fresh_at == at(1).boot_s


def test_a_try_that_failed_and_was_applied_after_all_counts_from_its_own_sending() -> None:
    log = Log()
    (one,) = log.ready("a")
    first = one.beat(at(1))
    second = one.beat(at(2))
    log.take(second)
    log.take(first)
    log.deliver(at(3), one, upto=log.position - 1)
    assert one.view.fresh_at == at(2).boot_s
    log.deliver(at(4), one)
    assert one.view.fresh_at == at(2).boot_s


def test_the_beat_of_another_process_or_an_earlier_life_makes_no_process_fresh() -> None:
    log = Log()
    (one,) = log.ready("a")
    later = log.member("a", "2")
    log.beat(one, at(1))
    log.deliver(at(1), later)
    assert later.catching_up
    assert later.view.fresh_at == -math.inf


def test_a_node_that_finds_a_beat_in_the_log_is_starting_until_it_has_heard_whether_its_clock_is_right() -> None:
    log = Log()
    (one,) = log.ready("a")
    later = log.member("b")
    log.beat(later, at(1))
    log.deliver(at(1.1), later)
    assert later.view.fresh_at == at(1).boot_s
    assert CaughtUp() not in later.take_events()  # its clock may be an hour off
    assert not later.is_ready(at(1.1))
    log.beat(one, at(1.2))
    log.beat(later, at(1.3))
    log.deliver(at(1.4), later)
    assert CaughtUp() in later.take_events()
    assert later.is_ready(at(1.4))


def test_everything_of_the_same_position_is_known_before_the_node_is_fresh() -> None:
    log = Log()
    (one,) = log.ready("a")
    sent = one.beat(at(1))
    seen: list[float] = []
    one.view.on_news = lambda _: seen.append(one.view.fresh_at)
    log.write(BeatPut(sent.slot, sent.beat), EntryPut(deny("x"), created=True))
    log.deliver(at(2), one)
    assert seen == [at(0).boot_s]
    assert one.view.fresh_at == at(1).boot_s


def test_a_snapshot_that_holds_an_own_beat_counts_from_its_sending_and_another_one_does_not() -> None:
    log = Log()
    (one,) = log.ready("a")
    log.beat(one, at(1))
    one.loaded(log.snapshot(), at(9))
    assert one.view.fresh_at == at(1).boot_s
    log.put(deny("x"))
    one.loaded(log.snapshot(), at(10))
    assert one.view.fresh_at == at(1).boot_s


def test_the_beat_of_another_in_a_snapshot_is_no_own_one_though_it_has_the_same_number() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    assert log.beat(two, at(1)).beat.heartbeat.sequence == one.beat(at(1)).beat.heartbeat.sequence
    one.loaded(log.snapshot(), at(2))
    assert one.view.fresh_at == at(0).boot_s


def test_a_repeated_delivery_is_skipped() -> None:
    log = Log()
    (one,) = log.ready("a")
    log.put(deny("x"))
    log.deliver(at(1), one)
    before = one.beat(at(1)).beat
    one.delivered(log.position, [EntryPut(deny("y"), created=True)], at(2))
    one.delivered(log.position - 1, [EntryDeleted(entry_key(deny("x")))], at(2))
    after = one.beat(at(2)).beat
    assert (before.applied, before.digest) == (after.applied, after.digest)
    assert "y" not in one.view.denied


def test_a_member_that_left_validates_nothing() -> None:
    log = Log()
    (one,) = log.ready("a")
    one.leave()
    assert one.view.fresh_at == -math.inf
    assert one.due_s == math.inf
    log.beat(one, at(1))
    log.deliver(at(1), one)
    assert one.view.fresh_at == -math.inf


# When a beat is due.


def test_a_beat_is_due_after_a_heartbeat_and_sooner_where_others_wait_for_it() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    log.beat(one, at(1))
    assert one.due_s == at(1 + HEARTBEAT_S).boot_s
    log.put(deny("x"))
    log.deliver(at(1.1), one)
    assert one.due_s == at(1 + LEAST_BEAT_S).boot_s
    assert one.beat(at(1.1)).beat.applied == log.position
    assert one.due_s == at(1.1 + HEARTBEAT_S).boot_s
    two.append([deny("own")])
    log.beat(two, at(1.2))
    log.put(deny("own"))
    log.deliver(at(1.2), two)
    assert two.due_s == at(1.2 + LEAST_BEAT_S).boot_s  # for x, which is another's


def test_in_a_storm_of_log_outs_a_beat_confirms_twice_as_many() -> None:
    log = Log()
    (one,) = log.ready("a")
    sent_s = []
    for number in range(1000):  # milliseconds
        now = at(1 + number / 1000)
        log.put(deny(f"id {number}"))
        log.deliver(now, one)
        if one.due_s <= now.boot_s:
            log.beat(one, now)
            sent_s.append(now.boot_s)
    assert len(sent_s) == pytest.approx(1 / STORM_BEAT_S, abs=1)
    log.put(deny("the last one"))
    log.deliver(at(2), one)
    log.beat(one, at(2))
    log.put(deny("a single one"))
    log.deliver(at(2), one)
    assert one.due_s == at(2 + LEAST_BEAT_S).boot_s


def test_the_fence_does_not_wait_for_the_writers_own_confirmation() -> None:
    log = Log()
    (one,) = log.ready("a")
    log.beat(one, at(1))
    one.append([deny("own")])
    log.put(deny("own"))
    log.deliver(at(1.1), one)
    assert one.due_s == at(1 + HEARTBEAT_S).boot_s


def test_the_beats_of_others_bring_none_forward() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    log.beat(one, at(1))
    log.beat(two, at(1))
    log.deliver(at(1), one)
    assert one.due_s == at(1 + HEARTBEAT_S).boot_s


# Fence.


def revoked(log: Log, one: Member, name: str, now: Moment) -> tuple[int, float]:
    one.append([deny(name)])
    return log.put(deny(name)), now.boot_s


def go_on(log: Log, one: Member, since_s: float, until_s: float) -> None:
    """A process writes and reads its heartbeats for a while."""
    for number in range(1 + round((until_s - since_s) / HEARTBEAT_S)):
        log.beat(one, at(since_s + number * HEARTBEAT_S))
        log.deliver(at(since_s + number * HEARTBEAT_S), one)


def test_an_own_append_counts_here_at_once() -> None:
    one = Member(View(), own("a"), heartbeat_s=HEARTBEAT_S)
    one.append([deny("x")])
    assert "x" in one.view.denied


def test_one_process_alone_has_fenced_each_entry_that_it_reads_in_the_log() -> None:
    log = Log()
    (one,) = log.ready("a")
    receipt = revoked(log, one, "x", at(1))
    assert not one.is_fenced(*receipt, at(1))  # there may be others, by then
    log.deliver(at(1), one)
    assert one.is_fenced(*receipt, at(1))


def test_a_fence_ends_once_all_have_confirmed() -> None:
    log = Log()
    one, two, three = log.ready("a", "b", "c")
    receipt = revoked(log, one, "x", at(1))
    log.deliver(at(1), one, two, three)
    assert not one.is_fenced(*receipt, at(1))
    log.beat(two, at(1))
    log.deliver(at(1), one)
    assert not one.is_fenced(*receipt, at(1))
    assert one.confirmed(at(1).boot_s) < receipt[0]
    log.beat(three, at(1))
    log.deliver(at(1), one)
    assert one.is_fenced(*receipt, at(1))
    assert one.confirmed(at(1).boot_s) >= receipt[0]


def test_a_beat_made_before_the_entry_was_read_confirms_nothing_wherever_it_stands() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    receipt = revoked(log, one, "x", at(1))
    log.beat(two, at(1))
    log.deliver(at(1), one)
    assert not one.is_fenced(*receipt, at(1))


def test_a_beat_in_one_change_with_entries_confirms_what_came_before_and_none_of_them() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    before = revoked(log, one, "x", at(1))
    log.deliver(at(1), one, two)
    two.append([deny("y")])
    sent = two.beat(at(1))
    position = log.write(EntryPut(deny("y"), created=True), BeatPut(sent.slot, sent.beat))
    two.answered(sent, position)
    log.deliver(at(1), one, two)
    assert one.is_fenced(*before, at(1))
    assert not one.is_fenced(position, at(1).boot_s, at(1))
    assert two.view.fresh_at == at(1).boot_s


def test_a_fence_ends_by_waiting_since_it_was_known_to_be_durable() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    receipt = revoked(log, one, "x", at(1))
    for seconds in (1.5, 3.0, 6.0):
        log.beat(two, at(seconds))  # lives, and never says that it has read it
        log.deliver(at(seconds), one)
    assert one.fenced_by(*receipt) == pytest.approx(at(1 + OVER_S).boot_s)
    assert not one.is_fenced(*receipt, at(1 + OVER_S - 0.001))
    assert one.is_fenced(*receipt, at(1 + OVER_S + 0.001))


def test_it_ends_by_waiting_even_where_nothing_is_read_any_more() -> None:
    log = Log()
    one, _ = log.ready("a", "b")
    receipt = revoked(log, one, "x", at(1))
    assert not one.is_fenced(*receipt, at(1 + OVER_S - 0.001))
    assert one.is_fenced(*receipt, at(1 + OVER_S + 0.001))


def test_a_silent_member_costs_its_wait_once() -> None:
    log = Log()
    one, _ = log.ready("a", "b")
    first = revoked(log, one, "x", at(1))
    log.deliver(at(1), one)
    assert one.fenced_by(*first) == pytest.approx(at(OVER_S).boot_s)  # it was last heard a second before
    go_on(log, one, 1, OVER_S + 1)
    second = revoked(log, one, "y", at(OVER_S + 1))
    log.deliver(at(OVER_S + 1), one)
    assert one.is_fenced(*second, at(OVER_S + 1))
    assert one.confirmed(at(OVER_S + 1).boot_s) >= second[0]


def test_a_node_that_loads_again_fences_by_waiting_only() -> None:
    """It may have overlooked whom it should wait for."""
    log = Log()
    (one,) = log.ready("a")
    receipt = revoked(log, one, "x", at(1))
    log.deliver(at(1), one)
    one.quarantine()
    assert one.fenced_by(*receipt) == pytest.approx(at(1 + OVER_S).boot_s)


def test_the_fence_does_not_wait_for_a_member_that_left() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    receipt = revoked(log, one, "x", at(1))
    log.leave(two)
    log.deliver(at(1), one)
    assert one.is_fenced(*receipt, at(1))
    assert MemberLeft(NodeId("b")) in one.take_events()


def test_the_fence_does_not_wait_for_a_member_that_left_during_an_absence() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    log.leave(two)
    one.loaded(log.snapshot(), at(1))
    assert MemberLeft(NodeId("b")) in one.take_events()
    receipt = revoked(log, one, "x", at(1))
    log.deliver(at(1), one)
    assert one.is_fenced(*receipt, at(1))


def test_the_fence_does_not_wait_for_a_member_that_began_after_the_entry() -> None:
    log = Log()
    (one,) = log.ready("a")
    late = log.member("b")
    receipt = revoked(log, one, "x", at(1))
    log.beat(late, at(1))
    log.deliver(at(1), one)
    assert one.is_fenced(*receipt, at(1))
    assert late.view.fresh_at == -math.inf
    log.deliver(at(2), late)  # and a member that reads its own beat has read the earlier entry
    assert "x" in late.view.denied


def test_no_process_confirms_for_another_one_of_its_node_or_for_its_own_earlier_life() -> None:
    log = Log()
    one, worker, fellow = log.ready("a", "b-1", "b-2")
    receipt = revoked(log, one, "x", at(1))
    log.deliver(at(1), worker)
    log.beat(worker, at(1))
    again = log.member("b-2", "second life")
    log.beat(again, at(1))
    log.deliver(at(1), one)
    assert not one.is_fenced(*receipt, at(1))
    log.deliver(at(1), fellow)
    log.beat(fellow, at(1))
    log.deliver(at(1), one)
    assert one.is_fenced(*receipt, at(1))


def test_a_member_in_the_loaded_log_counts_as_heard_at_the_load() -> None:
    log = Log()
    log.ready("b")
    one = log.member("a", now=at(100))
    log.beat(one, at(100))
    log.deliver(at(100), one)
    receipt = revoked(log, one, "x", at(101))
    log.deliver(at(101), one)
    assert one.fenced_by(*receipt) == pytest.approx(at(100 + OVER_S).boot_s)
    one.loaded(log.snapshot(), at(103))  # the same beat again is no later sign of life
    assert one.fenced_by(*receipt) == pytest.approx(at(100 + OVER_S).boot_s)


def test_the_start_of_a_member_in_the_loaded_log_is_unknown() -> None:
    log = Log()
    (two,) = log.ready("b")
    one = Member(View(), own("c"), heartbeat_s=HEARTBEAT_S)
    one.append([deny("x")])
    receipt = log.put(deny("x")), at(1).boot_s
    log.beat(two, at(1))  # not its first one, and made before it has read the entry
    one.loaded(log.snapshot(), at(1))
    assert not one.is_fenced(*receipt, at(1))


def test_the_largest_limit_that_anybody_has_is_waited_out_and_the_smallest_accepts() -> None:
    log = Log()
    log.beat(log.member("b", limit_s=9.0), at(0))
    log.beat(log.member("c", limit_s=2.0), at(0))
    one = log.member("a")
    receipt = revoked(log, one, "x", at(1))
    assert one.fenced_by(*receipt) == pytest.approx(at(1 + 9.0 * 1.02 + 0.05).boot_s)
    assert one.members.acceptance_limit_s == 2.0


def test_a_member_that_claims_a_future_position_confirms_nothing() -> None:
    """It has read on in the log that this one was restored from, and does not know yet."""
    before, restored = Log(), Log()
    (two,) = before.ready("b")
    before.position = 1000
    before.put(deny("y"))
    before.deliver(at(0), two)
    one = restored.member("a")
    restored.take(two.beat(at(0)))
    restored.beat(one, at(1))
    restored.take(two.beat(at(1)))
    receipt = revoked(restored, one, "x", at(1))
    restored.take(two.beat(at(1)))
    restored.deliver(at(1), one)
    assert not one.is_fenced(*receipt, at(1))
    assert not one.needs_load  # nor does its digest tell anything


def test_nor_does_a_member_that_reads_another_log() -> None:
    log, other = Log(), Log(LogId("another", NOW_MS))
    (one,), (two,) = log.ready("a"), other.ready("b")
    log.take(two.beat(at(1)))
    receipt = revoked(log, one, "x", at(1))
    other.position = log.position
    other.put(deny("y"))
    other.deliver(at(1), two)
    log.write()
    log.take(two.beat(at(1)))
    log.deliver(at(1), one)
    assert not one.is_fenced(*receipt, at(1))
    assert not one.needs_load


@given(st.lists(st.sampled_from(["put", "a", "b", "c", "read a", "read b", "read c"]), max_size=40))
def test_nothing_is_fenced_that_a_member_with_a_lease_lacks(acts: list[str]) -> None:
    log = Log()
    members = dict(zip("abc", log.ready("a", "b", "c"), strict=True))
    one, receipts = members["a"], list[tuple[int, float]]()
    for number, act in enumerate(acts):
        now = at(1 + number / 100)
        if act == "put":
            receipts.append(revoked(log, one, f"x{len(receipts)}", now))
        elif act in members:
            log.beat(members[act], now)
        else:
            log.deliver(now, members[act[-1]])
        for index, receipt in enumerate(receipts):
            if one.is_fenced(*receipt, now):
                assert all(f"x{index}" in member.view.denied for member in members.values())


# Digests.


def test_two_that_have_read_the_same_agree_despite_other_knowledge() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    log.put(deny("x"), deny("y"))
    one.append([deny("known here only")])
    log.deliver(at(1), one, two)
    late = log.member("c")
    assert one.beat(at(1)).beat.digest == two.beat(at(1)).beat.digest == late.beat(at(1)).beat.digest


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30), st.integers(0, 30))
def test_a_digest_is_a_function_of_the_logs_content(acts: list[tuple[int, bool]], load_at: int) -> None:
    log, late = Log(), None
    one = log.member("a")
    for number, (name, put) in enumerate(acts):
        if number == load_at:
            late = log.member("b")
        entry = deny(f"x{name}")
        if put:
            log.put(entry)  # perhaps again
        elif entry_key(entry) in log.entries:
            log.delete(entry)
    late = late or log.member("b")
    log.deliver(at(1), one, late)
    assert one.beat(at(1)).beat.digest == late.beat(at(1)).beat.digest == log.member("c").beat(at(1)).beat.digest


def overlook(log: Log, one: Member, name: str = "overlooked", now: Moment = START) -> None:
    """Deliver the next position without the item there."""
    log.put(deny(name))
    one.delivered(log.position, [], now)


def test_a_member_that_differs_makes_both_load_again() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    overlook(log, two)
    log.deliver(at(1), one)
    log.beat(one, at(1))
    log.beat(two, at(1))
    log.deliver(at(1), one, two)
    for each, other in ((one, "b"), (two, "a")):
        assert Diverged(NodeId(other)) in each.take_events()
        assert each.needs_load
        assert each.view.fresh_at == -math.inf
        each.loaded(log.snapshot(), at(2))
        assert "overlooked" in each.view.denied
        assert not each.needs_load


def test_a_member_that_has_reloaded_trusts_itself_until_the_other_one_has_too() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    overlook(log, two)
    log.deliver(at(1), one)
    log.beat(two, at(1))
    log.deliver(at(1), one)
    one.loaded(log.snapshot(), at(2))
    one.take_events()
    log.put(deny("more"))
    log.deliver(at(2), one, two)
    log.beat(two, at(2))
    log.beat(one, at(2))
    log.deliver(at(2), one)
    assert not one.needs_load
    assert one.view.fresh_at == at(2).boot_s
    log.deliver(at(2), two)
    two.loaded(log.snapshot(), at(3))
    log.beat(two, at(3))
    log.deliver(at(3), one)
    overlook(log, two, "another", at(4))  # and once it has, another difference is another one
    log.deliver(at(4), one)
    log.beat(two, at(4))
    log.deliver(at(4), one)
    assert Diverged(NodeId("b")) in one.take_events()


def test_a_member_that_lags_is_compared_at_its_own_position() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    log.put(deny("x"))
    log.deliver(at(1), one)
    log.beat(two, at(1))
    log.deliver(at(1), one)
    assert one.take_events() == []
    assert not one.needs_load


def test_a_beat_of_before_the_load_is_not_compared() -> None:
    log = Log()
    _, two = log.ready("a", "b")
    sent = two.beat(at(1))
    log.put(deny("x"))
    late = log.member("c")
    log.take(sent)
    log.deliver(at(1), late)
    assert not late.needs_load


def test_while_a_node_looks_again_nothing_that_is_delivered_counts() -> None:
    log = Log()
    (one,) = log.ready("a")
    one.quarantine()
    log.put(deny("x"))
    log.beat(one, at(1))
    log.deliver(at(1), one)
    assert one.position < log.position
    assert one.view.fresh_at == -math.inf
    one.loaded(log.snapshot(), at(2))
    assert one.view.fresh_at == at(1).boot_s
    assert one.position == log.position


def test_after_a_reload_a_node_is_fresh_by_a_heartbeat_in_the_snapshot_and_by_none_from_before() -> None:
    log = Log()
    (one,) = log.ready("a")
    del log.beats[one.slot]
    one.quarantine()
    one.loaded(log.snapshot(), at(1))
    assert one.view.fresh_at == -math.inf


# Rollback.


def rolled_back(one: Member) -> RolledBack | None:
    return next((event for event in one.take_events() if isinstance(event, RolledBack)), None)


def test_a_log_of_another_name_proves_nothing() -> None:
    log = Log()
    (one,) = log.ready("a")
    other = Log(LogId("another", NOW_MS))
    other.position = 1000
    one.loaded(other.snapshot(), at(1))
    assert rolled_back(one) == RolledBack("log")
    assert one.view.fresh_at == -math.inf
    assert one.due_s == math.inf
    other.beat(one, at(2))
    other.deliver(at(2), one)
    assert one.view.fresh_at == -math.inf
    one.loaded(log.snapshot(), at(3))  # it is for an operator to say that all is well
    assert one.rolled_back == "log"
    assert one.log == LOG
    assert one.view.fresh_at == -math.inf


def test_a_snapshot_older_than_the_applied_position_is_a_rollback() -> None:
    log = Log()
    (one,) = log.ready("a")
    old = log.snapshot()
    log.put(deny("x"))
    log.deliver(at(1), one)
    one.loaded(old, at(2))
    assert rolled_back(one) == RolledBack("position")
    assert "x" in one.view.denied


def test_a_position_that_is_given_again_is_a_rollback() -> None:
    log = Log()
    (one,) = log.ready("a")
    sent = one.beat(at(1))
    one.answered(sent, one.position + 1)
    assert one.rolled_back is None
    one.answered(sent, one.position)
    assert rolled_back(one) == RolledBack("position")


def test_a_snapshot_that_lacks_an_applied_entry_is_a_rollback_at_any_position() -> None:
    log = Log()
    (one,) = log.ready("a")
    log.put(deny("x"))
    log.deliver(at(1), one)
    del log.entries[entry_key(deny("x"))]
    log.position += 1000
    one.loaded(log.snapshot(), at(2))
    assert rolled_back(one) == RolledBack("entries")


def test_an_ended_or_visibly_deleted_or_unwritten_entry_may_be_missing() -> None:
    log = Log()
    (one,) = log.ready("a")
    ended, deleted = deny("ended", NOW_MS + 60_000), deny("deleted")
    log.put(ended, deleted)
    log.deliver(at(1), one)
    log.delete(deleted)
    log.deliver(at(1), one)
    log.delete(ended, floor_ms=key_end_ms(entry_key(ended)))
    one.append([deny("not written yet")])
    one.loaded(log.snapshot(), at(2))
    assert one.rolled_back is None
    assert set(one.view.denied) == {"deleted", "not written yet"}  # an entry that was deleted too soon still counts here


def test_an_entry_that_was_deleted_too_soon_is_to_be_written_again_once() -> None:
    log = Log()
    (one,) = log.ready("a")
    log.put(deny("x"), deny("y"))
    log.deliver(at(1), one)
    log.delete(deny("x"), deny("y"))
    log.put(deny("y"))  # another process has done so
    log.deliver(at(1), one)
    assert one.tick(at(1)).restore == {entry_key(deny("x"))}
    assert not one.tick(at(1)).restore


def test_an_entry_that_ended_is_not_written_again() -> None:
    log = Log()
    (one,) = log.ready("a")
    ended = deny("ended", NOW_MS + 60_000)
    log.put(ended)
    log.deliver(at(1), one)
    log.delete(ended, floor_ms=key_end_ms(entry_key(ended)))
    log.deliver(at(1), one)
    assert not one.tick(at(1)).restore


def test_an_own_entry_may_not_be_missing_once_it_was_seen_in_the_log() -> None:
    for seen_in_a_snapshot in (True, False):
        log = Log()
        (one,) = log.ready("a")
        one.append([deny("x")])
        log.put(deny("x"))
        if seen_in_a_snapshot:
            one.loaded(log.snapshot(), at(1))
        else:
            log.deliver(at(1), one)
        del log.entries[entry_key(deny("x"))]
        one.loaded(log.snapshot(), at(2))
        assert rolled_back(one) == RolledBack("entries")


def test_a_node_that_starts_takes_the_log_as_it_is() -> None:
    log = Log()
    log.position = 3
    assert log.member("a").rolled_back is None


ACTS = st.tuples(st.sampled_from(["put", "append", "write", "prune", "read", "load", "beat"]), st.integers(0, 1), st.integers(1, 5))


@given(st.lists(ACTS, max_size=50))
def test_a_log_that_does_no_wrong_is_suspected_of_none(acts: list[tuple[str, int, int]]) -> None:
    log = Log()
    members = log.ready("a", "b")
    unwritten: list[Entry] = []
    for act, who, minute in acts:
        one, entry = members[who], deny(f"x{minute}", NOW_MS + minute * 60_000)
        match act:
            case "put":
                log.put(entry)
            case "append":
                one.append([entry])
                unwritten.append(entry)
            case "write" if unwritten:
                log.put(unwritten.pop())
            case "prune":
                floor_ms = max(log.floor_ms, NOW_MS + minute * 60_000)
                log.delete(*(each for each in [*log.entries.values()] if each.until_ms <= floor_ms), floor_ms=floor_ms)
            case "load":
                one.loaded(log.snapshot(), at(1))
            case "beat":
                log.beat(one, at(1))
            case "read":
                log.deliver(at(1), one)
    for one in members:
        one.loaded(log.snapshot(), at(2))
        assert not {type(event) for event in one.take_events()} & {RolledBack, Diverged}
        assert not one.needs_load


# Expiry.


def test_a_member_that_loads_or_follows_takes_the_floor_over() -> None:
    log = Log()
    one = log.member("a")
    log.delete(floor_ms=NOW_MS)
    log.deliver(at(1), one)
    assert one.view.floor_ms == log.member("b").view.floor_ms == NOW_MS


def test_the_first_member_stores_the_floor_once() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    for member in (one, two):
        log.beat(member, at(617))
    log.deliver(at(617), one, two)
    one.tick(at(617))
    two.tick(at(617))
    floor_ms = one.to_prune(at(617))
    assert floor_ms == two.to_prune(at(617))
    assert floor_ms is not None
    assert floor_ms % 60_000 == 0
    assert one.to_prune(at(700)) is None  # out of contact by then
    assert 0 <= NOW_MS + 617_000 - FLOOR_MARGIN_MS - floor_ms < 60_000
    log.delete(floor_ms=floor_ms)
    log.deliver(at(617), one, two)
    assert one.to_prune(at(617)) is None
    assert two.to_prune(at(617)) is None


def test_a_node_out_of_contact_raises_no_floor_and_removes_no_member() -> None:
    log = Log()
    one, _ = log.ready("a", "b")
    one.tick(at(10_000))
    assert one.view.floor_ms == 0
    assert one.to_prune(at(10_000)) is None
    assert one.to_remove(at(10_000)) == []


def test_a_member_with_a_very_long_silence_may_be_removed_with_its_last_beat() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    stands_at = log.beats[two.slot].position
    go_on(log, one, 0.5, REMOVE_AFTER_S - 1)
    assert one.to_remove(at(REMOVE_AFTER_S - 1)) == []
    go_on(log, one, REMOVE_AFTER_S - 0.5, REMOVE_AFTER_S + 1)
    assert one.to_remove(at(REMOVE_AFTER_S + 1)) == [(two.slot, stands_at)]
    log.write(BeatDeleted(two.slot))
    log.deliver(at(601), one)
    assert one.to_remove(at(601)) == []


def test_cuts_of_before_the_log_was_made_are_given_up_but_for_the_latest_until_those_of_the_log_are_known() -> None:
    log = Log(LogId("log", NOW_MS))
    one = log.member("a")
    log.beat(one, at(0))
    log.deliver(at(0), one)
    one.tick(at(1))
    assert one.view.forgotten_cuts_end_ms == NOW_MS + 12 * HOUR_MS
    log.beat(one, at(300))
    log.deliver(at(300), one)
    one.tick(at(300))
    assert one.view.forgotten_cuts_end_ms == NOW_MS + 12 * HOUR_MS + 120_000


# Members and their clocks.


def beats(log: Log, now: Moment, *members: Member, ahead_s: Iterable[float] = ()) -> None:
    for one, ahead in zip(members, [*ahead_s] or [0.0] * len(members), strict=True):
        log.beat(one, Moment(now.boot_s, now.wall_ms + ahead * 1000))
    log.deliver(now, *members)


def test_members_that_come_drain_and_leave_are_events() -> None:
    log = Log()
    (one,) = log.ready("a")
    two = log.member("b")
    beats(log, at(1), two, one)
    assert MemberJoined(NodeId("b")) in one.take_events()
    two.drain()
    beats(log, at(2), two, one)
    assert MemberDraining(NodeId("b")) in one.take_events()
    one.tick(at(2 + OVER_S + 1))
    assert MemberLeft(NodeId("b")) in one.take_events()


def test_a_node_that_is_alone_in_the_log_has_no_clock_to_compare_with() -> None:
    log = Log()
    (one,) = log.ready("a")
    assert one.members.clock_trusted(at(1, ahead_s=3600))


def test_a_node_that_finds_beats_of_dead_processes_alone_starts_within_two_heartbeats() -> None:
    log = Log()
    log.ready("a", "b", "c")
    later = log.member("a", "2", now=at(40))
    for number in range(3):
        assert CaughtUp() not in later.take_events()
        log.beat(later, at(40 + number * HEARTBEAT_S))
        log.deliver(at(40 + number * HEARTBEAT_S), later)
    assert CaughtUp() in later.take_events()
    assert later.is_ready(at(41))


def test_all_nodes_of_a_crashed_cluster_start_together() -> None:
    log = Log()
    log.ready("a", "b", "c")
    started = [log.member(name, "2", now=at(40)) for name in "abc"]
    for number in range(3):
        beats(log, at(40 + number * HEARTBEAT_S), *started)
    assert [one.is_ready(at(41)) for one in started] == [True] * 3
    assert not started[0].members.clock_trusted(at(41, ahead_s=31))


def test_beats_that_were_found_hold_the_floor_for_as_long_as_a_lease_lasts() -> None:
    log = Log()
    log.ready("a", "b", "c")
    later = log.member("a", "2", now=at(40))
    floors = []
    for number in range(13):
        log.beat(later, at(40 + number * HEARTBEAT_S))
        log.deliver(at(40 + number * HEARTBEAT_S), later)
        later.tick(at(40 + number * HEARTBEAT_S))
        floors.append(later.view.floor_ms)
    raised = next(number for number, floor_ms in enumerate(floors) if floor_ms > floors[0])
    assert (raised - 1) * HEARTBEAT_S <= OVER_S < raised * HEARTBEAT_S + HEARTBEAT_S


def test_a_clock_that_most_others_disagree_with_is_not_trusted() -> None:
    log = Log()
    one, *others = log.ready("a", "b", "c")
    beats(log, at(1), one, *others)
    assert one.members.clock_trusted(at(1))
    assert not one.members.clock_trusted(at(1, ahead_s=31))


def test_a_cut_off_member_does_not_take_itself_for_the_whole_cluster() -> None:
    log = Log()
    one, *others = log.ready("a", "b", "c")
    beats(log, at(1), one, *others)
    one.tick(at(1))
    one.tick(at(100))
    assert one.members.live(at(100).boot_s) == []
    assert one.members.clock_trusted(at(100))
    assert not one.members.clock_trusted(at(100, ahead_s=3600))


def test_no_member_loses_its_vote_while_the_log_takes_no_writes() -> None:
    log = Log()
    one, *others = log.ready("a", "b", "c")
    beats(log, at(1), one, *others)
    log.beat(one, at(60))  # the first after an outage of a minute
    log.deliver(at(60), one)
    one.tick(at(60))
    assert one.members.majority == 2
    assert not one.members.clock_trusted(at(60, ahead_s=3600))


def test_a_member_left_alone_remembers_the_time_that_the_others_agreed_on() -> None:
    log = Log()
    one, *others = log.ready("a", "b", "c")
    beats(log, at(1), one, *others)
    one.tick(at(1))
    for seconds in range(2, 20):
        log.beat(one, at(seconds))
        log.deliver(at(seconds), one)
        one.tick(at(seconds))
    assert one.members.majority == 1
    assert one.members.clock_trusted(at(20))
    assert not one.members.clock_trusted(at(20, ahead_s=3600))
    assert one.members.floor_ms(at(20, ahead_s=3600)) is None


def test_a_node_that_was_wrong_all_the_time_is_not_right_once_it_is_alone() -> None:
    log = Log()
    one, *others = log.ready("a", "b", "c")
    for seconds in range(1, 5):
        beats(log, at(seconds), one, *others, ahead_s=(3600, 0, 0))
        one.tick(at(seconds, ahead_s=3600))
    for seconds in range(5, 25):
        log.beat(one, at(seconds, ahead_s=3600))
        log.deliver(at(seconds, ahead_s=3600), one)
        one.tick(at(seconds, ahead_s=3600))
    assert one.members.majority == 1
    assert not one.members.clock_trusted(at(25, ahead_s=3600))
    assert one.members.clock_trusted(at(25))


def test_a_node_that_starts_waits_for_those_it_found_in_the_log_before_it_trusts_its_clock() -> None:
    log = Log()
    others = log.ready("b", "c")
    one = log.member("a", now=at(100))
    log.beat(one, at(100))
    log.deliver(at(100), one)
    assert not one.members.clock_trusted(at(100))  # the age of their statements is unknown
    beats(log, at(100.4), *others)
    log.deliver(at(100.4), one)
    assert one.members.clock_trusted(at(100.4))
    assert not one.members.clock_trusted(at(100.4, ahead_s=31))


def test_a_clock_is_not_trusted_before_the_log_shows_whether_there_are_others() -> None:
    log = Log()
    log.ready("b", "c")
    one = Member(View(), own("a"), heartbeat_s=HEARTBEAT_S)
    assert not one.members.clock_trusted(at(100, ahead_s=3600))
    one.loaded(log.snapshot(), at(100, ahead_s=3600))
    assert not one.members.clock_trusted(at(100, ahead_s=3600))


def test_a_clock_is_assessed_anew_once_other_members_are_known() -> None:
    log = Log()
    log.ready("b", "c")
    one = log.member("a", now=at(100))
    one.tick(at(100, ahead_s=3600))  # no known member could disagree yet
    log.beat(one, at(100, ahead_s=3600))
    log.deliver(at(100, ahead_s=3600), one)
    assert one.is_fresh(at(100, ahead_s=3600))
    assert not one.is_ready(at(100, ahead_s=3600))


def test_a_node_that_starts_after_all_others_have_died_trusts_its_clock_after_two_heartbeats() -> None:
    log = Log()
    log.ready("b", "c")
    one = log.member("a", now=at(100))
    trusted_s = []
    for half_seconds in range(20):
        seconds = 100 + half_seconds / 2
        log.beat(one, at(seconds))
        log.deliver(at(seconds), one)
        one.tick(at(seconds))
        if one.members.clock_trusted(at(seconds)):
            trusted_s.append(seconds - 100)
    assert trusted_s[0] == 2 * HEARTBEAT_S
    assert len(trusted_s) == 18


def test_a_node_reports_whether_it_has_reached_a_clients_position() -> None:
    log = Log()
    one, two = log.ready("a", "b")
    position = log.put(deny("x"))
    log.deliver(at(1), one)
    assert one.has_reached("log", position)
    assert not two.has_reached("log", position)
    assert two.has_reached("another log, that is no more", position)


def test_nothing_that_may_be_logged_shows_an_id() -> None:
    assert "secret" not in repr([EntryPut(deny("secret"), created=True), EntryDeleted(entry_key(deny("secret")))])


# The sync lag.


def test_a_heartbeat_measures_how_long_the_log_takes_from_a_write_to_here() -> None:
    log = Log()
    (one,) = log.ready("a")
    counted, before_s = one.own_beats.sync_lag.total, one.own_beats.sync_lag.sum
    log.beat(one, at(0.5))
    log.deliver(at(0.75), one)
    assert one.own_beats.sync_lag.total == counted + 1
    assert one.own_beats.sync_lag.sum - before_s == pytest.approx(0.25)


def test_after_a_time_without_the_log_entries_may_be_as_old_as_that() -> None:
    log = Log()
    (one,) = log.ready("a")
    before_s = one.own_beats.sync_lag.sum
    log.beat(one, at(20))  # the ones in between did not reach the log
    log.deliver(at(20.1), one)
    assert one.own_beats.sync_lag.sum - before_s == pytest.approx(20.1)
