"""Let a node drain at SIGTERM under uvicorn, also with workers of its own or of gunicorn.

``lifespan.shutdown`` comes after the server has closed its listener, which is too late for balancers. So the handler that uvicorn has set
is called later. Other servers set handlers that an app cannot put off: there, ``manager.drain()`` or ``ha-session drain`` comes before
the signal. Nothing here uses ``loop.add_signal_handler``: it would take the handler's place, and the server would never stop.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import anyio
import anyio.abc

from .._node.node import Node
from .last_requests import IDLE_S, close_listeners, wait_for_idle

LEAVE_AFTER_S = 3.0
"""How long after the listener has closed a node leaves that still answers requests. Then only streams and downloads are left, mostly. An
orchestrator that kills a process 10 s after it asked it to end then finds that it has left."""

Handler = Callable[[int, FrameType | None], Any]


class Sigterm:
    """The handler of SIGTERM in the place of the server's, which it calls after the drain.

    Args:
        node: drains.
        theirs: the server's handler.
    """

    def __init__(self, node: Node, theirs: Handler) -> None:
        self._node = node
        self._theirs = theirs
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take the signal. A second one ends the drain at once."""
        if self._number:
            self._pass_on(frame)
        else:
            self._number = number
            self._loop.call_soon_threadsafe(self._wake.set)  # the loop may be waiting for its sockets

    def _pass_on(self, frame: FrameType | None = None) -> None:
        self._theirs(self._number, frame)

    async def drain_when_told(self) -> None:
        """Wait for the signal; drain, have the server stop, and leave."""
        await self._wake.wait()
        begun_s = self._loop.time()
        try:
            await self._node.draining.drain()
        except Exception:
            self._pass_on()  # otherwise nothing but SIGKILL would end the process
            raise
        closed_s = self._loop.time()
        server = getattr(self._theirs, "__self__", None)
        if self._node.settings.drain_delay and server is not None:  # without a delay there is no balancer
            await close_listeners(server)
            # Connections that were used since the beginning are closed by now.
            await wait_for_idle(server, begun_s + IDLE_S - closed_s)
        self._pass_on()
        await anyio.sleep(max(0.0, closed_s + LEAVE_AFTER_S - self._loop.time()))
        await self._node.log.leave()


def _of_uvicorn() -> Handler | None:
    """Return the handler of SIGTERM if uvicorn has set it; None if another server has, or nobody."""
    if threading.current_thread() is not threading.main_thread():
        return None  # only the main thread may set handlers
    handler = signal.getsignal(signal.SIGTERM)
    kinds = type(getattr(handler, "__self__", None)).__mro__
    is_theirs = any(kind.__module__ == "uvicorn.server" and kind.__name__ == "Server" for kind in kinds)
    return handler if is_theirs and callable(handler) else None


@asynccontextmanager
async def drains_on_sigterm(node: Node) -> AsyncIterator[None]:
    """Drain a node before its server stops, while the block runs, where the server permits that."""
    theirs = _of_uvicorn()
    if theirs is None:
        yield
        return
    ours = Sigterm(node, theirs)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ours.drain_when_told)
        signal.signal(signal.SIGTERM, ours)
        try:
            yield
        finally:
            if signal.getsignal(signal.SIGTERM) is ours:
                signal.signal(signal.SIGTERM, theirs)
            tasks.cancel_scope.cancel()
