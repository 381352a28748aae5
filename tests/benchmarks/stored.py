"""The cost of a session whose data is on the server: ours, and starsessions' in a Redis of its own on loopback.

*Cold*: the node has no copy of the session's record, as when another node served it before, and reads the store.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send
from starsessions import load_session
from starsessions.stores.redis import RedisStore

from example_app.ports import reserve_port
from ha_session_mw import SessionManager
from ha_session_mw.manager import node_of

from ..waiting import end
from . import contenders
from .contenders import USER, App, Contender, LoadingReader, MissingError, NotReadError, Reader, Wrap, cookie_from, new_manager, ours_with
from .rounds import Timing, race

CONTENT: dict[str, Any] = {"user": USER, "cart": [{"article": number, "pieces": 2} for number in range(200)]}
"""Some four kilobytes: more than a cookie takes."""
MAX_WAIT_S = 20.0
WRITERS = 16

REDIS = "starsessions, in Redis"
WARM = "ours, in the store, warm"
COLD = "ours, in the store, cold"
REDIS_CHANGE = "starsessions, in Redis, changed"
CHANGE = "ours, in the store, changed"
IN_MEMORY, IN_FILE = "memory://", "sqlite://"


@contextmanager
def redis_server() -> Iterator[int]:
    """A Redis that keeps nothing on the disk, and is ended afterwards; gives its port."""
    program = shutil.which("redis-server")
    if program is None:
        raise MissingError("there is no redis-server to measure against; install it with: apt-get install -y redis-server")
    with tempfile.TemporaryDirectory() as folder:
        port = reserve_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            _wait_until_it_listens(port, process)
            yield port
        finally:
            end(process, MAX_WAIT_S)


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + MAX_WAIT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise NotReadError("redis-server did not start")


class Changer(App):
    """Changes one value of the session in each request."""

    def __init__(self, *, loads: bool) -> None:
        self._loads = loads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._loads:
            await load_session(HTTPConnection(scope))
        if scope["session"].get("user") != USER:
            raise NotReadError(f"the app was given the session {scope['session']!r}")
        self.reads += 1
        scope["session"]["visits"] = self.reads
        await contenders.answer(send)


async def measured(*, requests: int, rounds: int) -> dict[str, Timing]:
    """The time of each contender.

    Raises:
        MissingError: there is nothing to compare with.
    """
    with redis_server() as port, tempfile.TemporaryDirectory() as folder:
        async with Redis(host="127.0.0.1", port=port) as connection:
            return await race(await _field(connection, Path(folder)), requests=requests, rounds=rounds)


async def measured_together(*, requests: int, rounds: int) -> dict[str, Timing]:
    """The time of each contender for a change, while so many requests change a session each.

    Raises:
        MissingError: there is nothing to compare with.
    """
    with redis_server() as port, tempfile.TemporaryDirectory() as folder:
        async with Redis(host="127.0.0.1", port=port) as connection:
            theirs = contenders.starsessions_with(RedisStore(connection=connection))
            memory, file = new_manager(), new_manager(cluster=f"sqlite://{Path(folder) / 'sessions.db'}")
            field = [
                contenders.bare_app(),
                await _changing_together(REDIS_CHANGE, theirs, loads=True),
                await _changing_together(f"{CHANGE}, {IN_MEMORY}", ours_with(memory), loads=False),
                await _changing_together(f"{CHANGE}, {IN_FILE}", ours_with(file), loads=False),
            ]
            return await race(field, requests=requests, rounds=rounds)


async def _field(connection: Redis, folder: Path) -> list[Contender]:
    """Everybody, with sessions of the same content, each read, and then each changed."""
    theirs = contenders.starsessions_with(RedisStore(connection=connection))
    memory, file = new_manager(), new_manager(cluster=f"sqlite://{folder / 'sessions.db'}")
    return [
        contenders.bare_app(),
        await _reading(REDIS, theirs, LoadingReader()),
        await _reading(f"{WARM}, {IN_MEMORY}", ours_with(memory), Reader()),
        await _reading(f"{WARM}, {IN_FILE}", ours_with(file), Reader()),
        await _cold(f"{COLD}, {IN_FILE}", file),
        await _changing(REDIS_CHANGE, theirs, loads=True),
        await _changing(f"{CHANGE}, {IN_MEMORY}", ours_with(memory), loads=False),
        await _changing(f"{CHANGE}, {IN_FILE}", ours_with(file), loads=False),
    ]


async def _reading(name: str, wrap: Wrap, reader: App) -> Contender:
    cookie = await cookie_from(wrap, CONTENT)
    return contenders.requests(name, wrap(reader), reader, lambda count: repeat(cookie, count))


async def _cold(name: str, manager: SessionManager) -> Contender:
    """Each request finds the node without a copy; dropping it takes a part of a microsecond, which is measured too."""
    reader = Reader()
    app = ours_with(manager)(reader)
    cookie = await cookie_from(ours_with(manager), CONTENT)

    async def forgetful(scope: Scope, receive: Receive, send: Send) -> None:
        node_of(manager).copies.forget_all()
        await app(scope, receive, send)

    return contenders.requests(name, forgetful, reader, lambda count: repeat(cookie, count))


async def _changing(name: str, wrap: Wrap, *, loads: bool) -> Contender:
    changer = Changer(loads=loads)
    cookie = await cookie_from(wrap, CONTENT)
    return contenders.requests(name, wrap(changer), changer, lambda count: repeat(cookie, count))


async def _changing_together(name: str, wrap: Wrap, *, loads: bool) -> Contender:
    """Writers with a session each, which change it over and over."""
    writers = [await _changing(name, wrap, loads=loads) for _ in range(WRITERS)]

    def batch(count: int) -> Awaitable[None]:
        batches = [writer.batch(count // WRITERS) for writer in writers]

        async def all_of_them() -> None:
            await asyncio.gather(*batches)

        return all_of_them()

    return Contender(name, batch)
