"""A file of records that survives a crash."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ha_session_mw._machine.journal import StateFile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "of" / "its" / "own" / "records"


@pytest.fixture
def file(path: Path) -> Iterator[StateFile]:
    file = StateFile(path)
    yield file
    file.close()


def reread(file: StateFile) -> list[bytes]:
    file.close()
    return StateFile(file.path).load()


def test_a_new_file_is_empty_and_made_with_its_folders(file: StateFile) -> None:
    assert file.load() == []
    assert file.path.exists()


def test_records_are_kept_in_their_order(file: StateFile) -> None:
    file.load()
    file.append([b"1", b"2"])
    file.append([])
    file.append([b"", b"\x00\xff" * 100_000])
    assert file.load() == reread(file) == [b"1", b"2", b"", b"\x00\xff" * 100_000]


def test_replacing_puts_others_in_the_place_of_all_and_later_ones_follow(file: StateFile) -> None:
    file.load()
    file.append([b"1", b"2"])
    file.replace([b"3"])
    file.append([b"4"])
    assert reread(file) == [b"3", b"4"]


def test_a_file_can_be_let_go_and_is_opened_again_when_it_is_needed(file: StateFile) -> None:
    file.load()
    file.append([b"1"])
    file.close()
    file.close()
    file.append([b"2"])
    assert file.load() == [b"1", b"2"]


def test_one_process_has_it_at_a_time(file: StateFile) -> None:
    file.load()
    other = StateFile(file.path)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.load()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.append([b"2"])
    file.append([b"1"])
    file.close()
    assert other.load() == [b"1"]
    other.close()


WRITER = """
import sys
from pathlib import Path
from ha_session_mw._machine.journal import StateFile
file = StateFile(Path(sys.argv[1]))
file.load()
file.append([b"1"])
file.append([b"2"])
print("written", flush=True)
if sys.argv[2] == "open":
    db = file._db
    db.execute("DELETE FROM records")
    db.execute("INSERT INTO records (body) VALUES (?)", (b"3",))
    db.execute("PRAGMA cache_spill = 1")
    print("half", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("transaction", ["closed", "open"])
def test_a_process_that_is_killed_leaves_all_that_it_was_told_is_written_and_nothing_half(path: Path, transaction: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), transaction], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        if transaction == "open":
            assert process.stdout.readline() == "half\n"
        with pytest.raises(sqlite3.OperationalError, match="locked"):  # it lives, so the file is its
            StateFile(path).load()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        file = StateFile(path)
        assert file.load() == [b"1", b"2"]
        file.close()
    finally:
        process.kill()
        process.communicate()


def test_a_damaged_file_is_told_and_left_as_it_is(path: Path) -> None:
    damage = b"no database at all, but text that somebody has put there" * 100
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    with pytest.raises(sqlite3.DatabaseError):
        StateFile(path).load()
    assert path.read_bytes() == damage


def test_a_file_that_was_cut_short_is_told(file: StateFile) -> None:
    file.load()
    file.append([b"x" * 10_000] * 10)
    file.close()
    with file.path.open("r+b") as raw:
        raw.truncate(20_000)
    with pytest.raises(sqlite3.DatabaseError):
        file.load()


def test_a_disk_that_is_full_is_told_and_what_was_there_stays(file: StateFile) -> None:
    file.load()
    file.append([b"1"])
    assert file._db is not None
    file._db.execute("PRAGMA max_page_count = 3")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        file.append([b"x" * 100_000])
    with pytest.raises(sqlite3.OperationalError, match="full"):
        file.replace([b"x" * 100_000])
    assert reread(file) == [b"1"]
