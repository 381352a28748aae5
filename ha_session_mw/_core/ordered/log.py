"""One process's part in a log that an engine orders, as a state machine. Performs no I/O and reads no clock.

An engine keeps the keys of :mod:`.records` and gives every change its position, the same for everybody. A process loads all of it
at one position, then follows: it is handed the changes in their order, none left out. It puts a beat under a key of its own, over and
over, and reads it in the log like everybody else: **what it has sent and then read there proves that it has read all that was
logged before it was sent**. On that rest freshness, confirmations and the fence. What this file leaves out: how the engine is
reached, how it is followed, and who tries a write again.

The caller loads when :attr:`Ordered.needs_load` says so, and begins the load after the last delivery. It hands on what it is
delivered, resumes after :attr:`Ordered.position` and after nothing else, and puts a beat at :attr:`Ordered.due_s`, a new one for each
try. It calls :meth:`Ordered.tick` every heartbeat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ...events import Diverged, Rollback, RolledBack
from ...models import Entry
from ..cluster.freshness import Moment
from ..cluster.invariants import ensure
from ..cluster.members import UNKNOWN_END_MARGIN_MS, Heartbeat, MemberEvent, Members
from ..cluster.speaker import Speaker
from ..cluster.view import CUT_TRAVELS_MS, FLOOR_MARGIN_MS, View, last_end_ms
from .digest import Digest, sum_of
from .keys import LogHeartbeat, LogId, entry_key, key_end_ms, slot_of
from .leases import Leases

LEAST_BEAT_S = 0.025
"""How soon after a beat the next one may be brought forward. News of that time share one; a log-out waits for no longer."""

REMOVE_AFTER_S = 600.0
REMOVE_AFTER_WAITS = 3
"""How long a process must have been silent until anybody may delete its beat: long beyond any lease, and any hiccup of the engine."""

PIECE = 1000
"""Entries of a log that are taken in at a time. That takes some milliseconds, and no heartbeat or probe waits for longer."""

_MOST_TRIES = 256
"""Beats of which it is not known yet whether they come back. Those left out are minutes old, and vouch for nothing."""


@dataclass(frozen=True, slots=True)
class EntryPut:
    """An entry was written. ``created`` tells whether its key is new."""

    entry: Entry
    created: bool


@dataclass(frozen=True, slots=True)
class EntryDeleted:
    """The key of an entry was deleted."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BeatPut:
    """A process has written its heartbeat."""

    slot: str
    beat: LogHeartbeat


@dataclass(frozen=True, slots=True)
class BeatDeleted:
    """A heartbeat was deleted: by its own process before that ended, or by another one after a long silence."""

    slot: str


@dataclass(frozen=True, slots=True)
class FloorRaised:
    """The stored floor was raised. Entries that end at or below it may be missing from now on."""

    floor_ms: int


Item = EntryPut | EntryDeleted | BeatPut | BeatDeleted | FloorRaised


@dataclass(frozen=True, slots=True)
class StoredBeat:
    """A heartbeat in a snapshot, and the position at which it was written."""

    slot: str
    beat: LogHeartbeat
    position: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole log at one position. A driver may read it in pages, but all of them as of that position."""

    position: int
    log: LogId
    entries: Sequence[Entry]
    beats: Sequence[StoredBeat]
    floor_ms: int


@dataclass(frozen=True, slots=True)
class Sent:
    """A heartbeat to write under ``node/`` and the slot, in one try."""

    slot: str
    beat: LogHeartbeat
    sent_s: float


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The node has read its own heartbeat for the first time, has heard enough of the other members, and serves."""


OrderedEvent = MemberEvent | CaughtUp | Diverged | RolledBack


@dataclass(frozen=True, slots=True)
class Ready:
    """What the driver must do now.

    Attributes:
        events: what has happened, in its order. Each event is handed out once.
        floor_ms: the floor to store, in a transaction that never lowers the stored one; None if nothing is due. Whatever ends at or
            below the floor (:func:`.keys.ended_ranges`) may be deleted in the same transaction, or later, by any process.
        remove: slots that have been silent for very long, each with the position of its last heartbeat. A slot may be deleted if that
            is its last heartbeat still.
    """

    events: tuple[OrderedEvent, ...] = ()
    floor_ms: int | None = None
    remove: tuple[tuple[str, int], ...] = ()


def _pieces(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    return (entries[begin : begin + PIECE] for begin in range(0, len(entries), PIECE))


class Ordered:
    """One process of a cluster that shares a log.

    After a rollback an operator must choose. Either the newer data is put back: then the nodes are started again, and nothing is
    lost. Or the loss is accepted: log-outs since the backup are forgotten. Then ``log/id`` is deleted, so that cuts that were lost are
    not waited for, and all nodes are started again, no sooner than a freshness limit after the engine was put back, so that no lease
    from before is left. Until then the node enforces what it knows, and answers 503.

    Args:
        view: what this node knows; changed by this object only.
        own: the heartbeat's constant parts. ``life`` must be random bits, new for each process, and ``member`` one process's alone.
        heartbeat_s: how often a beat is put.
    """

    def __init__(self, view: View, own: Heartbeat, *, heartbeat_s: float) -> None:
        self.view = view
        self.slot = slot_of(own)
        # Until a beat has come back nobody knows how many there are, and one clock alone is nothing to go by.
        self.speaker: Speaker[OrderedEvent] = Speaker(view, own, majority=2)
        self.log: LogId | None = None
        self.position = 0
        """Up to where the log has been applied. Following is resumed right after it."""
        self.needs_load = True
        """Whether what is known here cannot be relied on until the whole log has been loaded."""
        self.rolled_back: Rollback | None = None
        self.catching_up = True
        """Whether the node has not yet read a beat of its own since its start, or heard too few of the others that it knows of."""
        self._heartbeat_s = heartbeat_s
        self._digest = Digest()
        self._leases = Leases()
        self._suspects: set[str] = set()
        """Whose digest has differed, and not agreed since."""
        self._unseen: dict[str, Entry] = {}
        """What was appended here and has not been seen in the log yet."""
        self._deleted: set[str] = set()
        """What somebody deleted before it ended. It goes on to count here."""
        self._stored_floor_ms = 0
        self._tries: dict[int, float] = {}
        self._told_s = -math.inf
        self._news = False
        self._fresh_s = -math.inf
        self._alive_s = 0.0
        """For how long the log has been seen to take writes, in all."""
        self._returned_s = math.inf
        self._left = False

    @property
    def members(self) -> Members:
        """The other processes, by their heartbeats."""
        return self.speaker.members

    # Entries.

    def append(self, entries: Iterable[Entry]) -> None:
        """Apply entries to the view. The driver writes them into the log, and retries until they are written."""
        for entry in entries:
            if self.view.merge(entry):
                self._unseen[entry_key(entry)] = entry

    def fenced_by(self, position: int, durable_s: float) -> float:
        """Return the boot time from which no request is accepted anywhere that the entries up to this position deny.

        The time is in the past if that holds already.

        Args:
            position: where the entries were written, as the engine said.
            durable_s: the boot time at which this node knew that.

        Every lease that began before the entries were durable is over after a lease's length. It may be sooner: once this node has
        read the log up to there it knows everybody who may have one, and waits for those only who have not confirmed.
        """
        latest_s = durable_s + self.members.fence_wait_s
        if self.position < position or not self._can_be_relied_on:
            return latest_s
        return min(latest_s, self._leases.lack_until(position, self.members.fence_wait_s))

    # Beats.

    @property
    def due_s(self) -> float:
        """The boot time at which the next heartbeat is due."""
        if self.log is None or self.rolled_back or self._left:
            return math.inf
        return self._told_s + (min(LEAST_BEAT_S, self._heartbeat_s) if self._news else self._heartbeat_s)

    def beat(self, now: Moment) -> Sent:
        """Return the heartbeat to write now. Each try needs a new one, which identifies the try when the heartbeat is read back."""
        heartbeat = self.speaker.heartbeat(now, starting=self.catching_up)
        self._told_s = now.boot_s
        self._news = False
        self._tries[heartbeat.sequence] = now.boot_s
        if len(self._tries) > _MOST_TRIES:
            del self._tries[min(self._tries)]
        log = self.log.id if self.log is not None else ""
        return Sent(self.slot, LogHeartbeat(heartbeat, log, self.position, self._digest.last), now.boot_s)

    def answered(self, sent: Sent, position: int) -> Ready:
        """Take in that the engine has written a heartbeat at a position.

        A successful write does not renew the lease; only reading the heartbeat back from the log does.
        """
        if position <= sent.beat.applied:
            # Positions only grow. One that this node had passed before it asked is given a second time.
            self._roll_back("position")
        return self._told()

    # What is read in the log.

    def load(self, snapshot: Snapshot, moment: Callable[[], Moment]) -> Iterator[None]:
        """Take in the whole log as of one position, in pieces: a log may be long, and other tasks must run meanwhile.

        At the end the driver asks for :meth:`ready`. In between, entries may be appended, and this process may put heartbeats, or leave.
        Before the end, which comes in one step, only denials and the floor are known of the log, and :attr:`needs_load` holds.

        Args:
            snapshot: the whole log.
            moment: tells when the end has come.
        """
        keys: list[str] = []
        total = 0
        for piece in _pieces(snapshot.entries):
            keys += (found := [entry_key(entry) for entry in piece])
            total += sum_of(found)
            yield
        why = self._rollback_of(snapshot, keys)
        if why is not None:
            self._roll_back(why)
        if self._is_over():
            return
        # The floor first: entries below it may be missing, and nobody else may tell us.
        self._take_floor(snapshot.floor_ms)
        for piece in _pieces(snapshot.entries):
            for entry in piece:
                self.view.merge(entry)
            yield
        if self._is_over():
            return
        self.log = snapshot.log
        self._give_up_cuts(-math.inf)
        for key in self._unseen.keys() & keys:
            del self._unseen[key]
        self.position = snapshot.position
        self._digest.begin(snapshot.position, total)
        now = moment()
        self._load_beats(snapshot, now)
        self.needs_load = False
        self._news = True
        self._returned(max((self._try_of(stored.slot, stored.beat) for stored in snapshot.beats), default=-math.inf), now)

    def _load_beats(self, snapshot: Snapshot, now: Moment) -> None:
        """Those that are news count as received now, for nobody can tell when they were put."""
        for slot in self._leases.keep_only({stored.slot for stored in snapshot.beats}):
            self.speaker.remove(slot)
        for stored in snapshot.beats:
            if stored.slot != self.slot and self._leases.is_news(stored.slot, stored.position):
                # Its first beat may have been any time before.
                self._hear(stored.slot, stored.beat, stored.position, now, first=0, late=True)

    def delivered(self, position: int, items: Iterable[Item], now: Moment) -> Ready:
        """Take in all changes of one position, in their order. Changes that were applied before are ignored."""
        if not (self.needs_load or self._is_over() or position <= self.position):
            self._apply(position, items, now)
        return self._told()

    def _apply(self, position: int, items: Iterable[Item], now: Moment) -> None:
        own_s = -math.inf
        for item in items:
            match item:
                case EntryPut(entry, created):
                    self._put(entry, created=created)
                case EntryDeleted(key):
                    self._delete(key)
                case BeatPut(slot, beat) if slot == self.slot:
                    own_s = max(own_s, self._try_of(slot, beat))
                case BeatPut(slot, beat):
                    self._hear(slot, beat, position, now, first=position, late=False)
                case BeatDeleted(slot):
                    self._leases.gone(slot)
                    self.speaker.remove(slot)
                case FloorRaised(floor_ms):
                    self._take_floor(floor_ms)
        self.position = position
        self._digest.mark(position)
        self._returned(own_s, now)

    def _put(self, entry: Entry, *, created: bool) -> None:
        key = entry_key(entry)
        if created:
            self._digest.add(key)
        self._deleted.discard(key)
        self.view.merge(entry)
        if self._unseen.pop(key, None) is None:
            self._news = True  # somebody waits for us to say that we have it

    def _delete(self, key: str) -> None:
        self._digest.remove(key)
        if key_end_ms(key) > self.view.floor_ms:
            self._deleted.add(key)

    def _hear(self, slot: str, beat: LogHeartbeat, position: int, now: Moment, *, first: int, late: bool) -> None:
        same_log = self.log is not None and beat.log == self.log.id
        applied = beat.applied if same_log else 0
        self._leases.heard(slot, applied, position, first=first, now_s=now.boot_s, alive_s=self._alive_s)
        self.speaker.hear(slot, beat.heartbeat, now, late=late)
        if same_log and beat.applied < position:
            self._compare(slot, beat)

    # Freshness.

    def _try_of(self, slot: str, beat: LogHeartbeat) -> float:
        """Return when a heartbeat was sent, if it is one of this process; negative infinity if not."""
        return self._tries.get(beat.heartbeat.sequence, -math.inf) if slot == self.slot else -math.inf

    def _returned(self, sent_s: float, now: Moment) -> None:
        """Take in that a heartbeat sent at this time was read back, together with everything that was logged before it."""
        if sent_s > self._fresh_s:
            self._fresh_s = sent_s
            self._tries = {told: tried_s for told, tried_s in self._tries.items() if tried_s > sent_s}
            self._count_voters(now)
        # Who knows of others and has not heard them yet cannot tell whether its clock is right, and it need not wait long.
        if self.catching_up and self._fresh_s > -math.inf and not self.needs_load and self.members.can_judge_clock(now):
            self.catching_up = False
            self.speaker.note(CaughtUp())
        self._stamp()

    def _count_voters(self, now: Moment) -> None:
        """Who makes a majority of clocks: whoever lives, by what the log says while it is known to be alive.

        A process that merely hears nobody is cut off, and must not take itself for the whole cluster. And while the log takes no
        writes nobody can be heard: that time counts as two heartbeats at the most.
        """
        self._alive_s += max(0.0, min(now.boot_s - self._returned_s, 2 * self._heartbeat_s))
        self._returned_s = now.boot_s
        living = 1 + self._leases.voters(self._alive_s - self.members.fence_wait_s)
        self.members.majority = living // 2 + 1

    def _stamp(self) -> None:
        self.view.fresh_at = self._fresh_s if self._can_be_relied_on and not self._left else -math.inf

    def _is_over(self) -> bool:
        """Return whether this process ignores the log from now on."""
        return self.rolled_back is not None or self._left

    @property
    def _can_be_relied_on(self) -> bool:
        return not self.needs_load and self.rolled_back is None

    # What must not be, and is found out.

    def quarantine(self) -> None:
        """Require a new load: something was read that cannot be decoded, or that another member has read differently."""
        self.needs_load = True
        self._fresh_s = -math.inf
        self._stamp()

    def _compare(self, slot: str, beat: LogHeartbeat) -> None:
        """Compare what another process had applied with what this one had at the same position.

        Who of the two is wrong cannot be told, and of three the two that agree may have missed the same. So each looks to itself,
        and loads the log again; and having done so it trusts itself, until the other one, by the same rule, has come round.
        """
        own = self._digest.at(beat.applied)
        if own is None:
            return
        if own == beat.digest:
            self._suspects.discard(slot)
        elif slot not in self._suspects:
            self._suspects.add(slot)
            self.speaker.note(Diverged(beat.heartbeat.member))
            self.quarantine()

    def _rollback_of(self, snapshot: Snapshot, keys: list[str]) -> Rollback | None:
        if self.log is None:
            return None
        if snapshot.log.id != self.log.id:
            return "log"
        if snapshot.position < self.position:
            return "position"
        explained = self._unseen.keys() | self._deleted | set(keys)
        lost = (entry_key(entry) for entry in self.view.entries())
        return "entries" if any(key not in explained and key_end_ms(key) > snapshot.floor_ms for key in lost) else None

    def _roll_back(self, why: Rollback) -> None:
        if self.rolled_back is None:
            self.rolled_back = why
            self.speaker.note(RolledBack(why))
            self._stamp()

    # Time, and what follows from all of the above.

    def ready(self, now: Moment) -> Ready:
        """Return everything that the driver must do now."""
        return Ready(tuple(self.speaker.take_events()), self._floor_to_store(now), self._slots_to_remove(now))

    def _told(self) -> Ready:
        """Return the events alone. The rest depends on time, and is handed out by :meth:`tick`."""
        return Ready(tuple(self.speaker.take_events()))

    def tick(self, now: Moment) -> Ready:
        """Take in that time has passed. To be called every heartbeat at least."""
        floor = self.speaker.tick(now)
        # Only who knows how many there are, and by now, can tell what most of them say.
        if floor is not None and self.is_fresh(now):
            self._raise_floor(last_end_ms(floor))
            self._give_up_cuts(floor + FLOOR_MARGIN_MS)
        return self.ready(now)

    def _give_up_cuts(self, time_ms: float) -> None:
        """Tokens of before the log was made may list cuts that are in no log any more. They must not wait for those for ever."""
        if self.log is None:
            return
        # A cut of this log ends later than this, even if the clock of its writer is behind that of the log's maker by a minute.
        made_before_ms = self.log.made_ms
        if time_ms > self.log.made_ms + CUT_TRAVELS_MS:
            # And by now the first ones of this log are known here, so those of the minutes before it can be given up as well.
            made_before_ms += 2 * UNKNOWN_END_MARGIN_MS
        self.speaker.give_up_cuts(made_before_ms)

    def _take_floor(self, floor_ms: int) -> None:
        self._stored_floor_ms = max(self._stored_floor_ms, floor_ms)
        self._raise_floor(floor_ms)

    def _raise_floor(self, floor_ms: int) -> None:
        if self.speaker.raise_floor(floor_ms):
            self._unseen = {key: entry for key, entry in self._unseen.items() if key_end_ms(key) > floor_ms}
            self._deleted = {key for key in self._deleted if key_end_ms(key) > floor_ms}

    def _floor_to_store(self, now: Moment) -> int | None:
        return self.view.floor_ms if self.is_fresh(now) and self.view.floor_ms > self._stored_floor_ms else None

    def _slots_to_remove(self, now: Moment) -> tuple[tuple[str, int], ...]:
        if not self.is_fresh(now):
            return ()
        return tuple(self._leases.silent(now.boot_s - max(REMOVE_AFTER_S, REMOVE_AFTER_WAITS * self.members.fence_wait_s)))

    # What the caller may want to know, or have done.

    def is_fresh(self, now: Moment) -> bool:
        """Return whether this node is in contact with the log."""
        return self.speaker.is_fresh(now)

    def is_ready(self, now: Moment) -> bool:
        """Return whether this node can validate sessions: it is in contact, and its clock and limits are the cluster's."""
        return not self.catching_up and self.speaker.is_ready(now)

    def has_reached(self, log: str, position: int) -> bool:
        """Whether the log has been applied here up to there. Another log counts as reached: nobody can tell of it any more."""
        return self.log is None or log != self.log.id or position <= self.position

    def drain(self) -> None:
        """Say ``draining`` from the next beat on, which is due at once."""
        self.speaker.draining = self._news = True

    def leave(self) -> None:
        """Validate nothing from now on. The driver may delete this process's heartbeat once no try to write one is under way."""
        self._left = True
        self._stamp()

    def check(self, now: Moment) -> None:
        """Check what must hold after each call.

        Raises:
            InvariantBroken: it does not hold.
        """
        self.view.check()
        self.members.check()
        self._leases.check(self.position, now.boot_s)
        self._digest.check(self.position)
        fresh_s = self.view.fresh_at
        ensure(fresh_s <= now.boot_s, "no node is fresh as of a time to come")
        ensure(not (self.needs_load or self._is_over()) or fresh_s == -math.inf, "a node that must load, or has left, is not fresh")
        ensure(self.log is not None or self.position == 0, "nothing was applied of a log that was not loaded")
        ensure(all(tried_s >= self._fresh_s for tried_s in self._tries.values()), "no heartbeat from before the lease is awaited")
        ensure(all(key_end_ms(key) > self.view.floor_ms for key in (*self._unseen, *self._deleted)), "nothing below the floor is kept")
