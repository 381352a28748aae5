"""A late request with the token of an id that was replaced on another node, on each kind of log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ha_session_mw import Session
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny
from ha_session_mw.testing import Cluster, mint_session

from ..asgi import driver
from ..asgi.driver import Act
from ..backends.etcd.fake_cluster import EtcdCluster
from .visits import Browser, Node, look, obliging, who, why

pytestmark = pytest.mark.anyio


def log_in(session: Session) -> None:
    session.login("ada")


def cycle(session: Session) -> None:
    session.cycle()


def write(session: Session) -> None:
    session["late"] = 1


def write_first(session: Session) -> None:
    session["cart"] = ["book"]


def hold_back_news(cluster: Cluster, node: Node) -> None:
    """Let everything that a node hears take a second."""
    if isinstance(cluster, EtcdCluster):
        links = [cluster.etcd.link(member.name, node.name) for member in cluster.etcd.members]
    else:
        links = [cluster.link(other, node) for other in cluster.nodes if other is not node]
    for link in links:
        link.delay_s = 1.0


@asynccontextmanager
async def opened(kind: type[Cluster]) -> AsyncIterator[Cluster]:
    async with kind(app=obliging, protect="/private*") as cluster:
        await cluster.ready()
        yield cluster


@pytest.mark.one_library
@pytest.mark.parametrize("act", [log_in, cycle])
@pytest.mark.parametrize("kind", [Cluster, EtcdCluster], ids=["peers", "etcd"])
async def test_among_nodes_it_is_told_and_sets_no_cookie(kind: type[Cluster], act: Act) -> None:
    async with opened(kind) as cluster:
        a, b, c = cluster.nodes
        browser = Browser(cluster)
        await browser.visit(a, write_first)
        old = browser.token
        await browser.visit(b, act)
        await cluster.advance(0.1)
        for node in (a, b, c):
            for path in ("/", "/private"):
                late = await Browser(cluster, old).visit(node, write, path)
                assert (late.status, late.code, late.cookies()) == (409, "session_superseded", [])
        assert (await browser.visit(c, look)).result == {"cart": ["book"]}


@pytest.mark.one_library
@pytest.mark.parametrize("act", [log_in, cycle])
@pytest.mark.parametrize("kind", [Cluster, EtcdCluster], ids=["peers", "etcd"])
async def test_a_late_write_on_a_node_without_the_news_costs_the_client_its_newer_cookie_and_nothing_else(
    kind: type[Cluster], act: Act
) -> None:
    """The story of the page on session data, step by step: the browser that lost the race logs in again, and nobody gets its session."""
    async with opened(kind) as cluster:
        a, b, c = cluster.nodes
        browser = Browser(cluster)
        await browser.visit(a, write_first)
        late = Browser(cluster, browser.token)
        hold_back_news(cluster, b)
        await browser.visit(a, act)
        newer = browser.token
        browser.token = (await late.visit(b, write)).token  # comes last, and so takes the place of the newer cookie
        assert browser.token

        with_news = [c]
        for passed_s in (0, 3):
            await cluster.advance(passed_s)
            for node in with_news:
                assert (await browser.visit(node, lambda s: (s.subject, dict(s), why(s)))).result == (None, {}, "session_superseded")
                for path in ("/", "/private"):
                    assert (await browser.visit(node, write, path)).code == "session_superseded"
            with_news = [b, c]
        assert (await Browser(cluster, newer).visit(c, look)).result == {"cart": ["book"]}

        again = await browser.visit(c, log_in)
        assert (again.status, (await browser.visit(c, who)).result) == (200, "ada")


@pytest.mark.one_library
async def test_where_a_store_keeps_the_data_such_a_write_beside_a_log_in_is_told() -> None:
    """The log-in has moved the record, so the store itself knows better than a node without the news."""
    async with EtcdCluster(app=obliging, data="store") as cluster:
        await cluster.ready()
        a, b, _ = cluster.nodes
        browser = Browser(cluster)
        await browser.visit(a, write_first)
        late = Browser(cluster, browser.token)
        hold_back_news(cluster, b)
        await browser.visit(a, log_in)
        answer = await late.visit(b, write)
        assert (answer.status, answer.code, answer.cookies()) == (409, "session_superseded", [])


@pytest.mark.one_library
@pytest.mark.parametrize("kind", [Cluster, EtcdCluster], ids=["peers", "etcd"])
async def test_a_node_that_starts_later_tells_a_log_out_of_a_replaced_id_from_a_replacement(kind: type[Cluster]) -> None:
    """On etcd both entries have one key. Whichever is written last, a node that loads the log must learn of the log-out."""
    async with opened(kind) as cluster:
        a, b, c = cluster.nodes
        tokens = [mint_session(a.manager, f"user-{number}") for number in range(3)]
        verified = [node_of(a.manager).validator.verify(token.encode()) for token in tokens]
        ends = [(one.claims.family, one.claims.absolute_end_ms) for one in verified if one is not None]
        now_ms = int(a.clock.wall_s() * 1000)
        replaced, log_outs = [Deny(*end, now_ms) for end in ends], [Deny(*end) for end in ends]
        for earlier, later in ((replaced[0], log_outs[0]), (log_outs[1], replaced[1]), (replaced[2], replaced[2])):
            await cluster.run(node_of(a.manager).log.append, [earlier])
            await cluster.run(node_of(b.manager).log.append, [later])
        await cluster.run(c.kill)
        await cluster.run(c.start)
        await cluster.ready()
        told = [(await Browser(cluster, token).visit(c, why)).result for token in tokens]
        assert told == ["session_revoked", "session_revoked", "session_superseded"]


@pytest.mark.parametrize("act", [log_in, cycle])
async def test_among_workers_with_one_file_it_is_told_and_sets_no_cookie(tmp_path: Path, act: Act) -> None:
    one, other = (driver.Node(cluster=f"sqlite://{tmp_path}/sessions.db", protect="/private*") for _ in range(2))
    other.clock.advance(one.clock.boot_s() - other.clock.boot_s())
    visitor = one.visitor()
    await visitor.visit(write_first)
    old = visitor.token
    await visitor.visit(act)
    for node in (one, other):
        for path in ("/", "/private"):
            late = await node.request(write, path, token=old)
            assert (late.status, late.code, late.cookies()) == (409, "session_superseded", [])
