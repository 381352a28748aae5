"""Forwarded requests over real sockets, whose connection is cut at each byte, or whose two sides have different paces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.abc
import h11
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ha_session_mw import SessionManager, SessionMiddleware, Settings
from ha_session_mw.asgi.forwarding import KEPT_BODY, AnswerCutOff, Body
from ha_session_mw.manager import node_of
from ha_session_mw.testing import SECRET, mint_session

from ..waiting import LIMIT_S
from .driver import Answer, scope_of

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

MARK = b"POST /-/session/peer/forward/request "
FOR_EVER = 1 << 60
BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, h11.RemoteProtocolError, ConnectionError)


@pytest.fixture(autouse=True)
def _time_has_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, an owner would be asked again who it is, over a connection that is cut, or count as unreachable."""
    monkeypatch.setattr("ha_session_mw._peering.forward.PROVEN_S", FOR_EVER)
    monkeypatch.setattr("ha_session_mw._peering.forward.CONNECT_WITHIN_S", LIMIT_S)


class Owner:
    """A server for one app, with a story: it cuts a connection in the middle of a forwarded request, or of its answer.

    Attributes:
        request_bytes, answer_bytes: how much of them passes before the connection is cut.
        says: what it sends in place of the app's answer, if anything.
        first: what it sends before the answer.
        length: bytes of the last forwarded request, and of its answer.
    """

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self.whole()

    def whole(self) -> None:
        self.request_bytes = self.answer_bytes = FOR_EVER
        self.says = self.first = b""
        self.length = [0, 0]

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        async with stream:
            with suppress(*BROKEN):
                await self._serve(stream)

    async def _serve(self, stream: anyio.abc.ByteStream) -> None:
        wire = h11.Connection(h11.SERVER)
        is_forward = is_cut = False

        def cut() -> None:
            nonlocal is_cut
            is_cut = True

        async def event() -> Any:
            nonlocal is_forward
            if is_cut:
                raise ConnectionError
            while (found := wire.next_event()) is h11.NEED_DATA:
                data = await stream.receive(65536)
                if data.startswith(MARK):
                    is_forward, self.length = True, [0, 0]
                if is_forward:
                    left = self.request_bytes - self.length[0]
                    self.length[0] += len(data)
                    if len(data) > left:
                        cut()
                        raise ConnectionError
                wire.receive_data(data)
            return found

        async def write(data: bytes | None) -> None:
            if not data or is_cut:
                return
            left = self.answer_bytes - self.length[1] if is_forward else FOR_EVER
            if is_forward:
                self.length[1] += len(data)
            with suppress(*BROKEN):  # no server tells its app of that
                await stream.send(data[:left])
            if len(data) > left:
                cut()

        while True:
            request = await event()
            if not isinstance(request, h11.Request):
                return
            if is_forward and self.says:
                await stream.send(self.says)
                return
            await self._answer(request, event, write, wire)
            if is_cut:
                return
            while wire.their_state is h11.SEND_BODY:  # a server reads what its app does not
                await event()
            if wire.our_state is not h11.DONE or wire.their_state is not h11.DONE:
                return
            wire.start_next_cycle()
            is_forward = False

    async def _answer(self, request: h11.Request, event: Callable[[], Any], write: Callable[[bytes | None], Any], wire: Any) -> None:
        async def receive() -> Message:
            try:
                found = await event()
            except BROKEN:
                return {"type": "http.disconnect"}
            if isinstance(found, h11.Data):
                return {"type": "http.request", "body": bytes(found.data), "more_body": True}
            return {"type": "http.request" if isinstance(found, h11.EndOfMessage) else "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                await write(self.first)
                await write(wire.send(h11.Response(status_code=message["status"], headers=message["headers"])))
                return
            if message.get("body"):
                await write(wire.send(h11.Data(data=message["body"])))
            if not message.get("more_body"):
                await write(wire.send(h11.EndOfMessage()))

        target = request.target.decode()
        scope = scope_of("http", target, method=request.method.decode(), headers=[*request.headers])
        scope["headers"] = [*request.headers]
        assert self.app is not None
        await self.app(scope, receive, send)


class Pair:
    """Two nodes: a request comes to the first one, for a session that the second one owns."""

    def __init__(self, first: SessionMiddleware, owner: Owner, app: Rooms, token: str) -> None:
        self.first, self.owner, self.app, self.token = first, owner, app, token

    async def ask(
        self,
        method: str,
        body: list[bytes],
        *,
        path: str = "/rooms/x",
        send: Send | None = None,
        receive: Receive | None = None,
        **headers: str,
    ) -> Answer:
        answer, over = Answer(), anyio.Event()
        waiting = [*body]

        async def receive_body() -> Message:
            if waiting:
                return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}
            await over.wait()
            return {"type": "http.disconnect"}

        async def send_answer(message: Message) -> None:
            await answer.send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                over.set()

        sent = [(b"cookie", f"session={self.token}".encode()), *((k.replace("_", "-").encode(), v.encode()) for k, v in headers.items())]
        with anyio.fail_after(LIMIT_S):
            await self.first(scope_of("http", path, method=method, headers=sent), receive or receive_body, send or send_answer)
        return answer


class Rooms:
    """Counts how often it has executed a request, after it has read all of its body."""

    def __init__(self) -> None:
        self.executed = 0
        self.read = self.produced = 0
        self.disconnected = anyio.Event()
        self.go_on = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("no lifespan here")
        if scope["path"] == "/rooms/stream":
            await self._stream(receive, send)
            return
        if scope["path"] == "/rooms/slow":
            await self.go_on.wait()
        more = True
        size = 0
        while more:
            message = await receive()
            if message["type"] != "http.request":
                self.disconnected.set()
                return
            size += len(message.get("body", b""))
            self.read += len(message.get("body", b""))
            more = message.get("more_body", False)
        self.executed += 1
        content = json.dumps({"bytes": size}).encode()
        headers = [(b"content-type", b"application/json"), (b"set-cookie", b"app=1"), (b"set-cookie", b"other=2")]
        if scope["path"] == "/rooms/huge":
            headers.append((b"x-huge", b"x" * 300_000))
        if scope["path"] != "/rooms/chunked":
            headers.append((b"content-length", b"%d" % len(content)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
            return
        await send({"type": "http.response.body", "body": content[:4], "more_body": True})
        await send({"type": "http.response.body", "body": content[4:]})

    async def _stream(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.disconnected.set()
                tasks.cancel_scope.cancel()

            tasks.start_soon(listen)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                self.produced += 65536


@asynccontextmanager
async def nodes(app: Rooms) -> AsyncIterator[Pair]:
    owners = [Owner(), Owner()]
    listeners = [await anyio.create_tcp_listener(local_host="127.0.0.1") for _ in owners]
    urls = [f"http://127.0.0.1:{one.extra(anyio.abc.SocketAttribute.local_port)}" for one in listeners]
    made = []
    for name, url, owner in zip("ab", urls, owners, strict=True):
        settings = Settings(
            secret_key=SECRET,
            cluster="peers://",
            peers=urls,
            advertise_url=url,
            node_id=name,
            owned="/rooms/*",
            routing="forward",
            peer_timeout="30s",
            freshness_limit="60s",
        )
        owner.app = middleware = SessionMiddleware(app, manager=SessionManager(settings))
        made.append(middleware)
    try:
        async with anyio.create_task_group() as tasks:
            for owner, listener in zip(owners, listeners, strict=True):
                tasks.start_soon(listener.serve, owner.serve)
            async with made[0].manager.running(), made[1].manager.running():
                yield await _pair(made, owners[1], app)
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            for listener in listeners:
                await listener.aclose()


async def _pair(made: list[SessionMiddleware], owner: Owner, app: Rooms) -> Pair:
    a, b = (middleware.manager for middleware in made)
    with anyio.fail_after(LIMIT_S):
        while a.why_not_ready() or b.why_not_ready():  # noqa: ASYNC110 - nothing tells
            await anyio.sleep(0.01)
        while True:
            token = mint_session(a, "ada")
            if a.owner_of(token.split(".")[1]) == "b":
                return Pair(made[0], owner, app, token)
            await anyio.sleep(0.01)


def told(answer: Answer) -> dict[str, Any]:
    return dict(json.loads(answer.body))


async def cut_at_offsets(pair: Pair, parts: int, side: str, method: str, path: str, body: list[bytes]) -> set[str]:
    """Check that a request is executed at most once, and that the client learns the truth. Return the kinds of ends."""
    await pair.ask(method, body, path=path)
    length = pair.owner.length[0 if side == "request" else 1]
    ends = set()
    for offset in [*range(0, length, max(1, length // parts)), length - 1]:
        pair.owner.whole()
        setattr(pair.owner, f"{side}_bytes", offset)
        before = pair.app.executed
        try:
            answer = await pair.ask(method, body, path=path)
        except AnswerCutOff:
            end = "cut off"
            assert pair.app.executed == before + 1
        else:
            end = str(answer.status) if answer.status == 200 else answer.problem["outcome"]
            if end == "200":
                assert told(answer)["bytes"] == sum(map(len, body))
        executed = pair.app.executed - before
        if method == "GET":
            assert end in ("200", "cut off")
            assert executed <= 2
        else:
            assert executed <= 1
            assert executed == {"200": 1, "cut off": 1, "not_executed": 0}.get(end, executed)
        ends.add(end)
    pair.owner.whole()
    return ends


@pytest.mark.parametrize("parts", [8, pytest.param(200, marks=pytest.mark.prove)])
async def test_a_request_that_is_cut_at_any_byte_is_executed_once_at_most_and_its_outcome_is_told(parts: int) -> None:
    async with nodes(Rooms()) as pair:
        body = [b"x" * 500] * 3
        assert await cut_at_offsets(pair, parts, "request", "POST", "/rooms/x", body) == {"unknown"}
        assert await cut_at_offsets(pair, parts, "answer", "POST", "/rooms/x", body) == {"unknown", "cut off"}
        assert await cut_at_offsets(pair, parts, "answer", "DELETE", "/rooms/chunked", [b""]) == {"unknown", "cut off"}
        assert await cut_at_offsets(pair, parts, "request", "GET", "/rooms/x", [b""]) == {"200"}
        assert await cut_at_offsets(pair, parts, "answer", "GET", "/rooms/chunked", [b""]) == {"200", "cut off"}


UNSIGNED = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nsession-peer: 1 n s\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
]


async def test_an_answer_that_no_member_has_signed_is_never_passed_on() -> None:
    async with nodes(Rooms()) as pair:
        for says in UNSIGNED:
            pair.owner.says = says
            answer = await pair.ask("POST", [b"x"])
            assert (answer.status, answer.code, answer.problem["outcome"]) == (504, "forward_outcome_unknown", "unknown")
            assert told(await pair.ask("GET", [b""])) == {"bytes": 0}  # safe, so the first node answers it


async def test_an_answer_keeps_its_cookies_and_early_hints_and_a_large_header_do_no_harm() -> None:
    async with nodes(Rooms()) as pair:
        pair.owner.first = b"HTTP/1.1 103 Early Hints\r\nlink: </x.css>\r\n\r\n"
        answer = await pair.ask("POST", [b"x"])
        assert [line for line in answer.all("set-cookie") if not line.startswith("session=")] == ["app=1", "other=2"]
        pair.owner.whole()
        executed = pair.app.executed
        answer = await pair.ask("POST", [b"x"], path="/rooms/huge")
        assert (answer.code, pair.app.executed) == ("forward_outcome_unknown", executed + 1)


async def test_the_framing_of_a_request_arrives_as_it_was() -> None:
    async with nodes(Rooms()) as pair:
        assert told(await pair.ask("POST", [b"ab", b"cd"], content_length="4")) == {"bytes": 4}
        assert told(await pair.ask("POST", [b"ab", b"cd"], transfer_encoding="chunked")) == {"bytes": 4}
        assert node_of(pair.first.manager).validator.durations["forward"].total == 2
        executed = pair.app.executed
        answer = await pair.ask("POST", [b"ab", b"cd"], content_length="3")  # longer than it says
        assert (answer.code, pair.app.executed) == ("forward_outcome_unknown", executed)


async def stalls(read: Callable[[], int]) -> int:
    """Return a figure once it does not grow any more."""
    last = -1
    with anyio.fail_after(LIMIT_S):
        while read() != last or last <= 0:
            last = read()
            await anyio.sleep(0.1)
    return last


async def test_a_slow_client_slows_the_owner_down_and_when_it_goes_the_owner_hears_of_it() -> None:
    async with nodes(Rooms()) as pair:
        gone, started = anyio.Event(), anyio.Event()
        begun = False

        async def receive() -> Message:
            nonlocal begun
            if not begun:
                begun = True
                return {"type": "http.request"}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            started.set()
            await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: pair.ask("GET", [], path="/rooms/stream", receive=receive, send=send))
            await started.wait()
            assert await stalls(lambda: pair.app.produced) < 16 << 20
            gone.set()
            with anyio.fail_after(LIMIT_S):
                await pair.app.disconnected.wait()


async def test_an_owner_that_reads_nothing_slows_the_client_down_and_an_upload_that_breaks_off_is_not_executed() -> None:
    async with nodes(Rooms()) as pair:
        sent, ends = 0, anyio.Event()

        async def receive() -> Message:
            nonlocal sent
            if ends.is_set():
                return {"type": "http.disconnect"}
            sent += 65536
            return {"type": "http.request", "body": b"x" * 65536, "more_body": True}

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: pair.ask("POST", [], path="/rooms/slow", receive=receive, transfer_encoding="chunked"))
            assert await stalls(lambda: sent) < 16 << 20
            ends.set()
            pair.app.go_on.set()
            with anyio.fail_after(LIMIT_S):
                await pair.app.disconnected.wait()
        assert pair.app.executed == 0


async def test_a_body_that_has_gone_cannot_be_executed_here() -> None:
    async with nodes(Rooms()) as pair:
        await pair.ask("GET", [b""])  # the owner is proven
        pair.owner.request_bytes = 0
        for size in (100, 4 * KEPT_BODY):
            answer = await pair.ask("GET", [b"x" * size])
            assert (answer.status == 200) == (size == 100)
        assert answer.code == "peer_unreachable"


async def test_the_answer_to_a_head_says_how_long_the_body_would_be() -> None:
    async with nodes(Rooms()) as pair:
        answer = await pair.ask("HEAD", [b""])
        assert (answer.status, answer.header("content-length"), answer.header("session-length"), answer.body) == (200, "12", None, b"")
        assert answer.header("via") == "1.1 ha-session"


async def test_a_body_of_single_bytes_is_not_kept_for_long() -> None:
    waiting = 300

    async def receive() -> Message:
        nonlocal waiting
        waiting -= 1
        return {"type": "http.request", "body": b"x", "more_body": waiting > 0}

    body = Body(receive)
    assert [await anext(body) for _ in range(100)] == [b"x"] * 100
    assert body.again() is not None
    assert len([chunk async for chunk in body]) == 200
    assert body.again() is None
