"""Records and peers: a node that lacks one asks the node that made the token, then the others, and only then the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import anyio
import msgspec
import pytest

from ha_session_mw import Session, StoreUnavailable
from ha_session_mw.abc import Clock, LockService, OnGap, OnNewer, Record, SessionStore
from ha_session_mw.backends.memory.store import MemoryRecords, MemoryStore
from ha_session_mw.backends.peers.backend import PeersBackend
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny
from ha_session_mw.testing import ManualClock

from ..asgi.driver import call, scope_of
from ..inside import peering_of, records_of
from .visits import Browser, Cluster, Node, log_out, logged_in, look, obliging, refused_for_infrastructure, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

LARGE = "x" * 5000


class Counted(MemoryStore):
    """Counts its reads."""

    reads: Counter[str] = Counter()
    gone = False

    async def get(self, id: str) -> Record | None:
        Counted.reads["all"] += 1
        if Counted.gone:
            raise StoreUnavailable("as told")
        return await super().get(id)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Three nodes that judge sessions, and share a store besides."""
    records = MemoryRecords(ManualClock())
    Counted.reads, Counted.gone = Counter(), False

    class WithRecords(PeersBackend):
        def open_store(self, kind: str, clock: Clock, locks: LockService | None, *, on_newer: OnNewer, on_gap: OnGap) -> SessionStore:
            return Counted(records, on_newer=on_newer)

    async with Cluster(app=obliging, protect="/private*", backend=WithRecords) as cluster:
        await cluster.ready()
        yield cluster


async def with_large_data(cluster: Cluster, node: Node) -> Browser:
    def log_in(session: Session) -> None:
        session.login("ada")
        session["text"] = LARGE

    browser = Browser(cluster)
    await browser.visit(node, log_in)
    return browser


def copies(node: Node) -> int:
    return len(node_of(node.manager).copies)


def stored(node: Node) -> list[Record]:
    store = records_of(node.manager)._store
    assert isinstance(store, MemoryStore)
    return [*store._records._records.values()]


def forget(*nodes: Node) -> None:
    for node in nodes:
        node_of(node.manager).copies.forget_all()


async def test_a_node_that_lacks_a_record_is_given_it_by_the_one_that_made_the_token(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    browser = await with_large_data(cluster, a)

    assert [(await browser.visit(node, look)).result for node in (b, c, b)] == [{"text": LARGE}] * 3
    assert Counted.reads["all"] == 0
    assert copies(b) == copies(c) == 1


async def test_without_the_peers_the_store_is_asked(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    browser = await with_large_data(cluster, a)
    cluster.cut(a, b)
    begun_s = cluster.passed_s

    assert (await browser.visit(b, look)).result == {"text": LARGE}
    assert Counted.reads["all"] == 1
    assert cluster.passed_s - begun_s <= 0.251


async def test_without_the_store_the_peers_are_enough_to_read(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    browser = await with_large_data(cluster, a)
    Counted.gone = True

    assert (await browser.visit(b, look)).result == {"text": LARGE}
    forget(a, b)
    assert refused_for_infrastructure(await browser.visit(b, look), "store_unavailable", "any")
    assert (await browser.visit(b, who)).result == "ada"


async def test_a_peers_older_copy_does_not_count(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    browser = await with_large_data(cluster, a)
    older = Browser(cluster, browser.token)
    await browser.visit(b, lambda session: session.update(step=2))
    forget(b, c)
    # The copy of a is the one that b replaced. Here a has not received the news of that.
    await older.visit(a, look)
    copies = node_of(a.manager).copies
    [family] = copies
    copy = copies.get(family)
    assert copy is not None
    copies.forget_all()
    copies.keep_written(family, type(copy)(copy.version - 1, older_data(copy.data), copy.origin), copies.mark())
    Counted.reads.clear()

    assert (await browser.visit(c, look)).result == {"text": LARGE, "step": 2}
    assert Counted.reads["all"] == 1


def older_data(data: bytes) -> bytes:
    content = msgspec.msgpack.decode(data)
    content.pop("step")
    return msgspec.msgpack.encode(content)


async def test_a_peer_that_tells_garbage_costs_a_look_into_the_store(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    browser = await with_large_data(cluster, a)

    async def garbage(_: bytes) -> bytes:
        return b"\x94\x01\xa3yes\xcf\x7f\xff\xff\xff\xff\xff\xff\xff\xc4\x03abc"  # signed, of a high version, and no record

    peering_of(a.manager).handle("record", garbage)
    assert (await browser.visit(b, look)).result == {"text": LARGE}
    assert Counted.reads["all"] == 1


async def test_a_question_that_is_none_gets_no_answer(cluster: Cluster) -> None:
    a, *_ = cluster.nodes
    records = node_of(a.manager).records
    assert records is not None
    for body in (b"", b"garbage", b"\x93\x01\xa1x", b"\x91" * 100_000):
        with pytest.raises(ValueError):  # noqa: PT011 - any
            await records.peer_copies.on_question(body)


async def test_many_requests_for_one_record_ask_once(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    browser = await with_large_data(cluster, a)
    cluster.cut(a, b)
    results = []

    async def visit() -> None:
        async def one() -> None:
            assert browser.token
            headers = [(b"cookie", b"session=" + browser.token.encode())]
            scope = scope_of("http", headers=headers, act=look, status=200, answer_headers=[])
            await call(b.middleware, scope)
            results.append(scope["result"])

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one)

    await cluster.run(visit)
    assert results == [{"text": LARGE}] * 20
    assert Counted.reads["all"] <= 2


async def test_a_client_with_an_answer_sees_the_change_of_one_node_on_all(cluster: Cluster) -> None:
    browser = await with_large_data(cluster, cluster["a"])
    for number, node in enumerate([*cluster.nodes] * 3):
        await browser.visit(node, lambda session, number=number: session.update(number=number))  # type: ignore[misc]
        assert [(await browser.visit(other, look)).result["number"] for other in cluster.nodes] == [number] * 3


async def test_a_log_out_on_one_node_deletes_the_record_and_the_copies_on_all(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    browser = await with_large_data(cluster, a)
    captured = Browser(cluster, browser.token)
    for node in (b, c):
        await browser.visit(node, look)
    await browser.visit(b, log_out)
    await cluster.settle()

    assert [copies(node) for node in cluster.nodes] == [0, 0, 0]
    assert [(await captured.visit(node, why)).result for node in cluster.nodes] == ["session_revoked"] * 3


async def test_a_write_on_a_node_that_has_not_heard_of_the_log_out_leaves_no_record_once_it_has(cluster: Cluster) -> None:
    a, _, c = cluster.nodes
    browser = await logged_in(cluster, a)
    other = Browser(cluster, browser.token)
    cluster.cut(c)

    verified = node_of(a.manager).validator.verify((browser.token or "").encode())
    assert verified is not None
    node_of(a.manager).log.apply([Deny(verified.claims.family, verified.claims.absolute_end_ms)])
    await cluster.settle()  # a has deleted all records so far, which is none
    assert (await other.visit(c, lambda session: session.update(text=LARGE))).status == 200  # not acknowledged yet on a
    assert len(stored(a)) == 1
    cluster.heal(c)
    await cluster.advance(3)

    assert stored(a) == []
    assert [(await other.visit(node, why)).result for node in cluster.nodes] == ["session_revoked"] * 3


async def test_a_replayed_token_of_an_earlier_version_shows_the_current_data(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    browser = await with_large_data(cluster, a)
    captured = Browser(cluster, browser.token)
    await browser.visit(b, lambda session: session.update(step=2))
    await cluster.settle()
    assert [(await captured.visit(node, look)).result["step"] for node in (c, a, b)] == [2, 2, 2]
