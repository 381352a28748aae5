"""The cost of many live sessions and many denials: a request's time, and memory."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterable, Sequence

from ha_session_mw import SessionManager
from ha_session_mw.manager import node_of

from .contenders import (
    Contender,
    Header,
    Reader,
    as_cookie,
    discard,
    headers_with,
    mint,
    new_manager,
    ours_with,
    receive,
    requests,
    scope_of,
)

FEW = 100
"""Live sessions that the others are compared with."""
PER_SESSION_BYTES = 4096
"""Room in the cache for each session, so that all of them are warm."""


async def contenders(sizes: Sequence[int], denials: int) -> list[Contender]:
    """Ours with so many live sessions, all of them warm, and with few of them and many denials."""
    found = [
        await _with_sessions(f"{size:,} live sessions", new_manager(cache_size=size, cache_bytes=size * PER_SESSION_BYTES), size)
        for size in sizes
    ]
    manager = new_manager()
    await deny(manager, denials)
    return [*found, await _with_sessions(f"{FEW:,} live sessions, {denials:,} denials", manager, FEW)]


async def _with_sessions(name: str, manager: SessionManager, size: int) -> Contender:
    tokens = mint(manager, size)
    reader = Reader()
    app = ours_with(manager)(reader)
    for token in tokens:
        await app(scope_of(headers_with(as_cookie(token))), receive, discard)
    chance = random.Random(size)

    def visitors(count: int) -> Iterable[Header]:
        return map(as_cookie, chance.choices(tokens, k=count))

    return requests(name, app, reader, visitors)


async def deny(manager: SessionManager, count: int) -> None:
    for _ in range(count):
        await manager.revoke_session(node_of(manager).issuer.new_id())


async def bytes_of_denials(count: int) -> int:
    """The memory that so many denials take, the ids that they name included."""
    manager = new_manager()
    tracemalloc.start()
    try:
        await deny(manager, count)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
