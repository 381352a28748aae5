"""This release reads the files of earlier releases, and makes the same tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ha_session_mw import Settings
from ha_session_mw._machine.shared_file import SharedFile
from ha_session_mw.abc import Grant, Record
from ha_session_mw.backends.common.queued_locks import Ticket
from ha_session_mw.backends.sqlite.backend import SqliteBackend
from ha_session_mw.backends.sqlite.entry_file import EntryFile
from ha_session_mw.backends.sqlite.key_board import HELD, KeyBoard
from ha_session_mw.backends.sqlite.lock_file import LockFile
from ha_session_mw.backends.sqlite.record_file import RecordFile
from ha_session_mw.exceptions import LockLost
from ha_session_mw.models import Cut, CutId, Deny, DenyKey, FamilyId, KeyId
from ha_session_mw.testing import SECRET, ManualClock, Member

VECTORS = Path(__file__).parents[2] / "vectors"
END_MS = 4_102_444_800_000


def restored(name: str, path: Path) -> Path:
    """Restore a file from a vector."""
    db = sqlite3.connect(path)
    db.executescript((VECTORS / name).read_text())
    db.close()
    return path


@pytest.mark.parametrize("name", ["sqlite-entries-1.sql", "sqlite-entries-1-checksums.sql"])
def test_log_outs_of_an_earlier_release_count(name: str, tmp_path: Path, clock: ManualClock) -> None:
    path = restored(name, tmp_path / "file")
    view = Member.open(SqliteBackend(Settings(secret_key=SECRET, cluster=f"sqlite://{path}")), clock=clock).view
    assert [*view.entries()] == [
        Deny("a-session", END_MS),
        DenyKey(KeyId("a-key"), END_MS),
        Cut(CutId("all~f4865700"), None, END_MS),
        Cut(CutId("a-cut~f4865700"), "ada", END_MS, except_family=FamilyId("a-family"), replaces=(CutId("old-cut~f4865700"),)),
    ]
    assert view.floor_ms == 1_600_000_000_000


def test_entries_go_on_behind_those_of_an_earlier_release(tmp_path: Path) -> None:
    file = EntryFile(restored("sqlite-entries-1.sql", tmp_path / "file"))
    assert file.append([(1, END_MS, b"")]) == 5
    news = file.read(3)
    assert (news.file[0], news.made_ms, news.last, news.rows.numbers) == ("a-file", 1_700_000_000_000, 5, (4, 5))
    file.close()


def test_records_of_an_earlier_release_are_read_and_versions_go_on(tmp_path: Path) -> None:
    file = RecordFile(restored("sqlite-records-1.sql", tmp_path / "file"))
    record = Record("a-session", b"content", END_MS, "ada", 101)
    assert file.get("session", "a-session") == record
    assert file.of_subject("session", "ada", "", 10) == [record]
    assert file.get("device", "a-device") == Record("a-device", b"\x00\xff", END_MS, None, 102)
    assert file.get("session", "deleted") is None
    assert [(change.id, change.deleted) for change in file.since("session", 0)] == [("a-session", False), ("deleted", True)]
    assert file.write(file.put("session", record, None, lambda: 0.0)) == 106
    file.close()


def test_a_lock_that_an_earlier_release_granted_is_held_and_its_queue_goes_on(tmp_path: Path) -> None:
    file = LockFile(restored("sqlite-records-1.sql", tmp_path / "file"), lambda: 1001.0)
    file.renew(Grant("a-lock", 201, 0.0, "holder"), 60.0)
    with pytest.raises(LockLost):
        file.renew(Grant("a-lock", 202, 0.0, "waiting"), 60.0)
    assert file.take(Ticket("a-lock", "waiting", 60.0, 0.0, 0.0), 3.0) == (1, 202)
    assert file.take(Ticket("a-lock", "next", 60.0, 0.0, 0.0), 3.0).ahead == 2
    file.close()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (EntryFile, "sqlite-entries-1-checksums.sql"),
        (RecordFile, "sqlite-records-1.sql"),
        (lambda path: LockFile(path, lambda: 0.0), "sqlite-records-1.sql"),
    ],
    ids=["entries", "records", "locks"],
)
def test_this_release_makes_the_same_tables(kind: Callable[[Path], SharedFile], name: str, tmp_path: Path) -> None:
    """Other tables need a new format number, and a vector of their own."""
    file = kind(tmp_path / "new")
    file.open()
    file.close()
    assert schema_of(file.path) == schema_of(restored(name, tmp_path / "old"))


def test_a_process_tells_its_keys_as_one_of_an_earlier_release_did(tmp_path: Path, clock: ManualClock) -> None:
    kids = (KeyId("u9uKTUqs"), KeyId("abcdefgh"))
    boards = [KeyBoard(tmp_path, life, member, kids, clock) for life, member in (("life-a", "node-a"), ("life-b", "node-b"))]
    for board in boards:
        board.sign()

    assert (tmp_path / f"life-a{HELD}").read_bytes() == (VECTORS / "sqlite-keys-1").read_bytes()
    assert boards[1].others() == {"node-a": kids}
    for board in boards:
        board.leave()


def schema_of(path: Path) -> tuple[object, ...]:
    db = sqlite3.connect(path)
    found = (
        db.execute("PRAGMA application_id").fetchone(),
        db.execute("PRAGMA user_version").fetchone(),
        db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall(),
    )
    db.close()
    return found
