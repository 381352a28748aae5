"""The file of a machine's records and locks: beside the log's, so that large writes do not hold up a log-out.

A deleted record leaves its row without content until the record would have ended: nodes with a copy learn of the delete by it.
A lock's row is a ticket in the queue. The lowest ticket of a name has the lock, and its number is the fencing number.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..._machine.group_commit import Do, Outcome, Write
from ..._machine.shared_file import SharedFile
from ..._machine.sqlite_file import Schema, Work
from ...abc import Conflict, Grant, Record
from ...exceptions import LockLost

_TABLES = (
    "CREATE TABLE records (kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, subject TEXT, until_ms INTEGER NOT NULL, "
    "content BLOB, PRIMARY KEY (kind, id))",
    "CREATE UNIQUE INDEX versions ON records (version)",
    "CREATE INDEX subjects ON records (kind, subject, id)",
    "CREATE INDEX ends ON records (until_ms)",
    "CREATE TABLE state (version INTEGER NOT NULL)",
    # A number is never used again. A ticket is good from when it was last kept until its end, by the boot-time clock. A ticket
    # from the future of that clock is from before the machine was restarted.
    "CREATE TABLE locks (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, holder TEXT NOT NULL, granted INTEGER NOT NULL, "
    "since_s REAL NOT NULL, until_s REAL NOT NULL)",
    "CREATE INDEX queues ON locks (name, number)",
)
_LAST_VERSION = "SELECT version FROM state"
# Another program may have put text there. It is read as bytes, and then found to be damaged like any other content.
_FIND = "SELECT id, CAST(content AS BLOB), until_ms, subject, version FROM records WHERE content IS NOT NULL AND kind = ? "
_OF_ID = _FIND + "AND id = ?"
_OF_SUBJECT = _FIND + "AND subject = ? AND id > ? ORDER BY id LIMIT ?"
_PUT = "INSERT OR REPLACE INTO records (kind, id, version, subject, until_ms, content) VALUES (?, ?, ?, ?, ?, ?)"
# The usual change writes the fewest pages: of the indexes, that of the versions alone.
_CHANGE = (
    "UPDATE records SET version = ?, content = ? "
    "WHERE kind = ? AND id = ? AND version = ? AND until_ms = ? AND subject IS ? AND content IS NOT NULL"
)
_DELETE = "UPDATE records SET version = ?, content = NULL, subject = NULL WHERE kind = ? AND id = ? AND content IS NOT NULL"
_SINCE = "SELECT version, id, content IS NULL FROM records WHERE kind = ? AND version > ? ORDER BY version"
_HELD = "SELECT number FROM locks WHERE number = ? AND name = ? AND granted AND since_s <= ? AND ? < until_s"


class Change(NamedTuple):
    """A put or a delete of one record."""

    version: int
    id: str
    deleted: bool


def _make_tables(db: sqlite3.Connection) -> None:
    for table in _TABLES:
        db.execute(table)
    # Above all versions and numbers of an older file of this name: sessions may still name those.
    first = time.time_ns() // 1000
    db.execute("INSERT INTO state VALUES (?)", (first,))
    db.execute("INSERT INTO sqlite_sequence VALUES ('locks', ?)", (first,))


REOPEN_S = 1.5
"""How long a process keeps away from a file that has lost its write-ahead log. Each process looks every second. No process could write the
records again, so all must have let the file go."""

SCHEMA = Schema(application_id=0x68735F32, make=_make_tables)  # ``hs_2``


def beside(path: Path) -> Path:
    """Return the path of the records and locks that belong to a file of entries."""
    return path.with_name(path.name + "-records")


class RecordFile(SharedFile):
    """One process's access to the records."""

    schema = SCHEMA
    reopen_s = REOPEN_S

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._last_version = 0  # within a transaction

    @classmethod
    def beside(cls, path: Path) -> RecordFile:
        """Return the one that belongs to a file of entries."""
        return cls(beside(path))

    def get(self, kind: str, id: str) -> Record | None:
        """Return the record; None if there is none."""
        row = self._read(lambda db: db.execute(_OF_ID, (kind, id)).fetchone())
        return row and Record(*row)

    def of_subject(self, kind: str, subject: str, after: str, limit: int) -> Sequence[Record]:
        """Return the records of a subject after an id, in the order of their ids."""
        return [Record(*row) for row in self._read(lambda db: db.execute(_OF_SUBJECT, (kind, subject, after, limit)).fetchall())]

    def since(self, kind: str, version: int) -> Sequence[Change]:
        """Return the puts and deletes after a version, the last one of each record."""
        rows = self._read(lambda db: db.execute(_SINCE, (kind, version)).fetchall())
        return [Change(version, id, bool(deleted)) for version, id, deleted in rows]

    def last_version(self) -> int:
        """Return the last version that any record was given."""
        version: int = self._read(lambda db: db.execute(_LAST_VERSION).fetchone())[0]
        return version

    def put(self, kind: str, record: Record, guard: Grant | None, boot_s: Callable[[], float]) -> Work[int]:
        """Return the work that replaces the record of the same version, and returns the new version.

        Args:
            boot_s: the boot-time clock, for the lease of the guard.

        It raises:
            Conflict: another version is stored, or none.
            LockLost: the lock of the guard is no longer held.
        """
        return lambda db: self._put(db, kind, record, guard, boot_s)

    def delete(self, kind: str, id: str) -> Work[int]:
        """Return the work that deletes a record if there is one, and returns the version of the delete, 0 if there is none."""
        return lambda db: self._delete(db, kind, id)

    def prune(self, ended_ms: int) -> Work[int]:
        """Return the work that deletes the records that ended at a moment or before, and returns how many."""
        return lambda db: db.execute("DELETE FROM records WHERE until_ms <= ?", (ended_ms,)).rowcount

    def write(self, work: Work[int]) -> int:
        """Do work in one transaction; return its result once the disk has it."""
        return self._write(work)

    def _done(self, db: sqlite3.Connection, writes: Sequence[Write[Any]], do: Do) -> list[Outcome]:
        """Do writes within a transaction. The counter of versions is read and written once for all."""
        (before,) = db.execute(_LAST_VERSION).fetchone()
        self._last_version = before
        outcomes = super()._done(db, writes, do)
        if self._last_version != before:
            db.execute("UPDATE state SET version = ?", (self._last_version,))
        return outcomes

    def _put(self, db: sqlite3.Connection, kind: str, record: Record, guard: Grant | None, boot_s: Callable[[], float]) -> int:
        if guard is not None:
            require_held(db, guard, boot_s())
        version = self._last_version + 1
        place = kind, record.id, record.version, record.until_ms, record.subject
        if not record.version or not db.execute(_CHANGE, (version, record.content, *place)).rowcount:
            row = db.execute(_OF_ID, (kind, record.id)).fetchone()
            current = row and Record(*row)
            if (current.version if current else 0) != record.version:
                raise Conflict(current)
            db.execute(_PUT, (kind, record.id, version, record.subject, record.until_ms, record.content))
        self._last_version = version
        return version

    def _delete(self, db: sqlite3.Connection, kind: str, id: str) -> int:
        if db.execute(_OF_ID, (kind, id)).fetchone() is None:
            return 0  # a transaction that changes nothing costs no sync of the disk
        version = self._last_version + 1
        db.execute(_DELETE, (version, kind, id))
        self._last_version = version
        return version


def require_held(db: sqlite3.Connection, grant: Grant, now_s: float) -> None:
    """Raise LockLost unless a lock is still held.

    Args:
        now_s: the boot time, read within the transaction: a renewal may have come just before it.
    """
    if db.execute(_HELD, (grant.fence, grant.name, now_s, now_s)).fetchone() is None:
        raise LockLost("the lock was released, or its lease is over")
