"""A real Prometheus scrapes three nodes under load: its figures are those of the history, and every query of the dashboard runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from example_app.ports import reserve_port, url_of
from ha_session_mw.ops.figures import FIGURES
from ha_session_mw.testing import SECRET
from ha_session_mw.version import __version__

from ..cluster.test_real import FRESHNESS_LIMIT_S, ROOT, Served, served
from ..waiting import LIMIT_S, end, until
from .test_alerts import QUERIES

pytestmark = pytest.mark.real

APP = """
from ha_session_mw import SessionMiddleware
from ha_session_mw.testing import who_is_there

app = SessionMiddleware(who_is_there)
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    yield from served(tmp_path_factory.mktemp("scraped"), APP, {"METRICS": "on"})


class Prometheus:
    """A real one, on loopback."""

    def __init__(self, folder: Path, nodes: list[Served]) -> None:
        self.url = url_of(port := reserve_port())
        targets = [f"127.0.0.1:{node.port}" for node in nodes]
        scrape = {"job_name": "nodes", "metrics_path": "/-/session/metrics", "static_configs": [{"targets": targets}]}
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape]}
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        flags = [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        self._process = subprocess.Popen(["prometheus", f"--config.file={folder / 'prometheus.yml'}", *flags], cwd=folder)

    def is_ready(self) -> bool:
        try:
            return httpx2.get(self.url + "/-/ready", timeout=LIMIT_S, trust_env=False, verify=False).status_code == 200
        except httpx2.TransportError:
            return False

    def ask(self, query: str) -> list[Any]:
        answer = httpx2.get(self.url + "/api/v1/query", params={"query": query}, timeout=LIMIT_S, trust_env=False, verify=False)
        assert answer.status_code == 200, f"{query}: {answer.text}"
        found: list[Any] = answer.json()["data"]["result"]
        return found

    def value(self, query: str) -> float:
        try:
            found = self.ask(query)
        except httpx2.TransportError:
            return -1.0
        return float(found[0]["value"][1]) if found else -1.0

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(LIMIT_S)
        finally:
            self._process.kill()
            self._process.wait(LIMIT_S)


@pytest.fixture(scope="module")
def prometheus(nodes: list[Served], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    running = Prometheus(tmp_path_factory.mktemp("prometheus"), nodes)
    try:
        until(running.is_ready, "Prometheus is ready")
        yield running
    finally:
        running.end()


def test_under_load_its_figures_are_those_of_the_history(nodes: list[Served], prometheus: Prometheus) -> None:
    a, b, c = nodes
    tokens = [a.log_in(f"user-{number}") for number in range(6)]
    with ThreadPoolExecutor(6) as users:
        seen = list(users.map(lambda number: nodes[number % 3].status(tokens[number % 6]), range(216)))
    fenced = [node.request("POST", "/logout", token).headers["session-revocation"] for node, token in zip((a, b, c), tokens, strict=False)]
    refused = [node.status(token) for token in tokens[:3] for node in nodes]
    missing = [node.request("GET", "/private").status_code for node in nodes]
    assert (seen, fenced, refused, missing) == ([200] * 216, ["fenced"] * 3, [401] * 9, [401] * 3)

    entries = 2 * len(fenced)  # besides its denial, each log-out leaves a note for requests that are under way
    expected = {
        "sum(up)": 3,
        f'count(ha_session_build_info{{version="{__version__}",cluster="peers"}})': 3,
        'sum(ha_session_validations_total{result="accepted"})': len(seen) + len(fenced),
        'sum(ha_session_validations_total{result="refused"})': len(refused),
        'sum(ha_session_errors_total{code="session_revoked"})': len(refused),
        'sum(ha_session_errors_total{code="token_missing"})': len(missing),
        'sum(ha_session_errors_total{turn!="client"})': 0,
        'sum(ha_session_revocation_ack_seconds_count{mode="fenced"})': len(fenced),
        "sum(ha_session_sync_lag_seconds_count)": 2 * entries,
        'min(ha_session_revocation_entries{kind="session"})': len(fenced),
        'max(ha_session_revocation_entries{kind="session"})': len(fenced),
        "sum(ha_session_revocations_pending)": 0,
        'min(ha_session_members{state="ready"})': 3,
        "max(ha_session_quorum_size)": 2,
        "min(ha_session_quorum_available)": 1,
        "min(ha_session_ready)": 1,
        "sum(ha_session_cache_requests_total)": len(seen) + len(fenced) + len(refused),
        "max(ha_session_applied_position) - min(ha_session_applied_position)": 0,
        "min(ha_session_applied_position)": entries,
        "min(ha_session_freshness_limit_seconds)": FRESHNESS_LIMIT_S,
        "sum(ha_session_peer_requests_total)": 0,
        "sum(ha_session_peer_request_duration_seconds_count)": 0,
        "sum(ha_session_forwards_total)": 0,
        "sum(ha_session_lock_wait_seconds_count)": 0,
        "sum(ha_session_divergences_total)": 0,
        "sum(ha_session_task_restarts_total)": 0,
        # Of validations by cache and by signature, one in 64 is measured.
        'sum(ha_session_validation_duration_seconds_count{path=~"peer|forward"})': 0,
        "sum(ha_session_accepts_after_revocation_total)": 0,
        "sum(ha_session_logouts_by_infrastructure_total)": 0,
    }
    for query, value in expected.items():
        until(lambda query=query, value=value: prometheus.value(query) == value, f"{query} is {value}, not {prometheus.value(query)}")  # type: ignore[misc]
    within = {
        "sum(ha_session_sync_lag_seconds_sum)": (0, 2 * entries * LIMIT_S),
        "max(ha_session_freshness_age_seconds)": (0, FRESHNESS_LIMIT_S),
        "max(abs(ha_session_clock_skew_seconds))": (0, 0.5),  # one machine has one clock
        "max(ha_session_signing_key_age_seconds)": (0, time.monotonic()),
        "sum(ha_session_validation_duration_seconds_count)": (0, len(seen) / 32),
    }
    for query, (least, most) in within.items():
        until(
            lambda query=query, least=least, most=most: least <= prometheus.value(query) <= most,  # type: ignore[misc]
            f"{query} lies between {least} and {most}, and is {prometheus.value(query)}",
        )
    compared = " ".join([*expected, *within])
    assert [figure.name for figure in FIGURES if figure.name not in compared] == []
    assert prometheus.value("count({__name__=~'ha_session_.*'})") < 3 * 1500


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_of_the_rules_and_of_the_dashboard_runs(query: str, prometheus: Prometheus) -> None:
    until(lambda: prometheus.value("sum(up)") == 3, "scraped")
    prometheus.ask(query)


def test_several_workers_on_one_port_show_the_whole_node(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(APP)
    shared = tmp_path / "shared"
    shared.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener, httpx2.Client(trust_env=False, verify=False, timeout=LIMIT_S) as client:
        url = url_of(listener.getsockname()[1])
        outside = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
        ours = {"SECRET_KEY": SECRET, "CLUSTER": f"sqlite:///{tmp_path}/log.db", "METRICS": "on"}
        environ = {
            **outside,
            **{f"HA_SESSION_{name}": value for name, value in ours.items()},
            "PROMETHEUS_MULTIPROC_DIR": str(shared),
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        }
        handle = listener.fileno()
        command = [sys.executable, "-m", "uvicorn", "served:app", "--fd", str(handle), "--workers", "2", "--log-level", "warning"]
        process = subprocess.Popen(command, env=environ, pass_fds=[handle], start_new_session=True, cwd=tmp_path)

        def ask(path: str, **fields: str) -> httpx2.Response:
            return client.get(url + path, headers={"connection": "close", **fields})

        def figure(name: str) -> float:
            lines = ask("/-/session/metrics").text.splitlines()
            return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")), -1.0)

        try:
            until(lambda: ask("/-/session/readyz").status_code == 200, "ready")
            token = client.post(url + "/login/ada", headers={"connection": "close"}).cookies["session"]
            answers = [ask("/", authorization=f"Bearer {token}").json()["subject"] for _ in range(40)]
            assert answers == ["ada"] * 40
            until(lambda: figure('ha_session_validations_total{result="accepted"}') == 40, "both workers are counted")
            assert len({file.stem.rpartition("_")[2] for file in shared.glob("counter_*.db")}) == 2
            assert figure("ha_session_ready") == 1
            assert figure("ha_session_accepts_after_revocation_total") == 0
        finally:
            end(process, LIMIT_S, with_group=True)
