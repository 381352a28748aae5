"""Random histories of whole nodes: people log in and out while things fail, and every answer is judged.

A subclass brings the cluster and its failures. Runs on real managers, drivers, look-ups and middlewares, on clocks moved by hand.
``RANDOM_HISTORIES=200`` runs more histories, ``RANDOM_HISTORIES=17:18`` one again.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import anyio
import httpx2

from ha_session_mw import ClientFault, ProblemError, SessionRevoked
from ha_session_mw._core.accept_rule import CannotTell, Decision, Refuse, decide
from ha_session_mw._machine.threads import own_threads
from ha_session_mw.manager import SessionManager, node_of
from ha_session_mw.testing import Cluster, Node

from .steps import SteppedClock, check_with_pauses

IDLE_S = 100
"""Longer than a history, so that no session ends by itself; and short enough for tokens to be renewed in its second half."""
SUBJECTS = ("ada", "bob", "eve")


def seeds(usually: int) -> range:
    """The histories to run: so many, unless the environment asks for others."""
    first, colon, last = os.environ.get("RANDOM_HISTORIES", str(usually)).rpartition(":")
    return range(int(first) if colon else 0, int(last))


@dataclass(eq=False)
class Family:
    """A session in a history. Moments are counted, because many steps share one time.

    Attributes:
        token: the token in its browser.
        left: the token in its browser before the id changed.
        doubtful: a log-out of it has begun, or may have. From then on any answer is right, until that is acknowledged.
        over_at: when a log-out of it was acknowledged as fenced.
        over_in_the_end: a log-out of it was acknowledged, be it as provisional.
    """

    subject: str
    token: str
    doubtful: bool = False
    left: list[str] = field(default_factory=list)
    over_at: float = float("inf")
    over_in_the_end: bool = False


@dataclass(eq=False)
class Everywhere:
    """A log-out of all sessions of a subject."""

    subject: str
    begun_at: int
    fenced_at: float = float("inf")


class History(ABC):
    """One random history. ``faults`` names each answer that was wrong.

    Args:
        dice: decides about everything.
        cluster: the nodes, not started yet.

    Attributes:
        trouble_s: how long things go wrong.
        healed_within_s: how long after that everything must be well.
    """

    trouble_s = 40.0
    healed_within_s = 10.0

    def __init__(self, dice: Random, cluster: Cluster) -> None:
        self.dice = dice
        self.cluster = cluster
        self.moment = count(1)
        self.families: list[Family] = []
        self.cuts: list[Everywhere] = []
        self.faults: list[str] = []
        self.seen: Counter[str] = Counter()
        self.trace: list[object] = []
        self._revoked_on: dict[tuple[SessionManager, str], int] = {}
        self._wrong_clocks: dict[Node, float] = {}
        for node in cluster.nodes:
            node.clock = SteppedClock()
            node.clock.rate = dice.uniform(0.99, 1.01)
            node.clock.step_wall(dice.uniform(-10, 10))

    async def run(self, *, until_a_fault: bool = False) -> None:
        own_threads().total_tokens = 1  # else threads would come back in any order
        async with self.cluster, anyio.create_task_group() as self._tasks:
            await self.cluster.ready()
            self._begin_trouble()
            for node in self.cluster.nodes:
                self._begin(self._log_in, node, self.dice.choice(SUBJECTS))
            end_s = self.cluster.passed_s + self.trouble_s
            while self.cluster.passed_s < end_s:
                if until_a_fault and self.faults:
                    break
                self._somebody_acts()
                if self.dice.random() < 0.12:
                    await self._something_happens()
                await self.cluster.advance(self.dice.choice((0.0, 0.002, 0.01, self.dice.expovariate(2.0))))
                self._check_invariants()
            await self._mend()
            await self.cluster.advance(self.healed_within_s)
            await self._look_at_all()
            self._tasks.cancel_scope.cancel()

    @abstractmethod
    def _begin_trouble(self) -> None:
        """Have links lose, double and delay from now on."""

    def _check_invariants(self) -> None:
        """Check each node's invariants after each step."""
        for node in self.cluster.nodes:
            if node.running:
                node_of(node.manager).view.check()

    @abstractmethod
    async def _something_happens(self) -> None:
        """Have one thing fail, or heal."""

    async def _mend(self) -> None:
        """Heal everything. A subclass heals the links besides."""
        for node in self.cluster.nodes:
            node.thaw()
        for node, step_s in self._wrong_clocks.items():
            node.clock.step_wall(-step_s)
        for node in self.cluster.nodes:
            if not node.running:
                await node.start()

    def _set_clock_wrong(self, node: Node) -> None:
        """Step a node's wall clock by an hour, unless another one is wrong already."""
        if not self._wrong_clocks:
            self._wrong_clocks[node] = self.dice.choice((-3600.0, 3600.0))
            node.clock.step_wall(self._wrong_clocks[node])

    async def _end(self, node: Node, how: str) -> None:
        self.trace.append((how, node.name))
        await (node.kill() if how == "kill" else node.stop())

    def _begin(self, act: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        self._tasks.start_soon(act, *args)

    # Users' actions

    def _somebody_acts(self) -> None:
        running = [node for node in self.cluster.nodes if node.running]
        if not running:
            return
        node, roll = self.dice.choice(running), self.dice.random()
        live = [family for family in self.families if not family.doubtful]
        if roll < 0.12 or not self.families:
            self._begin(self._log_in, node, self.dice.choice(SUBJECTS))
        elif roll < 0.22 and live:
            self._begin(self._log_out, node, self.dice.choice(live), self.dice.choice(("clear", "revoke")))
        elif roll < 0.25 and live:
            self._begin(self._cycle, node, self.dice.choice(live))
        elif roll < 0.29:
            kept = self.dice.choice(live) if live and self.dice.random() < 0.6 else None
            self._begin(self._log_out_everywhere, node, kept, self.dice.choice(SUBJECTS))
        else:
            family = self.dice.choice(self.families[-12:])
            self._begin(self._visit, node, family, self.dice.choice([family.token, *family.left]))
            self._begin(self._visit, self.dice.choice(running), family, family.token)
            pauses = [self.dice.choice((0.0, 0.01, 0.5, 4.0)) * self.dice.random() for _ in range(4)]
            self._begin(self._visit_with_pauses, self.dice.choice(running), family, family.token, pauses)

    async def _ask(self, node: Node, method: str, path: str, token: str | None = None) -> httpx2.Response | None:
        """Return a node's answer; None if it was killed meanwhile."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            async with node.client(headers=headers, trust_env=False) as client:
                answer = await client.request(method, path)
        except httpx2.TransportError:
            return None
        code = answer.json().get("code", "served")
        self.seen[code] += 1
        self.trace.append((round(self.cluster.passed_s, 6), node.name, path, code))
        if answer.status_code not in (200, 401, 409, 503):
            self.faults.append(f"{path} on {node.name}: {answer.status_code} {code}")
        return answer

    async def _log_in(self, node: Node, subject: str) -> None:
        begun_at = next(self.moment)
        answer = await self._ask(node, "POST", f"/login/{subject}")
        if answer is None or answer.status_code != 200:
            return
        family = Family(subject, answer.cookies["session"])
        # It lists the log-outs that its node knew: all that were fenced, and perhaps others.
        family.doubtful = any(cut.subject == subject and cut.fenced_at > begun_at for cut in self.cuts)
        self.families.append(family)

    async def _log_out(self, node: Node, family: Family, how: str) -> None:
        family.doubtful = True
        answer = await self._ask(node, "POST", f"/private/{how}", family.token)
        if answer is not None and (mode := answer.headers.get("session-revocation")):
            self._acknowledged(mode, [family])

    async def _cycle(self, node: Node, family: Family) -> None:
        """A new id. The old one is denied at once, but not fenced: of it nothing is known any more."""
        family.doubtful = True
        sent = family.token
        answer = await self._ask(node, "POST", "/private/cycle", sent)
        if answer is not None and answer.status_code == 200 and family.token == sent:
            family.left.append(sent)
            family.token = answer.headers["session-token"]

    async def _log_out_everywhere(self, node: Node, kept: Family | None, subject: str) -> None:
        cut = Everywhere(kept.subject if kept else subject, next(self.moment))
        self.cuts.append(cut)
        hit = [family for family in self.families if family.subject == cut.subject and family is not kept]
        for family in hit:
            family.doubtful = True
        path = "/private/others" if kept else f"/everywhere/{subject}"
        answer = await self._ask(node, "POST", path, kept.token if kept else None)
        if answer is not None and "mode" in answer.json():
            mode = answer.json()["mode"]
            self._acknowledged(mode, hit)
            if mode == "fenced":
                cut.fenced_at = next(self.moment)

    def _acknowledged(self, mode: str, families: list[Family]) -> None:
        self.seen[mode] += 1
        for family in families:
            family.over_in_the_end = True
            if mode == "fenced":
                family.over_at = min(family.over_at, next(self.moment))
        for node in self.cluster.nodes if families else ():  # at once, when a node that missed it would still accept
            self._begin(self._visit, node, families[-1], families[-1].token)

    async def _visit(self, node: Node, family: Family, token: str) -> None:
        if not node.running:
            return
        begun_at, process = next(self.moment), node.manager
        answer = await self._ask(node, "GET", "/private", token)
        if answer is None:
            return
        if answer.status_code == 200:
            self._accepted(node, process, family, token, begun_at)
            if family.token == token and (renewed := answer.headers.get("session-token")):
                self.seen["renewed"] += 1
                family.token = renewed
        elif answer.status_code in (401, 409):
            self._refused(node, process, family, token, answer.json()["code"])

    async def _visit_with_pauses(self, node: Node, family: Family, token: str, pauses: list[float]) -> None:
        """As a visit, of which a thread is paused wherever the accept rule reads a clock, while all others go on."""
        if not node.running:
            return
        begun_at, process = next(self.moment), node.manager
        try:
            outcome = await check_with_pauses(process, token.encode(), pauses, self._pause)
            if isinstance(outcome, CannotTell):
                await node_of(process).resolver.resolve(token.encode(), outcome)
        except ProblemError as problem:
            code = problem.code
            if isinstance(problem, ClientFault):
                self._refused(node, process, family, token, code)
        else:
            code = "served"
            self._accepted(node, process, family, token, begun_at)
        self.seen[f"paused, {code}"] += 1
        self.trace.append((round(self.cluster.passed_s, 6), node.name, "paused", code))

    async def _pause(self, seconds: float) -> None:
        self.seen["pauses"] += 1
        await self.cluster.sleep(seconds)

    def _accepted(self, node: Node, process: SessionManager, family: Family, token: str, begun_at: int) -> None:
        if begun_at > family.over_at:
            self.faults.append(f"accepted after a fenced acknowledgement: {self._where(node, family)}")
        if begun_at > self._revoked_on.get((process, token), begun_at):
            self.faults.append(f"accepted after it was refused: {self._where(node, family)}")

    def _refused(self, node: Node, process: SessionManager, family: Family, token: str, code: str) -> None:
        if not family.doubtful:
            self.faults.append(f"refused without a cause, {code}: {self._where(node, family)}")
        self._revoked_on.setdefault((process, token), next(self.moment))

    def _where(self, node: Node, family: Family) -> str:
        return f"{family.subject} on {node.name} at {self.cluster.passed_s:.3f} s"

    async def _look_at_all(self) -> None:
        """Check, after all faults have ended, that every node serves exactly the sessions that are not logged out."""
        for node in self.cluster.nodes:
            if node.why_not_ready is not None:
                self.faults.append(f"{node.name} is not ready in the end: {node.why_not_ready}")
            if node_of(node.manager).supervisor.crashes:
                self.faults.append(f"crashed on {node.name}: {dict(node_of(node.manager).supervisor.crashes)}")
            for family in self.families:
                answer = await self._ask(node, "GET", "/private", family.token)
                assert answer is not None
                expected = {401} if family.over_in_the_end else {200, 401, 409} if family.doubtful else {200}
                if answer.status_code not in expected:
                    self.faults.append(f"{family.subject} in the end on {node.name}: {answer.status_code}, not {expected}")


H = TypeVar("H", bound=History)


async def history(kind: Callable[[int, Path], H], seed: int, folder: Path, *, until_a_fault: bool = False) -> H:
    """Return the history of a seed, up to its end or to the first wrong answer."""
    found = kind(seed, folder)
    await found.run(until_a_fault=until_a_fault)
    return found


async def comes_to_light(fault: str, kind: Callable[[int, Path], H], seed: int, folder: Path, *, tries: int = 12) -> bool:
    """Return whether a fault that begins so is seen in the history of a seed, or of one of those after it.

    Which seed shows it depends on the moments of all that the nodes do, so it may change with them.
    """
    for at in range(seed, seed + tries):
        found = await history(kind, at, folder / str(at), until_a_fault=True)
        if any(one.startswith(fault) for one in found.faults):
            return True
    return False


def replay(kind: Callable[[int, Path], H], seed: int, folder: Path) -> tuple[list[str], list[str]]:
    """Return the events of two histories of one seed, on asyncio.

    On trio, links may lose another message: of two that are sent at one moment, either may be the first. Events of one moment come
    in any order, because tasks that are cancelled together end in the order of their addresses. So they are sorted.
    """
    first, second = (anyio.run(history, kind, seed, folder / name, backend="asyncio") for name in ("first", "second"))
    return sorted(map(repr, first.trace)), sorted(map(repr, second.trace))


def guesses(*args: Any, **kwargs: Any) -> Decision:
    decision = decide(*args, **kwargs)
    return Refuse(SessionRevoked("out of contact")) if isinstance(decision, CannotTell) else decision
