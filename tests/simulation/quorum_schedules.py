"""Directed schedules for ``peers://``: the story behind each rule. The right rules hold in it, and the broken one does not.

Random schedules alone prove little: hardly one in a thousand has members that take turns in forgetting. The stories are
told of any world: of the simulation, where the core is real, and of the one in ``tests/cluster/whole.py``, where nodes are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ha_session_mw._core.cluster.proven_lead import PROVEN_AFTER_S
from ha_session_mw._core.quorum.log import Quorum

from .directed import OVER_S, AnyNode, AnyWorld, ask_for, isolate, log_in
from .node import LIMIT_S
from .quorum_node import QuorumWorld
from .quorum_variants import QuorumVariant
from .world import CERTAINLY_AFTER_S, HOUR_MS, Findings, around, between


class AnyQuorumNode(AnyNode, Protocol):
    """The further parts of a node that these schedules use."""

    @property
    def quorum(self) -> Quorum: ...
    def holds_poll_of(self, other: int) -> bool: ...
    def leave(self) -> None: ...


class AnyQuorumWorld(AnyWorld, Protocol):
    """A world of such nodes."""

    @property
    def nodes(self) -> Sequence[AnyQuorumNode]: ...


class Begin(Protocol):
    """Returns a cluster that has just become ready."""

    def __call__(self, nodes: int, *, slow_clock: int | None = None) -> AnyQuorumWorld: ...


def simulated(variant: QuorumVariant) -> Begin:
    """In the simulation, by these rules."""
    return lambda nodes, *, slow_clock=None: cluster(nodes, variant, slow_clock=slow_clock)


def cluster(nodes: int, variant: QuorumVariant, *, slow_clock: int | None = None) -> QuorumWorld:
    """A cluster that has just become ready."""
    world = QuorumWorld(nodes, variant=variant)
    for node in world.nodes:
        if slow_clock is not None:
            node.rate = 0.99 if node.number == slow_clock else 1.01
        world.at(0.0, None, node.start)
    world.run(2)
    assert not any(node.quorum.recovering for node in world.nodes)
    return world


def a_slow_answer_is_no_fresh_one(begin: Begin) -> Findings:
    """The answers to node 2 take almost as long as a poll may. Entries acknowledged meanwhile are not in them."""
    world = begin(3)
    one, last = world.nodes[1], world.nodes[2]
    session = log_in(one)
    world.slow((0, 2), (1, 2), by_s=0.45)
    world.run(3)
    while world.nodes[0].holds_poll_of(2):
        world.run(0.001)
    # The answer of node 0 is under way; nothing else reaches node 2, and nothing that it asks is heard.
    world.cut((1, 2), (2, 0), (2, 1))
    one.revoke(session)
    ask_for(world, last, session, 4)
    return world.findings


def a_pause_after_the_look_up(begin: Begin) -> Findings:
    """A node out of contact looks a session up, pauses, and is back in contact when it asks whether it is fresh."""
    world = begin(3)
    session = log_in(world.nodes[0])
    isolate(world, 2)
    world.run(0.5)
    world.nodes[0].revoke(session)
    world.run(4)
    assert session.fenced_at < world.time
    world.nodes[2].request(session, (0.0, 2.0))
    world.mend(*around(2, len(world.nodes)))
    world.run(4)
    return world.findings


def a_session_that_was_accepted_just_before(begin: Begin) -> Findings:
    """Node 2 has accepted the session under the view that it had, and hears of the log-out then."""
    world = begin(3)
    session = log_in(world.nodes[0])
    ask_for(world, world.nodes[2], session, 1)
    world.nodes[0].revoke(session)
    world.run(1)
    assert session.fenced_at < world.time
    ask_for(world, world.nodes[2], session, 1)
    return world.findings


def a_lease_on_a_slow_clock(begin: Begin) -> Findings:
    """Node 2 renews its lease, is cut off, and its clock is 1 % slow while the one that waits for it is 1 % fast."""
    world = begin(3, slow_clock=2)
    *others, session = [log_in(world.nodes[0]) for _ in range(3)]
    for other in others:
        world.nodes[1].revoke(other)  # news, so that every poll is answered just now; at the second time those that were just sent
        world.run(0.009)
    isolate(world, 2)
    world.nodes[1].revoke(session)
    ask_for(world, world.nodes[2], session, 4)
    return world.findings


def a_member_out_of_contact(begin: Begin) -> Findings:
    """Node 2 is cut off, and a majority knows of a log-out."""
    world = begin(3)
    session = log_in(world.nodes[0])
    isolate(world, 2)
    world.nodes[0].revoke(session)
    ask_for(world, world.nodes[2], session, 4)
    return world.findings


def two_alone_are_no_majority(begin: Begin) -> Findings:
    """Nodes 3 and 4 have only each other."""
    world = begin(5)
    session = log_in(world.nodes[0])
    world.cut(*between({0, 1, 2}, {3, 4}))
    world.nodes[0].revoke(session)
    ask_for(world, world.nodes[4], session, 4)
    return world.findings


def back_from_one_who_never_knew(begin: Begin) -> Findings:
    """Nodes 0 and 1 know; node 1 forgets, and comes back to node 2, which was away."""
    world = begin(3)
    session = log_in(world.nodes[0])
    isolate(world, 2)
    world.nodes[0].revoke(session)
    world.run(4)
    world.nodes[1].crash()
    isolate(world, 0)
    world.mend((1, 2), (2, 1))
    world.nodes[1].start()
    ask_for(world, world.nodes[2], session, 4)
    return world.findings


def _take_turns(begin: Begin, *, heard: bool) -> Findings:
    world = begin(5)
    session = log_in(world.nodes[0])
    isolate(world, 0)
    isolate(world, 1)
    world.mend((0, 1), (1, 0))
    world.run(0.6)
    world.nodes[0].revoke(session)
    world.run(2.5)  # node 1 has it, and has said so
    _forget_and_learn(world, 1, from_whom={2, 3, 4}, heard_by={0} if heard else set())
    isolate(world, 2)
    world.mend((0, 2), (2, 0))
    world.run(2.5)  # node 2 has it, and has said so
    _forget_and_learn(world, 2, from_whom={1, 3, 4}, heard_by=set())
    for _ in range(4):
        ask_for(world, world.nodes[3], session, 1)
    return world.findings


def _forget_and_learn(world: AnyQuorumWorld, number: int, *, from_whom: set[int], heard_by: set[int]) -> None:
    """Crash a node, and restart it among members that never knew the entry. Members that hear it cannot answer."""
    world.nodes[number].crash()
    isolate(world, number)
    world.mend(*between({number}, from_whom))
    world.mend(*((number, other) for other in heard_by))
    world.nodes[number].start()
    world.run(2.5)


def taking_turns_in_forgetting(begin: Begin) -> Findings:
    """Nodes 1 and 2 acknowledge one after the other, and each forgets before the next one does. Node 0 hears of it."""
    return _take_turns(begin, heard=True)


def taking_turns_in_forgetting_unheard(begin: Begin) -> Findings:
    """Nodes 1 and 2 take turns in forgetting, and node 0 cannot know that node 1 has started anew."""
    return _take_turns(begin, heard=False)


def taking_turns_before_a_newcomer(begin: Begin) -> Findings:
    """Nodes 0, 1 and 2 know. Node 0 forgets, and is shown by 1 and then by 2 an empty memory, though never both at once."""
    world = begin(5)
    session = log_in(world.nodes[1])
    world.cut(*between({0, 1, 2}, {3, 4}))
    world.nodes[1].revoke(session)
    world.run(4)
    assert session.fenced_at < world.time
    for number in (0, 1):
        world.nodes[number].crash()
        isolate(world, number)
    world.mend(*between({0}, {1, 3, 4}))
    world.nodes[0].start()
    world.nodes[1].start()
    world.run(1)  # node 0 has learned from 3 and 4, which never knew, and heard 1, which has forgotten
    isolate(world, 1)
    world.mend(*between({1}, {3, 4}))
    world.run(1.5)
    world.cut(*between({1}, {3, 4}))
    world.mend(*between({1}, {2}))
    world.run(2.5)  # a poll on a dead link is given up after 1 s, and tried again within another; node 1 knows again, from node 2
    assert not world.nodes[1].quorum.recovering
    isolate(world, 1)
    world.nodes[2].crash()
    isolate(world, 2)
    world.mend((0, 2), (2, 0))
    world.nodes[2].start()
    world.run(1.5)  # and now it is node 2 that has forgotten
    ask_for(world, world.nodes[3], session, 4)
    return world.findings


def a_page_of_a_member_that_has_all(begin: Begin) -> Findings:
    """Node 4 forgets, and reads one page of node 0, which has all that the others have. The further pages of node 0 are slow to come."""
    world = begin(5)
    sessions = [log_in(world.nodes[0]) for _ in range(4)]
    for session in sessions:
        world.nodes[0].revoke(session)
    world.run(4)
    assert session.fenced_at < world.time
    world.nodes[4].crash()
    for node in world.nodes[:4]:
        node.quorum.page_entries = 1
    world.slow((1, 4), (2, 4), (3, 4), by_s=0.3)
    world.nodes[4].start()
    while not world.nodes[4].quorum.provenance.had:
        world.run(0.0005)
    world.slow((0, 4), by_s=0.4)
    world.slow((1, 4), (2, 4), (3, 4), by_s=0.0)
    ask_for(world, world.nodes[4], session, 4)
    return world.findings


def a_yes_from_before(begin: Begin) -> Findings:
    """Node 4 has lost its lease long ago, and hears from node 0 only: first a yes, and a good while later that it is no more."""
    world = begin(5)
    session = log_in(world.nodes[1])
    world.cut(*between({4}, {1, 2, 3}))
    world.run(3)
    world.nodes[4].request(session)
    world.run(0.3)
    assert world.findings.accepted
    world.slow((0, 4), by_s=1.0)
    world.nodes[1].revoke(session)
    ask_for(world, world.nodes[4], session, 3)
    return world.findings


def a_clock_that_steps_forth_and_back(begin: Begin) -> Findings:
    """One clock goes ahead by an hour, beyond the end of the revoked session, and comes back."""
    world = begin(3)
    world.nodes[0].session_ms = HOUR_MS // 4
    session = log_in(world.nodes[0])
    world.nodes[0].revoke(session)
    world.run(1)
    world.nodes[2].step_wall(HOUR_MS)
    ask_for(world, world.nodes[2], session, 2)
    world.nodes[2].set_clock()
    ask_for(world, world.nodes[2], session, 2)
    return world.findings


def all_clocks_step_forth_and_back(begin: Begin) -> Findings:
    """All clocks go ahead by an hour, for so long that they are trusted. So entries end; but the sessions they denied stay refused."""
    world = begin(3)
    world.nodes[0].session_ms = HOUR_MS // 4
    session = log_in(world.nodes[0])
    world.nodes[0].revoke(session)
    world.run(1)
    for node in world.nodes:
        node.step_wall(HOUR_MS)
    world.run(2)
    assert all(node.view.denied for node in world.nodes)
    world.run(PROVEN_AFTER_S)
    assert not any(node.view.denied for node in world.nodes)
    for node in world.nodes:
        node.set_clock()
    for node in world.nodes:
        ask_for(world, node, session, 1)
    return world.findings


def a_witness_who_lacks_the_entry(begin: Begin) -> Findings:
    """Node 3 reported node 4 as unreachable, then answered it unseen, without the entry that node 4 needs."""
    world = begin(5)
    session = log_in(world.nodes[0])
    isolate(world, 4)
    world.run(OVER_S + 2)  # all say of node 4 that they have not answered it
    world.cut(*between({3}, {0, 1, 2}))
    world.mend(*between({4}, {2, 3}))
    world.run(OVER_S + 2)  # nodes 0 and 1 have answered neither 3 nor 4; node 2 answers 4
    world.slow((2, 4), by_s=1.0)
    world.nodes[0].revoke(session)
    ask_for(world, world.nodes[4], session, 4)
    return world.findings


def a_node_whose_polls_are_lost(begin: Begin) -> Findings:
    """The polls of node 2, which are held for long in a quiet time, are answered once more. Then none arrives any more.

    Its lease counts from when those polls were sent. One log-out after the other comes until it is certainly over.
    """
    world = begin(3)
    sessions = [log_in(world.nodes[0]) for _ in range(16)]
    world.run(4)
    world.cut((2, 0), (2, 1))
    world.run(LIMIT_S / 4)
    for session in sessions:
        world.nodes[0].revoke(session)
        world.run(0.05)
        ask_for(world, world.nodes[2], session, 0.15)
    world.run(OVER_S)
    return world.findings


def a_cut_that_a_node_has_not_heard_of(begin: Begin) -> Findings:
    """Node 2 knows one cut, and is away when another replaces it. A session that lists the new one is no fault of the client's."""
    world = begin(3)
    world.cut_subject(world.nodes[0], "somebody")
    world.run(1)
    isolate(world, 2)
    world.cut_subject(world.nodes[0], "somebody")
    world.run(3)
    session = log_in(world.nodes[0])
    assert session.untouched
    ask_for(world, world.nodes[2], session, 1)
    world.mend(*around(2, len(world.nodes)))
    world.run(2)
    ask_for(world, world.nodes[2], session, 1)
    assert world.findings.accepted
    return world.findings


def a_log_out_made_good_late(begin: Begin) -> Findings:
    """Node 0, cut off, logs a subject out. The subject logs in anew at node 1 meanwhile, and that session stays when node 0 is back.

    For the simulation alone: the real nodes of these tests keep no journal, so their clients log out again until there is a majority.
    """
    world = begin(3)
    before = log_in(world.nodes[1])
    isolate(world, 0)
    world.run(1)
    world.cut_subject(world.nodes[0], "somebody")
    world.run(CERTAINLY_AFTER_S + 1)
    session = log_in(world.nodes[1])
    assert session.untouched
    world.mend(*around(0, len(world.nodes)))
    world.run(3)
    for node in world.nodes:
        ask_for(world, node, session, 0.1)
        ask_for(world, node, before, 0.1)
    assert world.findings.refused
    assert world.findings.accepted or world.findings.refused_without_cause
    return world.findings


def with_files(variant: QuorumVariant) -> QuorumWorld:
    """Three nodes with files, which have just become ready."""
    world = QuorumWorld(3, variant=variant, files=frozenset(range(3)))
    for node in world.nodes:
        world.at(0.0, None, node.start)
    world.run(2)
    assert all(node.is_ready() for node in world.nodes)
    return world


def a_full_disk(variant: QuorumVariant) -> QuorumWorld:
    """Node 2 can keep no log-out, and runs on."""
    world = with_files(variant)
    world.nodes[2].write_s = OVER_S
    session = log_in(world.nodes[0])
    world.run(1)
    world.nodes[0].revoke(session)
    return world


def a_full_disk_on_a_node_that_ends(variant: QuorumVariant) -> Findings:
    """Node 2 has applied a log-out, and ends before it has kept it, and before node 1 has. So it comes back without the log-out."""
    world = with_files(variant)
    world.nodes[1].write_s, world.nodes[2].write_s = 0.5, OVER_S
    session = log_in(world.nodes[0])
    world.run(1)
    world.nodes[0].revoke(session)
    world.run(0.2)
    world.nodes[2].crash()
    world.cut(*between({0}, {2}))
    world.nodes[2].start()
    world.run(0.2)
    assert world.nodes[2].is_ready()
    world.cut(*between({1}, {2}))
    ask_for(world, world.nodes[2], session, LIMIT_S)
    assert world.findings.accepted_revoked
    return world.findings


def a_new_id_that_only_a_minority_hears_of(variant: QuorumVariant) -> Findings:
    """Nodes 0 and 1 of five are cut off. A client wants a new id at node 0, is refused, and goes on with the old one."""
    world = cluster(5, variant)
    session = log_in(world.nodes[2])
    world.run(1)
    world.cut(*between({0, 1}, {2, 3, 4}))
    world.nodes[0].cycle(session)
    world.run(1.5)
    world.mend(*between({0, 1}, {2, 3, 4}))
    world.run(3)
    assert world.findings.new_ids == 0
    for node in world.nodes:
        ask_for(world, node, session, 0.1)
    assert world.findings.accepted or world.findings.refused_without_cause
    return world.findings


def a_new_id_when_contact_is_lost_at_the_last_moment(variant: QuorumVariant) -> Findings:
    """Node 0 is cut off right after a majority has answered it. The client gets its new id, which is good everywhere in the end."""
    world = cluster(3, variant)
    session = log_in(world.nodes[1])
    world.run(1)
    world.nodes[0].cycle(session)
    while not session.replacing:
        world.run(0.0005)
    isolate(world, 0)
    world.run(1.5)
    world.mend(*around(0, 3))
    world.run(3)
    assert world.findings.new_ids == 1
    for node in world.nodes:
        ask_for(world, node, world.sessions[-1], 0.1)
        ask_for(world, node, session, 0.1)
    assert world.findings.accepted
    assert world.findings.refused
    return world.findings


def a_log_out_that_is_lost_with_its_nodes(variant: QuorumVariant) -> QuorumWorld:
    """Nodes 0 and 1 are cut off, log a subject out that logs in there at once, and are killed: nobody has heard of that log-out."""
    world = cluster(5, variant)
    world.cut(*between({0, 1}, {2, 3, 4}))
    world.cut_subject(world.nodes[0], "somebody")
    world.run(0.2)
    for node in world.nodes:
        node.log_in()
        node.log_in("another")
    for node in world.nodes[:2]:
        node.crash()
    world.mend(*between({0, 1}, {2, 3, 4}))
    for node in world.nodes[:2]:
        node.start()
    world.run(4)
    assert all(node.is_ready() for node in world.nodes)
    return world


def a_log_out_by_a_slow_clock(begin: Begin) -> Findings:
    """Node 0 is 25 s slow, which is trusted, and logs a subject out that has just logged in at node 1."""
    world = begin(3)
    world.nodes[0].step_wall(-25_000)
    world.run(2)
    session = log_in(world.nodes[1])
    world.run(1)
    world.cut_subject(world.nodes[0], "somebody")
    world.run(4)
    assert session.fenced_at < world.time
    for node in world.nodes:
        ask_for(world, node, session, 0.1)
    return world.findings


def a_yes_on_a_wrong_clock(begin: Begin) -> Findings:
    """Node 4 hears node 0 only, and asks it. With the yes under way the session is logged out at node 4; then its clock goes wrong."""
    world = begin(5)
    last, session = world.nodes[4], log_in(world.nodes[0])
    world.cut(*between({4}, {1, 2, 3}))
    world.run(3)
    world.slow((0, 4), by_s=0.15)
    last.request(session)
    world.run(0.1)
    last.revoke(session)
    last.request(session)
    assert world.findings.refused == 1
    last.step_wall(HOUR_MS)
    world.run(0.3)
    assert not world.findings.unanswered
    return world.findings


def a_good_bye(begin: Begin) -> Findings:
    """Node 2 says good-bye, and clients still reach it. The next log-out waits for it no more."""
    world = begin(3)
    session = log_in(world.nodes[0])
    world.nodes[2].leave()
    world.run(0.2)
    isolate(world, 2)
    world.nodes[0].revoke(session)
    ask_for(world, world.nodes[2], session, 3)
    assert session.fenced_at < world.time
    return world.findings


def back_by_the_word_of_another(begin: Begin) -> Findings:
    """Node 2 says good-bye to all, comes back as a process that node 0 does not hear, and has its lease from node 1."""
    world = begin(3)
    session = log_in(world.nodes[0])
    world.nodes[2].leave()
    world.run(0.2)
    world.nodes[2].crash()
    world.nodes[2].start()
    world.run(2)
    isolate(world, 2)
    world.run(OVER_S + 1)  # the answers of node 0 to the new process ground no lease any more
    world.mend((1, 2), (2, 1))
    world.run(3)
    world.cut((1, 2), (2, 1))
    world.nodes[0].revoke(session)
    ask_for(world, world.nodes[2], session, 4)
    return world.findings


def a_good_bye_that_comes_late(begin: Begin) -> Findings:
    """The good-bye of node 2 arrives when the next process of node 2 has its lease already."""
    world = begin(3)
    session = log_in(world.nodes[0])
    world.slow((2, 0), (2, 1), by_s=2.0)
    world.nodes[2].leave()
    world.run(0.05)
    world.slow((2, 0), (2, 1), by_s=0.0)
    world.nodes[2].crash()
    world.nodes[2].start()
    world.run(1.3)
    world.slow((2, 0), (2, 1), by_s=9.0)
    world.run(0.7)  # its polls have been answered, and its good-bye arrives
    isolate(world, 2)
    world.nodes[0].revoke(session)
    ask_for(world, world.nodes[2], session, 4)
    return world.findings


Schedule = Callable[[Begin], Findings]

CAUGHT_BY: dict[str, Schedule] = {
    "stamped on reply": a_slow_answer_is_no_fresh_one,
    "read after the look-up": a_pause_after_the_look_up,
    "an entry that raises no generation": a_session_that_was_accepted_just_before,
    "fence 10 % short": a_lease_on_a_slow_clock,
    "no fence": a_member_out_of_contact,
    "fresh after any one poll": two_alone_are_no_majority,
    "back after a mere majority": back_from_one_who_never_knew,
    "summed over incarnations": taking_turns_in_forgetting,
    "not heard again": taking_turns_in_forgetting_unheard,
    "each for itself": taking_turns_in_forgetting_unheard,
    "first start one by one": taking_turns_before_a_newcomer,
    "accepts after its good-bye": a_good_bye,
    "gone by one word": back_by_the_word_of_another,
    "gone for ever": a_good_bye_that_comes_late,
    "a page for the whole": a_page_of_a_member_that_has_all,
    "a peer's yes kept": a_yes_from_before,
    "purged by the clock": a_clock_that_steps_forth_and_back,
    "witnesses without the entry": a_witness_who_lacks_the_entry,
    "silent for a hold less": a_node_whose_polls_are_lost,
    "cuts without the tolerance of clocks": a_log_out_by_a_slow_clock,
}
"""The schedule that catches each broken variant."""
EVERY_SCHEDULE: tuple[Schedule, ...] = (
    *CAUGHT_BY.values(),
    all_clocks_step_forth_and_back,
    a_cut_that_a_node_has_not_heard_of,
    a_yes_on_a_wrong_clock,
)
