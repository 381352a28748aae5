"""A cluster without log-outs: it exchanges few messages, and a node that needs the others' word has it in a round trip."""

from __future__ import annotations

import pytest

from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.quorum.ready import Ready
from ha_session_mw.abc import HELLO
from ha_session_mw.backends.peers.log import QuorumLog
from ha_session_mw.backends.peers.polling import Polling
from ha_session_mw.exceptions import StateNotReached
from ha_session_mw.manager import node_of
from ha_session_mw.testing import Cluster, Node

from ..inside import peering_of, quorum_log_of

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

SOMEBODY = "somebody".ljust(22, "-")


def answered(cluster: Cluster) -> int:
    return sum(quorum_log_of(node.manager).quorum.composer.stamp for node in cluster.nodes)


async def test_each_node_polls_each_other_every_three_heartbeats_at_first(cluster: Cluster) -> None:
    await cluster.advance(2)
    before = answered(cluster)
    await cluster.advance(6)
    assert 22 <= answered(cluster) - before <= 26


@pytest.mark.parametrize(("names", "a_second"), [("abc", 1.8), ("abcde", 6.0)])
async def test_later_each_pair_exchanges_a_message_every_two_seconds_and_all_stay_fresh(names: str, a_second: float) -> None:
    async with Cluster(names) as cluster:
        await cluster.ready()
        await cluster.advance(20)
        before, oldest_s = answered(cluster), 0.0
        for _ in range(120):
            await cluster.advance(0.5)
            oldest_s = max(oldest_s, *(node.clock.boot_s() - node_of(node.manager).view.fresh_at for node in cluster.nodes))
        assert (answered(cluster) - before) / 60 == pytest.approx(a_second, rel=0.05)
        assert oldest_s < 2.1
        assert {len(node_of(node.manager).log.members()) for node in cluster.nodes} == {len(names) - 1}


async def test_later_each_node_looks_after_its_log_once_a_second(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    await cluster.advance(20)
    quorum, ticks = quorum_log_of(cluster.nodes[0].manager).quorum, 0
    tick = quorum.tick

    def counted(now: Moment) -> Ready:
        nonlocal ticks
        ticks += 1
        return tick(now)

    monkeypatch.setattr(quorum, "tick", counted)
    await cluster.advance(30)
    assert ticks == 30


async def test_after_long_quiet_a_log_out_is_fenced_and_told_in_a_round_trip(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    for one in cluster.nodes:
        for other in cluster.nodes:
            cluster.link(one, other).delay_s = 0.05 if one is not other else 0.0
    await cluster.advance(30.3)
    begun_s = cluster.passed_s
    acknowledged = await cluster.run(a.manager.revoke_session, SOMEBODY)
    assert acknowledged.mode == "fenced"
    assert cluster.passed_s - begun_s == pytest.approx(0.1, abs=0.01)
    assert all(SOMEBODY in node_of(node.manager).view.denied for node in (b, c))


@pytest.mark.parametrize("seconds", [2.0, 4.0, 6.0, 8.0, 12.0])
async def test_after_a_link_was_silent_for_a_while_it_carries_log_outs_again_within_two_seconds(cluster: Cluster, seconds: float) -> None:
    """Nothing told of the break, so polls that waited for news when it began wait for ever. The questions find it out."""
    a, b, _ = cluster.nodes
    await cluster.advance(30.3)
    cluster.cut(a, b)
    await cluster.advance(seconds)
    cluster.heal(a, b)
    await cluster.advance(2)
    began_s = cluster.passed_s
    assert (await cluster.run(a.manager.revoke_session, SOMEBODY)).mode == "fenced"
    assert cluster.passed_s - began_s < 0.1
    assert all(node.why_not_ready is None for node in cluster.nodes)


async def test_a_member_that_hangs_after_long_quiet_leaves_the_others_in_service_and_in_contact(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    events = [node.manager.events() for node in (a, b)]
    await cluster.advance(30.3)
    cluster.cut(a, c)
    cluster.cut(b, c)
    for _ in range(100):
        await cluster.advance(0.2)
        assert [node.why_not_ready for node in (a, b)] == [None, None]
        assert all(node_of(node.manager).log.has_quorum() for node in (a, b))
    del events
    assert c.why_not_ready is not None


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


async def test_a_second_process_at_its_url_that_has_gone_keeps_a_node_that_was_long_alone_out_of_service_for_some_seconds(
    cluster: Cluster,
) -> None:
    a, *_ = cluster.nodes
    await cluster.advance(200)
    await cluster.run(quorum_log_of(a.manager).own_url.on_hello, b"another process")
    assert a.why_not_ready is not None
    await cluster.wait_until(lambda: a.why_not_ready is None, within_s=30)


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
        monkeypatch.setattr(Polling, "ask", lambda *_: None)
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
    assert (oldest_s < 4.3) == asks
