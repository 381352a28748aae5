"""The pause and the log-in between two tries of a request, for clients that block and for those that suspend."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import anyio


class BetweenTries(Protocol):
    """A pause and perhaps a log-in. For a client that blocks, none of these coroutine functions suspends."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    def one_log_in(self) -> AbstractAsyncContextManager[object]:
        """Return a lock that all requests of the client share."""

    async def reauthenticate(self) -> None:
        """Log in by requests of the same client."""


@dataclass(frozen=True, slots=True)
class Blocking:
    """Between the tries of a client that blocks.

    Attributes:
        wait: waits for so many seconds.
        lock: is held by the request that logs in.
        log_in: logs in; None if the client cannot.
    """

    wait: Callable[[float], object]
    lock: threading.Lock
    log_in: Callable[[], Any] | None

    async def sleep(self, seconds: float) -> None:
        self.wait(seconds)

    @asynccontextmanager
    async def one_log_in(self) -> AsyncIterator[None]:
        with self.lock:
            yield

    async def reauthenticate(self) -> None:
        assert self.log_in is not None  # noqa: S101 - else no exchange asks for it
        self.log_in()


@dataclass(frozen=True, slots=True)
class Suspending:
    """The same for a client that suspends; ``wait`` and ``log_in`` are coroutine functions."""

    wait: Callable[[float], Awaitable[object]]
    lock: anyio.Lock
    log_in: Callable[[], Awaitable[Any]] | None

    async def sleep(self, seconds: float) -> None:
        await self.wait(seconds)

    def one_log_in(self) -> AbstractAsyncContextManager[object]:
        return self.lock

    async def reauthenticate(self) -> None:
        assert self.log_in is not None  # noqa: S101 - else no exchange asks for it
        await self.log_in()
