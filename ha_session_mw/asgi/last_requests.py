"""Close a uvicorn server so that no request is lost that is on its way: first the listener, then, later, connections that are idle.

A server that closes both at once cuts off requests that have just arrived on an idle connection, and connections that it has not accepted.
A balancer repeats a GET then, and must not repeat a POST. It may if it finds the port closed: then nothing was executed.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Iterable
from typing import Protocol

from .._machine.port_mates import is_inherited

IDLE_S = 3.0
"""How long after the beginning of a drain a connection may stay idle. A generated configuration closes one that is idle for 1 s, and one
that is used during a drain is closed after its answer."""
MOST_LOOKS = 1_000
"""How often the listeners are looked at. A port to which clients connect without a pause has to be closed at some time, too."""
QUIET_LOOKS = 3
"""How many looks in a row must find nobody. A connection that asyncio has accepted gets its transport one iteration of the loop later. If
the server is closed by then, asyncio drops the connection."""


class _Socket(Protocol):
    def fileno(self) -> int: ...


class _Listener(Protocol):
    @property
    def sockets(self) -> Iterable[_Socket]: ...

    def close(self) -> None: ...


class _State(Protocol):
    connections: set[object]


class UvicornServer(Protocol):
    """The used part of ``uvicorn.Server``."""

    servers: list[_Listener]
    server_state: _State


async def close_listeners(server: UvicornServer) -> bool:
    """Close the listeners of a server at a moment at which nobody waits to be accepted.

    Returns:
        Whether they are closed. They are not if the parent of this process has them, too, as uvicorn does with ``--workers``. The system
        would then take connections that nobody serves. gunicorn closes its own before it stops its workers.
    """
    listeners = getattr(server, "servers", ())  # there are none while the server starts
    files = [one.fileno() for listener in listeners for one in listener.sockets]
    if not files or any(map(is_inherited, files)):
        return False
    with selectors.DefaultSelector() as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ)
        quiet = 0
        for _ in range(MOST_LOOKS):
            quiet = 0 if selector.select(0) else quiet + 1
            if quiet == QUIET_LOOKS:
                break
            await asyncio.sleep(0)  # the loop accepts them
        for listener in listeners:  # at once: microseconds after the look
            listener.close()
    return True


async def wait_for_idle(server: UvicornServer, limit_s: float) -> None:
    """Return once no connection is open, or after a time."""
    end_s = asyncio.get_running_loop().time() + limit_s
    while server.server_state.connections and (left_s := end_s - asyncio.get_running_loop().time()) > 0:  # noqa: ASYNC110
        await asyncio.sleep(min(0.1, left_s))  # uvicorn tells nobody when a connection has ended
