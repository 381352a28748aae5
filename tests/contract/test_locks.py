"""The contract of a lock service, against every backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import anyio
import pytest

from ha_session_mw.abc import Grant
from ha_session_mw.backends.memory_locks import MemoryLocks
from ha_session_mw.testing import Desk, Desks, LockServiceContract, ManualClock

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class OneClock(Desks):
    """Nodes whose time passes while somebody waits, fast, and not while a thread has a file in hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()

    def is_busy(self) -> bool:
        return False

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        found: list[T] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tick)
            with anyio.fail_after(60):
                found.append(await function())
            tasks.cancel_scope.cancel()
        return found[0]

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(0.001)
            if not self.is_busy():
                self.clock.advance(0.02)


class Memory(OneClock):
    def __init__(self) -> None:
        super().__init__()
        self.desks = [Desk(MemoryLocks(self.clock), self.clock)]


class TestMemory(LockServiceContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Desks]:
        yield Memory()


# What breaks it is found out.


class Stubborn(MemoryLocks):
    """Keeps a place in the queue for one who has gone."""

    def _leave(self, name: str, ticket) -> None:  # type: ignore[no-untyped-def]
        """It may come back."""


class Generous(MemoryLocks):
    """Renews what is another's by now."""

    async def renew(self, grant: Grant, *, lease_s: float) -> Grant:
        return grant


class Crowded(MemoryLocks):
    """Lets everybody in."""

    def _before(self, name: str, ticket):  # type: ignore[no-untyped-def]
        return None


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Stubborn, LockServiceContract.test_who_is_cancelled_while_waiting_leaves_no_place_in_the_queue),
        (Stubborn, LockServiceContract.test_a_released_lock_is_had_at_once_and_cannot_be_renewed),
        (Generous, LockServiceContract.test_a_lock_whose_lease_is_over_goes_to_the_next_and_is_lost_to_its_holder),
        (Crowded, LockServiceContract.test_a_lock_has_one_holder_at_a_time_on_whichever_node),
    ],
    ids=lambda value: value.__name__,
)
async def test_a_service_that_breaks_the_contract_is_found_out(
    kind: type[MemoryLocks], test: Callable[[LockServiceContract], Awaitable[None]]
) -> None:
    class Broken(LockServiceContract):
        def opened(self) -> AbstractAsyncContextManager[Desks]:
            return broken(kind)

    with pytest.raises((BaseExceptionGroup, Exception)):
        await test(Broken())


@asynccontextmanager
async def broken(kind: type[MemoryLocks]) -> AsyncIterator[Desks]:
    nodes = Memory()
    nodes.desks = [Desk(kind(nodes.clock), nodes.clock)]
    yield nodes
