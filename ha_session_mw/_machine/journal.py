"""A file of records that survive a crash, for one process at a time. It holds the entries that a node must still know after a restart.

SQLite's exclusive lock keeps other processes out. A fork breaks that lock, so a token in the file backs it. Each process
writes its own token with its first record. A process that finds an unknown token writes no more.

Each record has a checksum. SQLite notices damage to its own structure, and none to the content of a row. A flipped bit would make one
log-out another.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from .file_trouble import FileDamaged
from .sqlite_file import OPEN_S, WRITE_BUSY_S, FileTrouble, Inode, Schema, SqliteFile, in_transaction

_RECORDS = "CREATE TABLE records (number INTEGER PRIMARY KEY, body BLOB NOT NULL)"
_HAS_RECORDS = "SELECT count(*) FROM sqlite_master WHERE name = 'records'"


def _make_tables(db: sqlite3.Connection) -> None:
    if db.execute(_HAS_RECORDS).fetchone() == (0,):
        db.execute(_RECORDS)
    db.execute("CREATE TABLE holder (token TEXT NOT NULL)")
    db.execute("INSERT INTO holder VALUES (?)", (secrets.token_urlsafe(12),))


class JournalFile(SqliteFile):
    """An ordered list of byte strings in one file, which one process has at a time.

    All methods but the constructor wait for the disk: call them in a worker thread. Nothing of a call that raised FileTrouble was
    written, and nothing of it must be acknowledged.

    Load the file before writing to it, also in a forked process.

    Args:
        path: of the file.
        open_s: how long :meth:`load` waits for a process that has the file: a worker is replaced before it has ended.
    """

    schema = Schema(application_id=0x68735F33, make=_make_tables, adopts=_RECORDS)  # ``hs_3``

    def __init__(self, path: Path, *, open_s: float = OPEN_S) -> None:
        super().__init__(path)
        self._open_s = open_s
        self._token = secrets.token_urlsafe(12)
        self._known: tuple[tuple[tuple[Inode, ...], str], ...] = ()
        """The files and tokens which prove that no other process has written since this object loaded the file."""
        self._is_held = False

    def load(self) -> list[bytes]:
        """Return all records, the oldest first. Makes the file where it is missing, and keeps others from it from then on."""
        with self._writing:
            if self._writer is None:
                self._writer, self._writer_inodes = self._connected(WRITE_BUSY_S, self._open_s)
            self._is_let_go = False
        return self._write(self._load)

    def hold(self) -> None:
        """Keep others from the file until :meth:`close`, through forks too: this process serves."""
        self._is_held, self._is_let_go = True, False

    def close(self) -> None:
        """Let others have the file. The next call opens it again."""
        self._is_held = False
        super().close()

    def append(self, records: Sequence[bytes]) -> None:
        """Write records behind the others; returns once the disk has them."""
        self._require_loaded()
        self._write(lambda db: self._append(db, records))

    def replace(self, records: Sequence[bytes]) -> None:
        """Replace all records: after a crash there are either the old ones or the new."""
        self._require_loaded()
        self._write(lambda db: self._replace(db, records))

    def is_another(self) -> bool:
        """Whether the file of this name is not the one that this process has loaded: that one was deleted, or replaced."""
        try:
            inodes = self._inodes()
        except FileTrouble:
            return bool(self._known)
        return bool(self._known) and all(inodes != known for known, _ in self._known)

    def rewrite(self, records: Sequence[bytes]) -> None:
        """Write all records into the file that has the name by now; make it where it is missing.

        Raises:
            FileTrouble: that file has further records, or another process has it. It is left as it is.
        """
        self._require_loaded()
        known = self._known
        with self._writing:
            self._close_writer()  # of the file that has lost its name
        if not set(self.load()) <= set(records):
            self._known = known
            raise FileTrouble("was replaced by one with further records; start this process again")
        self.replace(records)

    def _require_loaded(self) -> None:
        # Without opening the file: a child must not take it from its parent, not even for a moment.
        if not self._known:
            raise FileTrouble("was not loaded by this process, which was forked from the one that has done so")

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        super()._prepare(db)
        in_transaction("BEGIN EXCLUSIVE", db, _add_checksums)  # the lock stays until the connection is closed

    def _load(self, db: sqlite3.Connection) -> list[bytes]:
        self._known = tuple((self._writer_inodes, token) for token in (_holder(db), self._token))
        found = db.execute("SELECT body, crc FROM records ORDER BY number").fetchall()
        if any(crc is not None and crc != crc32(body) for body, crc in found):
            raise FileDamaged("is damaged: a record is not what was written")
        return [body for body, _ in found]

    def _append(self, db: sqlite3.Connection, records: Sequence[bytes]) -> None:
        if (self._writer_inodes, _holder(db)) not in self._known:
            raise FileTrouble("was replaced, or written by another process, while it was in use; start this process again")
        db.execute("UPDATE holder SET token = ?", (self._token,))
        db.executemany("INSERT INTO records (body, crc) VALUES (?, ?)", [(record, crc32(record)) for record in records])

    def _replace(self, db: sqlite3.Connection, records: Sequence[bytes]) -> None:
        db.execute("DELETE FROM records")
        self._append(db, records)

    def after_fork(self, *, in_child: bool) -> None:
        """A child has read nothing of the file yet. The parent, if it serves, takes the file back before others do."""
        if in_child:
            self._known, self._is_held = (), False
        elif self._is_held:
            with suppress(FileTrouble):  # the next write finds out, too
                self._writer, self._writer_inodes = self._connected(WRITE_BUSY_S, 0.0)
        super().after_fork(in_child=in_child)


def _add_checksums(db: sqlite3.Connection) -> None:
    """Make room for checksums in the file of an earlier build, whose records have none. Such a build may go on writing to the file."""
    if all(name != "crc" for _, name, *_ in db.execute("PRAGMA table_info(records)")):
        db.execute("ALTER TABLE records ADD COLUMN crc INTEGER")


def _holder(db: sqlite3.Connection) -> str:
    row = db.execute("SELECT token FROM holder").fetchone()
    if row is None:
        raise FileDamaged("is damaged")
    token: str = row[0]
    return token
