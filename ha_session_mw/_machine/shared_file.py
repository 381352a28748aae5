"""A file that the processes of one machine share. It has a write-ahead log: readers never wait for writers.

Each process has two connections: a read on the way of a request must not wait for a write.

The write-ahead log and its index are files of their own, ``-wal`` and ``-shm``, which a connection opens by their names. If one of them is
deleted, those that have it open go on with it, and the next connection makes another one. Both sides would then write one file without
a lock. So each process looks whether the names still lead to what it has open, and lets all three go if one does not. The last process of
the machine that does so has SQLite write the lost write-ahead log into the file.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock

from .group_commit import T
from .sqlite_file import FileTrouble, Inode, SqliteFile, Work, in_transaction, inode_of
from .sqlite_trouble import LOST, may_not_write, trouble_of

READ_BUSY_S = 0.05
"""How long a read waits for a lock. Readers meet a lock only while an operator repairs or moves the file."""

SURE_S = 0.1
"""How often a process that reads on each request makes sure that its file is still the one of that name."""

DATA_VERSION = "PRAGMA data_version"
_NONE_THERE = (FileNotFoundError, NotADirectoryError)


class SharedFile(SqliteFile):
    """One process's access to the file. All methods but those that write belong to the thread of the event loop.

    Attributes:
        reopen_s: how long a process keeps away from a file that has lost its write-ahead log: until all others have let it go, too.
    """

    reopen_s: float

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._wal, self._shm = _beside(path)
        self._reader: sqlite3.Connection | None = None
        self.reading = Lock()
        """Held while the reading connection is in use: a thread may have an event loop of its own, and read there."""
        self._reopen_at_s = -math.inf
        self.inodes: tuple[Inode, ...] = ()
        """Which files the reading connection has open: the one of the path, its write-ahead log, and the index of that."""
        self.seen: tuple[int] | None = None
        """The version whose rows have been read; None if the reading connection has read none yet."""

    def open(self, *, within_s: float = 0.0) -> sqlite3.Connection:
        """Return the reading connection. Makes the file where it is missing."""
        self._is_let_go = False
        if self._reader is None:
            self._reader, self.inodes = self._connected(READ_BUSY_S, within_s)
        return self._reader

    def require_writable(self) -> None:
        """Raise if this user may not write the file that is there: SQLite would open it to read, and no change could ever be kept."""
        if os.path.exists(self.path):  # noqa: PTH110 - Path.exists raises for some paths
            for place in (os.path.realpath(self.path), *_beside(self.path), os.path.realpath(self.path.parent)):
                # Another process may delete the log, and make it again.
                if not _may_write(place) and os.path.exists(place) and not _may_write(place):  # noqa: PTH110
                    raise may_not_write(place)

    def _inodes(self) -> tuple[Inode, ...]:
        return inode_of(self.path), inode_of(self._wal), inode_of(self._shm)

    def _connect(self, busy_s: float) -> tuple[sqlite3.Connection, tuple[Inode, ...]]:
        if time.monotonic() < self._reopen_at_s:
            raise FileTrouble(LOST, passing=True)
        try:
            self._wal, self._shm = _beside(self.path)
            self._delete_leftovers()
        except OSError as exc:
            raise trouble_of(exc, self.path) from exc
        return super()._connect(busy_s)

    def _delete_leftovers(self) -> None:
        """Delete a write-ahead log without its file, and an index without its log, which SQLite would take for those of new ones.

        SQLite makes the log before the index, and deletes it after the index. Processes that have them open keep them.
        """
        index = _found(self._shm)
        if _found(self.path) is None:
            leftovers = [self._wal, self._shm]
        elif index is not None and _found(self._wal) is None and _found(self._shm) == index:
            leftovers = [self._shm]
        else:
            return
        for leftover in leftovers:
            with suppress(*_NONE_THERE):
                os.unlink(leftover)  # noqa: PTH108 - no path

    def _prepare(self, db: sqlite3.Connection) -> None:
        super()._prepare(db)
        if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise FileTrouble("cannot have a write-ahead log there: put it on a local disk")
        db.execute(DATA_VERSION)  # opens the write-ahead log by its name, so that it is the one of this very file

    def require_same(self) -> None:
        """Raise unless the open files are still the ones of their names. The caller closes the reader then."""
        if self._reader is not None:
            self._require(self.inodes)

    def require_whole(self) -> None:
        """Raise if a part of the open file was lost. The caller closes the reader then. Another file of that name does not matter."""
        both = (self._writer, self._writer_inodes), (self._reader, self.inodes)
        for inodes in {inodes for connection, inodes in both if connection is not None}:
            try:
                self._require(inodes)
            except FileTrouble as trouble:
                if str(trouble) == LOST:
                    raise

    def _require(self, inodes: tuple[Inode, ...]) -> None:
        try:
            super()._require(inodes)
        except FileTrouble:
            if inode_of(self.path) != inodes[0]:
                raise
            self._reopen_at_s = time.monotonic() + self.reopen_s
            self.close_idle_writer()
            raise FileTrouble(LOST, passing=True) from None

    def close_idle_writer(self) -> None:
        """Let the writing connection go, unless a write is under way."""
        if self._writing.acquire(blocking=False):  # else a write is under way, which finds out itself
            try:
                self._close_writer()
            finally:
                self._writing.release()

    def _opened_writer(self) -> sqlite3.Connection:
        self.require_whole()
        return super()._opened_writer()

    def version(self) -> tuple[int]:
        """Return a value that changes whenever another connection has written.

        Within a transaction it would be that of its beginning. So the read of another thread is waited for.
        """
        try:
            with self.reading:
                found: tuple[int] = self.open().execute(DATA_VERSION).fetchone()
        except sqlite3.Error as exc:
            raise trouble_of(exc) from exc
        return found

    def read_news(self, read: Callable[[], bool], *, is_same: bool = False) -> None:
        """Make sure that the open file is the one of that name, and have its rows read if another connection has written since.

        Args:
            read: returns whether it has read all. If not, it is called again the next time. Of a file that was lost it reads the rest.
            is_same: whether that was made sure a moment ago.
        """
        try:
            if not is_same:
                self.require_same()
        except FileTrouble:
            with suppress(FileTrouble):
                while self._reader is not None and not read():
                    pass
            raise
        version = self.version()  # before the rows: more may come meanwhile
        if version != self.seen and read():
            self.seen = version

    def _read(self, work: Work[T]) -> T:
        """Return the result of any number of statements, all read in one state of the file."""
        try:
            with self.reading:
                return in_transaction("BEGIN", self.open(), work)
        except sqlite3.Error as exc:
            raise trouble_of(exc) from exc

    def close_reader(self) -> None:
        """Let the reading connection go; the next read opens one."""
        with self.reading:
            reader, self._reader, self.seen = self._reader, None, None
            if reader is not None:
                reader.close()

    def close(self) -> None:
        self.close_reader()
        super().close()

    def before_fork(self) -> None:
        super().before_fork()
        self.close_reader()

    def after_fork(self, *, in_child: bool) -> None:
        super().after_fork(in_child=in_child)
        if in_child:
            self.reading = Lock()


def _may_write(path: str) -> bool:
    # Older container runtimes refuse the call that asks for the effective ids, as if the file were closed to this user.
    is_another_user = (os.geteuid(), os.getegid()) != (os.getuid(), os.getgid())
    return os.access(path, os.W_OK, effective_ids=is_another_user and os.access in os.supports_effective_ids)


def _beside(path: Path) -> tuple[str, str]:
    """Return the names of the write-ahead log and its index. SQLite follows links."""
    real = os.path.realpath(path)
    return real + "-wal", real + "-shm"


def _found(path: str | Path) -> tuple[int, ...] | None:
    """Return what tells a file from a later one of its name, which may get the same inode; None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - the shortest way
    except _NONE_THERE:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns
