"""A session that takes a new id is never lost with its old one, whatever happens to the cluster meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ha_session_mw import Session
from ha_session_mw._machine.file_trouble import FileTrouble
from ha_session_mw._machine.journal import JournalFile
from ha_session_mw.manager import node_of
from ha_session_mw.testing import Cluster

from ..asgi.driver import cycle, log_in_again, prove_again
from ..backends.etcd.fake_cluster import EtcdCluster, cut_off, reconnect
from .visits import Browser, logged_in, look, obliging, refused_for_infrastructure, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

Change = Callable[[Session], None]


CHANGES = [cycle, log_in_again, prove_again]


def peers(folder: Path, *, files: bool = False, **settings: Any) -> Cluster:
    cluster = Cluster(app=obliging, **settings)
    for node in cluster.nodes if files else ():
        node.settings.update(cluster=f"peers://{folder}/{node.name}.log")
    return cluster


CLUSTERS: dict[str, Callable[[Path], Cluster]] = {
    "peers": peers,
    "peers with files": partial(peers, files=True),
    "peers, refuse": lambda folder: peers(folder, state_dir=folder / "journal", no_quorum="refuse"),
    "etcd": lambda _: EtcdCluster(app=obliging),
    "etcd with a store": lambda _: EtcdCluster(app=obliging, data="store", track="on"),
}


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[Cluster]:
    async with CLUSTERS[kind](folder) as cluster:
        await cluster.ready()
        yield cluster


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", CLUSTERS)
async def test_a_change_of_the_id_that_is_refused_leaves_the_session_as_it_was(kind: str, change: Change, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as cluster:
        a, *_ = cluster.nodes
        browser = await logged_in(cluster, a)
        await browser.visit(a, lambda session: session.update(cart=[1]))
        before = browser.token
        cut_off(cluster, a)

        assert refused_for_infrastructure(await browser.visit(a, change), "quorum_lost", "any")

        assert browser.token == before
        await cluster.advance(3)
        reconnect(cluster, a)
        await cluster.ready()
        await cluster.advance(3)
        for node in cluster.nodes:
            assert (await browser.visit(node, who)).result == "ada"
            assert (await browser.visit(node, look)).result == {"cart": [1]}
        answer = await browser.visit(a, change)
        assert (answer.status, answer.header("session-revocation")) == (200, None)


async def test_a_full_etcd_refuses_a_change_and_the_session_stays_as_it_was(tmp_path: Path) -> None:
    """Its nodes go on: they read it in place of writing to it."""
    async with opened("etcd", tmp_path) as cluster:
        assert isinstance(cluster, EtcdCluster)
        a, *_ = cluster.nodes
        browser = await logged_in(cluster, a)
        cluster.etcd.state.is_full = True
        await cluster.advance(20)
        assert refused_for_infrastructure(await browser.visit(a, cycle), "quorum_lost", "any")
        assert [(await browser.visit(node, who)).result for node in cluster.nodes] == ["ada"] * 3
        cluster.etcd.state.is_full = False
        await cluster.advance(3)
        assert [(await browser.visit(node, look)).result for node in cluster.nodes] == [{}] * 3
        assert (await browser.visit(a, cycle)).status == 200


async def test_a_visitor_who_cannot_log_in_keeps_its_session(tmp_path: Path) -> None:
    async with opened("peers", tmp_path) as cluster:
        a, *_ = cluster.nodes
        browser = Browser(cluster)
        await browser.visit(a, lambda session: session.update(cart=[1]))
        cut_off(cluster, a)
        assert refused_for_infrastructure(await browser.visit(a, lambda session: session.login("ada")), "quorum_lost", "any")
        reconnect(cluster, a)
        await cluster.advance(3)
        assert [(await browser.visit(node, look)).result for node in cluster.nodes] == [{"cart": [1]}] * 3


@pytest.mark.parametrize("change", [cycle, log_in_again], ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", ["peers", "peers with files", "etcd with a store"])
async def test_contact_that_is_lost_once_the_change_was_confirmed_costs_no_session(
    kind: str, change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old id may be denied on some nodes by then, so the client must get the new one."""
    async with opened(kind, tmp_path) as cluster:
        a, *_ = cluster.nodes
        browser = await logged_in(cluster, a)
        captured = Browser(cluster, browser.token)
        log = node_of(a.manager).log
        append = log.append

        async def append_out_of_contact(*args: Any) -> Any:
            cut_off(cluster, a)
            return await append(*args)

        monkeypatch.setattr(log, "append", append_out_of_contact)

        answer = await browser.visit(a, change)

        assert (answer.status, answer.header("session-revocation")) == (200, "provisional")
        reconnect(cluster, a)
        await cluster.ready()
        await cluster.advance(3)
        assert [(await browser.visit(node, look)).result for node in cluster.nodes] == [{"role": "admin"}] * 3
        assert {(await captured.visit(node, why)).result for node in cluster.nodes} <= {"session_revoked", "session_superseded"}


class FullDisk(JournalFile):
    full = False

    def append(self, records: Any) -> None:
        if self.full:
            raise FileTrouble("cannot be written: the disk is full", passing=True)
        super().append(records)


async def test_a_provisional_change_that_cannot_be_written_down_leaves_the_session_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ha_session_mw._machine.journal.JournalFile", FullDisk)
    async with Cluster(app=obliging) as cluster:
        a, *_ = cluster.nodes
        await a.stop()
        a.settings.update(state_dir=tmp_path)
        await a.start()
        await cluster.ready()
        browser = await logged_in(cluster, a)
        cut_off(cluster, a)
        monkeypatch.setattr(FullDisk, "full", True)

        assert refused_for_infrastructure(await browser.visit(a, cycle), "quorum_lost", "any")

        reconnect(cluster, a)
        await cluster.advance(3)
        assert [(await browser.visit(node, who)).result for node in cluster.nodes] == ["ada"] * 3
        assert [(await browser.visit(node, look)).result for node in cluster.nodes] == [{}] * 3


async def test_a_confirmation_takes_one_round_trip(tmp_path: Path) -> None:
    async with opened("peers", tmp_path) as cluster:
        for one in cluster.nodes:
            for other in cluster.nodes:
                if one is not other:
                    cluster.link(one, other).delay_s = 0.001
        a, *_ = cluster.nodes
        browser = await logged_in(cluster, a)
        for _ in range(5):
            await cluster.advance(0.7)
            begun_s = cluster.passed_s
            assert (await browser.visit(a, cycle)).status == 200
            assert cluster.passed_s - begun_s < 0.0065  # three round trips: one to confirm, and two for the entry


async def test_with_one_of_three_members_dead_a_change_is_as_fast(tmp_path: Path) -> None:
    async with opened("peers", tmp_path) as cluster:
        a, _, c = cluster.nodes
        browser = await logged_in(cluster, a)
        await c.kill()
        await cluster.advance(2)
        begun_s = cluster.passed_s
        answer = await browser.visit(a, cycle)
        assert (answer.status, answer.header("session-revocation")) == (200, None)
        assert cluster.passed_s - begun_s < 0.1
