"""Random schedules: everything goes wrong for a while, then all is mended, and everybody must be served again."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ha_session_mw._core.decision import Accept, CannotTell, Decision

from .node import Node
from .variants import RIGHT, Variant
from .world import HOUR_MS, Findings, Session, World, around, between

START_S = 2.0
TROUBLE_S = 16.0
HEALED_WITHIN_S = 4.0
"""A poll on a dead link is given up after 1 s, a recovery takes two rounds of polls, and a client's hint up to 3 s."""


def run(seed: int, *, nodes: int | None = None, variant: Variant = RIGHT) -> Findings:
    """What one random schedule brought to light."""
    return Chaos(seed, nodes, variant).run()


class Chaos:
    """One random schedule."""

    def __init__(self, seed: int, nodes: int | None = None, variant: Variant = RIGHT) -> None:
        chance = Random(f"schedule {seed}")
        count = nodes or chance.choice((2, 3, 3, 3, 3, 3, 4, 5, 5, 5))
        files = chance.choice((0, 0, 0, chance.randrange(count + 1), count))
        self.chance = chance
        self.world = World(
            count,
            seed=seed,
            variant=variant,
            files=frozenset(chance.sample(range(count), files)),
            drift=0.01,
            skew_ms=chance.choice((10, 10_000)),
        )
        links = self.world.links
        links.loss = chance.choice((0.0, 0.0, 0.02, 0.2))
        links.duplication = chance.choice((0.0, 0.1))
        links.jitter_s = chance.choice((0.001, 0.003, 0.01))
        links.tail = chance.choice((0.0, 0.03, 0.2))
        self.wrong_clock: Node | None = None
        self.clocks_right_at = 0.0
        if count > 2 and chance.random() < 0.2:
            self.wrong_clock = chance.choice(self.world.nodes)
            self.wrong_clock.wall_off_ms += chance.choice((-HOUR_MS, HOUR_MS))
        self.pace = chance.choice((0.3, 1.0, 3.0))

    def run(self) -> Findings:
        world, chance = self.world, self.chance
        for node in world.nodes:
            world.at(chance.uniform(0, 0.5), None, node.start)
        world.run(START_S)
        for act, rate in ((self._log_in, 4.0), (self._revoke, 1.5), (self._request, 60.0), (self._trouble, self.pace)):
            self._repeat(act, rate)
        world.run(TROUBLE_S)
        self._mend()
        world.run(HEALED_WITHIN_S + 4)
        return world.findings

    def _repeat(self, act: Callable[[], None], rate: float) -> None:
        def again() -> None:
            if self.world.time < START_S + TROUBLE_S:
                act()
                self.world.after(self.chance.expovariate(rate), None, again)

        self.world.after(self.chance.expovariate(rate), None, again)

    # What users do.

    def _awake(self) -> Node | None:
        node = self.chance.choice(self.world.nodes)
        return node if node.up and node.paused_until <= self.world.time else None

    def _log_in(self) -> None:
        if node := self._awake():
            node.session_ms = self.chance.choice((12 * HOUR_MS, 12 * HOUR_MS, 30_000))
            node.log_in(self.chance.choice("abc"))

    def _pick(self) -> Session | None:
        """Mostly one of the latest: those are what goes wrong."""
        sessions = self.world.sessions
        if not sessions:
            return None
        return sessions[max(0, len(sessions) - 1 - int(self.chance.expovariate(0.12)))]

    def _revoke(self) -> None:
        node, session = self._awake(), self._pick()
        if node is None or session is None or node.quorum.recovering:
            return
        match self.chance.randrange(8):
            case 0:
                self.world.cut_subject(node, str(session.claims.subject))
            case 1:
                self.world.cut_subject(node, str(session.claims.subject), but=session)
            case kind:
                node.revoke(session, family=kind > 4)

    def _request(self) -> None:
        node, session = self._awake(), self._pick()
        if node is not None and session is not None:
            first, second = (self.chance.choice((0, 0, 0, 0.1, 0.5, 3)) * self.chance.random() for _ in range(2))
            node.request(session, (first, second))

    # What goes wrong.

    def _trouble(self) -> None:
        choices = (self._part, self._part, self._slow, self._pause, self._crash, self._crash, self._crash_several, self._step_clock)
        self.chance.choice(choices)()

    def _a_while(self) -> float:
        return self.chance.choice((0.3, 1.0, 3.0, 8.0)) * self.chance.random() + 0.02

    def _part(self) -> None:
        world, chance = self.world, self.chance
        everyone = range(len(world.nodes))
        one, other = chance.sample(everyone, 2)
        side = set(chance.sample(everyone, chance.randrange(1, len(world.nodes))))
        links = chance.choice(
            (
                [(one, other)],
                [(one, other), (other, one)],
                around(one, len(world.nodes)),
                [(number, one) for number in everyone if number != one],
                [(one, number) for number in everyone if number != one],
                between(side, set(everyone) - side),
            )
        )
        world.cut(*links)
        world.after(self._a_while(), None, world.mend, *links)

    def _slow(self) -> None:
        one, other = self.chance.sample(range(len(self.world.nodes)), 2)
        slow = self.world.links.slow_s
        slow[one, other] = self.chance.choice((0.05, 0.4, 2.0)) * self.chance.random()
        self.world.after(self._a_while(), None, self._quicken, (one, other))

    def _quicken(self, link: tuple[int, int]) -> None:
        self.world.links.slow_s.pop(link, None)

    def _pause(self) -> None:
        self.chance.choice(self.world.nodes).paused_until = min(self.world.time + self._a_while(), START_S + TROUBLE_S)

    def _crash(self) -> None:
        node = self.chance.choice(self.world.nodes)
        forget = node.file is None or self.chance.random() < 0.3
        # As many may forget at once as leave a majority's share to those who know: that much is promised, and no more.
        forgetful = sum(other.forgetful for other in self.world.nodes if other is not node)
        if node.up and forgetful + forget < self.world.majority and not (forget and forgetful + 1 >= self.world.majority):
            node.crash(forget=forget)
            self.world.after(self._a_while(), None, self._restart, node)

    def _restart(self, node: Node) -> None:
        if not node.up:
            node.start()

    def _crash_several(self) -> None:
        for _ in range(len(self.world.nodes)):
            self._crash()

    def _step_clock(self) -> None:
        node = self.chance.choice(self.world.nodes)
        step = self.chance.choice((-HOUR_MS, -45_000, -1000, 1000, 45_000, HOUR_MS))
        # One clock at a time, and the next one once the last is known to be right again: a majority of wrong clocks is the time.
        if len(self.world.nodes) > 2 and self.world.time > self.clocks_right_at and self.wrong_clock in (None, node):
            node.wall_off_ms += step
            self.wrong_clock = node
            self.world.after(self._a_while(), None, self._set_clock, node)

    def _set_clock(self, node: Node) -> None:
        node.set_clock()
        self.wrong_clock, self.clocks_right_at = None, self.world.time + 3

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
            session = next((session for session in reversed(world.sessions) if session.untouched), None)
            if session is not None:
                Client(world, node, session, world.time + HEALED_WITHIN_S).ask()
        world.after(HEALED_WITHIN_S + 3, None, self._look_at_receipts)

    def _look_at_receipts(self) -> None:
        self.world.findings.never_healed += sum(len(node.receipts) for node in self.world.nodes)
        self.world.findings.never_healed += sum(not node.quorum.is_ready(node.now()) for node in self.world.nodes)


class Client:
    """Follows the hints of each 503 until it is served."""

    def __init__(self, world: World, node: Node, session: Session, deadline: float) -> None:
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
