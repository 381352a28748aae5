"""Random schedules for ``peers://`` whose operator restarts any node with any list, in any order, while everything else goes wrong, too."""

from __future__ import annotations

from .chaos import START_S, TROUBLE_S
from .quorum_chaos import QuorumChaos
from .quorum_node import QuorumNode
from .quorum_variants import RIGHT, QuorumVariant
from .world import Findings


def run(seed: int, *, variant: QuorumVariant = RIGHT) -> Findings:
    """Return the findings of one random schedule."""
    return ListChaos(seed, variant).run()


class ListChaos(QuorumChaos):
    """One random schedule with a careless operator. It need not heal, as lists may be left that cannot work together."""

    def __init__(self, seed: int, variant: QuorumVariant = RIGHT) -> None:
        super().__init__(seed, 3 + seed % 4, variant)
        chance, count = self.chance, len(self.world.nodes)
        numbers = range(count)
        self.old = tuple(chance.sample(numbers, min(count, chance.choice((1, 2, 3, 3, 3, 4, 5, 5)))))
        self.news = [self._new_list(count) for _ in range(chance.choice((1, 1, 1, 2)))]
        self.steps = [(self.old, ()), *((self.old, new) for new in self.news), *((new, ()) for new in self.news)]
        self.care = chance.choice((0.5, 0.9, 1.0))
        """How often the operator takes the next step, and not any."""
        for node in self.world.nodes:
            node.current = self.old
            if chance.random() < 0.6 and node.file is None:
                node.file = []
        self.pace = chance.choice((0.1, 0.3, 1.0))

    def _new_list(self, count: int) -> tuple[int, ...]:
        chance = self.chance
        stays = chance.sample(self.old, chance.randrange(1, len(self.old) + 1))
        others = [number for number in range(count) if number not in self.old]
        joins = chance.sample(others, chance.randrange(min(len(others), 5 - len(stays)) + 1))
        return (*stays, *joins)

    def run(self) -> Findings:
        world, chance = self.world, self.chance
        for number in self.old:
            world.at(chance.uniform(0, 0.5), None, world.nodes[number].start)
        world.run(START_S)
        for act, rate in (
            *((self._log_in, 4.0), (self._revoke, 2.5), (self._request, 60.0)),
            *((self._trouble, self.pace), (self._any_step, chance.choice((0.0, 0.05, 0.5)) + 1e-9)),
        ):
            self._repeat(act, rate)
        self._wave(0)
        world.run(TROUBLE_S)
        return world.findings

    def _step_clock(self) -> None:
        # Of one member, or of two, a wrong clock is a majority. Nobody can tell then.
        if all(len(members) > 2 for members in (self.old, *self.news)):
            super()._step_clock()

    # The operator.

    def _wave(self, step: int) -> None:
        """Give the next lists to all nodes, one after another, sooner or later; now and then to some of them only, or other lists."""
        chance, world = self.chance, self.world
        step = max(0, min(len(self.steps) - 1, step + chance.choice((-1, 1, 1, 1))))
        gap_s, moment_s = chance.choice((0.05, 0.3, 1.0)), 0.0
        for number in chance.sample(range(len(world.nodes)), len(world.nodes)):
            moment_s += chance.random() * 2 * gap_s
            if chance.random() < 0.9:
                world.after(moment_s, None, self._relist, world.nodes[number], self.steps[step])
        world.after(moment_s + chance.choice((0.0, 0.5, 3.0)), None, self._wave, step)

    def _any_step(self) -> None:
        new = self.chance.choice(self.news)
        self._relist(self.chance.choice(self.world.nodes), self.chance.choice((*self.steps, (new, self.old), (new, self.news[0]))))

    def _relist(self, node: QuorumNode, lists: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        if self.chance.random() > self.care:
            lists = self.chance.choice(self.steps)
        if self.world.time > START_S + TROUBLE_S:
            return
        if node.number not in (*lists[0], *lists[1]):
            if node.up:
                self._lose(node)
        elif not node.up or self._lose(node):
            node.restart(*lists)

    def _lose(self, node: QuorumNode) -> bool:
        """Kill a node, unless as many would then have forgotten at once as the promise does not cover."""
        if node.file is None and not self._may_forget(node):
            return False
        node.crash()
        return True

    def _may_forget(self, node: QuorumNode) -> bool:
        forgetful = {other.number for other in self.world.nodes if other is node or other.forgetful}
        lists = [members for members in (self.old, *self.news) if node.number in members]
        return all(len(forgetful.intersection(members)) <= len(members) // 2 for members in lists)

    def _crash(self) -> None:
        node = self.chance.choice(self.world.nodes)
        forget = node.file is None or self.chance.random() < 0.2
        if node.up and (not forget or self._may_forget(node)):
            node.crash(forget=forget)
            self.world.after(self._a_while(), None, self._restart, node)
