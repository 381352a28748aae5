"""A new node reads a long log from its checkpoint, and from its keys wherever the checkpoint does not fit. It knows the same either way."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from ha_session_mw._core.ordered import checkpoints as core
from ha_session_mw._core.ordered.checkpoints import Checkpoint, decode_checkpoint, encode_checkpoint
from ha_session_mw.abc import Clock
from ha_session_mw.backends.etcd import checkpoints
from ha_session_mw.backends.etcd.api import EtcdError, Operation, delete, encode, put
from ha_session_mw.backends.etcd.checkpoints import LOOK_S, CheckpointWriter
from ha_session_mw.backends.etcd.log import EtcdLog
from ha_session_mw.manager import node_of
from ha_session_mw.models import Cut, CutId, Deny, Entry
from ha_session_mw.testing import Node

from .fake_cluster import EtcdCluster

pytestmark = pytest.mark.anyio

CHECKPOINT = b"shop.records/denials/checkpoint"
SEGMENTS = b"shop.records/denials/segment/"
LIFE_MS = 40_000
MANY = 60


@pytest.fixture(autouse=True)
def _short_logs_count_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (core, checkpoints):
        monkeypatch.setattr(module, "LEAST", MANY - 10)
    monkeypatch.setattr(checkpoints, "SEGMENT", 16)
    monkeypatch.setattr(checkpoints, "EVERY_S", 20.0)


@asynccontextmanager
async def running() -> AsyncIterator[EtcdCluster]:
    async with EtcdCluster() as cluster:
        await cluster.ready()
        yield cluster


def log_of(node: Node) -> EtcdLog:
    log = node_of(node.manager).log
    assert isinstance(log, EtcdLog)
    return log


def log_outs(clock: Clock, name: str, many: int) -> list[Deny]:
    end_ms = int(clock.wall_s() * 1000) + LIFE_MS
    return [Deny(f"{name}{number}".ljust(22, "-"), end_ms + number % 2 * 60_000) for number in range(many)]


async def logged(cluster: EtcdCluster, node: Node, name: str, many: int) -> list[Entry]:
    """Log out so many sessions on a node, and a subject."""
    clock = node_of(node.manager).clock
    end_ms = int(clock.wall_s() * 1000) + LIFE_MS
    replaced = Deny(f"replaced {name}".ljust(22, "-"), end_ms, end_ms - LIFE_MS)
    cut = Cut(CutId(f"{name}~{end_ms // 1000:x}"), name, end_ms)
    entries: list[Entry] = [*log_outs(clock, name, many), Deny(f"odd {name}", end_ms), replaced, cut]
    await cluster.run(log_of(node).append, entries)
    return entries


def checkpoint_in(cluster: EtcdCluster) -> Checkpoint:
    return decode_checkpoint(cluster.etcd.state.keys[CHECKPOINT].value)


async def written(cluster: EtcdCluster) -> Checkpoint:
    """Let time pass until there is a checkpoint, or another one."""
    known = cluster.etcd.state.keys.get(CHECKPOINT)
    await cluster.wait_until(lambda: cluster.etcd.state.keys.get(CHECKPOINT) != known, within_s=200)
    return checkpoint_in(cluster)


class Reads:
    """The keys below ``deny/`` that etcd returns to those who ask for a range."""

    def __init__(self, cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.denials: set[bytes] = set()
        answer = cluster.etcd.state.answer

        def noted(path: str, body: Mapping[str, Any], now_s: float) -> tuple[int, Mapping[str, Any]]:
            status, found = answer(path, body, now_s)
            if path == "/v3/kv/range" and b64decode(body["key"]).startswith(b"shop/"):
                self.denials |= {pair.key for pair in found.get("kvs", ()) if pair.key.startswith(b"shop/deny/")}
            return status, found

        monkeypatch.setattr(cluster.etcd.state, "answer", noted)


def knows_all(node: Node, entries: list[Entry]) -> bool:
    view = node_of(node.manager).view
    return all(view.knows(entry) for entry in entries)


async def logged_without_the_last(cluster: EtcdCluster) -> list[Entry]:
    """Kill the last node; then there is a checkpoint, and something after it. Return all that there is to know."""
    a, b, c = cluster.nodes
    await cluster.kill(c)
    early = await logged(cluster, a, "early", MANY)
    await written(cluster)
    return early + await logged(cluster, b, "late", 5)


async def started_again(cluster: EtcdCluster, node: Node) -> None:
    await node.start()
    await cluster.ready()


async def test_a_new_node_reads_the_checkpoint_and_what_came_after_it_and_no_key_of_a_denial(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as cluster:
        c = cluster.nodes[-1]
        entries = await logged_without_the_last(cluster)
        reads = Reads(cluster, monkeypatch)
        await started_again(cluster, c)
        assert knows_all(c, entries)
        assert reads.denials == {log_of(c).follower.last.key} & reads.denials
        # The same log, by the digests that the nodes compare: no node loads it again.
        await cluster.advance(3)
        positions = {log_of(node).ordered.position: log_of(node).ordered.entries.digest.last for node in cluster.nodes}
        assert len({*positions.values()}) == 1
        assert not any(log_of(node).ordered.needs_load for node in cluster.nodes)


async def test_a_replaced_id_stays_one_that_was_replaced_for_a_node_that_reads_the_checkpoint() -> None:
    async with running() as cluster:
        a, _, c = cluster.nodes
        await cluster.kill(c)
        await logged(cluster, a, "early", MANY)
        await written(cluster)
        await started_again(cluster, c)
        assert node_of(c.manager).view.superseded == node_of(a.manager).view.superseded != {}


def without_a_segment(cluster: EtcdCluster) -> None:
    by_hand(cluster, delete(next(key for key in cluster.etcd.state.keys if key.startswith(SEGMENTS))))


def with_half_of_a_segment(cluster: EtcdCluster) -> None:
    key = next(key for key in cluster.etcd.state.keys if key.startswith(SEGMENTS))
    stored(cluster, key, core.encode_segment([*core.decode_segment(cluster.etcd.state.keys[key].value)][::2]))


def changed(**fields: Any) -> Callable[[EtcdCluster], None]:
    def change(cluster: EtcdCluster) -> None:
        stored(cluster, CHECKPOINT, encode_checkpoint(msgspec.structs.replace(checkpoint_in(cluster), **fields)))

    return change


def stored(cluster: EtcdCluster, key: bytes, value: bytes) -> None:
    by_hand(cluster, put(key, value))


def by_hand(cluster: EtcdCluster, change: Operation) -> None:
    """Change a key as an operator may."""
    body = msgspec.json.decode(encode({"compare": [], "success": [change], "failure": []}))
    cluster.etcd.state.answer("/v3/kv/txn", body, 0.0)


@pytest.mark.parametrize(
    "fault",
    [
        lambda cluster: cluster.etcd.state.compact(),
        lambda cluster: stored(cluster, CHECKPOINT, b"junk"),
        without_a_segment,
        with_half_of_a_segment,
        changed(log="another log"),
        changed(newest=b"of another history"),
        changed(position=10**9),
        changed(version=2),
    ],
    ids=["compacted", "junk", "lacking", "halved", "another log", "another history", "to come", "another release"],
)
async def test_a_node_that_cannot_use_the_checkpoint_reads_all_keys(
    fault: Callable[[EtcdCluster], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as cluster:
        a, _, c = cluster.nodes
        entries = await logged_without_the_last(cluster)
        fault(cluster)
        reads = Reads(cluster, monkeypatch)
        await started_again(cluster, c)
        assert knows_all(c, entries)
        assert len(reads.denials) >= MANY
        assert log_of(c).ordered.entries.digest.last == log_of(a).ordered.entries.digest.last


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # some minutes pass
async def test_the_next_checkpoint_adds_what_is_new_and_drops_what_has_ended() -> None:
    async with running() as cluster:
        a, b, c = cluster.nodes
        entries = await logged(cluster, a, "early", MANY)
        first = await written(cluster)
        entries += await logged(cluster, b, "late", 20)
        second = await written(cluster)
        assert {*first.segments} < {*second.segments}
        assert second.count == first.count + 22
        assert second.position > first.position
        await cluster.kill(c)
        await started_again(cluster, c)
        assert knows_all(c, entries)
        for node in (b, c):
            await cluster.stop(node)
        await cluster.wait_until(lambda: not checkpoint_in(cluster).segments, within_s=LIFE_MS / 1000 + 200)
        await cluster.advance(1)
        assert not any(key.startswith(SEGMENTS) for key in cluster.etcd.state.keys)


async def test_another_node_goes_on_with_the_checkpoint_when_its_writer_has_left() -> None:
    async with running() as cluster:
        a, b, c = cluster.nodes
        entries = await logged(cluster, a, "early", MANY)
        first = await written(cluster)
        await cluster.stop(a)
        entries += await logged(cluster, c, "late", 20)
        second = await written(cluster)
        assert {*first.segments} < {*second.segments}
        assert any(segment.name.startswith(log_of(b).ordered.slot.partition("/")[2]) for segment in second.segments)
        await started_again(cluster, a)
        assert knows_all(a, entries)


def writer_of(node: Node) -> CheckpointWriter:
    return log_of(node)._checkpoints()


async def test_of_two_writers_at_once_one_fails_and_its_segments_leave() -> None:
    async with running() as cluster:
        a, b, c = cluster.nodes
        entries = await logged(cluster, a, "early", MANY)
        mine, its = writer_of(a), writer_of(b)

        async def both() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(mine.write)
                tasks.start_soon(its.write)

        await cluster.run(both)
        await written(cluster)
        await cluster.kill(c)
        await started_again(cluster, c)
        assert knows_all(c, entries)
        names = {key.removeprefix(SEGMENTS).decode() for key in cluster.etcd.state.keys if key.startswith(SEGMENTS)}
        assert {segment.name for segment in checkpoint_in(cluster).segments} <= names


async def test_in_a_storm_of_log_outs_not_all_are_written_anew_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as cluster:
        a, _, c = cluster.nodes
        entries = await logged(cluster, a, "early", MANY)
        first = await written(cluster)
        monkeypatch.setattr(core, "MOST_UNCOVERED", 10)
        monkeypatch.setattr(checkpoints, "MOST_UNCOVERED", 10)
        entries += await logged(cluster, c, "late", 18)
        await cluster.advance(2 * LOOK_S)
        assert checkpoint_in(cluster) == first
        second = await written(cluster)
        assert not {*first.segments} & {*second.segments}
        await cluster.kill(c)
        await started_again(cluster, c)
        assert knows_all(c, entries)


async def test_an_etcd_without_space_gets_its_checkpoint_later() -> None:
    async with running() as cluster:
        a, _, c = cluster.nodes
        entries = await logged(cluster, a, "early", MANY)
        cluster.etcd.state.is_full = True
        with pytest.raises(EtcdError):
            await cluster.run(writer_of(a).write)
        await cluster.advance(2 * LOOK_S)
        assert CHECKPOINT not in cluster.etcd.state.keys
        cluster.etcd.state.is_full = False
        await written(cluster)
        await cluster.kill(c)
        await started_again(cluster, c)
        assert knows_all(c, entries)


async def test_a_short_log_has_no_checkpoint() -> None:
    async with running() as cluster:
        await logged(cluster, cluster.nodes[0], "few", MANY // 2)
        await cluster.advance(3 * LOOK_S)
        assert not any(key.startswith(b"shop.records/denials/") for key in cluster.etcd.state.keys)
