"""Simulated users of the example app: they log in, browse, change something, and log out, through one client or another."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx2

from example_app.users import USERS
from ha_session_mw.client import AsyncNodesTransport, Problem, problem_of

Inner = httpx2.AsyncBaseTransport
READ_WITHIN_S = 5.0


@dataclass
class Result:
    """The experience of all users of one client.

    Attributes:
        wanted, sent: the requests that the users made, and those that reached the network.
        errors: the failures that users saw, by kind.
        unknown: the unsafe requests in flight that failed with an outcome that nobody can know.
        log_ins: how often a user had to log in again although nobody had logged the session out.
        kept_out: the log-outs that were acknowledged as fenced, with copies of the cookie that were refused.
        let_in: those with a copy that some node accepted.
    """

    wanted: int = 0
    sent: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    log_ins: int = 0
    kept_out: int = 0
    let_in: int = 0

    def told(self, name: str) -> str:
        """Return the result as a line."""
        failed = sum(self.errors.values())
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.errors.most_common(4))
        return (
            f"{name:<14} wanted {self.wanted:>6}, errors {failed:>5}, unknown {self.unknown:>3}, unexpected log-ins {self.log_ins:>3}, "
            f"log-outs enforced {self.kept_out}, not {self.let_in}, sent ÷ wanted {self.sent / max(1, self.wanted):.3f}"
            + (f"  ({kinds})" if kinds else "")
        )


class Counted(Inner):
    """Counts the requests that reach the network."""

    def __init__(self, result: Result) -> None:
        self._result = result
        self._inner = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._result.sent += 1
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


Client = Callable[[Sequence[str], Result], Inner]
"""Makes the transport of one user."""


def through_ours(urls: Sequence[str], result: Result) -> Any:
    return AsyncNodesTransport(urls, Counted(result))


class OneNode(Inner):
    """A plain client: it knows all nodes, and goes on to the next one after a failure, without a second try."""

    def __init__(self, urls: Sequence[str], result: Result) -> None:
        self._inner = Counted(result)
        self._urls = [httpx2.URL(url) for url in urls]
        self._now = random.randrange(len(urls))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        node = self._urls[self._now % len(self._urls)]
        request.url = request.url.copy_with(host=node.host, port=node.port)
        request.headers["host"] = node.netloc.decode()
        try:
            response = await self._inner.handle_async_request(request)
        except httpx2.TransportError:
            self._now += 1
            raise
        if response.status_code >= 500:
            self._now += 1
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class User:
    """One user: a story in a loop until the time is over."""

    def __init__(self, urls: Sequence[str], client: Client, result: Result, dice: random.Random) -> None:
        self._urls = urls
        self._result = result
        self._dice = dice
        self._name = dice.choice([*USERS])
        self._http = httpx2.AsyncClient(transport=client(urls, result), base_url=urls[0], timeout=READ_WITHIN_S, trust_env=False)
        self._is_in = False

    async def live(self, is_over: anyio.Event) -> None:
        async with self._http:
            while not is_over.is_set():
                if not self._is_in:
                    await self._log_in()
                for _ in range(self._dice.randint(5, 15)):
                    await anyio.sleep(self._dice.uniform(0.05, 0.25))
                    if not self._is_in or is_over.is_set():
                        break
                    await self._use()
                else:
                    await self._log_out()

    async def _log_in(self) -> None:
        form = {"username": self._name, "password": USERS[self._name].password}
        answer = await self._ask("POST", "/login", data=form)
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
        if answer is None or answer.status_code != 200 or answer.headers.get("session-revocation") != "fenced" or copy is None:
            return
        accepted = [await self._is_accepted(url, copy) for url in self._urls]
        self._result.let_in += any(accepted)
        self._result.kept_out += not any(accepted)

    async def _is_accepted(self, url: str, copy: str) -> bool:
        async with httpx2.AsyncClient(timeout=READ_WITHIN_S, trust_env=False) as thief:
            try:
                return (await thief.get(f"{url}/private/session", headers={"cookie": f"session={copy}"})).status_code == 200
            except httpx2.TransportError:
                return False  # the node is down

    async def _ask(self, method: str, path: str, **options: Any) -> httpx2.Response | None:
        self._result.wanted += 1
        try:
            answer = await self._http.request(method, path, **options)
        except httpx2.TransportError as error:
            # Only an error after the connection was made leaves the outcome open.
            is_open = method == "POST" and not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            self._fail(type(error).__name__, is_open=is_open)
            return None
        if answer.status_code >= 500:
            problem = problem_of(answer)
            self._fail(problem.code if problem else str(answer.status_code), is_open=method == "POST" and not _was_refused(problem))
            return None
        return answer

    def _fail(self, kind: str, *, is_open: bool) -> None:
        if is_open:
            self._result.unknown += 1
        else:
            self._result.errors[kind] += 1


def _was_refused(problem: Problem | None) -> bool:
    return problem is not None and problem.outcome == "not_executed"
