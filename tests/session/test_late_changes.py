"""Changes in a WebSocket, and after a response has started: they are saved where possible, and reported otherwise."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from litestar.connection import ASGIConnection
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from ha_session_mw import Session, SessionMiddleware, SessionReadOnly, StoreUnavailable, get_session
from ha_session_mw.abc import Grant, Record
from ha_session_mw.testing import ManualClock

from ..asgi.driver import SECRET, Act, Answer, Node, Visitor, call, look, respond, scope_of, why
from .test_stored_sessions import LARGE, StoreNode, put

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

Step = Callable[[Session], Any]


async def socket(node: Node, token: str | None, *steps: Step | Message, **scope: Any) -> Answer:
    """Serve one WebSocket. The steps run in their order: an act on the session, or a message that the app sends."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        for step in steps:
            if not callable(step):
                await send(step)
            elif isinstance(result := step(session), Awaitable):
                await result

    headers = [(b"cookie", f"session={token}".encode())] if token else []
    return await call(SessionMiddleware(app, manager=node.manager), scope_of("websocket", **{"headers": headers, **scope}))


ACCEPT: Message = {"type": "websocket.accept", "headers": [(b"x-mine", b"1")]}
TEXT: Message = {"type": "websocket.send", "text": "hello"}
CLOSE: Message = {"type": "websocket.close"}


def fields(message: Message, name: bytes) -> list[str]:
    return [value.decode() for key, value in message.get("headers", ()) if key == name]


def token_in(message: Message) -> str | None:
    found = fields(message, b"set-cookie")
    assert len(found) < 2
    return found[0].removeprefix("session=").partition(";")[0] if found else None


# The handshake


@pytest.mark.parametrize("act", [put(b=2), lambda s: s["n"].append(2), lambda s: s.cycle(), lambda s: s.login("bob")])
async def test_a_change_before_a_websocket_is_accepted_goes_out_with_the_handshake(node: Node, act: Act) -> None:
    visitor = await node.logged_in("ada", a=1, n=[1])
    states: list[Any] = []
    answer = await socket(node, visitor.token, act, ACCEPT, lambda s: states.append((s.id, s.subject, dict(s))))
    [accept] = answer.messages
    assert fields(accept, b"x-mine") == ["1"]
    token = token_in(accept)
    assert token not in (None, visitor.token)
    assert (await node.request(lambda s: (s.id, s.subject, dict(s)), token=token)).result == states[0]


async def test_a_visitor_gets_a_session_with_the_handshake(node: Node) -> None:
    answer = await socket(node, None, put(a=1), ACCEPT)
    assert (await node.request(look, token=token_in(answer.messages[0]))).result == {"a": 1}


async def test_a_bearer_gets_its_token_with_the_handshake(node: Node) -> None:
    visitor = await node.logged_in("ada")
    answer = await socket(node, None, put(a=1), ACCEPT, headers=[(b"authorization", f"Bearer {visitor.token}".encode())])
    [token] = fields(answer.messages[0], b"session-token")
    assert (await node.request(look, bearer=token)).result == {"a": 1}


@pytest.mark.parametrize("act", [lambda s: s.clear(), lambda s: s.revoke()], ids=["clear", "revoke"])
async def test_a_log_out_before_the_accept_holds_and_the_websocket_goes_on(node: Node, act: Step) -> None:
    visitor = await node.logged_in("ada")
    answer = await socket(node, visitor.token, act, ACCEPT, TEXT)
    assert [message["type"] for message in answer.messages] == ["websocket.accept", "websocket.send"]
    assert token_in(answer.messages[0]) == "null"
    assert fields(answer.messages[0], b"session-revocation") == ["fenced"]
    assert (await node.request(why, token=visitor.token)).result == "session_revoked"


async def test_a_log_out_by_revoke_and_a_write_before_the_accept_begin_a_session(node: Node) -> None:
    visitor = await node.logged_in("ada")
    answer = await socket(node, visitor.token, lambda s: s.revoke(), put(a=1), ACCEPT)
    assert (await node.request(lambda s: (s.subject, dict(s)), token=token_in(answer.messages[0]))).result == (None, {"a": 1})


async def test_a_log_out_elsewhere_before_the_accept_ends_the_handshake(node: Node) -> None:
    visitor = await node.logged_in("ada")
    answer = await socket(node, visitor.token, lambda s: s.manager.revoke_subject("ada"), ACCEPT, TEXT)
    assert not [message for message in answer.messages if message["type"] == "websocket.accept"]


async def test_revoke_before_the_accept_ends_the_handshake_where_it_cannot_remove_the_cookie(node: Node) -> None:
    visitor = await node.logged_in("ada")
    answer = await socket(node, visitor.token, lambda s: s.revoke(), ACCEPT, TEXT, asgi={"version": "3.0"}, extensions={})
    assert not [message for message in answer.messages if message["type"] == "websocket.accept"]
    assert (await node.request(why, token=visitor.token)).result == "session_revoked"


async def test_a_token_is_renewed_with_the_handshake(node: Node) -> None:
    visitor = await node.logged_in("ada")
    node.clock.advance(16 * 60)
    assert token_in((await socket(node, visitor.token, ACCEPT)).messages[0])


async def test_a_handshake_without_a_change_is_passed_on_as_it_is(node: Node) -> None:
    visitor = await node.logged_in("ada", n=[1])
    answer = await socket(node, visitor.token, look, ACCEPT)
    assert answer.messages[0] is ACCEPT


async def test_an_accept_without_headers_is_an_accept(node: Node) -> None:
    answer = await socket(node, None, put(a=1), {"type": "websocket.accept"})
    assert token_in(answer.messages[0])


@pytest.mark.parametrize("asgi", [{}, {"version": "3.0"}, {"version": "3.0", "spec_version": "2.0"}])
async def test_a_server_that_sends_no_headers_with_the_handshake_makes_the_change_raise(node: Node, asgi: dict[str, str]) -> None:
    with pytest.raises(SessionReadOnly, match="a WebSocket cannot change the session"):
        await socket(node, None, put(a=1), ACCEPT, asgi=asgi)


async def test_a_server_that_offers_a_later_extension_sends_headers_with_the_handshake(node: Node) -> None:
    answer = await socket(node, None, put(a=1), ACCEPT, asgi={}, extensions={"websocket.http.response": {}})
    assert token_in(answer.messages[0])


async def test_a_commit_that_fails_at_the_handshake_refuses_it(stored: StoreNode) -> None:
    visitor = await stored.logged_in("ada", a=1)

    def write(session: Session) -> None:
        session["b"] = 2
        stored.store.gone = True

    answer = await socket(stored, visitor.token, write, ACCEPT, TEXT, extensions={"websocket.http.response": {}})
    assert (answer.status, answer.code) == (503, "store_unavailable")


async def test_a_commit_that_fails_is_the_answer_also_if_the_framework_closes(stored: StoreNode) -> None:
    visitor = await stored.logged_in("ada", a=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        get_session(scope)["b"] = 2
        stored.store.gone = True
        try:
            await send(ACCEPT)
        except Exception:  # noqa: BLE001 - as Litestar does
            await send({"type": "websocket.close", "code": 4500})

    stored.app.app = app
    headers = [(b"cookie", f"session={visitor.token}".encode())]
    answer = await call(stored.app, scope_of("websocket", headers=headers, extensions={"websocket.http.response": {}}))
    assert (answer.status, answer.code) == (503, "store_unavailable")


async def test_a_handshake_whose_session_was_logged_out_meanwhile_commits_nothing(node: Node) -> None:
    visitor = await node.logged_in("ada")

    async def log_out(session: Session) -> None:
        session["a"] = 1
        await session.manager.revoke_session(session.family or "")

    assert (await socket(node, visitor.token, log_out, ACCEPT)).messages == []


async def test_a_denied_handshake_with_a_response_of_its_own_carries_the_change(node: Node) -> None:
    start: Message = {"type": "websocket.http.response.start", "status": 403, "headers": []}
    answer = await socket(node, None, put(a=1), start, {"type": "websocket.http.response.body", "body": b""})
    assert (await node.request(look, token=token_in(answer.start))).result == {"a": 1}


async def test_a_websocket_that_is_closed_before_it_is_accepted_can_hand_out_nothing(node: Node) -> None:
    with pytest.raises(SessionReadOnly):
        await socket(node, None, put(a=1), CLOSE)
    visitor = await node.logged_in("ada")
    answer = await socket(node, visitor.token, lambda s: s.clear(), CLOSE)
    assert answer.messages == [CLOSE]
    assert (await node.request(why, token=visitor.token)).result == "session_revoked"


async def test_a_websocket_that_began_with_a_log_in_ends_with_that_session(node: Node) -> None:
    ended: list[Any] = []

    async def log_out(session: Session) -> None:
        await session.manager.revoke_subject("ada")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        await receive()
        session.login("ada")
        await send(ACCEPT)
        await log_out(session)
        ended.append(await receive())

    node.app.app = app
    await call(node.app, scope_of("websocket"))
    assert ended[0]["code"] == 4401


async def test_a_log_out_holds_though_the_handler_fails_before_it_accepts(node: Node) -> None:
    visitor = await node.logged_in("ada")

    def fail(session: Session) -> None:
        session.clear()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        await socket(node, visitor.token, fail)
    assert (await node.request(why, token=visitor.token)).result == "session_revoked"


# Data in a store is written at any time


@pytest.fixture
def stored(clock: ManualClock) -> StoreNode:
    return StoreNode(clock, data="store")


CHANGES: list[tuple[Act, dict[str, Any]]] = [
    (lambda s: s.update(b=2), {"a": 1, "n": [1], "b": 2}),
    (lambda s: s.pop("a"), {"n": [1]}),
    (lambda s: s.replace({"c": 3}), {"c": 3}),
    (lambda s: s["n"].append(2), {"a": 1, "n": [1, 2]}),
    (lambda s: s.replace({}), {}),
]


@pytest.mark.parametrize(("act", "expected"), CHANGES)
@pytest.mark.parametrize("subject", ["ada", None])
async def test_a_change_in_a_websocket_is_stored_with_the_apps_next_message(
    stored: StoreNode, subject: str | None, act: Act, expected: dict[str, Any]
) -> None:
    visitor = stored.visitor()
    if subject:
        await visitor.visit(lambda s: s.login(subject))
    await visitor.visit(put(a=1, n=[1]))
    seen: list[Any] = []

    async def see(session: Session) -> None:
        seen.append((await visitor.visit(look)).result)

    await socket(stored, visitor.token, ACCEPT, act, TEXT, see, look)
    assert seen == [expected]
    stored.forget_copies()
    assert (await visitor.visit(look)).result == expected


@pytest.mark.parametrize(("act", "expected"), CHANGES)
async def test_a_change_in_a_websocket_is_stored_at_its_end(stored: StoreNode, act: Act, expected: dict[str, Any]) -> None:
    visitor = await stored.logged_in("ada", a=1, n=[1])
    await socket(stored, visitor.token, ACCEPT, act)
    assert (await visitor.visit(look)).result == expected


async def test_a_change_in_a_websocket_is_stored_when_the_app_waits_for_the_client(stored: StoreNode) -> None:
    visitor = await stored.logged_in("ada", a=1)
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        get_session(scope)["b"] = 2
        await receive()
        stored.app.app = obliging
        seen.append((await visitor.visit(look)).result)

    obliging, stored.app.app = stored.app.app, app
    await call(stored.app, scope_of("websocket", headers=[(b"cookie", f"session={visitor.token}".encode())]))
    assert seen == [{"a": 1, "b": 2}]


async def test_data_that_moves_to_the_store_with_the_handshake_is_written_there_from_then_on(clock: ManualClock) -> None:
    node = StoreNode(clock)
    visitor = await node.logged_in("ada", a=1)
    answer = await socket(node, visitor.token, put(text=LARGE), ACCEPT, put(b=2), TEXT, put(c=3))
    assert (await node.request(look, token=token_in(answer.messages[0]))).result == {"a": 1, "text": LARGE, "b": 2, "c": 3}


async def test_late_changes_and_those_of_other_requests_lose_nothing(stored: StoreNode) -> None:
    visitor = await stored.logged_in("ada", a=1, n=[1])

    def others(**data: Any) -> Step:
        return lambda session: visitor.visit(put(**data))

    steps = (others(x=1), put(status="here"), ACCEPT, others(status="away", y=2), put(b=2), TEXT, others(z=3), put(c=3), TEXT)
    await socket(stored, visitor.token, *steps)
    expected = {"a": 1, "n": [1], "x": 1, "status": "away", "y": 2, "b": 2, "z": 3, "c": 3}
    assert (await visitor.visit(look)).result == expected


async def test_a_list_that_the_app_holds_is_stored_each_time_it_grows(stored: StoreNode) -> None:
    visitor = await stored.logged_in("ada", n=[1])
    held: list[list[int]] = []
    grow: Step = lambda session: held[0].append(2)  # noqa: E731
    other: Step = lambda session: visitor.visit(put(x=1))  # noqa: E731
    await socket(stored, visitor.token, ACCEPT, lambda s: held.append(s["n"]), grow, TEXT, other, grow, TEXT, grow)
    assert (await visitor.visit(look)).result == {"n": [1, 2, 2, 2], "x": 1}


async def test_a_change_under_the_lock_in_a_websocket_is_stored_before_the_lock_is_released(clock: ManualClock) -> None:
    node = Node(clock=clock, data="store")
    visitor = await node.logged_in("ada", n=0)

    async def count(session: Session) -> None:
        async with session.lock():
            session["n"] += 1

    await socket(node, visitor.token, ACCEPT, count, lambda s: visitor.visit(count), count)
    assert (await visitor.visit(look)).result == {"n": 3}


@pytest.mark.parametrize(("act", "expected"), CHANGES)
async def test_a_change_after_the_response_started_is_stored(stored: StoreNode, act: Act, expected: dict[str, Any]) -> None:
    visitor = await stored.logged_in("ada", a=1, n=[1])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        act(get_session(scope))

    obliging, stored.app.app = stored.app.app, app
    await stored.request(token=visitor.token)
    stored.app.app = obliging
    assert (await visitor.visit(look)).result == expected


async def test_a_nested_change_while_the_store_writes_is_stored_afterwards(stored: StoreNode, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = await stored.logged_in("ada", a=1, n=[1])
    sessions: list[Session] = []
    store = stored.store.put

    async def put_slowly(record: Record, *, guard: Grant | None = None) -> Record:
        if sessions:  # another task of the app has the list, too
            sessions.pop()["n"].append(2)
        return await store(record, guard=guard)

    monkeypatch.setattr(stored.store, "put", put_slowly)

    def act(session: Session) -> None:
        session["a"] = 2
        sessions.append(session)

    await visitor.visit(act)
    assert (await visitor.visit(look)).result == {"a": 2, "n": [1, 2]}


async def test_a_change_in_a_stream_is_stored_with_the_next_part(stored: StoreNode) -> None:
    visitor = await stored.logged_in("ada", a=1)
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        get_session(scope)["b"] = 2
        await send({"type": "http.response.body", "body": b"2", "more_body": True})
        stored.app.app = obliging
        seen.append((await visitor.visit(look)).result)
        await send({"type": "http.response.body", "body": b""})

    obliging, stored.app.app = stored.app.app, app
    await stored.request(token=visitor.token)
    assert seen == [{"a": 1, "b": 2}]


async def test_a_change_after_a_5xx_is_not_stored(stored: StoreNode) -> None:
    visitor = await stored.logged_in("ada", a=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        get_session(scope)["b"] = 2
        await respond(send, 500)
        get_session(scope)["c"] = 3

    obliging, stored.app.app = stored.app.app, app
    with pytest.raises(SessionReadOnly):
        await stored.request(token=visitor.token)
    stored.app.app = obliging
    assert (await visitor.visit(look)).result == {"a": 1}


async def test_content_that_litestar_sets_in_a_websocket_is_stored(stored: StoreNode) -> None:
    visitor = await stored.logged_in("ada", a=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        ASGIConnection[Any, Any, Any, Any](scope).set_session({"b": 2})  # type: ignore[arg-type]

    obliging, stored.app.app = stored.app.app, app
    await call(stored.app, scope_of("websocket", headers=[(b"cookie", f"session={visitor.token}".encode())]))
    stored.app.app = obliging
    assert (await visitor.visit(look)).result == {"b": 2}


async def test_a_change_that_the_store_cannot_take_now_is_told_and_stored_with_a_later_message(stored: StoreNode) -> None:
    visitor = await stored.logged_in("ada", a=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        get_session(scope)["b"] = 2
        stored.store.gone = True
        with pytest.raises(StoreUnavailable):
            await send(TEXT)
        stored.store.gone = False
        await send(TEXT)

    obliging, stored.app.app = stored.app.app, app
    await call(stored.app, scope_of("websocket", headers=[(b"cookie", f"session={visitor.token}".encode())]))
    stored.app.app = obliging
    assert (await visitor.visit(look)).result == {"a": 1, "b": 2}


@pytest.mark.parametrize("mode", ["store", "token"])
async def test_a_write_after_a_log_out_brings_nothing_back(clock: ManualClock, mode: str) -> None:
    node = StoreNode(clock, data=mode)
    visitor = await node.logged_in("ada", a=1)
    captured = Visitor(node)
    captured.token = visitor.token

    def write(session: Session) -> None:
        if mode == "store":
            session["b"] = 2

    await socket(node, visitor.token, ACCEPT, lambda s: captured.visit(lambda other: other.clear()), write)
    assert node.stored() == []
    assert (await visitor.visit(why)).result == "session_revoked"


# A log-out works at any time


@pytest.mark.parametrize("subject", ["ada", None])
async def test_clear_in_a_websocket_logs_out(node: Node, subject: str | None) -> None:
    visitor = node.visitor()
    if subject:
        await visitor.visit(lambda s: s.login(subject))
    await visitor.visit(put(a=1))
    await socket(node, visitor.token, ACCEPT, lambda s: s.clear())
    assert (await node.request(why, token=visitor.token)).result == "session_revoked"


async def test_clear_after_the_response_started_logs_out_also_if_the_app_fails_then(node: Node) -> None:
    for fails in (False, True):
        visitor = await node.logged_in("ada", a=1)

        async def app(scope: Scope, receive: Receive, send: Send, fails: bool = fails) -> None:
            await respond(send)
            get_session(scope).clear()
            if fails:
                raise RuntimeError("broken")

        obliging, node.app.app = node.app.app, app
        if fails:
            with pytest.raises(RuntimeError):
                await node.request(token=visitor.token)
        else:
            await node.request(token=visitor.token)
        node.app.app = obliging
        assert (await node.request(why, token=visitor.token)).result == "session_revoked"


@pytest.mark.parametrize("act", [lambda s: s.revoke(), lambda s: s.clear()])
async def test_a_log_out_after_a_log_in_of_the_same_request_ends_the_session_that_was_handed_out(node: Node, act: Act) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        session.login("ada")
        await respond(send)
        if isinstance(result := act(session), Awaitable):
            await result

    obliging, node.app.app = node.app.app, app
    token = (await node.request()).token
    node.app.app = obliging
    assert token
    assert (await node.request(why, token=token)).result == "session_revoked"


# Called Starlette's way, the rest is lost as there, and logged


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    for _ in range(3):
        websocket.session["seen"] = websocket.session.get("seen", 0) + 1
    websocket.session["list"].append(1)
    await websocket.send_json(websocket.session)
    await websocket.close()


async def fill(request: Request) -> Response:
    request.session["list"] = []
    return JSONResponse({})


async def show(request: Request) -> Response:
    return JSONResponse(request.session)


async def later(request: Request) -> Response:
    def change() -> None:
        request.session["late"] = True

    return Response(background=BackgroundTask(change))


async def stream(request: Request) -> Response:
    async def parts() -> Any:
        yield b"1"
        request.session.pop("list")
        yield b"2"

    return StreamingResponse(parts())


def app_of(**arguments: Any) -> Starlette:
    routes = [Route("/fill", fill), Route("/show", show), Route("/later", later), Route("/stream", stream), WebSocketRoute("/chat", chat)]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, **arguments)])


def test_called_starlettes_way_a_change_that_is_lost_is_logged_once_for_each_place(caplog: pytest.LogCaptureFixture) -> None:
    with TestClient(app_of(secret_key=SECRET)) as client:
        client.get("/fill")
        for _ in range(2):
            with client.websocket_connect("/chat") as websocket:
                assert websocket.receive_json() == {"list": [1], "seen": 3}
            assert client.get("/later").status_code == 200
            assert client.get("/stream").text == "12"
        assert client.get("/show").json() == {"list": []}
    found = [record for record in caplog.records if record.name == "ha_session_mw"]
    assert {record.levelno for record in found} == {logging.WARNING}
    texts = [record.message for record in found]
    assert [
        sum(text.startswith(place) for text in texts) for place in ("chat (", "later.<locals>.change (", "stream.<locals>.parts (")
    ] == [
        2,  # one for the assignment, and one for the list, which is found at the end
        1,
        1,
    ]
    assert all(__file__ in text for text in texts)


def test_with_settings_of_ours_such_a_change_raises_and_names_the_place() -> None:
    from ha_session_mw import Settings

    with TestClient(app_of(settings=Settings(secret_key=SECRET))) as client:
        client.get("/fill")
        with (
            pytest.raises(SessionReadOnly, match=r"changed in chat \(.*test_late_changes.py:\d+\)"),
            client.websocket_connect("/chat") as ws,
        ):
            ws.receive_json()
        with pytest.raises(SessionReadOnly, match=r"later.<locals>.change"):
            client.get("/later")


@pytest.mark.parametrize("act", [lambda s: s.login("eve"), lambda s: s.cycle()])
async def test_a_log_in_that_cannot_be_handed_out_raises_in_any_case(act: Act) -> None:
    node = Node(loses_late_changes=True)
    visitor = await node.logged_in("ada", a=1)
    with pytest.raises(SessionReadOnly):
        await socket(node, visitor.token, ACCEPT, act)
