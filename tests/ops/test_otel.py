"""Metrics for OpenTelemetry: the same names, labels and values as for Prometheus, by the real SDK."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ha_session_mw.manager import node_of
from ha_session_mw.ops.exposition import NodeCollector
from ha_session_mw.otel import register
from ha_session_mw.testing import mint_session

from ..asgi.driver import Node

pytestmark = pytest.mark.anyio

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
PASSING = ("ha_session_freshness_age_seconds", "ha_session_signing_key_age_seconds")


def collected(reader: InMemoryMetricReader) -> Series:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        (metric.name, tuple(sorted((name, str(value)) for name, value in (point.attributes or {}).items()))): point.value  # type: ignore[union-attr]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def scraped(node: Node) -> Series:
    registry = CollectorRegistry()
    registry.register(NodeCollector(lambda: [node_of(node.manager)]))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


async def test_a_reader_gets_what_prometheus_gets() -> None:
    node, reader = Node(protect=("/private",)), InMemoryMetricReader()
    provider = MeterProvider([reader])
    register(provider, manager=node.manager)
    register(provider, manager=node.manager)  # changes nothing
    token = mint_session(node.manager, "ada")
    for _ in range(3):
        await node.request(path="/private", bearer=token)
    await node.request(path="/private")
    await node.manager.revoke_subject("ada")
    await node.request(path="/private", bearer=token)
    found, expected = collected(reader), scraped(node)
    assert {*found} == {*expected}
    assert {key for key in found if found[key] != expected[key] and key[0] not in PASSING} == set()
    assert found["ha_session_errors_total", (("code", "session_revoked"), ("turn", "client"))] == 1
    assert found["ha_session_accepts_after_revocation_total", ()] == 0
    assert found["ha_session_revocation_ack_seconds_count", (("mode", "fenced"),)] == 1
    provider.shutdown()


async def test_all_nodes_of_the_process_are_shown_also_later_ones() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    register(provider)
    node = Node()
    await node.manager.revoke_subject("ada")
    assert collected(reader)["ha_session_revocation_ack_seconds_count", (("mode", "fenced"),)] >= 1
    provider.shutdown()


def test_without_the_extra_the_error_names_it() -> None:
    script = "import sys; sys.modules['opentelemetry'] = None; import ha_session_mw.otel"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert "pip install 'ha-session-mw[otel]'" in ended.stderr
