"""A list of members that changes: no two majorities, words for operators, and nobody who is not served."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from ha_session_mw._core.quorum.messages import decode_batch, encode
from ha_session_mw._machine.journal import JournalFile
from ha_session_mw.exceptions import ConfigurationError
from ha_session_mw.manager import node_of
from ha_session_mw.testing import Cluster, Node

from .visits import Browser, log_out, logged_in, obliging, refused_for_infrastructure, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

Urls = tuple[str, ...]


def urls(names: str) -> Urls:
    return tuple(f"http://{name}.test" for name in names)


def cluster_of(names: str, current: str, coming: str = "", *, folder: Path | None = None) -> Cluster:
    """Nodes of the current list, and newcomers with both lists."""
    cluster = Cluster(names, app=obliging)
    for node in cluster.nodes:
        node.settings["peers"] = urls(current)
        if node.name not in current:
            node.settings["peers_next"] = urls(coming)
        if folder is not None:
            node.settings["cluster"] = f"peers://{folder}/{node.name}"
    return cluster


async def relist(cluster: Cluster, node: Node, current: str, coming: str = "") -> None:
    """Restart a node with these lists."""
    if node.running:
        await node.stop()
    node.settings.update(peers=urls(current), peers_next=urls(coming))
    await node.start()
    await cluster.advance(2)


def phases(cluster: Cluster) -> dict[str, object]:
    return {node.name: lists_of(node)["phase"] for node in cluster.nodes if node.running}


def lists_of(node: Node) -> dict[str, object]:
    return dict(node_of(node.manager).log.member_lists() or {})


async def all_serve(browser: Browser, nodes: Sequence[Node]) -> bool:
    return all([(await browser.visit(node, who)).result == "ada" for node in nodes])


async def test_a_file_of_another_list_stops_the_start_and_the_message_shows_the_way(tmp_path: Path) -> None:
    async with cluster_of("abcde", "abcde", folder=tmp_path) as cluster:
        await cluster.ready()
        a, _, c, d, _ = cluster.nodes
        browser = await logged_in(cluster, a)
        captured = Browser(cluster, browser.token)
        await a.stop()
        a.settings["peers"] = urls("abc")
        with pytest.raises(ConfigurationError, match=r"HA_SESSION_PEERS: .* another list .* HA_SESSION_PEERS_NEXT"):
            await a.start()
        assert (await browser.visit(c, log_out)).header("session-revocation") == "fenced"
        assert (await captured.visit(d, why)).result == "session_revoked"
        a.settings["peers"] = urls("abcde")
        await a.start()
        await cluster.ready()
        assert (await captured.visit(a, why)).result == "session_revoked"


async def test_without_files_nodes_with_another_list_do_not_serve_while_the_old_one_is_alive() -> None:
    """Two of five and a newcomer would be a list of three that has nothing to forget."""
    async with cluster_of("abcdef", "abcde", "abcdef") as cluster:
        a, b, c, d, _, f = cluster.nodes
        await f.stop()
        await cluster.ready()
        browser = await logged_in(cluster, a)
        captured = Browser(cluster, browser.token)
        for node in (a, b, f):
            if node.running:
                await node.kill()
            node.settings.update(peers=urls("abf"), peers_next=())
        for node in (a, b, f):
            await node.start()
        await cluster.advance(3)
        assert (await browser.visit(c, log_out)).header("session-revocation") == "fenced"
        assert refused_for_infrastructure(await captured.visit(a), "node_starting", "other_node")
        assert "take this node for a member" in (a.why_not_ready or "")
        assert c.why_not_ready is d.why_not_ready is None
        await relist(cluster, a, "abcde")
        await relist(cluster, b, "abcde")
        assert a.why_not_ready is None
        assert (await captured.visit(a, why)).result == "session_revoked"


@pytest.mark.parametrize("with_files", [False, True], ids=["memory", "files"])
async def test_a_cluster_grows_from_three_to_five_without_an_outage(
    with_files: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with cluster_of("abcde", "abc", "abcde", folder=tmp_path if with_files else None) as cluster:
        a, b, c, d, e = cluster.nodes
        await cluster.wait_until(lambda: all(node.why_not_ready is None for node in (a, b, c)))
        browser, left = await logged_in(cluster, a), await logged_in(cluster, a)
        captured = Browser(cluster, left.token)
        assert d.why_not_ready == "HA_SESSION_PEERS does not name this node: it serves once all nodes have this HA_SESSION_PEERS_NEXT"
        assert refused_for_infrastructure(await browser.visit(d), "node_starting", "other_node")
        for node in (a, b, c):
            await node.stop()
            assert await all_serve(browser, [other for other in (a, b, c) if other is not node])
            await relist(cluster, node, "abc", "abcde")
            assert await all_serve(browser, (a, b, c))
        assert set(phases(cluster).values()) == {"moved"}
        assert await all_serve(browser, cluster.nodes)
        assert (await left.visit(d, log_out)).header("session-revocation") == "fenced"
        assert "stands alone now; set HA_SESSION_PEERS to it" in caplog.text
        for node in cluster.nodes:
            await node.stop()
            assert await all_serve(browser, [other for other in cluster.nodes if other is not node])
            await relist(cluster, node, "abcde")
        assert set(phases(cluster).values()) == {"steady"}
        await a.kill()
        await b.kill()  # five can lose two
        for node in (c, d, e):
            assert (await captured.visit(node, why)).result == "session_revoked"
            assert (await browser.visit(node)).result == "ada"


async def test_a_node_that_leaves_says_that_it_can_be_stopped(tmp_path: Path) -> None:
    async with cluster_of("abcd", "abcd", folder=tmp_path) as cluster:
        await cluster.ready()
        *_, d = cluster.nodes
        for node in cluster.nodes:
            await relist(cluster, node, "abcd", "abc")
        assert d.why_not_ready == "HA_SESSION_PEERS_NEXT does not name this node: stop it"
        await d.stop()
        assert [node.why_not_ready for node in cluster.nodes[:3]] == [None] * 3


async def test_a_node_that_went_on_too_early_says_what_it_waits_for_and_counts_for_nothing(tmp_path: Path) -> None:
    async with cluster_of("abc", "abc", folder=tmp_path) as cluster:
        await cluster.ready()
        a, b, c = cluster.nodes
        browser = await logged_in(cluster, c)
        await relist(cluster, a, "abc", "ab")
        await relist(cluster, a, "ab")
        assert "does not stand alone yet" in (a.why_not_ready or "")
        assert refused_for_infrastructure(await browser.visit(a), "node_starting", "other_node")
        assert await all_serve(browser, (b, c))
        await relist(cluster, a, "abc", "ab")
        assert await all_serve(browser, (a, b, c))
        await relist(cluster, a, "abc")  # and back: no node has left the old list
        assert await all_serve(browser, (a, b, c))


async def test_a_node_that_missed_the_change_is_told_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with cluster_of("abcd", "abcd", folder=tmp_path) as cluster:
        await cluster.ready()
        a, b, c, d = cluster.nodes
        await d.stop()
        for node in (a, b, c):
            await relist(cluster, node, "abcd", "abc")
        await cluster.advance(6)
        assert set(phases(cluster).values()) == {"moved"}
        await d.start()
        await cluster.advance(3)
        assert "was given up for another one" in (d.why_not_ready or "")
        assert [record.levelname for record in caplog.records if "was given up" in record.getMessage()] == ["ERROR"]


async def test_a_file_of_a_release_without_lists_takes_the_list_of_its_first_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with cluster_of("abc", "abc", folder=tmp_path) as cluster:
        await cluster.ready()
        a, *_ = cluster.nodes
        await a.stop()
        forget_the_lists(tmp_path / "a")
        await a.start()
        await cluster.ready()
        assert caplog.text.count("from now on it belongs to this list") == 1
        await a.stop()
        a.settings["peers"] = urls("ab")
        with pytest.raises(ConfigurationError, match="another list"):
            await a.start()


def forget_the_lists(path: Path) -> None:
    file = JournalFile(path)
    batches = [decode_batch(record) for record in file.load()]
    assert all(batch.lists for batch in batches)
    file.replace([without_lists(encode(batch)) for batch in batches])
    file.close()


def without_lists(record: bytes) -> bytes:
    *known, _ = msgspec.msgpack.decode(record)
    return msgspec.msgpack.encode(known)


async def test_the_status_names_the_lists_and_the_phase() -> None:
    async with cluster_of("abcd", "abc", "abcd") as cluster:
        a, *_, d = cluster.nodes
        await cluster.wait_until(lambda: a.why_not_ready is None)
        alone, both = (await a.manager.status())["member_lists"], (await d.manager.status())["member_lists"]
        assert isinstance(alone, dict)
        assert isinstance(both, dict)
        assert (alone["next"], alone["phase"]) == (None, "steady")
        assert both["current"] == alone["current"] != both["next"]
        assert both["phase"] == "joint"


async def test_events_tell_nothing_of_the_entries_by_which_a_list_changes() -> None:
    seen: list[object] = []
    async with cluster_of("abcd", "abc", "abcd") as cluster:
        a, b, c, d = cluster.nodes
        await cluster.wait_until(lambda: all(node.why_not_ready is None for node in (a, b, c)))
        d.manager.on_event(seen.append)
        for node in (a, b, c):
            await relist(cluster, node, "abc", "abcd")
        assert set(phases(cluster).values()) == {"moved"}
        assert "IdRevoked" not in {type(event).__name__ for event in seen}
        assert "MemberJoined" in {type(event).__name__ for event in seen}
