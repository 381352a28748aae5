"""A file of records survives a crash, and belongs to one process at a time, through forks too."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ha_session_mw._machine.journal import JournalFile
from ha_session_mw._machine.sqlite_file import FileTrouble

from ..waiting import LIMIT_S

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "of" / "its" / "own" / "records"


@pytest.fixture
def file(path: Path) -> Iterator[JournalFile]:
    file = JournalFile(path)
    yield file
    file.close()


def reread(file: JournalFile) -> list[bytes]:
    file.close()
    return JournalFile(file.path).load()


def test_a_new_file_is_empty_and_made_with_its_folders(file: JournalFile) -> None:
    assert file.load() == []
    assert file.path.exists()


def test_records_are_kept_in_their_order(file: JournalFile) -> None:
    file.load()
    file.append([b"1", b"2"])
    file.append([])
    file.append([b"", b"\x00\xff" * 100_000])
    assert file.load() == reread(file) == [b"1", b"2", b"", b"\x00\xff" * 100_000]


def test_replacing_puts_others_in_the_place_of_all_and_later_ones_follow(file: JournalFile) -> None:
    file.load()
    file.append([b"1", b"2"])
    file.replace([b"3"])
    file.append([b"4"])
    assert reread(file) == [b"3", b"4"]


def test_a_file_can_be_let_go_and_is_opened_again_when_it_is_needed(file: JournalFile) -> None:
    file.load()
    file.append([b"1"])
    file.close()
    file.close()
    file.append([b"2"])
    assert file.load() == [b"1", b"2"]


def test_one_process_has_it_at_a_time(file: JournalFile) -> None:
    file.load()
    other = JournalFile(file.path, open_s=0)
    with pytest.raises(FileTrouble, match=r"^is locked by another process"):
        other.load()
    with pytest.raises(FileTrouble, match="was not loaded"):
        other.append([b"2"])
    file.append([b"1"])
    file.close()
    assert other.load() == [b"1"]
    other.close()


WRITER = """
import sys
from pathlib import Path
from ha_session_mw._machine.journal import JournalFile
file = JournalFile(Path(sys.argv[1]))
file.load()
file.append([b"1"])
file.append([b"2"])
print("written", flush=True)
if sys.argv[2] == "open":
    db = file._writer
    db.execute("BEGIN IMMEDIATE")
    db.execute("DELETE FROM records")
    db.execute("INSERT INTO records (body) VALUES (?)", (b"3",))
    print("half", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("transaction", ["closed", "open"])
def test_a_killed_process_leaves_each_acknowledged_record_and_no_half_of_one(path: Path, transaction: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), transaction], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        if transaction == "open":
            assert process.stdout.readline() == "half\n"
        with pytest.raises(FileTrouble, match="locked"):  # it lives, so the file is its
            JournalFile(path, open_s=0).load()
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)
        file = JournalFile(path)
        assert file.load() == [b"1", b"2"]
        file.close()
    finally:
        process.kill()
        process.communicate()


def test_a_damaged_file_is_reported_and_left_unchanged(path: Path) -> None:
    damage = b"no database at all, but text that somebody has put there" * 100
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    with pytest.raises(FileTrouble, match="damaged"):
        JournalFile(path).load()
    assert path.read_bytes() == damage


def test_a_truncated_file_is_reported(file: JournalFile) -> None:
    file.load()
    file.append([b"x" * 10_000] * 10)
    file.close()
    with file.path.open("r+b") as raw:
        raw.truncate(20_000)
    with pytest.raises(FileTrouble, match="damaged"):
        file.load()


def test_a_full_disk_is_reported_and_existing_entries_stay(file: JournalFile) -> None:
    file.load()
    file.append([b"1"])
    for write in (file.append, file.replace):
        assert file._writer is not None
        file._writer.execute("PRAGMA max_page_count = 4")
        with pytest.raises(FileTrouble, match="the disk is full"):
            write([b"x" * 100_000])
        assert file.load() == [b"1"]
    assert reread(file) == [b"1"]


# Ownership and permissions


def test_a_file_is_its_owners_alone_from_the_first_moment(file: JournalFile, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: set[int] = set()
    connect = sqlite3.connect

    def connected(*args: object, **options: object) -> sqlite3.Connection:
        modes.update(stat.S_IMODE(path.stat().st_mode) for path in file.path.parent.iterdir())
        return connect(*args, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", connected)
    file.load()
    file.append([b"1"])
    modes |= {stat.S_IMODE(path.stat().st_mode) for path in file.path.parent.iterdir()}
    assert modes == {0o600}


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE orders (id INTEGER)",
        "CREATE TABLE records (number INTEGER PRIMARY KEY, body BLOB NOT NULL); CREATE TABLE orders (id INTEGER)",
        "CREATE TABLE records (title TEXT)",
        "PRAGMA application_id = 7",
        "PRAGMA user_version = 7",
    ],
)
def test_the_database_of_another_program_is_refused_and_left_as_it_is(path: Path, sql: str) -> None:
    path.parent.mkdir(parents=True)
    db = sqlite3.connect(path)
    db.executescript(sql)
    db.close()
    before = path.read_bytes()
    with pytest.raises(FileTrouble, match=r"^is the database of another program$"):
        JournalFile(path).load()
    assert path.read_bytes() == before


def test_a_file_of_a_later_release_is_refused(file: JournalFile) -> None:
    file.load()
    file.close()
    db = sqlite3.connect(file.path)
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(FileTrouble, match=r"^was written by another release, in a form that this one cannot read$"):
        file.load()


RECORDS = [b"", b"one", b"\x00\xff" * 4, b"four"]


def made_by_an_earlier_release(path: Path, vector: str = "journal-0.sql") -> None:
    path.parent.mkdir(parents=True)
    db = sqlite3.connect(path)
    db.executescript((ROOT / "tests" / "vectors" / vector).read_text())
    db.close()


@pytest.mark.parametrize("vector", ["journal-1.sql", "journal-1-checksums.sql"])
def test_a_file_of_an_earlier_release_is_read_and_written(file: JournalFile, vector: str) -> None:
    made_by_an_earlier_release(file.path, vector)
    assert file.load() == RECORDS
    file.append([b"five"])
    assert reread(file) == [*RECORDS, b"five"]


def test_this_release_makes_the_same_tables(file: JournalFile, tmp_path: Path) -> None:
    """Other tables need a new format number, and a vector of their own."""
    file.load()
    file.close()
    old = tmp_path / "old" / "file"
    made_by_an_earlier_release(old, "journal-1-checksums.sql")
    assert schema_of(file.path) == schema_of(old)


def schema_of(path: Path) -> tuple[object, ...]:
    db = sqlite3.connect(path)
    found = (
        db.execute("PRAGMA application_id").fetchone(),
        db.execute("PRAGMA user_version").fetchone(),
        sorted(db.execute("SELECT type, name, sql FROM sqlite_master")),
    )
    db.close()
    return found


def test_a_file_without_an_application_id_is_taken_over_with_all_its_records(file: JournalFile) -> None:
    made_by_an_earlier_release(file.path)
    assert file.load() == RECORDS
    file.append([b"five"])
    assert reread(file) == [*RECORDS, b"five"]
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("vector", ["journal-0.sql", "journal-1.sql", "journal-1-checksums.sql"])
def test_the_earlier_build_can_still_use_a_file_that_was_taken_over(file: JournalFile, vector: str) -> None:
    made_by_an_earlier_release(file.path, vector)
    file.load()
    file.append([b"five"])
    file.close()
    db = sqlite3.connect(file.path)
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS records (number INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        db.execute("INSERT INTO records (body) VALUES (?)", (b"six",))
    db.close()
    assert file.load()[-2:] == [b"five", b"six"]


def test_a_flipped_bit_is_noticed_or_changes_nothing(file: JournalFile) -> None:
    """A record that reads as another one would be a log-out that this node forgets, and says that it has."""
    records = [bytes([number]) * 40 for number in range(60)]
    file.load()
    file.append(records)
    file.close()
    good, refused = file.path.read_bytes(), 0
    begin, end = good.index(records[-1]), good.index(records[0]) + 40
    for at in [*range(begin, end, 61), end - 1]:
        file.path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        damaged = JournalFile(file.path)
        try:
            assert damaged.load() == records
        except FileTrouble as trouble:
            refused += "is damaged" in str(trouble)
        damaged.close()
    assert refused > (end - begin) // 61 * 0.8


def test_a_file_that_is_deleted_or_replaced_while_it_is_in_use_is_not_written_again(file: JournalFile, path: Path) -> None:
    """A record after those of another file would claim those records for this process, too."""
    for replaced in (False, True):
        file.load()
        file.append([b"1"])
        copy = path.read_bytes()
        path.unlink()
        if replaced:
            path.write_bytes(copy)
        for _ in range(2):
            with pytest.raises(FileTrouble, match="replaced"):
                file.append([b"2"])
        file.close()


# Forks

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def in_child(work: Callable[[], object]) -> None:
    """Do work in a forked process once its parent goes on, and return once that has succeeded."""
    forking = multiprocessing.get_context("fork")
    parent_goes_on = forking.Event()

    def run() -> None:
        assert parent_goes_on.wait(LIMIT_S)
        work()

    child = forking.Process(target=run)
    child.start()
    parent_goes_on.set()
    child.join(LIMIT_S)
    assert child.exitcode == 0


@needs_fork
@forks
def test_a_process_that_only_forks_leaves_the_file_to_its_children_one_after_the_other(file: JournalFile) -> None:
    """As the master of ``gunicorn --preload``: it has loaded the file, and each worker must find the records of the workers before it."""
    file.load()
    for number in range(3):

        def work(number: int = number) -> None:
            worker = JournalFile(file.path, open_s=0)
            assert worker.load() == [b"%d" % n for n in range(number)]
            worker.hold()
            worker.append([b"%d" % number])

        in_child(work)
    with pytest.raises(FileTrouble, match="written by another process"):
        file.replace([b"entries of the master"])
    assert file.load() == [b"0", b"1", b"2"]
    file.replace([b"3"])


@needs_fork
@forks
def test_a_process_that_serves_keeps_the_file_when_it_forks(file: JournalFile) -> None:
    file.load()
    file.hold()
    file.append([b"1"])

    def work() -> None:
        for write in (file.append, file.replace):
            with pytest.raises(FileTrouble, match="was not loaded by this process"):
                write([b"of a helper"])
        with pytest.raises(FileTrouble, match="locked"):
            JournalFile(file.path, open_s=0).load()

    in_child(work)
    file.append([b"2"])
    assert file.load() == [b"1", b"2"]


@needs_fork
@forks
def test_a_child_writes_nothing_to_a_file_that_only_its_parent_has_read(file: JournalFile) -> None:
    file.load()

    def work() -> None:
        with pytest.raises(FileTrouble, match="was not loaded by this process"):
            file.append([b"of a child"])
        file.close()

    in_child(work)
    assert file.load() == []


def test_a_process_that_starts_waits_for_the_one_that_ends(file: JournalFile) -> None:
    file.load()
    file.append([b"1"])
    successor = JournalFile(file.path, open_s=10)
    ending = threading.Timer(0.05, file.close)
    ending.start()
    assert successor.load() == [b"1"]
    ending.join()
    successor.close()
