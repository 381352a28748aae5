"""Simulated users of the example app: they log in, browse, change something, and log out, by one way or another."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import anyio
import httpx

from example_app.users import USERS
from ha_session_mw.client import Problem, problem_of

from .ways import Way

READ_WITHIN_S = 15.0
"""A log-out may wait for the lease of a node that was killed, 5.15 s by default, and for etcd's next leader."""
COPIES = 8
"""How many copies of cookies are tried at once, of all users."""


_tries: ContextVar[list[str]] = ContextVar("tries")
"""What this package's client logs about the request that is made in this context, each line with the moment."""


class _Tries(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if (tries := _tries.get(None)) is not None:
            tries.append(f"{time.monotonic():.3f} {record.getMessage()}")


@contextmanager
def tries_noted() -> Iterator[None]:
    """Note each try of this package's client that failed, for the requests whose users see an error in the end."""
    of_client, noting = logging.getLogger("ha_session_mw.client"), _Tries()
    of_client.addHandler(noting)
    level, of_client.propagate = of_client.level, False
    of_client.setLevel(logging.INFO)
    try:
        yield
    finally:
        of_client.removeHandler(noting)
        of_client.propagate = True
        of_client.setLevel(level)


@dataclass
class Result:
    """The experience of all users of one way.

    Attributes:
        wanted, sent: the requests that the users made, and those that reached the network.
        errors: the failures that users saw, by kind.
        unknown: the unsafe requests in flight that failed with an outcome that nobody can know, by kind.
        failed_at_s: when each of all these failures was seen, with its kind.
        log_ins: how often a user had to log in again although nobody had logged the session out.
        copies: the cookies of the acknowledged log-outs, with whether the log-out was fenced.
        let_in: how often a node accepted one of those after the acknowledgement.
        stories: each error, with the tries before it that this package's client has logged.
    """

    wanted: int = 0
    sent: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    failed_at_s: list[tuple[float, str]] = field(default_factory=list)
    log_ins: int = 0
    copies: list[tuple[str, bool]] = field(default_factory=list)
    let_in: Counter[str] = field(default_factory=Counter)
    stories: list[str] = field(default_factory=list)

    def count_sent(self) -> None:
        self.sent += 1

    @property
    def per_wanted(self) -> float:
        return self.sent / max(1, self.wanted)

    def told(self, name: str) -> str:
        """Return the result as a line."""
        fenced = sum(is_fenced for _, is_fenced in self.copies)
        kinds = ", ".join(f"{count} {kind}" for kind, count in (self.errors + self.unknown + self.let_in).most_common(6))
        return (
            f"{name:<22} wanted {self.wanted:>6}, errors {self.errors.total():>5}, unknown {self.unknown.total():>3}, "
            f"unexpected log-ins {self.log_ins:>3}, log-outs {len(self.copies):>4} ({fenced} fenced), not enforced {self.let_in.total()}, "
            f"sent ÷ wanted {self.per_wanted:.3f}" + (f"\n{'':<22} {kinds}" if kinds else "")
        )


class User:
    """One user: a story in a loop until the time is over.

    Args:
        urls: where the requests go.
        way: how.
        nodes: the URLs of the nodes, which are asked whether a log-out holds.
        result: takes the experience.
        dice: decides.
        thinks_s: the average pause between two requests.
        copies: tries copies of cookies.
    """

    def __init__(
        self, urls: Sequence[str], way: Way, nodes: Sequence[str], result: Result, dice: random.Random, *, thinks_s: float, copies: Copies
    ) -> None:
        self._nodes = nodes
        self._way = way
        self._result = result
        self._dice = dice
        self._thinks_s = thinks_s
        self._copies = copies
        self._name = dice.choice([*USERS])
        transport = way.transport(urls, result.count_sent)
        self._http = httpx.AsyncClient(transport=transport, base_url=urls[0], timeout=READ_WITHIN_S, trust_env=False, verify=False)
        self._is_in = False

    async def live(self, is_over: anyio.Event) -> None:
        async with self._http:
            await anyio.sleep(self._dice.uniform(0, self._thinks_s))
            while not is_over.is_set():
                if not self._is_in:
                    await self._log_in()
                for _ in range(self._dice.randint(5, 15)):
                    await self._think(is_over)
                    if not self._is_in or is_over.is_set():
                        break
                    await self._use()
                else:
                    await self._log_out()

    async def _think(self, is_over: anyio.Event) -> None:
        with anyio.move_on_after(self._dice.uniform(0.2, 1.8) * self._thinks_s):
            await is_over.wait()

    async def _log_in(self) -> None:
        form = {"username": self._name, "password": USERS[self._name].password}
        # A second log-in does no harm. Without the key, a node out of contact that gets one cannot say that it may be tried elsewhere.
        answer = await self._ask("POST", "/login", data=form, headers={"Idempotency-Key": uuid4().hex})
        self._is_in = answer is not None and answer.status_code == 200

    async def _use(self) -> None:
        if self._dice.random() < 0.3:
            answer = await self._ask("POST", "/private/notes/0/toggle")
        else:
            answer = await self._ask("GET", "/private/session")
        if answer is not None and answer.status_code == 401:
            self._result.log_ins += 1
            self._is_in = False

    async def _log_out(self) -> None:
        copy = self._http.cookies.get("session")
        answer = await self._ask("POST", "/logout")
        self._is_in = False
        self._http.cookies.clear()  # after a log-out of unknown outcome, too
        if answer is None or answer.status_code != 200 or copy is None:
            return
        is_fenced = answer.headers.get("session-revocation") == "fenced"
        self._result.copies.append((copy, is_fenced))
        if is_fenced:
            for url in self._nodes:
                if await self._copies.status(url, copy) == 200:
                    self._result.let_in[url] += 1

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        self._result.wanted += 1
        _tries.set([f"{time.monotonic():.3f} begun"])
        try:
            answer = await self._way.ask(self._http, method, path, **options)
        except httpx.TransportError as error:
            # Only an error after the connection was made leaves the outcome open.
            is_open = method == "POST" and not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            self._fail(f"{method} {path} {type(error).__name__}", is_open=is_open)
            return None
        if answer.status_code >= 500:
            problem = problem_of(answer)
            kind = f"{problem.code}, {problem.outcome}" if problem else f"{answer.status_code} by the balancer"
            self._fail(f"{method} {path} {kind}", is_open=method == "POST" and _is_open(problem))
            return None
        return answer

    def _fail(self, kind: str, *, is_open: bool) -> None:
        self._result.failed_at_s.append((time.monotonic(), kind))
        if is_open:
            self._result.unknown[kind] += 1
        else:
            self._result.errors[kind] += 1
            self._result.stories.append("\n    ".join([kind, *_tries.get()]))


def _is_open(problem: Problem | None) -> bool:
    return problem is None or problem.outcome == "unknown"


class Copies:
    """Tries copies of cookies at nodes, as a thief would. A context."""

    async def __aenter__(self) -> Copies:
        self._limit = anyio.CapacityLimiter(COPIES)
        self._http = httpx.AsyncClient(timeout=READ_WITHIN_S, trust_env=False, verify=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def status(self, url: str, copy: str) -> int:
        """Return the status of the node's answer; 0 if it is down."""
        async with self._limit:
            try:
                return (await self._http.get(f"{url}/private/session", headers={"cookie": f"session={copy}"})).status_code
            except httpx.TransportError:
                return 0

    async def look_again(self, result: Result, nodes: Sequence[str], limit_s: float) -> None:
        """Ask each node about each copy until it refuses it for good. All nodes are up."""
        for url in nodes:
            for copy, _ in result.copies:
                if await self._last_status(url, copy, limit_s) != 401:
                    result.let_in[f"{url}, in the end"] += 1

    async def _last_status(self, url: str, copy: str, limit_s: float) -> int:
        with anyio.move_on_after(limit_s):
            while True:
                status = await self.status(url, copy)
                if status in (200, 401):
                    return status
                await anyio.sleep(0.1)
        return 0
