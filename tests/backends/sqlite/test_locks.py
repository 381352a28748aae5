"""Locks of a machine's processes: tickets that end with their process, clocks that begin anew, and real processes that are killed."""

# ruff: noqa: ASYNC110, ASYNC240 - files are what this is about

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
import pytest

from ha_session_mw import LockLost, SessionLocked, StoreUnavailable
from ha_session_mw._machine.sqlite_file import WRITE_LIMIT_S
from ha_session_mw.abc import Grant
from ha_session_mw.backends.common.queued_locks import Admission, Ticket
from ha_session_mw.backends.sqlite.lock_file import LockFile
from ha_session_mw.backends.sqlite.locks import TICKET_S, SqliteLocks
from ha_session_mw.clocks import SystemClock
from ha_session_mw.testing import LockNode, ManualClock
from ha_session_mw.testing.contracts.locks import wait

from ...testing.contracts.test_locks import OneMachine
from ...waiting import LIMIT_S

ROOT = Path(__file__).parents[3]
LEASE_S = 6.0
T = TypeVar("T")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db-records"


class Queue:
    """The queue of one lock. Each ticket belongs to a process that does only what the test says."""

    def __init__(self, path: Path, clock: ManualClock) -> None:
        self.file = LockFile(path, clock.boot_s)
        self._names = map(str, count())

    def ticket(self, name: str = "x", holder: str | None = None) -> Ticket:
        return Ticket(name, holder or next(self._names), LEASE_S, 0.0, 0.0)

    def take(self, ticket: Ticket) -> Admission:
        return self.file.take(ticket, TICKET_S)

    def grant(self, ticket: Ticket, admission: Admission) -> Grant:
        return Grant(ticket.name, admission.number, 0.0, ticket.holder)


@pytest.fixture
def queue(path: Path, clock: ManualClock) -> Iterator[Queue]:
    queue = Queue(path, clock)
    yield queue
    queue.file.close()


# Tickets


def test_the_first_has_the_lock_and_the_others_know_how_many_come_first(queue: Queue) -> None:
    a, b, c = tickets = queue.ticket(), queue.ticket(), queue.ticket()
    assert [queue.take(ticket).ahead for ticket in tickets] == [0, 1, 2]
    assert [queue.take(ticket).ahead for ticket in tickets] == [0, 1, 2]  # each keeps its place
    queue.file.leave("x", a.holder)
    assert [queue.take(ticket).ahead for ticket in (c, b, c)] == [1, 0, 1]


def test_one_that_waited_and_died_is_passed_over_before_the_lease_of_a_holder_would_be_over(queue: Queue, clock: ManualClock) -> None:
    holder, dead, next_one = queue.ticket(), queue.ticket(), queue.ticket()
    for ticket in (holder, dead, next_one):
        queue.take(ticket)
    queue.file.leave("x", holder.holder)
    clock.advance(TICKET_S / 2)
    assert queue.take(next_one).ahead == 1
    clock.advance(TICKET_S / 2)
    assert queue.take(next_one).ahead == 0


def test_a_waiter_that_overslept_its_place_goes_to_the_end_with_a_new_number(queue: Queue, clock: ManualClock) -> None:
    holder, sleeper, other = queue.ticket(), queue.ticket(), queue.ticket()
    queue.take(holder)
    before = queue.take(sleeper).number
    queue.file.leave("x", holder.holder)
    clock.advance(TICKET_S)
    granted = queue.take(other)
    assert granted.ahead == 0
    again = queue.take(sleeper)
    assert before < granted.number < again.number
    assert again.ahead == 1


def test_a_waiter_sees_the_end_of_a_place_without_delay(queue: Queue, clock: ManualClock) -> None:
    holder, waiting = queue.ticket(), queue.ticket()
    queue.take(holder)
    place = queue.take(waiting)
    clock.advance(LEASE_S)
    assert queue.file.ahead("x", place.number) == 0


def test_a_place_is_no_lock(queue: Queue) -> None:
    holder, waiting = queue.ticket(), queue.ticket()
    queue.take(holder)
    grant = queue.grant(waiting, queue.take(waiting))
    with pytest.raises(LockLost):
        queue.file.renew(grant, LEASE_S)


def test_a_write_that_comes_through_when_its_caller_has_left_takes_no_place(queue: Queue) -> None:
    late = queue.ticket()
    late.is_given_up = True
    queue.file.leave("x", late.holder)
    with pytest.raises(SessionLocked):
        queue.take(late)
    assert queue.take(queue.ticket()).ahead == 0


def test_leftovers_of_dead_processes_are_forgotten_and_live_ones_stay(queue: Queue, clock: ManualClock) -> None:
    dead, alive = queue.ticket(), queue.ticket("y")
    queue.take(dead)
    clock.advance(LEASE_S)
    place = queue.take(alive)
    queue.file.prune()
    assert numbers_in(queue) == [place.number]


def numbers_in(queue: Queue) -> list[int]:
    return [number for (number,) in queue.file._read(lambda db: db.execute("SELECT number FROM locks").fetchall())]


# The machine's clock


def test_a_holder_from_before_the_machine_restarted_blocks_no_other(queue: Queue, path: Path, clock: ManualClock) -> None:
    old = queue.ticket()
    old_grant = queue.grant(old, queue.take(old))
    restarted = Queue(path, ManualClock(boot_s=5))
    new = restarted.ticket(holder="new")
    place = restarted.take(new)
    assert place.ahead == 0
    with pytest.raises(LockLost):
        restarted.file.renew(old_grant, LEASE_S)
    assert numbers_in(restarted) == [place.number]  # the other cannot become good again when that clock has come so far


def test_a_holder_from_before_the_machine_was_started_again_is_forgotten(queue: Queue, path: Path) -> None:
    queue.take(queue.ticket())
    restarted = Queue(path, ManualClock(boot_s=5))
    restarted.file.prune()
    assert numbers_in(restarted) == []


def test_a_long_holder_blocks_no_other_for_long_after_a_restart(queue: Queue, path: Path, clock: ManualClock) -> None:
    old = queue.ticket()
    grant = queue.grant(old, queue.take(old))
    for _ in range(100):
        clock.advance(LEASE_S / 2)
        queue.file.renew(grant, LEASE_S)
    restarted = Queue(path, ManualClock(boot_s=1100))  # later in its life than when the lock was granted
    assert restarted.take(restarted.ticket(holder="new")).ahead == 0


def test_numbers_grow_on_in_a_file_that_was_made_anew(queue: Queue, path: Path, clock: ManualClock) -> None:
    before = queue.take(queue.ticket()).number
    queue.file.close()
    for file in path.parent.iterdir():
        file.unlink()
    assert Queue(path, clock).take(queue.ticket()).number > before


def test_numbers_grow_on_though_the_wall_clock_is_set_back_and_all_have_left(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.file.open()
    made_us = time.time_ns() // 1000
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    numbers = [made_us - 1_000_000]
    for _ in range(3):
        ticket = queue.ticket()
        numbers.append(queue.take(ticket).number)
        queue.file.leave(ticket.name, ticket.holder)
    assert numbers == sorted({*numbers})


def test_numbers_grow_on_when_the_last_ones_were_lost_with_the_power(queue: Queue, path: Path) -> None:
    queue.take(queue.ticket())
    queue.file.close()
    on_the_disk = path.read_bytes()
    lost = queue.take(queue.ticket()).number
    queue.file.close()
    path.write_bytes(on_the_disk)
    assert queue.take(queue.ticket()).number > lost


# Whole services


@contextmanager
def services(path: Path, number: int) -> Iterator[list[SqliteLocks]]:
    found = [SqliteLocks(SystemClock(), LockFile(path, SystemClock.boot_s)) for _ in range(number)]
    try:
        yield found
    finally:
        for service in found:
            service._file.close()


def places_in(worker: SqliteLocks) -> int:
    found: int = worker._file._read(lambda db: db.execute("SELECT count(*) FROM locks").fetchone()[0])
    return found


@pytest.mark.anyio
async def test_fifty_waiters_at_three_workers_all_get_the_lock_roughly_in_order(path: Path) -> None:
    served: list[int] = []

    async def wait(service: SqliteLocks, number: int) -> None:
        grant = await service.acquire("x", within_s=60, lease_s=60)
        served.append(number)
        await service.release(grant)

    with services(path, 3) as workers:
        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as tasks:
                grant = await workers[0].acquire("x", within_s=0, lease_s=60)
                for number in range(50):
                    tasks.start_soon(wait, workers[number % 3], number)
                    while places_in(workers[0]) < number + 2:
                        await anyio.sleep(0.001)
                await workers[0].release(grant)
    assert sorted(served) == [*range(50)]
    assert max(abs(place - number) for place, number in enumerate(served)) <= 3


@pytest.mark.anyio
async def test_one_that_waits_for_long_keeps_its_place(path: Path) -> None:
    nodes, served = OneMachine(path), list[int]()
    first, second, holder = nodes.desks

    async def wait_for_it(desk: LockNode, number: int) -> None:
        grant = await desk.locks.acquire("x", within_s=60, lease_s=60)
        served.append(number)
        await desk.locks.release(grant)

    async def story() -> None:
        grant = await holder.locks.acquire("x", within_s=0, lease_s=60)
        async with anyio.create_task_group() as tasks:
            for number, desk in enumerate((first, second)):
                tasks.start_soon(wait_for_it, desk, number)
                await wait(holder, 2 * TICKET_S)
            with pytest.raises(SessionLocked):  # and a newcomer passes over the tickets that have ended
                await holder.locks.acquire("x", within_s=0, lease_s=60)
            assert places_in(nodes.services[2]) == 3
            await holder.locks.release(grant)

    await nodes.run(story)
    nodes.close()
    assert served == [0, 1]


class Late(SystemClock):
    """A clock that moves only while the file is written."""

    now_s = 1000.0

    def boot_s(self) -> float:
        return self.now_s


class SlowFile(LockFile):
    """A file on a slow disk: each write takes three seconds, or until the test ends it."""

    def __init__(self, path: Path, clock: Late) -> None:
        super().__init__(path, clock.boot_s)
        self._clock = clock
        self.waits = False
        self.begun, self.let, self.done = threading.Event(), threading.Event(), threading.Event()

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self.waits:
            self.waits = False
            self.begun.set()
            self.let.wait(LIMIT_S)
            try:
                return super()._write(work)
            finally:
                self.done.set()
        found = super()._write(work)
        self._clock.now_s += 3
        return found


@pytest.mark.anyio
async def test_a_lease_counts_from_before_it_was_asked_for(path: Path) -> None:
    clock = Late()
    service = SqliteLocks(clock, SlowFile(path, clock))
    grant = await service.acquire("x", within_s=0, lease_s=60)
    assert (clock.now_s, grant.until_s) == (1003, 1060)
    grant = await service.renew(grant, lease_s=60)
    assert (clock.now_s, grant.until_s) == (1006, 1063)
    service._file.close()


@pytest.mark.anyio
async def test_a_waiter_that_leaves_while_its_place_is_being_written_leaves_none_behind(path: Path) -> None:
    clock = Late()
    file = SlowFile(path, clock)
    service, other = SqliteLocks(clock, file), SqliteLocks(clock, LockFile(path, clock.boot_s))
    file.waits = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(service.acquire, "x", within_s=60, lease_s=60))
        await anyio.to_thread.run_sync(file.begun.wait)
        tasks.cancel_scope.cancel()
    file.let.set()
    await anyio.to_thread.run_sync(file.done.wait)
    assert (await other.acquire("x", within_s=0, lease_s=60)).name == "x"
    for one in (service, other):
        one._file.close()


@pytest.mark.anyio
async def test_a_renewal_that_is_written_too_late_renews_nothing(path: Path, clock: ManualClock) -> None:
    file = SlowFile(path, Late())
    service = SqliteLocks(clock, file)
    grant = await service.acquire("x", within_s=0, lease_s=60)
    file.waits, told = True, list[StoreUnavailable]()

    async def renew() -> None:
        try:
            await service.renew(grant, lease_s=60)
        except StoreUnavailable as problem:
            told.append(problem)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(renew)
        await anyio.to_thread.run_sync(file.begun.wait)
        clock.advance(WRITE_LIMIT_S)
    assert "was not written in time" in str(told)
    file.let.set()
    await anyio.to_thread.run_sync(file.done.wait)
    file.close()


@pytest.mark.anyio
async def test_a_service_that_ends_leaves_no_file_open(path: Path) -> None:
    with services(path, 1) as [service]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.run)
            await service.acquire("x", within_s=0, lease_s=60)
            assert len([*path.parent.iterdir()]) > 1
            tasks.cancel_scope.cancel()
        assert [*path.parent.iterdir()] == [path]


@pytest.mark.anyio
async def test_a_forked_process_does_not_wait_for_a_write_of_the_one_that_it_was_forked_from(path: Path) -> None:
    with services(path, 1) as [service]:
        service._threads.get().acquire_on_behalf_of_nowait(object())
        service.after_fork(in_child=True)
        with anyio.fail_after(LIMIT_S):
            await service.acquire("x", within_s=0, lease_s=60)


@pytest.mark.anyio
async def test_waiters_learn_of_a_deleted_file_and_the_new_one_holds_locks_at_once(path: Path) -> None:
    told: list[StoreUnavailable] = []

    async def wait(worker: SqliteLocks) -> None:
        try:
            await worker.acquire("x", within_s=30, lease_s=60)
        except StoreUnavailable as problem:
            told.append(problem)

    with services(path, 2) as (a, b):
        lost = await a.acquire("x", within_s=0, lease_s=60)
        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait, b)
                while places_in(a) < 2 or b._file._reader is None:  # it waits, and looks into the file
                    await anyio.sleep(0.001)
                for file in path.parent.iterdir():
                    file.unlink()
        assert "was deleted or replaced" in str(told)
        grant = await b.acquire("x", within_s=0, lease_s=60)
        assert grant.fence > lost.fence
        with pytest.raises((LockLost, StoreUnavailable)):
            await a.renew(lost, lease_s=60)
        with pytest.raises(SessionLocked):
            await a.acquire("x", within_s=0, lease_s=60)


class CountedFile(LockFile):
    """Counts how often a ticket is written."""

    takes = 0

    def take(self, ticket: Ticket, good_s: float) -> Admission:
        self.takes += 1
        return super().take(ticket, good_s)


@pytest.mark.anyio
async def test_a_waiter_looks_into_the_new_file_and_does_not_write_repeatedly(path: Path) -> None:
    file = CountedFile(path, SystemClock.boot_s)
    waiting = SqliteLocks(SystemClock(), file)
    with services(path, 1) as [holder]:
        await holder.acquire("x", within_s=0, lease_s=60)
        with pytest.raises(SessionLocked):
            await waiting.acquire("x", within_s=0.05, lease_s=60)
        for one in path.parent.iterdir():
            one.unlink()
        with pytest.raises(StoreUnavailable, match="was deleted"):
            await holder.acquire("x", within_s=0, lease_s=60)
        await holder.acquire("x", within_s=0, lease_s=60)
        file.takes = 0
        with pytest.raises(SessionLocked):
            await waiting.acquire("x", within_s=0.3, lease_s=60)
    assert file.takes <= 4
    file.close()


@pytest.mark.anyio
async def test_an_unusable_file_is_reported_and_not_taken_for_a_free_lock(path: Path) -> None:
    path.write_bytes(b"no database at all, but some text" * 100)
    with services(path, 1) as [worker], pytest.raises(StoreUnavailable, match="is damaged, or is no database"):
        await worker.acquire("x", within_s=0, lease_s=60)
