"""Paths whose handlers keep state on a node: a request gets to the owner of its session, by a redirect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import anyio
import httpx2
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from ha_session_mw import ConfigurationError, SessionManager, Settings, get_session
from ha_session_mw.asgi.routing import LONGEST_REDIRECTED_BODY
from ha_session_mw.backends.memory.backend import MemoryBackend
from ha_session_mw.client import AsyncNodesTransport
from ha_session_mw.manager import node_of
from ha_session_mw.testing import SECRET, Cluster, Node, mint_session

from ..client.test_with_a_cluster import Doors

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

URLS = {name: f"http://{name}.test:80" for name in "abc"}
FOLLOWS = {"session-follows": ", ".join(URLS.values())}


async def rooms(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that says who answers, and what it got."""
    request, session = Request(scope, receive), get_session(scope)
    if scope["path"].startswith("/login/"):
        session.login(scope["path"].removeprefix("/login/"))
    elif request.method != "GET":
        session["visits"] = session.get("visits", 0) + 1
    told: dict[str, Any] = {"node": session.manager.node_id, "method": request.method, "target": scope["raw_path"].decode()}
    told |= {
        "query": scope["query_string"].decode(),
        "body": (await request.body()).decode(),
        "headers": dict(request.headers),
        "forwarded": request.headers.getlist("forwarded"),
    }
    told |= {"subject": session.subject, "client": scope["client"], "scheme": scope["scheme"]}
    await JSONResponse(told)(scope, receive, send)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(app=rooms, owned="/rooms/*", routing="redirect", exempt="/rooms/static/*") as cluster:
        await cluster.ready()
        await cluster.advance(1)
        yield cluster


def foreign(cluster: Cluster) -> tuple[Node, Node, str]:
    """Return a node, another one, and the token of a session that the other one owns."""
    a, b, _ = cluster.nodes
    while True:
        token = mint_session(a.manager, "ada")
        if a.manager.owner_of(token.split(".")[1]) == "b":
            return a, b, token


async def test_a_sender_that_follows_is_redirected_and_nothing_else_is_said(cluster: Cluster) -> None:
    a, b, token = foreign(cluster)
    answer = await a.post("/rooms/a%20b?c=%2F", token=token, headers=FOLLOWS)

    assert answer.status_code == 307
    assert dict(answer.headers) == {
        "location": "http://b.test:80/rooms/a%20b?c=%2F",
        "x-accel-redirect": "@http://b.test:80",
        "content-length": "0",
    }
    assert (await a.manager.status())["redirected"] == 1
    assert (await b.post("/rooms/x", token=token, headers=FOLLOWS)).json()["node"] == "b"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"session-follows": "http://a.test:80, http://c.test:80, http://evil.test:80"},
        {"session-follows": "*"},
        {"host": "b.test", "forwarded": "host=b.test", "x-forwarded-host": "b.test", "x-accel-redirect": "@http://b.test:80"},
        {**FOLLOWS, "content-length": str(LONGEST_REDIRECTED_BODY + 1)},
        {**FOLLOWS, "content-length": "ten"},
        {**FOLLOWS, "transfer-encoding": "chunked"},
    ],
)
async def test_any_other_request_is_answered_here(cluster: Cluster, headers: dict[str, str]) -> None:
    a, _, token = foreign(cluster)
    answer = await a.post("/rooms/x", token=token, headers=headers)

    assert answer.json()["node"] == "a"


async def test_only_owned_paths_of_a_session_are_routed(cluster: Cluster) -> None:
    a, _, token = foreign(cluster)

    assert (await a.get("/rooms/static/x", token=token, headers=FOLLOWS)).json()["node"] == "a"
    assert (await a.get("/rooms", token=token, headers=FOLLOWS)).json()["node"] == "a"
    assert (await a.get("//rooms/x", token=token, headers=FOLLOWS)).json()["node"] == "a"
    assert (await a.get("/rooms/x", headers=FOLLOWS)).json()["node"] == "a"
    assert (await a.post("/-/session/renew", token=token, headers=FOLLOWS)).status_code == 204


async def test_our_client_follows_to_the_nodes_that_it_was_given(cluster: Cluster) -> None:
    a, b, token = foreign(cluster)
    doors = Doors(cluster)
    for urls, node in (([a.url, b.url], "b"), ([a.url, cluster["c"].url], "a"), ([a.url], "a")):
        transport = AsyncNodesTransport(urls, doors, boot_s=lambda: cluster.passed_s, sleep=cluster.sleep)
        transport._cluster.nodes._preferred = 0
        async with httpx2.AsyncClient(transport=transport, base_url=a.url) as client:  # type: ignore[arg-type] # no subclass
            answer = await cluster.run(client.post, "/rooms/x?y=1", content=b"hello", headers={"authorization": f"Bearer {token}"})
            told = answer.json()

            assert (told["node"], told["body"], told["subject"], told["target"], told["query"]) == (node, "hello", "ada", "/rooms/x", "y=1")
            assert ("session-follows" in told["headers"]) == (node == "a" and len(urls) > 1)


async def test_a_request_that_has_no_target_in_origin_form_is_answered_here(cluster: Cluster) -> None:
    a, _, token = foreign(cluster)
    headers = [(b"authorization", f"Bearer {token}".encode()), (b"session-follows", FOLLOWS["session-follows"].encode())]
    for raw in (b"@evil.test/rooms/x", b"http://evil.test/rooms/x", b"/rooms/x y", b"/rooms/\r\nx", b"/rooms/#x"):
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request"}

        scope = {"type": "http", "method": "GET", "path": "/rooms/x", "raw_path": raw, "query_string": b"", "headers": headers}
        await cluster.run(a.middleware, {**scope, "scheme": "http", "client": None, "server": None}, receive, send)
        assert sent[0]["status"] == 200


# Forward


@pytest.fixture
async def forwarding() -> AsyncIterator[Cluster]:
    async with Cluster(app=rooms, owned="/rooms/*", routing="forward", protect="/rooms/private/*") as cluster:
        await cluster.ready()
        await cluster.advance(1)
        yield cluster


async def forwards(node: Node) -> dict[str, int]:
    found: Any = (await node.manager.status())["forwards"]
    return dict(found)


async def test_the_owner_answers_as_if_the_client_had_asked_it(forwarding: Cluster) -> None:
    a, _, token = foreign(forwarding)
    headers = {"host": "shop.example", "connection": "x-one", "x-one": "1", "x-two": "2", "te": "trailers", "forwarded": "for=192.0.2.1"}
    async with a.client() as client:
        answer = await forwarding.run(
            client.put, "/rooms/a%20b?c=%2F&d", content=b"hello", headers={**headers, "authorization": f"Bearer {token}"}
        )
    told = answer.json()

    assert (told["node"], told["method"], told["target"], told["query"]) == ("b", "PUT", "/rooms/a%20b", "c=%2F&d")
    assert (told["body"], told["subject"]) == ("hello", "ada")
    assert (told["client"], told["scheme"]) == (["127.0.0.1", 123], "http")
    seen = told["headers"]
    assert (seen["host"], seen["x-two"], seen["via"], seen["content-length"]) == ("shop.example", "2", "1.1 ha-session", "5")
    assert told["forwarded"] == ["for=192.0.2.1", 'for="127.0.0.1";host="shop.example";proto=http']
    assert seen.keys().isdisjoint(("x-one", "te", "session-peer", "session-forwarded", "transfer-encoding"))
    assert answer.headers["session-node"] == '"b"'
    assert answer.headers["via"] == "1.1 ha-session"
    assert "session-peer" not in answer.headers
    assert len(answer.headers.get_list("session-token")) == 1  # of the owner, and no second one
    assert answer.headers["session-transfer"].startswith('from="a", to="b"')
    assert await forwards(a) == {"answered": 1}


@pytest.mark.parametrize(
    ("client", "told"),
    [
        (("192.0.2.1", "5555"), ["192.0.2.1", 5555]),  # granian
        (["192.0.2.1", 5555], ["192.0.2.1", 5555]),
        (("/run/app.sock", None), ["/run/app.sock", 0]),
        (("192.0.2.1", ""), ["192.0.2.1", 0]),
        (None, None),
    ],
)
async def test_the_owner_learns_who_asked_however_a_server_says_so(forwarding: Cluster, client: Any, told: Any) -> None:
    a, _, token = foreign(forwarding)
    sent: list[Any] = []
    waiting = [{"type": "http.request"}]

    async def receive() -> Any:
        return waiting.pop() if waiting else await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/rooms/x", "raw_path": b"/rooms/x", "query_string": b"", "scheme": "http"}
    headers = [(b"host", b"a.test"), (b"authorization", f"Bearer {token}".encode())]
    await forwarding.run(a.middleware, {**scope, "headers": headers, "client": client, "server": None}, receive, send)
    answer = json.loads(b"".join(message.get("body", b"") for message in sent))
    assert (answer["node"], answer["client"]) == ("b", told)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "POST"])
async def test_a_request_without_a_body_stays_one(forwarding: Cluster, method: str) -> None:
    a, _, token = foreign(forwarding)
    answer = await a.request(method, "/rooms/x", token=token)

    assert answer.headers["session-node"] == '"b"'
    assert (answer.content == b"") == (method == "HEAD")


async def test_what_the_owner_refuses_the_client_gets(forwarding: Cluster) -> None:
    a, b, token = foreign(forwarding)
    await a.post("/rooms/x", token=token)
    await forwarding.run(b.manager.revoke_session, token.split(".")[1])
    answer = await a.get("/rooms/private/x", token=token)

    assert (answer.status_code, answer.json()["code"]) == (401, "session_revoked")


async def test_an_owner_that_is_gone_costs_nothing_but_its_state(forwarding: Cluster) -> None:
    a, b, token = foreign(forwarding)
    await b.kill()
    for _ in range(3):
        assert (await a.post("/rooms/x", token=token)).json()["node"] == "a"
    assert await forwards(a) == {"fell_back": 3}
    assert (await a.manager.status())["unreachable_owners"] == {"b": "cannot be reached (ConnectError)"}


async def test_an_owner_that_stalls_costs_a_bounded_wait_until_it_is_no_member(forwarding: Cluster) -> None:
    a, b, token = foreign(forwarding)
    await a.get("/rooms/x", token=token)
    b.freeze()
    begun_s = forwarding.passed_s
    assert (await a.get("/rooms/x", token=token)).json()["node"] == "a"  # safe, so this node answers it
    assert forwarding.passed_s - begun_s < 8
    begun_s = forwarding.passed_s
    assert (await a.post("/rooms/x", token=token)).json()["node"] in ("a", "c")  # whichever owns the session now
    assert forwarding.passed_s - begun_s < 0.5
    b.thaw()


async def test_an_unsafe_request_that_an_owner_took_is_not_executed_twice(forwarding: Cluster) -> None:
    a, b, token = foreign(forwarding)
    await a.get("/rooms/x", token=token)
    b.freeze()
    answer = await a.post("/rooms/x", token=token)
    problem = answer.json()

    assert (answer.status_code, problem["code"], problem["outcome"], problem["retryable"]) == (
        504,
        "forward_outcome_unknown",
        "unknown",
        False,
    )
    assert await forwards(a) == {"answered": 1, "unknown": 1}
    b.thaw()


async def test_an_owner_that_drains_sends_nothing_on_and_takes_nothing(forwarding: Cluster) -> None:
    a, b, token = foreign(forwarding)
    await a.get("/rooms/x", token=token)
    await forwarding.run(b.manager.drain)

    for node in (a, b):
        told = (await node.post("/rooms/x", token=token)).json()
        assert told["node"] != "b" or node is b


@pytest.mark.parametrize("leads_to", ["c", "a"], ids=["another", "itself"])
async def test_a_url_that_leads_to_another_node_is_named(forwarding: Cluster, caplog: pytest.LogCaptureFixture, leads_to: str) -> None:
    a, _, token = foreign(forwarding)
    client = node_of(a.manager).peering.forwarding  # type: ignore[union-attr]

    async def owner_at(url: str, *, timeout_s: float) -> str:
        return leads_to

    client.owner_at = owner_at  # type: ignore[method-assign,union-attr]
    for _ in range(2):
        assert (await a.post("/rooms/x", token=token)).json()["node"] == "a"
    told = [record.getMessage() for record in caplog.records if "ADVERTISE_URL right" in record.getMessage()]

    why = f"its URL leads to {leads_to}"
    assert told == [f"requests for sessions of node b are answered here: {why}. Is its HA_SESSION_ADVERTISE_URL right?"]
    assert (await a.manager.status())["unreachable_owners"] == {"b": why}


async def test_the_url_of_a_balancer_leads_no_request_to_a_node_that_is_not_the_owner(
    forwarding: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    a, _, token = foreign(forwarding)
    client = node_of(a.manager).peering.forwarding  # type: ignore[union-attr]
    inner, dice = client._http(), Random(7)  # type: ignore[union-attr]

    class Balancer(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            request.url = request.url.copy_with(host=f"{dice.choice('abc')}.test")
            return await inner.handle_async_request(request)

    client._http = lambda: Balancer()  # type: ignore[union-attr]
    answered = set()
    for _ in range(40):
        answer = await a.post("/rooms/x", token=token)
        if answer.status_code == 200:
            answered.add(answer.json()["node"])
        else:  # the balancer changed its mind after the owner had proven itself, and the other node's refusal is not signed
            assert (answer.status_code, answer.json()["outcome"]) == (504, "unknown")
        await forwarding.advance(0.5)
    assert answered <= {"a", "b"}
    told = [record.getMessage() for record in caplog.records if "sessions of node b are answered here" in record.getMessage()]
    assert told
    assert all("Is its HA_SESSION_ADVERTISE_URL right?" in one for one in told)


async def test_a_node_whose_url_another_one_announces_says_so_when_it_is_asked_whether_it_is_ready(
    forwarding: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, *_ = forwarding.nodes
    assert "HA_SESSION_OWNED" not in (await a.get("/-/session/readyz")).text
    log = node_of(a.manager).log
    workers = [msgspec.structs.replace(member, url=URLS["a"] + "/") for member in log.members()]
    monkeypatch.setattr(log, "members", lambda: workers)
    ready = (await a.get("/-/session/readyz")).json()
    assert ready["status"] == "pass"
    assert "another process announces the HA_SESSION_ADVERTISE_URL of this one" in ready["warning"]
    assert "run one worker for each URL" in ready["warning"]


@pytest.mark.parametrize(("size", "answered"), [(100, "here"), (300_000, "loop")])
async def test_an_owner_that_takes_a_request_for_its_own_declines_it_and_a_loop_is_told(
    forwarding: Cluster, size: int, answered: str
) -> None:
    a, b, token = foreign(forwarding)
    await a.get("/rooms/x", token=token)  # the owner is proven for a second
    client = node_of(a.manager).peering.forwarding  # type: ignore[union-attr]
    client.me = b.url  # type: ignore[union-attr]
    async with a.client() as sender:
        answer = await forwarding.run(lambda: sender.post("/rooms/x", content=b"x" * size, headers={"authorization": f"Bearer {token}"}))
    if answered == "here":
        assert answer.json()["node"] == "a"
        assert await forwards(a) == {"answered": 1, "fell_back": 1}
        return
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["outcome"], problem["retryable"]) == (508, "forward_loop", "not_executed", True)
    assert await forwards(a) == {"answered": 1, "refused": 1}
    assert (await b.get("/rooms/x", token=token)).json()["node"] == "b"


async def test_a_header_that_is_too_large_to_send_on_is_answered_here(forwarding: Cluster) -> None:
    a, _, token = foreign(forwarding)
    assert (await a.post("/rooms/x", token=token, headers={"x-large": "x" * 33_000})).json()["node"] == "a"


@pytest.mark.parametrize("path", ["/-/session/peer/forward/request", "/-/session/peer/forward/who", "/-/session/peer/forward/other"])
async def test_nobody_but_a_member_can_forward(forwarding: Cluster, path: str) -> None:
    a, _, token = foreign(forwarding)
    for headers in ({}, {"session-peer": "1 k http://a.test n http://b.test n 1 d s", "session-forwarded": "eA=="}):
        assert (await a.post(path, token=token, headers=headers)).status_code == 404
        assert (await a.get(path, token=token, headers=headers)).status_code == 404


HOSTILE: tuple[str, ...] = (
    "host",
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-for",
    "x-forwarded-port",
    "x-accel-redirect",
    "session-follows",
)
HOSTILE += ("session-peer", "session-forwarded", "via", "x-original-url", "x-rewrite-url", "x-envoy-original-url", "x-ha-session-host")
VALUES = (
    "evil.test",
    "http://evil.test",
    "c.test",
    "http://c.test:80",
    "@http://c.test:80",
    "for=c;host=c.test",
    "1.1 ha-session",
    "b",
    "\t",
    "",
)


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.prove)])
async def test_hostile_headers_never_change_the_target(forwarding: Cluster, count: int) -> None:
    a, _, token = foreign(forwarding)
    dice = Random(count)
    asked = node_of(a.manager).peering.forwarding  # type: ignore[union-attr]
    targets = set()

    class Watched(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            targets.add((request.url.host, request.headers["host"]))
            return await inner.handle_async_request(request)

    inner = asked._http()  # type: ignore[union-attr]
    asked._http = lambda: Watched()  # type: ignore[union-attr]
    for _ in range(count):
        headers = {dice.choice(HOSTILE): ", ".join(dice.choices(VALUES, k=dice.randrange(1, 4))) for _ in range(dice.randrange(1, 6))}
        answer = await a.request(dice.choice(("GET", "POST")), "/rooms/x", token=token, headers=headers)
        assert answer.headers["session-node"] == '"b"', (headers, await a.manager.status())
    assert targets == {("b.test", "b.test")}


async def test_a_backend_whose_nodes_do_not_know_each_other_stops_the_start() -> None:
    peers = ["http://a.test", "http://b.test"]
    settings = Settings(secret_key=SECRET, cluster="peers://", peers=peers, advertise_url=peers[0], owned="/rooms/*", routing="forward")
    with pytest.raises(ConfigurationError, match="HA_SESSION_ROUTING='forward': nodes on memory:// do not know each other"):
        SessionManager(settings, backend=MemoryBackend(settings))
