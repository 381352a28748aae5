"""``memory://``: the log and the records of one process. Nothing survives a restart; it is the reference of how the others behave."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakSet

import anyio
import anyio.lowlevel

from ..._core.cluster.members import UNKNOWN_END_MARGIN_MS, Heartbeat
from ..._core.cluster.view import FLOOR_MARGIN_MS, View
from ...abc import (
    MAX_RECORD_BYTES,
    Backend,
    Clock,
    ClusterLog,
    Conflict,
    Grant,
    LockService,
    OnEvent,
    OnGap,
    OnNewer,
    PeerCalls,
    Receipt,
    Record,
    SessionStore,
    ignore,
)
from ...config import Settings
from ...exceptions import LockLost, StoreUnavailable
from ...models import Entry
from .locks import MemoryLocks

MAX_STORED_BYTES = 256 << 20
"""Of all records in memory, so that visitors cannot take all that the process has."""
PRUNE_EVERY_S = 60.0
RECORD_OVERHEAD_BYTES = 512
"""What a record takes besides its content, more or less."""


class MemoryBackend(Backend):
    """Each node has a log, records and locks of its own, for there is one."""

    scheme = "memory"
    takes_workers = False

    def __init__(self, settings: Settings) -> None:
        """There is nothing to set."""

    def open_log(self, view: View, clock: Clock, own: Heartbeat, peering: PeerCalls | None, *, on_event: OnEvent) -> ClusterLog:  # noqa: ARG002 - one process has no peers and no events
        return MemoryLog(view, clock, own)

    def open_locks(self, clock: Clock) -> LockService:
        return MemoryLocks(clock)

    def open_store(
        self,
        kind: str,  # noqa: ARG002 - each kind has records of its own
        clock: Clock,
        locks: LockService | None,
        *,
        on_newer: OnNewer,
        on_gap: OnGap,  # noqa: ARG002 - each change is heard at once
    ) -> SessionStore:
        records = MemoryRecords(clock)
        if isinstance(locks, MemoryLocks):
            records.require_held = locks.require
        return MemoryStore(records, on_newer=on_newer)


class MemoryLog(ClusterLog):
    """Whatever is acknowledged has been merged into the only view there is, so that view is always fresh."""

    def __init__(self, view: View, clock: Clock, own: Heartbeat) -> None:
        self._view = view
        self._clock = clock
        self._absolute_ms = own.absolute_ms
        self._position = 0
        self.freshness_limit_s = own.freshness_limit_s
        self.trusted_ahead_ms = math.nan
        view.fresh_at = math.inf
        view.forgotten_cuts_end_ms = math.inf  # unknown ones are those of an earlier process, and nobody can tell of them

    def apply(self, entries: Sequence[Entry]) -> None:
        self.tick()
        for entry in entries:
            self._view.merge(entry)

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        self.apply(entries)
        self._position += len(entries)
        return Receipt(self._position, self._clock.boot_s())

    async def fence(self, receipt: Receipt) -> None:
        """Nobody else is there to confirm anything."""

    async def wait_changed(self) -> None:
        """Nothing is on its way from anywhere."""

    def tick(self) -> None:
        self._view.raise_floor(self._wall_ms() - FLOOR_MARGIN_MS)

    def trusts_clock(self) -> bool:
        self.trusted_ahead_ms = (self._clock.wall_s() - self._clock.boot_s()) * 1000
        return True  # there is no other to compare with

    def is_starting(self) -> bool:
        return False

    def members(self) -> Sequence[Heartbeat]:
        return ()

    def unknown_end_ms(self) -> int:
        return self._wall_ms() + self._absolute_ms + UNKNOWN_END_MARGIN_MS

    def why_not_ready(self) -> str | None:
        return None

    def _wall_ms(self) -> int:
        return int(self._clock.wall_s() * 1000)


def _no_locks(grant: Grant) -> None:
    raise LockLost(f"nobody here could have granted a lock with the number {grant.fence}")


class MemoryRecords:
    """The records themselves, which the nodes of one process may share, as nodes of a cluster share their engine.

    Args:
        clock: for what has ended.
        max_stored_bytes: of all records together.

    Attributes:
        require_held: raises LockLost unless a lock is held still. To be set by whoever grants locks.
    """

    def __init__(self, clock: Clock, *, max_stored_bytes: int = MAX_STORED_BYTES) -> None:
        self.clock = clock
        self._max_stored_bytes = max_stored_bytes
        self._records: dict[str, Record] = {}
        self._bytes = 0
        # Sessions may name versions that an earlier process gave.
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
        self._make_room(_size(record) - (_size(current) if current else 0))
        self._remove(record.id)
        self._version += 1
        stored = self._records[record.id] = replace(record, version=self._version)
        self._bytes += _size(stored)
        self._tell(record.id, self._version)
        return stored

    def _make_room(self, wanted_bytes: int) -> None:
        if self._bytes + wanted_bytes > self._max_stored_bytes:
            self.prune()
        if self._bytes + wanted_bytes > self._max_stored_bytes:
            raise StoreUnavailable(f"the records in memory have {self._max_stored_bytes >> 20} MB already")

    def delete(self, id: str) -> None:
        if self._remove(id):
            self._tell(id, 0)

    def _remove(self, id: str) -> bool:
        removed = self._records.pop(id, None)
        if removed is not None:
            self._bytes -= _size(removed)
        return removed is not None

    def _tell(self, id: str, version: int) -> None:
        for store in self.stores:
            store.on_newer(id, version)

    def of_subject(self, subject: str, after: str, limit: int) -> Sequence[Record]:
        found = [record for record in self._records.values() if record.subject == subject and record.id > after]
        return sorted(found, key=lambda record: record.id)[:limit]

    def prune(self) -> None:
        """Forget what has ended."""
        now_ms = self.clock.wall_s() * 1000
        for id in [id for id, record in self._records.items() if record.until_ms <= now_ms]:
            self.delete(id)


def _size(record: Record) -> int:
    return len(record.content) + RECORD_OVERHEAD_BYTES


class MemoryStore(SessionStore):
    """One node's way to the records of this process.

    Args:
        records: which other nodes may share.
        on_newer: called with each change of them.
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
            with self._clock.move_on_after(PRUNE_EVERY_S):
                await anyio.sleep_forever()
