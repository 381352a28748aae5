"""The threads in which this package waits for files, and what the tasks of one event loop share.

All threads of the app may be waiting for a log-out that a file must keep. So none of them is used here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, TypeVarTuple, Unpack

import anyio.to_thread
from anyio.lowlevel import RunVar

AT_ONCE = 8
"""More than a node has files. anyio's own 40 are those of the app: handlers that block take all of them."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class PerLoop(Generic[T]):
    """One object for each event loop that asks for it: what is set or released in one loop wakes no task of another.

    A handler in a thread may run a loop of its own, as ``asyncio.run`` does, and a test client runs one for each request.

    Args:
        make: makes the object, such as a lock.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: RunVar[T] = RunVar("ha_session_mw")

    def get(self) -> T:
        """Return the object of the running event loop."""
        try:
            return self._made.get()
        except LookupError:
            made = self._make()
            self._made.set(made)
            return made


own_threads = PerLoop(lambda: anyio.CapacityLimiter(AT_ONCE)).get
"""Returns the limiter of the threads of this package in the running event loop."""


def one_thread() -> PerLoop[anyio.CapacityLimiter]:
    """Return the limiter of a thread that no other file occupies, in each event loop."""
    return PerLoop(lambda: anyio.CapacityLimiter(1))


async def in_own_thread(call: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
    """Return what a function returns that waits, however busy the threads of the app are. A cancelled caller waits for it, too."""
    return await anyio.to_thread.run_sync(call, *args, limiter=own_threads())
