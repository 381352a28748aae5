"""Wait until nobody can go on without time passing."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread


async def until_nothing_moves() -> None:
    """Return once all other tasks wait, and no thread works.

    Raises:
        RuntimeError: there is no end to it.
    """
    for _ in range(100_000):
        await _all_blocked()
        if not anyio.to_thread.current_default_thread_limiter().borrowed_tokens:
            return
        await anyio.sleep(0.0001)  # a thread has a file in hand, and that takes what it takes
    raise RuntimeError("the tasks do not come to rest")


async def _all_blocked() -> None:
    """Return once all other tasks wait for something that none of them has done yet."""
    try:
        me = asyncio.current_task()
    except RuntimeError:  # trio has this built in. What anyio has for asyncio sleeps meanwhile.
        with anyio.fail_after(10):
            await anyio.wait_all_tasks_blocked()
        return
    quiet = 0
    for _ in range(100_000):
        await anyio.lowlevel.checkpoint()
        quiet = quiet + 1 if all(_is_blocked(task) for task in asyncio.all_tasks() if task is not me) else 0
        if quiet == _QUIET_ROUNDS:
            return
    raise RuntimeError("the tasks do not come to rest")


_QUIET_ROUNDS = 3
"""A cancellation may be on its way while its task looks blocked: anyio delivers it in the event loop's next round."""


def _is_blocked(task: asyncio.Task[Any]) -> bool:
    waits_for = task._fut_waiter  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public tells
    return waits_for is not None and not waits_for.done()
