"""``memory://``: the records of one process, and the reference for the other backends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from weakref import WeakSet

import anyio
import anyio.lowlevel
from msgspec.structs import replace

from ...abc import MAX_RECORD_BYTES, Clock, Conflict, Grant, OnNewer, Record, SessionStore, ignore
from ...exceptions import LockLost, StoreUnavailable

MAX_STORED_BYTES = 256 << 20
"""Limit for all records in memory together: visitors must not be able to fill the memory of the process."""
MAX_VISITORS_BYTES = 64 << 20
"""Limit for the session records of visitors, within that for all: requests without a log-in must not take the room of users."""
PRUNE_EVERY_S = 1.0
"""How often ended records are deleted, ``PRUNED_AT_ONCE`` at most."""
PRUNED_AT_ONCE = 2000
"""How many ends are looked at in one step, which takes some milliseconds. A record that was changed often has several."""
END_STEP_MS = 60_000
"""The ends of records are grouped by minutes, so that no step goes through the records that have not ended."""
RECORD_OVERHEAD_BYTES = 512
"""Rough size of a record without its content."""


def _no_locks(grant: Grant) -> None:
    raise LockLost(f"no lock service of this process could have granted number {grant.fence}")


class MemoryRecords:
    """The records of a process. Several nodes of the process may share them, as the nodes of a cluster share an engine.

    Args:
        clock: says which records have ended.
        max_stored_bytes: limit for all records together.
        max_visitors_bytes: limit for the records without a subject, whose oldest ones make room for all others; None if those are
            no visitors' records.

    Attributes:
        require_held: raises LockLost unless a lock is still held. The owner of the lock service sets it.
    """

    def __init__(self, clock: Clock, *, max_stored_bytes: int = MAX_STORED_BYTES, max_visitors_bytes: int | None = None) -> None:
        self.clock = clock
        self._max_stored_bytes = max_stored_bytes
        self._max_visitors_bytes = max_visitors_bytes
        self._records: dict[str, Record] = {}
        self._bytes = 0
        self._ending: dict[int, list[str]] = {}
        """The ids of records that end within each minute. One that has been extended since, or deleted, is there all the same."""
        self._minutes: list[int] = []
        """A heap of those minutes."""
        self._visitors: OrderedDict[str, None] = OrderedDict()
        """The ids of visitors' records, the one longest unchanged first. A plain dict finds its first more slowly with each deletion."""
        self._visitors_bytes = 0
        # Sessions may name versions that an earlier process has given.
        self._version = int(clock.wall_s() * 1_000_000)
        self.stores: WeakSet[MemoryStore] = WeakSet()
        self.require_held: Callable[[Grant], None] = _no_locks

    def get(self, id: str) -> Record | None:
        return self._records.get(id)

    def put(self, record: Record, guard: Grant | None) -> Record:
        if guard is not None:
            self.require_held(guard)
        current = self._records.get(record.id)
        if (current.version if current else 0) != record.version:
            raise Conflict(current)
        self._make_room(record, _size(record) - (_size(current) if current else 0))
        self._remove(record.id)
        self._version += 1
        stored = self._records[record.id] = replace(record, version=self._version)
        self._bytes += _size(stored)
        if current is None or current.until_ms != stored.until_ms:
            self._note_end(stored)
        if self._is_visitors(stored):
            self._visitors[stored.id] = None
            self._visitors_bytes += _size(stored)
        self._tell(record.id, self._version)
        return stored

    def _is_visitors(self, record: Record) -> bool:
        return self._max_visitors_bytes is not None and record.subject is None

    def _make_room(self, record: Record, wanted_bytes: int) -> None:
        if self._is_visitors(record) and self._max_visitors_bytes is not None:
            while self._visitors_bytes + wanted_bytes > self._max_visitors_bytes and self._drop_visitor(record.id):
                pass
        while self._bytes + wanted_bytes > self._max_stored_bytes and self.prune():
            pass
        while self._bytes + wanted_bytes > self._max_stored_bytes and self._drop_visitor(record.id):
            pass
        if self._bytes + wanted_bytes > self._max_stored_bytes:
            raise StoreUnavailable(f"the records in memory have {self._max_stored_bytes >> 20} MB already")

    def _drop_visitor(self, but: str) -> bool:
        """Delete the visitor's record that was longest unchanged, except one; return whether there was any."""
        oldest = next((id for id in self._visitors if id != but), None)
        if oldest is not None:
            self.delete(oldest)
        return oldest is not None

    def delete(self, id: str) -> None:
        if self._remove(id):
            self._tell(id, 0)

    def _remove(self, id: str) -> bool:
        removed = self._records.pop(id, None)
        if removed is not None:
            self._bytes -= _size(removed)
            if id in self._visitors:
                del self._visitors[id]
                self._visitors_bytes -= _size(removed)
        return removed is not None

    def _tell(self, id: str, version: int) -> None:
        for store in self.stores:
            store.on_newer(id, version)

    def of_subject(self, subject: str, after: str, limit: int) -> Sequence[Record]:
        found = [record for record in self._records.values() if record.subject == subject and record.id > after]
        return sorted(found, key=lambda record: record.id)[:limit]

    def _note_end(self, record: Record) -> None:
        minute = -(-record.until_ms // END_STEP_MS)
        if minute not in self._ending:
            self._ending[minute] = []
            heappush(self._minutes, minute)
        self._ending[minute].append(record.id)

    def prune(self) -> bool:
        """Delete some of the records that ended up to a minute ago; return whether there may be more of them."""
        now_ms = self.clock.wall_s() * 1000
        left = PRUNED_AT_ONCE
        while left and self._minutes and self._minutes[0] * END_STEP_MS <= now_ms:
            minute = self._minutes[0]
            some = self._ending[minute][-left:]
            del self._ending[minute][-left:]
            left -= len(some)
            for id in some:
                if (record := self._records.get(id)) is not None and record.until_ms <= minute * END_STEP_MS:
                    self.delete(id)
            if not self._ending[minute]:
                del self._ending[heappop(self._minutes)]
        return not left


def _size(record: Record) -> int:
    return len(record.content) + RECORD_OVERHEAD_BYTES


class MemoryStore(SessionStore):
    """One node's access to the records of its process.

    Args:
        records: of the process; other nodes may share them.
        on_newer: called with each change.
    """

    def __init__(self, records: MemoryRecords, *, on_newer: OnNewer = ignore) -> None:
        self._records = records
        self.on_newer = on_newer
        self._clock = records.clock
        self.max_bytes = MAX_RECORD_BYTES
        records.stores.add(self)

    async def get(self, id: str) -> Record | None:
        await anyio.lowlevel.checkpoint()
        return self._records.get(id)

    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        record.require_length(self.max_bytes)
        await anyio.lowlevel.checkpoint()
        return self._records.put(record, guard)

    async def delete(self, id: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._records.delete(id)

    async def of_subject(self, subject: str, *, after: str = "", limit: int = 100) -> Sequence[Record]:
        await anyio.lowlevel.checkpoint()
        return self._records.of_subject(subject, after, limit)

    async def run(self) -> None:
        while True:
            self._records.prune()
            await self._clock.sleep(PRUNE_EVERY_S)
