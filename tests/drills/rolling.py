"""Simulated users behind balancers while all nodes are restarted, one after the other. Nothing is tried twice, and everything counts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import httpx2

from ..waiting import LIMIT_S

USERS = 32
"""Behind each balancer. Each keeps its connection to the balancer open."""
THINKS_S = 0.3
"""How long a user waits between two requests, on average."""
POSTS = 0.3
LOG_OUTS = 0.03
PATIENCE_S = 20.0
"""How long a user waits for an answer. A log-out may wait for the lease of a node that was killed, and nothing else takes long."""


@dataclass
class Tally:
    """The experience of all users of one balancer.

    Attributes:
        answered: the requests that the app answered, for the right user.
        failed: all others, by method and kind.
        logged_out: how often a session was over that nobody had logged out.
        ended: the tokens of acknowledged log-outs.
        let_in: how often a node accepted one of these after the acknowledgement.
    """

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    logged_out: int = 0
    ended: list[str] = field(default_factory=list)
    let_in: Counter[str] = field(default_factory=Counter)

    @property
    def is_well(self) -> bool:
        return not (self.failed or self.logged_out or self.let_in)

    def told(self, name: str) -> str:
        """Return the experience as a line."""
        return (
            f"{name:<8} answered {self.answered:>6}, failed {self.failed.total()}, logged out {self.logged_out}, "
            f"log-outs {len(self.ended)}, not enforced {self.let_in.total()}"
            + "".join(f"\n    {count} {kind}" for kind, count in (self.failed + self.let_in).most_common())
        )


class User:
    """Clicks over one connection to a balancer, by cookie or by bearer token.

    Args:
        name: the subject of its sessions.
        balancer: the balancer's URL.
        nodes: the URLs of the nodes, which are asked whether a log-out holds.
        tally: takes the experience.
        by_cookie: how the token travels.
        thinks_s: how long it waits between two requests, on average.
    """

    def __init__(
        self, name: str, balancer: str, nodes: Sequence[str], tally: Tally, *, by_cookie: bool, thinks_s: float = THINKS_S
    ) -> None:
        self._name = name
        self._nodes = nodes
        self._tally = tally
        self._begun_s = anyio.current_time()
        self._by_cookie = by_cookie
        self._thinks_s = thinks_s
        self._dice = random.Random(name)
        self._http = httpx2.AsyncClient(base_url=balancer, trust_env=False, verify=False, timeout=PATIENCE_S)
        self._token: str | None = None

    async def live(self, is_over: anyio.Event) -> None:
        async with self._http:
            while not is_over.is_set():
                if self._token is None:
                    await self._ask("POST", f"/login/{self._name}")
                elif self._dice.random() < LOG_OUTS:
                    await self._log_out(self._token)
                else:
                    await self._ask("POST" if self._dice.random() < POSTS else "GET", "/private")
                await anyio.sleep(self._dice.expovariate(1 / self._thinks_s))

    async def _log_out(self, token: str) -> None:
        answer = await self._ask("POST", "/logout")
        self._token = None
        if answer is None:
            return
        if (mode := answer.headers.get("session-revocation")) != "fenced":
            self._tally.failed[f"a log-out is {mode}"] += 1
            return
        self._tally.ended.append(token)
        for node in self._nodes:
            try:
                seen = await self._http.get(f"{node}/private", headers=self._fields(token))
            except httpx2.TransportError:
                continue  # the node is down; it is asked again in the end
            self._tally.let_in[node] += seen.status_code == 200
        self._tally.let_in += Counter()  # without zeros

    async def _ask(self, method: str, path: str) -> httpx2.Response | None:
        try:
            answer = await self._http.request(method, path, headers=self._fields(self._token))
        except httpx2.TransportError as failure:
            self._tally.failed[f"{method} {path.split('/')[1]} {type(failure).__name__}"] += 1
            return None
        self._http.cookies.clear()
        if answer.status_code == 401:
            self._tally.logged_out += 1
            self._token = None
        elif answer.status_code != 200:
            at_s = anyio.current_time() - self._begun_s
            self._tally.failed[f"{method} {path.split('/')[1]} {answer.status_code} {_code(answer)} after {at_s:.1f} s"] += 1
            return None
        elif path != "/logout":
            self._token = _token(answer) or self._token
            if path == "/private" and answer.json()["subject"] != self._name:
                self._tally.logged_out += 1
        self._tally.answered += 1
        return answer

    def _fields(self, token: str | None) -> dict[str, str]:
        if self._by_cookie:
            return {"cookie": f"session={token}"} if token else {}
        return {"session-transport": "bearer", **({"authorization": f"Bearer {token}"} if token else {})}


def _token(answer: httpx2.Response) -> str | None:
    return answer.headers.get("session-token") or answer.cookies.get("session")


def _code(answer: httpx2.Response) -> str:
    if "json" not in answer.headers.get("content-type", ""):
        return "by the balancer"
    problem = answer.json()
    return f"{problem.get('code')}, {problem.get('outcome')} by {answer.headers.get('session-node')}"


Restart = Callable[[], None]


async def roll(
    balancers: Mapping[str, str], nodes: Mapping[str, Restart], times: int, *, users: int = USERS, thinks_s: float = THINKS_S
) -> dict[str, Tally]:
    """Restart nodes one after the other while users work; return the experience of the users by balancer.

    Args:
        balancers: the URL of each balancer, by its name.
        nodes: what restarts each node, by its URL, and returns when the node is ready.
        times: how many restarts.
        users: behind each balancer.
        thinks_s: how long each waits between two requests, on average.
    """
    found = {name: Tally() for name in balancers}
    is_over = anyio.Event()
    urls = [*nodes]
    async with anyio.create_task_group() as tasks:
        for name, url in balancers.items():
            for number in range(users):
                user = User(f"{name}-{number}", url, urls, found[name], by_cookie=number % 2 == 0, thinks_s=thinks_s)
                tasks.start_soon(user.live, is_over)
        await anyio.sleep(0.5)
        for number in range(times):
            await anyio.to_thread.run_sync(nodes[urls[number % len(urls)]])
        await anyio.sleep(0.5)
        is_over.set()
    for tally in found.values():
        await look_again(tally, urls)
    return found


async def look_again(tally: Tally, nodes: Sequence[str]) -> None:
    """Ask each node about each session that was logged out, until the node knows."""
    async with httpx2.AsyncClient(trust_env=False, verify=False, timeout=PATIENCE_S) as http:
        for node in nodes:
            for token in tally.ended:
                if await _status(http, f"{node}/private", token) != 401:
                    tally.let_in[f"{node}, in the end"] += 1


async def _status(http: httpx2.AsyncClient, url: str, token: str) -> int:
    with anyio.fail_after(LIMIT_S):
        while True:
            seen = await http.get(url, headers={"authorization": f"Bearer {token}"})
            if seen.status_code != 503:
                return seen.status_code
            await anyio.sleep(0.1)
