"""``sqlite://``: workers of one machine share a file, and anything may happen to that file."""
# ruff: noqa: ASYNC222, ASYNC240 - files and processes are what this is about

from __future__ import annotations

import logging
import math
import os
import shutil
import sqlite3
import stat
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest

from ha_session_mw import ConfigurationError, SessionManager, SessionMiddleware, Settings
from ha_session_mw._core.accept_rule import CannotTell
from ha_session_mw._core.cluster.entries import encode_entry
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw._machine.sqlite_file import WRITE_BUSY_S, FileTrouble
from ha_session_mw.backends.sqlite import entry_file
from ha_session_mw.backends.sqlite import log as log_module
from ha_session_mw.backends.sqlite.entry_file import PAGE_ROWS, EntryFile
from ha_session_mw.backends.sqlite.log import PAGES_AT_ONCE, WATCH_S
from ha_session_mw.exceptions import ClientFault, QuorumLost
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny
from ha_session_mw.testing import SECRET, ManualClock, mint_session, who_is_there

from ...waiting import LIMIT_S, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


class Worker:
    """One process, as the file sees it."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.clock: ManualClock | None = settings.pop("clock", None)
        self.manager = SessionManager(Settings(**{"secret_key": SECRET, **settings}, cluster=f"sqlite://{path}"), clock=self.clock)
        self.middleware = SessionMiddleware(who_is_there, manager=self.manager)
        self.log: Any = node_of(self.manager).log

    def log_in(self, subject: str = "ada") -> str:
        return mint_session(self.manager, subject)

    async def log_out(self, token: str) -> str:
        verified = node_of(self.manager).validator.validate(token.encode())
        assert isinstance(verified, Verified)
        return (await node_of(self.manager).revoker.revoke_session(verified.claims)).mode

    def says(self, token: str) -> str:
        """Return ``yes``, or the code of the problem."""
        try:
            found = node_of(self.manager).validator.validate(token.encode())
        except ClientFault as problem:
            return problem.code
        return found.problem.code if isinstance(found, CannotTell) else "yes"

    def deny(self, id: str) -> Deny:
        return Deny(id, int(self.manager.clock.wall_s() * 1000) + 3_600_000)

    async def request(self, method: str, path: str, token: str) -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.middleware), base_url="http://worker.test") as client:
            return await client.request(method, path, headers={"authorization": f"Bearer {token}"})


@asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker.manager.running())
        yield


# Together


async def test_a_log_out_at_one_worker_counts_at_all_others_from_their_next_request_on(path: Path) -> None:
    a, b, c = workers = [Worker(path) for _ in range(3)]  # none of them runs a lifespan, or looks in the background
    token = a.log_in()
    assert [worker.says(token) for worker in workers] == ["yes"] * 3
    assert await b.log_out(token) == "fenced"
    assert [worker.says(token) for worker in (a, c, b)] == ["session_revoked"] * 3


async def test_a_log_out_everywhere_counts_at_all_workers_and_spares_later_log_ins(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    before = a.log_in()
    await a.manager.revoke_subject("ada")
    after = b.log_in()  # made by a worker that was told nothing
    assert [worker.says(before) for worker in (a, b)] == ["session_revoked"] * 2
    assert [worker.says(after) for worker in (a, b)] == ["yes"] * 2


async def test_a_worker_reads_a_long_file_page_by_page(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    await node_of(a.manager).log.append([a.deny(f"{number}") for number in range(2 * PAGE_ROWS)])
    await node_of(a.manager).log.append([a.deny("the last one")])
    for worker in (b, Worker(path)):
        assert worker.says(worker.log_in()) == "yes"  # which reads the file first
        assert len(node_of(worker.manager).view) == 2 * PAGE_ROWS + 1
        assert node_of(worker.manager).log.position() == 2 * PAGE_ROWS + 1


@pytest.fixture
def _short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (entry_file, log_module):
        monkeypatch.setattr(module, "PAGE_ROWS", 10)


@pytest.mark.usefixtures("_short_pages")
async def test_a_worker_reads_a_flood_of_log_outs_in_steps_and_accepts_nobody_before_the_last_one(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    stays, goes = a.log_in(), a.log_in()
    assert [b.says(stays), b.says(goes)] == ["yes", "yes"]
    await a.log_out(goes)
    await node_of(a.manager).log.append([a.deny(f"{number}") for number in range(20 * PAGES_AT_ONCE * 10)])
    assert b.says(stays) == "state_stale"
    while (why := b.log.why_not_ready()) is not None:  # each look reads on
        assert why == "still reading the file of HA_SESSION_CLUSTER"
        assert b.says(goes) != "yes"
    assert [b.says(stays), b.says(goes)] == ["yes", "session_revoked"]


@pytest.mark.usefixtures("_short_pages")
async def test_other_tasks_have_their_turns_while_a_worker_reads_a_flood_of_log_outs(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    many = 9 * PAGES_AT_ONCE * 10
    async with running(b):
        await node_of(a.manager).log.append([a.deny(f"{number}") for number in range(many)])
        turns = set()
        with anyio.fail_after(LIMIT_S):
            while (position := b.log.position()) < many:
                turns.add(position)
                await anyio.lowlevel.checkpoint()
        assert len(turns) > 2
        assert b.log.why_not_ready() is None


async def test_log_outs_survive_a_restart_of_all_workers(path: Path) -> None:
    a = Worker(path)
    async with running(a):
        gone, stays, cut_off = a.log_in(), a.log_in(), a.log_in("grace")
        await a.log_out(gone)
        await a.manager.revoke_subject("grace")
        again = a.log_in("grace")
    b = Worker(path)
    assert [b.says(token) for token in (gone, stays, cut_off, again)] == ["session_revoked", "yes", "session_revoked", "yes"]


async def test_a_worker_that_gets_no_requests_learns_within_a_second_for_its_open_connections(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    told: list[object] = []
    node_of(b.manager).on_entries(told.extend)
    async with running(a, b):
        await a.log_out(a.log_in())
        await eventually(lambda: told)
    assert WATCH_S < 1


async def test_each_worker_is_a_node_of_its_own_also_under_one_name(path: Path) -> None:
    workers = [Worker(path, node_id="web"), Worker(path, node_id="web"), Worker(path)]
    ids = [worker.manager.node_id for worker in workers]
    assert len(set(ids)) == 3
    assert [id.rpartition("-")[0] for id in ids] == ["web", "web", "node"]


async def test_a_session_that_lists_a_cut_from_before_the_file_is_good(path: Path) -> None:
    in_memory = SessionManager(Settings(secret_key=SECRET))
    await in_memory.revoke_subject("ada")
    token = mint_session(in_memory, "ada")
    assert Worker(path).says(token) == "yes"  # moved to sqlite:// without logging anybody out


# Ends


async def test_an_ended_entry_is_deleted_and_stays_refused_when_the_clock_is_set_back(path: Path) -> None:
    clock = ManualClock()
    a = Worker(path, clock=clock, idle_timeout="10m", absolute_timeout="10m")
    token = a.log_in()
    await a.log_out(token)
    clock.advance(3600)
    await a.log._prune()
    assert rows_in(path) == 0
    clock.step_wall(-3600)
    assert Worker(path, clock=clock).says(token) == "session_expired"


async def test_a_number_is_not_used_again_when_the_last_row_was_deleted(path: Path) -> None:
    clock = ManualClock()
    a, b = Worker(path, clock=clock), Worker(path, clock=clock)
    token = a.log_in()
    await node_of(a.manager).log.append([Deny("long-over", 1)])
    assert b.says(token) == "yes"
    await a.log._prune()
    assert rows_in(path) == 0
    await a.log_out(token)
    assert b.says(token) == "session_revoked"


def rows_in(path: Path) -> int:
    db = sqlite3.connect(path)
    try:
        return int(db.execute("SELECT count(*) FROM entries").fetchone()[0])
    finally:
        db.close()


# Trouble


@pytest.fixture
def intruder(path: Path) -> Iterator[sqlite3.Connection]:
    Worker(path)
    db = sqlite3.connect(path, isolation_level=None)
    yield db
    db.close()


def why_refused(worker: Worker) -> str:
    """Return why log-outs are refused at a worker, which goes on serving; empty if they are not."""
    assert worker.manager.why_not_ready() is None
    return "" if worker.log.has_quorum() else worker.log.why_no_quorum()


async def test_a_locked_file_refuses_log_outs_with_503_which_count_here_and_everywhere_once_it_is_free(
    path: Path, intruder: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = Worker(path), Worker(path)
    token = a.log_in()
    async with running(a, b):
        intruder.execute("BEGIN IMMEDIATE")
        answer = await a.request("POST", "/logout", token)
        assert (answer.status_code, answer.json()["code"], answer.json()["outcome"]) == (503, "quorum_lost", "executed")
        assert (a.says(token), b.says(token)) == ("session_revoked", "yes")
        assert why_refused(a) == "the file of HA_SESSION_CLUSTER is locked by another process, or by a program that copies it"
        intruder.execute("ROLLBACK")
        await eventually(lambda: b.says(token) == "session_revoked")
        await eventually(lambda: not why_refused(a))
    said = [record.message for record in caplog.records if record.name == "ha_session_mw.sqlite"]  # the node may say it at a tick, too
    assert sum("is locked by another process" in text for text in said) == 1
    assert "the file of HA_SESSION_CLUSTER can be written again" in said


async def test_a_confirmation_leaves_no_row_and_a_refused_one_is_told_until_the_file_is_free(
    path: Path, intruder: sqlite3.Connection
) -> None:
    a, b = Worker(path), Worker(path)
    token = a.log_in()
    async with running(a, b):
        await a.log.confirm()
        assert rows_in(path) == 0
        await b.log_out(b.log_in())
        intruder.execute("BEGIN IMMEDIATE")
        with pytest.raises(QuorumLost, match="is locked by another process"):
            await a.log.confirm()
        assert "is locked" in why_refused(a)
        intruder.execute("ROLLBACK")
        await eventually(lambda: not why_refused(a))
        assert rows_in(path) == 1
        assert [worker.says(token) for worker in (a, b)] == ["yes", "yes"]


async def test_a_full_disk_confirms_nothing_and_what_was_confirmed_has_room(path: Path) -> None:
    a = Worker(path)
    await a.log.confirm()
    a.log._file._writer.execute("PRAGMA max_page_count = 1")  # SQLite's minimum is the current size
    confirmed = 0
    with suppress(QuorumLost):
        while confirmed < 1000:  # a page that is begun has room for some more
            await a.log.confirm()
            confirmed += 1
            await a.log.append([a.deny(f"{confirmed:022}")])
            confirmed += 1
    assert confirmed % 2 == 0
    assert why_refused(a) == "the file of HA_SESSION_CLUSTER cannot be written: the disk is full"


MANY = int(LIMIT_S / WRITE_BUSY_S) + 1
"""So many writes to a locked file take longer than the limit, one after the other."""


async def test_many_confirmations_on_a_locked_file_are_all_answered_in_bounded_time(path: Path, intruder: sqlite3.Connection) -> None:
    a = Worker(path)
    refused: list[str] = []

    async def confirm() -> None:
        with pytest.raises(QuorumLost):
            await a.log.confirm()
        refused.append("")

    intruder.execute("BEGIN IMMEDIATE")
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            for _ in range(MANY):
                tasks.start_soon(confirm)
    assert len(refused) == MANY


async def test_many_log_outs_on_a_locked_file_are_all_answered_in_bounded_time(path: Path, intruder: sqlite3.Connection) -> None:
    a = Worker(path)
    tokens = [a.log_in() for _ in range(MANY)]
    refused: list[str] = []

    async def log_out(token: str) -> None:
        try:
            await a.log_out(token)
        except QuorumLost as lost:
            refused.append(str(lost))

    intruder.execute("BEGIN IMMEDIATE")
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            for token in tokens:
                tasks.start_soon(log_out, token)
    assert len(refused) == MANY


async def test_a_full_disk_refuses_log_outs_with_503_and_sessions_are_still_validated(path: Path) -> None:
    a = Worker(path)
    gone, stays = a.log_in(), a.log_in()
    await a.log_out(a.log_in())
    a.log._file._writer.execute("PRAGMA max_page_count = 1")  # SQLite's minimum is the current size
    a.log.apply([Deny(f"{number:0500}", int(a.manager.clock.wall_s() * 1000) + 3_600_000) for number in range(50)])
    answer = await a.request("POST", "/logout", gone)
    assert (answer.status_code, answer.json()["code"]) == (503, "quorum_lost")
    assert why_refused(a) == "the file of HA_SESSION_CLUSTER cannot be written: the disk is full"
    assert [a.says(token) for token in (gone, stays)] == ["session_revoked", "yes"]


async def test_a_read_only_file_refuses_log_outs_with_503(path: Path) -> None:
    a = Worker(path)
    gone, stays = a.log_in(), a.log_in()
    await a.log_out(a.log_in())
    a.log._file._writer.execute("PRAGMA query_only = on")
    answer = await a.request("POST", "/logout", gone)
    assert (answer.status_code, answer.json()["code"]) == (503, "quorum_lost")
    assert "it is read-only" in why_refused(a)
    assert [a.says(token) for token in (gone, stays)] == ["session_revoked", "yes"]


async def test_a_file_that_cannot_be_read_makes_the_worker_stale_but_refusals_hold(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    a = Worker(path, clock=clock)
    gone, stays = a.log_in(), a.log_in()
    await a.log_out(gone)
    assert a.says(stays) == "yes"

    def fails(*_: object) -> None:
        raise FileTrouble("cannot be read or written: the disk fails", passing=True)

    with monkeypatch.context() as patch:
        patch.setattr(EntryFile, "version", fails)
        clock.advance(0.2)
        answer = await a.request("GET", "/", stays)
        assert (answer.status_code, answer.json()["code"]) == (503, "state_stale")
        assert a.says(gone) == "session_revoked"
        answer = await a.request("POST", "/login/grace", gone)  # nothing is made that may miss a cut
        assert (answer.status_code, answer.json()["code"]) == (503, "state_stale")
    clock.advance(0.2)
    assert a.says(stays) == "yes"
    assert (await a.manager.status())["freshness_age_s"] == 0
    assert node_of(a.manager).view.fresh_at == math.inf


async def test_a_deleted_file_is_reported_and_made_again_with_all_that_the_workers_know(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = Worker(path), Worker(path)
    gone, stays = a.log_in(), a.log_in()
    async with running(a, b):
        await a.log_out(gone)
        assert b.says(gone) == "session_revoked"
        path.unlink()
        await eventually(lambda: path.exists() and rows_in_or_0(path))
        await eventually(lambda: [worker.says(stays) for worker in (a, b)] == ["yes", "yes"])
    assert "was deleted or replaced while it was in use" in caplog.text
    assert Worker(path).says(gone) == "session_revoked"


async def test_an_emptied_file_is_called_damaged_until_it_is_deleted_and_then_made_again(path: Path) -> None:
    """SQLite keeps what it has beside the file, so the locks of one worker keep the others from it."""
    a, b = Worker(path), Worker(path)
    gone, stays = a.log_in(), a.log_in()
    async with running(a, b):
        await a.log_out(gone)
        assert b.says(gone) == "session_revoked"
        os.truncate(path, 0)
        await eventually(lambda: all("is damaged" in (worker.manager.why_not_ready() or "") for worker in (a, b)))
        assert [worker.says(stays) for worker in (a, b)] == ["state_stale", "state_stale"]
        path.unlink()
        await eventually(lambda: [worker.says(stays) for worker in (a, b)] == ["yes", "yes"])
    assert Worker(path).says(gone) == "session_revoked"


def rows_in_or_0(path: Path) -> int:
    try:
        return rows_in(path)
    except sqlite3.Error:
        return 0


def lose(path: Path, *ends: str) -> None:
    """Delete what SQLite keeps beside the file."""
    for end in ends:
        path.with_name(path.name + end).unlink()


def after_a_crash(path: Path) -> Worker:
    """A worker that starts on what is on the disk, after all others were killed at this moment."""
    folder = path.parent / f"image-{len([*path.parent.iterdir()])}"
    folder.mkdir()
    for end in ("", "-wal", "-known"):
        if (found := path.with_name(path.name + end)).exists():
            shutil.copy(found, folder)
    return Worker(folder / path.name)


BESIDE = [("-wal",), ("-shm",), ("-wal", "-shm")]


@pytest.mark.parametrize("ends", BESIDE, ids="and".join)
async def test_no_log_out_is_lost_with_the_write_ahead_log_while_a_worker_lives(
    ends: tuple[str, ...], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = Worker(path), Worker(path)
    gone, late, stays = a.log_in(), a.log_in(), a.log_in()
    async with running(a, b):
        assert await a.log_out(gone) == "fenced"
        assert b.says(gone) == "session_revoked"
        denial = a.deny(late.split(".")[1])
        lose(path, *ends)
        with suppress(QuorumLost):  # unless both have opened the file again by then
            await a.log.append([denial])
        await eventually(lambda: not a.log._unwritten)  # both have noticed by then
        await eventually(lambda: [worker.says(stays) for worker in (a, b)] == ["yes", "yes"])
        await eventually(lambda: not b.log._unwritten)
        assert await b.log_out(stays) == "fenced"
        assert [after_a_crash(path).says(token) for token in (gone, late, stays)] == ["session_revoked"] * 3
        assert after_a_crash(path).log.exposure() is None
    assert "has lost the -wal or -shm beside it" in caplog.text
    assert [Worker(path).says(token) for token in (gone, late, stays)] == ["session_revoked"] * 3


@pytest.mark.parametrize("ends", BESIDE, ids="and".join)
async def test_a_log_out_into_a_lost_write_ahead_log_is_not_acknowledged(ends: tuple[str, ...], path: Path) -> None:
    a = Worker(path)
    await a.log_out(a.log_in())
    denial = a.deny(a.log_in().split(".")[1])
    lose(path, *ends)
    with pytest.raises(QuorumLost, match="has lost the -wal or -shm"):
        await a.log.append([denial])


async def test_the_last_log_outs_of_a_lost_write_ahead_log_are_read_before_it_is_let_go(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    token = a.log_in()
    assert [worker.says(token) for worker in (a, b)] == ["yes", "yes"]
    await a.log_out(token)
    lose(path, "-wal", "-shm")
    b.log._sure_until_s = -math.inf  # b looks whether the file is the same, before it reads
    assert b.says(token) == "session_revoked"


async def test_a_worker_that_starts_after_all_were_killed_before_they_wrote_a_lost_log_again_tells_of_it(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    token = a.log_in()
    assert [worker.says(token) for worker in (a, b)] == ["yes", "yes"]
    await a.log_out(token)
    lose(path, "-wal", "-shm")
    a.log._sure_until_s = -math.inf
    assert a.says(token) == "session_revoked"  # which has noticed; b has the lost files open still
    late = after_a_crash(path)
    assert late.says(token) == "yes"
    assert "older" in str(late.log.exposure())


async def test_a_log_out_into_a_file_that_has_lost_its_name_is_not_acknowledged(path: Path) -> None:
    a = Worker(path)
    token = a.log_in()
    await a.log_out(a.log_in())
    verified = node_of(a.manager).validator.validate(token.encode())
    assert isinstance(verified, Verified)
    path.unlink()
    with pytest.raises(QuorumLost, match="was deleted"):
        await node_of(a.manager).revoker.revoke_session(verified.claims)


async def test_an_older_copy_in_its_place_is_reported_and_completed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a = Worker(path)
    first, second = a.log_in(), a.log_in()
    async with running(a):
        await a.log_out(first)
        copy_of(path)
        await a.log_out(second)
        put_copy_in_place(path)
        await eventually(lambda: "an older one" in caplog.text and rows_in_or_0(path) >= 2)
    assert [Worker(path).says(token) for token in (first, second)] == ["session_revoked"] * 2


async def test_an_older_copy_that_is_put_into_the_file_itself_is_completed(path: Path) -> None:
    a = Worker(path)
    first, second = a.log_in(), a.log_in()
    async with running(a):
        await a.log_out(first)
        copy_of(path)
        await a.log_out(second)
        backup, live = sqlite3.connect(path.with_suffix(".copy")), sqlite3.connect(path)
        backup.backup(live)
        backup.close()
        live.close()
        await eventually(lambda: rows_in_or_0(path) >= 2)
    assert [Worker(path).says(token) for token in (first, second)] == ["session_revoked"] * 2


async def test_no_worker_trusts_a_missing_file_when_the_next_one_takes_a_log_out(path: Path) -> None:
    a = Worker(path)
    token = a.log_in()
    assert a.says(token) == "yes"
    path.unlink()
    assert a.says(token) == "yes"  # for a tenth of a second
    b = Worker(path)
    assert await b.log_out(token) == "fenced"
    assert a.says(token) != "yes"


async def test_a_thread_outside_the_event_loop_changes_no_knowledge(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    token = a.log_in()
    async with running(a):
        await eventually(lambda: a.says(token) == "yes")
        await b.log_out(token)
        before = a.log._position
        thread = Thread(target=a.log._poll_file)
        thread.start()
        thread.join()  # and nothing else runs meanwhile
        assert a.log._position == before
        assert a.says(token) == "session_revoked"


async def test_an_entry_without_a_waiter_is_written_before_the_end(path: Path) -> None:
    a = Worker(path)
    async with running(a):
        await eventually(lambda: a.log._thread)
        a.log.apply([Deny("taken back", 1 << 50)])
    assert rows_in(path) == 1


async def test_one_write_includes_all_entries_since_the_last(path: Path) -> None:
    a, written = Worker(path), list[int]()
    append = a.log._file.append

    def counted(rows: list[object]) -> int:
        written.append(len(rows))
        number: int = append(rows)
        return number

    a.log._file.append = counted
    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(a.log.append, [Deny(f"family {number}", 1 << 50)])
    assert sum(written) == 10
    assert len(written) <= 2


async def test_an_entry_that_is_asked_for_during_its_write_is_written_once_more(path: Path) -> None:
    """The file may have lost it meanwhile. While it waits, it waits once."""
    a = Worker(path)
    entry = a.deny("of a session")
    append = a.log._file.append

    def asked_for_meanwhile(rows: list[object]) -> int:
        number: int = append(rows)
        a.log._file.append = append
        for _ in range(3):
            a.log.apply([entry])
        return number

    a.log._file.append = asked_for_meanwhile
    await a.log.append([entry])
    assert rows_in(path) == 1
    await a.log.append([])
    assert rows_in(path) == 2


async def test_a_forked_worker_does_not_wait_for_a_write_of_the_one_that_it_was_forked_from(path: Path) -> None:
    a = Worker(path)
    async with a.log._disk.get():
        a.log.after_fork(in_child=True)
        await a.log.append([Deny("family", 1 << 50)])
    assert rows_in(path) == 1


async def test_the_floor_that_replaces_deleted_entries_never_falls(path: Path) -> None:
    file = EntryFile(path)
    for until_ms in (10, 5):
        file.append([(1, until_ms, b"")])
        assert file.prune(10) == 1
        assert file.read(0).floor_ms == 10
    file.close()


async def test_an_older_copy_that_has_grown_past_a_workers_position_is_read_and_completed(path: Path) -> None:
    a = Worker(path)
    tokens = [a.log_in() for _ in range(5)]
    copy_of(path)
    await a.log_out(tokens[0])
    assert a.says(tokens[0]) == "session_revoked"
    put_copy_in_place(path)
    b = Worker(path)  # knows none of the lost entries
    for token in tokens[1:4]:
        await b.log_out(token)
    await eventually(lambda: [a.says(token) for token in tokens] == ["session_revoked"] * 4 + ["yes"], 3)
    async with running(a):
        await eventually(lambda: b.says(tokens[0]) == "session_revoked", 3)


def copy_of(path: Path) -> None:
    backup, source = sqlite3.connect(path.with_suffix(".copy")), sqlite3.connect(path)
    source.backup(backup)
    source.close()
    backup.close()


def put_copy_in_place(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    path.with_suffix(".copy").replace(path)


async def restored(path: Path, **settings: Any) -> tuple[list[str], ManualClock]:
    """Tokens of log-outs before and after a backup, which has come back while no worker ran."""
    clock = ManualClock()
    a = Worker(path, clock=clock, **settings)
    tokens = [a.log_in(), a.log_in()]
    async with running(a):
        await a.log_out(tokens[0])
        copy_of(path)
        clock.advance(6)
        await a.log_out(tokens[1])
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.with_suffix(".copy").replace(path)
    return tokens, clock


async def test_a_backup_that_was_restored_between_two_starts_is_told_until_everybody_is_logged_out(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens, clock = await restored(path)
    b = Worker(path, clock=clock)
    async with running(b):
        assert [b.says(token) for token in tokens] == ["session_revoked", "yes"]
        assert "log out everybody" in caplog.text
        assert "older" in str((await b.manager.status())["exposed_because"])
        assert "older" in (await b.request("GET", "/-/session/readyz", tokens[0])).json()["warning"]
    clock.advance(600)
    c = Worker(path, clock=clock)
    async with running(c):
        assert "older" in str(c.log.exposure())  # a restart is no decision
        await c.manager.revoke_everybody()
        assert c.log.exposure() is None
        assert [c.says(token) for token in tokens] == ["session_revoked"] * 2
    assert Worker(path, clock=clock).log.exposure() is None


async def test_a_restored_backup_is_told_until_all_tokens_from_before_it_have_ended(path: Path) -> None:
    _, clock = await restored(path)
    assert Worker(path, clock=clock).log.exposure()
    clock.advance(12 * 3600 - 60)
    assert Worker(path, clock=clock).log.exposure()
    clock.advance(180)
    assert Worker(path, clock=clock).log.exposure() is None


async def test_a_file_that_was_lost_between_two_starts_is_told(path: Path) -> None:
    tokens, clock = await restored(path)
    path.unlink()
    b = Worker(path, clock=clock)
    assert "another one" in str(b.log.exposure())
    assert [b.says(token) for token in tokens] == ["yes", "yes"]


async def test_a_file_that_is_newer_than_it_was_known_is_no_loss(path: Path) -> None:
    """As after a loss of power: what was noted about the file was not on the disk yet."""
    a = Worker(path)
    async with running(a):
        await a.log_out(a.log_in())
    file, last, _ = path.with_name("sessions.db-known").read_text().split()
    for text in (f"{file} {int(last) - 1} 0", "", "garbage", f"{file} \N{SUPERSCRIPT TWO} 0", f"{file} {'9' * 99} 0"):
        path.with_name("sessions.db-known").write_text(text)
        assert Worker(path).log.exposure() is None


async def test_a_damaged_file_stops_the_start_and_is_left_as_it_is(path: Path) -> None:
    damage = b"no database at all, but text that somebody has put there" * 100
    path.write_bytes(damage)
    with pytest.raises(ConfigurationError, match="HA_SESSION_CLUSTER: the file is damaged, or is no database"):
        Worker(path)
    assert path.read_bytes() == damage


async def test_a_file_that_is_damaged_in_use_makes_the_worker_stale(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    token = a.log_in()
    assert (a.says(token), b.says(token)) == ("yes", "yes")
    a.log._file.append([(1, 2**50, b"\xc1 no entry")])
    assert b.says(token) == "state_stale"
    assert b.manager.why_not_ready() == "the file of HA_SESSION_CLUSTER is damaged"


@pytest.mark.parametrize(
    "what", ["body = CAST(replace(body, x'61', x'62') AS BLOB)", "until_ms = until_ms - 4096", "body = NULL", "crc = crc + 1"]
)
async def test_a_log_out_that_is_not_what_was_written_is_never_taken_for_another(path: Path, what: str) -> None:
    """A flipped bit in the content of a row is no damage to SQLite."""
    a = Worker(path)
    await a.log.append([a.deny("aaaaaaaaaaaaaaaaaaaaaa")])
    db = sqlite3.connect(path)
    db.execute(f"UPDATE entries SET {what}")
    db.commit()
    db.close()
    with pytest.raises(ConfigurationError, match=r"the file is damaged.* stop all workers and restore a backup"):
        Worker(path)


async def test_the_file_of_an_earlier_build_gets_room_for_checksums_and_that_build_goes_on_writing(path: Path) -> None:
    a = Worker(path)
    token = a.log_in()
    db = sqlite3.connect(path)
    db.execute("ALTER TABLE entries DROP COLUMN crc")
    db.execute("INSERT INTO entries (version, until_ms, body) SELECT 1, ?, ?", (1 << 50, encode_entry(Deny("before", 1 << 50))))
    db.commit()
    b = Worker(path)
    db.execute("INSERT INTO entries (version, until_ms, body) SELECT 1, ?, ?", (1 << 50, encode_entry(Deny("after", 1 << 50))))
    db.commit()
    db.close()
    assert await b.log_out(token) == "fenced"
    assert {"before", "after"} < {*node_of(Worker(path).manager).view.denied}


async def test_the_database_of_another_program_is_refused(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(ConfigurationError, match="the file is the database of another program"):
        Worker(path)


@pytest.mark.parametrize("what", ["folder", "place"])
async def test_a_path_at_which_no_file_can_be_stops_the_start(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="HA_SESSION_CLUSTER: the file cannot be opened") as told:
        Worker(tmp_path if what == "folder" else tmp_path / "file" / "below")
    if what == "place":
        assert f"Not a directory: '{tmp_path}/file/below'" in str(told.value) or f"File exists: '{tmp_path}/file'" in str(told.value)


async def test_a_file_that_is_locked_at_the_start_is_waited_for_with_503(
    path: Path, intruder: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ha_session_mw.backends.sqlite.log.OPEN_S", 0.1)
    token = mint_session(SessionManager(Settings(secret_key=SECRET)), "ada")
    intruder.execute("PRAGMA locking_mode = EXCLUSIVE")
    intruder.execute("BEGIN EXCLUSIVE")
    a = Worker(path)
    assert a.says(token) == "node_starting"
    assert "is locked" in (a.manager.why_not_ready() or "")
    intruder.close()
    async with running(a):
        await eventually(lambda: a.says(token) == "yes")


async def test_entries_of_another_release_are_refused_and_never_passed_over(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    token = a.log_in()
    assert b.says(token) == "yes"
    a.log._file.append([(2, 2**50, b"from the future")])
    await node_of(a.manager).log.append([Deny("something", 2**50)])
    assert [worker.says(token) for worker in (a, b)] == ["state_stale"] * 2
    assert "of another release" in (b.manager.why_not_ready() or "")
    with pytest.raises(ConfigurationError, match="entries of another release"):
        Worker(path)


async def test_a_file_of_another_release_is_refused(path: Path) -> None:
    Worker(path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(ConfigurationError, match="was written by another release"):
        Worker(path)


# The file itself


async def test_it_is_for_its_owner_alone_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "sessions.db"
    a = Worker(path)
    await a.log_out(a.log_in())
    keys = path.with_name("sessions.db-keys")
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in keys.iterdir()] == [0o600] * 2  # of this worker, and the latest time
    files = [file for file in path.parent.iterdir() if file != keys]
    shared = {f"sessions.db{what}{log}" for what in ("", "-records") for log in ("", "-wal", "-shm")}
    assert {file.name for file in files} == {*shared, "sessions.db-known"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_when_all_have_gone_the_log_and_the_records_are_left(path: Path) -> None:
    a, b = Worker(path), Worker(path)
    async with running(a, b):
        await a.log_out(a.log_in())
        b.log_in()
    left = [path, *(path.with_name(f"sessions.db-{what}") for what in ("keys", "known", "records"))]
    await eventually(lambda: sorted(path.parent.iterdir()) == left)  # a thread may be deleting the record of the log-out still


async def test_a_write_is_whole_or_not_at_all(path: Path) -> None:
    a = Worker(path)
    with pytest.raises(FileTrouble):
        a.log._file.append([(1, 2**50, b"one"), (1, 2**50, b"two"), (None, None, b"none")])
    assert rows_in(path) == 0


async def test_every_commit_is_synced(path: Path) -> None:
    a = Worker(path)
    await a.log_out(a.log_in())
    writer = a.log._file._writer
    assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
async def test_a_forked_worker_has_connections_and_a_name_of_its_own(path: Path, anyio_backend_name: str) -> None:
    """Worse than ``gunicorn --preload``: the parent has served before it forks."""
    a = Worker(path)
    token = a.log_in()
    await a.log_out(a.log_in())
    assert a.says(token) == "yes"
    before = a.manager.node_id
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            assert a.says(token) == "yes"
            assert a.manager.node_id != before
            a.log._file.append([(1, 2**50, b"\x93\xa1d\xa5child\xcf\x00\x04\x00\x00\x00\x00\x00\x00")])
            assert a.says(token) == "yes"
            os._exit(0)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert a.says(token) == "yes"
    assert "child" in node_of(a.manager).view.denied
    assert a.manager.node_id == before
    assert await a.log_out(token) == "fenced"


# Settings


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/app/sessions.db", "/var/lib/app/sessions.db"),
        ("sqlite:////var/lib/app/sessions.db", "/var/lib/app/sessions.db"),
        ("sqlite:///with space/and?mark", "/with space/and?mark"),
    ],
)
def test_the_path_follows_the_two_slashes(url: str, path: str) -> None:
    assert Settings(secret_key=SECRET, cluster=url).cluster.file == Path(path)


def test_a_relative_path_begins_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(secret_key=SECRET, cluster="sqlite://./data/s.db").cluster.file == tmp_path / "data" / "s.db"


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite://sessions.db", "sqlite://./", "sqlite:///:memory:", "sqlite:///folder/"]
)
def test_a_url_without_a_file_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must be sqlite:///path/of/a/file"):
        Settings(secret_key=SECRET, cluster=url)


def test_settings_of_peers_contradict_it() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings(secret_key=SECRET, cluster="sqlite:///s.db", peers="http://a:1", state_dir="/var/lib")
    assert len(refused.value.faults) == 2
    with pytest.raises(ConfigurationError, match="HA_SESSION_SECRET_KEY"):
        Settings(secret_key="example", cluster="sqlite:///s.db", allow_weak_secret=True)


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ha_session_mw")
