"""Random schedules: everything fails for a while and is then repaired; after that, all users must be served again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from random import Random
from typing import Any, ClassVar, Generic, TypeVar

from ha_session_mw._core.accept_rule import Accept, CannotTell, Decision

from .node import Node
from .world import HOUR_MS, Findings, Session, World

START_S = 2.0
TROUBLE_S = 16.0

N = TypeVar("N", bound=Node)


class Chaos(ABC, Generic[N]):
    """One random schedule for any log, with its users' actions.

    Attributes:
        world: where it happens.
        cycles: how many sessions a second take a new id.
        healed_within_s: how soon everybody must be served once all is mended.
    """

    world: World[N]
    healed_within_s: ClassVar[float]

    def __init__(self, seed: int, *, cycles: float = 0.0) -> None:
        self.chance = Random(f"schedule {seed}")
        self.pace = 1.0
        self.cycles = cycles

    def run(self) -> Findings:
        world, chance = self.world, self.chance
        for node in world.nodes:
            world.at(chance.uniform(0, 0.5), None, node.start)
        world.run(START_S)
        for act, rate in ((self._log_in, 4.0), (self._revoke, 1.5), (self._request, 60.0), (self._trouble, self.pace)):
            self._repeat(act, rate)
        if self.cycles:
            self._repeat(self._cycle, self.cycles)
        world.run(TROUBLE_S)
        self._mend()
        world.run(self.healed_within_s + 4)
        return world.findings

    def _repeat(self, act: Callable[[], None], rate: float) -> None:
        def again() -> None:
            if self.world.time < START_S + TROUBLE_S:
                act()
                self.world.after(self.chance.expovariate(rate), None, again)

        self.world.after(self.chance.expovariate(rate), None, again)

    # Users' actions.

    def _awake(self) -> N | None:
        node = self.chance.choice(self.world.nodes)
        return node if node.up and node.paused_until <= self.world.time else None

    def _log_in(self) -> None:
        if node := self._awake():
            node.session_ms = self.chance.choice((12 * HOUR_MS, 12 * HOUR_MS, 30_000))
            node.log_in(self.chance.choice("abc"))

    def _pick(self) -> Session | None:
        """Mostly one of the latest, because those expose faults."""
        sessions = self.world.sessions
        if not sessions:
            return None
        return sessions[max(0, len(sessions) - 1 - int(self.chance.expovariate(0.12)))]

    def _revoke(self) -> None:
        node, session = self._awake(), self._pick()
        if node is None or session is None or node.starting:
            return
        match self.chance.randrange(8):
            case 0:
                self.world.cut_subject(node, str(session.claims.subject))
            case 1:
                self.world.cut_subject(node, str(session.claims.subject), but=session)
            case kind:
                node.revoke(session, family=kind > 4, replaced=kind in (4, 7))

    def _request(self) -> None:
        node, session = self._awake(), self._pick()
        if node is not None and session is not None:
            first, second = (self.chance.choice((0, 0, 0, 0.1, 0.5, 3)) * self.chance.random() for _ in range(2))
            node.request(session, (first, second))

    def _cycle(self) -> None:
        node, session = self._awake(), self._pick()
        if node is not None and session is not None and not node.starting:
            node.cycle(session)

    # Faults.

    @abstractmethod
    def _trouble(self) -> None:
        """Something does."""

    def _a_while(self) -> float:
        return self.chance.choice((0.3, 1.0, 3.0, 8.0)) * self.chance.random() + 0.02

    def _quicken(self, link: tuple[int, int]) -> None:
        self.world.links.slow_s.pop(link, None)

    def _restart(self, node: N) -> None:
        if not node.up:
            node.start()

    # All is well again.

    def _mend(self) -> None:
        world = self.world
        world.links.cut.clear()
        world.links.slow_s.clear()
        world.links.loss = world.links.duplication = world.links.tail = 0.0
        for node in world.nodes:
            node.set_clock()
            self._restart(node)
        for node in world.nodes:
            # A client that has asked for a new id before may get it at any time, and is then refused with the old one.
            session = next((session for session in reversed(world.sessions) if session.untouched and not session.asked), None)
            if session is not None:
                Client(world, node, session, world.time + self.healed_within_s).ask()
        world.after(self.healed_within_s + 3, None, self._look_at_receipts)

    def _look_at_receipts(self) -> None:
        self.world.findings.never_healed += sum(len(node.receipts) for node in self.world.nodes)
        self.world.findings.never_healed += sum(not node.is_ready() for node in self.world.nodes)
        if not self.world.findings.losses:  # otherwise tokens wait some minutes for log-outs that were lost with a majority
            self.world.findings.never_healed += self.world.useless_tokens()


class Client:
    """Follows the hints of each 503 until it is served."""

    def __init__(self, world: World[Any], node: Node, session: Session, deadline: float) -> None:
        self.world = world
        self.node = node
        self.session = session
        self.deadline = deadline

    def ask(self) -> None:
        self.node.request(self.session, then=self._told)

    def _told(self, decision: Decision) -> None:
        if isinstance(decision, Accept):
            return
        if not isinstance(decision, CannotTell) or self.world.time > self.deadline:
            self.world.findings.never_healed += 1
            return
        if decision.problem.retry_where == "other_node":
            self.node = self.world.nodes[(self.node.number + 1) % len(self.world.nodes)]
        self.world.after(max(0.01, decision.problem.retry_after_s or 0), None, self.ask)
