"""Metrics: what they count, which series exist, and that nothing hostile reaches one."""

from __future__ import annotations

import gc
import json
import logging
import math
import re
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, cast

import anyio
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from ha_session_mw import SessionManager, Settings
from ha_session_mw.exceptions import SessionRevoked, StoreUnavailable, TokenInvalid, problem_types
from ha_session_mw.manager import node_of
from ha_session_mw.metrics import register
from ha_session_mw.ops import exposition
from ha_session_mw.ops.exposition import NodeCollector, expose
from ha_session_mw.ops.figures import FIGURES
from ha_session_mw.ops.rendering import _number, _series, rendered
from ha_session_mw.testing import Cluster, mint_session

from ..asgi.driver import SECRET, Node
from ..waiting import LIMIT_S

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
DESIGNED = (
    "ha_session_validations_total",
    "ha_session_errors_total",
    "ha_session_validation_duration_seconds",
    "ha_session_freshness_age_seconds",
    "ha_session_freshness_limit_seconds",
    "ha_session_sync_lag_seconds",
    "ha_session_applied_position",
    "ha_session_revocation_ack_seconds",
    "ha_session_revocation_entries",
    "ha_session_revocations_pending",
    "ha_session_cache_requests_total",
    "ha_session_peer_requests_total",
    "ha_session_peer_request_duration_seconds",
    "ha_session_members",
    "ha_session_quorum_size",
    "ha_session_clock_skew_seconds",
    "ha_session_forwards_total",
    "ha_session_lock_wait_seconds",
    "ha_session_accepts_after_revocation_total",
    "ha_session_logouts_by_infrastructure_total",
    "ha_session_build_info",
)


def series_of(*managers: SessionManager) -> Series:
    registry = CollectorRegistry()
    registry.register(NodeCollector(lambda: [node_of(manager) for manager in managers]))
    return parsed(generate_latest(registry).decode())


def parsed(text: str) -> Series:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    return series[name, tuple(sorted(labels.items()))]


def test_each_designed_name_is_a_figure() -> None:
    assert {*DESIGNED} <= {figure.name for figure in FIGURES}


def test_counters_exist_as_0_from_the_start_with_all_labels_and_there_are_few_series() -> None:
    series = series_of(Node().manager)
    for code, kind in problem_types().items():
        assert value(series, "ha_session_errors_total", code=code, turn=kind.turn) == 0
    assert value(series, "ha_session_accepts_after_revocation_total") == 0
    assert value(series, "ha_session_logouts_by_infrastructure_total") == 0
    assert value(series, "ha_session_forwards_total", result="redirected") == 0
    assert len(series) < 750


async def test_requests_are_counted_as_they_went() -> None:
    node = Node(protect=("/account",))
    visitor = await node.logged_in()
    for _ in range(5):
        await visitor.visit()
    await node.request(path="/account")
    await node.request(path="/account", token="nonsense")
    await node.request(token="nonsense")
    series = series_of(node.manager)
    assert value(series, "ha_session_validations_total", result="accepted") == 5
    assert value(series, "ha_session_validations_total", result="refused") == 2
    assert value(series, "ha_session_cache_requests_total", result="hit") == 4
    assert value(series, "ha_session_cache_requests_total", result="miss") == 3
    assert value(series, "ha_session_errors_total", code="token_missing", turn="client") == 1
    assert value(series, "ha_session_errors_total", code="token_malformed", turn="client") == 2


async def test_log_outs_are_counted_with_the_time_that_they_took() -> None:
    node = Node()
    visitor = await node.logged_in()
    await visitor.visit(lambda session: session.clear())
    series = series_of(node.manager)
    assert value(series, "ha_session_revocation_ack_seconds_count", mode="fenced") == 1
    assert value(series, "ha_session_revocation_ack_seconds_count", mode="failed") == 0
    assert value(series, "ha_session_revocation_entries", kind="session") == 1
    assert value(series, "ha_session_revocations_pending") == 0


async def test_one_request_in_64_is_timed() -> None:
    node = Node(metrics="on")
    visitor = await node.logged_in()
    for _ in range(1 + 64 * 3):
        await visitor.visit()
    series = series_of(node.manager)
    assert value(series, "ha_session_validation_duration_seconds_count", path="cached") == 3
    assert value(series, "ha_session_validation_duration_seconds_count", path="verify") == 1


async def test_no_hostile_text_reaches_a_series() -> None:
    node = Node()
    for hostile in ('x"} 1\nevil{', "hs1.a.b.c.d\x1b[31m", "é" * 9):
        await node.request(token=hostile, path="/" + hostile)
    text = generate_latest(_registry_of(node.manager)).decode()
    assert "evil" not in text
    assert all(re.fullmatch(r"[ -~]*", line) for line in text.splitlines())


def _registry_of(manager: SessionManager) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(NodeCollector(lambda: [node_of(manager)]))
    return registry


async def test_the_page_is_served_only_where_it_is_switched_on() -> None:
    off, on = Node(), Node(metrics="on")
    assert (await off.request(path="/-/session/metrics")).status == 404
    answer = await on.request(path="/-/session/metrics")
    assert answer.status == 200
    assert value(parsed(answer.body.decode()), "ha_session_ready") == 1
    assert (await on.request(path="/-/session/metrics", headers=[(b"accept", b"application/openmetrics-text")])).body.endswith(b"# EOF\n")


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"])
async def test_the_page_is_what_prometheus_client_would_write(accept: str) -> None:
    node = Node(metrics="on")
    user = await node.logged_in()
    for _ in range(3):
        await node.request(token=user.token)
    node_of(node.manager).errors.counts["token_invalid"] = 12_345_678
    encode, media = choose_encoder(accept)
    assert await expose(node_of(node.manager), accept) == (media, encode(_registry_of(node.manager)))


async def test_a_scrape_is_a_short_step_for_which_no_request_waits_long() -> None:
    node = node_of(Node(metrics="on").manager)
    _, page = await expose(node, "application/openmetrics-text")
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event == "call"

    gc.disable()  # other tests have left garbage that runs code when it is collected
    sys.setprofile(count)
    try:
        rendered(node, as_open_metrics=True)
    finally:
        sys.setprofile(None)
        gc.enable()
    assert calls < 3 * page.count(b"\n")  # prometheus_client makes 40 for each line


async def test_the_files_of_several_workers_are_read_while_requests_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = threading.Event()

    def slowly(encode: object) -> bytes:
        assert read.wait(LIMIT_S)
        return b"of all workers"

    async def serve_a_request() -> None:
        read.set()

    monkeypatch.setenv(exposition.FOLDER, str(tmp_path))
    monkeypatch.setattr(exposition, "_of_all_workers", slowly)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_a_request)
        assert (await expose(node_of(Node(metrics="on").manager), ""))[1] == b"of all workers"


def test_values_and_labels_are_written_as_prometheus_client_writes_them() -> None:
    numbers = (
        0.0,
        1.0,
        -1.0,
        999_999.0,
        1_000_000.0,
        1_234_567.0,
        0.25,
        1e-9,
        12e20,
        math.inf,
        -math.inf,
        math.nan,
        7,
        999_999,
        10**6,
        10**12,
        -3,
    )
    assert [_number(number) for number in numbers] == [*map(cast(Any, floatToGoString), numbers)]
    assert _series("one", ("b", "a"), ('say "no"', "c:\\temp\n")) == r'one{a="c:\\temp\n",b="say \"no\""}'


def test_a_registry_shows_the_nodes_of_the_process_once_however_often_it_is_registered() -> None:
    registry = CollectorRegistry()
    register(registry)
    register(registry)
    manager = SessionManager(Settings(secret_key=SECRET))
    text = generate_latest(registry).decode()
    assert text.count("# TYPE ha_session_members gauge") == 1
    assert node_of(manager).validator.on_sample is not None


# The counters that stay 0.


@pytest.mark.parametrize("late", [True, False])
async def test_another_node_is_asked_when_it_fenced_the_log_out(late: bool) -> None:
    """A node whose lease does not end, once it is cut off, accepts what was logged out. It learns of that when it is back."""
    async with Cluster() as cluster:
        await cluster.ready()
        one, other, third = cluster.nodes
        inside = node_of(other.manager)
        assert inside.second_look is not None
        token = mint_session(one.manager, "ada")
        await cluster.advance(1)
        verified = inside.validator.verify(token.encode())
        assert verified is not None
        cluster.cut(other, one, third)
        if not late:
            inside.second_look.note(verified, inside.clock.boot_s())
        acknowledged = await cluster.run(one.manager.revoke_session, verified.claims.family)
        assert acknowledged.mode == "fenced"
        if late:
            await cluster.advance(0.5)
            inside.second_look.note(verified, inside.clock.boot_s())
        cluster.heal(other, one, third)
        await cluster.advance(4)
        assert verified.claims.family in inside.view.denied
        assert inside.second_look.accepts_after_revocation == late


async def test_a_session_that_was_accepted_before_its_log_out_is_no_alarm() -> None:
    node = Node(metrics="on")
    visitor = await node.logged_in()
    inside = node_of(node.manager)
    for _ in range(130):
        await visitor.visit()
    node.clock.advance(1)
    await visitor.visit(lambda session: session.clear())
    assert inside.second_look is not None
    await inside.second_look.look()
    assert inside.second_look.accepts_after_revocation == 0


async def test_a_session_that_this_node_accepts_after_it_acknowledged_its_log_out_is_noticed_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = Node(metrics="on")
    visitor = await node.logged_in()
    inside = node_of(node.manager)
    token = (visitor.token or "").encode()
    verified = inside.validator.verify(token)
    assert verified is not None
    await visitor.visit(lambda session: session.clear())
    node.clock.advance(1)
    assert inside.second_look is not None
    inside.second_look.note(verified, node.clock.boot_s())  # as a node that looks at nothing would
    await inside.second_look.look()
    await inside.second_look.look()
    assert inside.second_look.accepts_after_revocation == 1
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert f"event=accept_after_log_out node={node.manager.node_id}" in record.getMessage()
    assert record.__dict__["subject_hash"] == node.manager.pseudonym(str(verified.claims.subject))


async def test_a_401_because_of_a_store_that_cannot_be_reached_is_noticed_and_told(caplog: pytest.LogCaptureFixture) -> None:
    errors = node_of(Node().manager).errors
    problem = SessionRevoked("no record")
    problem.__cause__ = StoreUnavailable("etcd is away")
    errors.note(problem, None)
    errors.note(SessionRevoked("logged out", check="denied"), None)
    assert errors.logouts_by_infrastructure == 1
    [told] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "event=log_out_by_infrastructure" in told
    assert "code=session_revoked" in told


async def test_a_401_by_a_node_that_cannot_be_sure_is_noticed() -> None:
    node = node_of(Node().manager)
    node.view.fresh_at = float("-inf")
    node.errors.note(TokenInvalid("nobody has the key", check="key"), None)
    assert node.errors.logouts_by_infrastructure == 1


# Error statistics.


async def test_the_statistics_tell_rates_and_the_last_problem_which_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ha_session_mw.security")
    node = Node(protect=("/account",))
    for _ in range(6):
        await node.request(path="/account")
    node.clock.advance(120)
    answer = await node.request(path="/account")
    told = (await node.manager.status())["errors"]
    assert isinstance(told, dict)
    error = told["token_missing"]
    assert (error["turn"], error["total"]) == ("client", 7)
    assert error["per_minute"] == {"1m": 1.0, "5m": 3.5, "15m": 3.5}
    assert error["last"]["instance"] == json.loads(answer.body)["instance"]
    assert [record for record in caplog.records if getattr(record, "instance", None) == error["last"]["instance"]]


async def test_a_request_that_a_guard_refuses_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    """Its token is refused first, and it goes on as a visitor's; then the guard of the handler refuses it for the same reason."""
    caplog.set_level(logging.INFO, "ha_session_mw.security")
    node = Node()
    visitor = await node.logged_in("ada")
    old = visitor.token
    await visitor.visit(lambda session: session.clear())
    answer = await node.request(lambda session: session.require(), token=old)
    assert (answer.status, answer.code) == (401, "session_revoked")
    errors = node_of(node.manager).errors
    assert errors.counts["session_revoked"] == 1
    told = errors.told()["session_revoked"]
    assert isinstance(told, dict)
    assert (told["total"], told["last"]["instance"]) == (1, answer.problem["instance"])
    assert [record for record in caplog.records if getattr(record, "instance", None) == answer.problem["instance"]]


async def test_the_last_problem_has_its_time_though_the_log_leaves_it_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "ha_session_mw.security")
    node = Node(protect=("/account",))
    await node.request(path="/account")
    told = (await node.manager.status())["errors"]
    assert isinstance(told, dict)
    last = told["token_missing"]["last"]
    assert abs(datetime.fromisoformat(last["at"]).timestamp() - node.clock.wall_s()) < 0.001
    assert last["instance"] is None


async def test_in_a_flood_the_log_has_the_first_records_and_then_counts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ha_session_mw.security")
    node = Node(protect=("/account",))
    for _ in range(250):
        await node.request(path="/account")
    written = [record for record in caplog.records if getattr(record, "code", "") == "token_missing"]
    assert 90 < len(written) <= 100
    told = (await node.manager.status())["errors"]
    assert isinstance(told, dict)
    assert told["token_missing"]["last"]["instance"] == getattr(written[-1], "instance", None)
    node.clock.advance(11)
    node_of(node.manager).refresh()
    assert [getattr(record, "suppressed", 0) for record in caplog.records if getattr(record, "event", "") == "suppressed"] == [
        250 - len(written)
    ]


def test_the_key_that_signs_has_the_age_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    manager = SessionManager(Settings(secret_key_file=file))
    keys = node_of(manager).keys
    assert keys.signing_age_s(manager.clock.boot_s() + 60, time.time() + 60) >= 60
