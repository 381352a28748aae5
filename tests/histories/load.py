"""Users who log in and out, and use their sessions on all nodes. A history keeps the answers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

import anyio
import httpx2

from example_app.no_tls import NO_TLS

from ..cluster.test_real import Served
from .checker import Judged
from .history import NO_ANSWER, UNKNOWN_PROCESS, Act, History, What

PEOPLE = 3
"""At each node: of one that is frozen, no more than these hang."""
PAUSE_S = 0.03
"""Average pause between two actions of one user. Two cores carry this load beside the nodes."""
SHORT_PAUSE_S = 0.12
"""The same in ``make test``, where other tests need the cores, too."""
SUBJECTS = [f"user{number}" for number in range(12)]
RECENT = 40
VISIT_WITHIN_S = 4.0
LOG_OUT_WITHIN_S = 12.0
"""The fence at the default limit takes up to 5.15 s, after steps that take a second and more."""
LOOKS_AT_ONCE = 4


@dataclass(eq=False)
class Session:
    """A session as its holder knows it."""

    name: str
    subject: str
    token: str
    left: bool = False


class Load:
    """The users and their sessions. Entered, it has a client for each node."""

    def __init__(self, nodes: Sequence[Served], history: History, seed: int = 0, *, pause_s: float = PAUSE_S) -> None:
        self.history = history
        self.sessions: list[Session] = []
        self._nodes = nodes
        self._pause_s = pause_s
        self._dice = Random(f"people {seed}")
        self._numbers = count(1)
        self._over = False
        self._clients: dict[str, httpx2.AsyncClient] = {}

    async def __aenter__(self) -> Load:
        async with AsyncExitStack() as stack:
            for node in self._nodes:
                client = httpx2.AsyncClient(base_url=node.url, timeout=VISIT_WITHIN_S, trust_env=False, verify=NO_TLS)
                self._clients[node.name] = await stack.enter_async_context(client)
            self._left = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._left.aclose()

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """People come and go at each node, as long as the context is open."""
        async with anyio.create_task_group() as self._aside:
            for node in self._nodes:
                for _ in range(PEOPLE):
                    self._aside.start_soon(self._come_and_go, node)
            yield
            self._over = True

    async def many(self, count: int) -> list[Session]:
        """So many new sessions."""
        before = len(self.sessions)
        while len(self.sessions) < before + count:
            await self.log_in(self._dice.choice(self._nodes))
        return self.sessions[-count:]

    async def log_all_out(self, sessions: Sequence[Session]) -> None:
        """All at once, on all nodes."""
        async with anyio.create_task_group() as tasks:
            for number, session in enumerate(sessions):
                tasks.start_soon(self.log_out, self._nodes[number % len(self._nodes)], session)

    async def look_at_all(self) -> None:
        """After all repairs, ask each node about each session until the answer is right or the time is over."""
        if self.history.healed_s is None:
            self.history.healed_s = time.monotonic()
        judged = Judged(self.history)
        async with anyio.create_task_group() as tasks:
            for node in self._nodes:
                for first in range(LOOKS_AT_ONCE):
                    tasks.start_soon(self._look_at, node, self.sessions[first::LOOKS_AT_ONCE], judged)

    async def is_ready(self, node: Served) -> bool:
        try:
            answer = await self._clients[node.name].get("/-/session/readyz")
        except httpx2.TransportError:
            return False
        return answer.status_code == 200

    # Users' actions

    async def _come_and_go(self, node: Served) -> None:
        while not self._over:
            await self._something(node)
            await anyio.sleep(self._dice.uniform(0, 2 * self._pause_s))

    async def _something(self, node: Served) -> None:
        recent = self.sessions[-RECENT:]
        live = [session for session in recent if not session.left]
        roll = self._dice.random()
        if roll < 0.15 or not recent:
            await self.log_in(node)
        elif roll < 0.25 and live:
            await self._log_out_and_watch(node, self._dice.choice(live))
        elif roll < 0.255:
            await self._log_out_everywhere(node, self._dice.choice(live) if live and self._dice.random() < 0.5 else None)
        else:
            await self.visit(node, self._dice.choice(self._dice.choice((live or recent, recent, self.sessions))))

    async def log_in(self, node: Served) -> None:
        subject = self._dice.choice(SUBJECTS)
        name = f"{subject}-{next(self._numbers)}"
        _, headers = await self._ask("log in", node, "POST", f"/login/{subject}", subject, name)
        if token := headers.get("session-token"):
            self.sessions.append(Session(name, subject, token))

    async def visit(self, node: Served, session: Session) -> Act:
        act, _ = await self._ask("visit", node, "GET", "/private", session.subject, session.name, session.token)
        return act

    async def log_out(self, node: Served, session: Session) -> None:
        """Log out, and if that is acknowledged, use the session everywhere at once."""
        session.left = True
        path = self._dice.choice(("/private/clear", "/private/revoke"))
        act, _ = await self._ask("log out", node, "POST", path, session.subject, session.name, session.token)
        if act.mode:
            self._visit_all(session)

    async def _log_out_and_watch(self, node: Served, session: Session) -> None:
        """Log out, while others with the same session ask the other nodes all along."""
        async with anyio.create_task_group() as tasks:
            for other in self._nodes:
                if other is not node:
                    tasks.start_soon(self._watch, other, session)
            await self.log_out(node, session)
            tasks.cancel_scope.cancel()

    async def _watch(self, node: Served, session: Session) -> None:
        pause_s = 0.004
        while (await self.visit(node, session)).status != 401:
            await anyio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, 0.25)  # a fence that is waited out is no reason to flood the nodes

    async def _log_out_everywhere(self, node: Served, kept: Session | None) -> None:
        subject = kept.subject if kept else self._dice.choice(SUBJECTS)
        hit = [session for session in self.sessions if session.subject == subject and session is not kept]
        for session in hit:
            session.left = True
        path, token = ("/private/others", kept.token) if kept else (f"/everywhere/{subject}", "")
        act, _ = await self._ask("log out everywhere", node, "POST", path, subject, kept.name if kept else "", token)
        if act.mode:
            for session in hit[-3:]:
                self._visit_all(session)

    def _visit_all(self, session: Session) -> None:
        """Start it in the background, so that users of other nodes do not wait for a frozen one."""
        for node in self._nodes:
            self._aside.start_soon(self.visit, node, session)

    async def _look_at(self, node: Served, sessions: Sequence[Session], judged: Judged) -> None:
        assert self.history.healed_s is not None
        end_s = self.history.healed_s + self.history.within_s
        for session in sessions:
            expected = judged.in_the_end(session.name)
            while (await self.visit(node, session)).status not in expected:
                if time.monotonic() > end_s:
                    break
                await anyio.sleep(0.1)

    async def _ask(
        self, what: What, node: Served, method: str, path: str, subject: str, session: str, token: str = ""
    ) -> tuple[Act, Mapping[str, str]]:
        process, began_s = node.starts, time.monotonic()
        limit_s = LOG_OUT_WITHIN_S if what.startswith("log out") else VISIT_WITHIN_S
        headers = {"authorization": f"Bearer {token}"} if token else {}
        status, code, mode, hinted, told = NO_ANSWER, "", "", True, httpx2.Headers()
        try:
            answer = await self._clients[node.name].request(method, path, headers=headers, timeout=limit_s)
        except httpx2.TransportError:
            pass  # killed, frozen, or not there yet
        else:
            status, told, body = answer.status_code, answer.headers, said(answer)
            code, hinted = body.get("code", ""), status != 503 or is_hinted(answer)
            mode = told.get("session-revocation", "") or body.get("mode", "")
        process = process if process == node.starts else UNKNOWN_PROCESS
        act = Act(what, node.name, session, subject, began_s, time.monotonic(), status, code, mode, process, hinted)
        self.history.acts.append(act)
        return act, told


def said(answer: httpx2.Response) -> dict[str, Any]:
    found = answer.json() if "json" in answer.headers.get("content-type", "") else {}
    return found if isinstance(found, dict) else {}


def is_hinted(answer: httpx2.Response) -> bool:
    """Whether a refusal says whether to try again, when and where."""
    problem = said(answer)
    if problem.get("outcome") in ("executed", "unknown") and not problem.get("retryable"):
        return problem.get("action") == "contact" and "Find out" in problem["detail"]  # a POST that the app had begun
    return bool(problem.get("retryable") and problem.get("retry_where") != "none" and answer.headers.get("retry-after"))
