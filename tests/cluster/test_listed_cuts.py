"""A token lists log-outs of its subject. None of those can be lost, or no node could ever know whether the token is valid."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from ha_session_mw import Session
from ha_session_mw._core.quorum.log import Quorum
from ha_session_mw.backends.etcd.log import EtcdLog
from ha_session_mw.backends.peers.log import QuorumLog
from ha_session_mw.manager import node_of
from ha_session_mw.testing import Cluster, Node, mint_session

from ..backends.etcd.fake_cluster import EtcdCluster, cut_off, reconnect
from ..thinning import thinned
from .visits import Browser, logged_in, obliging, refused_for_infrastructure, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

LogOut = Callable[[Session], object]


def log_in(session: Session) -> None:
    session.login("ada")


def log_in_bob(session: Session) -> None:
    session.login("bob")


def visit(session: Session) -> None:
    session["cart"] = [1]


async def everywhere(session: Session) -> str:
    assert session.manager is not None
    return (await session.manager.revoke_subject("ada")).mode


async def everybody(session: Session) -> str:
    assert session.manager is not None
    return (await session.manager.revoke_everybody()).mode


async def others(session: Session) -> str:
    assert session.manager is not None
    return (await session.manager.revoke_subject("ada", except_session=session)).mode


KINDS = ("peers", "peers with a folder", "peers with files", "etcd", "etcd with a folder")


def made(kind: str, folder: Path) -> Cluster:
    cluster = EtcdCluster(app=obliging) if kind.startswith("etcd") else Cluster(app=obliging)
    for node in cluster.nodes:
        if kind.endswith("folder"):
            node.settings.update(state_dir=str(folder / node.name))
        if kind.endswith("files"):
            node.settings.update(cluster=f"peers://{folder}/{node.name}.log")
    return cluster


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[Cluster]:
    async with made(kind, folder) as cluster:
        await cluster.ready()
        yield cluster


async def restart(cluster: Cluster, node: Node, folder: Path) -> None:
    """Kill a node that is cut off, and start it where it finds no journal of its own."""
    await (cluster.kill(node) if isinstance(cluster, EtcdCluster) else node.kill())
    reconnect(cluster, node)
    if "state_dir" in node.settings:
        node.settings["state_dir"] = str(folder / "another")
    await node.start()
    await cluster.ready()
    await cluster.advance(3)


WAYS = [(kind, act) for kind in KINDS for act in (everywhere, everybody)]


@pytest.mark.parametrize("way", thinned(WAYS, WAYS[::3]), ids=lambda way: f"{way[0]}, {way[1].__name__}")
async def test_no_token_lists_a_log_out_that_only_this_node_knows(way: tuple[str, LogOut], tmp_path: Path) -> None:
    kind, log_out = way
    async with opened(kind, tmp_path) as cluster, anyio.create_task_group() as tasks:
        a, *others = cluster.nodes
        cut_off(cluster, a)
        tasks.start_soon(Browser(cluster).visit, a, log_out)  # it waits for a majority
        await cluster.advance(0.2)
        browser, bob = Browser(cluster), Browser(cluster)
        if log_out is everywhere:  # it concerns nobody else
            assert (await bob.visit(a, log_in_bob)).status == 200

        assert refused_for_infrastructure(await browser.visit(a, log_in if log_out is everywhere else visit), "quorum_lost", "any")

        assert browser.token is None
        await browser.visit(others[0], log_in)
        await restart(cluster, a, tmp_path)
        # A file that comes back brings the log-out, which ends sessions of its first minute.
        known = None if kind.endswith("files") else "ada"
        answers = [await browser.visit(node, who) for node in cluster.nodes]
        assert [(answer.status, answer.result) for answer in answers] == [(200, known)] * 3


@pytest.mark.parametrize("kind", KINDS)
async def test_a_new_id_lists_no_log_out_that_may_be_lost(kind: str, tmp_path: Path) -> None:
    """The session is excepted from it, under each of its ids. etcd takes so long to refuse it that the node is out of contact by then."""
    async with opened(kind, tmp_path) as cluster:
        a, *_ = cluster.nodes
        before = await logged_in(cluster, a)
        await before.visit(a, everywhere)
        browser = await logged_in(cluster, a)
        assert (await browser.visit(a, others)).result == "fenced"
        cut_off(cluster, a)
        await browser.visit(a, others)
        answer = await browser.visit(a, Session.cycle)
        assert answer.status == (200 if kind == "peers with a folder" else 503)
        await restart(cluster, a, tmp_path)
        assert [(await browser.visit(node, who)).result for node in cluster.nodes] == ["ada"] * 3
        assert [await code_of(before, node) for node in cluster.nodes] == ["session_revoked"] * 3


async def code_of(browser: Browser, node: Node) -> object:
    return (await browser.visit(node, why)).result


@pytest.mark.parametrize("kind", ["peers", "etcd"])
async def test_a_log_in_during_a_log_out_waits_until_a_majority_holds_it(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as cluster:
        a, b, *_ = cluster.nodes
        before = await logged_in(cluster, a)
        browsers = [Browser(cluster) for _ in range(4)]
        async with anyio.create_task_group() as tasks:
            for browser, node in zip(browsers, (a, b, a, b), strict=True):
                tasks.start_soon(Browser(cluster).visit, a, everywhere)
                tasks.start_soon(browser.visit, node, log_in)
        await cluster.advance(1)
        for browser in browsers:
            assert browser.token is not None
            assert {(await browser.visit(node, who)).status for node in cluster.nodes} == {200}
        assert await code_of(before, b) == "session_revoked"


@pytest.mark.parametrize(("kind", "log"), [("peers", QuorumLog), ("etcd", EtcdLog)])
async def test_a_node_that_lists_what_may_be_lost_leaves_users_with_a_token_of_no_use(
    kind: str, log: type[QuorumLog | EtcdLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken variant: hours of 503, and nothing that the user could do."""
    monkeypatch.setattr(log, "may_lose", lambda _log, _cut: False)
    monkeypatch.setattr(Quorum, "may_lose", lambda _log, _cut: False)
    async with opened(kind, tmp_path) as cluster, anyio.create_task_group() as tasks:
        a, *_ = cluster.nodes
        cut_off(cluster, a)
        tasks.start_soon(Browser(cluster).visit, a, everywhere)
        await cluster.advance(0.2)
        browser = await logged_in(cluster, a)
        await restart(cluster, a, tmp_path)
        await cluster.advance(5)
        for node in cluster.nodes:
            assert refused_for_infrastructure(await browser.visit(node, who, "/private"), "state_not_reached", "any")


async def test_one_user_who_repeats_a_log_out_everywhere_makes_few_entries() -> None:
    async with Cluster(logins_per_subject=30) as cluster:
        await cluster.ready()
        a, b, _ = cluster.nodes
        token = mint_session(b.manager, "ada")

        async def repeat() -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(200):
                    tasks.start_soon(a.manager.revoke_subject, "ada")

        await cluster.run(repeat)
        assert [len(node_of(node.manager).view.known_cuts) for node in cluster.nodes] == [31] * 3
        assert (await b.get("/", token=token)).json()["subject"] is None
