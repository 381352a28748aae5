"""Group commit: writes that share a transaction end as they would have ended one after the other, whatever the file does."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, TypeVar

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._machine import sqlite_file
from ha_session_mw._machine.group_commit import Outcome, Write
from ha_session_mw._machine.sqlite_file import WRITE_LIMIT_S, FileTrouble
from ha_session_mw.abc import Conflict, Record
from ha_session_mw.backends.sqlite.record_file import RecordFile
from ha_session_mw.backends.sqlite.shared_writes import SharedWrites
from ha_session_mw.backends.sqlite.store import SqliteStore
from ha_session_mw.clocks import SystemClock
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

from ..engines import memory_folder
from ..waiting import LIMIT_S

T = TypeVar("T")
END_MS = 1 << 50


@pytest.fixture
def file() -> Iterator[RecordFile]:
    with memory_folder() as folder:
        one = RecordFile(folder / "records.db")
        yield one
        one.close()


def put(file: RecordFile, id: str, content: bytes = b"", version: int = 0) -> Write[int]:
    return file.submit(file.put("session", Record(id, content, END_MS, version=version), None, lambda: 0.0))


def told(write: Write[Any]) -> str:
    """What the caller learns, without the versions, which depend on the clock."""
    if not write.is_done:
        return "nothing"
    try:
        write.outcome()
    except (Conflict, FileTrouble) as exc:
        return type(exc).__name__
    return "done"


def contents(file: RecordFile) -> dict[str, bytes]:
    db = sqlite3.connect(file.path)
    try:
        return dict(db.execute("SELECT id, content FROM records"))
    finally:
        db.close()


@contextmanager
def counted(file: RecordFile) -> Iterator[list[str]]:
    """The commits of the block."""
    file.write(lambda _: 0)
    assert file._writer is not None
    seen: list[str] = []
    file._writer.set_trace_callback(lambda sql: seen.append(sql) if sql == "COMMIT" else None)
    yield seen
    file._writer.set_trace_callback(None)


def test_writes_that_wait_share_one_transaction_and_each_has_its_own_outcome(file: RecordFile) -> None:
    with counted(file) as commits:
        writes = [put(file, "a", b"1"), put(file, "b", b"1"), put(file, "a", b"2"), put(file, "c", b"1", version=7)]
        file.commit()
    assert commits == ["COMMIT"]
    assert [told(write) for write in writes] == ["done", "done", "Conflict", "Conflict"]
    assert contents(file) == {"a": b"1", "b": b"1"}


def test_no_transaction_is_longer_than_its_limit(file: RecordFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "MOST_TOGETHER", 3)
    writes = [put(file, f"{number}") for number in range(7)]
    for done in (3, 6, 7):
        file.commit()
        assert sum(write.is_done for write in writes) == done


def test_a_write_that_is_too_much_for_the_disk_takes_no_other_with_it(file: RecordFile, monkeypatch: pytest.MonkeyPatch) -> None:
    connected = file._connected

    def small(busy_s: float, within_s: float) -> tuple[sqlite3.Connection, tuple[tuple[int, int], ...]]:
        db, inodes = connected(busy_s, within_s)
        db.execute("PRAGMA max_page_count = 40")
        return db, inodes

    monkeypatch.setattr(file, "_connected", small)
    writes = [put(file, "a", b"1"), put(file, "large", b"x" * 1_000_000), put(file, "b", b"1"), put(file, "a", b"2")]
    file.commit()
    assert [told(write) for write in writes] == ["done", "FileTrouble", "done", "Conflict"]
    assert contents(file) == {"a": b"1", "b": b"1"}


def test_a_conflict_with_a_write_that_was_lost_is_not_told(file: RecordFile) -> None:
    def lose_the_file(db: sqlite3.Connection) -> int:
        file.path.rename(file.path.with_suffix(".old"))
        return 0

    writes = [put(file, "a", b"1"), put(file, "a", b"2"), file.submit(lose_the_file)]
    file.commit()
    assert [told(write) for write in writes] == ["FileTrouble"] * 3


def test_a_file_that_is_locked_fails_all_that_wait_after_one_wait(file: RecordFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write(lambda _: 0)
    file.close()
    monkeypatch.setattr(sqlite_file, "WRITE_BUSY_S", 0.01)
    intruder = sqlite3.connect(file.path, isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    attempts: list[int] = []
    in_one = file._in_one_transaction

    def noted(writes: Sequence[Write[Any]]) -> list[Outcome]:
        attempts.append(len(writes))
        return in_one(writes)

    monkeypatch.setattr(file, "_in_one_transaction", noted)
    writes = [put(file, f"{number}") for number in range(5)]
    file.commit()
    intruder.close()
    assert [told(write) for write in writes] == ["FileTrouble"] * 5
    assert attempts == [5]


def test_a_write_that_was_given_up_before_it_began_is_left_out(file: RecordFile) -> None:
    writes = [put(file, "a"), put(file, "b")]
    file.give_up(writes[0])
    file.commit()
    assert contents(file).keys() == {"b"}


@pytest.mark.anyio
async def test_writes_that_nobody_waits_for_any_more_take_no_memory_while_the_disk_hangs(
    file: RecordFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write(lambda _: 0)
    monkeypatch.setattr(sqlite_file, "WRITE_BUSY_S", 0.01)
    writes = SharedWrites(file, SystemClock())
    errors: list[FileTrouble] = []

    async def write(number: int) -> None:
        try:
            await writes.carry_out(file.put("session", Record(f"{number}", b"", END_MS), None, lambda: 0.0))
        except FileTrouble as trouble:
            errors.append(trouble)

    with file._writing:  # as by a thread whose disk does not answer
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(write, number)
        assert len(errors) == 3
        assert not file._waiting
    file.commit()
    assert contents(file) == {}


@pytest.mark.anyio
async def test_each_of_the_writes_that_share_a_disk_that_hangs_is_told_so_after_its_own_time(
    file: RecordFile, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, let_go = SharedWrites(file, clock), Event()
    monkeypatch.setattr(file, "commit", lambda: let_go.wait(LIMIT_S))
    told: dict[int, str] = {}

    async def write(number: int) -> None:
        with pytest.raises(FileTrouble) as trouble:
            await writes.carry_out(lambda _: number)
        told[number] = str(trouble.value)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(write, number)
            await until_nothing_moves()
            clock.advance(WRITE_LIMIT_S / 4)
        clock.advance(WRITE_LIMIT_S / 4)
        await until_nothing_moves()
        assert [*told] == [0]
        clock.advance(WRITE_LIMIT_S / 2)
        let_go.set()
    assert told == dict.fromkeys(range(3), "was not written in time")
    assert not file._waiting


def test_a_forked_process_does_not_carry_out_what_waits_in_its_parent(file: RecordFile) -> None:
    put(file, "a")
    file.before_fork()
    file.after_fork(in_child=True)
    put(file, "b")
    file.commit()
    assert contents(file).keys() == {"b"}


def test_threads_that_write_at_once_are_all_written(file: RecordFile) -> None:
    def write(name: str) -> None:
        for number in range(20):
            file.write(file.put("session", Record(f"{name}{number}", b"", END_MS), None, lambda: 0.0))

    threads = [Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(file).keys() == {f"{name}{number}" for name in "abcd" for number in range(20)}


# The rule: as one after the other.

Step = tuple[str, str]
steps = st.lists(st.tuples(st.sampled_from(["new", "stale", "delete", "breaks"]), st.sampled_from("abc")), max_size=8)


def work_of(file: RecordFile, step: Step) -> Callable[[sqlite3.Connection], int]:
    how, id = step
    if how == "delete":
        return file.delete("session", id)
    wanted = file.put("session", Record(id, how.encode(), END_MS, version=7 if how == "stale" else 0), None, lambda: 0.0)
    if how != "breaks":
        return wanted

    def breaks(db: sqlite3.Connection) -> int:
        file.delete("session", id)(db)
        wanted(db)
        raise Conflict(None)

    return breaks


def ends(file: RecordFile, groups: Sequence[Sequence[Step]]) -> tuple[list[str], dict[str, bytes]]:
    outcomes: list[str] = []
    for group in groups:
        writes = [file.submit(work_of(file, step)) for step in group]
        if writes:
            file.commit()
        outcomes += [told(write) for write in writes]
    return outcomes, contents(file)


def ends_as_one_by_one(kind: type[RecordFile], group: Sequence[Step]) -> bool:
    with memory_folder() as folder:
        one, other = kind(folder / "together"), RecordFile(folder / "singly")
        try:
            one.write(lambda _: 0)
            other.write(lambda _: 0)
            return ends(one, [group]) == ends(other, [[step] for step in group])
        finally:
            one.close()
            other.close()


@given(steps)
def test_writes_together_end_as_they_would_one_by_one(group: list[Step]) -> None:
    assert ends_as_one_by_one(RecordFile, group)


class KeepsHalves(RecordFile):
    """Undoes nothing of a write that raises."""

    def _in_one_transaction(self, writes: Sequence[Write[Any]]) -> list[Outcome]:
        def found(db: sqlite3.Connection, write: Write[Any]) -> Outcome:
            try:
                return write.work(db), None
            except Conflict as exc:
                return None, exc

        if self._writer is None:
            return super()._in_one_transaction(writes)
        return sqlite_file.in_transaction("BEGIN IMMEDIATE", self._writer, lambda db: [found(db, write) for write in writes])


class OneForAll(RecordFile):
    """Tells all writes what one of them has raised."""

    def _in_one_transaction(self, writes: Sequence[Write[Any]]) -> list[Outcome]:
        outcomes = super()._in_one_transaction(writes)
        worst = next((outcome for outcome in outcomes if outcome[1] is not None), None)
        return outcomes if worst is None else [worst] * len(outcomes)


@pytest.mark.parametrize(("broken", "group"), [(KeepsHalves, [("new", "a"), ("breaks", "a")]), (OneForAll, [("new", "a"), ("new", "a")])])
def test_a_broken_variant_does_not(broken: type[RecordFile], group: list[Step]) -> None:
    assert ends_as_one_by_one(RecordFile, group)
    assert not ends_as_one_by_one(broken, group)


# Many requests of one process.


@pytest.mark.anyio
async def test_sixteen_requests_that_write_at_once_take_a_few_transactions(file: RecordFile) -> None:
    store = SqliteStore(SystemClock(), file, "session")
    with counted(file) as commits:
        async with anyio.create_task_group() as tasks:
            for number in range(16):
                tasks.start_soon(store.put, Record(f"{number}", b"x" * 4000, END_MS))
    assert len(contents(file)) == 16
    assert len(commits) <= 2


@pytest.mark.anyio
@pytest.mark.parametrize("which", range(3))
async def test_a_writer_that_is_cancelled_holds_up_no_other(file: RecordFile, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = SharedWrites(file, SystemClock())
    begun, let = anyio.Event(), anyio.Event()
    commit = file.commit

    def slow() -> None:
        anyio.from_thread.run_sync(begun.set)
        anyio.from_thread.run(let.wait)
        commit()

    monkeypatch.setattr(file, "commit", slow)
    done: list[int] = []
    scopes = [anyio.CancelScope() for _ in range(3)]

    async def write(number: int) -> None:
        with scopes[number]:
            await writes.carry_out(file.put("session", Record(f"{number}", b"", END_MS), None, lambda: 0.0))
            done.append(number)

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(write, number)
            await begun.wait()
            await anyio.lowlevel.checkpoint()
            scopes[which].cancel()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            let.set()
    assert sorted(done) == [number for number in range(3) if number != which]
    assert contents(file).keys() == {f"{number}" for number in done}  # it had not begun
