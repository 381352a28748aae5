"""Directed schedules for an ordered log: the story behind each rule. The right rules pass, and the broken variant fails."""

from __future__ import annotations

from collections.abc import Callable

from ha_session_mw._core.cluster.proven_lead import PROVEN_AFTER_S

from .directed import OVER_S, ask_for, log_in
from .ordered_node import OrderedWorld
from .ordered_variants import OrderedVariant
from .world import HOUR_MS, Findings, between


def cluster(machines: int, variant: OrderedVariant, *, workers: int = 1, slow_clock: int | None = None) -> OrderedWorld:
    """A cluster that has just become ready."""
    world = OrderedWorld(machines, workers, variant=variant)
    for node in world.nodes:
        if slow_clock is not None:
            node.rate = 0.99 if node.machine.number == slow_clock else 1.01
        world.at(0.0, None, node.start)
    world.run(2)
    assert all(node.is_ready() for node in world.nodes)
    return world


def a_beat_that_comes_back_late(variant: OrderedVariant) -> Findings:
    """Node 2 reads the log 1.5 s late. Entries acknowledged meanwhile were logged after the beat that it reads."""
    world = cluster(3, variant)
    one, last = world.nodes[1], world.nodes[2]
    session = log_in(one)
    for slow_s in (0.4, 0.8, 1.2, 1.5):  # little by little, lest the stream is taken for dead
        world.links.slow_s.update(dict.fromkeys([link for link in world.away(last) if link[1] == last.number], slow_s))
        world.run(1)
    spoken = last.log.speaker.spoken
    while last.log.speaker.spoken == spoken:
        world.run(0.001)
    world.run(0.05)  # the beat is in the log
    one.revoke(session)
    ask_for(world, last, session, 1.48)
    world.cut(*world.away(last), *between({2}, {0, 1}))  # just as it has been read, and the log-out has not
    ask_for(world, last, session, 3)
    return world.findings


def a_log_out_that_is_lost_with_its_node(variant: OrderedVariant) -> OrderedWorld:
    """Node 0 cannot reach the engine, logs a subject out that logs in there at once, and is killed: nobody has heard of that log-out."""
    world = cluster(3, variant)
    world.cut(*world.away(world.nodes[0]))
    world.cut_subject(world.nodes[0], "somebody")
    world.run(0.2)
    for node in world.nodes:
        node.log_in()
        node.log_in("another")
    world.nodes[0].crash()
    world.mend(*world.away(world.nodes[0]))
    world.nodes[0].start()
    world.run(OVER_S + 2)
    assert all(node.is_ready() for node in world.nodes)
    return world


def a_new_id_out_of_contact(variant: OrderedVariant) -> Findings:
    """Node 0 cannot reach the engine. A client wants a new id there, is refused, and goes on with the old one."""
    world = cluster(3, variant)
    session = log_in(world.nodes[1])
    world.run(1)
    world.cut(*world.away(world.nodes[0]))
    world.nodes[0].cycle(session)
    world.run(1.5)
    world.mend(*world.away(world.nodes[0]))
    world.run(4)
    assert world.findings.new_ids == 0
    for node in world.nodes:
        ask_for(world, node, session, 0.1)
    world.nodes[0].cycle(session)
    world.run(1)
    assert world.findings.new_ids == 1 or variant.denies_first
    return world.findings


def a_stream_that_is_silent(variant: OrderedVariant) -> Findings:
    """The engine takes all that node 2 writes, and its streams bring nothing."""
    world = cluster(3, variant)
    session = log_in(world.nodes[1])
    world.engine.stall(8)
    world.nodes[1].revoke(session)
    ask_for(world, world.nodes[2], session, 6)
    return world.findings


def a_pause_after_the_look_up(variant: OrderedVariant) -> Findings:
    """A node out of contact looks a session up, pauses, and is back in contact when it asks whether it is fresh."""
    world = cluster(3, variant)
    session = log_in(world.nodes[0])
    world.cut(*world.away(world.nodes[2]))
    world.run(0.5)
    world.nodes[0].revoke(session)
    world.run(4)
    assert session.fenced_at < world.time
    world.nodes[2].request(session, (1.0, 1.0))
    world.mend(*world.away(world.nodes[2]))
    world.run(4)
    return world.findings


def a_session_that_was_accepted_just_before(variant: OrderedVariant) -> Findings:
    """Node 2 has accepted the session under the view that it had, and hears of the log-out then."""
    world = cluster(3, variant)
    session = log_in(world.nodes[0])
    ask_for(world, world.nodes[2], session, 1)
    world.nodes[0].revoke(session)
    world.run(2)
    assert session.fenced_at < world.time
    ask_for(world, world.nodes[2], session, 1)
    return world.findings


def a_lease_on_a_slow_clock(variant: OrderedVariant) -> Findings:
    """Node 2 renews its lease, is cut off, and its clock is 1 % slow while the one that waits for it is 1 % fast."""
    world = cluster(3, variant, slow_clock=2)
    last, session = world.nodes[2], log_in(world.nodes[0])
    fresh_at = last.view.fresh_at
    while last.view.fresh_at == fresh_at:
        world.run(0.001)
    world.cut(*world.away(last))
    world.nodes[1].revoke(session)
    ask_for(world, last, session, 4)
    return world.findings


def a_member_out_of_contact(variant: OrderedVariant) -> Findings:
    """Node 2 is cut off from the engine."""
    world = cluster(3, variant)
    session = log_in(world.nodes[0])
    world.cut(*world.away(world.nodes[2]))
    world.nodes[0].revoke(session)
    ask_for(world, world.nodes[2], session, 4)
    return world.findings


def a_worker_whose_fellows_have_confirmed(variant: OrderedVariant) -> Findings:
    """Node 1 has four workers. Three of them read the log, the fourth one is cut off."""
    world = cluster(2, variant, workers=4)
    cut_off = world.machines[1].workers[3]
    session = log_in(world.nodes[0])
    world.cut(*world.away(cut_off))
    world.nodes[0].revoke(session)
    ask_for(world, cut_off, session, 4)
    return world.findings


def a_stream_that_broke_before_it_brought_the_news(variant: OrderedVariant) -> Findings:
    """Streams are silent. Node 2 hears that writes of its own were taken, follows on, and is then the only one whom the engine hears."""
    world = cluster(3, variant)
    session = log_in(world.nodes[0])
    world.cut(*between({2}, {0, 1}))
    world.engine.stall(OVER_S + 0.5)
    world.nodes[0].revoke(session)
    world.run(OVER_S + 0.2)
    assert session.fenced_at < world.time
    # Their digests would tell node 2 that it has missed something.
    world.cut(*world.away(world.nodes[0]), *world.away(world.nodes[1]))
    ask_for(world, world.nodes[2], session, 3)
    return world.findings


def ended_by_clocks_that_step_forth_and_back(variant: OrderedVariant) -> Findings:
    """All clocks are an hour ahead for long. Log-outs end and leave the log, so a node that starts later knows them by the floor only."""
    world = cluster(3, variant)
    world.nodes[0].session_ms = HOUR_MS // 4
    session = log_in(world.nodes[0])
    world.nodes[0].revoke(session)
    world.run(1)
    for node in world.nodes:
        node.wall_off_ms += HOUR_MS
    world.run(2)
    assert any(key.startswith("deny/") for key in world.engine.state)
    world.run(PROVEN_AFTER_S)
    assert not any(key.startswith("deny/") for key in world.engine.state)
    for node in world.nodes:
        node.set_clock()
    for node in world.nodes:
        node.crash()
        node.start()
    world.run(2 + OVER_S)
    for node in world.nodes:
        ask_for(world, node, session, 1)
    return world.findings


def a_yes_from_before(variant: OrderedVariant) -> Findings:
    """Node 2 has lost its lease long ago, and hears from node 0 only: first a yes, and a good while later that it is no more."""
    world = cluster(3, variant)
    session = log_in(world.nodes[1])
    world.cut(*world.away(world.nodes[2]), *between({1}, {2}))
    world.run(3)
    world.nodes[2].request(session)
    world.run(0.3)
    assert world.findings.accepted
    world.links.slow_s[0, 2] = 1.0
    world.nodes[1].revoke(session)
    ask_for(world, world.nodes[2], session, 3)
    return world.findings


def a_cut_that_a_node_has_not_heard_of(variant: OrderedVariant) -> Findings:
    """Node 2 is away when one cut replaces another. A session that lists the new one is no fault of the client's."""
    world = cluster(3, variant)
    last = world.nodes[2]
    world.cut_subject(world.nodes[0], "somebody")
    world.run(1)
    world.cut(*world.away(last), *between({2}, {0, 1}))
    world.cut_subject(world.nodes[0], "somebody")
    world.run(3)
    session = log_in(world.nodes[0])
    assert session.untouched
    ask_for(world, last, session, 1)
    world.links.cut.clear()
    world.run(3)
    ask_for(world, last, session, 1)
    assert world.findings.accepted
    return world.findings


def left_alone_with_a_clock_that_steps(variant: OrderedVariant) -> Findings:
    """All others have died some time ago when the clock of the last one goes ahead by an hour. That ends no session."""
    world = cluster(3, variant)
    last = world.nodes[2]
    last.session_ms = HOUR_MS // 4
    session = log_in(last)
    for node in world.nodes[:2]:
        node.crash()
    world.run(OVER_S + 2)
    assert last.is_ready()
    last.wall_off_ms += HOUR_MS
    ask_for(world, last, session, 2)
    last.set_clock()
    ask_for(world, last, session, 1)
    assert world.findings.accepted
    return world.findings


def a_clock_that_was_wrong_from_the_start(variant: OrderedVariant) -> Findings:
    """A node starts with a clock that is an hour off, is cut off, and then the only one left."""
    world = cluster(3, variant)
    last, session = world.nodes[2], log_in(world.nodes[0])
    last.crash()
    last.wall_off_ms -= HOUR_MS
    last.start()
    world.run(OVER_S + 1)
    ask_for(world, last, session, 1)
    world.cut(*world.away(last))
    ask_for(world, last, session, 3)
    world.mend(*world.away(last))
    for node in world.nodes[:2]:
        node.crash()
    world.run(2 * OVER_S)
    ask_for(world, last, session, 2)
    assert not world.findings.accepted
    return world.findings


def the_engine_is_restored_from_an_old_backup(variant: OrderedVariant) -> Findings:
    """The engine lost the log-outs since the backup. Nodes that know of them validate nothing until an operator decides."""
    world = cluster(3, variant)
    session, other = log_in(world.nodes[0]), log_in(world.nodes[0])
    backup = dict(world.engine.state), world.engine.position
    world.nodes[1].revoke(session)
    world.run(1)
    assert session.fenced_at < world.time
    world.engine.restore(*backup)
    for _ in range(6):
        for node in world.nodes:
            ask_for(world, node, session, 0.5)
    assert all(node.log.rolled_back for node in world.nodes)
    accepted = world.findings.accepted
    for node in world.nodes:
        ask_for(world, node, other, 0.5)
    assert world.findings.accepted == accepted
    return world.findings


def fill(world: OrderedWorld, *numbers: int) -> None:
    """The engine refuses what these nodes write; all of them, if none is named."""
    world.engine.refuses = set(numbers or range(len(world.nodes)))


def full_for_long_and_then_a_member_is_cut_off(variant: OrderedVariant) -> Findings:
    """Nobody can write for 20 s, all go on. Node 2 is cut off just before there is room again, and the others know its last heartbeat."""
    world = cluster(3, variant)
    session = log_in(world.nodes[1])
    fill(world)
    for _ in range(20):
        world.run(1)
        accepted = world.findings.accepted
        for node in world.nodes:
            ask_for(world, node, session, 0.01)
        assert world.findings.accepted == accepted + 3
    last, fresh_at = world.nodes[2], world.nodes[2].view.fresh_at
    while last.view.fresh_at == fresh_at:
        world.run(0.001)
    world.cut(*world.away(last), *between({2}, {0, 1}))
    world.engine.refuses.clear()
    world.run(0.6)  # the others write again
    world.nodes[1].revoke(session)
    ask_for(world, last, session, 4)
    return world.findings


def the_first_write_after_a_standstill(variant: OrderedVariant) -> Findings:
    """As before, and the log-out is the very first write, before any heartbeat of the node that writes it."""
    world = cluster(3, variant)
    one, last = world.nodes[1], world.nodes[2]
    session = log_in(one)
    fill(world)
    one.revoke(session)
    world.run(10)
    fresh_at = last.view.fresh_at
    while last.view.fresh_at == fresh_at:
        world.run(0.001)
    world.cut(*world.away(last), *between({2}, {0, 1}))
    world.engine.refuses.clear()
    ask_for(world, last, session, 4)
    assert session.fenced_at < world.time
    return world.findings


def full_for_one_member_alone(variant: OrderedVariant) -> Findings:
    """Only the server that node 2 asks is full. The others write, and do not know that node 2 can read."""
    world = cluster(3, variant)
    session = log_in(world.nodes[1])
    last = world.nodes[2]
    last.paused_until = world.time + 0.25  # it never asks just when the others write
    world.run(0.5)
    fill(world, 2)
    ask_for(world, last, session, 6)
    fresh_at = last.view.fresh_at
    for _ in range(600):
        if last.view.fresh_at == fresh_at:
            world.run(0.001)
    world.cut(*world.away(last), *between({2}, {0, 1}))
    world.nodes[1].revoke(session)
    ask_for(world, last, session, 4)
    return world.findings


def full_behind_a_stream_that_is_silent(variant: OrderedVariant) -> Findings:
    """The streams bring nothing, a log-out is written, and then nobody can write any more. Reads would show it."""
    world = cluster(3, variant)
    session = log_in(world.nodes[1])
    world.engine.stall(12)
    world.nodes[1].revoke(session)
    world.run(0.1)
    fill(world)
    ask_for(world, world.nodes[2], session, 8)
    world.engine.refuses.clear()
    return world.findings


Schedule = Callable[[OrderedVariant], Findings]

CAUGHT_BY: dict[str, Schedule] = {
    "stamped on reply": a_beat_that_comes_back_late,
    "fresh when acknowledged": a_stream_that_is_silent,
    "read after the look-up": a_pause_after_the_look_up,
    "an entry that raises no generation": a_session_that_was_accepted_just_before,
    "fence 10 % short": a_lease_on_a_slow_clock,
    "no fence": a_member_out_of_contact,
    "one worker for four": a_worker_whose_fellows_have_confirmed,
    "resumed after what was not delivered": a_stream_that_broke_before_it_brought_the_news,
    "snapshot without the floor": ended_by_clocks_that_step_forth_and_back,
    "a peer's yes kept": a_yes_from_before,
    "silence in a standstill ends leases": full_for_long_and_then_a_member_is_cut_off,
    "reads count at once": full_for_one_member_alone,
    "reads that look at nothing": full_behind_a_stream_that_is_silent,
}
"""Which broken variant each schedule is there to catch."""
EVERY_SCHEDULE: tuple[Schedule, ...] = (
    *CAUGHT_BY.values(),
    the_first_write_after_a_standstill,
    a_cut_that_a_node_has_not_heard_of,
    left_alone_with_a_clock_that_steps,
    a_clock_that_was_wrong_from_the_start,
    the_engine_is_restored_from_an_old_backup,
)
