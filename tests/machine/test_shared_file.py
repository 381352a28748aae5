"""A file that the processes of one machine share: several of them make it at once, or it is deleted or replaced while in use."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ha_session_mw._machine import sqlite_file
from ha_session_mw._machine.journal import JournalFile
from ha_session_mw._machine.shared_file import SharedFile
from ha_session_mw._machine.sqlite_file import FileTrouble, SelfClosing
from ha_session_mw._machine.sqlite_trouble import trouble_of
from ha_session_mw.backends.sqlite import entry_file
from ha_session_mw.backends.sqlite.entry_file import EntryFile
from ha_session_mw.backends.sqlite.lock_file import LockFile
from ha_session_mw.backends.sqlite.record_file import RecordFile

KINDS: list[Callable[[Path], SharedFile]] = [EntryFile, RecordFile, lambda path: LockFile(path, time.monotonic)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", range(6))
def test_a_process_that_looks_while_another_makes_the_file_never_takes_it_for_another_programs(
    kind: Callable[[Path], SharedFile], steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shared.db"
    left = steps

    class Slow(SelfClosing):
        """The connection of the first process. Another process makes the file before one of its statements."""

        def execute(self, *args: Any) -> sqlite3.Cursor:
            nonlocal left
            left -= 1
            if left == -1:
                monkeypatch.undo()
                with contextlib.suppress(FileTrouble):  # that the file is locked just now
                    kind(path).open()
            return super().execute(*args)

    monkeypatch.setattr(sqlite_file, "SelfClosing", Slow)
    first = kind(path)
    first.open(within_s=5)
    assert left < 0
    kind(path).open()
    first.close()


def test_a_file_that_is_dropped_without_close_leaves_nothing_open(tmp_path: Path) -> None:
    file = EntryFile(tmp_path / "shared.db")
    file.append([(1, 1, b"")])
    ring: list[object] = [file]
    ring.append(ring)
    assert len([*tmp_path.iterdir()]) > 1

    del file, ring
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["shared.db"]


def test_a_file_that_was_never_open_is_let_go_in_silence(tmp_path: Path) -> None:
    with pytest.raises(FileTrouble):
        JournalFile(tmp_path).load()
    gc.collect()


class Interrupted:
    """The system calls and statements of a process. Something else happens once, before the nth of them.

    Args:
        nth: counted from 0.
        meanwhile: called at that moment.
    """

    def __init__(self, nth: int, meanwhile: Callable[[], None]) -> None:
        self._left = nth
        self._meanwhile = meanwhile

    @property
    def has_happened(self) -> bool:
        return self._left < 0

    def step(self) -> None:
        self._left -= 1
        if self._left == -1:
            self._meanwhile()

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            self.step()
            return call(*args, **options)

        return called

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        one = self

        class Connection(SelfClosing):
            def execute(self, *args: Any) -> sqlite3.Cursor:
                one.step()
                return super().execute(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite_file, "SelfClosing", Connection)
            patch.setattr(sqlite3, "connect", self.before(sqlite3.connect))
            for name in ("open", "close", "stat", "link"):
                patch.setattr(os, name, self.before(getattr(os, name)))
            yield


def each_step(tmp_path: Path, meanwhile: Callable[[Path], None]) -> Iterator[tuple[Path, Interrupted]]:
    """Yield a path and an interruption for each system call and statement, until the interrupted code runs to its end."""
    for nth in count():
        path = tmp_path / str(nth) / "shared.db"
        interrupted = Interrupted(nth, lambda path=path: meanwhile(path))  # type: ignore[misc]
        yield path, interrupted
        if not interrupted.has_happened:
            assert nth > 5
            return


def delete(path: Path) -> None:
    for file in path.parent.glob(path.name + "*"):
        file.unlink()


def lose(*ends: str) -> Callable[[Path], None]:
    """Delete what SQLite keeps beside a file."""

    def delete_beside(path: Path) -> None:
        for end in ends:
            path.with_name(path.name + end).unlink(missing_ok=True)

    return delete_beside


def replace(path: Path) -> None:
    """Delete a file. Another process notices first, and makes a new one."""
    delete(path)
    with contextlib.suppress(FileTrouble):
        EntryFile(path).open()


HAPPENS = [delete, replace, lose("-wal"), lose("-shm"), lose("-wal", "-shm")]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file is unlocked at once, and a replaced one opened again: no other process relies on an older one."""
    monkeypatch.setattr(entry_file, "NEW_FILE_S", 0)
    monkeypatch.setattr(EntryFile, "reopen_s", 0)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("meanwhile", HAPPENS)
def test_an_opener_notices_that_a_file_is_deleted_or_replaced_meanwhile(meanwhile: Callable[[Path], None], tmp_path: Path) -> None:
    for path, interrupted in each_step(tmp_path, meanwhile):
        first, second = EntryFile(path), EntryFile(path)
        with interrupted.running():
            first.open(within_s=5)
        with contextlib.suppress(FileTrouble):  # the first one has what was deleted open, and SQLite shares that within a process
            second.append([(1, 1, b"a log-out")])
        try:
            first.require_same()
        except FileTrouble:
            first.close_reader()
            second.append([(1, 1, b"the same")])
        assert first.read(0).rows.numbers
        first.close()
        second.close()


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("meanwhile", HAPPENS)
def test_a_write_while_a_file_is_deleted_or_replaced_is_in_the_new_one_or_reported_lost(
    meanwhile: Callable[[Path], None], tmp_path: Path
) -> None:
    for path, interrupted in each_step(tmp_path, meanwhile):
        first, second = EntryFile(path), EntryFile(path)
        written = False
        with interrupted.running(), contextlib.suppress(FileTrouble):
            first.append([(1, 1, b"a log-out")])
            written = True
        if not written:
            first.append([(1, 1, b"the same")])  # the next try goes through
        try:
            found = second.read(0).rows.numbers
        except FileTrouble:  # the first one has not noticed yet
            first.close()  # as the last one it writes the lost log into the file
            found = second.read(0).rows.numbers
        assert found
        first.close()
        second.close()


@pytest.mark.usefixtures("at_once")
def test_a_start_does_not_fail_for_good_because_a_file_is_deleted_or_replaced_meanwhile(tmp_path: Path) -> None:
    """The same holds when the folder is deleted."""

    def delete_all(path: Path) -> None:
        delete(path)
        with contextlib.suppress(FileNotFoundError):
            path.parent.rmdir()

    for number, meanwhile in enumerate([*HAPPENS, delete_all]):
        for path, interrupted in each_step(tmp_path / str(number), meanwhile):
            file = EntryFile(path)
            with interrupted.running():
                file.open(within_s=5)
            file.close()


@pytest.mark.usefixtures("at_once")
def test_a_file_is_its_owners_alone_even_if_it_is_deleted_while_it_is_made(tmp_path: Path) -> None:
    for path, interrupted in each_step(tmp_path, delete):
        file = EntryFile(path)
        with interrupted.running(), contextlib.suppress(FileTrouble):
            file.open(within_s=5)
        for made in path.parent.glob("*"):
            assert stat.S_IMODE(made.stat().st_mode) == 0o600
        file.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EMFILE, errno.EIO])
def test_a_start_does_not_wait_for_a_disk_that_is_full_or_fails(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node serves, and says what is wrong. It tries again while it runs."""

    def fail(path: Path) -> None:
        raise OSError(code, os.strerror(code))

    now = count(0.0, 0.1)
    monkeypatch.setattr(sqlite_file, "_make_private", fail)
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    monkeypatch.setattr(time, "sleep", lambda s: None)
    with pytest.raises(FileTrouble):
        EntryFile(tmp_path / "shared.db").open(within_s=60)
    assert next(now) < 1


@pytest.mark.parametrize(
    ("free", "told"), [(0, "cannot be written: the disk is full"), (1000, "cannot be read or written: the disk fails")]
)
def test_a_full_disk_is_called_full_although_sqlite_calls_it_a_failure(
    free: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no room for the index of the write-ahead log."""
    failure = sqlite3.OperationalError("disk I/O error")
    failure.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free, f_frsize=4096))
    trouble = trouble_of(failure, tmp_path / "shared.db")
    assert (str(trouble), trouble.passing) == (told, True)


def test_folders_that_are_made_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Their mode does not depend on the umask, and folders that were there stay as they are."""
    there = tmp_path / "there"
    there.mkdir(mode=0o755)
    before = stat.S_IMODE(there.stat().st_mode)
    umask = os.umask(0o000)
    try:
        file = EntryFile(there / "made" / "too" / "shared.db")
        file.open()
        file.close()
    finally:
        os.umask(umask)
    made = [there / "made", there / "made" / "too"]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in made] == [0o700, 0o700]
    assert stat.S_IMODE(there.stat().st_mode) == before


def test_a_file_that_is_made_has_no_name_yet_when_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing a file drops all locks that the process has on it, and another thread may have locked it once it has a name."""
    path = tmp_path / "shared.db"
    close = os.close

    def closed(handle: int) -> None:
        assert not path.exists() or not os.path.samestat(os.fstat(handle), path.stat())
        close(handle)

    monkeypatch.setattr(os, "close", closed)
    file = EntryFile(path)
    file.open()
    file.close()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_file_is_made_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    file = EntryFile(tmp_path / "shared.db")
    assert file.append([(1, 1, b"")]) == 1
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    file.close()


def test_a_file_may_be_elsewhere_by_a_link_that_leads_to_none_yet(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    path = tmp_path / "shared.db"
    path.symlink_to(tmp_path / "disk" / "real.db")
    EntryFile(path).open()
    assert stat.S_IMODE((tmp_path / "disk" / "real.db").stat().st_mode) == 0o600


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_a_start_waits_for_a_disk_that_is_full_or_a_process_with_too_many_files(number: int, tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    for path, interrupted in each_step(tmp_path, fail):
        file = EntryFile(path)
        with interrupted.running():
            file.open(within_s=5)
        file.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_forks_has_nothing_open_then_and_goes_on(kind: Callable[[Path], SharedFile], tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    file = kind(path)
    for _ in range(2):
        file.open()
        file._write(lambda db: db.execute("DELETE FROM sqlite_sequence WHERE name = 'none'"))
        assert len([*tmp_path.iterdir()]) > 1
        file.before_fork()
        assert [*tmp_path.iterdir()] == [path]
        file.after_fork(in_child=False)


@pytest.mark.parametrize(("kind", "synchronous"), [*zip(KINDS, (2, 2, 1), strict=True)])
def test_writes_are_on_the_disk_except_locks_which_end_with_the_power(
    kind: Callable[[Path], SharedFile], synchronous: int, tmp_path: Path
) -> None:
    file = kind(tmp_path / "shared.db")
    assert file._write(lambda db: db.execute("PRAGMA synchronous").fetchone()) == (synchronous,)
    file.close()


def test_a_start_waits_for_processes_that_take_turns_in_locking_the_file() -> None:
    raced = sqlite3.OperationalError("locking protocol")
    raced.sqlite_errorcode = sqlite3.SQLITE_PROTOCOL
    assert trouble_of(raced).passing
