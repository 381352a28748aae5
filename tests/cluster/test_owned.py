"""Paths whose handlers keep state on a node: a request gets to the owner of its session, by a redirect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from ha_session_mw import get_session
from ha_session_mw.asgi.routing import LONGEST_REDIRECTED_BODY
from ha_session_mw.client import AsyncNodesTransport
from ha_session_mw.testing import Cluster, Node, mint_session

from ..client.test_with_a_cluster import Doors

pytestmark = pytest.mark.anyio

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
    told |= {"query": scope["query_string"].decode(), "body": (await request.body()).decode(), "headers": dict(request.headers)}
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
