"""A cluster without log-outs: it exchanges few messages, and a node that needs the others' word has it in a round trip."""

from __future__ import annotations

import pytest

from ha_session_mw.abc import HELLO
from ha_session_mw.backends.peers.log import QuorumLog
from ha_session_mw.exceptions import StateNotReached
from ha_session_mw.manager import node_of
from ha_session_mw.testing import Cluster, Node

from ..inside import peering_of, quorum_log_of

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


async def test_each_node_polls_each_other_every_three_heartbeats(cluster: Cluster) -> None:
    def answered() -> list[int]:
        return [quorum_log_of(node.manager).quorum.composer.stamp for node in cluster.nodes]

    await cluster.advance(5)
    before = answered()
    await cluster.advance(30)
    for one, other in zip(before, answered(), strict=True):
        assert 38 <= other - one <= 42


async def test_a_node_that_has_long_been_alone_at_its_url_asks_there_seldom_until_it_cannot_be_reached(cluster: Cluster) -> None:
    a, *_ = cluster.nodes
    asked = 0
    answer = quorum_log_of(a.manager).own_url.on_hello

    async def counted(body: bytes) -> bytes:
        nonlocal asked
        asked += 1
        return await answer(body)

    peering_of(a.manager).handle(HELLO, counted)
    found = []
    for seconds in (30, 240):
        asked = 0
        await cluster.advance(seconds)
        found.append(asked)
    cluster.link(a, a).cut = True
    await cluster.advance(130)
    cluster.link(a, a).cut = False
    asked = 0
    await cluster.advance(30)
    assert found[0] >= 12
    assert found[1] == 8
    assert asked >= 12


async def learns_all(cluster: Cluster, node: Node, *, times: int = 1) -> float:
    """Return how long a node takes to know all log-outs of a moment, the last time."""
    for _ in range(times):
        await cluster.advance(5.4)
        begun_s = cluster.passed_s
        await cluster.run(node_of(node.manager).resolver.learn_all)
    return cluster.passed_s - begun_s


async def test_a_request_that_must_know_all_log_outs_of_a_moment_waits_for_a_round_trip(cluster: Cluster) -> None:
    for one in cluster.nodes:
        for other in cluster.nodes:
            cluster.link(one, other).delay_s = 0.01 if one is not other else 0.0
    assert await learns_all(cluster, cluster.nodes[0]) == pytest.approx(0.02, abs=0.005)


async def test_without_asking_it_would_wait_for_the_next_polls_and_give_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QuorumLog, "seek_news", lambda _: None)
    with pytest.raises(StateNotReached):
        await learns_all(cluster, cluster.nodes[0], times=5)


@pytest.mark.parametrize("asks", [True, False], ids=["as it is", "without asking"])
async def test_polls_that_are_lost_in_a_quiet_time_do_not_cost_the_lease(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    if not asks:
        monkeypatch.setattr(QuorumLog, "seek_news", lambda _: None)
    a, b, c = cluster.nodes
    await cluster.advance(5)
    oldest_s = 0.0
    for _ in range(6):
        for other in (b, c):
            cluster.link(a, other).cut = True
        await cluster.advance(1.6)
        for other in (b, c):
            cluster.link(a, other).cut = False
        for _ in range(20):
            await cluster.advance(0.1)
            oldest_s = max(oldest_s, a.clock.boot_s() - node_of(a.manager).view.fresh_at)
        await cluster.advance(5.3)
    assert (oldest_s < 3.9) == asks
