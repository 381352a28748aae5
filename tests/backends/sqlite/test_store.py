"""Session data on ``sqlite://``: workers of one machine share a file of records, and anything may happen to that file."""
# ruff: noqa: ASYNC240 - files and processes are what this is about

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec.structs import replace

from ha_session_mw import ConfigurationError, Session, SessionManager, SessionMiddleware, Settings, StoreUnavailable
from ha_session_mw._machine.shared_file import SURE_S
from ha_session_mw._machine.sqlite_file import WRITE_LIMIT_S, FileTrouble
from ha_session_mw.abc import Conflict, Record
from ha_session_mw.backends.sqlite.lock_file import LockFile
from ha_session_mw.backends.sqlite.locks import SqliteLocks
from ha_session_mw.backends.sqlite.record_file import RecordFile
from ha_session_mw.backends.sqlite.store import LOOK_EVERY_S, PRUNE_EVERY, TRY_AGAIN_S, SqliteStore
from ha_session_mw.clocks import SystemClock
from ha_session_mw.manager import node_of
from ha_session_mw.testing import SECRET, ManualClock

from ...asgi.driver import Answer, call, look, obliging, scope_of, who
from ...inside import records_of as node_records
from ...waiting import LIMIT_S, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

LARGE = "x" * 5000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


def records_of(path: Path) -> Path:
    return path.with_name("sessions.db-records")


class Worker:
    """One process, as the file sees it."""

    def __init__(self, path: Path, *, clock: ManualClock | None = None, **settings: Any) -> None:
        self.manager = SessionManager(Settings(secret_key=SECRET, cluster=f"sqlite://{path}", **settings), clock=clock)
        self.app = SessionMiddleware(obliging, manager=self.manager)
        self.store: Any = node_records(self.manager)._store

    async def visit(self, token: str, act: Callable[[Session], Any] = look) -> Answer:
        headers = [(b"cookie", b"session=" + token.encode())] if token else []
        scope = scope_of("http", headers=headers, act=act, status=200, answer_headers=[])
        answer = await call(self.app, scope)
        answer.result = scope.get("result")
        return answer

    async def log_in(self, **data: Any) -> str:
        def act(session: Session) -> None:
            session.login("ada")
            session.update(data)

        return (await self.visit("", act)).token or ""


def put(**data: Any) -> Callable[[Session], None]:
    return lambda session: session.update(data)


def code(answer: Answer) -> str:
    return answer.code if answer.status != 200 else "yes"


# Together


async def test_a_change_at_one_worker_is_seen_at_all_others_from_their_next_request_on(path: Path) -> None:
    workers = [Worker(path) for _ in range(3)]  # none of them runs a lifespan, or looks in the background
    token = await workers[0].log_in(text=LARGE)
    for number, writer in enumerate(workers * 2):
        await writer.visit(token, put(number=number))
        assert [(await worker.visit(token)).result["number"] for worker in workers] == [number] * 3  # also with the older token


async def test_data_survives_a_restart_of_all_workers(path: Path) -> None:
    a = Worker(path)
    async with a.manager.running():
        token = await a.log_in(text=LARGE)
    assert (await Worker(path).visit(token)).result == {"text": LARGE}


async def test_the_record_goes_with_the_session_at_whichever_worker(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    token = await a.log_in(text=LARGE)
    await b.visit(token, lambda session: session.clear())
    file = sqlite3.connect(records_of(path))
    assert file.execute("SELECT count(*) FROM records WHERE content IS NOT NULL").fetchone() == (0,)
    file.close()
    assert (await a.visit(token, lambda session: session.problem and session.problem.code)).result == "session_revoked"


async def test_a_log_out_at_one_worker_while_another_writes_leaves_no_record(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    token = await a.log_in(text=LARGE)

    async def slow(session: Session) -> None:
        session["cart"] = ["book"]
        await b.visit(token, lambda other: other.clear())

    assert code(await a.visit(token, slow)) == "session_revoked"
    file = sqlite3.connect(records_of(path))
    assert file.execute("SELECT count(*) FROM records WHERE content IS NOT NULL").fetchone() == (0,)
    file.close()


async def test_the_file_is_for_its_owner_alone_and_the_log_does_not_grow_by_records(path: Path) -> None:
    a = Worker(path)
    before = path.stat().st_size
    await a.log_in(text=LARGE * 10)
    assert stat.S_IMODE(records_of(path).stat().st_mode) == 0o600
    assert records_of(path).with_name("sessions.db-records-wal").stat().st_size > len(LARGE) * 10
    assert path.stat().st_size == before


async def test_kinds_of_records_do_not_meet(path: Path) -> None:
    clock = SystemClock()
    heard: list[tuple[str, int]] = []
    one = SqliteStore(clock, RecordFile(path), "one")
    other = SqliteStore(clock, RecordFile(path), "other", on_newer=lambda *news: heard.append(news))
    stored = await one.put(Record("id", b"1", 1 << 50, "ada"))
    await other.put(Record("id", b"2", 1 << 50, "ada"))
    assert other.poll_now is not None
    other.poll_now()
    heard.clear()
    await one.put(replace(stored, content=b"3"))
    await one.delete("id")
    other.poll_now()
    assert heard == []
    assert [found.content for found in await other.of_subject("ada")] == [b"2"]


async def test_a_deleted_record_does_not_name_its_subject(path: Path) -> None:
    store = SqliteStore(SystemClock(), RecordFile(path), "session")
    await store.put(Record("id", b"1", 1 << 50, "ada"))
    await store.delete("id")
    db = sqlite3.connect(path)
    assert db.execute("SELECT id, subject FROM records").fetchall() == [("id", None)]
    db.close()


def lose(store: SqliteStore, path: Path, clock: ManualClock) -> None:
    store._lose(FileTrouble("is locked, as told", passing=True))
    clock.advance(TRY_AGAIN_S)


def fork(store: SqliteStore, path: Path, clock: ManualClock) -> None:
    for one in (store, store._file):
        one.before_fork()
    for one in (store, store._file):
        one.after_fork(in_child=False)


def delete(store: SqliteStore, path: Path, clock: ManualClock) -> None:
    for file in path.parent.iterdir():
        file.unlink()
    clock.advance(SURE_S)
    store._poll_now()  # notices that
    clock.advance(TRY_AGAIN_S)


@pytest.mark.parametrize("happens", [lose, fork, delete])
async def test_news_arrives_despite_any_change_between_two_polls(
    happens: Callable[[SqliteStore, Path, ManualClock], None], path: Path, clock: ManualClock
) -> None:
    other = SqliteStore(clock, RecordFile(path), "session")
    await other.put(Record("before", b"1", 1 << 50))
    heard: list[str] = []
    store = SqliteStore(clock, RecordFile(path), "session", on_newer=lambda name, _: heard.append(name))
    store._poll_now()
    assert heard == []  # records from before the start are read on demand
    happens(store, path, clock)
    if happens is delete:
        other = SqliteStore(clock, RecordFile(path), "session")
    await other.put(Record("after", b"1", 1 << 50))
    store._poll_now()
    assert heard == ["after"]


async def test_a_node_that_gets_no_requests_hears_of_changes_by_itself(path: Path) -> None:
    heard: list[str] = []
    other = SqliteStore(SystemClock(), RecordFile(path), "session")
    store = SqliteStore(SystemClock(), RecordFile(path), "session", on_newer=lambda name, _: heard.append(name))
    await other.put(Record("id", b"1", 1 << 50))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.run)
        await eventually(lambda: heard == ["id"])
        tasks.cancel_scope.cancel()


async def test_hand_written_content_is_reported_and_replaced(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a = Worker(path)
    token = await a.log_in(text=LARGE)
    db = sqlite3.connect(records_of(path))
    for by_hand in ("'text'", "7"):
        db.execute(f"UPDATE records SET version = version + 1, content = {by_hand}")
        db.commit()
        assert [code(await a.visit(token, act)) for act in (look, put(a=1))] == ["yes"] * 2
        assert db.execute(f"SELECT content = {by_hand} FROM records").fetchall() == [(0,)]
        assert "a record is damaged" in caplog.text
    db.close()


async def test_ended_records_are_forgotten(path: Path, clock: ManualClock) -> None:
    store = SqliteStore(clock, RecordFile(path), "session")
    soon_ms = int(clock.wall_s() * 1000) + 1000
    await store.put(Record("soon", b"", soon_ms))
    deleted = await store.put(Record("deleted", b"", soon_ms))
    await store.delete(deleted.id)
    await store.put(Record("later", b"", soon_ms + 10_000_000))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.run)
        with anyio.fail_after(LIMIT_S):
            while rows(path) != ["later"]:
                await anyio.sleep(0.001)
                if not store._writes.get().is_committing:  # else time would run away from the disk
                    clock.advance(LOOK_EVERY_S * PRUNE_EVERY / 10)
        tasks.cancel_scope.cancel()


def test_a_record_is_needed_until_its_end_and_no_longer(path: Path) -> None:
    file = RecordFile(path)
    for end_ms in (999, 1000, 1001):
        file.write(file.put("session", Record(f"{end_ms}", b"", end_ms), None, SystemClock().boot_s))
    file.write(file.prune(1000))
    assert rows(path) == ["1001"]


def rows(path: Path) -> list[str]:
    file = sqlite3.connect(path)
    try:
        return [id for (id,) in file.execute("SELECT id FROM records")]
    finally:
        file.close()


# Trouble


def test_a_foreign_file_stops_the_start(path: Path) -> None:
    records_of(path).write_bytes(b"this is no database, and long enough to be looked at as one" * 100)
    with pytest.raises(ConfigurationError, match=r"the file of the records is damaged, or is no database.* restore a backup"):
        Worker(path)


async def test_an_unwritable_file_is_reported_at_the_change_and_still_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a = Worker(path)
    token = await a.log_in(text=LARGE)
    a.store._file._writer.execute("PRAGMA query_only = on")
    answer = await a.visit(token, put(a=1))
    assert (answer.status, answer.code) == (503, "store_unavailable")
    told = "session data in the store cannot be reached or changed: the file of the records cannot be written: it is read-only"
    assert [warning.startswith(told) for warning in node_of(a.manager).warnings()] == [True]
    assert (await a.visit(token)).result == {"text": LARGE}
    await a.visit(token, put(a=1))  # by another connection: it works again
    assert (await a.visit(token)).result == {"text": LARGE, "a": 1}
    assert node_of(a.manager).warnings() == []
    assert len([line for line in caplog.messages if "session data in it cannot be changed" in line]) == 1
    assert len([line for line in caplog.messages if "can be written again" in line]) == 1


@pytest.mark.parametrize("passing", [True, False])
async def test_a_file_that_cannot_be_read_is_tried_now_and_then_and_not_by_each_request(
    passing: bool, path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = Worker(path, clock=clock)
    token = await a.log_in(text=LARGE)
    b = Worker(path, clock=clock)
    tries = 0

    def fails(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise FileTrouble("is locked by another process, or by a program that copies it", passing=passing)

    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "version", fails)
        patch.setattr(RecordFile, "get", fails)
        for _ in range(5):
            answer = await b.visit(token)
            assert (answer.status, answer.code) == (503, "store_unavailable")
        assert tries == 1
        assert (await b.visit(token, who)).result == "ada"
        assert (await a.visit(token)).result == {"text": LARGE}  # it has a copy, of the version that the token needs
        (told,) = node_of(b.manager).warnings()
        assert "the file of the records is locked by another process" in told
    clock.advance(2 * TRY_AGAIN_S)
    b.store._poll_now()  # a look by which the worker can tell that all is well
    assert node_of(b.manager).warnings() == []
    assert (await b.visit(token)).result == {"text": LARGE}


async def test_a_disk_that_does_not_answer_costs_its_time_and_no_more(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = Worker(path, clock=clock)
    token = await a.log_in(text=LARGE)
    let_go = threading.Event()
    monkeypatch.setattr(RecordFile, "commit", lambda _: let_go.wait(LIMIT_S))
    answers: list[Answer] = []

    async def change() -> None:
        answers.append(await a.visit(token, put(a=1)))

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(change)
            with anyio.fail_after(LIMIT_S):
                while clock.until_next() is None:
                    await anyio.lowlevel.checkpoint()
            clock.advance(WRITE_LIMIT_S - 0.1)
            assert (await a.visit(token)).result == {"text": LARGE}
            assert answers == []
            clock.advance(0.2)
    finally:
        let_go.set()
    assert [code(answer) for answer in answers] == ["store_unavailable"]


async def test_the_log_outs_of_sessions_without_records_write_nothing(path: Path) -> None:
    a = Worker(path)
    there = await a.store.put(Record("family", b"", 1 << 50))
    log = records_of(path).with_name("sessions.db-records-wal")
    before = log.read_bytes()
    await a.store.delete_all(["one", "another"])
    await a.store.delete("a third one")
    assert log.read_bytes() == before
    await a.store.delete_all(["one", there.id])
    assert log.read_bytes() != before


def test_a_write_that_begins_as_the_file_is_let_go_leaves_it_closed(path: Path) -> None:
    file = RecordFile(path)
    version = file.write(file.put("session", Record("family", b"", 1 << 50), None, lambda: 0.0))
    file.close()
    of_a_log_out_that_is_over = file.delete("session", "family")
    assert file.write(of_a_log_out_that_is_over) > version
    assert [*path.parent.iterdir()] == [path]  # nothing of a write-ahead log


async def test_a_deleted_file_is_reported_and_a_new_one_gives_no_version_twice(path: Path) -> None:
    a = Worker(path)
    token = await a.log_in(text=LARGE)
    before = await a.store.get(node_of(a.manager).validator.validate(token.encode()).claims.family)  # type: ignore[union-attr]
    for end in ("", "-wal", "-shm"):
        records_of(path).with_name(f"sessions.db-records{end}").unlink()
    with pytest.raises(StoreUnavailable, match="was deleted"):
        await a.store.get(before.id)
    with anyio.fail_after(LIMIT_S):
        while True:
            try:
                assert await a.store.get(before.id) is None
                break
            except StoreUnavailable:
                await anyio.sleep(0.02)
    with pytest.raises(Conflict):
        await a.store.put(before)
    again = await a.store.put(replace(before, version=0))
    assert again.version > before.version


@pytest.mark.parametrize("ends", [("-wal",), ("-shm",), ("-wal", "-shm")], ids="and".join)
async def test_no_record_is_lost_with_the_write_ahead_log_while_a_process_lives(
    ends: tuple[str, ...], path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordFile, "reopen_s", 0)
    monkeypatch.setattr(LockFile, "reopen_s", 0)
    a, b = (SqliteStore(clock, RecordFile(path), "session") for _ in range(2))
    locks = SqliteLocks(clock, LockFile(path, clock.boot_s))
    await locks.acquire("x", within_s=0, lease_s=60)
    stored = await a.put(Record("id", b"1", 1 << 50))
    b._poll_now()
    for end in ends:
        path.with_name(path.name + end).unlink()
    clock.advance(SURE_S)
    with pytest.raises(StoreUnavailable, match="has lost the -wal or -shm"):
        await a.put(replace(stored, content=b"2"))
    for let_go in (a._poll_now, locks._look, b._poll_now):
        let_go()
    clock.advance(TRY_AGAIN_S)
    assert [await store.get("id") for store in (a, b)] == [stored, stored]
    assert (await b.put(replace(stored, content=b"2"))).version > stored.version


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_and_the_one_that_it_was_forked_from_both_go_on(path: Path) -> None:
    a = Worker(path)
    token = anyio.run(partial(a.log_in, text=LARGE))
    child = os.fork()
    if not child:
        try:
            anyio.run(a.visit, token, put(child=1))
            seen = anyio.run(a.visit, token)
            os._exit(0 if seen.result == {"text": LARGE, "child": 1} else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    anyio.run(a.visit, token, put(parent=1))
    assert anyio.run(a.visit, token).result == {"text": LARGE, "child": 1, "parent": 1}


WRITER = """
import sys, anyio
from pathlib import Path
from tests.backends.sqlite.test_store import Worker, put

async def main():
    worker = Worker(Path(sys.argv[1]))
    for number in range(int(sys.argv[4])):
        answer = await worker.visit(sys.argv[2], put(**{f"{sys.argv[3]}-{number}": number}))
        assert answer.status == 200, answer.status
        print(number, flush=True)

anyio.run(main)
"""


def start_writer(path: Path, token: str, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), token, name, str(count)], stdout=subprocess.PIPE, text=True)


@pytest.mark.real
def test_processes_that_change_one_session_at_once_lose_nothing_not_even_when_one_is_killed(path: Path) -> None:
    a = Worker(path)
    token = anyio.run(partial(a.log_in, text=LARGE))
    writers = [start_writer(path, token, name, 10) for name in "abc"]
    victim = start_writer(path, token, "victim", 1000)
    acknowledged = 0
    try:
        assert victim.stdout is not None
        for _ in range(5):
            acknowledged = int(victim.stdout.readline())
        victim.kill()
        acknowledged = max([acknowledged, *map(int, victim.stdout.read().split())])
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    finally:
        for process in (victim, *writers):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    seen = anyio.run(a.visit, token).result
    assert {f"{name}-{number}" for name in "abc" for number in range(10)} <= seen.keys()
    assert {f"victim-{number}" for number in range(acknowledged + 1)} <= seen.keys()
