"""A file that the processes of one machine share. It has a write-ahead log: readers never wait for writers.

Each process has two connections: a read on the way of a request must not wait for a write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from .group_commit import T
from .sqlite_file import FileTrouble, Inode, SqliteFile, Work, in_transaction, require_inode
from .sqlite_trouble import trouble_of

READ_BUSY_S = 0.05
"""How long a read waits for a lock. Readers meet a lock only while an operator repairs or moves the file."""

DATA_VERSION = "PRAGMA data_version"


class SharedFile(SqliteFile):
    """One process's access to the file. All methods but those that write belong to the thread of the event loop."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._reader: sqlite3.Connection | None = None
        self.inode: Inode = (0, 0)
        """Which file the reading connection has open."""
        self.seen: tuple[int] | None = None
        """The version whose rows have been read; None if the reading connection has read none yet."""

    def open(self, *, within_s: float = 0.0) -> sqlite3.Connection:
        """Return the reading connection. Makes the file where it is missing."""
        self._is_let_go = False
        if self._reader is None:
            self._reader, self.inode = self._connected(READ_BUSY_S, within_s)
        return self._reader

    def _prepare(self, db: sqlite3.Connection) -> None:
        super()._prepare(db)
        if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise FileTrouble("cannot have a write-ahead log there: put it on a local disk")
        db.execute(DATA_VERSION)  # opens the write-ahead log by its name, so that it is the one of this very file

    def require_same(self) -> None:
        """Raise unless the open file is still the one of that name."""
        if self._reader is not None:
            require_inode(self.path, self.inode)

    def version(self) -> tuple[int]:
        """Return a value that changes whenever another connection has written."""
        try:
            found: tuple[int] = self.open().execute(DATA_VERSION).fetchone()
        except sqlite3.Error as exc:
            raise trouble_of(exc) from exc
        return found

    def read_news(self, read: Callable[[], bool]) -> None:
        """Make sure that the open file is the one of that name, and have its rows read if another connection has written since.

        The function returns whether it has read all. If not, it is called again the next time.
        """
        self.require_same()
        version = self.version()  # before the rows: more may come meanwhile
        if version != self.seen and read():
            self.seen = version

    def _read(self, work: Work[T]) -> T:
        """Return the result of any number of statements, all read in one state of the file."""
        try:
            return in_transaction("BEGIN", self.open(), work)
        except sqlite3.Error as exc:
            raise trouble_of(exc) from exc

    def close_reader(self) -> None:
        """Let the reading connection go; the next read opens one."""
        reader, self._reader, self.seen = self._reader, None, None
        if reader is not None:
            reader.close()

    def close(self) -> None:
        self.close_reader()
        super().close()

    def before_fork(self) -> None:
        super().before_fork()
        self.close_reader()
