"""Directed schedules of whole nodes on an etcd in memory: each rule of the etcd driver, and a broken variant that its schedule catches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import anyio
import pytest

from ha_session_mw._core.ordered.log import REMOVE_AFTER_S, Ordered
from ha_session_mw.abc import Receipt
from ha_session_mw.backends.etcd.api import EtcdRejected, EtcdUnavailable, Operation, Transaction
from ha_session_mw.backends.etcd.gateway import EtcdGateway
from ha_session_mw.backends.etcd.log import EtcdLog
from ha_session_mw.backends.etcd.writer import REJECTIONS
from ha_session_mw.manager import node_of
from ha_session_mw.testing import Node

from ..backends.etcd.fake_cluster import EtcdCluster
from ..histories.app import app
from ..simulation.ordered_variants import FreshWhenAcknowledged

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

Follow = Callable[[type[Ordered]], None]
LIMIT_S = 5.0
OVER_S = LIMIT_S * 1.02 + 0.05
"""After which no lease from before is left on any clock."""


@pytest.fixture
async def cluster() -> AsyncIterator[EtcdCluster]:
    async with EtcdCluster(app=app, protect="/private*", freshness_limit=LIMIT_S) as cluster:
        await cluster.ready()
        yield cluster


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Follow:
    """Have all nodes go by other rules from now on."""
    return lambda kind: monkeypatch.setattr("ha_session_mw.backends.etcd.log.Ordered", kind)


async def log_in(node: Node) -> str:
    return (await node.post("/login/ada")).cookies["session"]


async def log_out(node: Node, token: str) -> str | None:
    """Log out; returns how far that got."""
    mode: str | None = (await node.post("/private/revoke", token=token)).json().get("mode")
    return mode


async def seen(node: Node, token: str) -> str:
    """Return a node's answer to a session."""
    return str((await node.get("/private", token=token)).json().get("code", "accepted"))


def cut(cluster: EtcdCluster, node: Node, *, both_ways: bool = True) -> None:
    for link in cluster.etcd.links_of(node)[0 if both_ways else 1 :: 1 if both_ways else 2]:
        link.cut = True


# Each returns the answer of the node that must not accept the session.


async def a_node_out_of_contact(cluster: EtcdCluster) -> str:
    """c is cut off from etcd and from its peers. A log-out waits until its lease is over."""
    a, _, c = cluster.nodes
    token = await log_in(a)
    cut(cluster, c)
    cluster.cut(c)
    assert await log_out(a, token) == "fenced"
    return await seen(c, token)


async def watches_that_are_silent(cluster: EtcdCluster) -> str:
    """All nodes write into etcd, and hear of no writes by others."""
    a, _, c = cluster.nodes
    token = await log_in(a)
    cluster.cut(c)
    for member in cluster.etcd.members:
        member.silent = True
    assert await log_out(a, token) == "fenced"
    await cluster.advance(0.5)
    return await seen(c, token)


async def a_heartbeat_that_comes_back_late(cluster: EtcdCluster) -> str:
    """c reads its heartbeats 2 s after they were sent, the last one after somebody has logged out, and nothing after that one."""
    a, _, c = cluster.nodes
    token = await log_in(a)
    cluster.cut(c)
    for link in cluster.etcd.links_of(c)[1::2]:
        link.delay_s = 2.0

    async def next_message() -> None:
        before = cluster.etcd.brought[c.name]
        await cluster.wait_until(lambda: cluster.etcd.brought[c.name] > before)

    await next_message()
    await next_message()
    modes: list[str] = []

    async def log_out_there() -> None:
        async with a.client(headers={"authorization": f"Bearer {token}"}) as client:
            modes.append((await client.post("/private/revoke")).json()["mode"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log_out_there)
        await next_message()
        await cluster.advance(0.1)
        cut(cluster, c, both_ways=False)
        await cluster.wait_until(lambda: bool(modes))
    assert modes == ["fenced"]
    return await seen(c, token)


SCHEDULES = (a_node_out_of_contact, watches_that_are_silent, a_heartbeat_that_comes_back_late)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.__name__)
async def test_a_schedule_breaks_no_rule(schedule: Callable[[EtcdCluster], object], cluster: EtcdCluster) -> None:
    assert await schedule(cluster) in ("state_stale", "session_revoked")  # type: ignore[misc]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_log_out_that_is_not_fenced_is_caught(monkeypatch: pytest.MonkeyPatch, cluster: EtcdCluster) -> None:
    async def no_fence(log: EtcdLog, receipt: Receipt) -> None: ...

    monkeypatch.setattr(EtcdLog, "fence", no_fence)
    assert await a_node_out_of_contact(cluster) == "accepted"


async def on_broken_nodes(follow: Follow, kind: type[Ordered], schedule: Callable[[EtcdCluster], object]) -> object:
    follow(kind)
    async with EtcdCluster(app=app, protect="/private*", freshness_limit=LIMIT_S) as cluster:
        await cluster.ready()
        return await schedule(cluster)  # type: ignore[misc]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_freshness_by_an_acknowledgement_is_caught(follow: Follow) -> None:
    assert await on_broken_nodes(follow, FreshWhenAcknowledged, watches_that_are_silent) == "accepted"


# Availability.


async def test_history_that_was_compacted_while_a_node_was_away_is_loaded_again(cluster: EtcdCluster) -> None:
    a, _, c = cluster.nodes
    token, kept = await log_in(a), await log_in(a)
    cut(cluster, c)
    assert await log_out(a, token) == "fenced"
    cluster.etcd.compact()
    cluster.etcd.heal()
    await cluster.ready()
    assert await seen(c, token) == "session_revoked"
    assert await seen(c, kept) == "accepted"


@pytest.mark.parametrize("fails", ["", "before it is written", "after it was written"])
async def test_in_a_storm_of_log_outs_heartbeats_travel_with_them(
    monkeypatch: pytest.MonkeyPatch, cluster: EtcdCluster, fails: str
) -> None:
    """If such a transaction fails, or seems to, the log-outs in it are written again without the heartbeat."""
    written: list[tuple[int, bool]] = []  # of each transaction: how many entries, and whether a heartbeat
    transact = EtcdGateway.transact

    async def noted(gateway: EtcdGateway, success: Sequence[Operation], **rest: Any) -> Transaction:
        beats = sum(b"/node/" in operation.get("request_put", {}).get("key", b"") for operation in success)  # type: ignore[operator]
        written.append((len(success) - beats, beats > 0))
        is_to_fail = bool(fails) and 0 < beats < len(success)
        if is_to_fail and fails.startswith("before"):
            raise EtcdUnavailable("no answer")
        done = await transact(gateway, success, **rest)
        if is_to_fail:
            raise EtcdUnavailable("no answer")
        return done

    tokens = [(node, await log_in(node)) for _ in range(20) for node in cluster.nodes]
    monkeypatch.setattr(EtcdGateway, "transact", noted)
    modes: list[str] = []

    async def log_out_after(seconds: float, node: Node, token: str) -> None:
        await cluster.sleep(seconds)
        async with node.client(headers={"authorization": f"Bearer {token}"}) as client:
            modes.append((await client.post("/private/revoke")).json()["mode"])

    async with anyio.create_task_group() as tasks:
        for number, (node, token) in enumerate(tokens):
            tasks.start_soon(log_out_after, number / 100, node, token)
        await cluster.wait_until(lambda: len(modes) == len(tokens))
    assert set(modes) == {"fenced"}
    with_entries = sum(beat for entries, beat in written if entries)
    assert with_entries
    if not fails:
        assert with_entries > sum(beat for entries, beat in written if not entries)
    for _, token in tokens:
        assert await seen(cluster.nodes[0], token) == "session_revoked"


async def test_a_log_out_waits_for_an_election_and_holds(cluster: EtcdCluster) -> None:
    a, b, _ = cluster.nodes
    token = await log_in(a)
    cluster.etcd.leader.kill()
    begun_s = cluster.passed_s
    assert await log_out(a, token) == "fenced"
    assert 1 < cluster.passed_s - begun_s < LIMIT_S
    assert await seen(b, token) == "session_revoked"


async def test_a_node_that_was_frozen_for_longer_than_its_lease_accepts_nothing_that_was_logged_out(cluster: EtcdCluster) -> None:
    a, _, c = cluster.nodes
    token = await log_in(a)
    c.freeze()
    assert await log_out(a, token) == "fenced"
    c.thaw()
    assert await seen(c, token) in ("state_stale", "session_revoked")
    await cluster.ready()
    assert await seen(c, token) == "session_revoked"


async def test_nodes_that_are_all_killed_know_every_log_out_when_they_are_back(cluster: EtcdCluster) -> None:
    a = cluster.nodes[0]
    token, kept = await log_in(a), await log_in(a)
    assert await log_out(a, token) == "fenced"
    for node in cluster.nodes:
        await cluster.kill(node)
    for node in cluster.nodes:
        await node.start()
    await cluster.advance(OVER_S)
    await cluster.ready()
    for node in cluster.nodes:
        assert await seen(node, token) == "session_revoked"
        assert await seen(node, kept) == "accepted"


async def test_a_node_that_ends_in_order_costs_no_log_out_a_wait(cluster: EtcdCluster) -> None:
    a, b, c = cluster.nodes
    token = await log_in(a)
    await cluster.stop(c)
    begun_s = cluster.passed_s
    assert await log_out(a, token) == "fenced"
    assert cluster.passed_s - begun_s < 0.2
    assert await seen(b, token) == "session_revoked"


async def test_the_beat_of_a_process_that_is_long_gone_is_deleted() -> None:
    """It is not while the log may have stood still, so the time passes beat by beat."""
    async with EtcdCluster(("a", "b"), app=app, freshness_limit=LIMIT_S, heartbeat=1.0) as cluster:
        await cluster.ready()
        await cluster.kill(cluster["b"])

        def beats() -> list[bytes]:
            return [key for key in cluster.etcd.state.keys if b"/node/" in key]

        await cluster.advance(REMOVE_AFTER_S - 1)
        assert len(beats()) == 2
        await cluster.wait_until(lambda: len(beats()) == 1)


class GarblesLogOuts(EtcdGateway):
    """The first requests that write a log-out are garbled on their way, so etcd rejects them."""

    garbled = 0

    async def transact(self, success: Sequence[Any], **kwargs: Any) -> Any:
        if self.garbled and any(b"/deny/" in repr(operation).encode() for operation in success):
            self.garbled -= 1
            raise EtcdRejected("rejects the request (code 3)")
        return await super().transact(success, **kwargs)


@pytest.mark.parametrize("times", [1, REJECTIONS - 1])
async def test_a_log_out_that_was_garbled_on_its_way_is_written_again(
    times: int, cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, _ = cluster.nodes
    token = await log_in(a)
    log = node_of(a.manager).log
    assert isinstance(log, EtcdLog)
    gateway = log._gateway
    assert isinstance(gateway, EtcdGateway)
    monkeypatch.setattr(gateway, "__class__", GarblesLogOuts)
    monkeypatch.setattr(GarblesLogOuts, "garbled", times)
    assert await log_out(a, token) == "fenced"
    assert await seen(b, token) == "session_revoked"


async def test_a_node_that_waits_to_hear_of_others_names_them(cluster: EtcdCluster) -> None:
    a, b, c = cluster.nodes
    await cluster.kill(a)
    cut(cluster, b)
    cut(cluster, c)  # their leases last a while, so they may be alive
    await a.start()
    await cluster.advance(1)
    names = {str(node_of(node.manager).node_id) for node in (b, c)}
    waits = str(a.why_not_ready)
    assert waits.startswith("waiting to hear of the other members, to know whether its clock is right: ")
    assert names <= set(waits.partition(": ")[2].split(", "))
