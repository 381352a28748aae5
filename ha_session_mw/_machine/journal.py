"""A file of records that survive a crash: what a node must still know when it comes back. SQLite does the hard part.

All methods but the constructor wait for the disk: call them in a worker thread, one at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from .self_closing import SelfClosing


class StateFile:
    """An ordered list of byte strings in one file, which one process has at a time.

    Raises:
        sqlite3.Error: from any method: the file is no such file, another process has it, or the disk is full or broken.
            Nothing of a call that raised was written, and nothing of it must be acknowledged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db: sqlite3.Connection | None = None

    def load(self) -> list[bytes]:
        """All records, the oldest first. Makes the file where there is none, and keeps others from it from then on."""
        with self._opened as db:
            return [body for (body,) in db.execute("SELECT body FROM records ORDER BY number")]

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=1.0, check_same_thread=False, factory=SelfClosing)
            try:
                db.execute("PRAGMA locking_mode = EXCLUSIVE")
                db.execute("PRAGMA synchronous = FULL")
                with db:
                    db.execute("BEGIN EXCLUSIVE")
                    db.execute("CREATE TABLE IF NOT EXISTS records (number INTEGER PRIMARY KEY, body BLOB NOT NULL)")
            except BaseException:
                db.close()
                raise
            self._db = db
        return self._db

    def append(self, records: Sequence[bytes]) -> None:
        """Write records behind the others; returns once the disk has them."""
        with self._opened as db:
            db.executemany("INSERT INTO records (body) VALUES (?)", [(record,) for record in records])

    def replace(self, records: Sequence[bytes]) -> None:
        """Put other records in the place of all: after a crash there are either the old ones or the new."""
        with self._opened as db:
            db.execute("DELETE FROM records")
            db.executemany("INSERT INTO records (body) VALUES (?)", [(record,) for record in records])

    def close(self) -> None:
        """Let others have the file. The next call opens it again."""
        if self._db is not None:
            self._db.close()
            self._db = None
