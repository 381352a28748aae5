"""Steps of a request that a cancellation cannot cut in two: it counts afterwards.

Servers cancel the task of a request whose client has gone, and apps cancel what exceeds their time limit. A shielded scope holds back
the cancellations of anyio and trio. It does not hold back asyncio's own ``Task.cancel()``, which servers and ``asyncio.timeout`` use.
On asyncio, each step is therefore a task of its own, which nobody else can cancel.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import TYPE_CHECKING, Self, TypeVar

import anyio

if TYPE_CHECKING:
    from asyncio import Future

T = TypeVar("T")

LAST_S = 5.0
"""How many seconds the last thing may take: as long as each clean-up may. A client that does not read must not hold a task."""


class Uncancelled:
    """Runs steps to their end. At the end of its ``with`` block, the caller is cancelled as often as it was meanwhile.

    The caller must be one task, and its steps must have time limits of their own.
    """

    def __init__(self) -> None:
        self._held = 0
        self._ran = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        asyncio = _asyncio() if self._held else None
        if asyncio is None:
            return
        task = asyncio.current_task()
        # Each cancellation was counted when it was asked for, and is asked for anew: whoever did so finds the number that it left.
        held, self._held = self._held, 0
        for _ in range(held):
            task.uncancel()
        for _ in range(held):
            task.cancel()

    async def run(self, step: Callable[[], Awaitable[T]], *, limit_s: float = math.inf) -> T:
        """Run a step and return its result.

        Raises:
            TimeoutError: it took longer than ``limit_s`` and was cancelled.
        """
        self._ran = True
        with anyio.CancelScope(shield=True) as scope:
            asyncio = _asyncio()
            if asyncio is None:
                scope.deadline = anyio.current_time() + limit_s
                return await step()
            task: Future[T] = asyncio.ensure_future(step())
            waits = asyncio.sleep(0)  # for its first turn, in which the last thing of most requests ends
            try:
                while True:
                    try:
                        await waits
                    except asyncio.CancelledError:
                        if scope.cancel_called:  # the limit
                            raise
                        self._held += 1
                    if task.done():
                        return task.result()
                    if limit_s < scope.deadline == math.inf:
                        scope.deadline = anyio.current_time() + limit_s
                    waits = _ended(task)
            finally:
                if task.cancel():
                    with anyio.CancelScope(shield=True):
                        await _ended(task)
        raise TimeoutError

    async def finish(self, last: Callable[[], Awaitable[None]]) -> None:
        """Do the last thing, which tells the client what the steps have done. If there were none, it is cancelled like anything else.

        Raises:
            TimeoutError: it took too long.
        """
        if self._ran:
            await self.run(last, limit_s=LAST_S)
        else:
            await last()


async def _ended(task: Future[T]) -> None:
    """Return once a task has ended. ``asyncio.wait`` does the same for several ones, in three times the time."""
    ended = task.get_loop().create_future()

    def tell(_: object) -> None:
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(tell)
    try:
        await ended
    finally:
        task.remove_done_callback(tell)


def _asyncio() -> ModuleType | None:
    """Return asyncio if it runs the caller. A program on trio may never load it."""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio if asyncio is not None and asyncio.current_task() is not None else None
    except RuntimeError:  # trio
        return None
