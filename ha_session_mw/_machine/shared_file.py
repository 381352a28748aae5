"""A file that the processes of one machine share: how it is opened, kept private, and given up when it cannot be used.

It is SQLite's, with a write-ahead log: readers wait for nobody, a write is on the disk when it returns, and a crash at any
point leaves it whole. Two connections for each process: what is read on the way of a request must not wait for a write.
What stands in it, those know who inherit from :class:`SharedFile`.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeVar

from . import forks
from .self_closing import SelfClosing

READ_BUSY_S = 0.05
"""How long a read waits for a lock. Only a file that somebody repairs or puts elsewhere is ever locked for readers."""
WRITE_BUSY_S = 1.0
"""How long a write waits for those of the other workers, each of which takes less than a millisecond on most disks."""
OPEN_S = 5.0
"""How long a process that starts waits for the one that makes the file, or for somebody else who has locked it."""

DATA_VERSION = "PRAGMA data_version"

T = TypeVar("T")
_Work = Callable[[sqlite3.Connection], T]
_Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Schema:
    """What stands in a file.

    Attributes:
        application_id: tells a file of ours from another program's.
        format: of the tables. The rows have versions of their own.
        make: makes the tables in an empty file.
    """

    application_id: int
    format: int
    make: Callable[[sqlite3.Connection], None]


class FileTrouble(Exception):
    """The file cannot be used.

    Attributes:
        passing: whether it may be over without anybody doing anything: it is locked, or replaced, or the disk is full.
    """

    def __init__(self, what: str, *, passing: bool = False) -> None:
        super().__init__(what)
        self.passing = passing


_WHAT = {
    sqlite3.SQLITE_BUSY: "is locked by another program, or by one that copies it",
    sqlite3.SQLITE_LOCKED: "is locked by another program, or by one that copies it",
    sqlite3.SQLITE_PROTOCOL: "is locked by another program, or by one that copies it",
    sqlite3.SQLITE_FULL: "cannot be written: the disk is full",
    sqlite3.SQLITE_READONLY: "cannot be written: it is read-only, or its folder is",
    sqlite3.SQLITE_PERM: "cannot be opened: this user may not",
    sqlite3.SQLITE_AUTH: "cannot be opened: this user may not",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: its folder is missing, or this user may not write there",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is damaged, or is no database",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk fails",
}
_PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
# No such file: its folder was there just before.
_PASSING_OS = {errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}


def trouble_of(exc: sqlite3.Error | OSError) -> FileTrouble:
    """What a failure of the file means to an operator."""
    if isinstance(exc, OSError):
        return FileTrouble(f"cannot be opened: {exc.strerror}", passing=exc.errno in _PASSING_OS)
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the rest of it tells details
    # A closed connection has no code: the process has just forked, or is ending.
    return FileTrouble(_WHAT.get(code, f"cannot be used: {exc}"), passing=code in _PASSING or not code)


class SharedFile:
    """One process's way to the file. Opened when it is first used, and again after a fork or a fault.

    What writes waits for the disk: call it in a worker thread. All else belongs to the thread of the event loop. Each
    method raises FileTrouble.
    """

    schema: Schema

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self.inode: _Inode = (0, 0)  # of the one that the reading connection has
        self._writer_inode: _Inode = (0, 0)
        self._writing = Lock()
        self._is_let_go = False
        forks.watch(self)

    # Reading

    def open(self, *, within_s: float = 0.0) -> sqlite3.Connection:
        """The reading connection. Makes the file where there is none."""
        self._is_let_go = False
        if self._reader is None:
            self._reader, self.inode = self._connected(READ_BUSY_S, within_s)
        return self._reader

    def require_same(self) -> None:
        """Raise unless the file that is open is still the one of its name."""
        if self._reader is not None:
            _require_inode(self.path, self.inode)

    def version(self) -> tuple[int]:
        """What differs whenever another connection has written."""
        try:
            found: tuple[int] = self.open().execute(DATA_VERSION).fetchone()
        except sqlite3.Error as exc:
            raise trouble_of(exc) from exc
        return found

    def _read(self, work: _Work[T]) -> T:
        """What is found in one state of the file, however many questions it takes."""
        try:
            return _in_transaction("BEGIN", self.open(), work)
        except sqlite3.Error as exc:
            raise trouble_of(exc) from exc

    def close_reader(self) -> None:
        """Let the reading connection go; the next read opens one."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    # Writing

    def _write(self, work: _Work[T]) -> T:
        """Change the file in one step; on the disk when this returns."""
        if not self._writing.acquire(timeout=WRITE_BUSY_S):
            raise FileTrouble("cannot be written: the disk does not answer", passing=True)
        try:
            if self._writer is None or _inode_of(self.path) != self._writer_inode:
                self._close_writer()
                self._writer, self._writer_inode = self._connected(WRITE_BUSY_S, 0.0)
            done = _in_transaction("BEGIN IMMEDIATE", self._writer, work)
            _require_inode(self.path, self._writer_inode)
        except sqlite3.Error as exc:
            self._close_writer()
            raise trouble_of(exc) from exc
        except FileTrouble:
            self._close_writer()  # the next write opens what has the name by then, or makes it
            raise
        finally:
            if self._is_let_go:  # meanwhile, or before: whoever asked for this was cancelled, and nobody closes the file again
                self._close_writer()
            self._writing.release()
        return done

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def close(self) -> None:
        """Let the file go. The next call opens it again."""
        self._is_let_go = True
        self.close_reader()
        if self._writing.acquire(timeout=WRITE_BUSY_S):
            try:
                self._close_writer()
            finally:
                self._writing.release()

    # Opening

    def _connected(self, busy_s: float, within_s: float) -> tuple[sqlite3.Connection, _Inode]:
        """A connection to a file that has our tables; and which file that is.

        Several processes may be about to make it. SQLite does not always wait for the one that is first, so this does.
        """
        end_s = time.monotonic() + within_s
        while True:
            try:
                return self._connect(busy_s)
            except FileTrouble as trouble:
                if not trouble.passing or time.monotonic() >= end_s:
                    raise
            time.sleep(0.01)

    def _connect(self, busy_s: float) -> tuple[sqlite3.Connection, _Inode]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _make_private(self.path)
            with ExitStack() as undo:
                with _one_file(self.path) as inode:
                    # SQLite is to make none: everybody could read that.
                    uri = self.path.absolute().as_uri() + "?mode=rw"
                    db = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False, factory=SelfClosing)
                    undo.callback(db.close)
                    self._prepare(db)
                undo.pop_all()
        except (sqlite3.Error, OSError) as exc:
            raise trouble_of(exc) from exc
        return db, inode

    def _prepare(self, db: sqlite3.Connection) -> None:
        # All in one state of the file: somebody else may make it between two looks.
        if not _in_transaction("BEGIN", db, self._is_ours):
            _in_transaction("BEGIN EXCLUSIVE", db, self._make_tables)
        if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise FileTrouble("cannot have a write-ahead log there: put it on a local disk")
        db.execute("PRAGMA synchronous = FULL")  # a write-ahead log is not synced at each commit otherwise
        db.execute(DATA_VERSION)  # opens the write-ahead log, which is found by its name: it is to be the one of this file

    def _is_ours(self, db: sqlite3.Connection) -> bool:
        """Whether the tables are there; not so in a file that was just made."""
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (format,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if (application, format, tables) == (0, 0, 0):
            return False
        if application != self.schema.application_id:
            raise FileTrouble("is the database of another program")
        if format != self.schema.format:
            raise FileTrouble("was written by another release, in a form that this one cannot read")
        return True

    def _make_tables(self, db: sqlite3.Connection) -> None:
        if not self._is_ours(db):  # nobody was faster
            db.execute(f"PRAGMA application_id = {self.schema.application_id}")
            db.execute(f"PRAGMA user_version = {self.schema.format}")
            self.schema.make(db)

    # Forks. A connection that is open while the process forks is of no use to either, and SQLite could not tell.

    def before_fork(self) -> None:
        self._writing.acquire()
        self._close_writer()
        self.close_reader()

    def after_fork(self, *, in_child: bool) -> None:  # noqa: ARG002 - both begin anew
        self._writing.release()


def _inode_of(path: Path) -> _Inode:
    try:
        found = os.stat(path)  # noqa: PTH116 - the shortest way
    except FileNotFoundError:
        raise _replaced() from None
    except OSError as exc:
        raise trouble_of(exc) from exc
    return found.st_dev, found.st_ino


def _require_inode(path: Path, inode: _Inode) -> None:
    if _inode_of(path) != inode:
        raise _replaced()


def _replaced() -> FileTrouble:
    return FileTrouble("was deleted or replaced while it was in use", passing=True)


@contextmanager
def _one_file(path: Path) -> Iterator[_Inode]:
    """Has what is inside done with one and the same file. If not, whatever went wrong there, that is why."""
    inode = _inode_of(path)
    try:
        yield inode
    finally:
        _require_inode(path, inode)


def _make_private(path: Path) -> None:
    """Make the file, unless it is there. It names subjects and sessions, so it is for its owner alone."""
    if path.exists():
        return
    # Closing a file lets go of all locks that the process has on it. So it gets its name when it is closed, for another thread
    # may have opened it by then.
    path = path.resolve()
    handle, new = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        os.close(handle)
        with suppress(FileExistsError):
            try:
                os.link(new, path)
            except FileExistsError:
                raise
            except OSError:  # that file system has no hard links; and whatever else it is, comes again
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    finally:
        os.unlink(new)  # noqa: PTH108 - no path


def _in_transaction(begin: str, db: sqlite3.Connection, work: _Work[T]) -> T:
    db.execute(begin)
    try:
        done = work(db)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return done
