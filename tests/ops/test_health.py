"""The health of a node: each check with its value, its limit and the remedy."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ha_session_mw.manager import node_of
from ha_session_mw.ops.health import health_of
from ha_session_mw.testing import Cluster

from ..asgi.driver import Node

pytestmark = pytest.mark.anyio


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


async def test_probes_and_metrics_wait_for_nothing_while_the_others_are_frozen() -> None:
    async with Cluster(metrics="on") as cluster:
        await cluster.ready()
        one, *others = cluster.nodes
        for other in others:
            other.freeze()
        await cluster.advance(20)
        for path in ("livez", "readyz", "startupz", "health", "metrics"):
            passed_s, begun_s = cluster.passed_s, time.perf_counter()
            answer = await one.get(f"/-/session/{path}")
            assert answer.status_code in (200, 503)
            assert cluster.passed_s == passed_s
            assert time.perf_counter() - begun_s < 2  # it computes; how busy the machine is is no matter
        for other in others:
            other.thaw()
