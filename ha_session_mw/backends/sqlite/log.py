"""``sqlite:///path``: the log of one machine. Any number of processes share a file, and each polls it on every request.

An entry on the disk is found by the next poll of every process, so it is fenced as soon as it is durable. A process that cannot
poll is stale at once.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock, RLock, get_ident

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from ..._core.cluster.entries import decode_entries, encode_entry
from ..._core.cluster.members import UNKNOWN_END_MARGIN_MS, Heartbeat
from ..._core.cluster.view import END_STEP_MS, FLOOR_MARGIN_MS, View
from ..._machine import forks
from ..._machine.file_trouble import FileDamaged
from ..._machine.shared_file import DATA_VERSION, SURE_S
from ..._machine.sqlite_file import OPEN_S, WRITE_LIMIT_S, FileTrouble
from ..._machine.sqlite_trouble import LOST, trouble_of
from ..._machine.threads import PerLoop, one_thread
from ...abc import Clock, ClusterLog, OnEvent, Receipt
from ...events import FoundQuorum, LostQuorum, PossibleLoss
from ...exceptions import ConfigurationError, QuorumLost
from ...models import Cut, Entry, KeyId
from ...version import ENTRY
from ..common.own_clock import NOT_TRUSTED, OwnClock
from ..common.trouble import Troubles
from ..common.witness import Witness
from .entry_file import PAGE_ROWS, EntryFile, Rows
from .file_dates import FileDates
from .key_board import KeyBoard

logger = logging.getLogger("ha_session_mw.sqlite")

WATCH_S = 0.2
"""How often a process without requests polls the file: its open connections must end within a second of a log-out."""
TRY_AGAIN_S = 0.1
"""How often a file that cannot be read is tried. Each try may wait for a lock, and blocks the process meanwhile."""
WRITE_AGAIN_S = 1.0
"""How often entries that could not be written are tried again."""
PAGES_AT_ONCE = 4
"""Pages that are read in one step, which takes some 25 ms. After that, other tasks have their turns."""
PRUNE_EVERY_S = 60.0
"""How often ended entries are deleted: ends are whole minutes."""


_REMEDY = (
    "; stop all workers and restore a backup, or delete it: that loses all log-outs, so change HA_SESSION_SECRET_KEY too if they must hold"
)


class SqliteLog(ClusterLog):
    """One process's part of the log.

    Args:
        view: the entries that this process knows.
        clock: the two clocks.
        own: the heartbeat's constant parts.
        path: of the file.
        on_event: called when the file can no longer be used, and when it can again.

    Raises:
        ConfigurationError: the file cannot be used, and an operator must mend that.
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
        folder = path.with_name(path.name + "-keys")
        self._dates = FileDates(folder, clock)
        self._witness = Witness(path, clock, own.absolute_ms)
        self._is_compared = False
        self._own_clock = OwnClock(clock, seen_ms=self._dates.latest_ms)
        # Tokens from before the clock was set back are good once the clock has proved itself.
        view.latest_ms = max(view.latest_ms, min(self._dates.latest_ms, clock.wall_s() * 1000 + own.absolute_ms))
        self._keys = KeyBoard(folder, own.life, own.member, own.kids, clock)
        self._file_id: tuple[str, int, int] | None = None
        self._has_lost_part = False  # whether the file has lost its newest rows since this process has read them
        self._position = 0
        self._flood = anyio.Event()
        self._is_behind = False  # whether this process has yet to read rows that it knows of
        self._highest = 0  # the highest number of a row that this process has read or written
        self._reader: sqlite3.Connection | None = None
        self._sure_until_s = -math.inf
        self._try_again_s = -math.inf
        self._thread: int | None = None
        self._troubles = Troubles(logger)
        self._lost = False
        self._unwritten: dict[Entry, int] = {}
        """Each with the count at which it was last asked for. One that is appended again and again while the disk is full is there once."""
        self._asked = self._written = self._failed = 0  # counts of entries and confirmations since the start
        self._polling, self._counting = RLock(), Lock()  # threads may have event loops of their own
        self._disk = PerLoop(anyio.Lock)
        self._threads = one_thread()
        self._change = anyio.Event()
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        try:
            self._file.require_writable()
            self._file.open(within_s=OPEN_S)
            self._view.denied.expect(self._file.count())
            while not self._read_news():  # nobody is served yet
                pass
        except FileTrouble as trouble:
            if not trouble.passing:
                remedy = _REMEDY if isinstance(trouble, FileDamaged) else ""
                raise ConfigurationError([f"HA_SESSION_CLUSTER: the file {trouble}{remedy}"]) from trouble
            self._lose(trouble)
        finally:
            # Opened again when this process serves: it may only be the parent of those that do.
            self._let_go()

    # Reading

    def _poll_now(self) -> None:
        if self._boot_s() < self._sure_until_s:
            try:
                with self._file.reading:  # as in ``version``
                    reader = self._reader  # only now: another thread may have let it go
                    if reader is not None and reader.execute(DATA_VERSION).fetchone() == self._file.seen:
                        return
            except sqlite3.Error as exc:
                self._lose(trouble_of(exc))
        self._poll_file()

    def _poll_file(self) -> None:
        """Make sure that the file is the one of its name, and read its news."""
        if self._thread is not None and self._thread != get_ident():
            return  # a handler in a thread; the session is validated again when the response starts
        with self._polling:
            self._poll_file_in_turn()

    def _poll_file_in_turn(self) -> None:
        now_s = self._boot_s()  # before the check, which holds from now on
        if now_s < self._try_again_s:
            return
        try:
            self._file.read_news(self._read_news)
            self._reader = self._file.open()
        except FileTrouble as trouble:
            if str(trouble) == LOST and self._file_id is not None:
                self._has_lost_part = True
                self._witness.note(self._file_id[0], self._highest, now=True)  # no process may live until all is written again
            self._lose(trouble)
            return
        if self._is_behind:
            self._view.fresh_at = self._sure_until_s = -math.inf
            self._flood.set()
            return
        self._keys.sign()
        self._note()
        self._view.fresh_at = math.inf
        self._sure_until_s = now_s + SURE_S  # last: another thread may look meanwhile
        if self.trusts_clock():
            self._dates.touch()
        if self._troubles.end("reading", "the file of HA_SESSION_CLUSTER can be read again", level=logging.WARNING):
            self._report_quorum()

    def _read_news(self) -> bool:
        """Read the next rows; return whether those were all."""
        pages = 0
        while self._read_page() == PAGE_ROWS:
            if (pages := pages + 1) == PAGES_AT_ONCE:
                self._is_behind = True
                return False
        self._is_behind = False
        if not self._is_compared and self._file_id is not None:
            self._is_compared = True
            if self._witness.is_older(self._file_id[0], self._highest):
                self._witness.set_back(self._file_id[0], self._highest)
            if (exposed := self.exposure()) is not None:
                logger.error("%s", exposed)
                self._on_event(PossibleLoss())
        return True

    def _note(self, *, now: bool = False) -> None:
        # Until this process has written what it knows of a lost file, the note tells the next process of the loss.
        if self._file_id is not None and not self._unwritten:
            self._witness.note(self._file_id[0], self._highest, now=now)

    def _read_page(self) -> int:
        """Read the next rows; return how many there were."""
        highest = self._highest  # before the rows: another thread may write meanwhile
        news = self._file.read(self._position)
        if self._file_id is not None and (self._has_lost_part or news.file != self._file_id or news.last < highest):
            # This process's entries must outlive the loss of a file, and the entries of the other file count as well.
            logger.error("the file of HA_SESSION_CLUSTER is another one, or an older one; the entries of this process are written to it")
            self._has_lost_part = False
            self._owe([*self._view.entries()])
            self._on_event(PossibleLoss())
            news = self._file.read(0)
        self._file_id = news.file
        numbers = news.rows.numbers
        if numbers:
            self._view.merge_all(self._entries_of(news.rows))
            self._position = numbers[-1]
        if len(numbers) < PAGE_ROWS:
            self._position = news.last
        self._highest = news.last
        self._view.raise_floor(news.floor_ms)
        # A cut from before the file was made, on another log or in a lost file, cannot be in it.
        self._view.forgotten_cuts_end_ms = news.made_ms + self._absolute_ms + UNKNOWN_END_MARGIN_MS + 1000
        if numbers:
            self._change.set()
            self._change = anyio.Event()
        return len(numbers)

    def _entries_of(self, rows: Rows) -> list[Entry]:
        # An entry that cannot be read is never skipped: it may be a log-out.
        if any(version not in ENTRY.reads for version in {*rows.versions}):
            raise FileTrouble("has entries of another release, in a form that this one cannot read; finish the roll-out")
        try:
            entries = decode_entries(rows.bodies)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
            raise FileDamaged("is damaged") from None
        if [entry.until_ms for entry in entries] != [*rows.ends_ms]:  # it would be deleted too early
            raise FileDamaged("is damaged: the end of an entry is not what was written")
        return entries

    def _lose(self, trouble: FileTrouble) -> None:
        """Accept no session until the file can be read. Log-outs that are known stay enforced."""
        self._view.fresh_at = -math.inf
        self._is_behind = False
        self._try_again_s = self._boot_s() + TRY_AGAIN_S
        self._let_go()
        if isinstance(trouble, FileDamaged):
            self._file.close_idle_writer()  # else the next reason would be its lock
        line = "the file of HA_SESSION_CLUSTER %s; no session can be validated until that is mended"
        if self._troubles.begin("reading", str(trouble), line, trouble, level=logging.ERROR):
            self._report_quorum()

    def _let_go(self) -> None:
        self._sure_until_s = -math.inf
        self._reader = None
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
        with self._counting:
            self._asked += len(entries)
            self._unwritten.update(dict.fromkeys(entries, self._asked))

    async def confirm(self) -> None:
        """Write to the file, which is the only way to learn of a full disk, a lock or a file that was made read-only."""
        with self._counting:
            self._asked += 1  # any write that begins from now on answers
        await self._write(self._asked)

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        self.apply(entries)
        position = self._asked
        await self._write(position)
        return Receipt(position, self._clock.boot_s())

    async def _write(self, upto: int) -> None:
        """Return when the disk has all entries up to this one. One write takes all entries that wait, and answers all confirmations."""
        with self._clock.move_on_after(WRITE_LIMIT_S):
            async with self._disk.get():
                # A write that failed has failed for all that waited for it: a new try for each would take too long.
                if self._written < upto and self._failed < upto:
                    await self._write_all()
        if self._written < upto:
            raise QuorumLost(f"the file {self._troubles.current.get('writing', 'was not written in time')}")

    async def _write_all(self) -> None:
        with self._counting:
            taken, upto = [*self._unwritten], self._asked
        rows = [(ENTRY.writes, entry.until_ms, encode_entry(entry)) for entry in taken]
        try:
            number = await anyio.to_thread.run_sync(self._append, rows, abandon_on_cancel=True, limiter=self._threads.get())
        except FileTrouble as trouble:
            self._failed = max(self._failed, upto)
            line = "the file of HA_SESSION_CLUSTER %s; log-outs count in this process only until that is mended"
            if self._troubles.begin("writing", str(trouble), line, trouble, level=logging.ERROR):
                self._report_quorum()
            return
        with self._counting:  # another event loop may have written the same entries
            self._highest = max(self._highest, number)
            for entry in taken:
                if self._unwritten.get(entry, math.inf) <= upto:  # else it was asked for anew meanwhile, as after the loss of the file
                    del self._unwritten[entry]
            self._written = max(self._written, upto)
        if self._troubles.end("writing", "the file of HA_SESSION_CLUSTER can be written again", level=logging.WARNING):
            self._report_quorum()

    def _append(self, rows: list[tuple[int, int, bytes]]) -> int:
        return self._file.append(rows) if rows else self._file.try_to_append()

    def _report_quorum(self) -> None:
        lost = bool(self._troubles.current)
        if lost != self._lost:
            self._lost = lost
            self._on_event(LostQuorum() if lost else FoundQuorum())

    def may_lose(self, cut: Cut) -> bool:
        return cut in self._unwritten

    async def fence(self, receipt: Receipt) -> None:
        """Return at once: each process polls the file before it accepts anything."""

    # The state of this process

    async def wait_changed(self) -> None:
        await self._change.wait()

    def tick(self) -> None:
        wall_ms = self._wall_ms()  # before the verdict: a clock that is set in between vouches for nothing
        if self.trusts_clock():
            self._view.raise_floor(wall_ms - FLOOR_MARGIN_MS)

    def trusts_clock(self) -> bool:
        """Ask the boot-time clock: all processes of the machine have the same wall clock."""
        trusted = self._own_clock.is_trusted()
        self.trusted_ahead_ms = self._own_clock.ahead_ms
        if not trusted:  # until the next poll, which each request makes first
            self._view.fresh_at = self._sure_until_s = -math.inf
        return trusted

    def is_starting(self) -> bool:
        return self._file_id is None

    def members(self) -> Sequence[Heartbeat]:
        return ()

    def kids_of_others(self) -> Mapping[str, tuple[KeyId, ...]]:
        return self._keys.others()

    def announce(self, kids: tuple[KeyId, ...]) -> None:
        self._keys.announce(kids)

    def unknown_end_ms(self) -> int:
        return self._wall_ms() + self._absolute_ms + UNKNOWN_END_MARGIN_MS

    def why_not_ready(self) -> str | None:
        self._poll_now()
        trouble = self._troubles.current.get("reading")
        if trouble:
            return f"the file of HA_SESSION_CLUSTER {trouble}"
        if self._is_behind:
            return "still reading the file of HA_SESSION_CLUSTER"
        return None if self.trusts_clock() else NOT_TRUSTED

    def _wall_ms(self) -> int:
        return int(self._clock.wall_s() * 1000)

    async def run(self) -> None:
        self._thread = get_ident()
        write_at_s = -math.inf
        prune_at_s = self._boot_s() + PRUNE_EVERY_S
        try:
            while True:
                self._poll_now()
                if self._is_behind:
                    self._flood = anyio.Event()
                    await anyio.lowlevel.checkpoint()
                    continue
                now_s = self._boot_s()
                if self._asked > self._written and now_s >= write_at_s:
                    write_at_s = now_s + WRITE_AGAIN_S
                    await self._write_what_is_left()
                if now_s >= prune_at_s:
                    prune_at_s = now_s + PRUNE_EVERY_S
                    await self._prune()
                with self._clock.move_on_after(WATCH_S):
                    await self._flood.wait()  # a request has found more rows than it may read
        finally:
            self._thread = None
            with anyio.move_on_after(5, shield=True):
                if self._unwritten:
                    await self._write_what_is_left()
            self._let_go()
            self._file.close()
            self._note(now=True)
            self._keys.leave()

    async def _write_what_is_left(self) -> None:
        self._failed = min(self._failed, self._asked - 1)  # so that _write tries again
        try:
            await self._write(self._asked)
        except QuorumLost:
            return  # logged already

    async def _prune(self) -> None:
        """Delete ended entries. The file keeps their highest end as a floor, even if the clock goes back afterwards."""
        ended_ms = self._wall_ms() - FLOOR_MARGIN_MS - END_STEP_MS
        if not self.trusts_clock():
            return  # the floor in the file never falls
        try:
            async with self._disk.get():
                await anyio.to_thread.run_sync(self._file.prune, ended_ms, limiter=self._threads.get())
        except FileTrouble as trouble:
            logger.warning("the file of HA_SESSION_CLUSTER %s; ended entries are deleted from it later", trouble)

    def exposure(self) -> str | None:
        return self._witness.exposure(self._view)

    def position(self) -> int:
        return self._position

    def has_quorum(self) -> bool:
        return not self._lost

    def why_no_quorum(self) -> str:
        return f"the file of HA_SESSION_CLUSTER {self._troubles.current.get('writing', 'was not written yet')}"

    # Forks. The file closes itself.

    def before_fork(self) -> None:
        self._sure_until_s = -math.inf
        self._reader = None

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._keys.let_go()  # else it would hold the lock of its parent
            self._thread = None
            self._polling, self._counting = RLock(), Lock()
            self._disk, self._threads, self._change = PerLoop(anyio.Lock), one_thread(), anyio.Event()
            self._flood = anyio.Event()
