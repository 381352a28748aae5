"""The threads in which this package waits for files. All threads of the app may be waiting for a log-out that such a file must keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

import anyio.to_thread
from anyio.lowlevel import RunVar

AT_ONCE = 8
"""More than a node has files. anyio's own 40 are those of the app: handlers that block take all of them."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("ha_session_mw.threads")


def own_threads() -> anyio.CapacityLimiter:
    """Return the limiter of this event loop's threads."""
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(AT_ONCE)
        _limiter.set(limiter)
        return limiter


async def in_own_thread(call: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
    """Return what a function returns that waits, however busy the threads of the app are. A cancelled caller waits for it, too."""
    return await anyio.to_thread.run_sync(call, *args, limiter=own_threads())
