"""One process's part in a log that an engine orders, as a state machine. Performs no I/O and reads no clock.

An engine keeps the keys of :mod:`.keys` and gives every change a position, which is the same for all processes. A process loads the
whole log at one position, then follows: the engine delivers every change in order and omits none. The process writes a heartbeat
under a key of its own, over and over, and reads it in the log as the others do. **A process that has read its own
heartbeat back has read everything that was logged before it sent the heartbeat.** Freshness, confirmations and the
fence rest on that. This file leaves out how the driver reaches and follows the engine, and how it repeats writes.

The driver loads when :attr:`Ordered.needs_load` says so, and begins the load after the last delivery. It passes each delivery on,
resumes after :attr:`Ordered.position` and nowhere else, and writes a heartbeat at :attr:`Ordered.due_s`, a new one for each try. It
calls :meth:`Ordered.tick` every heartbeat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from ...events import Diverged, Rollback, RolledBack
from ...models import Entry
from ..cluster.freshness import Moment
from ..cluster.invariants import ensure
from ..cluster.members import UNKNOWN_END_MARGIN_MS, Heartbeat, Members
from ..cluster.speaker import Speaker
from ..cluster.view import CUT_TRAVELS_MS, FLOOR_MARGIN_MS, View, last_end_ms
from .entries import LogEntries
from .fence import Fence
from .keys import LogHeartbeat, LogId, entry_key, slot_of
from .leases import Leases
from .loading import PIECE, Loading
from .own_beats import FOUND_BEATS, OwnBeats
from .ready import (
    BeatDeleted,
    BeatPut,
    CaughtUp,
    EntryDeleted,
    EntryPut,
    FloorRaised,
    Item,
    Look,
    OrderedEvent,
    Ready,
    Sent,
    Snapshot,
)
from .standstill import Standstill

REMOVE_AFTER_S = 600.0
REMOVE_AFTER_WAITS = 3
"""How long a process must have been silent before another one may delete its heartbeat: in seconds, and in waits for a fence. The
longer of the two applies. It exceeds every lease, and every short outage of the engine."""


class Ordered:
    """One process of a cluster that shares a log.

    After a rollback an operator must choose. The operator may restore the newer data and restart the nodes, and nothing is lost. Or the
    operator accepts the loss of the log-outs since the backup. Then the operator deletes ``log/id``, so that no node waits for lost
    cuts, and restarts all nodes. No node may start within a freshness limit of the restore, because earlier leases may last until
    then. Meanwhile the node enforces what it knows, and answers 503.

    Args:
        view: what this node knows; changed by this object only.
        own: the heartbeat's constant parts. ``life`` must be random bits, new for each process, and ``member`` one process's alone.
        heartbeat_s: time between two heartbeats.
    """

    def __init__(self, view: View, own: Heartbeat, *, heartbeat_s: float) -> None:
        self.view = view
        self.slot = slot_of(own)
        # The number of members is unknown until a heartbeat has been read back, and one clock alone proves nothing.
        self.speaker: Speaker[OrderedEvent] = Speaker(view, own, majority=2)
        self.log: LogId | None = None
        self.position = 0
        """The position up to which the log has been applied. The driver resumes right after it."""
        self.needs_load = True
        """Whether the whole log must be loaded before this process can follow it."""
        self.is_doubtful = True
        """Whether the view may lack some of what the log has up to the position, so that it proves nothing before the next load."""
        self.rolled_back: Rollback | None = None
        self.catching_up = True
        """Whether the node still has to read back a heartbeat of its own, or to hear enough of the members that it knows of."""
        self.own_beats = OwnBeats(heartbeat_s)
        self.standstill = Standstill()
        self.leases = Leases()
        self.fence = Fence(self.members, self.leases, self.standstill)
        self.entries = LogEntries()
        self._stored_floor_ms = 0
        self._old_upto = 0
        """The position up to which heartbeats that are delivered may be old."""
        self.left = False
        """Whether this process has left: it accepts no session from then on."""

    @property
    def members(self) -> Members:
        """The other processes, by their heartbeats."""
        return self.speaker.members

    # Entries.

    def append(self, entries: Iterable[Entry]) -> None:
        """Apply entries to the view. The driver writes them into the log, and retries until they are written."""
        for entry in entries:
            if self.view.merge(entry):
                self.entries.append(entry)

    def fenced_by(self, position: int, durable_s: float) -> float:
        """Return the boot time from which every node refuses the requests that entries up to this position deny; see :class:`.Fence`."""
        return self.fence.by(position, durable_s, has_read=self.position >= position and self._can_be_relied_on)

    def confirmed(self, now_s: float) -> int:
        """The position up to which this process and all others that may hold a lease have confirmed the log.

        Args:
            now_s: the boot-time clock.
        """
        return int(min(self.position, self.fence.confirmed(now_s)))

    # Beats.

    @property
    def due_s(self) -> float:
        """The boot time at which the next heartbeat is due."""
        if self.log is None or self.rolled_back or self.left:
            return math.inf
        due_s, counts_s = self.own_beats.due_s, self.standstill.counts_from_s(self.members.own.freshness_limit_s)
        return counts_s if self.own_beats.sent_s < counts_s < due_s else due_s

    def beat(self, now: Moment) -> Sent:
        """Return the heartbeat to write now. Each try needs a new one, which identifies the try when the heartbeat is read back."""
        heartbeat = self.speaker.heartbeat(now, starting=self.catching_up)
        self.own_beats.sent(heartbeat.sequence, now.boot_s)
        log = self.log.id if self.log is not None else ""
        return Sent(self.slot, LogHeartbeat(heartbeat, log, self.position, self.entries.digest.last), now.boot_s)

    def answered(self, sent: Sent, position: int) -> Ready:
        """Take in that the engine has written a heartbeat at a position.

        A successful write does not renew the lease; only reading the heartbeat back from the log does.
        """
        if position <= sent.beat.applied:
            # Positions only grow. The engine has given a position that this node had applied before it asked.
            self._roll_back("position")
        return self._told()

    # Reads in place of heartbeats.

    @property
    def stands_still(self) -> bool:
        """Whether this process reads the log because the engine takes no heartbeat, and sees nobody write."""
        return self.standstill.since_s < math.inf

    def look(self, now: Moment) -> Look | None:
        """Return how to look at the log after the engine has refused a heartbeat for good; None if that would prove nothing.

        The others know nothing of a process that has no heartbeat in the log, and wait for none.
        """
        if not self._can_be_relied_on or self.left or self.standstill.beaten_s == -math.inf:
            return None
        return Look(self.slot, self.position, now.boot_s)

    def looked(self, look: Look, revision: int, *, is_quiet: bool, now: Moment) -> Ready:
        """Take in what a read has shown.

        Args:
            look: what was asked for.
            revision: the present position of the log. All that was logged before the read was sent is at or below it.
            is_quiet: whether the slot exists, and no key in the log was written after the position.
            now: the present.
        """
        if revision < look.position:
            self._roll_back("position")
        if self.position == look.position and self._can_be_relied_on and not self.left:
            if not is_quiet:
                self.standstill.write_seen()
            elif self.standstill.looked(look.sent_s, now.boot_s, self.members.own.freshness_limit_s):
                self.members.excuse(now.boot_s)
                self.own_beats.read_back(look.sent_s)
                self._returned(-math.inf, now)
        return self._told()

    # Loading and following.

    def begin_load(self, floor_ms: int) -> Loading:
        """Return what takes in the entries of a log with this floor, before :meth:`load` takes in the rest. All are as of one position."""
        return Loading(self.view, (lambda: self.entries.unseen.keys()) if self.log is None else None, floor_ms)

    def load(self, snapshot: Snapshot, moment: Callable[[], Moment], loading: Loading | None = None) -> Iterator[None]:
        """Take in the whole log as of one position, in pieces: a log may be long, and other tasks must run meanwhile.

        At the end the driver asks for :meth:`ready`. In between, entries may be appended, and this process may put heartbeats, or leave.
        Before the end, which comes in one step, only denials and the floor are known of the log, and :attr:`needs_load` holds.

        Args:
            snapshot: the whole log, except the entries that were taken in before.
            moment: returns the present moment at the end.
            loading: has taken in these.
        """
        if loading is None:
            loading = self.begin_load(snapshot.floor_ms)
        for begin in range(0, len(snapshot.entries), PIECE):
            loading.take((entry_key(entry), entry) for entry in snapshot.entries[begin : begin + PIECE])
            yield
        why = yield from loading.rollback(snapshot, self.log, self.position, is_explained=self.entries.is_explained)
        if why is not None:
            self._roll_back(why)
        if not self._follows():
            return
        # The floor first: entries below it may be missing, and no other message reports them.
        self._take_floor(snapshot.floor_ms)
        yield from loading.merge_others()
        if not self._follows():  # the driver may have learned so meanwhile
            return
        self.log = snapshot.log
        self._give_up_cuts(-math.inf)
        self.position, self._old_upto = snapshot.position, snapshot.newest
        self.standstill.write_seen()  # it is unknown what was written since the last position
        self.entries.begin(snapshot.position, loading)
        now = moment()
        self._load_beats(snapshot, now)
        self.needs_load = self.is_doubtful = False
        self.own_beats.hurried = True
        self._returned(max((self._try_of(stored.slot, stored.beat) for stored in snapshot.beats), default=-math.inf), now)

    def _load_beats(self, snapshot: Snapshot, now: Moment) -> None:
        """Take in the heartbeats of a snapshot. New ones count as received now, because the time of their writing is unknown."""
        for slot in self.leases.keep_only({stored.slot for stored in snapshot.beats}):
            self.speaker.remove(slot)
        for stored in snapshot.beats:
            if stored.slot != self.slot and self.leases.is_news(stored.slot, stored.position):
                # Its first heartbeat may have been written at any earlier position.
                self._hear(stored.slot, stored.beat, stored.position, now, first=0, late=True)

    def delivered(self, position: int, items: Sequence[Item], now: Moment) -> Ready:
        """Take in all changes of one position, in their order. Changes that were applied before are ignored."""
        if not (self.needs_load or not self._follows() or position <= self.position):
            self._apply(position, items, now)
        return self._told()

    def _apply(self, position: int, items: Sequence[Item], now: Moment) -> None:
        entries = [item.entry for item in items if isinstance(item, EntryPut)]
        if len(entries) > 1:  # as in a storm of log-outs
            self.view.merge_all(entries)
        elif entries:
            self.view.merge(entries[0])
        own_s = -math.inf
        for item in items:
            match item:
                case EntryPut(entry, created):
                    self._put(entry, created=created)
                case EntryDeleted(key):
                    self.entries.delete(key, self.view.floor_ms)
                case BeatPut(slot, beat) if slot == self.slot:
                    own_s = max(own_s, self._try_of(slot, beat))
                case BeatPut(slot, beat):
                    self._hear(slot, beat, position, now, first=position, late=position <= self._old_upto)
                case BeatDeleted(slot):
                    self.leases.gone(slot)
                    self.speaker.remove(slot)
                case FloorRaised(floor_ms):
                    self._take_floor(floor_ms)
        self.position = position
        self.entries.digest.mark(position)
        self._returned(own_s, now)

    def _put(self, entry: Entry, *, created: bool) -> None:
        self.standstill.write_seen()
        if self.entries.put(entry, created=created):
            self.own_beats.hurried = True  # a log-out on another process waits for this one to confirm
            self.own_beats.news += 1

    def _hear(self, slot: str, beat: LogHeartbeat, position: int, now: Moment, *, first: int, late: bool) -> None:
        self.standstill.write_seen()
        same_log = self.log is not None and beat.log == self.log.id
        applied, limit_s = beat.applied if same_log else 0, beat.heartbeat.freshness_limit_s
        alive_s = self.own_beats.alive_s
        self.leases.heard(slot, applied, position, first=first, now_s=now.boot_s, alive_s=alive_s, limit_s=limit_s, found=late)
        self.speaker.hear(slot, beat.heartbeat, now, late=late)
        if same_log and beat.applied < position and self.entries.differ(slot, beat):
            self.speaker.note(Diverged(beat.heartbeat.member))
            self.quarantine()

    # Freshness.

    def _try_of(self, slot: str, beat: LogHeartbeat) -> float:
        """Return when a heartbeat was sent, if it is one of this process; negative infinity if not."""
        return self.own_beats.when_sent(beat.heartbeat.sequence) if slot == self.slot else -math.inf

    def _returned(self, sent_s: float, now: Moment) -> None:
        """Take in that a heartbeat sent at this time was read back, together with everything that was logged before it."""
        self.standstill.read_back(sent_s, now.boot_s, self.leases.limits(self.members.own.freshness_limit_s)[0])
        before_s = self.own_beats.fresh_s
        if self.own_beats.read_back(sent_s):
            self.own_beats.measure_lag(sent_s, before_s, now.boot_s)
            self._count_voters(now)
        # A process that knows of others but has not heard them cannot judge its clock. It hears them soon.
        if self.catching_up and self.own_beats.fresh_s > -math.inf and not self.needs_load and self.members.can_judge_clock(now):
            self.catching_up = False
            self.speaker.note(CaughtUp())
        self._stamp()

    def _count_voters(self, now: Moment) -> None:
        """Set the majority of clocks from the processes that are alive, according to the log while the log takes writes.

        A process that hears no other one may be cut off, and must not take itself for the whole cluster. Heartbeats that a load has
        found are those of dead processes after a crash. A live process writes its next one while this process writes two.
        """
        self.own_beats.count_alive(now.boot_s)
        alive_s = self.own_beats.alive_s
        living = 1 + self.leases.voters(alive_s - self.members.fence_wait_s, alive_s - FOUND_BEATS * self.own_beats.every_s)
        self.members.majority = living // 2 + 1

    def _stamp(self) -> None:
        is_over = self.is_doubtful or self.left or not self._follows()
        self.view.fresh_at = -math.inf if is_over else self.own_beats.fresh_s

    def _follows(self) -> bool:
        """Whether this process takes in what the log says. One that has left does so for its open connections."""
        return self.rolled_back is None

    @property
    def _can_be_relied_on(self) -> bool:
        return not self.needs_load and self.rolled_back is None

    # Faults that are detected.

    def quarantine(self) -> None:
        """Require a new load: this process has read something that cannot be decoded, or that another member has read differently."""
        self.is_doubtful = self.needs_load = True
        self.own_beats.fresh_s = -math.inf
        self._stamp()

    def lose(self, key: str) -> None:
        """Note that somebody has written something else in the place of an entry, and have it written again if this process knows it."""
        self.entries.lose(key, self.view.floor_ms)

    def reload(self) -> None:
        """Require a new load: the engine has discarded changes that were not delivered. The present lease is no worse for that."""
        self.needs_load = True

    def _roll_back(self, why: Rollback) -> None:
        if self.rolled_back is None:
            self.rolled_back = why
            self.speaker.note(RolledBack(why))
            self._stamp()

    # Time, and what follows from all of the above.

    def ready(self, now: Moment) -> Ready:
        """Return everything that the driver must do now."""
        return Ready(tuple(self.speaker.take_events()), self._floor_to_store(now), self._slots_to_remove(now), self._keys_to_restore())

    def _told(self) -> Ready:
        """Return the events alone. The rest depends on time, and is handed out by :meth:`tick`."""
        return Ready(tuple(self.speaker.take_events()))

    def tick(self, now: Moment) -> Ready:
        """Let time pass. The driver calls it every heartbeat at least."""
        floor = self.speaker.tick(now)
        # Only a fresh process knows the present number of members, and so what a majority says.
        # The floor, which ends sessions for good, waits longer than a start for those that a load has found.
        if floor is not None and self.is_fresh(now) and not self.leases.awaited(self.own_beats.alive_s - self.members.fence_wait_s):
            self._raise_floor(last_end_ms(floor))
            self._give_up_cuts(floor + FLOOR_MARGIN_MS)
        return self.ready(now)

    def _give_up_cuts(self, time_ms: float) -> None:
        """Give up cuts from before the log was made. Tokens may list such cuts, and would wait for them for ever."""
        if self.log is None:
            return
        # A cut of this log ends later than this, even if its writer's clock is a minute behind the clock of the log's maker.
        made_before_ms = self.log.made_ms
        if time_ms > self.log.made_ms + CUT_TRAVELS_MS:
            # By now the first cuts of this log are known here, so the cuts of the minutes before it can be given up, too.
            made_before_ms += 2 * UNKNOWN_END_MARGIN_MS
        self.speaker.give_up_cuts(made_before_ms)

    def _take_floor(self, floor_ms: int) -> None:
        self.standstill.write_seen()
        self._stored_floor_ms = max(self._stored_floor_ms, floor_ms)
        self._raise_floor(floor_ms)

    def _raise_floor(self, floor_ms: int) -> None:
        if self.speaker.raise_floor(floor_ms):
            self.entries.raise_floor(floor_ms)

    def _floor_to_store(self, now: Moment) -> int | None:
        return self.view.floor_ms if self.is_fresh(now) and self.view.floor_ms > self._stored_floor_ms else None

    def _slots_to_remove(self, now: Moment) -> tuple[tuple[str, int], ...]:
        if not self.is_fresh(now):
            return ()
        silence_s = max(REMOVE_AFTER_S, REMOVE_AFTER_WAITS * self.members.fence_wait_s)
        return tuple(self.leases.silent(now.boot_s - silence_s, self.own_beats.alive_s - silence_s))

    def _keys_to_restore(self) -> frozenset[str]:
        return self.entries.take_to_restore() if self._follows() else frozenset()

    # For the driver.

    def is_fresh(self, now: Moment) -> bool:
        """Return whether this node is in contact with the log."""
        return self.speaker.is_fresh(now)

    def is_ready(self, now: Moment) -> bool:
        """Return whether this node can validate sessions: it is in contact, and its clock and limits are the cluster's."""
        return not self.catching_up and self.speaker.is_ready(now)

    def has_reached(self, log: str, position: int) -> bool:
        """Return whether this process has applied that log up to there. Another log counts as reached, because it no longer exists."""
        return self.log is None or log != self.log.id or position <= self.position

    def seek_contact(self) -> None:
        """Bring the next heartbeat forward. Once it is read back, the log has taken a write, and this process has read it."""
        self.own_beats.hurried = True

    def drain(self) -> None:
        """Say ``draining`` from the next heartbeat on, which is due at once."""
        self.speaker.draining = self.own_beats.hurried = True

    def leave(self) -> None:
        """Validate nothing from now on, whatever is read. The driver may delete this process's heartbeat once no try to write one is
        under way. The log is still followed: open connections of this process end with their sessions."""
        self.left = True
        self._stamp()

    def check(self, now: Moment) -> None:
        """Check what must hold after each call.

        Raises:
            InvariantBroken: it does not hold.
        """
        self.view.check()
        self.members.check()
        self.leases.check(self.position, now.boot_s)
        self.own_beats.check()
        self.entries.check(self.position, self.view.floor_ms)
        fresh_s = self.view.fresh_at
        ensure(fresh_s <= now.boot_s, "no node is fresh as of a time to come")
        is_over = self.is_doubtful or self.left or not self._follows()
        ensure(not is_over or fresh_s == -math.inf, "a node that doubts its view, or has left, is not fresh")
        ensure(self.needs_load or not self.is_doubtful, "a node that doubts its view must load")
        ensure(self.log is not None or self.position == 0, "nothing was applied of a log that was not loaded")
