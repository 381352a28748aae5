"""An ordered log: the rules hold on an engine that does everything wrong but forget, and each of them is needed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.ordered.log import Ordered
from ha_session_mw._core.ordered.ready import EntryPut, Item

from ..thinning import thinned
from . import ordered_chaos
from .directed import OVER_S, log_in
from .node import LIMIT_S
from .ordered_node import OrderedNode, OrderedWorld
from .ordered_schedules import (
    CAUGHT_BY,
    EVERY_SCHEDULE,
    Schedule,
    a_log_out_that_is_lost_with_its_node,
    a_new_id_out_of_contact,
    cluster,
)
from .ordered_variants import BROKEN, DENIED_FIRST, LISTS_ANYTHING, RIGHT, OrderedVariant

pytestmark = pytest.mark.long

PARTS = 3
SEEDS_A_PART = 10


@pytest.mark.parametrize("part", thinned(range(PARTS), range(1)))
def test_no_random_schedule_breaks_a_rule(part: int) -> None:
    for seed in range(part * SEEDS_A_PART, (part + 1) * SEEDS_A_PART):
        found = ordered_chaos.run(seed)
        assert found.accepted_after_fence == 0, seed
        assert found.refused_without_cause == 0, seed
        assert found.flipped == 0, seed
        assert found.never_healed == 0, seed


@pytest.mark.parametrize("seed", [192, 229])
def test_the_first_cuts_of_a_log_are_not_taken_for_those_of_an_earlier_one(seed: int) -> None:
    # By a node whose clock was behind that of the log's maker.
    assert ordered_chaos.run(seed).faults == 0


def test_the_random_schedules_are_worth_something() -> None:
    found = ordered_chaos.run(3)
    for seed in (4, 6, 7):
        found.add(ordered_chaos.run(seed))
    assert found.accepted_revoked > 0
    assert found.refused > 100
    assert found.unanswered > 10
    assert found.fenced > 10


def test_no_client_is_left_without_a_session_by_a_change_of_its_id() -> None:
    assert a_new_id_out_of_contact(RIGHT).faults == 0
    assert a_new_id_out_of_contact(DENIED_FIRST).refused_without_cause > 0


@pytest.mark.parametrize("seed", [3, 17])
def test_a_seed_replays_exactly(seed: int) -> None:
    def trace() -> list[tuple[object, ...]]:
        run = ordered_chaos.OrderedChaos(seed)
        run.world.trace = []
        run.run()
        return run.world.trace

    first = trace()
    assert len(first) > 1000
    assert first == trace()


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE, ids=lambda schedule: schedule.__name__)
def test_a_directed_schedule_breaks_no_rule(schedule: Schedule) -> None:
    assert schedule(RIGHT).faults == 0


@pytest.mark.parametrize(("variant", "useless"), [(RIGHT, 0), (LISTS_ANYTHING, 1)], ids=["right", "broken"])
def test_no_token_lists_a_log_out_that_can_be_lost(variant: OrderedVariant, useless: int) -> None:
    world = a_log_out_that_is_lost_with_its_node(variant)
    assert len(world.sessions) == 5 + useless
    assert world.useless_tokens() == useless


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_variant_is_caught(name: str) -> None:
    assert CAUGHT_BY[name](BROKEN[name]).accepted_after_fence > 0


def fenced_after(world: OrderedWorld, session_of: OrderedNode, revoked_by: OrderedNode) -> float:
    session = log_in(session_of)
    began = world.time
    revoked_by.revoke(session)
    world.run(4)
    return session.fenced_at - began


@pytest.mark.parametrize(("machines", "workers"), [(1, 1), (1, 4), (3, 1), (3, 4), (9, 1)])
def test_a_healthy_cluster_fences_as_soon_as_a_beat_may_be_brought_forward(machines: int, workers: int) -> None:
    world = cluster(machines, RIGHT, workers=workers)
    assert fenced_after(world, world.nodes[0], world.nodes[-1]) < 0.05


def test_a_dead_worker_costs_its_wait_once() -> None:
    world = cluster(2, RIGHT, workers=2)
    one, dead, *others = world.nodes
    dead.crash()
    assert LIMIT_S - 0.6 < fenced_after(world, one, others[0]) < OVER_S + 0.1
    assert fenced_after(world, one, others[0]) < 0.05
    assert fenced_after(world, one, others[1]) < 0.05


def test_a_member_that_leaves_in_good_order_costs_no_wait() -> None:
    world = cluster(3, RIGHT)
    world.nodes[2].leave()
    world.run(0.1)
    assert fenced_after(world, world.nodes[0], world.nodes[1]) < 0.05


def test_a_quiet_cluster_puts_its_heartbeats_and_nothing_else() -> None:
    world = cluster(3, RIGHT)
    fenced_after(world, world.nodes[0], world.nodes[1])
    position = world.engine.position
    world.run(10)
    assert world.engine.position - position <= 3 * 10 / 0.5 + 3


class Overlooks(Ordered):
    """Node 2 overlooks the first change with an entry that it receives."""

    overlooked = False

    def _apply(self, position: int, items: Sequence[Item], now: Moment) -> None:
        if not self.overlooked and self.slot.startswith("m2.") and any(isinstance(item, EntryPut) for item in items):
            self.overlooked, items = True, []
        super()._apply(position, items, now)


def test_a_node_that_missed_an_entry_is_detected_by_the_digests_and_all_load_again() -> None:
    world = cluster(3, OrderedVariant("overlooks", ordered=Overlooks))
    session = log_in(world.nodes[0])
    world.nodes[0].revoke(session)
    world.run(0.02)
    assert session.claims.sid not in world.nodes[2].view.denied
    world.run(0.1)
    assert session.claims.sid in world.nodes[2].view.denied
    world.run(0.6)
    assert all(node.is_ready() for node in world.nodes)
