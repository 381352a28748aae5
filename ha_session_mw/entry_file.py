"""The file that the processes of one machine share: rows that are added, found by number, and deleted when they have ended.

It is SQLite's, with a write-ahead log: readers wait for nobody, a write is on the disk when it returns, and a crash at any
point leaves it whole. Two connections for each process: what is read on the way of a request must not wait for a write.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from . import forks

FORMAT = 1
"""Of the tables. The rows have versions of their own."""
APPLICATION_ID = 0x68735F31
"""Tells a file of ours from another program's (``hs_1``)."""

READ_BUSY_S = 0.05
"""How long a read waits for a lock. Only a file that somebody repairs or puts elsewhere is ever locked for readers."""
WRITE_BUSY_S = 1.0
"""How long a write waits for those of the other workers, each of which takes less than a millisecond on most disks."""
OPEN_S = 5.0
"""How long a process that starts waits for the one that makes the file, or for somebody else who has locked it."""

SURE_S = 0.1
"""How long a process may go on without looking whether its file is still the one of that name."""
NEW_FILE_S = 0.15
"""How long a new file is kept from everybody: until nobody can be sure any more of one that had its name before. Half as
long again as they may be, for clocks that drift."""

DATA_VERSION = "PRAGMA data_version"

_Work = Callable[[sqlite3.Connection], int]

_TABLES = (
    # Numbers are never used again, not even the highest one after its row was deleted: readers go on from where they were.
    "CREATE TABLE entries (number INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL, until_ms INTEGER NOT NULL, body BLOB)",
    "CREATE INDEX ends ON entries (until_ms)",
    "CREATE TABLE state (file TEXT NOT NULL, made_ms INTEGER NOT NULL, floor_ms INTEGER NOT NULL)",
)
_STATE = "SELECT file, made_ms, floor_ms, (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'entries') FROM state"


class Row(NamedTuple):
    """One entry as it is kept."""

    number: int
    version: int
    until_ms: int
    body: bytes


class News(NamedTuple):
    """What was added since somebody looked.

    Attributes:
        file: random text that the file was given when it was made.
        made_ms: when that was (wall clock).
        floor_ms: the highest end of any row that was deleted.
        last: the number of the last row that was ever added.
        rows: in their order.
    """

    file: str
    made_ms: int
    floor_ms: int
    last: int
    rows: list[Row]


class FileTrouble(Exception):
    """The file cannot be used.

    Attributes:
        passing: whether it may be over without anybody doing anything: it is locked, or the disk is full.
    """

    def __init__(self, what: str, *, passing: bool = False) -> None:
        super().__init__(what)
        self.passing = passing


_WHAT = {
    sqlite3.SQLITE_BUSY: "is locked by another program, or by one that copies it",
    sqlite3.SQLITE_LOCKED: "is locked by another program, or by one that copies it",
    sqlite3.SQLITE_FULL: "cannot be written: the disk is full",
    sqlite3.SQLITE_READONLY: "cannot be written: it is read-only, or its folder is",
    sqlite3.SQLITE_PERM: "cannot be opened: this user may not",
    sqlite3.SQLITE_AUTH: "cannot be opened: this user may not",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: its folder is missing, or this user may not write there",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is damaged, or is no database",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk fails",
}
_PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


def trouble_of(exc: sqlite3.Error | OSError) -> FileTrouble:
    """What a failure of the file means to an operator."""
    if isinstance(exc, OSError):
        return FileTrouble(f"cannot be opened: {exc.strerror}")
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the rest of it tells details
    # A closed connection has no code: the process has just forked, or is ending.
    return FileTrouble(_WHAT.get(code, f"cannot be used: {exc}"), passing=code in _PASSING or not code)


class EntryFile:
    """One process's way to the file. Opened when it is first used, and again after a fork or a fault.

    ``append`` and ``prune`` wait for the disk: call them in a worker thread. All else belongs to the thread of the event
    loop. Each method raises FileTrouble.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._writer_inode: tuple[int, int] | None = None
        self._writing = Lock()
        forks.watch(self)

    # Reading

    def open(self, *, within_s: float = 0.0) -> sqlite3.Connection:
        """The reading connection. Makes the file where there is none."""
        if self._reader is None:
            reader = _connected(self.path, READ_BUSY_S, within_s)
            self._inode = _inode_of(self.path)
            self._reader = reader
        return self._reader

    def require_same(self) -> None:
        """Raise unless the file that is open is still the one of its name."""
        if self._inode is not None and _inode_of(self.path) != self._inode:
            raise FileTrouble("was deleted or replaced while it was in use")

    def version(self) -> tuple[int]:
        """What differs whenever another connection has written."""
        try:
            found: tuple[int] = self.open().execute(DATA_VERSION).fetchone()
        except sqlite3.Error as exc:
            raise trouble_of(exc) from exc
        return found

    def read(self, since: int) -> News:
        """The rows after a number."""
        reader = self.open()
        try:
            reader.execute("BEGIN")  # one state of the file for both questions
            try:
                state = reader.execute(_STATE).fetchone()
                rows = reader.execute("SELECT number, version, until_ms, body FROM entries WHERE number > ? ORDER BY number", (since,))
                found = [Row(*row) for row in rows]
            finally:
                reader.execute("COMMIT")
        except sqlite3.Error as exc:
            raise trouble_of(exc) from exc
        if state is None:
            raise FileTrouble("is damaged")
        file, made_ms, floor_ms, last = state
        return News(file, made_ms, floor_ms, last, found)

    def close_reader(self) -> None:
        """Let the reading connection go; the next read opens one."""
        reader, self._reader, self._inode = self._reader, None, None
        if reader is not None:
            reader.close()

    # Writing

    def append(self, rows: Sequence[tuple[int, int, bytes]]) -> int:
        """Add rows (version, end, body); returns the last one's number once the disk has them all, or none of them."""
        return self._write(lambda db: _insert(db, rows))

    def prune(self, ended_ms: int) -> int:
        """Delete the rows that ended at a moment or before, and note up to which end that was; returns how many."""
        return self._write(lambda db: _delete_ended(db, ended_ms))

    def _write(self, work: _Work) -> int:
        if not self._writing.acquire(timeout=WRITE_BUSY_S):
            raise FileTrouble("cannot be written: the disk does not answer", passing=True)
        try:
            if self._writer is None or _inode_of(self.path) != self._writer_inode:
                self._close_writer()
                self._writer = _connected(self.path, WRITE_BUSY_S, 0.0)
                self._writer_inode = _inode_of(self.path)
            done = _in_transaction(self._writer, work)
            if _inode_of(self.path) != self._writer_inode:
                raise FileTrouble("was deleted or replaced while it was in use")
        except sqlite3.Error as exc:
            self._close_writer()
            raise trouble_of(exc) from exc
        finally:
            self._writing.release()
        return done

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def close(self) -> None:
        """Let the file go. The next call opens it again."""
        self.close_reader()
        if self._writing.acquire(timeout=WRITE_BUSY_S):
            try:
                self._close_writer()
            finally:
                self._writing.release()

    # Forks. A connection that is open while the process forks is of no use to either, and SQLite could not tell.

    def before_fork(self) -> None:
        self._writing.acquire()
        self._close_writer()
        self.close_reader()

    def after_fork(self, *, in_child: bool) -> None:  # noqa: ARG002 - both begin anew
        self._writing.release()

    def __del__(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()


def _inode_of(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - the shortest way
    except FileNotFoundError:
        raise FileTrouble("was deleted or replaced while it was in use") from None
    except OSError as exc:
        raise trouble_of(exc) from exc
    return found.st_dev, found.st_ino


def _connected(path: Path, busy_s: float, within_s: float) -> sqlite3.Connection:
    """A connection to a file that has our tables.

    Several processes may be about to make it. SQLite does not always wait for the one that is first, so this does.
    """
    end_s = time.monotonic() + within_s
    while True:
        try:
            return _connect(path, busy_s)
        except FileTrouble as trouble:
            if not trouble.passing or time.monotonic() >= end_s:
                raise
        time.sleep(0.01)


def _connect(path: Path, busy_s: float) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_private(path)
        db = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
        try:
            _prepare(db)
        except BaseException:
            db.close()
            raise
    except (sqlite3.Error, OSError) as exc:
        raise trouble_of(exc) from exc
    return db


def _make_private(path: Path) -> None:
    """It names subjects and sessions, so it is for its owner alone."""
    try:
        # Closing a file lets go of all locks that the process has on it: so only one that nobody has opened is closed here.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return


def _prepare(db: sqlite3.Connection) -> None:
    if not _is_ours(db):
        _make_tables(db)
    if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise FileTrouble("cannot have a write-ahead log there: put it on a local disk")
    db.execute("PRAGMA synchronous = FULL")  # a write-ahead log is not synced at each commit otherwise


def _is_ours(db: sqlite3.Connection) -> bool:
    """Whether the tables are there; not so in a file that was just made."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (format,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (application, format, tables) == (0, 0, 0):
        return False
    if application != APPLICATION_ID:
        raise FileTrouble("is the database of another program")
    if format != FORMAT:
        raise FileTrouble("was written by another release, in a form that this one cannot read")
    return True


def _make_tables(db: sqlite3.Connection) -> None:
    db.execute("BEGIN EXCLUSIVE")
    try:
        if not _is_ours(db):  # nobody was faster
            for table in _TABLES:
                db.execute(table)
            db.execute("INSERT INTO state VALUES (?, ?, 0)", (secrets.token_urlsafe(16), time.time_ns() // 1_000_000))
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {FORMAT}")
            time.sleep(NEW_FILE_S)
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _in_transaction(db: sqlite3.Connection, work: _Work) -> int:
    db.execute("BEGIN IMMEDIATE")
    try:
        done = work(db)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return done


def _insert(db: sqlite3.Connection, rows: Sequence[tuple[int, int, bytes]]) -> int:
    number = 0
    for row in rows:
        number = db.execute("INSERT INTO entries (version, until_ms, body) VALUES (?, ?, ?)", row).lastrowid or 0
    return number


def _delete_ended(db: sqlite3.Connection, ended_ms: int) -> int:
    (highest_ms,) = db.execute("SELECT max(until_ms) FROM entries WHERE until_ms <= ?", (ended_ms,)).fetchone()
    if highest_ms is None:
        return 0
    db.execute("UPDATE state SET floor_ms = max(floor_ms, ?)", (highest_ms,))
    return db.execute("DELETE FROM entries WHERE until_ms <= ?", (ended_ms,)).rowcount
