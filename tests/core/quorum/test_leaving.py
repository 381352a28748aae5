"""Pushes and good-byes between members of ``peers://``, message by message. The simulation tests many of them together."""

from __future__ import annotations

import math

import msgspec
import pytest

from ha_session_mw._core.cluster.freshness import fence_wait_s
from ha_session_mw._core.quorum.messages import Poll, Push, decode_poll, decode_push, encode
from ha_session_mw._core.quorum.ready import Hold
from ha_session_mw.events import MemberLeft
from ha_session_mw.models import NodeId

from .test_log import LIMIT_S, OVER_S, A, B, C, D, E, Member, at, deny, exchange, member, started, talk


def push(one: Member, other: Member, seconds: float) -> Poll:
    """A push and the poll that acknowledges it, over the wire."""
    sent = decode_push(encode(one.push(other.me, at(seconds))))
    other._obey(other.quorum.pushed(sent, at(seconds)), at(seconds))
    poll = decode_poll(encode(other.poll(one.me, at(seconds)).poll))
    one._obey(one.quorum.push_answered(other.me, poll, at(seconds)), at(seconds))
    return poll


def say_good_bye(one: Member, *others: Member, seconds: float) -> None:
    one._obey(one.quorum.leave(at(seconds)), at(seconds))
    for other in others:
        push(one, other, seconds)


@pytest.mark.parametrize(("members", "rounds"), [((A, B, C), 1), ((A, B, C, D, E), 2)], ids=["three", "five"])
def test_a_log_out_that_nobody_fetches_is_pushed_and_fenced(members: tuple[str, ...], rounds: int) -> None:
    one, *others = started(*members)
    receipt = one.append([deny("x")], at(1))
    for _ in range(rounds):
        assert one.standing(receipt) != "fenced"
        for other in others:
            push(one, other, 1.0)
    assert all("x" in other.view.denied for other in others)
    assert one.standing(receipt) == "fenced"
    assert not any(one.wants_push(url, at(2), after_s=0.0) for url in (B, C))


def test_a_push_makes_its_callee_no_fresher() -> None:
    one, two, three = started(A, B, C)
    fresh_at = two.view.fresh_at
    push(one, two, 1.0)
    push(three, two, 1.0)
    assert two.view.fresh_at == fresh_at


def test_a_peer_that_polls_gets_no_push() -> None:
    one, two, _ = started(A, B, C)
    assert not one.wants_push(B, at(0), after_s=0.0)  # it has everything
    one.append([deny("x")], at(3))
    assert not one.wants_push(B, at(3), after_s=3.5)  # it has polled lately
    assert one.wants_push(B, at(3), after_s=0.5)
    exchange(two, one, at(3))
    assert not one.wants_push(B, at(3), after_s=0.5)


def test_a_push_that_begins_after_what_the_callee_holds_is_not_acknowledged() -> None:
    one, two, three = started(A, B, C)
    one.append([deny("x")], at(1))
    exchange(two, one, at(1))
    exchange(two, one, at(1))  # it acknowledges the first one
    one.append([deny("y")], at(1))
    gap = one.push(B, at(1))
    assert gap.answer.since == 1
    three._obey(three.quorum.pushed(gap, at(1)), at(1))
    assert "y" in three.view.denied
    assert three.poll(A, at(1)).poll.position == 0


def test_a_late_push_takes_no_acknowledgement_back() -> None:
    one, two, _ = started(A, B, C)
    early = one.push(B, at(1))
    one.append([deny("x")], at(1))
    exchange(two, one, at(1))
    assert two.poll(A, at(1)).poll.position == 1
    two._obey(two.quorum.pushed(early, at(2)), at(2))
    assert two.poll(A, at(2)).poll.position == 1


@pytest.mark.parametrize("urls", [(A, B, C), (A, B, C, D, E)])
def test_the_log_out_after_a_good_bye_waits_for_nobody(urls: tuple[str, ...]) -> None:
    *staying, last = started(*urls)
    say_good_bye(last, *staying, seconds=1.0)
    receipt = staying[0].append([deny("x")], at(1))
    talk(at(1), *staying, rounds=5)
    assert staying[0].standing(receipt) == "fenced"


def test_the_log_out_after_a_good_bye_that_one_of_two_missed_waits_until_every_lease_is_over() -> None:
    one, two, last = started(A, B, C)
    say_good_bye(last, one, seconds=1.0)
    receipt = one.append([deny("x")], at(1))
    talk(at(1), one, two)
    assert one.standing(receipt) == "durable"
    one.tick(at(1 + OVER_S))
    assert one.standing(receipt) == "fenced"


def test_a_member_that_has_left_is_never_fresh_again_but_reads_on() -> None:
    one, two, last = started(A, B, C)
    assert last.is_ready(at(0))
    say_good_bye(last, one, two, seconds=1.0)
    one.append([deny("x")], at(1))
    talk(at(1), one, two, last)
    assert last.view.fresh_at == -math.inf
    assert not last.is_ready(at(1))
    assert "x" in last.view.denied  # its open streams end with their sessions


def test_a_member_that_has_left_holds_nothing_for_the_others() -> None:
    one, two, last = started(A, B, C)
    say_good_bye(last, one, two, seconds=1.0)
    receipt = one.append([deny("x")], at(1))
    talk(at(1), one, last)
    assert one.standing(receipt) == "applied"  # two of three: but the second one is about to end
    assert not one.has_quorum(at(1 + LIMIT_S + 1))


def test_a_good_bye_is_one_event_and_a_later_poll_of_the_same_process_none() -> None:
    one, two, last = started(A, B, C)
    say_good_bye(last, one, two, seconds=1.0)
    exchange(last, one, at(1))
    exchange(one, last, at(1))
    assert one.take_events() == [MemberLeft(NodeId(C))]
    assert [heartbeat.url for heartbeat in one.members.live(at(1).boot_s)] == [B]
    one.tick(at(1 + OVER_S + 1))
    assert [event.member for event in one.take_events() if isinstance(event, MemberLeft)] == [NodeId(B)]


def test_a_limit_counts_until_the_leases_are_over_that_it_gave() -> None:
    one, two, last = (member(url, A, B, C) for url in (A, B, C))
    last.members.own = msgspec.structs.replace(last.members.own, freshness_limit_s=2 * LIMIT_S)
    last.members.compare_limits()
    talk(at(0), one, two, last)
    say_good_bye(last, one, two, seconds=1.0)
    long_s = fence_wait_s(2 * LIMIT_S)
    assert one.members.fence_wait_s == long_s
    one.tick(at(1 + long_s - 1))
    assert one.members.fence_wait_s == long_s
    one.tick(at(1 + long_s + 1))
    assert one.members.fence_wait_s == fence_wait_s(LIMIT_S)


def test_the_next_process_of_a_member_that_has_left_is_a_member_like_any_other() -> None:
    one, two, last = started(A, B, C)
    say_good_bye(last, one, two, seconds=1.0)
    back = member(C, A, B, C, life="next", now=at(2))
    talk(at(2), one, two, back)
    assert back.is_ready(at(2))
    receipt = one.append([deny("x")], at(3))
    talk(at(3), one, two)
    assert one.standing(receipt) == "durable"  # and the fence waits for it
    talk(at(3), one, two, back, rounds=5)
    assert one.standing(receipt) == "fenced"


def test_an_answer_to_a_poll_that_the_process_before_the_last_left_behind_makes_nobody_wait() -> None:
    one, two, last = started(A, B, C)
    left_behind = [other.quorum.arrived(last.poll(other.me, at(0.5)).poll, at(0.5))[0] for other in (one, two)]
    say_good_bye(last, one, two, seconds=1.0)
    back = member(C, A, B, C, life="next", now=at(2))
    talk(at(2), one, two, back)
    say_good_bye(back, one, two, seconds=3.0)
    for other, hold in zip((one, two), left_behind, strict=True):  # its server has not noticed that nobody waits for it
        other.quorum.peers[C].has_answered(hold.life, at(3).boot_s, asked_s=hold.since_s)
    receipt = one.append([deny("x")], at(3))
    talk(at(3), one, two, rounds=5)
    assert one.standing(receipt) == "fenced"


def test_a_good_bye_that_comes_after_the_next_process_was_answered_changes_nothing() -> None:
    one, two, last = started(A, B, C)
    last._obey(last.quorum.leave(at(1)), at(1))
    late = [last.push(url, at(1)) for url in (A, B)]
    back = member(C, A, B, C, life="next", now=at(2))
    talk(at(2), one, two, back)
    for other, good_bye in zip((one, two), late, strict=True):
        other._obey(other.quorum.pushed(good_bye, at(2)), at(2))
    receipt = one.append([deny("x")], at(3))
    talk(at(3), one, two)
    assert one.standing(receipt) == "durable"


def test_a_good_bye_to_an_earlier_process_of_this_node_leaves_open_whom_that_one_answered() -> None:
    _, two, last = started(A, B, C)
    last._obey(last.quorum.leave(at(1)), at(1))
    good_bye = last.push(A, at(1))
    again = member(A, A, B, C, life="again", now=at(2))
    talk(at(2), again, two)
    again._obey(again.quorum.pushed(good_bye, at(2)), at(2))
    assert again.quorum._silent(at(2)) == ()
    assert again.quorum._silent(at(2 + OVER_S + 1)) != ()


def test_a_push_of_another_list_is_not_taken_in() -> None:
    one, _, _ = started(A, B, C)
    stranger = member(B, A, B, D)
    stranger.append([deny("x")], at(1))
    sent = stranger.push(A, at(1))
    one._obey(one.quorum.pushed(sent, at(1)), at(1))
    assert "x" not in one.view.denied


def test_a_poll_held_for_a_member_that_says_good_bye_grounds_no_lease() -> None:
    one, two, last = started(A, B, C)
    hold = one.arrived(last.poll(A, at(1)).poll, at(1))
    assert isinstance(hold, Hold)
    say_good_bye(last, one, two, seconds=1.0)
    assert one.release(hold, at(2.6)) is not None
    receipt = one.append([deny("x")], at(3))
    talk(at(3), one, two)
    assert one.standing(receipt) == "fenced"


def test_a_push_is_read_with_a_field_of_a_later_release() -> None:
    one, *_ = started(A, B, C)
    sent = one.push(B, at(1))
    fields = msgspec.msgpack.decode(encode(sent))
    assert decode_push(msgspec.msgpack.encode([*fields, "a field of a later release"])) == sent
    assert isinstance(sent, Push)
