"""Follow the log in etcd: load all of it at one revision, then watch it. Load it again if the two do not fit together."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import anyio
import anyio.lowlevel

from ..._core.ordered.checkpoints import Uncovered
from ..._core.ordered.keys import LogId, encode_floor, encode_log
from ..._core.ordered.loading import PIECE, Loading
from ..._core.ordered.ready import EntryPut, Snapshot
from ...models import Deny
from .api import EtcdCompacted, EtcdError, EtcdRejected, EtcdSilent, Event, KeyValue, Watched, end_of, put, unchanged_since
from .bodies import SILENCE_S
from .checkpoints import CheckpointReader
from .gateway import PAGE_KEYS, SCAN_S
from .keys import Reading, UnreadableKey
from .process import AGAIN_S, Process, logger
from .ranges import Ranges

BEHIND_S = 0.6
"""Time within which the watch must deliver a change that etcd has written. Delivery takes milliseconds. A member of etcd that needs
longer is frozen or cut off."""

PATIENCE_MOST = 32
"""Most by which the limits of a watch grow. They double while no watch delivers anything, because the next change may be larger than any
before. One that deletes 50,000 keys takes etcd seconds, and it sends nothing meanwhile."""


class _LoadAgain(Exception):
    """The log must be loaded again."""


class Follower:
    """Delivers the log in etcd to the state machine.

    Args:
        process: what the tasks of this process share.

    Attributes:
        newest: the revision of the newest entry. Heartbeats do not count, so that no client has to wait for them.
        last: the newest of all keys read.
        uncovered: the denials that were read since the newest checkpoint.
    """

    def __init__(self, process: Process) -> None:
        self.newest = 0
        self._process = process
        self._ordered, self._gateway, self._keys = process.ordered, process.gateway, process.keys
        self.uncovered = Uncovered()
        self.last = KeyValue()
        self._written = 0  # the newest revision that etcd has confirmed to this process
        self._expected = anyio.Event()
        self._watching: anyio.CancelScope | None = None
        self._patience = 1

    async def follow_for_ever(self) -> None:
        """Load and watch the log; try again after each failure. Stop for good at a rollback."""
        troubles = self._process.troubles
        while not self._process.is_set_back:
            try:
                await (self.load() if self._ordered.needs_load else self._compare())
                with anyio.CancelScope() as self._watching:
                    await self._watch()
                self._gateway.leave_watched()
                troubles.failed("following", "has fallen behind")
                self._wait_longer()
                continue
            except _LoadAgain:
                continue
            except EtcdCompacted:
                logger.warning("etcd has compacted what this node has not read yet; the log is loaded anew")
                self._ordered.reload()
                self._process.wake()
            except UnreadableKey as exc:
                troubles.failed("following", str(exc))
                self._mistrust()
                if exc.entry is not None:
                    self._ordered.lose(exc.entry)
            except EtcdError as exc:
                if isinstance(exc, EtcdSilent):
                    self._wait_longer()
                if not (isinstance(exc, EtcdSilent) and self._ordered.stands_still):  # else nobody can write, and there is no news
                    troubles.failed("following", str(exc))
            await self._process.clock.sleep(AGAIN_S)
        await anyio.sleep_forever()

    # The watch.

    async def _watch(self) -> None:
        since, silence_s = self._ordered.position + 1, SILENCE_S * self._patience
        await self._gateway.watch(self._keys.start, self._keys.end, since, self._deliver_all, silence_s=silence_s)

    def _wait_longer(self) -> None:
        self._patience = min(2 * self._patience, PATIENCE_MOST)

    def expect(self, position: int) -> None:
        """Require the watch to deliver this position soon: etcd has confirmed a write there."""
        self._written = max(self._written, position)
        self._expected.set()

    async def mind_watch_for_ever(self) -> None:
        """End each watch that does not deliver a confirmed write: its member of etcd is frozen, or cut off from the others."""
        while True:
            while (written := self._written) <= self._ordered.position:
                self._expected = anyio.Event()
                await self._expected.wait()
            with self._process.clock.move_on_after(max(BEHIND_S * self._patience, self._gateway.try_limit_s)) as limit:
                while self._ordered.position < written:
                    await self._process.wait_changed()
            if limit.cancelled_caught and self._watching is not None:
                self._watching.cancel()

    def _deliver_all(self, message: Watched) -> None:
        """Take in one message of the watch: the changes of some revisions, complete and in order."""
        for revision, events in groupby(message.events, key=lambda event: event.kv.mod_revision):
            self._deliver(revision, [*events])
        if message.events:  # else it says only that the watch has begun
            self._patience = 1
        self._process.troubles.works("following")
        self._process.wake()
        if self._ordered.needs_load or self._process.is_set_back:
            raise _LoadAgain

    def _deliver(self, revision: int, events: list[Event]) -> None:
        items = self._keys.items(events)
        self._process.obey(self._ordered.delivered(revision, items, self._process.now()))
        for item in items:
            if isinstance(item, EntryPut):
                self.newest = revision
                if isinstance(item.entry, Deny):
                    self.uncovered.add(revision, item.entry)
        self.last = next((event.kv for event in events if not event.is_deletion), self.last)

    # Loading.

    async def load(self) -> None:
        """Load the whole log. Create its identity if there is none yet.

        Raises:
            EtcdError: etcd did not answer, or refused.
            UnreadableKey: a key or a value cannot be decoded.
        """
        if self._ordered.log is not None:
            # A later load must be fast, and sees whether the log lacks anything.
            loading = self._ordered.begin_load(0)
            reading = Reading(self._keys, loading.take)
            snapshot = reading.snapshot(await self._read_all(reading, 0))
        else:
            # A first load may bring many old replacements, which take less memory below the floor.
            floor_ms, revision = await self._read_floor()
            loading = self._ordered.begin_load(floor_ms)
            reading = Reading(self._keys, loading.take)
            snapshot = await self._read_checkpoint(reading, loading, revision)
            if snapshot is None:
                loading = self._ordered.begin_load(floor_ms)
                reading = Reading(self._keys, loading.take)
                snapshot = reading.snapshot(await self._read_all(reading, revision))
        if snapshot is None and self._ordered.log is None:
            await self._make_log()
            raise _LoadAgain
        # A log that this node has read and that is gone counts as replaced by another one.
        for _ in self._ordered.load(snapshot or Snapshot(0, LogId("", 0), (), (), 0), self._process.now, loading):
            await anyio.lowlevel.checkpoint()
        self.last, self.newest = reading.last, reading.newest
        self.uncovered.begin(self._ordered.position)
        self._process.troubles.works("following")
        self._process.obey(self._ordered.ready(self._process.now()))
        self._process.wake()

    async def _read_floor(self) -> tuple[int, int]:
        """Return the log's floor, and the revision as of which all is to be read."""
        page = await self._gateway.page(self._keys.floor, self._keys.floor + b"\0")
        return next((self._keys.floor_of(pair) for pair in page.kvs if pair.key == self._keys.floor), 0), page.header.revision

    async def _read_checkpoint(self, reading: Reading, loading: Loading, revision: int) -> Snapshot | None:
        """Read the denials from the checkpoint, and all else as of its position. Return None if there is none that can be used."""
        reader = CheckpointReader(self._process, revision)
        found = await reader.read(loading)
        if found is None:
            return None
        for start, end in ((self._keys.start, self._keys.denials), (end_of(self._keys.denials), self._keys.end)):
            await self._read_range(reading, start, end, found.position)
        snapshot = reading.snapshot(found.position)
        if snapshot is None or snapshot.log.id != found.log:
            return None
        loading.total = int.from_bytes(found.digest)
        reading.last, reading.newest = reader.newest, found.position
        return replace(snapshot, floor_ms=max(snapshot.floor_ms, found.floor_ms), newest=revision)

    async def _read_all(self, reading: Reading, revision: int) -> int:
        """Read all keys as of one revision, 0 for the current one, and return that revision."""
        return await self._read_range(reading, self._keys.start, self._keys.end, revision)

    async def _read_range(self, reading: Reading, start: bytes, end: bytes, revision: int) -> int:
        """Read the keys of a range, as :meth:`_read_all` does. Other tasks have their turns."""
        ranges = Ranges(start, end)
        while not ranges.done:
            page = await self._gateway.page(ranges.start, ranges.end, revision=revision, least_s=SCAN_S)
            revision = revision or page.header.revision
            ranges.read(page, PAGE_KEYS)
            for begin in range(0, len(page.kvs), PIECE):
                reading.take(page.kvs[begin : begin + PIECE])
                await anyio.lowlevel.checkpoint()
        return revision

    async def _make_log(self) -> None:
        """Create the log's identity, unless another process is faster. A floor may exist already, and must not fall."""
        log = LogId(self._ordered.slot.rpartition("/")[2], int(self._process.now().wall_ms))
        for key, value in ((self._keys.floor, encode_floor(0)), (self._keys.log, encode_log(log))):
            await self._gateway.transact([put(key, value)], compare=[unchanged_since(key, 0)])

    async def _compare(self) -> None:
        """Check that etcd still has the log that was read so far: the newest key read must exist as of its revision."""
        last = self.last
        if not last.mod_revision:
            return
        try:
            found = (await self._gateway.page(last.key, last.key + b"\0", revision=last.mod_revision)).kvs
        except EtcdRejected:  # there is no such revision yet
            found = ()
        if found != (last,):
            self._mistrust()
            raise _LoadAgain

    def _mistrust(self) -> None:
        self._ordered.quarantine()
        self._process.wake()
