"""daphne runs no lifespan, and keeps the connection of an app that raises. Twisted does here what other servers do by themselves.

Nothing of Twisted is imported unless its reactor runs the event loop, as under daphne alone.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from functools import partial
from inspect import getclosurevars, isfunction
from types import MethodType
from typing import Any

import anyio
from starlette.types import Send

from .._node.node import Node

logger = logging.getLogger("ha_session_mw")

STOP_WITHIN_S = 5.0
"""Seconds that the node may take to leave the cluster: the limit that this package sets for every clean-up."""
MOST_WRAPPERS = 32
"""The most middlewares further out that may wrap ``send``."""


async def run_with_reactor(node: Node) -> None:
    """Run the node until Twisted's reactor stops, if the reactor runs this event loop. Return once the node runs."""
    reactor = _reactor()
    if reactor is None or node.supervisor.is_running:
        return
    from twisted.internet.defer import Deferred

    runs = anyio.Event()
    task = asyncio.ensure_future(_run(node, runs))

    def stop() -> Any:
        task.cancel()
        return Deferred.fromFuture(asyncio.ensure_future(asyncio.wait([task], timeout=STOP_WITHIN_S)))

    reactor.addSystemEventTrigger("before", "shutdown", stop)
    await runs.wait()


def _reactor() -> Any:
    """Return Twisted's reactor if it runs this event loop; else None."""
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    if reactor is None:
        return None
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # trio
        return None
    return reactor if reactor.running and getattr(reactor, "_asyncioEventloop", None) is loop else None


async def _run(node: Node, runs: anyio.Event) -> None:
    try:
        async with node.running():
            logger.info("daphne runs no lifespan, so the node has started with the first request")
            runs.set()
            await anyio.sleep_forever()
    except Exception:
        logger.exception("the node cannot run")
    finally:
        runs.set()


def drop(send: Send) -> bool:
    """Drop the connection behind a ``send`` of daphne's. An error of the app would not, and would stop daphne's own clean-up.

    Returns:
        Whether that was possible: not on another server, nor behind a middleware whose ``send`` does not lead to daphne's.
    """
    if _reactor() is None:
        return False
    for sends in _inwards(send):
        request = sends.args[0] if isinstance(sends, partial) and sends.args else None
        channel = getattr(request, "channel", None)
        end = getattr(channel, "abortConnection", None)  # of HTTP/2, where the other one would end the response in order
        end = end or getattr(channel, "loseConnection", None)
        if end is not None:
            end()
            return True
    return False


def _inwards(send: Any) -> Iterator[Any]:
    """Yield a ``send``, then the one that it calls, and so on: middlewares further out keep theirs under that name."""
    for _ in range(MOST_WRAPPERS):
        yield send
        if isinstance(send, partial):
            send = send.keywords.get("send")
        elif isinstance(send, MethodType):
            send = getattr(send.__self__, "send", None)
        else:
            send = getclosurevars(send).nonlocals.get("send") if isfunction(send) else None
        if send is None:
            return
