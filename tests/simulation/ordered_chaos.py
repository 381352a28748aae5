"""Random schedules for an ordered log: the engine, the ways to it, workers, machines and clocks go wrong."""

from __future__ import annotations

from .chaos import START_S, TROUBLE_S, Chaos
from .ordered_node import Machine, OrderedNode, OrderedWorld
from .ordered_variants import RIGHT, OrderedVariant
from .world import HOUR_MS, Findings, between

HEALED_WITHIN_S = 6.0
"""A dead stream is given up after 1 s, clocks of processes that were killed are waited for as long as a lease, and a hint is up to 3 s."""


def run(seed: int, *, variant: OrderedVariant = RIGHT) -> Findings:
    """Return the findings of one random schedule."""
    return OrderedChaos(seed, variant).run()


class OrderedChaos(Chaos[OrderedNode]):
    """One random schedule."""

    world: OrderedWorld
    healed_within_s = HEALED_WITHIN_S

    def __init__(self, seed: int, variant: OrderedVariant = RIGHT) -> None:
        super().__init__(seed)
        chance = self.chance
        machines, workers = chance.choice(((1, 4), (2, 1), (2, 2), (3, 1), (3, 1), (3, 2), (3, 2), (5, 1)))
        self.world = OrderedWorld(machines, workers, seed=seed, variant=variant, drift=0.01, skew_ms=chance.choice((10, 10_000)))
        links = self.world.links
        links.loss = chance.choice((0.0, 0.0, 0.02, 0.2))
        links.duplication = chance.choice((0.0, 0.1))
        links.jitter_s = chance.choice((0.001, 0.003, 0.01))
        links.tail = chance.choice((0.0, 0.03, 0.2))
        self.wrong_clock: Machine | None = None
        self.clocks_right_at = 0.0
        # A clock that is wrong must be one among several: the workers of a machine outvote the only one of another.
        self.clocks_step = machines > 2 and workers == 1
        self.pace = chance.choice((0.3, 1.0, 3.0))

    # Faults.

    def _trouble(self) -> None:
        chance = self.chance
        ways = (self._part, self._part_server, self._slow, self._pause, self._crash, self._crash, self._crash_all, self._leave)
        engine = (self._elect, self._elect, self._lose_quorum, self._compact, self._compact, self._stall, self._lag, self._fill, self._fill)
        chance.choice((*ways, *engine, self._step_clock))()

    def _some(self) -> list[OrderedNode]:
        """One worker, or all of one machine."""
        node = self.chance.choice(self.world.nodes)
        return self.chance.choice(([node], node.machine.workers))

    def _part(self) -> None:
        world, chance = self.world, self.chance
        links = [link for node in self._some() for link in world.away(node)]
        links = chance.choice((links, links, links[::2], links[1::2], chance.sample(links, len(links) // 2)))
        world.cut(*links)
        world.after(self._a_while(), None, world.mend, *links)

    def _part_server(self) -> None:
        """A server loses the others, and nodes go on asking it."""
        world = self.world
        server = self.chance.choice(world.engine.servers)
        others = {other.number for other in world.engine.servers if other is not server}
        links = between({server.number}, others)
        world.cut(*links)
        world.after(self._a_while(), None, world.mend, *links)
        if server is world.engine.leader:
            world.engine.elect(self.chance.uniform(1, 3))

    def _slow(self) -> None:
        link = self.chance.choice([link for node in self._some() for link in self.world.away(node)])
        self.world.links.slow_s[link] = self.chance.choice((0.05, 0.4, 2.0)) * self.chance.random()
        self.world.after(self._a_while(), None, self._quicken, link)

    def _pause(self) -> None:
        until = min(self.world.time + self._a_while(), START_S + TROUBLE_S)
        for node in self._some():
            node.paused_until = until

    def _crash(self) -> None:
        for node in self._some():
            if node.up:
                node.crash()
                self.world.after(self._a_while(), None, self._restart, node)

    def _crash_all(self) -> None:
        for node in self.world.nodes:
            if node.up and self.chance.random() < 0.7:
                node.crash()
                self.world.after(self._a_while(), None, self._restart, node)

    def _leave(self) -> None:
        for node in self._some():
            if node.up and node.paused_until <= self.world.time:
                node.leave()
                self.world.after(0.1 + self._a_while(), None, self._restart, node)

    def _elect(self) -> None:
        self.world.engine.elect(self.chance.uniform(1, 3))

    def _lose_quorum(self) -> None:
        self.world.engine.ready_at = self.world.time + self._a_while()

    def _compact(self) -> None:
        self.world.engine.compact()

    def _fill(self) -> None:
        """The engine is full, or only the servers that some ask."""
        engine = self.world.engine
        numbers = {node.number for node in self.chance.choice((self.world.nodes, self.world.nodes, self._some()))}
        engine.refuses |= numbers
        self.world.after(self._a_while(), None, engine.refuses.difference_update, numbers)

    def _stall(self) -> None:
        self.world.engine.stall(self._a_while())

    def _lag(self) -> None:
        server = self.chance.choice(self.world.engine.servers)
        server.lag_s = self.chance.choice((0.05, 0.5, 3.0)) * self.chance.random()
        self.world.after(self._a_while(), None, setattr, server, "lag_s", 0.0)

    def _move_clock(self, machine: Machine, by_ms: float) -> None:
        for node in machine.workers:
            node.wall_off_ms += by_ms

    def _step_clock(self) -> None:
        machine = self.chance.choice(self.world.machines)
        step = self.chance.choice((-HOUR_MS, -45_000, -1000, 1000, 45_000, HOUR_MS))
        # One clock at a time, and the next one once the last is known to be right again: a majority of wrong clocks is the time.
        # A node that has never heard another one must believe its own clock.
        free = self.world.time > self.clocks_right_at and self.wrong_clock in (None, machine)
        if self.clocks_step and free and all(node.knows_the_time for node in machine.workers):
            self._move_clock(machine, step)
            self.wrong_clock = machine
            self.world.after(self._a_while(), None, self._set_clock, machine)

    def _restart(self, node: OrderedNode) -> None:
        if node.machine is self.wrong_clock:
            self._set_clock(node.machine)  # a node that starts alone with a wrong clock cannot notice that
        if node.leaving:
            node.crash()
        super()._restart(node)

    def _set_clock(self, machine: Machine) -> None:
        for node in machine.workers:
            node.set_clock()
        self.wrong_clock, self.clocks_right_at = None, self.world.time + 3

    # All is well again.

    def _mend(self) -> None:
        engine = self.world.engine
        engine.ready_at = self.world.time
        engine.refuses.clear()
        engine.stall(0.0)
        for server in engine.servers:
            server.lag_s = 0.0
        super()._mend()
