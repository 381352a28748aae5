"""``etcd://``: the log on etcd. Obeys the state machine of ``_core/ordered.py``: writes, loads, follows and puts its beats.

What is proven by what stands there; here are only tasks, time limits and retries. No etcd leases are used: a lease's own timing cannot
be trusted (8 s became 16.9 s after a leader was killed), and a denial must not go before the floor has risen above its end.
Entries leave by the floor, and the beats of processes that are gone by the members that are left.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import anyio
import anyio.lowlevel
import msgspec

from ..._core.cluster.members import Heartbeat, Members
from ..._core.cluster.view import View
from ..._core.ordered.keys import LogId, encode_beat, encode_floor, encode_log
from ..._core.ordered.log import CaughtUp, EntryPut, Ordered, OrderedEvent, Ready, Snapshot
from ...abc import Clock, OnEvent, Receipt, ignore
from ...events import Diverged, FoundQuorum, LostQuorum, MemberDraining, MemberJoined, MemberLeft, Rollback, RolledBack
from ...exceptions import EntryRejected, QuorumLost
from ...models import Entry
from ..common.membered import MemberedLog, parse_index
from ..common.outbox import Outbox, Ticket
from ..common.trouble import Troubles
from .api import (
    EtcdCompacted,
    EtcdError,
    EtcdRejected,
    Event,
    KeyValue,
    Watched,
    delete,
    put,
    unchanged_since,
)
from .gateway import EtcdGateway
from .keys import Keys, Reading, UnreadableKey
from .tidying import tidy

logger = logging.getLogger("ha_session_mw.etcd")

BATCH = 100
"""Entries in one transaction. etcd accepts up to 128 operations."""
SINGLE = 8
"""Largest log-out that goes ahead of larger ones: a person waits for a small one, a job for a large one."""
MAX_RECORD_BYTES = 256 * 1024
"""Longest accepted value. A token has at most 4096 bytes, so no id or subject comes near. etcd accepts 1.5 MB, but not always in time."""
DURABLE_LIMIT_S = 5.0
"""How long a log-out waits for etcd while this node is in contact. An election takes 1 to 2 s, and as long again after a drawn vote. A
log-out that takes that long and holds is worth more than an early refusal."""
DURABLE_LIMIT_ALONE_S = 0.5
"""How long a log-out waits for etcd while this node is out of contact."""
BEHIND_S = 0.6
"""Time within which the watch must bring what was written. It takes milliseconds; a member that needs longer is frozen or cut off."""
AGAIN_S = 0.2
"""Pause after a failure, so that failures that arrive at once are no load."""
LEAVE_S = 5.0
"""Time limit for the last writes of a process that ends."""


class _LoadAgain(Exception):
    """The log must be loaded again."""


class EtcdLog(MemberedLog):
    """One process's driver.

    Args:
        view: what this node knows.
        clock: the two clocks.
        own: the heartbeat's constant parts.
        gateway: calls etcd.
        prefix: below which all keys stand.
        heartbeat_s: how often a beat is put.
        on_event: told what happens to the cluster.
    """

    def __init__(
        self,
        view: View,
        clock: Clock,
        own: Heartbeat,
        gateway: EtcdGateway,
        prefix: str,
        *,
        heartbeat_s: float,
        on_event: OnEvent = ignore,
    ) -> None:
        super().__init__(view, clock, logger, on_event)
        self._own = own
        self._gateway = gateway
        self._keys = Keys(prefix)
        self._heartbeat_s = heartbeat_s
        self._singles, self._jobs = Outbox(), Outbox()
        self._lives = 0
        self._lost = False
        self._watching: anyio.CancelScope | None = None
        self._troubles = Troubles(logger)
        self._begin()

    def _begin(self) -> None:
        """Begin anew, as another process would: what this one said before it left is over."""
        self._lives += 1
        life = self._own.life if self._lives == 1 else f"{self._own.life}-{self._lives}"
        self.ordered = Ordered(self._view, msgspec.structs.replace(self._own, life=life), heartbeat_s=self._heartbeat_s)
        self._last = KeyValue()  # what was written last of all that was read
        self._newest = 0  # where the last entry stands: no client has to wait for beats
        self._written = 0  # up to where etcd has said that it was written
        self._has_left = False
        self._to_tidy = Ready()
        self._obey_news(self._to_tidy)

    @property
    def _members(self) -> Members:
        return self.ordered.members

    # What others ask of this log.

    def apply(self, entries: Sequence[Entry]) -> None:
        self._put(entries)

    def _put(self, entries: Sequence[Entry]) -> Ticket:
        records = self._keys.records(entries)
        self.ordered.append(entries)
        self._wake()
        box = self._singles if len(entries) <= SINGLE else self._jobs
        ticket = box.put(records)
        for key, value in records.items():
            if len(value) > MAX_RECORD_BYTES:
                self._reject(box, key, "is not asked to take it")
        return ticket

    def _reject(self, box: Outbox, key: bytes, why: str) -> None:
        logger.error("etcd %s: an entry with a name of %d bytes is enforced by this process only", why, len(key))
        box.reject(key)

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        ticket = self._put(entries)
        limit_s = DURABLE_LIMIT_S if self.ordered.is_fresh(self._now()) else DURABLE_LIMIT_ALONE_S
        durable_s = math.inf
        with self._clock.move_on_after(limit_s):
            await ticket.done.wait()
            durable_s = self._clock.boot_s()
            while self.ordered.position < ticket.position:  # so that the index that a client is given covers what it has written
                await self.wait_changed()
        if ticket.left:
            raise QuorumLost(self._why_not_written())
        if ticket.rejected:
            raise EntryRejected(
                f"{ticket.rejected} of {len(entries)} entries are too long for the log; this process enforces them all the same"
            )
        return Receipt(ticket.position, min(durable_s, self._clock.boot_s()))

    def _why_not_written(self) -> str:
        if self.ordered.rolled_back is not None:
            return "the log in etcd was set back"
        return f"etcd {self.trouble['writing']}" if "writing" in self.trouble else "etcd has not taken the entry yet"

    async def fence(self, receipt: Receipt) -> None:
        while (left_s := self.ordered.fenced_by(receipt.position, receipt.durable_at_s) - self._clock.boot_s()) > 0:
            with self._clock.move_on_after(left_s):
                await self.wait_changed()

    def tick(self) -> None:
        # Waiters for a change are not woken: time alone brings no news, and they would wake each other.
        self._obey(self.ordered.tick(self._now()))

    def is_starting(self) -> bool:
        return self.ordered.catching_up and not self.is_set_back()

    def is_set_back(self) -> bool:
        return self.ordered.rolled_back is not None

    @property
    def trouble(self) -> Mapping[str, str]:
        """What does not work, and why, in words fit to follow "etcd "."""
        return self._troubles.current

    def why_not_ready(self) -> str | None:
        now = self._now()
        if self.is_set_back():
            return (
                "the log in etcd is older than what this node has applied; restore the newer one or accept the loss, see the how-to on etcd"
            )
        if self.ordered.is_ready(now):
            return None
        if self.trouble:
            return f"etcd {next(iter(self.trouble.values()))}"
        if self.ordered.catching_up and self.ordered.is_fresh(now):
            return "waiting to hear of the other members, to know whether its clock is right"
        if self.ordered.catching_up:
            return "still loading the log from etcd"
        return self._own_fault(now) or "out of contact with etcd"

    def index(self) -> str | None:
        return None if self.ordered.log is None else f"{self.ordered.log.id}-{self._newest}"

    def has_reached(self, index: str) -> bool:
        named = parse_index(index)
        return named is None or self.ordered.has_reached(*named)

    # The tasks.

    async def run(self) -> None:
        if self._has_left:
            self._begin()
        async with self._gateway.opened():
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._follow_for_ever)
                    tasks.start_soon(self._mind_watch_for_ever)
                    tasks.start_soon(self._beat_for_ever)
                    tasks.start_soon(self._write_for_ever, self._singles)
                    tasks.start_soon(self._write_for_ever, self._jobs)
                    tasks.start_soon(self._tidy_for_ever)
                    await self._keep_up()
            except anyio.get_cancelled_exc_class():
                with self._clock.move_on_after(LEAVE_S) as limit:
                    limit.shield = True
                    await self._leave()
                raise

    async def _leave(self) -> None:
        """Write what is left, judge no more, and say so by deleting the beat: nobody waits for this process then."""
        self._has_left = True
        self.ordered.leave()
        self._wake()
        try:
            for box in (self._singles, self._jobs):
                while box and not self.is_set_back():
                    await self._write(box, box.batch(BATCH))
            if self.ordered.log is not None and not self.is_set_back():  # else there is no beat of this process
                await self._gateway.transact([delete(self._own_key)], once=True)
        except EtcdError as exc:
            logger.warning("etcd %s; %d entries of this process are not in it", exc, len(self._singles) + len(self._jobs))

    # Following.

    async def _follow_for_ever(self) -> None:
        while not self.is_set_back():
            try:
                await (self._load() if self.ordered.needs_load else self._compare())
                with anyio.CancelScope() as self._watching:
                    await self._gateway.watch(self._keys.start, self._keys.end, self.ordered.position + 1, self._take)
                self._gateway.leave_watched()
                self._note("following", "has fallen behind")
                continue
            except _LoadAgain:
                continue
            except EtcdCompacted:
                logger.warning("etcd has compacted what this node has not read yet; the log is loaded anew")
                self._mistrust()
            except UnreadableKey as exc:
                self._note("following", str(exc))
                self._mistrust()
            except EtcdError as exc:
                self._note("following", str(exc))
            await self._sleep(AGAIN_S)
        await anyio.sleep_forever()

    async def _mind_watch_for_ever(self) -> None:
        """Give up a watch that does not bring what was written: its member of etcd is frozen, or cut off from the others."""
        while True:
            while (written := self._written) <= self.ordered.position:
                await self.wait_changed()
            with self._clock.move_on_after(BEHIND_S) as limit:
                while self.ordered.position < written:
                    await self.wait_changed()
            if limit.cancelled_caught and self._watching is not None:
                self._watching.cancel()

    def _take_answer(self, position: int) -> None:
        """Note that something was written at a position."""
        self._written = max(self._written, position)
        self._wake()

    def _mistrust(self) -> None:
        self.ordered.quarantine()
        self._wake()

    async def _load(self) -> None:
        reading = Reading(self._keys)
        position = await self._read(reading)
        snapshot = reading.snapshot(position)
        if snapshot is None and self.ordered.log is None:
            await self._make_log()
            raise _LoadAgain
        # Where the log that this node has read is gone, it has to be told of another one.
        for _ in self.ordered.load(snapshot or Snapshot(position, LogId("", 0), (), (), 0), self._now):
            await anyio.lowlevel.checkpoint()
        self._last, self._newest = reading.last, reading.newest
        self._note("following", None)
        self._obey_news(self.ordered.ready(self._now()))

    async def _read(self, reading: Reading) -> int:
        """Read all keys as of one revision, and return that revision."""
        start, revision = self._keys.start, 0
        while True:
            page = await self._gateway.page(start, self._keys.end, revision=revision)
            revision = revision or page.header.revision
            reading.take(page.kvs)
            if not page.more:
                return revision
            start = page.kvs[-1].key + b"\0"

    async def _compare(self) -> None:
        """Check that the log is the one that was read so far: the key that was written last must still be there, as of its revision."""
        last = self._last
        if not last.mod_revision:
            return
        try:
            found = (await self._gateway.page(last.key, last.key + b"\0", revision=last.mod_revision)).kvs
        except EtcdRejected:  # there is no such revision yet
            found = ()
        if found != (last,):
            self._mistrust()
            raise _LoadAgain

    async def _make_log(self) -> None:
        """Create the log's identity, unless another process is faster. A floor may exist already, and must not fall."""
        log = LogId(self.ordered.slot.rpartition("/")[2], int(self._now().wall_ms))
        for key, value in ((self._keys.floor, encode_floor(0)), (self._keys.log, encode_log(log))):
            await self._gateway.transact([put(key, value)], compare=[unchanged_since(key, 0)])

    def _take(self, message: Watched) -> None:
        """Take in one message of the watch: the changes of some revisions, complete and in order."""
        for revision, events in groupby(message.events, key=lambda event: event.kv.mod_revision):
            self._deliver(revision, [*events])
        self._note("following", None)
        self._wake()
        if self.ordered.needs_load or self.is_set_back():
            raise _LoadAgain

    def _deliver(self, revision: int, events: list[Event]) -> None:
        items = [item for event in events if (item := self._keys.item(event)) is not None]
        self._obey(self.ordered.delivered(revision, items, self._now()))
        if any(isinstance(item, EntryPut) for item in items):
            self._newest = revision
        self._last = next((event.kv for event in events if not event.is_deletion), self._last)

    @property
    def _own_key(self) -> bytes:
        return self._keys.slot(self.ordered.slot)

    # Beats.

    async def _beat_for_ever(self) -> None:
        while True:
            await anyio.lowlevel.checkpoint()  # a beat cannot be cancelled, and while etcd does not answer one follows on another
            left_s = self.ordered.due_s - self._clock.boot_s()
            if left_s <= 0:
                await self._beat()
                continue
            with self._clock.move_on_after(left_s):
                await self.wait_changed()

    async def _beat(self) -> None:
        sent = self.ordered.beat(self._now())
        try:
            # To its end: a beat that came after the last word of this process would keep others waiting for it.
            with anyio.CancelScope(shield=True):
                done = await self._gateway.transact([put(self._own_key, encode_beat(sent.beat))], once=True)
        except EtcdError as exc:
            self._note("taking beats", str(exc))
            return
        self._note("taking beats", None)
        self._obey(self.ordered.answered(sent, done.header.revision))
        self._take_answer(done.header.revision)

    # Writing.

    async def _write_for_ever(self, box: Outbox) -> None:
        while True:
            await box.filled()
            if self.is_set_back():  # an operator has to decide what is to become of that log
                await anyio.sleep_forever()
            try:
                await self._write(box, box.batch(BATCH))
            except EtcdError as exc:
                self._note("writing", str(exc))
                await self._sleep(AGAIN_S)
            else:
                self._note("writing", None)

    async def _write(self, box: Outbox, records: Mapping[bytes, bytes]) -> None:
        """Write records in one transaction; in smaller ones where that is rejected, until it is known which of them is to blame."""
        try:
            done = await self._gateway.transact([put(key, value) for key, value in records.items()])
        except EtcdRejected as exc:
            if len(records) == 1:
                [key] = records
                self._reject(box, key, str(exc))
                return
            for half in _halves(records):
                await self._write(box, half)
        else:
            box.written(records, done.header.revision)
            self._take_answer(done.header.revision)

    # Time, and what follows from it.

    async def _keep_up(self) -> None:
        while True:
            self.tick()
            self._tell_own_fault()
            await self._sleep(self._heartbeat_s)

    async def _tidy_for_ever(self) -> None:
        while True:
            due, self._to_tidy = self._to_tidy, Ready()
            try:
                await tidy(self._gateway, self._keys, due)
            except EtcdError as exc:
                self._note("tidying", str(exc))
            else:
                self._note("tidying", None)
            await self._sleep(self._heartbeat_s)

    def _obey_news(self, ready: Ready) -> None:
        """Do what the state machine asks for after it has learned something, and wake those who wait for a change."""
        self._obey(ready)
        self._wake()

    def _obey(self, ready: Ready) -> None:
        self._heed_members()
        if ready.floor_ms is not None or ready.remove:
            self._to_tidy = ready
        for event in ready.events:
            self._write_to_log(event)
            if not isinstance(event, CaughtUp):  # who listens is told that this node is fresh
                self._on_event(event)
        self._notice_turn()

    def _notice_turn(self) -> None:
        lost = self.is_set_back() or "writing" in self.trouble or "taking beats" in self.trouble
        if lost != self._lost:
            self._lost = lost
            self._on_event(LostQuorum() if lost else FoundQuorum())

    # What operators are told.

    def _note(self, what: str, failure: str | None) -> None:
        if failure is None:
            self._troubles.end(what, "etcd is well again (%s)", what)
        else:
            self._troubles.begin(what, failure, "etcd %s (%s)", failure, what)
        self._notice_turn()

    def _write_to_log(self, event: OrderedEvent) -> None:
        match event:
            case CaughtUp():
                logger.info("learned what there is to know; this node judges sessions now")
            case Diverged(member):
                logger.error("member %s has read another log than this node up to the same position; this node loads it anew", member)
            case RolledBack(why):
                logger.error("%s; this node judges no sessions until an operator has decided, see the how-to on etcd", _SET_BACK[why])
            case MemberLeft(member):
                logger.warning("member %s has ended, or is silent and counts as gone", member)
            case MemberJoined() | MemberDraining():
                self._tell_member(event)


_SET_BACK: Mapping[Rollback, str] = {
    "position": "the log in etcd is at an earlier revision than this node has applied",
    "log": "the log in etcd is another one than this node has applied",
    "entries": "the log in etcd lacks log-outs that this node has applied and that have not ended",
}


def _halves(records: Mapping[bytes, bytes]) -> Iterable[dict[bytes, bytes]]:
    """Two parts of a batch that was rejected. What is longer than all others together is to blame, most likely, and goes alone."""
    items = sorted(records.items(), key=_length)
    middle = len(items) - 1 if 2 * _length(items[-1]) > sum(map(_length, items)) else len(items) // 2
    return dict(items[:middle]), dict(items[middle:])


def _length(record: tuple[bytes, bytes]) -> int:
    return len(record[0]) + len(record[1])
