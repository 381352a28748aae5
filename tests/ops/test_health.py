"""The health of a node: each check with its value, its limit and the remedy."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ha_session_mw.manager import node_of
from ha_session_mw.ops.health import health_of
from ha_session_mw.testing import Cluster, mint_session

from ..asgi.driver import Node
from ..backends.etcd.fake_cluster import EtcdCluster

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


def checks(inside: Any) -> dict[str, Any]:
    _, body = health_of(inside)
    found: Any = body["checks"]
    return {name: listed[0] for name, listed in found.items()}


async def test_a_node_that_is_well_passes_each_check_with_its_value() -> None:
    answer = await Node().request(path="/-/session/health")
    assert answer.status == 200
    assert answer.header("content-type") == "application/health+json"
    body = json.loads(answer.body)
    assert body["status"] == "pass"
    assert all("observedValue" in check and check["status"] == "pass" for (check,) in body["checks"].values())


async def test_a_node_out_of_contact_fails_and_says_what_to_do() -> None:
    async with Cluster() as cluster:
        await cluster.ready()
        one, other, third = cluster.nodes
        cluster.cut(one, other, third)
        await cluster.advance(8)
        inside = node_of(one.manager)
        status, _ = health_of(inside)
        found = checks(inside)
        assert status == "fail"
        assert (found["freshness"]["status"], found["freshness"]["limit"]) == ("fail", 5.0)
        assert found["freshness"]["remedy"]
        assert (found["quorum"]["status"], found["quorum"]["limit"]) == ("warn", 2)


@pytest.mark.parametrize(("ahead_s", "status"), [(0.5, "pass"), (3.0, "warn"), (40.0, "fail")])
async def test_a_clock_is_compared_with_each_member_s(ahead_s: float, status: str) -> None:
    async with Cluster() as cluster:
        await cluster.ready()
        one = cluster.nodes[0]
        one.clock.step_wall(ahead_s)
        await cluster.advance(2)
        found = checks(node_of(one.manager))
        assert [found[f"clock_skew:{place}"]["status"] for place in (2, 3)] == [status, status]
        assert found["clock_skew:farthest"]["observedValue"] == pytest.approx(ahead_s, abs=0.2)
        assert found["clock"]["status"] == ("fail" if status == "fail" else "pass")


@pytest.mark.parametrize(("ahead_s", "status"), [(0.5, "pass"), (4.0, "warn"), (40.0, "fail")])
async def test_a_clock_is_compared_with_etcd_s(ahead_s: float, status: str) -> None:
    async with EtcdCluster() as cluster:
        await cluster.ready()
        cluster.etcd.ahead_s = ahead_s
        await cluster.advance(10)
        found = checks(node_of(cluster.nodes[0].manager))
        assert found["clock_skew:engine"]["status"] == status
        assert found["clock_skew:engine"]["observedValue"] == pytest.approx(-ahead_s, abs=1.1)
        assert found["clock"]["status"] == "pass"  # three members agree


async def test_a_node_alone_whose_clock_differs_from_etcd_s_by_30_s_validates_nothing_and_says_so() -> None:
    async with EtcdCluster(["a"]) as cluster:
        await cluster.ready()
        [one] = cluster.nodes
        token = mint_session(one.manager, "ada")
        cluster.etcd.ahead_s = -40
        await cluster.advance(10)
        answer = await one.get("/", token=token)
        assert (answer.status_code, answer.json()["code"]) == (503, "clock_untrusted")
        assert (one.why_not_ready or "").startswith("its clock differs from etcd's by more than 30 s")
        cluster.etcd.ahead_s = 0
        await cluster.advance(10)
        assert (await one.get("/", token=token)).status_code == 200


async def test_probes_metrics_and_status_wait_for_nothing_while_the_others_are_frozen() -> None:
    async with Cluster(metrics="on") as cluster:
        await cluster.ready()
        one, *others = cluster.nodes
        for other in others:
            other.freeze()
        await cluster.advance(20)
        for path in ("livez", "readyz", "startupz", "health", "metrics"):
            passed_s = cluster.passed_s
            answer = await one.get(f"/-/session/{path}")
            assert answer.status_code in (200, 503)
            assert cluster.passed_s == passed_s
        assert (await cluster.run(one.manager.status))["ready"] is False
        assert cluster.passed_s == passed_s
        for other in others:
            other.thaw()
