"""``sqlite:///path``: the records of one machine, in a file beside the log's. A read takes microseconds, a write waits for the disk."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

import anyio
import anyio.lowlevel
from msgspec.structs import replace

from ..._machine import forks
from ..._machine.file_trouble import FileDamaged
from ..._machine.shared_file import SURE_S
from ..._machine.sqlite_file import OPEN_S, FileTrouble, Work
from ..._machine.threads import PerLoop
from ...abc import MAX_RECORD_BYTES, Clock, Grant, OnNewer, Record, SessionStore, ignore
from ...exceptions import ConfigurationError, StoreUnavailable
from ..common.trouble import Troubles
from .record_file import RecordFile
from .shared_writes import SharedWrites

logger = logging.getLogger("ha_session_mw.sqlite")

TRY_AGAIN_S = 0.1
"""How often a file that cannot be read is tried. Each try may wait for a lock, and blocks the process meanwhile."""
LOOK_EVERY_S = 1.0
"""How often a process polls the file while it gets no requests."""
PRUNE_EVERY = 60
"""After how many of these polls ended records are deleted."""

T = TypeVar("T")

_REMEDY = "; stop all workers and restore a backup, or delete it: that loses all session data in it"


class SqliteStore(SessionStore):
    """One process's access to the records of one kind.

    Args:
        clock: the two clocks.
        file: which other processes share.
        kind: keeps these records apart from others in the same file.
        on_newer: called with each change of them.

    Raises:
        ConfigurationError: the file cannot be used, and an operator must mend that.
    """

    def __init__(self, clock: Clock, file: RecordFile, kind: str, *, on_newer: OnNewer = ignore) -> None:
        self.max_bytes = MAX_RECORD_BYTES
        self.poll_now = self._poll_now
        self._clock = clock
        self._file = file
        self._kind = kind
        self._on_newer = on_newer
        self._position = 0
        self._try_again_s = self._sure_until_s = -math.inf
        self._is_damaged = False
        self._writes = PerLoop(partial(SharedWrites, file, clock))
        self._troubles = Troubles(logger)
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        try:
            self._file.require_writable()
            self._file.open(within_s=OPEN_S)
            self._position = self._file.last_version()
        except FileTrouble as trouble:
            if not trouble.passing:
                remedy = _REMEDY if isinstance(trouble, FileDamaged) else ""
                raise ConfigurationError([f"HA_SESSION_CLUSTER: the file of the records {trouble}{remedy}"]) from trouble
            self._lose(trouble)
        finally:
            self._file.close_reader()  # opened again when this process serves

    # Reading

    def _poll_now(self) -> None:
        now_s = self._clock.boot_s()
        if now_s < self._try_again_s:
            return
        is_sure = now_s < self._sure_until_s
        try:
            self._file.read_news(self._hear, is_same=is_sure)
        except FileTrouble as trouble:
            self._lose(trouble)
            return
        if not is_sure:
            self._sure_until_s = now_s + SURE_S
            if not self._is_damaged:  # such a file can be read in part
                self._end_loss()

    def _hear(self) -> bool:
        for change in self._file.since(self._kind, self._position):
            self._position = change.version
            self._on_newer(change.id, 0 if change.deleted else change.version)
        return True

    async def get(self, id: str) -> Record | None:
        await anyio.lowlevel.checkpoint()
        return self._found(lambda: self._file.get(self._kind, id))

    async def of_subject(self, subject: str, *, after: str = "", limit: int = 100) -> Sequence[Record]:
        await anyio.lowlevel.checkpoint()
        return self._found(lambda: self._file.of_subject(self._kind, subject, after, limit))

    def _found(self, read: Callable[[], T]) -> T:
        if self._clock.boot_s() < self._try_again_s:
            raise StoreUnavailable(f"the file of the records {self._troubles.current.get('reading')}")
        try:
            self._file.require_same()
            found = read()
        except FileTrouble as trouble:
            self._lose(trouble)
            raise StoreUnavailable(f"the file of the records {trouble}") from trouble
        self._end_loss()
        return found

    def _end_loss(self) -> None:
        self._is_damaged = False
        self._troubles.end("reading", "the file of the records can be read again", level=logging.WARNING)

    def _lose(self, trouble: FileTrouble) -> None:
        self._try_again_s = self._clock.boot_s() + TRY_AGAIN_S
        self._file.close_reader()
        self._is_damaged = isinstance(trouble, FileDamaged)
        if self._is_damaged:
            self._file.close_idle_writer()  # else the next reason would be its lock
        line = "the file of the records %s; session data in it cannot be reached until that is mended"
        self._troubles.begin("reading", str(trouble), line, trouble, level=logging.ERROR)

    # Writing

    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        record.require_length(self.max_bytes)
        version = await self._written(self._file.put(self._kind, record, guard, self._clock.boot_s))
        return replace(record, version=version)

    async def delete(self, id: str) -> None:
        await self._written(self._file.delete(self._kind, id))

    async def delete_all(self, ids: Collection[str]) -> None:
        deletions = [self._file.delete(self._kind, id) for id in ids]
        await self._written(lambda db: max((delete(db) for delete in deletions), default=0))

    async def _written(self, work: Work[int]) -> int:
        try:
            version = await self._writes.get().carry_out(work)
        except FileTrouble as trouble:
            line = "the file of the records %s; session data in it cannot be changed until that is mended"
            self._troubles.begin("writing", str(trouble), line, trouble, level=logging.ERROR)
            raise StoreUnavailable(f"the file of the records {trouble}") from trouble
        self._troubles.end("writing", "the file of the records can be written again", level=logging.WARNING)
        return version

    def trouble(self) -> str | None:
        what = self._troubles.current
        return f"the file of the records {what.get('reading') or what['writing']}" if what else None

    async def run(self) -> None:
        try:
            while True:
                for _ in range(PRUNE_EVERY):
                    await self._clock.sleep(LOOK_EVERY_S)
                    self._poll_now()  # so that a request never has much to catch up with
                await self._prune()
        finally:
            self._file.close_reader()
            self._file.close()

    async def _prune(self) -> None:
        ended_ms = int(self._clock.wall_s() * 1000)
        try:
            await self._written(self._file.prune(ended_ms))
        except StoreUnavailable:
            return  # logged already; ended records are deleted later

    # Forks. The file closes itself.

    def before_fork(self) -> None:
        """Do nothing."""

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._writes = PerLoop(partial(SharedWrites, self._file, self._clock))
