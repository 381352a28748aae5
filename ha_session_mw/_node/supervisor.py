"""Run background tasks, and restart those that crash: a crash must neither stop the app nor go unnoticed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from threading import Thread, current_thread

import anyio
import anyio.abc
import anyio.lowlevel

from ..abc import Clock
from ..exceptions import UsageError

logger = logging.getLogger("ha_session_mw")

RESTART_S = 1.0
"""Delay before a crashed task is started again: short, but long enough not to fill the log."""

Task = Callable[[], Awaitable[None]]


class Supervisor:
    """Runs coroutine functions for as long as the node does.

    Attributes:
        known: all tasks with their names, in the order in which they were added.
        crashes: how often each task has crashed and was started again.
        is_running: whether the tasks run.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.known: list[tuple[str, Task]] = []
        self._tasks: anyio.abc.TaskGroup | None = None
        self._loop: object = None
        self._thread: Thread | None = None
        self.is_running = False
        self.crashes: Counter[str] = Counter()

    def add(self, name: str, task: Task) -> None:
        """Add a coroutine function; it starts at once if the node runs already."""
        self.known.append((name, task))
        if self._tasks is not None:
            self._tasks.start_soon(self._keep_going, name, task)

    def require_loop(self) -> None:
        """Raise if the caller runs in another event loop than the node: an event set in the node's loop would not wake the caller.

        Raises:
            UsageError: the caller runs in another event loop.
        """
        if self.is_running and anyio.lowlevel.current_token() != self._loop:
            raise UsageError(
                "this runs in another event loop than the node's (by asyncio.run?); "
                "from a thread, call it by anyio.from_thread.run, or in Django by async_to_sync"
            )

    def is_elsewhere(self) -> bool:
        """Whether the event loop of the tasks belongs to another thread, even if it only has requests left.

        Those may wait for what the tasks bring. No other thread may set the events of that loop.
        """
        thread = self._thread
        return thread is not None and thread is not current_thread() and thread.is_alive()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the tasks while the block runs. Entering waits for nothing; entering again inside changes nothing."""
        if self._tasks is not None:  # an outer middleware of this process has entered
            yield
            return
        async with anyio.create_task_group() as tasks:
            for name, task in self.known:
                tasks.start_soon(self._keep_going, name, task)
            self._tasks, self._loop, self.is_running = tasks, anyio.lowlevel.current_token(), True
            self._thread = current_thread()
            try:
                yield
            finally:
                self._tasks, self.is_running = None, False
                tasks.cancel_scope.cancel()

    async def _keep_going(self, name: str, task: Task) -> None:
        while True:
            try:
                await task()
            except Exception:
                self.crashes[name] += 1
                logger.exception("the background task %r has crashed, and is started again", name)
            else:
                return
            await self._clock.sleep(RESTART_S)
