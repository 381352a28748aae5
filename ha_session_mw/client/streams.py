"""Byte streams of httpx and httpx2. Both libraries check the class of a stream, so each gets classes of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import cache
from types import ModuleType
from typing import Any


@cache
def once(library: ModuleType) -> type[Any]:
    """Return a class of request bodies that can be sent once, and say whether that has begun."""

    class Once(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[misc, name-defined] # known at run time only
        def __init__(self, body: Any) -> None:
            self._body = body
            self.has_begun = False

        def __iter__(self) -> Iterator[bytes]:
            self.has_begun = True
            yield from self._body

        async def __aiter__(self) -> AsyncIterator[bytes]:
            self.has_begun = True
            async for chunk in self._body:
                yield chunk

        def close(self) -> None:
            """Leave the body open: another try may send it."""

        async def aclose(self) -> None:
            """Leave the body open: another try may send it."""

    return Once


@cache
def resumed(library: ModuleType) -> type[Any]:
    """Return a class of response bodies of which a part was read already."""

    class Resumed(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[misc, name-defined] # known at run time only
        def __init__(self, chunks: list[bytes], rest: Any, body: Any) -> None:
            self._chunks, self._rest, self._body = chunks, rest, body

        def __iter__(self) -> Iterator[bytes]:
            yield from self._chunks
            yield from self._rest

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in self._chunks:
                yield chunk
            async for chunk in self._rest:
                yield chunk

        def close(self) -> None:
            self._body.close()

        async def aclose(self) -> None:
            await self._body.aclose()

    return Resumed
