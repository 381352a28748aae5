"""A storm of log-outs at three processes on loopback: how many a second they take, what each costs, and what other requests notice.

Each log-out is a request of its own, with the token of a session that was issued before, and each node gets a third of them. The
generator of the load runs on the same machine, and its share of the processors is told. Log-outs are sent when they are due, whether or
not earlier ones were answered.

All connections are opened beforehand, as a balancer keeps them to its nodes. uvloop accepts one connection in each turn of its loop. Many
that are opened at once in the storm would wait for as many turns, and the sessions have no part in that.

An app without sessions runs beside them, on a server of its own that has nothing to do with the storm. What its requests notice comes from
the processors, which all processes share.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import cast

import uvloop

from ha_session_mw.manager import node_of

from . import beside, cluster
from .cluster import MEMBERS, Client
from .contenders import NotReadError, new_manager

READS_PER_S = 150
"""Warm requests, of all nodes together, whose time is compared."""
READERS = 30
OPEN_FOR_S = 0.75
"""Each node has as many connections as log-outs reach it in this time. So many can wait for their answers at once."""
AFTER_S = 3.0
"""How long the last log-outs may take."""


@dataclass
class StormTimes:
    """What was seen in a storm.

    Attributes:
        per_s: how many log-outs were sent a second.
        seconds: for how long.
        fenced: how many were acknowledged as fenced while the storm lasted.
        refused: how many were answered otherwise, or not at all.
        unread: how many warm requests were refused.
        acknowledged_s: seconds from the sending of each to its acknowledgement.
        propagated_s: seconds from the sending of each until each other node enforced it.
        quiet_s, storm_s: seconds that warm requests took before the storm, and in it.
        beside_quiet_s, beside_storm_s: the same of the requests of the app without sessions.
        late_s: by how many seconds the generator was late with each log-out.
        node_ms: processor time of one node, in milliseconds, for each log-out of the cluster.
        generator: the processors that the generator took, 1 for a whole one.
        opened: how many connections had to be opened in the storm, because all others were in use.
    """

    per_s: int
    seconds: float
    fenced: int = 0
    refused: int = 0
    unread: int = 0
    acknowledged_s: list[float] = field(default_factory=list)
    propagated_s: list[float] = field(default_factory=list)
    quiet_s: list[float] = field(default_factory=list)
    storm_s: list[float] = field(default_factory=list)
    beside_quiet_s: list[float] = field(default_factory=list)
    beside_storm_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    node_ms: float = 0.0
    generator: float = 0.0
    opened: int = 0


class Connection(asyncio.Protocol):
    """One open connection, which carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._answered: asyncio.Future[bytes] | None = None
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length) and self._answered is not None and not self._answered.done():
            self._answered.set_result(self._got)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or NotReadError("a connection was closed"))

    async def ask(self, request: bytes) -> bytes:
        """The whole answer."""
        assert self._transport is not None
        self._got, self._answered = b"", asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Node:
    """A node, and the connections to it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []
        self.opened = 0
        """How many connections were opened because no other one was idle."""

    async def open(self, count: int) -> None:
        """Open connections for the requests to come."""
        for _ in range(count):
            self._idle.append(await self._connect())

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port)
        return connection

    async def ask(self, method: str, path: str, cookie: bytes) -> bytes:
        """The whole answer to a request."""
        if self._idle:
            connection = self._idle.pop()
        else:
            self.opened += 1
            connection = await self._connect()
        lines = (f"{method} {path} HTTP/1.1".encode(), b"host: localhost", b"cookie: session=" + cookie, b"content-length: 0", b"", b"")
        answer = await connection.ask(b"\r\n".join(lines))
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


async def _paced(per_s: float, count: int, do: Callable[[int, float], Awaitable[None]]) -> None:
    """Do something so many times, at this rate, each time in a task of its own and when it is due."""
    begun_s, tasks = time.perf_counter(), set()
    for number in range(count):
        due_s = begun_s + number / per_s
        if (left_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(left_s)
        task = asyncio.ensure_future(do(number, due_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=AFTER_S)
        for task in late:
            task.cancel()


def _minted(count: int) -> list[tuple[str, bytes]]:
    """Families of that many sessions, with their tokens."""
    node = node_of(new_manager())
    claims = [node.issuer.issue(f"subject-{number}") for number in range(count)]
    return [(one.family, node.sign(one)) for one in claims]


def storm(of_cluster: str, per_s: int, seconds: float) -> StormTimes:
    """Log out at this rate for so long, and measure."""
    with cluster.running(of_cluster) as ports, beside.running() as port:
        return uvloop.run(_storm(ports, port, StormTimes(per_s, seconds)))


def _reported(ports: Sequence[int]) -> list[tuple[float, dict[str, float]]]:
    """The processor time of each node so far, and when it first enforced each log-out since the last report."""
    found = []
    for port in ports:
        with closing(Client(port)) as client:
            if client.ask("GET", "/report") != 200:
                raise NotReadError("no report")
            cpu_s, heard_s = json.loads(client.answer)
        found.append((cpu_s, heard_s))
    return found


async def _storm(ports: Sequence[int], port_beside: int, times: StormTimes) -> StormTimes:
    per_s, seconds = times.per_s, times.seconds
    nodes, neighbour = [Node(port) for port in ports], Node(port_beside)
    count = int(per_s * seconds)
    readers, warm_up, sessions = _minted(READERS), _minted(per_s // 4), _minted(count)
    sent_s: dict[str, float] = {}

    async def read(of: Node, number: int, taken_s: list[float]) -> None:
        begun_s = time.perf_counter()
        answer = await of.ask("GET", "/account", readers[number % READERS][1])
        if answer.startswith(b"HTTP/1.1 200"):
            taken_s.append(time.perf_counter() - begun_s)
        else:
            times.unread += 1

    async def read_both(warm_s: list[float], beside_s: list[float], count: int) -> None:
        await asyncio.gather(
            _paced(READS_PER_S, count, lambda number, _: read(nodes[number % MEMBERS], number, warm_s)),
            _paced(READS_PER_S, count, lambda number, _: read(neighbour, number, beside_s)),
        )

    async def log_out(number: int, due_s: float, of: Sequence[tuple[str, bytes]]) -> None:
        family, token = of[number]
        begun_s = sent_s[family] = time.perf_counter()
        times.late_s.append(begun_s - due_s)
        answer = await nodes[number % MEMBERS].ask("POST", "/log-out", token)
        if answer.endswith(b"fenced"):
            times.acknowledged_s.append((ended_s := time.perf_counter()) - begun_s)
            times.fenced += ended_s <= end_s

    gc.collect()
    gc.freeze()
    end_s = 0.0
    reads = int(READS_PER_S * seconds)
    for node in (*nodes, neighbour):
        await node.open(int(per_s / MEMBERS * OPEN_FOR_S))
    await read_both([], [], READERS * MEMBERS)
    await _paced(per_s / 2, len(warm_up), lambda number, due_s: log_out(number, due_s, warm_up))
    await asyncio.sleep(0.5)
    times.late_s, times.acknowledged_s = [], []
    await read_both(times.quiet_s, times.beside_quiet_s, reads)
    before = [cpu_s for cpu_s, _ in _reported(ports)]
    own_s, begun_s = time.process_time(), time.perf_counter()
    end_s = begun_s + seconds
    await asyncio.gather(
        read_both(times.storm_s, times.beside_storm_s, reads),
        _paced(per_s, count, lambda number, due_s: log_out(number, due_s, sessions)),
    )
    times.generator = (time.process_time() - own_s) / (time.perf_counter() - begun_s)
    after = _reported(ports)
    times.node_ms = sum(cpu_s - was_s for (cpu_s, _), was_s in zip(after, before, strict=True)) / MEMBERS / count * 1000
    for number, (family, _) in enumerate(sessions):
        heard = [heard_s.get(family) for at, (_, heard_s) in enumerate(after) if at != number % MEMBERS]
        times.propagated_s += [one - sent_s[family] for one in heard if one is not None and family in sent_s]
    times.refused = count - len(times.acknowledged_s)
    times.opened = sum(node.opened for node in nodes)
    for node in (*nodes, neighbour):
        node.close()
    gc.unfreeze()
    return times


def _percentile_ms(values_s: Sequence[float], percent: float) -> float:
    ordered = sorted(values_s)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000 if ordered else float("nan")


def told(times: StormTimes) -> str:
    def both(values_s: Sequence[float]) -> str:
        return f"{_percentile_ms(values_s, 50):.1f} / {_percentile_ms(values_s, 99):.1f}"

    return (
        f"{times.per_s}/s for {times.seconds:g} s: acknowledged {times.fenced / times.seconds:.0f}/s, "
        f"not fenced {times.refused}, unread {times.unread}; "
        f"ms p50 / p99: ack {both(times.acknowledged_s)}, propagation {both(times.propagated_s)} ({len(times.propagated_s)}), "
        f"warm quiet {both(times.quiet_s)}, in the storm {both(times.storm_s)}, "
        f"beside quiet {both(times.beside_quiet_s)}, in the storm {both(times.beside_storm_s)}, generator late {both(times.late_s)}; "
        f"{times.node_ms:.3f} ms a node and log-out; generator {times.generator:.2f} processors; "
        f"{times.opened} connections opened"
    )


if __name__ == "__main__":
    from ..engines import etcd

    parser = argparse.ArgumentParser()
    parser.add_argument("cluster", choices=("peers", "etcd"))
    parser.add_argument("per_s", type=int, nargs="+")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--members", type=int, default=1)
    options = parser.parse_args()
    with ExitStack() as held:
        of = "peers://" if options.cluster == "peers" else held.enter_context(etcd(options.members)).cluster("storm")
        for per_s in options.per_s:
            print(told(storm(of, per_s, options.seconds)), flush=True)
