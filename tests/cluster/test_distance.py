"""Members that are far apart: log-outs are fenced in a few round trips, and no node is out of service for the distance alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ha_session_mw import SessionManager, Settings
from ha_session_mw._core.quorum import holds
from ha_session_mw.backends.peers import polling
from ha_session_mw.backends.peers.log import QuorumLog
from ha_session_mw.manager import node_of
from ha_session_mw.testing import SECRET, Cluster

from ..engines import Etcd, etcd
from ..waiting import eventually
from .delays import far_away

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

LOG_OUTS = 6


async def acknowledged(cluster: Cluster, round_trip_s: float, folder: Path | None = None) -> list[tuple[str, float]]:
    """How log-outs went, and how long they took, at all nodes of a cluster with this distance between any two."""
    for node in cluster.nodes if folder is not None else []:
        await node.stop()
        node.settings.update(cluster=f"peers://{folder}/{node.name}.db")
        await node.start()
    await cluster.ready()
    for one in cluster.nodes:
        for other in cluster.nodes:
            if one is not other:
                cluster.link(one, other).delay_s = round_trip_s / 2
    await cluster.advance(10)
    found: list[tuple[str, float]] = []
    for number in range(LOG_OUTS):
        answer = await cluster.run(cluster.nodes[number % 3].manager.revoke_session, f"id{number:-<20}")
        found.append((answer.mode, answer.waited_s))
        await cluster.advance(0.37)
    return found


@pytest.mark.parametrize("round_trip_s", [0.1, 0.3, 0.8])
async def test_members_at_a_distance_fence_each_log_out(round_trip_s: float) -> None:
    async with Cluster() as cluster:
        found = await acknowledged(cluster, round_trip_s)
        assert {mode for mode, _ in found} == {"fenced"}
        assert max(took_s for _, took_s in found) < 1.5 * round_trip_s + 0.01
        assert [node.why_not_ready for node in cluster.nodes] == [None] * 3


@pytest.mark.parametrize("round_trip_s", [0.1, 0.3])
async def test_members_with_files_at_a_distance_fence_each_log_out(round_trip_s: float, tmp_path: Path) -> None:
    async with Cluster() as cluster:
        found = await acknowledged(cluster, round_trip_s, tmp_path)
        assert {mode for mode, _ in found} == {"fenced"}
        assert max(took_s for _, took_s in found) < 3 * round_trip_s + 0.2  # the disk is a real one
        assert [node.why_not_ready for node in cluster.nodes] == [None] * 3


@pytest.mark.parametrize("round_trip_s", [0.1, 0.3])
async def test_five_members_need_two_round_trips(round_trip_s: float) -> None:
    async with Cluster("abcde") as cluster:
        found = await acknowledged(cluster, round_trip_s)
        assert {mode for mode, _ in found} == {"fenced"}
        assert max(took_s for _, took_s in found) < 2 * round_trip_s + 0.21  # a member whose poll is on its way is sent a push


async def test_if_each_acknowledgement_were_answered_at_once_five_members_would_need_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "TOGETHER_S", 0.0)
    async with Cluster("abcde") as cluster:
        assert max(took_s for _, took_s in await acknowledged(cluster, 0.1)) > 2.9 * 0.1


async def test_with_a_limit_that_follows_no_distance_they_would_hear_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "MOST_SLACK_S", polling.POLL_SLACK_S)
    async with Cluster() as cluster:
        await cluster.ready()
        for one in cluster.nodes:
            for other in cluster.nodes:
                cluster.link(one, other).delay_s = 0.6 if one is not other else 0.0
        await cluster.advance(10)
        assert all(node.why_not_ready is not None for node in cluster.nodes)


async def test_a_node_that_nobody_can_call_says_that_its_log_outs_are_provisional() -> None:
    async with Cluster() as cluster:
        await cluster.ready()
        a, *others = cluster.nodes
        assert node_of(a.manager).warnings() == [node_of(a.manager).log.exposure()]
        for other in others:
            cluster.link(other, a).cut = True
        await cluster.advance(8)
        # Others' polls carry nothing to it any more; whether it still reads theirs is another matter.
        assert any("each log-out here is provisional" in warning for warning in node_of(a.manager).warnings())


async def test_before_the_others_have_had_time_to_call_it_a_node_says_no_such_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster() as cluster:
        await cluster.ready()
        told = []
        with monkeypatch.context() as patched:
            patched.setattr(QuorumLog, "has_quorum", lambda _: False)
            for _ in range(4):
                told.append(any("each log-out here is provisional" in one for one in node_of(cluster.nodes[0].manager).warnings()))
                await cluster.advance(0.9)
        assert told in ([False, False, True, True], [False, False, False, True])


async def test_three_provisional_log_outs_in_a_row_are_no_chance_and_are_told(tmp_path: Path) -> None:
    """The others poll, so a majority hears the node. But its answers come too late for them."""
    async with Cluster() as cluster:
        a, *others = cluster.nodes
        await a.stop()
        a.settings.update(state_dir=tmp_path)
        await a.start()
        await cluster.ready()
        for other in others:
            cluster.link(other, a).delay_s = 1.0
            cluster.link(a, other).cut = True
        told = []
        for number in range(4):
            if number == 3:
                for other in others:
                    cluster.link(other, a).delay_s, cluster.link(a, other).cut = 0.0, False
                await cluster.advance(5)
            mode = (await cluster.run(a.manager.revoke_session, f"id{number:-<20}")).mode
            told.append((mode, any("log-outs here were provisional" in one for one in node_of(a.manager).warnings())))
        assert told == [("provisional", False), ("provisional", False), ("provisional", True), ("fenced", False)]


@pytest.fixture(scope="module")
def one_etcd() -> Iterator[Etcd]:
    with etcd() as server:
        yield server


@pytest.mark.real
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_nodes_far_from_etcd_fence_each_log_out(one_etcd: Etcd) -> None:
    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(2):
            way = await stack.enter_async_context(far_away(lambda: one_etcd.members[0].client_port, round_trip_s=0.3))
            nodes.append(SessionManager(Settings(secret_key=SECRET, cluster=f"etcd://127.0.0.1:{way}/far")))
        for node in nodes:
            await stack.enter_async_context(node.running())
        await eventually(lambda: all(node.why_not_ready() is None and node_of(node).log.members() for node in nodes))
        for node in (*nodes, *nodes):
            answer = await node.revoke_subject("ada")
            assert answer.mode == "fenced"
        assert [node.why_not_ready() for node in nodes] == [None, None]
