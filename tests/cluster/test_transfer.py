"""The header fields that say which node answered, and from where a session came."""

from __future__ import annotations

import re

import pytest

from ha_session_mw._core.structured_fields import node_field, transfer_field
from ha_session_mw.testing import Cluster, mint_session

from .visits import Browser, logged_in, look

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
KEY = r"[a-z*][a-z0-9_.*-]*"
DICTIONARY = re.compile(rf"{KEY}={STRING}, {KEY}={STRING}(, {KEY}=[A-Za-z*][A-Za-z0-9]*)?")


async def transfer(browser: Browser, node: object) -> str | None:
    return (await browser.visit(node, look)).header("session-transfer")  # type: ignore[arg-type]


async def test_an_answer_names_the_node_that_gave_it(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    browser = await logged_in(cluster, a)

    assert (await browser.visit(a, look)).header("session-node") == '"a"'
    assert (await browser.visit(b, look)).header("session-node") == '"b"'
    refused = await b.get("/private", token="hs1.no.token.at.all")
    assert (refused.status_code, refused.headers["session-node"]) == (401, '"b"')


async def test_a_session_that_comes_from_another_node_is_told_once(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await cluster.advance(1)
    browser = await logged_in(cluster, a)

    assert await transfer(browser, a) is None
    assert await transfer(browser, b) == 'from="a", to="b", reason=rebalance'
    assert await transfer(browser, b) is None


async def test_a_token_that_replaces_one_of_another_node_is_told_too(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await cluster.advance(1)
    browser = await logged_in(cluster, a)
    await transfer(browser, b)

    changed = await browser.visit(b, lambda session: session.update(cart=[1]))

    assert changed.header("session-transfer") == 'from="a", to="b", reason=rebalance'
    assert await transfer(browser, b) is None


async def test_a_node_that_is_gone_is_the_reason(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await cluster.advance(1)
    browser = await logged_in(cluster, a)
    await a.kill()
    await cluster.advance(8)

    assert await transfer(browser, b) == 'from="a", to="b", reason=failover'


async def test_a_node_that_drains_is_the_reason(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await cluster.advance(1)
    browser = await logged_in(cluster, a)
    await cluster.run(a.manager.drain)
    await cluster.advance(1)  # a heartbeat says so

    assert await transfer(browser, b) == 'from="a", to="b", reason=drain'


async def test_a_bearer_token_moves_like_a_cookie(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await cluster.advance(1)
    bearer = [(b"authorization", f"Bearer {mint_session(a.manager, 'ada')}".encode())]

    answers = [await Browser(cluster).visit(b, look, headers=bearer) for _ in range(2)]

    assert [answer.header("session-transfer") for answer in answers] == ['from="a", to="b", reason=rebalance', None]


@pytest.mark.parametrize("name", ["a", "pod-7.a_B", 'a"b\\c', "d\u00fcrer\r\nX: y", ""])
def test_whatever_a_node_is_called_the_fields_keep_their_form(name: str) -> None:
    assert re.fullmatch(STRING, node_field(name)[1].decode())
    assert DICTIONARY.fullmatch(transfer_field(name, name, "failover")[1].decode())
    assert DICTIONARY.fullmatch(transfer_field(name, name, None)[1].decode())
