"""Three servers as processes of their own that reach each other over a long way: everything between them arrives later."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from example_app.ports import reserve_port, url_of

from ..waiting import LIMIT_S
from .delays import far_away
from .test_real import APP, Served

pytestmark = [pytest.mark.real, pytest.mark.anyio, pytest.mark.one_library]

ROUND_TRIP_S = 0.3
"""The longest that is supported."""
LOG_OUTS, MOST_LOG_OUTS = 6, 60
"""How many are made at least, and until one of them was as fast as the distance permits: a busy machine may be slow for long."""


@asynccontextmanager
async def apart(folder: Path, cluster: str) -> AsyncIterator[list[Served]]:
    """Yield three nodes that are ready, and so far from each other. Their clients are near."""
    (folder / "served.py").write_text(APP)
    ports = [reserve_port() for _ in range(3)]
    nodes: list[Served] = []
    async with AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(far_away(partial(int, port), round_trip_s=ROUND_TRIP_S)) for port in ports]
        settings = {"PEERS": ",".join(map(url_of, ways)), "PROTECT": "/private*", "PEER_TIMEOUT": "700ms"}
        for name, port, way in zip("abc", ports, ways, strict=True):
            nodes.append(Served(name, port, folder, {**settings, "CLUSTER": cluster.format(folder=folder, name=name)}))
            nodes[-1].settings["ADVERTISE_URL"] = url_of(way)
        try:
            for node in nodes:
                node.start()
            for node in nodes:
                await _until_ready(node)
            yield nodes
        finally:
            for node in nodes:
                node.kill()


async def _until_ready(node: Served) -> None:
    with anyio.fail_after(LIMIT_S):
        while await to_thread.run_sync(node.readiness):  # noqa: ASYNC110 - another process has no event
            await anyio.sleep(0.1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("cluster", "round_trips"), [("peers://", 2), pytest.param("peers://{folder}/{name}.db", 3, marks=pytest.mark.prove)]
)
async def test_real_nodes_at_the_supported_distance_fence_each_log_out(tmp_path: Path, cluster: str, round_trips: int) -> None:
    async with apart(tmp_path, cluster) as nodes:
        took_s: list[float] = []
        while len(took_s) < LOG_OUTS or (min(took_s) >= round_trips * ROUND_TRIP_S and len(took_s) < MOST_LOG_OUTS):
            number = len(took_s)
            one, two, three = (nodes[(number + turn) % 3] for turn in range(3))
            token = await to_thread.run_sync(one.log_in)
            begun_s = time.monotonic()
            answer = await to_thread.run_sync(two.request, "POST", "/logout", token)
            took_s.append(time.monotonic() - begun_s)
            assert answer.headers["session-revocation"] == "fenced"
            assert [await to_thread.run_sync(node.status, token) for node in (one, three)] == [401, 401]
        for node in nodes:
            await _until_ready(node)
        assert min(took_s) > ROUND_TRIP_S * 0.9  # they are apart
        assert min(took_s) < round_trips * ROUND_TRIP_S
