"""A listener between two nodes without a key: it sees the header of each call, and sends it again with no body or a false one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx2
import pytest
from starlette.types import Message

from ha_session_mw._peering.server import ARRIVAL_S, ARRIVING, COPIES, PATIENCE_S, WAITING_BYTES
from ha_session_mw._peering.signatures import PEER
from ha_session_mw.abc import PeerFailure
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

from ..asgi.driver import scope_of
from .test_peering import HERE, THERE, Pair

pytestmark = pytest.mark.anyio


@pytest.fixture
def pair(clock: ManualClock) -> Pair:
    return Pair(clock)


class Listener:
    """Knows the headers of calls, and opens connections that send one of them and never a body.

    Attributes:
        statuses: of the answers that it got.
    """

    def __init__(self, pair: Pair, tasks: anyio.abc.TaskGroup) -> None:
        self.pair, self.tasks = pair, tasks
        self.statuses: list[int] = []

    def send_header(self, header: bytes, times: int = 1) -> None:
        for _ in range(times):
            self.tasks.start_soon(self._connection, header)

    async def _connection(self, header: bytes) -> None:
        async def receive() -> Message:
            await anyio.sleep_forever()
            raise AssertionError

        async def send(message: Message) -> None:
            if "status" in message:
                self.statuses.append(message["status"])

        scope = scope_of("http", "/-/session/peer/echo", method="POST", headers=[(b"session-peer", header)])
        await self.pair.server("echo", scope, receive, send)


@contextmanager
def intercepted(pair: Pair) -> Iterator[list[bytes]]:
    """The headers of calls that never reach the other node, so their counters are unused."""
    headers: list[bytes] = []

    async def keep(request: httpx2.Request) -> httpx2.Response:
        headers.append(request.headers["session-peer"].encode())
        raise httpx2.ConnectError("lost")

    pair.on_the_way = keep
    yield headers
    pair.on_the_way = pair.deliver


async def lost_calls(pair: Pair, count: int) -> list[bytes]:
    await pair.say()
    with intercepted(pair) as headers:
        for _ in range(count):
            with pytest.raises(PeerFailure):
                await pair.say()
    return headers


async def test_a_header_of_an_answered_call_holds_nothing(pair: Pair) -> None:
    await pair.say()
    seen = pair.requests[-1].headers["session-peer"].encode()
    async with anyio.create_task_group() as tasks:
        listener = Listener(pair, tasks)
        listener.send_header(seen, 100)
        await until_nothing_moves()
        assert listener.statuses == [404] * 100
        assert await pair.say() == b"you said hello"
    assert pair.faults.told()["member 1"]["replayed"] == 100


async def test_headers_without_bodies_take_no_place_of_a_complete_call(pair: Pair) -> None:
    headers = await lost_calls(pair, 4 * PEER.under_way)
    async with anyio.create_task_group() as tasks:
        listener = Listener(pair, tasks)
        for header in headers:
            listener.send_header(header, 20)
        await until_nothing_moves()
        caller = pair.server._callers[pair.faults.name(HERE)]
        assert len(caller.arriving) <= ARRIVING
        assert caller.under_way.value == PEER.under_way
        assert await pair.say() == b"you said hello"
        tasks.cancel_scope.cancel()


async def test_a_connection_without_a_body_ends_soon(pair: Pair, clock: ManualClock) -> None:
    [header] = await lost_calls(pair, 1)
    async with anyio.create_task_group() as tasks:
        listener = Listener(pair, tasks)
        listener.send_header(header)
        await until_nothing_moves()
        assert listener.statuses == []
        clock.advance(ARRIVAL_S)
    assert listener.statuses == [404]
    assert pair.faults.told()["member 1"]["incomplete"] == 1


async def test_copies_of_a_call_displace_each_other_and_no_other_call(pair: Pair) -> None:
    slow, copied = await lost_calls(pair, 2)
    async with anyio.create_task_group() as tasks:
        honest, listener = Listener(pair, tasks), Listener(pair, tasks)
        honest.send_header(slow)  # its body is still on the way
        await until_nothing_moves()
        listener.send_header(copied, 3 * ARRIVING)
        await until_nothing_moves()
        assert honest.statuses == []
        assert len(listener.statuses) == 3 * ARRIVING - COPIES
        tasks.cancel_scope.cancel()


async def test_the_call_itself_is_answered_though_its_header_was_sent_before_it(pair: Pair) -> None:
    await pair.say()
    async with anyio.create_task_group() as tasks:
        listener = Listener(pair, tasks)

        async def overtake(request: httpx2.Request) -> httpx2.Response:
            listener.send_header(request.headers["session-peer"].encode(), 50)
            await until_nothing_moves()
            return await pair.deliver(request)

        pair.on_the_way = overtake
        for _ in range(3):
            assert await pair.say() == b"you said hello"
        tasks.cancel_scope.cancel()


async def test_a_false_body_spends_no_counter(pair: Pair) -> None:
    with intercepted(pair) as headers, pytest.raises(PeerFailure):
        await pair.say()
    await pair.say()

    async def spoil(request: httpx2.Request) -> httpx2.Response:
        header = request.headers["session-peer"].encode()
        assert (await pair.raw("/-/session/peer/echo", [(b"session-peer", header)], b"something else")).status == 404
        return await pair.deliver(request)

    pair.on_the_way = spoil
    assert await pair.say() == b"you said hello"
    assert headers


async def test_calls_that_wait_for_their_turn_hold_so_many_bytes_and_no_more(pair: Pair) -> None:
    async def hold(_: bytes) -> bytes:
        await anyio.sleep_forever()
        raise AssertionError

    await pair.say()
    pair.server.handle("hold", hold)
    fates: list[str] = []

    async def say(body: bytes) -> None:
        try:
            await pair.client.call(THERE, "hold", body, timeout_s=60)
        except PeerFailure as failure:
            fates.append(str(failure))

    size = 256 * 1024
    async with anyio.create_task_group() as tasks:
        for _ in range(PEER.under_way + WAITING_BYTES // size + 5):
            tasks.start_soon(say, b"x" * size)
        await until_nothing_moves()
        caller: Any = pair.server._callers[pair.faults.name(HERE)]
        assert caller.waiting_bytes == WAITING_BYTES
        assert fates == ["answered 429"] * 5
        tasks.cancel_scope.cancel()
    assert caller.waiting_bytes == 0


async def test_a_member_that_floods_a_node_has_its_calls_refused_unread(pair: Pair, clock: ManualClock) -> None:
    [header] = await lost_calls(pair, 1)
    rate = pair.server._callers[pair.faults.name(HERE)].rate
    while rate.spend(1, clock.boot_s(), patience_s=PATIENCE_S) is not None:
        pass
    async with anyio.create_task_group() as tasks:
        listener = Listener(pair, tasks)
        listener.send_header(header, 2 * ARRIVING)
        await until_nothing_moves()
        assert pair.server._callers[pair.faults.name(HERE)].arriving == {}
        assert listener.statuses == []
        clock.advance(PATIENCE_S)
    assert listener.statuses == [429] * 2 * ARRIVING
