"""``{ENDPOINTS}/renew``: a page that sends no other request keeps its user's session alive."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from ha_session_mw.manager import node_of

from .driver import Answer, Node, Visitor, look, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

IDLE_S = 1800
PATH = "/-/session/renew"


async def not_reached(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError(f"the app got a request to {scope['path']}")


def node_with(**settings: Any) -> Node:
    return Node(idle_timeout=IDLE_S, **settings)


async def renewal(visitor: Visitor, **scope: object) -> Answer:
    return await visitor.visit(path=PATH, method="POST", **scope)  # type: ignore[arg-type]


async def test_a_page_that_renews_keeps_its_session_until_the_absolute_end() -> None:
    node = node_with(absolute_timeout=4 * IDLE_S)
    ada = await node.logged_in("ada", a=1)
    for _ in range(4):
        node.clock.advance(IDLE_S * 0.9)
        answer = await renewal(ada)
        assert (answer.status, answer.body) == (204, b"")
        assert answer.token
        assert (await ada.visit(lambda session: (session.subject, dict(session)))).result == ("ada", {"a": 1})
    node.clock.advance(IDLE_S * 0.5)
    assert (await renewal(ada)).code == "session_expired"


async def test_a_renewal_that_is_not_due_renews_too() -> None:
    node = node_with()
    ada = await node.logged_in()
    node.clock.advance(IDLE_S * 0.1)
    assert (await renewal(ada)).token
    node.clock.advance(IDLE_S * 0.94)  # renewed tokens are dated back by a sixteenth at most
    assert (await ada.visit(who)).result == "ada"


async def test_a_bearer_client_gets_its_token_in_the_field_where_it_expects_it() -> None:
    node = node_with()
    ada = await node.logged_in()
    node.clock.advance(60)
    answer = await node.request(path=PATH, method="POST", bearer=ada.token)
    assert (answer.status, answer.header("cache-control")) == (204, "private, no-store")
    assert answer.header("session-token")
    assert answer.all("set-cookie") == []


async def test_the_session_of_a_visitor_is_renewed_too() -> None:
    node = node_with()
    visitor = node.visitor()
    await visitor.visit(lambda session: session.update(cart=[1]))
    for _ in range(2):
        node.clock.advance(IDLE_S * 0.9)
        assert (await renewal(visitor)).token
    assert (await visitor.visit(look)).result == {"cart": [1]}


@pytest.mark.parametrize(("protect", "devices"), [((), "off"), ("*", "off"), ((), "on")])
async def test_the_route_is_served_with_any_protection_and_never_by_the_app(protect: str, devices: str) -> None:
    node = node_with(protect=protect, **({"devices": "on", "track": "on"} if devices == "on" else {}))
    token = node_of(node.manager).sign(node_of(node.manager).issuer.issue("ada")).decode()
    if devices == "off":
        node.app.app = not_reached
    assert (await node.request(path=PATH, method="POST", token=token)).status == 204
    assert (await node.request(path="/api" + PATH, root_path="/api", method="POST", token=token)).status == 204


async def test_a_request_without_a_valid_session_is_refused_with_the_reason() -> None:
    node = node_with()
    node.app.app = not_reached
    answer = await node.request(path=PATH, method="POST")
    assert (answer.status, answer.code, answer.problem["outcome"]) == (401, "token_missing", "not_executed")
    assert answer.header("www-authenticate") == 'Bearer realm="session"'

    node = node_with()
    ada = await node.logged_in()
    token = ada.token
    await ada.visit(lambda session: session.clear())
    assert (await node.request(path=PATH, method="POST", token=token)).code == "session_revoked"
    assert (await node.request(path=PATH, method="POST", token="rubbish")).code == "token_malformed"
    assert (await node.request(why, token=token)).result == "session_revoked"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_only_a_post_renews(method: str) -> None:
    node = node_with()
    ada = await node.logged_in()
    node.clock.advance(60)
    answer = await ada.visit(path=PATH, method=method)
    assert (answer.status, answer.header("allow"), answer.token) == (405, "POST", None)


async def test_a_page_of_another_site_renews_nothing() -> None:
    node = node_with()
    ada = await node.logged_in()
    answer = await renewal(ada, headers=[(b"sec-fetch-site", b"cross-site")])
    assert (answer.status, answer.code, answer.token) == (403, "request_cross_site", None)


async def test_a_node_that_cannot_tell_renews_nothing_and_says_that_a_repetition_is_fine() -> None:
    peers = [f"http://127.0.0.1:{port}" for port in (1, 2, 3)]
    node = node_with(cluster="peers://", peers=",".join(peers), advertise_url=peers[0])
    token = node_of(node.manager).sign(node_of(node.manager).issuer.issue("ada")).decode()
    answer = await node.request(path=PATH, method="POST", token=token)
    assert (answer.status, answer.problem["outcome"], answer.problem["retryable"]) == (503, "not_executed", True)
