"""The time and memory that a new node needs to learn all log-outs: from a file, from etcd, or from the other members."""

from __future__ import annotations

import json
import logging
import resource
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import randrange
from tempfile import TemporaryDirectory

import anyio
import uvicorn

from ha_session_mw import SessionManager, SessionMiddleware, Settings
from ha_session_mw._core.ordered.checkpoints import LEAST
from ha_session_mw.backends.etcd.api import EtcdUnavailable, Operation, put
from ha_session_mw.backends.etcd.gateway import EtcdGateway
from ha_session_mw.backends.etcd.keys import Keys
from ha_session_mw.backends.etcd.process import AGAIN_S
from ha_session_mw.backends.etcd.writer import BATCH
from ha_session_mw.clocks import SystemClock
from ha_session_mw.exceptions import QuorumLost
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny

from .cluster import MAX_WAIT_S, MEMBERS, PEERS
from .contenders import KEY, NotReadError

HOUR_MS = 3_600_000
JOB = 5_000
"""Log-outs in one call."""
WRITERS = 8
"""Transactions under way at a time while etcd is filled."""
LOOK_S = 0.005
"""How often a process looks whether it is ready. To look takes time of the processor, which it needs to learn."""
MAX_LEARNING_S = 15 * MAX_WAIT_S


def new_node(cluster: str, denials: int) -> tuple[float, int]:
    """Log out so many sessions, and start a process.

    Returns:
        the seconds until it is ready, and by how many bytes more it grew than one that started when there were no log-outs.
    """
    _, without = _learned(cluster, 0)
    anyio.run(_fill, cluster, denials)
    ready_s, taken = _learned(cluster, denials)
    return ready_s, taken - without


def _learned(cluster: str, denials: int) -> tuple[float, int]:
    command = [sys.executable, "-m", __name__, cluster, str(denials)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=MAX_LEARNING_S)
    return _figures(done.stdout)


def new_worker(denials: int) -> tuple[float, int]:
    """The same with a file of ``sqlite://``."""
    with TemporaryDirectory() as folder:
        return new_node(f"sqlite:///{folder}/log-outs", denials)


def new_member(denials: int) -> tuple[float, int]:
    """The same with ``peers://``: three members start, the first of which knows all log-outs, and then the last one starts again."""
    _, without = _restarted(0)
    ready_s, taken = _restarted(denials)
    return ready_s, taken - without


def _restarted(denials: int) -> tuple[float, int]:
    with ExitStack() as held:
        listeners = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(MEMBERS)]
        urls = [f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
        members = [held.enter_context(_member(listener, urls, number, denials)) for number, listener in enumerate(listeners)]
        for member in members:
            _figures(_line(member))
        members[-1].kill()
        members[-1].wait()
        return _figures(_line(held.enter_context(_member(listeners[-1], urls, MEMBERS - 1, denials))))


@contextmanager
def _member(listener: socket.socket, urls: Sequence[str], number: int, denials: int) -> Iterator[subprocess.Popen[bytes]]:
    fileno = listener.fileno()
    command = [sys.executable, "-m", __name__, PEERS, str(denials), str(fileno), ",".join(urls), str(number)]
    with subprocess.Popen(command, pass_fds=[fileno], stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def _figures(line: bytes) -> tuple[float, int]:
    if not line:
        raise NotReadError("a node ended before it was ready")
    ready_s, taken = json.loads(line)
    return ready_s, taken


# The processes.


def _settings(cluster: str, urls: Sequence[str] = (), number: int = 0) -> Settings:
    return Settings(secret_key=KEY, cluster=cluster, peers=urls, advertise_url=urls[number] if urls else None)


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(MAX_LEARNING_S):
        while not condition():  # noqa: ASYNC110 - the measured condition has no event
            await anyio.sleep(LOOK_S)


def _pages(denials: int, size: int) -> Iterator[list[Deny]]:
    """As many log-outs, whose sessions would have ended at any time of the next twelve hours."""
    now_ms = time.time_ns() // 1_000_000
    for begun in range(0, denials, size):
        yield [
            Deny(secrets.token_urlsafe(16), now_ms + HOUR_MS + randrange(11 * HOUR_MS)) for _ in range(begun, min(begun + size, denials))
        ]


async def _fill(cluster: str, denials: int) -> None:
    settings = _settings(cluster)
    if settings.cluster.scheme == "etcd":
        await _fill_etcd(settings, denials)
        return
    manager = SessionManager(settings)
    async with manager.running():
        for page in _pages(denials, JOB):
            await _appended(manager, page)


async def _appended(manager: SessionManager, page: Sequence[Deny]) -> None:
    """Return once the file has them, however busy the disk is."""
    with anyio.fail_after(MAX_LEARNING_S):
        while True:
            try:
                await node_of(manager).log.append(page)
            except QuorumLost:
                await anyio.sleep(AGAIN_S)
            else:
                return


async def _fill_etcd(settings: Settings, denials: int) -> None:
    """Write the keys of log-outs, as nodes do, in several transactions at a time, because a single node writes one after the other.

    If there are many, a first node reads all keys, and writes a checkpoint for those that start later.
    """
    gateway, keys, manager = EtcdGateway(settings.cluster.endpoints, SystemClock()), Keys(settings.cluster.prefix), SessionManager(settings)
    pages = _pages(denials, BATCH)

    async def write() -> None:
        for page in pages:
            await _written(gateway, [put(key, value) for key, value in keys.records(page).items()])

    async with gateway.opened(), anyio.create_task_group() as tasks:
        for _ in range(WRITERS):
            tasks.start_soon(write)
    if denials < LEAST:
        return
    async with gateway.opened(), manager.running():  # a node that runs writes the checkpoint
        with anyio.fail_after(MAX_LEARNING_S):
            while not (await gateway.page(keys.checkpoint, keys.checkpoint + b"\0")).kvs:  # noqa: ASYNC110 - etcd has no event for it
                await anyio.sleep(0.5)


async def _written(gateway: EtcdGateway, puts: Sequence[Operation]) -> None:
    """Return once etcd has written them, however busy the machine is."""
    with anyio.fail_after(MAX_LEARNING_S):
        while True:
            try:
                await gateway.transact(puts)
            except EtcdUnavailable:
                await anyio.sleep(AGAIN_S)
            else:
                return


async def _learn(cluster: str, denials: int) -> None:
    start = Start()
    manager = SessionManager(_settings(cluster))
    async with manager.running():
        await start.tell_when_ready(manager, denials)


async def _serve(denials: int, fileno: int, urls: Sequence[str], number: int) -> None:
    logging.disable(logging.WARNING)  # each tells that it misses the others
    start = Start()
    manager = SessionManager(_settings(PEERS, urls, number))
    if number == 0:
        for page in _pages(denials, JOB):  # before it polls: a member that serves takes many log-outs at an even pace, for minutes
            node_of(manager).log.apply(page)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=fileno) as listener:
        app = SessionMiddleware(_nothing, manager=manager)
        server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="critical"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            await _until(lambda: server.started)
            await start.tell_when_ready(manager, denials)


async def _nothing(scope: object, receive: object, send: object) -> None:
    """No app: the members are asked for their log-outs alone."""


class Start:
    """The start of a process, from before it has a manager."""

    def __init__(self) -> None:
        self._before, self._begun_s = resident_bytes(), time.perf_counter()

    async def tell_when_ready(self, manager: SessionManager, denials: int) -> None:
        await _until(lambda: manager.why_not_ready() is None)
        ready_s = time.perf_counter() - self._begun_s
        if len(node_of(manager).view) != denials:
            raise NotReadError(f"{len(node_of(manager).view)} of {denials} denials are known to the new node")
        print(json.dumps((ready_s, resident_bytes() - self._before)), flush=True)


def resident_bytes() -> int:
    """How much memory this process has."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


if __name__ == "__main__":
    given, count, *member = sys.argv[1:]
    if member:
        anyio.run(_serve, int(count), int(member[0]), member[1].split(","), int(member[2]))
    else:
        anyio.run(_learn, given, int(count))
