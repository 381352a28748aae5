"""The machine's clocks: what waiting by them costs on an event loop that counts in milliseconds."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TypeVarTuple

import anyio
import pytest

from ha_session_mw.clocks import SystemClock

from .waiting import LIMIT_S

Ts = TypeVarTuple("Ts")


class MillisecondLoop(asyncio.SelectorEventLoop):
    """Counts in whole milliseconds, as uvloop does: its timers may fire up to half of one too early."""

    def __init__(self) -> None:
        super().__init__()
        self.timers_set = 0

    def time(self) -> float:
        return int(super().time() * 1000) / 1000

    def call_at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> asyncio.TimerHandle:
        self.timers_set += when < math.inf
        return super().call_at(round(when, 3), callback, *args, context=context)


async def wait_for_a_tick() -> None:
    await SystemClock().sleep(0.0104)


async def wait_for_news_that_do_not_come() -> None:
    with SystemClock().move_on_after(0.0104) as limit:
        await anyio.sleep_forever()
    assert limit.cancelled_caught


@pytest.mark.parametrize("wait", [wait_for_a_tick, wait_for_news_that_do_not_come])
def test_a_wait_sets_one_timer_and_does_not_spin_within_its_last_millisecond(wait: Callable[[], Awaitable[None]]) -> None:
    async def timers_set() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, MillisecondLoop)
        loop.timers_set = 0
        begun_s = loop.time()
        await wait()
        assert loop.time() - begun_s >= 0.0104
        return loop.timers_set

    assert anyio.run(timers_set, backend="asyncio", backend_options={"loop_factory": MillisecondLoop}) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_a_wait_for_a_moment_that_has_passed_ends_at_once(seconds: float) -> None:
    with anyio.fail_after(LIMIT_S):
        await SystemClock().sleep(seconds)
        with SystemClock().move_on_after(seconds):
            await anyio.sleep_forever()


@pytest.mark.anyio
async def test_a_wait_without_end_lasts_until_it_is_cancelled() -> None:
    with anyio.move_on_after(0.01) as patience, SystemClock().move_on_after(math.inf):
        await anyio.sleep_forever()
    assert patience.cancelled_caught
