"""``peers://``: the rules hold on a network that does everything wrong, and each of them is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ha_session_mw._core.cluster.invariants import InvariantBroken

from ..thinning import thinned
from . import quorum_chaos
from .directed import OVER_S, log_in
from .node import LIMIT_S
from .quorum_node import QuorumWorld
from .quorum_schedules import (
    CAUGHT_BY,
    EVERY_SCHEDULE,
    Schedule,
    a_full_disk,
    a_full_disk_on_a_node_that_ends,
    a_log_out_made_good_late,
    a_log_out_that_is_lost_with_its_nodes,
    a_new_id_that_only_a_minority_hears_of,
    a_new_id_when_contact_is_lost_at_the_last_moment,
    cluster,
    simulated,
)
from .quorum_variants import APPLIED_AT_ONCE, BROKEN, DENIED_FIRST, LAST_REASON, LISTS_ANYTHING, RIGHT, UNDATED_CUTS, QuorumVariant
from .world import Findings

pytestmark = pytest.mark.long

PARTS = 5
SEEDS_A_PART = 8


@pytest.mark.parametrize("part", thinned(range(PARTS), range(1)))
def test_no_random_schedule_breaks_a_rule(part: int) -> None:
    for seed in range(part * SEEDS_A_PART, (part + 1) * SEEDS_A_PART):
        found = quorum_chaos.run(seed, leaving=bool(seed % 2))
        assert found.accepted_after_fence == 0, seed
        assert found.refused_without_cause == 0, seed
        assert found.flipped == 0, seed
        assert found.never_healed == 0, seed


def test_a_clock_that_swings_within_tolerance_refuses_no_request() -> None:
    # The median moves with the members that are heard, so a node's own tokens once came from 67 s in its future.
    assert quorum_chaos.run(8971).faults == 0


def test_a_node_with_a_wrong_clock_takes_no_yes_for_a_session_that_it_knows_to_be_denied() -> None:
    # Its clock was asked before its view, so a peer's yes once passed for a session that it had refused itself.
    assert quorum_chaos.run(43007).faults == 0


def test_a_session_that_a_log_out_excepts_is_valid_under_its_next_id() -> None:
    # The judge knew the excepted session by its token alone, and took its next id for a session that was logged out.
    assert quorum_chaos.run(319, cycles=4.0).faults == 0


def test_the_random_schedules_are_worth_something() -> None:
    found = quorum_chaos.run(3)
    for seed in (4, 6, 7):
        found.add(quorum_chaos.run(seed))
    assert found.accepted_revoked > 0
    assert found.refused > 100
    assert found.unanswered > 10
    assert found.fenced > 10


@pytest.mark.parametrize("seed", [3, 17])
def test_a_seed_replays_exactly(seed: int) -> None:
    def trace() -> list[tuple[object, ...]]:
        run = quorum_chaos.QuorumChaos(seed)
        run.world.trace = []
        run.run()
        return run.world.trace

    first = trace()
    assert len(first) > 1000
    assert first == trace()


@pytest.mark.parametrize("schedule", [*EVERY_SCHEDULE, a_log_out_made_good_late], ids=lambda schedule: schedule.__name__)
def test_a_directed_schedule_breaks_no_rule(schedule: Schedule) -> None:
    assert schedule(simulated(RIGHT)).faults == 0


@pytest.mark.parametrize(("variant", "useless"), [(RIGHT, 0), (LISTS_ANYTHING, 2)], ids=["right", "broken"])
def test_no_token_lists_a_log_out_that_can_be_lost(variant: QuorumVariant, useless: int) -> None:
    world = a_log_out_that_is_lost_with_its_nodes(variant)
    assert len(world.sessions) == 8 + useless
    assert world.useless_tokens() == useless


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_variant_is_caught(name: str) -> None:
    assert CAUGHT_BY[name](simulated(BROKEN[name])).accepted_after_fence > 0


def test_no_log_out_waits_for_the_lease_of_a_node_that_cannot_keep_it_and_runs() -> None:
    world = a_full_disk(RIGHT)
    world.run(0.5)
    assert world.findings.fenced == 1
    world.run(2 * OVER_S)
    assert world.findings.faults == 0


@pytest.mark.parametrize(("variant", "is_caught"), [(RIGHT, False), (APPLIED_AT_ONCE, True)], ids=["right", "broken"])
def test_a_log_out_waits_for_the_lease_of_a_node_that_could_not_keep_it_and_has_ended(variant: QuorumVariant, is_caught: bool) -> None:
    assert (a_full_disk_on_a_node_that_ends(variant).accepted_after_fence > 0) is is_caught


def test_a_cut_without_a_time_ends_sessions_that_began_after_it() -> None:
    assert a_log_out_made_good_late(simulated(UNDATED_CUTS)).refused_without_cause > 0


@pytest.mark.parametrize(("variant", "turned_back"), [(RIGHT, False), (LAST_REASON, True)], ids=["right", "broken"])
def test_a_session_that_was_logged_out_is_never_told_to_be_superseded(variant: QuorumVariant, turned_back: bool) -> None:
    world = cluster(3, variant)
    session = log_in(world.nodes[0])
    world.nodes[0].revoke(session, replaced=True)
    world.run(1)
    for node in world.nodes:
        node.request(session)
    world.run(1)
    assert world.findings.superseded == 3
    world.nodes[1].revoke(session)
    world.run(1)
    for node in world.nodes:
        node.request(session)
    world.run(1)
    world.nodes[1].revoke(session, replaced=True)
    world.run(1)
    for node in world.nodes:
        node.request(session)
    world.run(1)
    assert (world.findings.turned_back > 0) is turned_back
    assert world.findings.accepted == 0


NEW_IDS = [a_new_id_that_only_a_minority_hears_of, a_new_id_when_contact_is_lost_at_the_last_moment]


@pytest.mark.parametrize("schedule", NEW_IDS, ids=lambda schedule: schedule.__name__)
def test_no_client_is_left_without_a_session_by_a_change_of_its_id(schedule: Callable[[QuorumVariant], Findings]) -> None:
    assert schedule(RIGHT).faults == 0


def test_an_id_that_is_denied_before_the_log_confirms_it_leaves_a_client_without_a_session() -> None:
    assert a_new_id_that_only_a_minority_hears_of(DENIED_FIRST).refused_without_cause > 0


def test_no_random_schedule_leaves_a_client_without_a_session() -> None:
    total = Findings()
    for seed in range(6):
        found = quorum_chaos.run(seed, cycles=4.0)
        assert found.faults == 0, seed
        total.add(found)
    assert total.new_ids > 20
    assert any(quorum_chaos.run(seed, cycles=4.0, variant=DENIED_FIRST).refused_without_cause for seed in range(6))


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("fence 10 % short", "a fence waits for every lease that any member may hold"),
        ("purged by the clock", "no entry leaves the view before the floor has passed its end"),
    ],
)
def test_a_rule_that_is_broken_in_the_open_is_caught_at_its_first_step(name: str, broken: str) -> None:
    with pytest.raises(InvariantBroken, match=broken):
        CAUGHT_BY[name](simulated(replace(BROKEN[name], checks=True)))


def fenced_after(world: QuorumWorld, session_of: int, revoked_by: int) -> float:
    session = log_in(world.nodes[session_of])
    began = world.time
    world.nodes[revoked_by].revoke(session)
    world.run(4)
    return session.fenced_at - began


@pytest.mark.parametrize("nodes", [3, 5, 9])
def test_a_healthy_cluster_fences_in_a_few_round_trips(nodes: int) -> None:
    world = cluster(nodes, RIGHT)
    assert fenced_after(world, 0, 1) < 8 * world.links.least_s


def test_a_dead_member_costs_its_wait_once() -> None:
    world = cluster(3, RIGHT)
    world.nodes[2].crash()
    assert LIMIT_S < fenced_after(world, 0, 1) < LIMIT_S * 1.02 + 0.1
    assert fenced_after(world, 0, 1) < 0.02
    assert fenced_after(world, 1, 0) < 0.02


@pytest.mark.parametrize("nodes", [3, 5])
def test_a_member_that_has_left_costs_nothing(nodes: int) -> None:
    world = cluster(nodes, RIGHT)
    world.nodes[2].leave()
    world.run(0.1)
    world.nodes[2].crash()
    assert fenced_after(world, 0, 1) < 0.02


def test_a_good_bye_that_one_member_missed_costs_the_wait_where_it_is_needed() -> None:
    world = cluster(3, RIGHT)
    world.cut((2, 1))
    world.nodes[2].leave()
    world.run(0.5)
    world.nodes[2].crash()
    assert LIMIT_S / 2 < fenced_after(world, 0, 1) < LIMIT_S * 1.02 + 0.1


def test_two_members_cannot_lose_one() -> None:
    world = cluster(2, RIGHT)
    session = log_in(world.nodes[0])
    world.nodes[1].crash()
    world.run(LIMIT_S + 1)
    assert not world.nodes[0].quorum.has_quorum(world.nodes[0].now())
    world.nodes[0].revoke(session)
    world.nodes[0].request(session)
    other = world.new_session(world.nodes[0], subject="other", cuts=(), now_ms=int(world.nodes[0].wall_ms()), life_ms=10**7)
    world.nodes[0].request(other)
    world.run(4)
    assert (world.findings.refused, world.findings.unanswered) == (1, 1)
    assert session.fenced_at > world.time


def test_an_idle_cluster_exchanges_heartbeats_and_nothing_else() -> None:
    world = cluster(3, RIGHT)
    fenced_after(world, 0, 1)
    world.trace = []
    world.run(10)
    polls = sum(act == "on_poll" for _, _, act in world.trace)
    assert polls <= 6 * 10 / 0.5
