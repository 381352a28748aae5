"""A real member that has the secret, and floods the others over real sockets: the cost to them, and their counts of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from ..waiting import until
from .test_real import FRESHNESS_LIMIT_S, Served, served

pytestmark = pytest.mark.real

APP = """
import os

from ha_session_mw._core.quorum import log

log.PAGE_ENTRIES = 1024  # below, so that a node waits two seconds at most for a page, as with the default limits

from starlette.responses import JSONResponse

from ha_session_mw import SessionMiddleware, get_session
from ha_session_mw._peering import server
from ha_session_mw.backends.peers import pacing
from ha_session_mw.testing import who_is_there
from tests.cluster.flooder import Flooder

# On a busy machine a flooder stays below the default limit. A lower limit shows the same behaviour.
server.CALLS_PER_S, server.CALLS_AT_ONCE = 50, 100
pacing.NEWS_PER_S, pacing.NEWS_AT_ONCE, pacing.CATCH_UP_AT_ONCE = 4096, 32_768, 32_768


async def app(scope, receive, send):
    if scope["path"] == "/status":
        await JSONResponse(await get_session(scope).manager.status())(scope, receive, send)
    else:
        await who_is_there(scope, receive, send)


app = Flooder() if os.environ["HA_SESSION_NODE_ID"] == "c" else SessionMiddleware(app)
"""
FLOOD_S = 0.5
SLOWEST_S = FRESHNESS_LIMIT_S * 1.02 + 0.05 + 4.0
"""A fence, and four seconds for a machine that is busy. Without limits requests took up to 20 s."""
TRIES = 3
"""Other tests may take so much of the processors that a request takes longer without a flood, too."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    yield from served(tmp_path_factory.mktemp("flooded"), APP)


def counted(node: Served) -> dict[str, int]:
    """Return a node's counts of the flooder's faults."""
    status: dict[str, Any] = node.request("GET", "/status").json()
    return dict(status["peers"].get("member 3", {}))


class Visitor:
    """Logs in, uses both nodes, and logs out. Each step takes so long at the most, whatever else goes on, and is never a 401."""

    def __init__(self, nodes: list[Served]) -> None:
        self.a, self.b, _ = nodes
        self.slowest_s = 0.0

    def step(self, node: Served, method: str, path: str, token: str | None = None) -> httpx2.Response:
        begun_s = time.monotonic()
        answer = node.request(method, path, token)
        self.slowest_s = max(self.slowest_s, time.monotonic() - begun_s)
        assert answer.status_code in (200, 503)
        return answer

    def visit(self) -> bool:
        """Whether all went well."""
        token = self.step(self.a, "POST", "/login/ada").cookies.get("session")
        if token is None:
            return False
        served = [self.step(node, "GET", "/private", token).status_code for node in (self.a, self.b)]
        if self.step(self.b, "POST", "/logout", token).headers.get("session-revocation") != "fenced":
            return False
        assert [node.status(token) in (401, 503) for node in (self.a, self.b)] == [True, True]
        return served == [200, 200]


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        ("pages", "slowed"),
        ("heap", "garbage"),
        pytest.param("poll", "queued", marks=pytest.mark.prove),
        ("lookup", "queued"),
        ("hello", None),
    ],
)
def test_a_member_that_floods_costs_a_bounded_wait_and_is_counted(nodes: list[Served], how: str, fault: str | None) -> None:
    a, _, c = nodes
    before = counted(a)
    refused = a.request("GET", "/status").json()["refused_peer_calls"]
    c.request("POST", f"/flood/{how}")
    try:
        for _ in range(TRIES):
            visitor = Visitor(nodes)
            end_s = time.monotonic() + FLOOD_S
            while time.monotonic() < end_s:
                visitor.visit()
            until(visitor.visit, "served while it goes on")
            if visitor.slowest_s < SLOWEST_S:
                break
        assert visitor.slowest_s < SLOWEST_S
        if fault is not None:
            until(lambda: counted(a).get(fault, 0) > before.get(fault, 0), "counted")
        else:
            until(lambda: a.request("GET", "/status").json()["refused_peer_calls"] > refused, "counted")
    finally:
        c.request("POST", "/flood/rest")
