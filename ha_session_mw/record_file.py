"""The file of a machine's records and locks: beside the log's, so that writing what is large does not hold up a log-out.

A record that was deleted leaves its row without its content until it would have ended: those who keep a copy learn of it
by that. A lock's row is a place in the queue; the lowest one of a name has the lock, and its number is the fencing number.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .abc import Conflict, Grant, Record
from .exceptions import LockLost
from .shared_file import Schema, SharedFile

_TABLES = (
    "CREATE TABLE records (kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, subject TEXT, until_ms INTEGER NOT NULL, "
    "content BLOB, PRIMARY KEY (kind, id))",
    "CREATE UNIQUE INDEX versions ON records (version)",
    "CREATE INDEX subjects ON records (kind, subject, id)",
    "CREATE INDEX ends ON records (until_ms)",
    "CREATE TABLE state (version INTEGER NOT NULL)",
    # Numbers are never used again. ``granted_s`` (boot-time clock) is null for one who waits, ``until_s`` is when the place is lost.
    "CREATE TABLE locks (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, holder TEXT NOT NULL, granted_s REAL, "
    "until_s REAL NOT NULL)",
    "CREATE INDEX queues ON locks (name, number)",
)
_NEXT_VERSION = "UPDATE state SET version = version + 1 RETURNING version"
_OF_ID = "SELECT id, content, until_ms, subject, version FROM records WHERE kind = ? AND id = ? AND content IS NOT NULL"
_OF_SUBJECT = (
    "SELECT id, content, until_ms, subject, version FROM records WHERE kind = ? AND subject = ? AND id > ? AND content IS NOT NULL "
    "ORDER BY id LIMIT ?"
)
_PUT = "INSERT OR REPLACE INTO records (kind, id, version, subject, until_ms, content) VALUES (?, ?, ?, ?, ?, ?)"
_DELETE = "UPDATE records SET version = ?, content = NULL, subject = NULL WHERE kind = ? AND id = ? AND content IS NOT NULL"
_SINCE = "SELECT version, id, content IS NULL FROM records WHERE kind = ? AND version > ? ORDER BY version"


class Change(NamedTuple):
    """That a record was put or deleted."""

    version: int
    id: str
    deleted: bool


def _make_tables(db: sqlite3.Connection) -> None:
    for table in _TABLES:
        db.execute(table)
    # Above all versions, and all numbers, of a file that had this name before: sessions may name those still.
    first = time.time_ns() // 1000
    db.execute("INSERT INTO state VALUES (?)", (first,))
    db.execute("INSERT INTO sqlite_sequence VALUES ('locks', ?)", (first,))


class RecordFile(SharedFile):
    """One process's way to the file of records and locks."""

    schema = Schema(application_id=0x68735F32, format=1, make=_make_tables)  # ``hs_2``

    @classmethod
    def beside(cls, path: Path) -> RecordFile:
        """The one that belongs to a file of entries."""
        return cls(path.with_name(path.name + "-records"))

    def get(self, kind: str, id: str) -> Record | None:
        """The record as it stands."""
        row = self._read(lambda db: db.execute(_OF_ID, (kind, id)).fetchone())
        return row and Record(*row)

    def of_subject(self, kind: str, subject: str, after: str, limit: int) -> Sequence[Record]:
        """The records of a subject after an id, in the order of the ids."""
        return [Record(*row) for row in self._read(lambda db: db.execute(_OF_SUBJECT, (kind, subject, after, limit)).fetchall())]

    def since(self, kind: str, version: int) -> Sequence[Change]:
        """What was put or deleted after a version, the last of it for each record."""
        rows = self._read(lambda db: db.execute(_SINCE, (kind, version)).fetchall())
        return [Change(version, id, bool(deleted)) for version, id, deleted in rows]

    def last_version(self) -> int:
        """The last version that any record was given."""
        version: int = self._read(lambda db: db.execute("SELECT version FROM state").fetchone())[0]
        return version

    def put(self, kind: str, record: Record, guard: Grant | None, now_s: float) -> int:
        """Put a record into the place of the one of its version; returns the new version once the disk has it.

        Args:
            now_s: the boot-time clock, by which the guard's lease is judged.

        Raises:
            Conflict: another version is stored, or none.
            LockLost: the guard's lock is held no more.
        """
        return self._write(lambda db: _put(db, kind, record, guard, now_s))

    def delete(self, kind: str, id: str) -> int:
        """Delete a record, if it is there; returns the version of its absence."""
        return self._write(lambda db: _delete(db, kind, id))

    def prune(self, ended_ms: int) -> int:
        """Forget the records that ended at a moment or before; returns how many."""
        return self._write(lambda db: db.execute("DELETE FROM records WHERE until_ms <= ?", (ended_ms,)).rowcount)


def _put(db: sqlite3.Connection, kind: str, record: Record, guard: Grant | None, now_s: float) -> int:
    if guard is not None:
        require_held(db, guard, now_s)
    row = db.execute(_OF_ID, (kind, record.id)).fetchone()
    current = row and Record(*row)
    if (current.version if current else 0) != record.version:
        raise Conflict(current)
    version: int = db.execute(_NEXT_VERSION).fetchone()[0]
    db.execute(_PUT, (kind, record.id, version, record.subject, record.until_ms, record.content))
    return version


def _delete(db: sqlite3.Connection, kind: str, id: str) -> int:
    version: int = db.execute(_NEXT_VERSION).fetchone()[0]
    db.execute(_DELETE, (version, kind, id))
    return version


def require_held(db: sqlite3.Connection, grant: Grant, now_s: float) -> None:
    """Raise LockLost unless a lock is held still.

    Whatever was granted in this clock's future was so before the machine was started again.
    """
    row = db.execute("SELECT granted_s, until_s FROM locks WHERE number = ? AND name = ?", (grant.fence, grant.name)).fetchone()
    if row is None or row[0] is None or not row[0] <= now_s < row[1]:
        raise LockLost("the lock was released, or its lease is over")
