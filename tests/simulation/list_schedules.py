"""Directed schedules for a member list that changes: the story behind each rule, and the way that an operator goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .directed import OVER_S, ask_for, isolate, log_in
from .quorum_node import QuorumNode, QuorumWorld
from .quorum_variants import QuorumVariant
from .world import Findings, between

FIVE, THREE = (0, 1, 2, 3, 4), (0, 1, 2)


def begin(variant: QuorumVariant, current: Sequence[int], *, nodes: int = 0, files: bool = True) -> QuorumWorld:
    """A cluster of these members that has just become ready, on some more machines."""
    count = nodes or max(current) + 1
    world = QuorumWorld(count, variant=variant, files=frozenset(range(count)) if files else frozenset())
    for number in current:
        world.nodes[number].current = current
        world.at(0.0, None, world.nodes[number].start)
    world.run(2)
    assert all(world.nodes[number].is_ready() for number in current)
    return world


def restart(world: QuorumWorld, numbers: Sequence[int], current: Sequence[int], coming: Sequence[int] = ()) -> None:
    """One node after another gets these lists."""
    for number in numbers:
        world.nodes[number].restart(current, coming)
        world.run(1)


# Stories.


def two_lists_with_a_majority_each(variant: QuorumVariant) -> Findings:
    """Of five nodes, two are restarted with a list of three. They are a majority of it, and the other three are one of the old list."""
    world = begin(variant, FIVE)
    session = log_in(world.nodes[0])
    for number in (0, 1):
        world.nodes[number].restart(THREE)
    world.run(1)
    world.nodes[2].revoke(session)
    _ask_where_it_runs(world, world.nodes[0], session)
    return world.findings


def a_joint_node_among_newcomers(variant: QuorumVariant) -> Findings:
    """Node 2 has both lists, as the newcomers 3 and 4, and is cut off from 0 and 1, a majority of the old list."""
    world = begin(variant, THREE, nodes=5)
    session = log_in(world.nodes[0])
    restart(world, (3, 4, 2), THREE, (2, 3, 4))
    world.cut(*between({0, 1}, {2, 3, 4}))
    world.nodes[0].revoke(session)
    ask_for(world, world.nodes[2], session, 4)
    return world.findings


def on_to_the_new_list_too_early(variant: QuorumVariant) -> Findings:
    """Nodes 0 and 1 get both lists, and then the new one alone, while the other three have only the old one."""
    world = begin(variant, FIVE)
    session = log_in(world.nodes[0])
    restart(world, (0, 1), FIVE, THREE)
    restart(world, (0, 1), THREE)
    world.nodes[3].revoke(session)
    _ask_where_it_runs(world, world.nodes[0], session)
    return world.findings


def a_newcomer_with_a_lease(variant: QuorumVariant) -> Findings:
    """Node 2 has only the old list, and does not wait for the newcomer 3, which it does not know. Node 3 is cut off."""
    world = begin(variant, THREE, nodes=4)
    session = log_in(world.nodes[0])
    restart(world, (3, 0, 1), THREE, (0, 1, 2, 3))
    world.run(1)
    isolate(world, 3)
    world.nodes[2].revoke(session)
    ask_for(world, world.nodes[3], session, 4)
    return world.findings


def a_first_start_that_is_none(variant: QuorumVariant) -> Findings:
    """Without files, nodes 0 and 1 of five are restarted with a list that names a newcomer: all of that list have nothing to forget."""
    world = begin(variant, FIVE, nodes=6, files=False)
    session = log_in(world.nodes[0])
    for number in (0, 1, 5):
        world.nodes[number].restart((0, 1, 5))
    world.run(2)
    world.nodes[2].revoke(session)
    ask_for(world, world.nodes[0], session, 4)
    return world.findings


def one_node_for_two_majorities(variant: QuorumVariant) -> Findings:
    """Without files, nodes 0 and 1 go on to the new list while node 2 has both, and nodes 3 and 4 have only the old one."""
    world = begin(variant, FIVE, files=False)
    session = log_in(world.nodes[0])
    restart(world, THREE, FIVE, THREE)
    restart(world, (0, 1), THREE)
    world.cut(*between({0, 1}, {2, 3, 4}))
    world.nodes[3].revoke(session)
    ask_for(world, world.nodes[0], session, 4)
    return world.findings


def _ask_where_it_runs(world: QuorumWorld, node: QuorumNode, session: object) -> None:
    if node.up:
        ask_for(world, node, session, 4)  # type: ignore[arg-type]
    else:
        world.run(4)


ListSchedule = Callable[[QuorumVariant], Findings]
CAUGHT_BY: dict[str, ListSchedule] = {
    "a file under any list": two_lists_with_a_majority_each,
    "a majority of the new list only": a_joint_node_among_newcomers,
    "the new list before the move": on_to_the_new_list_too_early,
    "newcomers serve": a_newcomer_with_a_lease,
    "a first start among others": a_first_start_that_is_none,
    "counts with old and new at once": one_node_for_two_majorities,
}
"""The schedule that catches each broken variant."""


# The way that an operator goes.


PAUSE_S = 0.5
"""Pause between two rounds of requests."""


class Operator:
    """Changes the list of a cluster one node at a time, while users ask every node that is ready."""

    def __init__(self, world: QuorumWorld, old: Sequence[int], new: Sequence[int]) -> None:
        self.world = world
        self.old = old
        self.new = new
        self.newcomers = [number for number in new if number not in old]
        self.staying = [number for number in old if number in new]
        self.leaving = [number for number in old if number not in new]
        self.unserved: list[tuple[int, str]] = []

    def joint(self) -> None:
        """Give both lists to all nodes: first to the newcomers, last to those that leave."""
        for number in (*self.newcomers, *self.leaving, *self.staying):
            self.replace(number, self.old, self.new)

    def on(self) -> None:
        """Give the new list alone to all of its nodes, and stop the others."""
        for number in self.new:
            self.replace(number, self.new)
        for number in self.leaving:
            self.world.nodes[number].crash()

    def back(self) -> None:
        """Give the old list alone to those that have both."""
        for number in self.old:
            if self.world.nodes[number].up and self.world.nodes[number].coming:
                self.replace(number, self.old)
        for number in self.newcomers:
            self.world.nodes[number].crash()

    def replace(self, number: int, current: Sequence[int], coming: Sequence[int] = (), *, down_s: float = 3.0) -> None:
        """Stop a node, let time pass, start it with these lists, and wait until it is ready, if it ever will be."""
        node = self.world.nodes[number]
        if node.up:
            node.crash()
            self.ask(down_s)
        node.restart(current, coming)
        self.ask(1.0)

    def ask(self, seconds: float) -> None:
        """Let users ask each node that is ready, for so long. Each is answered, but by a node that leaves in this moment."""
        for _ in range(round(seconds / PAUSE_S)):
            for node in self.world.nodes:
                if node.up and node.is_ready() and (session := node.log_in()) is not None:
                    before = self.world.findings.unanswered
                    node.request(session)
                    if self.world.findings.unanswered > before:
                        self.unserved.append((node.number, node.quorum.membership.phase))
            ready = [node.number for node in self.world.nodes if node.up and node.is_ready()]
            down = [number for number in self.expected() if number not in ready]
            self.unserved += [(number, "not ready") for number in down]
            self.world.run(PAUSE_S)

    def expected(self) -> list[int]:
        """Return the nodes that must serve: those that ran a while ago, and stay."""
        served_s = 1.5
        return [number for number in self.staying if (node := self.world.nodes[number]).up and self.world.time - node.started_at > served_s]


CHANGES = ((THREE, FIVE), (FIVE, THREE), (THREE, (0, 1, 3)), (THREE, (0, 3, 4)))
"""Growing, shrinking and replacing, as far as each list survives the restart of one node."""


def walk(variant: QuorumVariant, old: Sequence[int], new: Sequence[int], *, files: bool) -> Operator:
    """A cluster whose list is about to change."""
    return Operator(begin(variant, old, nodes=max(*old, *new) + 1, files=files), old, new)


def log_out_at_each(operator: Operator) -> None:
    """Log a session out at each node that is ready, and ask all others for it once that is fenced."""
    world = operator.world
    for node in world.nodes:
        if node.up and node.is_ready():
            session = log_in(node)
            node.revoke(session)
            world.run(OVER_S + 0.5)
            assert session.fenced_at < world.time
            for other in world.nodes:
                if other.up:
                    other.request(session)
