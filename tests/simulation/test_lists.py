"""``peers://`` with a member list that changes: no two majorities, no outage, and each rule is needed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ..thinning import thinned
from . import list_chaos
from .list_schedules import CAUGHT_BY, CHANGES, log_out_at_each, walk
from .list_variants import BROKEN_LISTS
from .quorum_variants import RIGHT

pytestmark = pytest.mark.long


LONGEST = {"a first start among others", "the new list before the move"}
"""``make prove`` tells these with the right rules, too; ``make test`` with the broken ones, and shorter stories with both."""


@pytest.mark.parametrize("name", thinned(CAUGHT_BY, [name for name in CAUGHT_BY if name not in LONGEST]))
def test_no_rule_is_broken_in_the_story_behind_it(name: str) -> None:
    assert CAUGHT_BY[name](RIGHT).faults == 0


@pytest.mark.parametrize("name", BROKEN_LISTS)
def test_a_broken_variant_is_caught(name: str) -> None:
    assert CAUGHT_BY[name](BROKEN_LISTS[name]).accepted_after_fence > 0


@pytest.mark.parametrize("files", [True, False], ids=["files", "memory"])
@pytest.mark.parametrize(("old", "new"), CHANGES, ids=str)
def test_a_list_changes_one_node_at_a_time_without_an_outage(old: Sequence[int], new: Sequence[int], files: bool) -> None:
    operator = walk(RIGHT, old, new, files=files)
    operator.joint()
    operator.ask(1)
    assert {node.quorum.membership.phase for node in operator.world.nodes if node.up} == {"moved"}
    operator.on()
    assert all(operator.world.nodes[number].is_ready() for number in new)
    log_out_at_each(operator)
    assert operator.unserved == []
    assert operator.world.findings.faults == 0


@pytest.mark.parametrize("files", [True, False], ids=["files", "memory"])
@pytest.mark.parametrize(("old", "new"), CHANGES[:2], ids=str)
def test_until_all_have_both_lists_the_way_back_is_open(old: Sequence[int], new: Sequence[int], files: bool) -> None:
    operator = walk(RIGHT, old, new, files=files)
    for number in (*operator.newcomers, *old[:-1]):
        operator.replace(number, old, new)
    operator.back()
    assert all(operator.world.nodes[number].is_ready() for number in old)
    log_out_at_each(operator)
    assert operator.unserved == []
    assert operator.world.findings.faults == 0


def test_a_dead_member_of_the_new_list_is_no_obstacle_once_an_operator_goes_on() -> None:
    operator = walk(RIGHT, (0, 1, 2), (0, 1, 2, 3, 4), files=True)
    operator.newcomers.remove(4)
    operator.joint()
    operator.ask(4)
    assert {node.quorum.membership.phase for node in operator.world.nodes if node.up} == {"joint"}
    operator.replace(0, operator.new)
    operator.ask(5)
    assert {node.quorum.membership.phase for node in operator.world.nodes if node.up} == {"moved", "steady"}
    assert operator.world.nodes[0].is_ready()
    assert {number for number, _ in operator.unserved} <= {0}  # it waits for the others to give up the old list


PARTS = 2
SEEDS_A_PART = 5


@pytest.mark.parametrize("part", thinned(range(PARTS), [0]))
def test_no_random_schedule_with_a_careless_operator_breaks_a_rule(part: int) -> None:
    for seed in range(part * SEEDS_A_PART, (part + 1) * SEEDS_A_PART):
        found = list_chaos.run(seed)
        assert found.accepted_after_fence == found.refused_without_cause == found.flipped == 0, seed


def test_a_list_can_change_again_and_back_to_what_it_was() -> None:
    old, new = (0, 1, 2), (0, 1, 2, 3, 4)
    operator = walk(RIGHT, old, new, files=True)
    for _ in range(2):
        operator.joint()
        operator.on()
        operator.__init__(operator.world, operator.new, operator.old)  # type: ignore[misc]
        assert all(operator.world.nodes[number].is_ready() for number in operator.old)
    log_out_at_each(operator)
    assert operator.unserved == []
    assert operator.world.findings.faults == 0
