"""The client gets the right problem document: every code, by every transport."""

from __future__ import annotations

import json
import logging
import math
import re
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from uuid import UUID

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from ha_session_mw import Acknowledgement, ProblemError, Session, SessionReadOnly, TokenMissing, get_session, require_session
from ha_session_mw.exceptions import (
    InfrastructureFault,
    QuorumLost,
    SessionConflict,
    SessionLocked,
    SessionUnknown,
    StateStale,
    StoreUnavailable,
    TokenNotYetValid,
    problem_types,
)
from ha_session_mw.manager import node_of
from ha_session_mw.testing import ManualClock

from ..core.test_problems import TABLE
from .driver import OTHER_SECRET, SECRET, Answer, Node, call, respond, scope_of, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

CODES = sorted(problem_types())


def raising(problem: Callable[[], BaseException]) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise problem()

    return app


async def told(code: str, *, headers: Any = (), node: Node | None = None, **scope: Any) -> Answer:
    """The refusal with this code, as a client gets it."""
    node = node or Node()
    node.app.app = raising(problem_types()[code])
    return await call(node.app, scope_of("http", headers=headers, **scope))


# The table


@pytest.mark.parametrize("code", CODES)
async def test_each_code_matches_its_row_of_the_table(code: str) -> None:
    answer = await told(code)
    status, error, retryable, where, after_ms, action = TABLE[code]
    body = answer.problem
    assert answer.status == status
    assert set(body) == {
        *("type", "title", "status", "detail", "instance", "code"),
        *("retryable", "retry_after_ms", "retry_where", "action", "outcome"),
    }
    found = (body["status"], body["code"], body["retryable"], body["retry_where"], body["retry_after_ms"], body["action"])
    assert found == (status, code, retryable, where, after_ms, action)
    assert body["type"] == f"/-/session/problems/{code}"
    assert body["title"]
    assert body["detail"]
    assert UUID(body["instance"].removeprefix("urn:uuid:")).version == 4
    assert answer.header("cache-control") == "no-store"
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.header("vary") == "Accept, Cookie, Authorization"
    assert answer.all("set-cookie") == []
    expected = 'Bearer realm="session"' + (f', error="{error}", error_description="{body["title"]}"' if error else "")
    assert answer.header("www-authenticate") == (expected if error or status == 401 else None)
    retry_after = math.ceil((after_ms or 0) / 1000) if status in (429, 503) else None
    assert answer.header("retry-after") == (None if retry_after is None else str(retry_after))


async def test_an_answer_that_was_rendered_before_serves_only_requests_that_would_get_the_same() -> None:
    """The second of two equal refusals is not rendered anew, and has an instance of its own."""
    node = Node(app=raising(StateStale))
    html = [(b"accept", b"text/html")]
    different: list[dict[str, Any]] = [
        {},
        {"method": "POST"},
        {"root_path": "/app"},
        {"headers": html},
        {"headers": html, "method": "POST"},
    ]
    first, second = [[await call(node.app, scope_of("http", **each)) for each in different] for _ in range(2)]
    without = [[re.sub(rb"urn:uuid:[-0-9a-f]{36}", b"", answer.body) for answer in answers] for answers in (first, second)]
    assert without[0] == without[1]
    assert len({answer.body for answer in (*first, *second)}) == 10
    assert len(set(without[0])) == len(different)
    assert [answer.start["headers"] for answer in first] == [answer.start["headers"] for answer in second]
    assert [answer.header("content-type") for answer in second] == ["application/problem+json"] * 3 + ["text/html; charset=utf-8"] * 2


@pytest.mark.parametrize("code", CODES)
async def test_the_type_of_each_resolves(code: str) -> None:
    node = Node()
    kind = (await told(code, node=node)).problem["type"]
    assert (await call(node.app, scope_of("http", kind))).status == 200


@pytest.mark.parametrize("code", CODES)
async def test_the_fault_of_the_infrastructure_is_never_a_401(code: str) -> None:
    kind = problem_types()[code]
    if issubclass(kind, InfrastructureFault):
        assert (kind.status >= 500, kind.retryable) == (True, True)


@pytest.mark.parametrize(
    ("wait_s", "seconds", "ms"), [(0.1, "1", 100), (1.0, "1", 1000), (1.0001, "2", 1001), (2.5, "3", 2500), (0, "0", 0)]
)
async def test_a_wait_is_rounded_up(wait_s: float, seconds: str, ms: int) -> None:
    node = Node(app=raising(lambda: StateStale(retry_after_s=wait_s)))
    answer = await call(node.app, scope_of("http"))
    assert (answer.header("retry-after"), answer.problem["retry_after_ms"]) == (seconds, ms)


async def test_a_token_from_the_future_says_how_long_to_wait() -> None:
    node = Node(protect="*")
    ahead = Node(clock=ManualClock(wall_s=node.clock.wall_s() + 90))
    early = node_of(ahead.manager).sign(node_of(ahead.manager).issuer.issue("ada")).decode()
    answer = await node.request(token=early)
    assert (answer.status, answer.code, answer.problem["retry_after_ms"]) == (401, TokenNotYetValid.code, 30_000)
    node.clock.advance(30)
    assert (await node.request(token=early)).status == 200


async def test_each_occurrence_has_a_name_of_its_own() -> None:
    assert (await told("token_missing")).problem["instance"] != (await told("token_missing")).problem["instance"]


async def test_each_refusal_is_counted() -> None:
    node = Node(protect="/private")
    await node.request(path="/private")
    await node.request(token="rubbish")
    assert node_of(node.manager).errors.counts == {"token_missing": 1, "token_malformed": 1}


# The detail for each reader


async def refusals(**settings: Any) -> dict[str, Answer]:
    """Refusals on a protected path, by the token that was sent."""
    node = Node(protect="/private", **settings)
    visitor = await node.logged_in("canary-subject", note="canary-data")
    good = str(visitor.token)
    sid = good.split(".")[1]
    await visitor.visit(lambda s: s.revoke())
    foreign = str((await Node(secret_key=OTHER_SECRET).logged_in("canary-subject")).token)
    other = str((await node.logged_in("canary-subject")).token)
    cookie_and_bearer = [(b"cookie", f"session={other}".encode()), (b"authorization", f"Bearer {foreign}".encode())]
    answers = {
        "nothing": await node.request(path="/private"),
        "revoked": await node.request(path="/private", token=good),
        "revoked, as bearer": await node.request(path="/private", bearer=good),
        "of another key": await node.request(path="/private", token=foreign),
        "altered": await node.request(path="/private", token=other[:-1] + ("A" if other[-1] != "A" else "B")),
        "rubbish": await node.request(path="/private", token="canary-rubbish"),
        "too large": await node.request(path="/private", token="hs1.canary" + "x" * 5000),
        "two": await node.request(path="/private", headers=cookie_and_bearer),
    }
    node.clock.advance(1801)
    answers["idle"] = await node.request(path="/private", token=other)
    for answer in answers.values():
        text = json.dumps([str(message) for message in answer.messages])
        for secret in (SECRET, OTHER_SECRET, good, other, foreign, sid, "canary", "192.0.2.7"):
            assert secret not in text
    return answers


async def test_nothing_is_leaked_and_one_answer_is_for_all_that_could_be_probed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answers = await refusals()
    assert {name: answer.code for name, answer in answers.items()} == {
        "nothing": "token_missing",
        "revoked": "session_revoked",
        "revoked, as bearer": "session_revoked",
        "of another key": "token_invalid",
        "altered": "token_invalid",
        "rubbish": "token_malformed",
        "too large": "token_too_large",
        "two": "request_ambiguous",
        "idle": "session_idle_timeout",
    }
    one, other = (answers[name].problem | {"instance": ""} for name in ("of another key", "altered"))
    assert one == other
    assert "canary" not in caplog.text


async def test_full_detail_adds_the_reason_and_the_checks_and_no_secret() -> None:
    answers = await refusals(error_detail="full")
    revoked = answers["revoked"].problem
    assert revoked["reason"] == "the session or its family is revoked"
    assert [check["check"] for check in revoked["checks"]][-1] == "denied"
    assert [check["passed"] for check in revoked["checks"]][-2:] == [True, False]
    assert "reason" not in (await refusals())["revoked"].problem


# Pages and HEAD


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("application/json, text/html;q=0.9", False),
        ("text/html;q=0.9, application/problem+json", False),
        ("application/json;q=0.1, text/html;q=0.2", True),
        ("text/html, application/json", False),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        ("*/*", False),
        ("", False),
    ],
)
async def test_a_client_that_prefers_a_page_gets_one(accept: str, *, html: bool) -> None:
    answer = await told("session_revoked", headers=[(b"accept", accept.encode())])
    assert answer.status == 401
    assert answer.header("content-type") == ("text/html; charset=utf-8" if html else "application/problem+json")
    assert answer.header("cache-control") == "no-store"
    assert answer.header("www-authenticate") is not None
    if html:
        page = answer.body.decode()
        assert page.startswith("<!doctype html>")
        assert "The session was logged out" in page
        assert "Log in again" in page
        assert re.search(r"urn:uuid:[0-9a-f-]{36}", page)


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    answer = await told("state_stale", method="HEAD")
    assert answer.body == b""
    assert int(answer.header("content-length") or 0) > 100
    assert answer.header("retry-after") == "1"


# Raised by the app


async def test_an_app_may_raise_a_problem_before_it_answers() -> None:
    answer = await call(Node(app=raising(lambda: TokenMissing("no user is logged in"))).app, scope_of("http"))
    assert (answer.status, answer.code) == (401, "token_missing")
    assert b"nobody" not in answer.body


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_problem_that_a_task_of_the_app_raises_alone_reaches_the_client(kind: str) -> None:
    """A task group raises it within a group, around which another task group puts another one."""

    async def task() -> None:
        raise TokenMissing("no user is logged in")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
            outer.start_soon(anyio.sleep_forever)
            inner.start_soon(task)

    answer = await (connect(Node(app=app), extensions=HANDSHAKE) if kind == "websocket" else call(Node(app=app).app, scope_of("http")))
    assert (answer.status, answer.code) == (401, "token_missing")


async def test_a_problem_beside_an_error_of_the_app_is_an_error_of_the_app() -> None:
    def both() -> BaseException:
        return ExceptionGroup("two tasks failed", [TokenMissing("no user is logged in"), ValueError("a bug")])

    with pytest.raises(ExceptionGroup, match="two tasks failed"):
        await call(Node(app=raising(both)).app, scope_of("http"))


def answers_by_itself(problem: ProblemError) -> Any:
    """A framework that turns a handler's exception into a response, so that the exception stops there."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        session["lost"] = True
        session.refuse(problem)
        await respond(send, 500, body=b"Internal Server Error")

    return app


async def test_an_app_may_refuse_a_request_despite_its_own_answer(node: Node) -> None:
    node.app.app = answers_by_itself(StateStale("out of contact"))
    answer = await node.request()
    assert (answer.status, answer.code, answer.header("retry-after")) == (503, "state_stale", "1")
    assert answer.all("set-cookie") == []
    assert node_of(node.manager).errors.counts["state_stale"] == 1


async def test_an_app_may_refuse_a_request_without_an_answer_of_its_own(node: Node) -> None:
    answer = await node.request(lambda session: session.refuse(TokenMissing()), status=204)
    assert answer.code == "token_missing"

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        get_session(scope).refuse(TokenMissing())

    node.app.app = silent
    assert (await node.request()).code == "token_missing"


async def test_a_log_out_holds_in_a_request_that_is_refused(node: Node) -> None:
    ada = await node.logged_in()

    def leave(session: Session) -> None:
        session.clear()
        session.refuse(SessionConflict())

    assert (await node.request(leave, token=ada.token)).code == "session_conflict"
    assert (await node.request(why, token=ada.token)).result == "session_revoked"


async def test_a_path_that_is_exempt_may_be_refused_too() -> None:
    node = Node(exempt="/hooks/*")
    answer = await node.request(lambda session: session.refuse(TokenMissing()), "/hooks/1")
    assert answer.code == "token_missing"


async def test_a_refusal_after_the_response_started_raises(node: Node) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        with pytest.raises(SessionReadOnly, match="the response has started"):
            get_session(scope).refuse(StateStale())

    node.app.app = app
    assert (await node.request()).status == 200


async def test_a_websocket_is_refused_by_raising(node: Node) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(SessionReadOnly, match="raise"):
            get_session(scope).refuse(StateStale())

    node.app.app = app
    await call(node.app, scope_of("websocket"))


async def test_only_a_problem_error_is_a_refusal(node: Node) -> None:
    with pytest.raises(TypeError, match="must be a ProblemError, got ValueError"):
        await node.request(lambda session: session.refuse(ValueError("secret")))  # type: ignore[arg-type]


async def test_a_problem_after_the_response_started_propagates() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise TokenMissing("too late")

    with pytest.raises(TokenMissing, match="too late"):
        await call(Node(app=app).app, scope_of("http"))


async def test_a_log_out_that_could_not_be_made_durable_is_a_503(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = await node.logged_in()

    async def no_majority(claims: object) -> None:
        raise QuorumLost("no majority")

    monkeypatch.setattr(node_of(node.manager).revoker, "revoke", no_majority)
    answer = await visitor.visit(lambda s: s.clear())
    assert (answer.status, answer.code, answer.header("retry-after")) == (503, "quorum_lost", "3")
    assert answer.cookies() == []


async def test_an_error_that_is_none_of_ours_propagates() -> None:
    with pytest.raises(ZeroDivisionError):
        await call(Node(app=raising(ZeroDivisionError)).app, scope_of("http"))


# WebSockets


HANDSHAKE: dict[str, Any] = {"websocket.http.response": {}}


async def connect(node: Node, *, extensions: dict[str, Any] | None = None, headers: Any = (), path: str = "/private") -> Answer:
    return await call(node.app, scope_of("websocket", path, headers=headers, extensions=extensions))


async def test_a_refused_handshake_gets_the_document_where_the_server_offers_it() -> None:
    answer = await connect(Node(protect="/private"), extensions=HANDSHAKE)
    assert [message["type"] for message in answer.messages] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert (answer.status, answer.code, answer.received) == (401, "token_missing", 1)


@pytest.mark.parametrize(("token", "code", "name"), [(None, 4401, "token_missing"), ("rubbish", 4400, "token_malformed")])
async def test_a_refused_handshake_is_closed_where_it_does_not(token: str | None, code: int, name: str) -> None:
    headers = [(b"cookie", f"session={token}".encode())] if token else []
    answer = await connect(Node(protect="/private"), headers=headers)
    assert answer.messages == [{"type": "websocket.close", "code": code, "reason": name}]


@pytest.mark.parametrize("problem", [SessionUnknown(), SessionConflict(), SessionLocked(), QuorumLost()])
async def test_an_error_that_leaves_the_app_during_the_handshake_closes_it_with_its_status(problem: ProblemError) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise problem

    answer = await connect(Node(app=app))
    assert answer.messages == [{"type": "websocket.close", "code": 4000 + problem.status, "reason": problem.code}]


async def test_a_handshake_that_the_node_cannot_judge_is_no_401() -> None:
    node = Node(protect="/private")
    token = (await node.logged_in()).token
    node_of(node.manager).view.fresh_at = node.clock.boot_s()
    node.clock.advance(6)
    headers = [(b"cookie", f"session={token}".encode())]
    assert (await connect(node, headers=headers)).messages == [{"type": "websocket.close", "code": 4503, "reason": "state_stale"}]
    assert (await connect(node, headers=headers, extensions=HANDSHAKE)).status == 503


async def test_nothing_is_sent_to_a_client_that_went_during_the_handshake() -> None:
    incoming: list[Message] = [{"type": "websocket.disconnect", "code": 1006}]
    answer = await call(Node(protect="*").app, scope_of("websocket"), incoming)
    assert answer.messages == []


@pytest.mark.parametrize("listens", [True, False])
@pytest.mark.parametrize("extensions", [HANDSHAKE, {}])
async def test_an_app_may_raise_a_problem_before_it_accepts(extensions: dict[str, Any], *, listens: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if listens:
            await receive()
        raise TokenMissing("no user is logged in")

    answer = await connect(Node(app=app), extensions=extensions)
    if extensions:
        assert (answer.status, answer.code) == (401, "token_missing")
    else:
        assert answer.messages == [{"type": "websocket.close", "code": 4401, "reason": "token_missing"}]


async def test_a_problem_after_the_websocket_was_accepted_propagates() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        raise TokenMissing("too late")

    with pytest.raises(TokenMissing, match="too late"):
        await connect(Node(app=app))


async def test_an_app_may_answer_a_handshake_itself(node: Node) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        get_session(scope)
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b""})

    assert (await connect(Node(app=app), extensions=HANDSHAKE)).status == 404


def test_every_code_that_is_not_for_a_later_step_is_in_the_table() -> None:
    assert set(CODES) <= set(TABLE)
    assert all(issubclass(kind, ProblemError) for kind in problem_types().values())


# What the app had done


def told_to_repeat(answer: Answer) -> bool:
    body = answer.problem
    assert (body["retry_where"] != "none") == (body["action"] == "retry") == body["retryable"]
    return bool(body["retryable"])


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
async def test_a_request_that_the_app_never_saw_may_be_repeated(method: str) -> None:
    peers = [f"http://127.0.0.1:{port}" for port in (1, 2, 3)]
    node = Node(cluster="peers://", peers=",".join(peers), advertise_url=peers[0], protect="*")  # it has not heard from the others
    answer = await node.request(token=node_of(node.manager).sign(node_of(node.manager).issuer.issue("ada")).decode(), method=method)
    assert (answer.status, answer.problem["outcome"]) == (503, "not_executed")
    assert told_to_repeat(answer)


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(("problem", "status"), [(QuorumLost, 503), (SessionConflict, 409), (StoreUnavailable, 503)])
async def test_a_request_that_the_app_had_begun_is_repeated_only_if_that_does_no_harm(
    node: Node, method: str, problem: type[ProblemError], status: int
) -> None:
    charged = []

    def charge(session: Session) -> None:
        charged.append(session)
        raise problem("lost")

    answer = await node.request(charge, method=method)
    assert charged
    assert (answer.status, answer.problem["outcome"]) == (status, "unknown")
    assert told_to_repeat(answer) == (method in ("GET", "OPTIONS"))
    assert ("Find out what it did" in answer.problem["detail"]) == (method not in ("GET", "OPTIONS"))


async def test_a_request_whose_client_says_that_a_repetition_does_no_harm_may_be_repeated(node: Node) -> None:
    def charge(_: Session) -> None:
        raise QuorumLost("lost")

    answer = await node.request(charge, method="POST", headers=[(b"idempotency-key", b"5c1f")])
    assert (answer.status, answer.problem["outcome"]) == (503, "unknown")
    assert told_to_repeat(answer)


async def test_a_log_out_without_a_majority_after_a_charge_says_that_the_app_had_run(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await node.logged_in()
    charged = []

    async def fails(*_: object, **__: object) -> Acknowledgement:
        raise QuorumLost("the cluster has no majority")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        charged.append(scope["path"])
        get_session(scope).clear()
        await respond(send)

    node.app.app = app
    monkeypatch.setattr(node_of(node.manager).log, "append", fails)
    answer = await node.request(token=ada.token, method="POST")
    assert charged == ["/"]
    assert (answer.code, answer.problem["outcome"]) == ("quorum_lost", "executed")
    assert not told_to_repeat(answer)
    page = await node.request(token=ada.token, method="POST", headers=[(b"accept", b"text/html")])
    assert b"Find out what it did" in page.body
    assert b"Try again on" not in page.body


async def test_a_guard_refuses_before_the_handler_runs(node: Node) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        require_session(scope)

    node.app.app = app
    answer = await node.request(method="POST")
    assert (answer.code, answer.problem["outcome"]) == ("token_missing", "not_executed")


# The pages of this package in a browser

OWN_PAGES = [
    "/-/session/livez",
    "/-/session/readyz",
    "/-/session/problems/token_missing",
    "/-/session/nothing",
    "/-/session/devices",
    "/account",
]


@pytest.mark.parametrize("path", OWN_PAGES)
@pytest.mark.parametrize("accept", [b"text/html", b"application/json"])
@pytest.mark.parametrize("logged_in", [True, False])
async def test_each_page_of_this_package_loads_nothing_and_stands_in_no_frame(path: str, accept: bytes, logged_in: bool) -> None:
    node = Node(protect="/account", devices="on", track="on")
    token = node_of(node.manager).sign(node_of(node.manager).issuer.issue("ada")).decode()
    if path == "/account":
        node.app.app = raising(lambda: StateStale("out of contact"))
    answer = await node.request(path=path, token=token if logged_in else None, headers=[(b"accept", accept)])
    policy = str(answer.header("content-security-policy"))
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert (answer.header("x-content-type-options"), answer.header("referrer-policy")) == ("nosniff", "no-referrer")
    for style in re.findall(rb"<style>(.*?)</style>", answer.body, re.DOTALL):
        assert b64encode(sha256(style).digest()).decode() in policy, "the browser would ignore the style"
    assert b"<script" not in answer.body


async def test_a_root_path_that_cannot_be_sent_costs_no_answer(node: Node) -> None:
    for accept in (b"text/html", b"application/json"):
        answer = await told("token_missing", headers=[(b"accept", accept)], root_path="/caf\udce9")
        assert answer.status == 401
        assert b"caf?" in answer.body or accept == b"text/html"
