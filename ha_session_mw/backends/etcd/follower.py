"""Follow the log in etcd: load all of it at one revision, then watch it. Load it again if the two do not fit together."""

from __future__ import annotations

from itertools import groupby

import anyio
import anyio.lowlevel

from ..._core.ordered.keys import LogId, encode_floor, encode_log
from ..._core.ordered.loading import PIECE
from ..._core.ordered.ready import EntryPut, Snapshot
from .api import EtcdCompacted, EtcdError, EtcdRejected, EtcdSilent, Event, KeyValue, Watched, put, unchanged_since
from .gateway import PAGE_KEYS, SCAN_S
from .keys import Reading, UnreadableKey
from .process import AGAIN_S, Process, logger
from .ranges import Ranges

BEHIND_S = 0.6
"""Time within which the watch must deliver a change that etcd has written. Delivery takes milliseconds. A member of etcd that needs
longer is frozen or cut off."""


class _LoadAgain(Exception):
    """The log must be loaded again."""


class Follower:
    """Delivers the log in etcd to the state machine.

    Args:
        process: what the tasks of this process share.

    Attributes:
        newest: the revision of the newest entry. Heartbeats do not count, so that no client has to wait for them.
    """

    def __init__(self, process: Process) -> None:
        self.newest = 0
        self._process = process
        self._ordered, self._gateway, self._keys = process.ordered, process.gateway, process.keys
        self._last = KeyValue()  # the newest of all keys read
        self._written = 0  # the newest revision that etcd has confirmed to this process
        self._watching: anyio.CancelScope | None = None

    async def follow_for_ever(self) -> None:
        """Load and watch the log; try again after each failure. Stop for good at a rollback."""
        troubles = self._process.troubles
        while not self._process.is_set_back:
            try:
                await (self.load() if self._ordered.needs_load else self._compare())
                with anyio.CancelScope() as self._watching:
                    await self._gateway.watch(self._keys.start, self._keys.end, self._ordered.position + 1, self._deliver_all)
                self._gateway.leave_watched()
                troubles.failed("following", "has fallen behind")
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
                if not (isinstance(exc, EtcdSilent) and self._ordered.stands_still):  # else nobody can write, and there is no news
                    troubles.failed("following", str(exc))
            with self._process.clock.move_on_after(AGAIN_S):
                await anyio.sleep_forever()
        await anyio.sleep_forever()

    # The watch.

    def expect(self, position: int) -> None:
        """Require the watch to deliver this position soon: etcd has confirmed a write there."""
        self._written = max(self._written, position)
        self._process.wake()

    async def mind_watch_for_ever(self) -> None:
        """End each watch that does not deliver a confirmed write: its member of etcd is frozen, or cut off from the others."""
        while True:
            while (written := self._written) <= self._ordered.position:
                await self._process.wait_changed()
            with self._process.clock.move_on_after(max(BEHIND_S, self._gateway.try_limit_s)) as limit:
                while self._ordered.position < written:
                    await self._process.wait_changed()
            if limit.cancelled_caught and self._watching is not None:
                self._watching.cancel()

    def _deliver_all(self, message: Watched) -> None:
        """Take in one message of the watch: the changes of some revisions, complete and in order."""
        for revision, events in groupby(message.events, key=lambda event: event.kv.mod_revision):
            self._deliver(revision, [*events])
        self._process.troubles.works("following")
        self._process.wake()
        if self._ordered.needs_load or self._process.is_set_back:
            raise _LoadAgain

    def _deliver(self, revision: int, events: list[Event]) -> None:
        items = [item for event in events if (item := self._keys.item(event)) is not None]
        self._process.obey(self._ordered.delivered(revision, items, self._process.now()))
        if any(isinstance(item, EntryPut) for item in items):
            self.newest = revision
        self._last = next((event.kv for event in events if not event.is_deletion), self._last)

    # Loading.

    async def load(self) -> None:
        """Load the whole log. Create its identity if there is none yet.

        Raises:
            EtcdError: etcd did not answer, or refused.
            UnreadableKey: a key or a value cannot be decoded.
        """
        # A first load may bring many old replacements, which take less memory below the floor. A later one must be fast.
        floor_ms, revision = await self._read_floor() if self._ordered.log is None else (0, 0)
        loading = self._ordered.begin_load(floor_ms)
        reading = Reading(self._keys, loading.take)
        position = await self._read_all(reading, revision)
        snapshot = reading.snapshot(position)
        if snapshot is None and self._ordered.log is None:
            await self._make_log()
            raise _LoadAgain
        # A log that this node has read and that is gone counts as replaced by another one.
        for _ in self._ordered.load(snapshot or Snapshot(position, LogId("", 0), (), (), 0), self._process.now, loading):
            await anyio.lowlevel.checkpoint()
        self._last, self.newest = reading.last, reading.newest
        self._process.troubles.works("following")
        self._process.obey(self._ordered.ready(self._process.now()))
        self._process.wake()

    async def _read_floor(self) -> tuple[int, int]:
        """Return the log's floor, and the revision as of which all is to be read."""
        page = await self._gateway.page(self._keys.floor, self._keys.floor + b"\0")
        return next((self._keys.floor_of(pair) for pair in page.kvs if pair.key == self._keys.floor), 0), page.header.revision

    async def _read_all(self, reading: Reading, revision: int) -> int:
        """Read all keys as of one revision, 0 for the current one, and return that revision. Other tasks have their turns."""
        ranges = Ranges(self._keys.start, self._keys.end)
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

    def _mistrust(self) -> None:
        self._ordered.quarantine()
        self._process.wake()
