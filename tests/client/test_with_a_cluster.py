"""The client against real middlewares: nodes die, lose contact, and log sessions out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

from ha_session_mw.client import AsyncNodesTransport
from ha_session_mw.testing import Cluster

pytestmark = pytest.mark.anyio


class Doors(httpx2.AsyncBaseTransport):
    """The network between the client and the nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.asked: list[tuple[str, str, str]] = []

    async def handle_async_request(self, request: Any) -> Any:
        name = request.url.host.removesuffix(".test")
        self.asked.append((name, request.method, request.url.path))
        async with self._cluster[name].client() as client:
            inner = client._transport
        return await inner.handle_async_request(request)

    async def aclose(self) -> None:
        pass


@asynccontextmanager
async def ada_at(
    cluster: Cluster, login: Callable[[httpx2.AsyncClient], Awaitable[Any]] | None = None
) -> AsyncIterator[tuple[httpx2.AsyncClient, Doors]]:
    """Ada's client, logged in on node a."""
    doors = Doors(cluster)
    urls = [node.url for node in cluster.nodes]
    transport = AsyncNodesTransport(urls, doors, boot_s=lambda: cluster.passed_s, sleep=cluster.sleep)
    transport._cluster.nodes._roll = lambda: 0.0
    transport._cluster.nodes._preferred = 0
    async with httpx2.AsyncClient(transport=transport, base_url=urls[0]) as client:  # type: ignore[arg-type] # no subclass
        if login is not None:
            transport.reauthenticate = lambda: login(client)
        await cluster.run(client.post, "/login/ada")
        yield client, doors


async def test_the_session_goes_on_when_its_node_is_killed() -> None:
    async with Cluster() as cluster:
        await cluster.ready()
        async with ada_at(cluster) as (client, doors):
            await cluster["a"].kill()
            response = await cluster.run(client.get, "/")
            assert response.json()["subject"] == "ada"
            assert [name for name, _, _ in doors.asked] == ["a", "a", "b"]


async def test_a_node_that_lost_contact_sends_the_client_to_another_and_nobody_logs_in_again() -> None:
    log_ins: list[str] = []

    async def log_in(client: httpx2.AsyncClient) -> None:
        log_ins.append("again")

    async with Cluster() as cluster:
        await cluster.ready()
        async with ada_at(cluster, log_in) as (client, doors):
            cluster.cut(cluster["a"])
            await cluster.advance(10)
            for _ in range(3):
                assert (await cluster.run(client.post, "/")).json()["subject"] == "ada"
            assert {name for name, _, _ in doors.asked[-3:]} <= {"b", "c"}
            assert log_ins == []


async def test_a_log_out_elsewhere_leads_to_one_log_in_for_all_requests_that_wait() -> None:
    log_ins: list[int] = []

    async def log_in(client: httpx2.AsyncClient) -> None:
        log_ins.append((await client.post("/login/ada")).status_code)

    async with Cluster(protect=("/account",)) as cluster:
        await cluster.ready()
        async with ada_at(cluster, log_in) as (client, _):
            answers: list[Any] = []

            async def visit() -> None:
                answers.append((await client.get("/account")).json())

            async def visits() -> None:
                async with anyio.create_task_group() as tasks:
                    for _ in range(5):
                        tasks.start_soon(visit)

            await cluster.run(cluster["c"].manager.revoke_subject, "ada")
            await cluster.run(visits)
            assert [answer["subject"] for answer in answers] == ["ada"] * 5
            assert log_ins == [200]
