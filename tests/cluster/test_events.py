"""The events of a cluster: complete and in order, on each node from that node's point of view."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ha_session_mw.events import (
    ClockDoubted,
    ClockTrusted,
    ClusterEvent,
    FoundQuorum,
    IdRevoked,
    LimitAgrees,
    LimitDiffers,
    LostQuorum,
    MemberDraining,
    MemberJoined,
    MemberLeft,
    MemberMismatched,
    PossibleLoss,
    SubjectRevoked,
    ViewFresh,
    ViewStale,
)
from ha_session_mw.manager import node_of
from ha_session_mw.models import NodeId
from ha_session_mw.testing import Cluster, Node

from ..inside import quorum_log_of
from .visits import log_out, logged_in

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

HEARTBEAT_S = 0.5
FRESHNESS_LIMIT_S = 5.0


def told(node: Node) -> list[ClusterEvent]:
    """Return a growing list of a node's events from now on."""
    seen: list[ClusterEvent] = []
    node.manager.on_event(seen.append)
    return seen


def joined(*names: str) -> set[ClusterEvent]:
    return {MemberJoined(NodeId(name)) for name in names}


@pytest.fixture
async def starting() -> AsyncIterator[Cluster]:
    """Three nodes that have heard nothing of each other yet."""
    cluster = Cluster()
    for node in cluster.nodes:
        cluster.cut(node)
    async with cluster:
        yield cluster


def connect(cluster: Cluster) -> None:
    for node in cluster.nodes:
        cluster.heal(node)


async def test_a_starting_cluster_reports_joins_the_majority_and_fresh_nodes(starting: Cluster) -> None:
    seen = told(starting["a"])
    await starting.advance(HEARTBEAT_S)
    assert seen == []
    connect(starting)
    await starting.ready()
    await starting.advance(HEARTBEAT_S)

    assert {*seen} == joined("b", "c") | {FoundQuorum(), ViewFresh()}
    assert len(seen) == 4


async def test_a_log_out_is_an_event_on_every_node(cluster: Cluster) -> None:
    a, *_ = cluster.nodes
    browser = await logged_in(cluster, a)
    heard = [told(node) for node in cluster.nodes]
    claims = node_of(a.manager).validator.verify(str(browser.token).encode()).claims  # type: ignore[union-attr]
    await browser.visit(a, log_out)
    await cluster.run(a.manager.revoke_subject, "ada")
    await cluster.settle()

    for seen in heard:
        family, subject = seen
        assert isinstance(family, IdRevoked)
        assert family.id == claims.family
        assert family.until_ms >= claims.absolute_end_ms
        assert isinstance(subject, SubjectRevoked)
        assert subject.subject == "ada"


async def test_a_cut_off_node_reports_it_within_a_heartbeat_and_again_once_it_is_back(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    alone, others = told(a), told(b)
    cluster.cut(a)
    await cluster.advance(FRESHNESS_LIMIT_S - HEARTBEAT_S)
    assert alone == others == []
    await cluster.advance(2.5 * HEARTBEAT_S)

    assert {LostQuorum(), ViewStale()} <= {*alone}
    assert MemberLeft(NodeId("a")) in others
    assert not {LostQuorum(), ViewStale()} & {*others}

    alone.clear()
    cluster.heal(a)
    await cluster.wait_until(lambda: a.why_not_ready is None and FoundQuorum() in alone)
    await cluster.advance(HEARTBEAT_S)
    assert [event for event in alone if isinstance(event, FoundQuorum | ViewFresh)] in (
        [FoundQuorum(), ViewFresh()],
        [ViewFresh(), FoundQuorum()],
    )
    assert joined("b", "c") <= {*alone}


async def test_a_member_that_dies_leaves_and_joins_again(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    seen = told(a)
    await b.kill()
    await cluster.advance(FRESHNESS_LIMIT_S + 1)
    assert seen == [MemberLeft(NodeId("b"))]
    await b.start()
    await cluster.ready()

    assert seen == [MemberLeft(NodeId("b")), *joined("b")]


async def test_a_member_that_drains_is_an_event(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    seen = told(a)
    quorum_log_of(b.manager).quorum.drain()
    await cluster.advance(1)

    assert seen == [MemberDraining(NodeId("b"))]


async def test_a_clock_that_is_set_wrong_and_corrected_is_two_events(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    wrong, right = told(a), told(b)
    a.clock.step_wall(3600)
    await cluster.advance(2 * HEARTBEAT_S)
    assert wrong == [ClockDoubted()]
    a.clock.step_wall(-3600)
    await cluster.advance(2 * HEARTBEAT_S)

    assert wrong == [ClockDoubted(), ClockTrusted()]
    assert right == []


async def test_a_node_with_another_limit_is_reported_until_the_others_have_it_too(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    a.settings["freshness_limit"] = "4s"
    await a.kill()
    await a.start()
    seen = told(a)
    await cluster.advance(5)
    assert LimitDiffers() in seen
    for node in (b, c):
        node.settings["freshness_limit"] = "4s"
        await node.kill()
        await node.start()
    await cluster.ready()

    assert [event for event in seen if isinstance(event, LimitDiffers | LimitAgrees)] == [LimitDiffers(), LimitAgrees()]


async def test_a_member_with_another_list_is_reported_by_its_place(cluster: Cluster) -> None:
    a, _, c = cluster.nodes
    c.settings["peers"] = ("http://c.test", "http://b.test", "http://d.test")
    await c.kill()
    await c.start()
    seen = told(a)
    await cluster.advance(2)

    assert MemberMismatched(3, "list") in seen
    assert "c.test" not in repr(seen)


async def test_a_possible_loss_of_acknowledged_log_outs_is_an_event() -> None:
    async with Cluster() as cluster:
        await cluster.ready()
        a, b, c = cluster.nodes
        await cluster.run(a.manager.revoke_subject, "ada")
        for node in (b, c):
            await node.kill()
        for node in (b, c):
            cluster.cut(node)
            await node.start()
        seen = [told(node) for node in (b, c)]
        for node in (b, c):
            cluster.heal(node)
        await cluster.ready()

        assert PossibleLoss() in seen[0] + seen[1]


async def test_a_listener_that_takes_nothing_keeps_no_node_waiting(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    stream = b.manager.events(room=1)
    for number in range(5):
        acknowledgement = await cluster.run(a.manager.revoke_subject, f"subject-{number}")
        assert acknowledgement.mode == "fenced"
    await cluster.settle()

    assert stream.missed == 4
