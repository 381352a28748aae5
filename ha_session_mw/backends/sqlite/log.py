"""``sqlite:///path``: the log of one machine. Any number of processes share a file, and each looks into it on every request.

Nobody has to tell anybody: an entry that is on the disk is found by the next look of every process, so it is fenced as soon as
it is durable. A process that cannot look knows nothing for certain, and is as stale as can be.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import get_ident

import anyio
import anyio.to_thread
import msgspec

from ..._core.cluster.members import UNKNOWN_END_MARGIN_MS, Heartbeat
from ..._core.cluster.view import END_STEP_MS, FLOOR_MARGIN_MS, View
from ..._machine import forks
from ..._machine.shared_file import DATA_VERSION
from ..._machine.sqlite_file import OPEN_S, FileTrouble, trouble_of
from ...abc import Clock, ClusterLog, OnEvent, Receipt
from ...events import FoundQuorum, LostQuorum, PossibleLoss
from ...exceptions import ConfigurationError, QuorumLost
from ...models import Cut, Deny, DenyKey, Entry
from .entry_file import SURE_S, EntryFile, Row

logger = logging.getLogger("ha_session_mw.sqlite")

VERSION = 1
"""Of the entries' form. What cannot be read is never passed over: it may be a log-out."""

WATCH_S = 0.2
"""How often a process looks that gets no requests: its open connections end within a second of a log-out."""
TRY_AGAIN_S = 0.1
"""How often a file that cannot be used is tried: often enough for nobody to wait, and seldom enough to keep serving."""
WRITE_AGAIN_S = 1.0
WRITE_LIMIT_S = 2.0
"""How long a log-out waits for the disk; twice what one write waits for the other workers."""
PRUNE_EVERY_S = 60.0

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Deny | Cut | DenyKey).decode


class SqliteLog(ClusterLog):
    """One process's part of the log.

    Args:
        view: what this process knows.
        clock: the two clocks.
        own: the heartbeat's constant parts.
        path: of the file.
        on_event: told of troubles with the file.

    Raises:
        ConfigurationError: the file cannot be used, and will not be by itself.
    """

    def __init__(self, view: View, clock: Clock, own: Heartbeat, path: Path, *, on_event: OnEvent) -> None:
        self._view = view
        self._on_event = on_event
        self._clock = clock
        self._boot_s = clock.boot_s
        self._absolute_ms = own.absolute_ms
        self.freshness_limit_s = own.freshness_limit_s
        self.trusted_ahead_ms = math.nan
        self.poll_now = self._poll_now
        self._file = EntryFile(path)
        self._file_id: tuple[str, int, int] | None = None
        self._position = 0
        self._highest = 0  # a row's number that this process has seen in the file, or written itself
        self._version: tuple[int] | None = None
        self._reader: sqlite3.Connection | None = None
        self._sure_until_s = -math.inf
        self._try_again_s = -math.inf
        self._thread: int | None = None
        self.trouble: str | None = None
        """Why the file cannot be read; None where it can."""
        self.write_trouble: str | None = None
        """Why it cannot be written."""
        self._lost = False
        self._unwritten: list[Entry] = []
        self._asked = self._written = self._failed = 0  # how many entries in all, up to which one
        self._disk = anyio.Lock()
        # A thread of its own: those of the app may all be waiting for this very log.
        self._threads = anyio.CapacityLimiter(1)
        self._change = anyio.Event()
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        try:
            self._file.open(within_s=OPEN_S)
            self._read()
        except FileTrouble as trouble:
            if not trouble.passing:
                raise ConfigurationError([f"HA_SESSION_CLUSTER: the file {trouble}"]) from trouble
            self._lose(trouble)
        finally:
            # Opened again by whoever serves: this process may only be the one that others are forked from.
            self._let_go()

    # Reading

    def _poll_now(self) -> None:
        if self._reader is not None and self._boot_s() < self._sure_until_s:
            try:
                if self._reader.execute(DATA_VERSION).fetchone() == self._version:
                    return
            except sqlite3.Error as exc:
                self._lose(trouble_of(exc))
        self._look_closely()

    def _look_closely(self) -> None:
        """Find out whether the file is the one of its name, and what is new in it."""
        if self._thread is not None and self._thread != get_ident():
            return  # a handler in a thread; whatever it does is judged again on the way out
        now_s = self._boot_s()  # before the look, for it is sure as of now
        if now_s < self._try_again_s:
            return
        try:
            self._file.require_same()
            self._reader = self._file.open()
            version = self._file.version()  # before the rows, for there may be more by then
            if version != self._version:
                self._read()
                self._version = version
        except FileTrouble as trouble:
            self._lose(trouble)
            return
        self._sure_until_s = now_s + SURE_S
        self._view.fresh_at = math.inf
        if self.trouble is not None:
            logger.warning("the file of HA_SESSION_CLUSTER can be read again")
            self.trouble = None
            self._notice_turn()

    def _read(self) -> None:
        news = self._file.read(self._position)
        if self._file_id is not None and (news.file != self._file_id or news.last < self._highest):
            # What this process knows must not be lost because a file was, and what the other file holds counts as well.
            logger.error("the file of HA_SESSION_CLUSTER is another one, or an older one; what this process knows is written to it")
            self._owe([*self._view.entries()])
            self._on_event(PossibleLoss())
            news = self._file.read(0)
        self._file_id = news.file
        for row in news.rows:
            self._view.merge(self._entry_of(row))
            self._position = row.number
        self._position = self._highest = news.last
        self._view.raise_floor(news.floor_ms)
        # What was cut off before the file was made, on another log or in a file that was lost, cannot be in it.
        self._view.forgotten_cuts_end_ms = news.made_ms + self._absolute_ms + UNKNOWN_END_MARGIN_MS + 1000
        if news.rows:
            self._change.set()
            self._change = anyio.Event()

    def _entry_of(self, row: Row) -> Entry:
        if row.version == VERSION:
            try:
                entry: Entry = _decode(row.body)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                raise FileTrouble("is damaged") from None
            return entry
        raise FileTrouble("has entries of another release, in a form that this one cannot read; finish the roll-out")

    def _lose(self, trouble: FileTrouble) -> None:
        """Nothing can be told until the file can be read. What is enforced stays enforced."""
        self._view.fresh_at = -math.inf
        self._try_again_s = self._boot_s() + TRY_AGAIN_S
        self._let_go()
        if self.trouble != str(trouble):
            self.trouble = str(trouble)
            logger.error("the file of HA_SESSION_CLUSTER %s; no session can be judged until that is mended", trouble)
            self._notice_turn()

    def _let_go(self) -> None:
        self._sure_until_s = -math.inf
        self._version = self._reader = None
        self._file.close_reader()

    # Writing

    def apply(self, entries: Sequence[Entry]) -> None:
        self._merge(entries)
        self._owe(entries)

    def _merge(self, entries: Iterable[Entry]) -> None:
        self.tick()
        for entry in entries:
            self._view.merge(entry)

    def _owe(self, entries: Sequence[Entry]) -> None:
        self._unwritten += entries
        self._asked += len(entries)

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        self.apply(entries)
        position = self._asked
        await self._write(position)
        return Receipt(position, self._clock.boot_s())

    async def _write(self, upto: int) -> None:
        """Return when the disk has all entries up to this one. One write takes along whatever has come up meanwhile."""
        with self._clock.move_on_after(WRITE_LIMIT_S):
            async with self._disk:
                # Those who waited for a write that failed are told so at once; each by one of its own would take for ever.
                if self._written < upto and self._failed < upto:
                    await self._write_all()
        if self._written < upto:
            raise QuorumLost(f"the file {self.write_trouble or 'was not written in time'}")

    async def _write_all(self) -> None:
        taken, upto = [*self._unwritten], self._asked
        rows = [(VERSION, entry.until_ms, _encode(entry)) for entry in taken]
        try:
            number = await anyio.to_thread.run_sync(self._file.append, rows, abandon_on_cancel=True, limiter=self._threads)
        except FileTrouble as trouble:
            self._failed = upto
            if self.write_trouble != str(trouble):
                self.write_trouble = str(trouble)
                logger.error("the file of HA_SESSION_CLUSTER %s; log-outs count in this process only until that is mended", trouble)
                self._notice_turn()
            return
        self._highest = max(self._highest, number)
        del self._unwritten[: len(taken)]
        self._written = upto
        if self.write_trouble is not None:
            self.write_trouble = None
            logger.warning("the file of HA_SESSION_CLUSTER can be written again")
            self._notice_turn()

    def _notice_turn(self) -> None:
        lost = self.trouble is not None or self.write_trouble is not None
        if lost != self._lost:
            self._lost = lost
            self._on_event(LostQuorum() if lost else FoundQuorum())

    async def fence(self, receipt: Receipt) -> None:
        """What is in the file is found by the next look of each process, and each looks before it accepts anything."""

    # The rest

    async def wait_changed(self) -> None:
        await self._change.wait()

    def tick(self) -> None:
        self._view.raise_floor(self._wall_ms() - FLOOR_MARGIN_MS)

    def trusts_clock(self) -> bool:
        self.trusted_ahead_ms = (self._clock.wall_s() - self._clock.boot_s()) * 1000
        return True  # all processes have the same one

    def is_starting(self) -> bool:
        return self._file_id is None

    def members(self) -> Sequence[Heartbeat]:
        return ()

    def unknown_end_ms(self) -> int:
        return self._wall_ms() + self._absolute_ms + UNKNOWN_END_MARGIN_MS

    def why_not_ready(self) -> str | None:
        self._poll_now()
        trouble = self.trouble or self.write_trouble
        return f"the file of HA_SESSION_CLUSTER {trouble}" if trouble else None

    def _wall_ms(self) -> int:
        return int(self._clock.wall_s() * 1000)

    async def run(self) -> None:
        self._thread = get_ident()
        write_at_s = -math.inf
        prune_at_s = self._boot_s() + PRUNE_EVERY_S
        try:
            while True:
                self._poll_now()
                now_s = self._boot_s()
                if self._unwritten and now_s >= write_at_s:
                    write_at_s = now_s + WRITE_AGAIN_S
                    await self._write_what_is_left()
                if now_s >= prune_at_s:
                    prune_at_s = now_s + PRUNE_EVERY_S
                    await self._prune()
                with self._clock.move_on_after(WATCH_S):
                    await anyio.sleep_forever()
        finally:
            self._thread = None
            with anyio.move_on_after(5, shield=True):
                if self._unwritten:
                    await self._write_what_is_left()
            self._let_go()
            self._file.close()

    async def _write_what_is_left(self) -> None:
        self._failed = min(self._failed, self._asked - 1)  # it is tried again
        try:
            await self._write(self._asked)
        except QuorumLost:
            return  # and told

    async def _prune(self) -> None:
        """Delete what has ended. A floor up to there is kept in its place, whatever the clock says afterwards."""
        ended_ms = self._wall_ms() - FLOOR_MARGIN_MS - END_STEP_MS
        try:
            async with self._disk:
                await anyio.to_thread.run_sync(self._file.prune, ended_ms, limiter=self._threads)
        except FileTrouble as trouble:
            logger.warning("the file of HA_SESSION_CLUSTER %s; what has ended is deleted from it later", trouble)

    # Forks: the file closes itself, see there.

    def before_fork(self) -> None:
        self._sure_until_s = -math.inf
        self._version = self._reader = None

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._thread = None
            self._disk, self._threads, self._change = anyio.Lock(), anyio.CapacityLimiter(1), anyio.Event()
