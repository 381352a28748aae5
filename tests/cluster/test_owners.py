"""The owner of a session, as each node of a cluster finds it."""

from __future__ import annotations

from collections import Counter

import pytest

from ha_session_mw import NotSupported, Session, SessionManager, Settings, UsageError
from ha_session_mw.testing import SECRET, Cluster, Node

from .visits import logged_in

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

IDS = [f"session-{number:014}" for number in range(600)]


def owners(node: Node) -> dict[str, str | None]:
    return {id: node.manager.owner_of(id) for id in IDS}


async def test_all_nodes_name_the_same_owner_and_each_owns_its_share(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    await cluster.advance(1)
    found = owners(a)

    assert owners(b) == owners(c) == found
    assert set(found.values()) == {"a", "b", "c"}
    assert max(Counter(found.values()).values()) < 260  # five deviations above a third


async def test_a_member_that_becomes_ready_owns_its_share_soon(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    await b.stop()
    await cluster.wait_until(lambda: "b" not in owners(a).values(), within_s=10)
    await b.start()
    await cluster.wait_until(lambda: bool(owners(a) and owners(c)) and b.why_not_ready is None)
    await cluster.advance(0.1)
    assert owners(a) == owners(b) == owners(c)


async def test_a_member_that_dies_or_leaves_moves_its_sessions_and_no_others(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    await cluster.advance(1)
    before = owners(a)

    await b.stop()
    await cluster.wait_until(lambda: "b" not in owners(a).values(), within_s=10)
    without = owners(a)
    await b.start()
    await cluster.ready()
    await cluster.wait_until(lambda: owners(a) == before == owners(c), within_s=10)

    assert {id for id in IDS if without[id] != before[id]} == {id for id in IDS if before[id] == "b"}
    assert owners(b) == before


async def test_a_node_that_drains_owns_nothing_on_any_node(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    await cluster.advance(1)
    before = owners(a)

    await cluster.run(b.manager.drain)
    await cluster.wait_until(lambda: "b" not in {*owners(a).values(), *owners(b).values(), *owners(c).values()}, within_s=3)

    assert owners(b) == owners(a) == owners(c)
    assert {id for id in IDS if owners(a)[id] != before[id]} == {id for id in IDS if before[id] == "b"}


async def test_a_heavier_node_owns_more() -> None:
    cluster = Cluster()
    cluster["c"].settings["weight"] = 8
    async with cluster:
        await cluster.ready()
        await cluster.advance(1)
        found = owners(cluster["a"])

        assert owners(cluster["c"]) == found
        assert 0.7 < Counter(found.values())["c"] / len(IDS) < 0.9


async def test_the_owner_of_a_session_is_that_of_its_id(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    browser = await logged_in(cluster, a)

    def owner(session: Session) -> tuple[str | None, str | None]:
        return session.id, session.manager.owner_of(session)

    id, found = (await browser.visit(b, owner)).result

    assert found == a.manager.owner_of(id)
    assert found in ("a", "b", "c")


async def test_a_visitor_without_a_session_has_no_owner(cluster: Cluster) -> None:
    assert cluster["a"].manager.owner_of(Session()) is None


@pytest.mark.parametrize("id", ["", "x" * 513, "\ud800", 7.5])
async def test_what_is_no_id_has_no_owner_either(cluster: Cluster, id: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        cluster["a"].manager.owner_of(id)  # type: ignore[arg-type]


async def test_a_node_alone_owns_every_session() -> None:
    manager = SessionManager(Settings(secret_key=SECRET, node_id="me"))

    assert {manager.owner_of(id) for id in IDS[:20]} == {"me"}


async def test_nodes_that_do_not_know_each_other_name_no_owner(tmp_path: object) -> None:
    manager = SessionManager(Settings(secret_key=SECRET, cluster=f"sqlite://{tmp_path}/entries"))

    with pytest.raises(NotSupported, match="do not know each other"):
        manager.owner_of(IDS[0])


async def test_a_node_that_nothing_runs_says_so() -> None:
    settings = Settings(secret_key=SECRET, cluster="peers://", peers="http://a,http://b,http://c", advertise_url="http://a")

    with pytest.raises(UsageError, match="nothing runs"):
        SessionManager(settings).owner_of(IDS[0])
