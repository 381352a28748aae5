"""The file of a machine's log: rows are appended, found by number, and deleted once they have ended.

Each row has a checksum. SQLite notices damage to its own structure, and none to the content of a row. A flipped bit would make one log-out
another.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

from ..._machine.file_trouble import FileDamaged
from ..._machine.shared_file import SharedFile
from ..._machine.sqlite_file import Schema, in_transaction

NEW_FILE_S = 0.15
"""How long a new file stays locked: until no process relies on an older file of the same name. Half as long again as ``SURE_S``,
because clocks drift."""

REOPEN_S = 0.3
"""How long a process keeps away from a file that has lost its write-ahead log. An idle one looks every 0.2 s."""

PAGE_ROWS = 2000
"""Most rows that are read at a time: some hundred kilobytes, where a million rows would take hundreds of megabytes."""

TRIED_BYTES = 256
"""Size of the row that a trial writes: as large as any denial."""

_TABLES = (
    # A number is never used again, not even the highest one after its row was deleted: readers go on from the last one they read.
    "CREATE TABLE entries (number INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL, until_ms INTEGER NOT NULL, body BLOB, "
    "crc INTEGER)",
    "CREATE INDEX ends ON entries (until_ms)",
    "CREATE TABLE state (file TEXT NOT NULL, made_ms INTEGER NOT NULL, floor_ms INTEGER NOT NULL)",
)
_STATE = "SELECT file, made_ms, floor_ms, (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'entries') FROM state"


class Rows(NamedTuple):
    """Stored entries, by column. One of a million rows takes a fraction of a microsecond like this."""

    numbers: tuple[int, ...] = ()
    versions: tuple[int, ...] = ()
    ends_ms: tuple[int, ...] = ()
    bodies: tuple[bytes, ...] = ()
    crcs: tuple[int | None, ...] = ()


class News(NamedTuple):
    """The rows after a number, and the state of the file.

    Attributes:
        file: identifies the file: random text from when it was made, and its inode, which a copy does not share.
        made_ms: when the file was made (wall clock).
        floor_ms: the highest end of any deleted row.
        last: the number of the last row that was ever appended.
        rows: the first of the rows, :data:`PAGE_ROWS` at most, in their order.
    """

    file: tuple[str, int, int]
    made_ms: int
    floor_ms: int
    last: int
    rows: Rows


def _make_tables(db: sqlite3.Connection) -> None:
    for table in _TABLES:
        db.execute(table)
    db.execute("INSERT INTO state VALUES (?, ?, 0)", (secrets.token_urlsafe(16), time.time_ns() // 1_000_000))
    time.sleep(NEW_FILE_S)


class EntryFile(SharedFile):
    """One process's access to the file of entries."""

    schema = Schema(application_id=0x68735F31, make=_make_tables)  # ``hs_1``
    reopen_s = REOPEN_S

    def _prepare(self, db: sqlite3.Connection) -> None:
        super()._prepare(db)
        if not _has_checksums(db):
            in_transaction("BEGIN IMMEDIATE", db, _add_checksums)

    def read(self, since: int) -> News:
        """Return the first rows after a number."""
        state, rows = self._read(lambda db: (db.execute(_STATE).fetchone(), _rows(db, since)))
        if state is None:
            raise FileDamaged("is damaged")
        _require_undamaged(rows)
        text, made_ms, floor_ms, last = state
        return News((text, *self.inodes[0]), made_ms, floor_ms, last, rows)

    def count(self) -> int:
        """Return how many rows there are."""
        (found,) = self._read(lambda db: db.execute("SELECT count(*) FROM entries").fetchone())
        return int(found)

    def append(self, rows: Sequence[tuple[int, int, bytes]]) -> int:
        """Append rows (version, end, body), all or none; return the number of the last one once the disk has them."""
        return self._write(lambda db: _insert(db, rows))

    def try_to_append(self) -> int:
        """Write a row and delete it, in one transaction, so that no reader ever finds it; return its number once the disk has all that.

        It takes the pages that an entry takes, so it fails where the entry would.
        """
        return self._write(_insert_and_delete)

    def prune(self, ended_ms: int) -> int:
        """Delete the rows that ended at a moment or before, and keep the highest end of them; return how many."""
        return self._write(lambda db: _delete_ended(db, ended_ms))


def _rows(db: sqlite3.Connection, since: int) -> Rows:
    found = db.execute(
        "SELECT number, version, until_ms, body, crc FROM entries WHERE number > ? ORDER BY number LIMIT ?", (since, PAGE_ROWS)
    )
    return Rows(*zip(*found, strict=True))


def _require_undamaged(rows: Rows) -> None:
    try:
        found = (*map(crc32, rows.bodies),)
    except TypeError:
        raise FileDamaged("is damaged") from None
    # Rows of an earlier build have none.
    if found != rows.crcs and any(kept not in (None, crc) for kept, crc in zip(rows.crcs, found, strict=True)):
        raise FileDamaged("is damaged: an entry is not what was written")


def _has_checksums(db: sqlite3.Connection) -> bool:
    return any(name == "crc" for _, name, *_ in db.execute("PRAGMA table_info(entries)"))


def _add_checksums(db: sqlite3.Connection) -> None:
    """Make room for checksums in the file of an earlier build. Such a build may go on writing to the file."""
    if not _has_checksums(db):  # else another process was faster
        db.execute("ALTER TABLE entries ADD COLUMN crc INTEGER")


def _insert(db: sqlite3.Connection, rows: Sequence[tuple[int, int, bytes]]) -> int:
    number = 0
    for row in rows:
        number = db.execute("INSERT INTO entries (version, until_ms, body, crc) VALUES (?, ?, ?, ?)", (*row, crc32(row[2]))).lastrowid or 0
    return number


def _insert_and_delete(db: sqlite3.Connection) -> int:
    number = _insert(db, [(0, 0, bytes(TRIED_BYTES))])
    db.execute("DELETE FROM entries WHERE number = ?", (number,))
    return number


def _delete_ended(db: sqlite3.Connection, ended_ms: int) -> int:
    (highest_ms,) = db.execute("SELECT max(until_ms) FROM entries WHERE until_ms <= ?", (ended_ms,)).fetchone()
    if highest_ms is None:
        return 0
    db.execute("UPDATE state SET floor_ms = max(floor_ms, ?)", (highest_ms,))
    return db.execute("DELETE FROM entries WHERE until_ms <= ?", (ended_ms,)).rowcount
