"""What was lost, and from what it is rebuilt: a test for each row of ``docs/explanation/recovery.md``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from ha_session_mw import Session
from ha_session_mw.abc import Clock, LockService, OnGap, OnNewer, SessionStore
from ha_session_mw.backends.memory.store import MemoryRecords, MemoryStore
from ha_session_mw.backends.peers.backend import PeersBackend
from ha_session_mw.events import ClusterEvent, RecoveredFrom, SessionDataLost, SessionRecovered
from ha_session_mw.manager import node_of
from ha_session_mw.testing import ManualClock

from .test_keys import NEW, restart, signed
from .visits import Browser, Cluster, Node, logged_in, look, obliging, who

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

LARGE = "x" * 5000


@pytest.fixture
def records() -> MemoryRecords:
    return MemoryRecords(ManualClock())


@pytest.fixture
async def cluster(records: MemoryRecords) -> AsyncIterator[Cluster]:
    """Three nodes that share a store."""

    class WithRecords(PeersBackend):
        def open_store(self, kind: str, clock: Clock, locks: LockService | None, *, on_newer: OnNewer, on_gap: OnGap) -> SessionStore:
            return MemoryStore(records, on_newer=on_newer)

    async with Cluster(app=obliging, backend=WithRecords) as cluster:
        await cluster.ready()
        yield cluster


@contextmanager
def told(node: Node) -> Iterator[list[ClusterEvent]]:
    """The events of a node about recovered sessions, once the block has ended."""
    found: list[ClusterEvent] = []
    with node.manager.events() as stream:
        yield found
        found += [event for event in stream._events if isinstance(event, SessionRecovered | SessionDataLost)]


def sources(events: list[ClusterEvent]) -> list[RecoveredFrom | None]:
    """Return the source of each recovery; None for a loss."""
    return [event.source if isinstance(event, SessionRecovered) else None for event in events]


async def with_large_data(cluster: Cluster, node: Node) -> Browser:
    browser = Browser(cluster)

    def log_in(session: Session) -> None:
        session.login("ada")
        session["text"] = LARGE

    await browser.visit(node, log_in)
    return browser


def forget_copies(*nodes: Node) -> None:
    for node in nodes:
        node_of(node.manager).copies.forget_all()


async def test_the_memory_of_a_node_that_restarts_is_rebuilt_from_tokens(cluster: Cluster) -> None:
    a, *_ = cluster.nodes
    browser = await logged_in(cluster, a)
    await cluster.advance(2)
    await a.kill()
    await a.start()
    await cluster.ready()

    with told(a) as events:
        assert [(await browser.visit(a)).result for _ in range(2)] == ["ada", "ada"]
    assert sources(events) == ["token"]
    assert (await a.manager.status())["sessions_recovered"]["token"] == 1  # type: ignore[index]


async def test_a_view_that_was_cleared_is_made_up_for_by_a_peer(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    browser = await logged_in(cluster, a)
    await browser.visit(b)
    with told(b) as events:
        node_of(b.manager).view.start_anew()
        assert (await browser.visit(b)).result == "ada"
    assert sources(events) in (["peer"], ["log"])  # whichever comes first


async def test_a_log_out_everywhere_that_has_yet_to_arrive_is_waited_for(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    b.freeze()
    await cluster.run(a.manager.revoke_subject, "ada")
    browser = await logged_in(cluster, a)  # its token lists the log-out that b has not heard of
    b.thaw()
    with told(b) as events:
        assert (await browser.visit(b)).result == "ada"
    assert sources(events) in (["log"], ["peer"])


async def test_a_key_that_this_node_lacks_is_made_up_for_by_a_peer(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await restart(cluster, a, secret_key_fallbacks=NEW)  # as where the others were parted from it when the key came
    token, _claims = signed(a, NEW)
    with told(b) as events:
        assert (await Browser(cluster, token).visit(b)).result == "ada"
    assert sources(events) == ["peer"]


async def test_a_copy_that_is_gone_is_replaced_by_a_peers_copy(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    browser = await with_large_data(cluster, a)
    await browser.visit(b, look)
    forget_copies(b)
    with told(b) as events:
        assert (await browser.visit(b, look)).result == {"text": LARGE}
    assert sources(events) == ["copy"]


async def test_a_copy_that_is_gone_everywhere_is_replaced_by_the_record(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    browser = await with_large_data(cluster, a)
    await browser.visit(b, look)
    forget_copies(a, b, c)
    with told(b) as events:
        assert (await browser.visit(b, look)).result == {"text": LARGE}
    assert sources(events) == ["store"]


async def test_a_record_that_is_gone_is_read_from_a_peers_copy_and_written_again(cluster: Cluster, records: MemoryRecords) -> None:
    a, b, _ = cluster.nodes
    browser = await with_large_data(cluster, a)
    records._records.clear()
    forget_copies(b)
    with told(b) as events:
        await browser.visit(b, lambda session: session.update(a=1))
    assert sources(events) == ["copy", "request"]
    forget_copies(*cluster.nodes)
    assert (await browser.visit(b, look)).result == {"text": LARGE, "a": 1}


async def test_a_record_that_is_gone_is_read_from_the_token_that_has_a_copy(cluster: Cluster, records: MemoryRecords) -> None:
    a, b, _ = cluster.nodes
    browser = await with_large_data(cluster, a)
    await browser.visit(a, lambda session: session.update(text="short"))
    records._records.clear()
    forget_copies(*cluster.nodes)
    with told(b) as events:
        await browser.visit(b, lambda session: session.update(a=1))
    assert sources(events) == ["request"]
    forget_copies(*cluster.nodes)
    assert (await browser.visit(b, look)).result == {"text": "short", "a": 1}


async def test_data_that_is_gone_everywhere_is_lost_and_that_is_told_once(cluster: Cluster, records: MemoryRecords) -> None:
    a, b, c = cluster.nodes
    browser = await with_large_data(cluster, a)
    records._records.clear()
    forget_copies(a, b, c)
    with told(b) as events, told(c) as events_of_c:
        answers = [await browser.visit(node, look) for node in (b, c, b)]
    assert [answer.result for answer in answers] == [{}, {}, {}]
    assert [answer.header("session-data-lost") for answer in answers] == ["?1", None, None]
    assert sources(events) == [None]
    assert sources(events_of_c) == []
    assert (await browser.visit(c, who)).result == "ada"
