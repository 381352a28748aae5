"""A position that rises: each task that waits for it wakes once, when its own position is reached, and few wake at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from ha_session_mw.backends.common.watermark import AWAKE, AWAKE_SHARE, Watermark

from ...waiting import LIMIT_S

pytestmark = pytest.mark.anyio


class Waiters:
    """Tasks that wait for positions, and which of them have gone on."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.mark = Watermark()
        self.went_on: list[int] = []
        self._tasks = tasks

    async def wait_for(self, *positions: int) -> None:
        for position in positions:
            self._tasks.start_soon(self._wait, position)
        await anyio.wait_all_tasks_blocked()

    async def _wait(self, position: int) -> None:
        await self.mark.reached(position)
        self.went_on.append(position)


@asynccontextmanager
async def waiting() -> AsyncIterator[Waiters]:
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            yield Waiters(tasks)
            tasks.cancel_scope.cancel()


async def test_only_those_wake_whose_position_is_reached() -> None:
    async with waiting() as waiters:
        await waiters.wait_for(5, 3, 3, 9)
        waiters.mark.rise(3)
        await anyio.wait_all_tasks_blocked()
        assert waiters.went_on == [3, 3]
        waiters.mark.rise(8)
        await anyio.wait_all_tasks_blocked()
        assert waiters.went_on == [3, 3, 5]
        await waiters.wait_for(8)  # reached before
        assert waiters.went_on == [3, 3, 5, 8]


async def test_the_position_never_falls() -> None:
    async with waiting() as waiters:
        waiters.mark.rise(7)
        waiters.mark.rise(2)
        await waiters.wait_for(7)
        assert waiters.went_on == [7]


async def test_a_crowd_lets_other_tasks_run_in_between() -> None:
    async with waiting() as waiters:
        await waiters.wait_for(*[1] * 100)
        waiters.mark.rise(1)
        seen = []
        while len(waiters.went_on) < 100:
            seen.append(len(waiters.went_on))
            await anyio.lowlevel.checkpoint()
        assert max(later - sooner for sooner, later in pairwise(seen)) <= 2 * max(AWAKE, 100 // AWAKE_SHARE)


async def test_those_that_give_up_hold_up_nobody() -> None:
    async with waiting() as waiters:
        await waiters.wait_for(*[1] * AWAKE)
        async with anyio.create_task_group() as leaving:
            for _ in range(3 * AWAKE):
                leaving.start_soon(waiters.mark.reached, 1)
            await anyio.wait_all_tasks_blocked()
            await waiters.wait_for(1, 2)
            waiters.mark.rise(1)  # some that leave are awake by now, and others are next
            leaving.cancel_scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert waiters.went_on == [1] * (AWAKE + 1)
        waiters.mark.rise(2)
        await anyio.wait_all_tasks_blocked()
        assert waiters.went_on == [*[1] * (AWAKE + 1), 2]


async def test_a_wait_that_is_given_up_leaves_nothing_behind() -> None:
    async with waiting() as waiters:
        for _ in range(3):
            with anyio.move_on_after(0):
                await waiters.mark.reached(4)
        assert not any(waiters.mark._waiting.values())
        assert waiters.mark._heights == [4]
