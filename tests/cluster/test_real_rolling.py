"""A rolling restart of real servers, while users click on: no request fails, nobody is logged out, and every log-out is enforced.

Without a balancer: a user stays at one node, and goes to the next one if it is refused there, as a 503 says or a closed port.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import httpx2
import pytest

from ..engines import Etcd, memory_folder
from ..waiting import until
from .test_real import APP, Served, served

pytestmark = pytest.mark.real

USERS = 32
THINKS_S = 0.2
"""How long a user waits between two requests, on average. A user that waits for as long as the drain lasts may miss it."""
POSTS = 0.3
LOG_OUTS = 0.02
TRIES = 30
PAUSE_S = 0.1


class User:
    """Clicks at one node over one connection, and goes elsewhere when refused there."""

    def __init__(self, name: str, nodes: list[Served], found: Counter[str]) -> None:
        self.name = name
        self._dice = random.Random(name)
        self._nodes = nodes
        self._at = self._dice.randrange(len(nodes))
        self._found = found
        self._token = ""

    async def click(self, until_done: anyio.Event) -> None:
        async with httpx2.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
            await self._log_in(client)
            while not until_done.is_set():
                await anyio.sleep(self._dice.expovariate(1 / THINKS_S))
                if self._dice.random() < LOG_OUTS:
                    await self._log_out(client)
                else:
                    method = "POST" if self._dice.random() < POSTS else "GET"
                    answer = await self._ask(client, method, "/private", self._token)
                    self._count("served" if answer.json().get("subject") == self.name else "anonymous")

    async def _log_in(self, client: httpx2.AsyncClient) -> None:
        self._token = str((await self._ask(client, "POST", f"/login/{self.name}", None)).headers["session-token"])

    async def _log_out(self, client: httpx2.AsyncClient) -> None:
        old = self._token
        answer = await self._ask(client, "POST", "/logout", old)
        self._count(answer.headers["session-revocation"])
        for node in self._nodes:
            try:
                seen = await client.get(node.url + "/private", headers=_fields(old))
            except httpx2.TransportError:
                continue
            self._count(f"then {seen.status_code}")
            if seen.status_code == 503 and node is self._here:
                self._at += 1
        await self._log_in(client)

    @property
    def _here(self) -> Served:
        return self._nodes[self._at % len(self._nodes)]

    async def _ask(self, client: httpx2.AsyncClient, method: str, path: str, token: str | None) -> httpx2.Response:
        for _ in range(TRIES):
            node = self._here
            try:
                answer = await client.request(method, node.url + path, headers=_fields(token))
            except httpx2.ConnectError:
                self._count("closed port")
            except httpx2.TransportError as exc:
                self._count(f"{type(exc).__name__} of {method}")
                if method == "POST":
                    raise
            else:
                if answer.status_code == 200:
                    return answer
                self._count(str(answer.json().get("code")))
                assert answer.json()["retryable"], (node.name, answer.text)
            self._at += 1
            await anyio.sleep(PAUSE_S)
        raise AssertionError(f"{method} {path} failed at all nodes: {self._found}")

    def _count(self, what: str) -> None:
        self._found[what] += 1


def _fields(token: str | None) -> dict[str, str]:
    return {"session-transport": "bearer", **({"authorization": f"Bearer {token}"} if token else {})}


async def restart_all(nodes: list[Served], times: int, found: Counter[str]) -> None:
    done = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for number in range(USERS):
            tasks.start_soon(User(f"user {number}".replace(" ", "-"), nodes, found).click, done)
        await anyio.sleep(0.5)
        for number in range(times):
            await anyio.to_thread.run_sync(_restart, nodes[number % len(nodes)])
        await anyio.sleep(0.5)
        done.set()


def _restart(node: Served) -> None:
    node.end(signal.SIGTERM)
    node.start()
    until(lambda: not node.readiness(), f"{node.name} is ready again; it says {node.readiness()}")


CASES = [(cluster, times) for cluster in ("peers://", "peers:///path", "etcd://") for times in (3, 20)]


@pytest.mark.timeout(600)
@pytest.mark.prove  # make test has the one behind balancers
@pytest.mark.parametrize("case", CASES)
def test_a_rolling_restart_is_unseen(case: tuple[str, int], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cluster, times = case
    settings = {"DRAIN_DELAY": "3s", "DRAIN_REFUSE": "safe", "START_WAIT": "2s"}
    if cluster == "etcd://":
        etcd: Etcd = request.getfixturevalue("one_etcd")
        settings |= {"CLUSTER": etcd.cluster(f"rolling-{times}"), "PEERS": ""}
    elif cluster == "peers:///path":
        settings |= {"CLUSTER": "peers://{files}/{name}.log-outs"}
    found: Counter[str] = Counter()
    with memory_folder() as files:  # a disk that others keep busy takes longer to sync than a log-out waits
        settings["CLUSTER"] = settings.get("CLUSTER", cluster).replace("{files}", str(files))
        with contextmanager(served)(tmp_path, APP, settings) as nodes:
            anyio.run(restart_all, nodes, times, found)
    assert found["served"] > 100, found
    assert found["anonymous"] == found["then 200"] == found["provisional"] == 0, found
