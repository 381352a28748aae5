"""Calls between nodes: unsigned callers get a 404, and every bad answer becomes a PeerFailure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import httpx2
import pytest
from starlette.types import Message

from ha_session_mw import SessionManager, Settings
from ha_session_mw._core.calls.faults import PeerFaults
from ha_session_mw._core.token.keys import KeyRing
from ha_session_mw._peering.client import PeerClient
from ha_session_mw._peering.server import (
    _WINDOW,
    CALLS_AT_ONCE,
    CALLS_PER_S,
    MAX_CALL_BYTES,
    PATIENCE_S,
    PeerServer,
    _Counters,
)
from ha_session_mw._peering.signatures import PEER
from ha_session_mw.abc import HELLO, PeerFailure
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

from ..asgi.driver import Answer, Header, call, scope_of
from ..inside import peering_of

pytestmark = pytest.mark.anyio

ONE = b"9hQ2vX7mRk4TzLwB8sNpYd3JfGcVuA6E"
OTHER = b"Zt5WqM8nKx1RbJ7hPvGyLc4SdFa9UeT2"
HERE, THERE = "http://here.test", "http://there.test"

Tamper = Callable[[httpx2.Request], Awaitable[httpx2.Response]]


async def echo(body: bytes) -> bytes:
    if body == b"nonsense":
        raise ValueError("cannot read that")
    return b"you said " + body


class Pair(httpx2.AsyncBaseTransport):
    """A caller and a callee. Tests can read and change the messages between them."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.faults = PeerFaults((HERE, THERE))
        self.ours, self.theirs = KeyRing([ONE]), KeyRing([ONE])
        self.server = self.started_server("life-1")
        self.client = self.started_client("life-2")
        self.requests: list[httpx2.Request] = []
        self.on_the_way: Tamper = self.deliver

    def started_server(self, life: str) -> PeerServer:
        server = PeerServer(THERE, life, lambda: self.theirs, self.clock, self.faults)
        server.handle("echo", echo)
        return server

    def started_client(self, life: str, me: str = HERE) -> PeerClient:
        return PeerClient(me, life, lambda: self.ours, prefix="/-/session", clock=self.clock, faults=self.faults, http=lambda: self)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return await self.on_the_way(request)

    async def deliver(self, request: httpx2.Request, *, method: str | None = None) -> httpx2.Response:
        answer = await self.raw(request.url.path, [(k.lower(), v) for k, v in request.headers.raw], request.content, method=method)
        headers = answer.start["headers"]
        return httpx2.Response(answer.status, headers=headers, stream=httpx2.ByteStream(answer.body))

    async def raw(self, path: str, headers: list[Header], body: bytes, *, method: str | None = None) -> Answer:
        name = path.removeprefix("/-/session/peer/")
        scope = scope_of("http", path, method=method or "POST", headers=headers)
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self.server(name, scope, receive, send)

        return await call(app, scope, messages)

    async def say(self, body: bytes = b"hello", peer: str = THERE) -> bytes:
        return await self.client.call(peer, "echo", body, timeout_s=1.0)


@pytest.fixture
def pair(clock: ManualClock) -> Pair:
    return Pair(clock)


def field(request: httpx2.Request) -> list[str]:
    return str(request.headers["session-peer"]).split(" ")


async def is_plain_404(answer: Answer) -> None:
    assert answer.status == 404
    assert answer.body == b""
    assert answer.header("session-peer") is None


# Keys that change meanwhile


@pytest.mark.parametrize("kept", [[ONE, OTHER], [OTHER, ONE], [ONE]], ids=["the new one comes second", "first", "comes meanwhile"])
@pytest.mark.parametrize("after", [1, 2])
async def test_a_key_that_the_caller_retires_during_a_call_is_no_fault_of_the_peer(pair: Pair, kept: list[bytes], after: int) -> None:
    pair.ours, pair.theirs = KeyRing(kept), KeyRing([ONE, OTHER])

    async def retire(request: httpx2.Request) -> httpx2.Response:
        answer = await pair.deliver(request)
        if len(pair.requests) == after:  # the first one tells the nonce of the peer
            pair.ours = KeyRing([OTHER])
        return answer

    pair.on_the_way = retire
    assert await pair.say() == b"you said hello"
    assert await pair.say() == b"you said hello"
    assert pair.faults.told() == {}


async def test_a_key_that_the_callee_retires_during_a_call_is_no_fault_of_it(pair: Pair) -> None:
    pair.ours = pair.theirs = KeyRing([ONE, OTHER])

    async def slow_echo(body: bytes) -> bytes:
        pair.theirs = KeyRing([OTHER])
        return await echo(body)

    pair.server.handle("echo", slow_echo)
    assert await pair.say() == b"you said hello"
    assert pair.faults.told() == {}


# How the callee treats calls.


async def test_a_call_is_answered(pair: Pair) -> None:
    assert await pair.say() == b"you said hello"
    assert await pair.say(b"") == b"you said "
    assert len(pair.requests) == 3  # the first call had to learn the callee's incarnation


async def test_an_unsigned_caller_gets_the_404_of_a_missing_path(pair: Pair) -> None:
    await pair.say()
    good = pair.requests[-1].headers["session-peer"].encode()
    parts = good.split(b" ")
    bad = [
        b"",
        b"1",
        b"\xff\xfe",
        good + b" x",
        good[:-1],
        good.replace(b"1 ", b"2 ", 1),
        b" ".join([*parts[:6], b"-1", *parts[7:]]),
        b" ".join([*parts[:6], "²".encode(), *parts[7:]]),
        b" ".join([*parts[:6], b"9" * 5000, *parts[7:]]),
        b" ".join([*parts[:1], b"AAAAAAAA", *parts[2:]]),
        b" ".join([*parts[:6], b"77", *parts[7:]]),
        b" ".join([*parts[:4], b"http://evil.test", *parts[5:]]),
    ]
    refused = pair.server.refused
    for value in bad:
        await is_plain_404(await pair.raw("/-/session/peer/echo", [(b"session-peer", value)], b"hello"))
    await is_plain_404(await pair.raw("/-/session/peer/echo", [], b"hello"))
    await is_plain_404(await pair.raw("/-/session/peer/nothing", [(b"session-peer", good)], b"hello"))
    await is_plain_404(await pair.raw("/-/session/peer/echo", [(b"session-peer", good)], b"hello", method="GET"))
    assert pair.server.refused == refused + len(bad) + 3


async def test_a_call_that_was_answered_is_not_answered_again(pair: Pair) -> None:
    await pair.say()
    with_field = [(b"session-peer", str(pair.requests[-1].headers["session-peer"]).encode())]
    await is_plain_404(await pair.raw("/-/session/peer/echo", with_field, b"hello"))


async def test_a_call_to_an_earlier_incarnation_learns_the_current_one_and_is_not_carried_out(pair: Pair) -> None:
    await pair.say()
    old = pair.requests[-1]
    pair.server = pair.started_server("life-3")

    response = await pair.deliver(old)

    assert (response.status_code, await response.aread()) == (409, b"life-3")
    assert await pair.say() == b"you said hello"


async def test_a_call_is_good_for_its_body_its_name_and_its_callee_only(pair: Pair) -> None:
    await pair.say()
    pair.server.handle("other", echo)
    for what in ("body", "name", "callee"):
        counted = len(pair.requests)
        pair.on_the_way = swallow
        with pytest.raises(PeerFailure):
            await pair.say(b"fresh")
        request = pair.requests[counted]
        headers = [(b"session-peer", str(request.headers["session-peer"]).encode())]
        if what == "body":
            answer = await pair.raw("/-/session/peer/echo", headers, b"other")
        elif what == "name":
            answer = await pair.raw("/-/session/peer/other", headers, b"fresh")
        else:
            server, pair.server = pair.server, PeerServer("http://third.test", "life-1", lambda: pair.theirs, pair.clock, pair.faults)
            pair.server.handle("echo", echo)
            answer = await pair.raw("/-/session/peer/echo", headers, b"fresh")
            pair.server = server
        await is_plain_404(answer)


async def swallow(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("dropped")


async def test_a_body_that_is_larger_than_any_call_is_not_read_to_its_end(pair: Pair) -> None:
    await pair.say()
    with pytest.raises(PeerFailure):
        await pair.say(b"x" * (MAX_CALL_BYTES + 1))
    assert await pair.say(b"x" * MAX_CALL_BYTES)

    pair.on_the_way = swallow
    with pytest.raises(PeerFailure):
        await pair.say(b"x")
    headers = [(b"session-peer", str(pair.requests[-1].headers["session-peer"]).encode())]
    scope = scope_of("http", "/-/session/peer/echo", method="POST", headers=headers)
    chunks: list[Message] = [{"type": "http.request", "body": b"x" * 100_000, "more_body": True} for _ in range(50)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await pair.server("echo", scope, receive, send)

    answer = await call(app, scope, chunks)
    await is_plain_404(answer)
    assert answer.received == 3

    answer = await call(app, scope, [{"type": "http.disconnect"}])
    await is_plain_404(answer)


async def test_a_call_that_cannot_be_read_is_refused_with_a_signature(pair: Pair) -> None:
    with pytest.raises(PeerFailure, match="answered 400"):
        await pair.say(b"nonsense")


async def test_a_key_that_is_removed_while_a_call_is_held_makes_no_error(pair: Pair) -> None:
    async def rotates(_: bytes) -> bytes:
        pair.theirs = KeyRing([OTHER])
        return b""

    pair.server.handle("echo", rotates)
    with pytest.raises(PeerFailure, match="knows none of our keys"):
        await pair.say()


async def test_a_revoked_key_signs_no_call_while_there_is_another(pair: Pair) -> None:
    """The thief of a key acts as a node with it, so the callee must refuse it, even while it is still in the ring."""
    both, thiefs = KeyRing([ONE, OTHER]), KeyRing([ONE])
    pair.ours, pair.theirs = thiefs, both
    await pair.say()

    pair.theirs = both.without({thiefs.kids[0]})
    with pytest.raises(PeerFailure, match="knows none of our keys"):
        await pair.say()
    pair.ours = both  # a good node, which has not heard of the revocation yet, takes its next key
    assert await pair.say() == b"you said hello"
    assert field(pair.requests[-1])[1] == KeyRing([OTHER]).kids[0]


def test_counters_are_used_once_in_any_order() -> None:
    counters = _Counters()
    assert [counters.first_use(one) for one in (3, 1, 2, 3, 2, 1, 4)] == [True, True, True, False, False, False, True]
    for one in range(5, 4 * _WINDOW):
        assert counters.first_use(one)
    assert not counters.first_use(7)
    assert len(counters._seen) <= 2 * _WINDOW + 1


async def test_the_memory_of_callers_is_bounded(pair: Pair) -> None:
    for number in range(600):
        pair.client = pair.started_client(f"life-of-{number}")
        await pair.say()
        pair.clock.advance(0.01)
    assert len(pair.server._used) <= 256


async def test_a_call_is_used_once_however_many_callers_come_after_it(pair: Pair) -> None:
    await pair.say(b"log ada out")
    seen = pair.requests[-1]
    for number in range(600):
        pair.client = pair.started_client(f"life-of-{number}")
        assert await pair.say() == b"you said hello"
        pair.clock.advance(0.01)
        assert (await pair.deliver(seen)).status_code in (404, 409)


async def test_a_call_whose_body_arrives_after_the_callers_were_forgotten_is_sent_again(pair: Pair) -> None:
    async def meanwhile_others_call(request: httpx2.Request) -> httpx2.Response:
        pair.on_the_way = pair.deliver
        body, waits, goes_on = request.content, anyio.Event(), anyio.Event()
        answers: list[Answer] = []

        async def receive() -> Message:
            waits.set()
            await goes_on.wait()
            return {"type": "http.request", "body": body, "more_body": False}

        async def slow() -> None:
            answer = Answer()
            headers = [(k.lower(), v) for k, v in request.headers.raw]
            await pair.server("echo", scope_of("http", request.url.path, method="POST", headers=headers), receive, answer.send)
            answers.append(answer)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow)
            await waits.wait()
            for number in range(300):
                await pair.started_client(f"life-of-{number}").call(THERE, "echo", b"", timeout_s=1.0)
                pair.clock.advance(0.001)
            goes_on.set()
        [answer] = answers
        return httpx2.Response(answer.status, headers=answer.start["headers"], stream=httpx2.ByteStream(answer.body))

    await pair.say()
    pair.on_the_way = meanwhile_others_call
    assert await pair.say() == b"you said hello"
    assert pair.faults.told() == {}


async def test_calls_that_are_too_many_wait_for_their_turn_and_are_turned_away_in_the_end(pair: Pair) -> None:
    await pair.say()
    for _ in range(CALLS_AT_ONCE):
        pair.server._callers[pair.faults.name(HERE)].rate.spend(1, pair.clock.boot_s())
    fates: Counter[str] = Counter()

    async def say() -> None:
        try:
            fates[(await pair.client.call(THERE, "echo", b"hello", timeout_s=5)).decode()] += 1
        except PeerFailure as failure:
            fates[str(failure)] += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(600):
            tasks.start_soon(say)
        await until_nothing_moves()
        assert not fates
        for _ in range(110):
            pair.clock.advance(0.01)
            await until_nothing_moves()
        assert fates["you said hello"] == pytest.approx(CALLS_PER_S * PATIENCE_S, abs=10)
        assert fates["answered 429"] == 600 - fates["you said hello"]
        assert pair.faults.told()["member 1"] == {"queued": 600, "turned_away": fates["answered 429"]}
        tasks.cancel_scope.cancel()
    pair.clock.advance(3)
    assert await pair.say() == b"you said hello"


async def test_calls_that_are_held_are_only_so_many_for_each_caller(pair: Pair) -> None:
    held = 0

    async def hold(_: bytes) -> bytes:
        nonlocal held
        held += 1
        await anyio.sleep_forever()
        raise AssertionError

    await pair.say()
    pair.server.handle("hold", hold)
    other = pair.started_client("life-3", "http://third.test")
    async with anyio.create_task_group() as tasks:
        for _ in range(3 * PEER.under_way):
            tasks.start_soon(partial(pair.client.call, THERE, "hold", b"", timeout_s=PATIENCE_S / 2))
        await until_nothing_moves()
        assert held == PEER.under_way
        assert await other.call(THERE, "echo", b"hello", timeout_s=1) == b"you said hello"  # others do not wait with them
        tasks.cancel_scope.cancel()
    assert await pair.say() == b"you said hello"


async def test_no_other_request_asks_a_node_for_its_identity(pair: Pair) -> None:
    pair.server.handle(HELLO, echo)
    with pytest.raises(PeerFailure):
        await pair.client.call(THERE, HELLO, b"somebody", timeout_s=1)
    assert await pair.started_client("life-3", THERE).call(THERE, HELLO, b"me", timeout_s=1)


# How the caller treats answers.


async def test_a_member_of_another_cluster_shares_no_key(pair: Pair) -> None:
    pair.theirs = KeyRing([OTHER])
    with pytest.raises(PeerFailure, match="knows none of our keys: it has another secret"):
        await pair.say()


async def test_an_app_with_the_same_secret_and_another_audience_is_no_peer(pair: Pair) -> None:
    pair.theirs = KeyRing([ONE], audience="blog")
    with pytest.raises(PeerFailure, match="knows none of our keys: it has another secret or audience"):
        await pair.say()
    pair.ours = KeyRing([ONE], audience="blog")
    pair.client = pair.started_client("life-3")
    assert await pair.say() == b"you said hello"


@pytest.mark.parametrize(
    ("ours", "theirs"), [((ONE,), (OTHER, ONE)), ((OTHER, ONE), (ONE,)), ((OTHER,), (ONE, OTHER)), ((ONE, OTHER), (OTHER,))]
)
async def test_keys_may_be_rotated_one_node_after_the_other(pair: Pair, ours: tuple[bytes, ...], theirs: tuple[bytes, ...]) -> None:
    await pair.say()
    pair.ours, pair.theirs = KeyRing(ours), KeyRing(theirs)
    assert await pair.say() == b"you said hello"
    counted = len(pair.requests)
    assert await pair.say() == b"you said hello"
    assert len(pair.requests) == counted + 1  # it remembers which key both have


async def changed_body(pair: Pair, request: httpx2.Request) -> httpx2.Response:
    good = await pair.deliver(request)
    return httpx2.Response(good.status_code, headers=good.headers, stream=httpx2.ByteStream(b"you said goodbye"))


async def changed_status(pair: Pair, request: httpx2.Request) -> httpx2.Response:
    good = await pair.deliver(request)
    return httpx2.Response(400 if good.status_code == 200 else 200, headers=good.headers, stream=httpx2.ByteStream(await good.aread()))


async def unsigned(pair: Pair, request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, stream=httpx2.ByteStream(await (await pair.deliver(request)).aread()))


async def html(pair: Pair, request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": "text/html"}, stream=httpx2.ByteStream(b"<h1>Welcome</h1>"))


async def a_404_page(pair: Pair, request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(404, stream=httpx2.ByteStream(b"<h1>Nothing here</h1>"))


async def moved(pair: Pair, request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(302, headers={"location": "http://evil.test/"}, stream=httpx2.ByteStream(b""))


async def an_odd_field(pair: Pair, request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, headers=[(b"session-peer", b"1 \xff\xfe AAAA")], stream=httpx2.ByteStream(b""))


async def no_route(pair: Pair, request: httpx2.Request) -> httpx2.Response:
    raise OSError("no route to host")


async def breaks_off(pair: Pair, request: httpx2.Request) -> httpx2.Response:
    async def half() -> AsyncIterator[bytes]:
        yield b"you s"
        raise httpx2.ReadError("reset")

    return httpx2.Response(200, stream=Stream(half()))


async def read_before(pair: Pair, request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, content=b"consumed")


async def too_long(pair: Pair, request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, stream=Stream(endless()))


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 1024 * 1024


class Stream(httpx2.AsyncByteStream):
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (changed_body, "wrong signature"),
        (changed_status, "wrong signature"),
        (unsigned, "without a signature: something else listens there"),
        (html, "without a signature: something else listens there"),
        (moved, "answered 302 without a signature"),
        (an_odd_field, "wrong signature"),
        (a_404_page, "is another app"),
        (no_route, "cannot be reached"),
        (breaks_off, "cannot be reached"),
        (read_before, "cannot be reached"),
        (too_long, "answered too much"),
    ],
)
async def test_an_answer_that_no_member_would_give_is_a_failure_with_a_reason(pair: Pair, tamper: Any, why: str) -> None:
    await pair.say()

    async def on_the_way(request: httpx2.Request) -> httpx2.Response:
        response: httpx2.Response = await tamper(pair, request)
        return response

    pair.on_the_way = on_the_way
    with pytest.raises(PeerFailure, match=why) as failure:
        await pair.say()
    assert "test" not in str(failure.value)  # no addresses
    pair.on_the_way = pair.deliver
    assert await pair.say() == b"you said hello"


async def test_an_answer_to_another_call_is_no_answer(pair: Pair) -> None:
    kept: list[httpx2.Response] = []

    async def keep(request: httpx2.Request) -> httpx2.Response:
        response = await pair.deliver(request)
        content = await response.aread()
        kept.append(httpx2.Response(response.status_code, headers=response.headers, stream=httpx2.ByteStream(content)))
        return httpx2.Response(response.status_code, headers=response.headers, stream=httpx2.ByteStream(content))

    async def replay(_: httpx2.Request) -> httpx2.Response:
        return kept[-1]

    pair.on_the_way = keep
    await pair.say()
    pair.on_the_way = replay
    with pytest.raises(PeerFailure, match="wrong signature"):
        await pair.say()


async def test_a_peer_that_stalls_costs_the_time_limit_and_no_more(pair: Pair, clock: ManualClock) -> None:
    stream = Stream(hanging())

    async def stalls(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, stream=stream)

    pair.on_the_way = stalls
    failures: list[str] = []

    async def say() -> None:
        try:
            await pair.say()
        except PeerFailure as failure:
            failures.append(str(failure))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(say)
        await until_nothing_moves()
        clock.advance(0.99)
        await until_nothing_moves()
        assert failures == []
        clock.advance(0.01)

    assert failures == ["gives no answer in time"]
    assert stream.closed


async def hanging() -> AsyncIterator[bytes]:
    yield b"you"
    await anyio.sleep_forever()


async def test_a_peer_with_another_identity_each_time_is_no_peer(pair: Pair) -> None:
    """Two processes behind one port."""
    lives = iter(f"life-{number}" for number in range(100))

    async def stranger(request: httpx2.Request) -> httpx2.Response:
        pair.server = pair.started_server(next(lives))
        return await pair.deliver(request)

    pair.on_the_way = stranger
    with pytest.raises(PeerFailure, match="answered 409"):
        await pair.say()
    assert len(pair.requests) == 2


async def test_a_node_that_was_not_started_makes_no_calls() -> None:
    settings = Settings(secret_key=ONE.decode(), cluster="peers://", peers=(HERE, THERE), advertise_url=HERE)
    manager = SessionManager(settings, clock=ManualClock())
    with pytest.raises(PeerFailure, match="has not been started"):
        await peering_of(manager).call(THERE, "hello", b"", 1.0)


async def test_calls_show_no_secret_and_no_body(pair: Pair) -> None:
    await pair.say(b"a token")
    told = json.dumps([str(request.headers) for request in pair.requests])
    assert ONE.decode() not in told
    assert "a token" not in told
