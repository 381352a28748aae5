"""Real servers leave in order: after SIGTERM no log-out elsewhere waits for them, and none of theirs is lost. All waits have a limit."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..waiting import until
from .test_real import FENCE_WAIT_S, Served, served

pytestmark = pytest.mark.real

APP = """
import anyio
from ha_session_mw import SessionMiddleware
from ha_session_mw.testing import who_is_there


async def slow(scope, receive, send):
    if scope["type"] == "http" and scope["query_string"] == b"slowly":
        await anyio.sleep(1)
    await who_is_there(scope, receive, send)


app = SessionMiddleware(slow)
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    yield from served(tmp_path_factory.mktemp("leaving"), APP)


@pytest.fixture(autouse=True)
def all_are_there(nodes: list[Served]) -> Iterator[None]:
    yield
    for node in nodes:
        if not node.is_running:
            node.start()
    for node in nodes:
        until(lambda node=node: not node.readiness(), "ready again")  # type: ignore[misc]


def log_out_s(node: Served, token: str) -> float:
    """How many seconds a log-out took that was acknowledged as fenced."""
    begun_s = time.monotonic()
    assert node.request("POST", "/logout", token).headers["session-revocation"] == "fenced"
    return time.monotonic() - begun_s


def test_the_next_log_out_waits_for_no_node_that_has_left(nodes: list[Served]) -> None:
    a, b, c = nodes
    token = a.log_in()
    c.end(signal.SIGTERM)
    assert log_out_s(a, token) < FENCE_WAIT_S / 2
    assert b.status(token) == 401


def test_a_log_out_in_flight_at_sigterm_is_acknowledged_and_enforced(nodes: list[Served]) -> None:
    a, b, c = nodes
    token = a.log_in()
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(c.request, "POST", "/logout?slowly", token)
        time.sleep(0.3)  # the request has begun
        c.end(signal.SIGTERM)
        assert answer.result().status_code == 200
    assert answer.result().headers["session-revocation"] == "fenced"
    assert [node.status(token) for node in (a, b)] == [401, 401]
