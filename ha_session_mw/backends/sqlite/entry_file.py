"""The file of a machine's log: rows that are added, found by number, and deleted when they have ended."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Sequence
from typing import NamedTuple

from ..._machine.shared_file import SharedFile
from ..._machine.sqlite_file import FileTrouble, Schema

SURE_S = 0.1
"""How long a process may go on without looking whether its file is still the one of that name."""
NEW_FILE_S = 0.15
"""How long a new file is kept from everybody: until nobody can be sure any more of one that had its name before. Half as
long again as they may be, for clocks that drift."""

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
        file: which one it is: by random text that it was given when it was made, and by its place on the disk, which a copy of
            it does not share.
        made_ms: when that was (wall clock).
        floor_ms: the highest end of any row that was deleted.
        last: the number of the last row that was ever added.
        rows: in their order.
    """

    file: tuple[str, int, int]
    made_ms: int
    floor_ms: int
    last: int
    rows: list[Row]


def _make_tables(db: sqlite3.Connection) -> None:
    for table in _TABLES:
        db.execute(table)
    db.execute("INSERT INTO state VALUES (?, ?, 0)", (secrets.token_urlsafe(16), time.time_ns() // 1_000_000))
    time.sleep(NEW_FILE_S)


class EntryFile(SharedFile):
    """One process's way to the file of entries."""

    schema = Schema(application_id=0x68735F31, format=1, make=_make_tables)  # ``hs_1``

    def read(self, since: int) -> News:
        """The rows after a number."""
        state, rows = self._read(lambda db: (db.execute(_STATE).fetchone(), _rows(db, since)))
        if state is None:
            raise FileTrouble("is damaged")
        text, made_ms, floor_ms, last = state
        return News((text, *self.inode), made_ms, floor_ms, last, rows)

    def append(self, rows: Sequence[tuple[int, int, bytes]]) -> int:
        """Add rows (version, end, body); returns the last one's number once the disk has them all, or none of them."""
        return self._write(lambda db: _insert(db, rows))

    def prune(self, ended_ms: int) -> int:
        """Delete the rows that ended at a moment or before, and note up to which end that was; returns how many."""
        return self._write(lambda db: _delete_ended(db, ended_ms))


def _rows(db: sqlite3.Connection, since: int) -> list[Row]:
    found = db.execute("SELECT number, version, until_ms, body FROM entries WHERE number > ? ORDER BY number", (since,))
    return [Row(*row) for row in found]


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
