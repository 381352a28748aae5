"""A node that drains goes on serving, and has its clients and balancers go elsewhere."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from functools import partial

import anyio
import httpx2
import pytest

from ha_session_mw import SessionManager, SessionMiddleware, Settings
from ha_session_mw.asgi.sigterm import Sigterm
from ha_session_mw.backends.peers.pushing import GOOD_BYE_S, HAND_OVER_S
from ha_session_mw.events import MemberDraining, MemberLeft
from ha_session_mw.manager import node_of
from ha_session_mw.models import NodeId
from ha_session_mw.testing import SECRET, Cluster, mint_session, who_is_there

pytestmark = pytest.mark.anyio


def middleware(**settings: object) -> SessionMiddleware:
    manager = SessionManager(Settings(secret_key=SECRET, **settings))  # type: ignore[arg-type]
    return SessionMiddleware(who_is_there, manager=manager)


def client(app: SessionMiddleware) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test")


async def test_a_node_that_drains_is_not_ready_and_serves_on() -> None:
    app = middleware()
    async with client(app) as visitor:
        assert (await visitor.get("/-/session/readyz")).status_code == 200
        await app.manager.drain()
        answer = await visitor.get("/-/session/readyz")
        assert (answer.status_code, answer.json()["output"]) == (503, "draining: this node is about to stop")
        assert (await visitor.get("/-/session/livez")).status_code == 200
        answer = await visitor.post("/login/ada")
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"


async def test_a_node_that_drains_refuses_safe_requests_if_it_is_told_to() -> None:
    app = middleware(drain_refuse="safe")
    async with client(app) as visitor:
        assert (await visitor.get("/")).status_code == 200
        await app.manager.drain()
        answer = await visitor.get("/")
        assert (answer.status_code, answer.json()["code"], answer.json()["retry_where"]) == (503, "node_draining", "other_node")
        assert (answer.json()["outcome"], answer.json()["retryable"]) == ("not_executed", True)
        assert (await visitor.post("/login/ada")).status_code == 200


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(drain_delay=3.0) as cluster:
        await cluster.ready()
        yield cluster


async def test_a_drain_takes_its_delay_and_the_others_hear_of_it(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    seen: list[object] = []
    a.manager.on_event(seen.append)
    begun_s = cluster.passed_s
    await cluster.run(b.manager.drain)
    assert 3.0 <= cluster.passed_s - begun_s < 3.1
    assert MemberDraining(NodeId("b")) in seen
    token = mint_session(a.manager, "ada")
    assert (await b.get("/", token=token)).json()["subject"] == "ada"
    begun_s = cluster.passed_s
    await cluster.run(b.manager.drain)
    assert cluster.passed_s - begun_s < 0.1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_drain_that_fails_stops_the_server_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_of(middleware().manager)
    told: list[int] = []

    async def fails() -> None:
        raise OSError("a fault that nobody has thought of")

    monkeypatch.setattr(node.draining, "drain", fails)
    ours = Sigterm(node, lambda number, _: told.append(number))
    ours(signal.SIGTERM, None)
    with pytest.raises(OSError, match="nobody has thought of"):
        await ours.drain_when_told()
    assert told == [signal.SIGTERM]


async def test_a_drain_that_the_others_do_not_let_finish_ends_at_its_limit(cluster: Cluster) -> None:
    """A log-out of this node is known to nobody else, and nobody takes it."""
    a, *_ = cluster.nodes
    cluster.cut(a)
    token = mint_session(a.manager, "ada")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(a.post, "/logout", token=token))
        await cluster.settle()
        begun_s = cluster.passed_s
        await cluster.run(a.manager.drain)
        assert 3.0 + HAND_OVER_S <= cluster.passed_s - begun_s < 3.2 + HAND_OVER_S
        begun_s = cluster.passed_s
        await cluster.run(node_of(a.manager).log.leave)
        assert cluster.passed_s - begun_s < 0.2 + HAND_OVER_S + GOOD_BYE_S
        tasks.cancel_scope.cancel()


async def test_a_node_that_has_left_answers_node_draining_and_costs_no_log_out_a_wait(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    seen: list[object] = []
    a.manager.on_event(seen.append)
    token = mint_session(a.manager, "ada")
    await cluster.run(node_of(c.manager).log.leave)
    answer = await c.get("/", token=token)
    assert (answer.status_code, answer.json()["code"]) == (503, "node_draining")
    await cluster.advance(0.5)
    assert MemberLeft(NodeId("c")) in seen
    begun_s = cluster.passed_s
    assert (await b.post("/logout", token=token)).headers["session-revocation"] == "fenced"
    assert cluster.passed_s - begun_s < 0.5


async def test_a_node_that_was_stopped_can_be_started_again(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    manager = b.manager
    await b.stop()
    await b.start()
    assert b.manager is not manager
    await cluster.ready()
    token = mint_session(a.manager, "ada")
    assert (await b.get("/", token=token)).status_code == 200


async def test_a_manager_that_has_left_runs_again_as_another_process(cluster: Cluster) -> None:
    app = middleware(cluster="peers://", peers=("http://a.test",), advertise_url="http://a.test")
    for _ in range(2):
        async with app.manager.running():
            token = mint_session(app.manager, "ada")
            async with client(app) as visitor:
                assert (await visitor.get("/", headers={"authorization": f"Bearer {token}"})).json()["subject"] == "ada"
                assert (await visitor.get("/-/session/readyz")).status_code == 200
            await app.manager.drain()


async def test_a_request_waits_for_a_node_that_is_starting() -> None:
    async with Cluster(start_wait=5.0) as cluster:
        a, b, _ = cluster.nodes
        await cluster.ready()
        token = mint_session(a.manager, "ada")
        await b.kill()
        await b.start()
        assert b.why_not_ready
        assert (await b.get("/", token=token)).json()["subject"] == "ada"
        await b.kill()
        cluster.cut(b)
        await b.start()
        begun_s = cluster.passed_s
        answer = await b.get("/", token=token)
        assert (answer.status_code, answer.json()["code"]) == (503, "node_starting")
        assert 5.0 <= cluster.passed_s - begun_s < 5.2


async def test_a_good_bye_that_was_cancelled_is_said_again(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    log = node_of(c.manager).log
    cluster.cut(c)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.leave)
        await cluster.settle()
        assert log.has_left()
        tasks.cancel_scope.cancel()
    cluster.heal(c)
    await cluster.run(log.leave)
    begun_s = cluster.passed_s
    token = mint_session(a.manager, "ada")
    assert (await b.post("/logout", token=token)).headers["session-revocation"] == "fenced"
    assert cluster.passed_s - begun_s < 1.0
