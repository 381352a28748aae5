"""Random schedules for ``peers://``: links, machines and clocks go wrong, and members forget."""

from __future__ import annotations

from .chaos import START_S, TROUBLE_S, Chaos
from .quorum_node import QuorumNode, QuorumWorld
from .quorum_variants import RIGHT, QuorumVariant
from .world import HOUR_MS, Findings, around, between

HEALED_WITHIN_S = 4.0
"""A poll on a dead link is given up after 2 s, a recovery takes two rounds of polls, and a client's hint up to 3 s."""


def run(seed: int, *, nodes: int | None = None, variant: QuorumVariant = RIGHT, leaving: bool = False, cycles: float = 0.0) -> Findings:
    """Return the findings of one random schedule."""
    return QuorumChaos(seed, nodes, variant, leaving=leaving, cycles=cycles).run()


class QuorumChaos(Chaos[QuorumNode]):
    """One random schedule.

    Args:
        seed: where all chance comes from.
        nodes: how many; by default some.
        variant: the rules that the nodes follow.
        leaving: whether nodes also leave in order, which changes everything that follows from the seed.
    """

    world: QuorumWorld
    healed_within_s = HEALED_WITHIN_S

    def __init__(
        self, seed: int, nodes: int | None = None, variant: QuorumVariant = RIGHT, *, leaving: bool = False, cycles: float = 0.0
    ) -> None:
        super().__init__(seed, cycles=cycles)
        self.leaving = leaving
        chance = self.chance
        count = nodes or chance.choice((2, 3, 3, 3, 3, 3, 4, 5, 5, 5))
        files = chance.choice((0, 0, 0, chance.randrange(count + 1), count))
        self.world = QuorumWorld(
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
        if seed % 4 == 2:
            self.world.page_entries = 1 + seed // 4 % 5
        self.wrong_clock: QuorumNode | None = None
        self.clocks_right_at = 0.0
        if count > 2 and chance.random() < 0.2:
            self.wrong_clock = chance.choice(self.world.nodes)
            self.wrong_clock.wall_off_ms += chance.choice((-HOUR_MS, HOUR_MS))
        self.pace = chance.choice((0.3, 1.0, 3.0))

    # Faults.

    def _trouble(self) -> None:
        choices = (self._part, self._part, self._slow, self._pause, self._crash, self._crash, self._crash_several, self._step_clock)
        self.chance.choice((*choices, self._leave, self._leave, self._leave) if self.leaving else choices)()

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

    def _pause(self) -> None:
        self.chance.choice(self.world.nodes).paused_until = min(self.world.time + self._a_while(), START_S + TROUBLE_S)

    def _leave(self) -> None:
        """A node says good-bye, which may be lost, is still reached by clients for a while, and ends."""
        node = self.chance.choice(self.world.nodes)
        forgetful = sum(other.forgetful for other in self.world.nodes if other is not node)
        if node.up and not node.quorum.left and (node.file is not None or forgetful + 1 < self.world.majority):
            node.leave()
            self.world.after(self._a_while(), None, self._end, node, node.life)

    def _end(self, node: QuorumNode, life: int) -> None:
        if node.up and node.life == life:
            node.crash()
            self.world.after(self._a_while(), None, self._restart, node)

    def _mend(self) -> None:
        for node in self.world.nodes:
            if node.up and node.quorum.left:
                node.crash()
        super()._mend()

    def _crash(self) -> None:
        node = self.chance.choice(self.world.nodes)
        forget = node.file is None or self.chance.random() < 0.3
        # The promise holds as long as fewer than a majority forget at once.
        forgetful = sum(other.forgetful for other in self.world.nodes if other is not node)
        if node.up and forgetful + forget < self.world.majority and not (forget and forgetful + 1 >= self.world.majority):
            node.crash(forget=forget)
            self.world.after(self._a_while(), None, self._restart, node)

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

    def _set_clock(self, node: QuorumNode) -> None:
        node.set_clock()
        self.wrong_clock, self.clocks_right_at = None, self.world.time + 3
