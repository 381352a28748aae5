"""Read the body of an answer: the whole of it, or line by line as it arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import httpx2

from ...abc import Clock
from .api import FOREIGN, EtcdForeign, EtcdSilent, EtcdUnavailable

SILENCE_S = 3.0
"""A stream without a byte for this time is given up: its member of etcd may be frozen. Watchers write heartbeats below the watched
prefix more often than that, so a healthy watch is never silent for so long."""
MAX_BYTES = 64 * 1024 * 1024
"""Largest accepted answer or line. A page of long entries has some megabytes; a line contains a few revisions of 2 MB at most."""


@asynccontextmanager
async def _chunks_of(response: httpx2.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """Provide the body in chunks. If it is left before its end, its generators are cancelled, since they would otherwise outlive it."""
    chunks = response.aiter_raw()
    try:
        yield chunks
    except BaseException:
        with anyio.CancelScope() as scope, suppress(httpx2.HTTPError, httpx2.StreamError):
            scope.cancel()
            async for _ in chunks:
                pass
        raise


async def read(response: httpx2.Response) -> bytes:
    """Return the whole body.

    Raises:
        EtcdForeign: the body is longer than any answer of etcd.
    """
    parts, size = [], 0
    async with _chunks_of(response) as chunks:
        async for chunk in chunks:
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_BYTES:
                raise EtcdForeign(FOREIGN)
    return b"".join(parts)


async def follow_lines(
    response: httpx2.Response, clock: Clock, take_line: Callable[[bytes], None], *, silence_s: float = SILENCE_S
) -> None:
    """Pass each line of the body to ``take_line``. Never returns.

    Raises:
        EtcdSilent: nothing arrived for ``silence_s``.
        EtcdUnavailable: the body has ended.
        EtcdForeign: a line is longer than any message of etcd.
    """
    rest: list[bytes] = []
    size = 0
    async with _chunks_of(response) as chunks:
        while True:
            *lines, last = (await _next(chunks, clock, silence_s)).split(b"\n")
            for line in lines:
                content = b"".join([*rest, line])
                rest, size = [], 0
                if content:
                    take_line(content)
            rest.append(last)
            size += len(last)
            if size > MAX_BYTES:
                raise EtcdForeign(FOREIGN)


async def _next(chunks: AsyncIterator[bytes], clock: Clock, silence_s: float) -> bytes:
    with clock.move_on_after(silence_s):
        try:
            return await anext(chunks)
        except StopAsyncIteration:
            raise EtcdUnavailable("has ended the watch") from None
    raise EtcdSilent("has fallen silent")
