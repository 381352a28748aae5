"""Wait until no task can continue unless time passes."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.to_thread

from .._machine.threads import own_threads


async def until_nothing_moves() -> None:
    """Return once all other tasks wait and no thread works.

    Raises:
        RuntimeError: the tasks do not come to rest.
    """
    for _ in range(100_000):
        await _all_blocked()
        if not own_threads().borrowed_tokens and not anyio.to_thread.current_default_thread_limiter().borrowed_tokens:
            return
        await anyio.sleep(0.0001)  # a thread works on a file, and nothing reports when it is done
    raise RuntimeError("the tasks do not come to rest")


async def _all_blocked() -> None:
    """Return once all other tasks are blocked."""
    try:
        me = asyncio.current_task()
    except RuntimeError:  # trio has this built in; anyio's version for asyncio sleeps, so it is not used there
        with anyio.fail_after(60):
            await anyio.wait_all_tasks_blocked()
        return
    # A task that can go on is one of the loop's next callbacks, so that without any there is nothing to look for. Other loops
    # have no such list.
    callbacks = getattr(asyncio.get_running_loop(), "_ready", (None,))
    quiet = 0
    for _ in range(100_000):
        await asyncio.sleep(0)
        if callbacks and (
            any(map(_continues_a_task, callbacks)) or not all(_is_blocked(task) for task in asyncio.all_tasks() if task is not me)
        ):
            quiet = 0
            continue
        quiet += 1
        if quiet == _QUIET_ROUNDS:
            return
    raise RuntimeError("the tasks do not come to rest")


_QUIET_ROUNDS = 3
"""Rounds of the event loop in which all tasks must be blocked. A cancellation may be pending: anyio delivers it in the next round."""


def _continues_a_task(callback: Any) -> bool:
    """Whether this is certain: looking at all tasks takes longer."""
    return isinstance(getattr(getattr(callback, "_callback", None), "__self__", None), asyncio.Task)


def _is_blocked(task: asyncio.Task[Any]) -> bool:
    waits_for = task._fut_waiter  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public tells
    return waits_for is not None and not waits_for.done()
