"""Members of neighbouring releases: each writes to the others in the highest version that both read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ha_session_mw._core.cluster.members import Heartbeat, packed
from ha_session_mw._core.quorum.messages import Answer, Poll, decode_answer, decode_poll, decode_push, encode
from ha_session_mw._core.quorum.ready import PeerMismatch
from ha_session_mw.events import MemberJoined
from ha_session_mw.models import NodeId
from ha_session_mw.version import Versions

from .test_log import A, B, C, Member, at, deny, exchange, member, talk

FORMER, PRESENT, NEXT = Versions(1, 1), Versions(1, 2), Versions(2, 3)


def cluster(*releases: Versions) -> list[Member]:
    urls = (A, B, C)[: len(releases)]
    members = [member(url, *urls, protocol=release) for url, release in zip(urls, releases, strict=True)]
    talk(at(0), *members)
    for one in members:
        one.take_events()
    return members


def restarted(one: Member, release: Versions, *, life: str) -> Member:
    return member(one.me, *one.membership.everybody, protocol=release, life=life)


def version_to(one: Member, other: Member) -> int:
    version: int = one.poll(other.me, at(1)).poll.version
    return version


@pytest.mark.parametrize(
    ("mine", "its", "both"), [(PRESENT, FORMER, 1), (PRESENT, PRESENT, 2), (PRESENT, NEXT, 2), (NEXT, NEXT, 3), (FORMER, NEXT, None)]
)
def test_the_common_version_is_the_highest_that_both_read(mine: Versions, its: Versions, both: int | None) -> None:
    assert mine.common(its) == its.common(mine) == both


def test_a_member_writes_to_each_other_one_in_the_highest_version_that_both_read() -> None:
    one, two, three = cluster(PRESENT, FORMER, PRESENT)
    assert [version_to(one, two), version_to(one, three)] == [1, 2]
    assert [version_to(two, one), version_to(two, three)] == [1, 1]
    assert exchange(two, one, at(1)).version == 1
    assert exchange(three, one, at(1)).version == 2
    assert [one.push(two.me, at(1)).answer.version, one.push(three.me, at(1)).answer.version] == [1, 2]


def test_a_member_that_was_not_heard_yet_is_written_to_in_the_lowest_version() -> None:
    assert member(A, A, B, protocol=NEXT).poll(B, at(0)).poll.version == 2


@pytest.mark.parametrize("releases", [(FORMER, PRESENT, PRESENT), (FORMER, FORMER, PRESENT), (PRESENT, NEXT, PRESENT)])
def test_members_of_two_releases_are_one_majority_that_fences(releases: tuple[Versions, ...]) -> None:
    members = cluster(*releases)
    for one in members:
        receipt = one.append([deny(f"of {one.me}")], at(1))
        talk(at(1), *members)
        assert one.standing(receipt) == "fenced"
    for one in members:
        assert len(one.view.denied) == 3
        assert one.is_ready(at(1))
        assert not one.mismatched


def test_the_version_falls_and_rises_with_the_process() -> None:
    one, two, three = cluster(PRESENT, PRESENT, PRESENT)
    old = restarted(two, FORMER, life="older")
    talk(at(1), one, old, three)
    assert version_to(one, old) == 1
    new = restarted(two, PRESENT, life="newer")
    talk(at(2), one, new, three)
    assert version_to(one, new) == 2


def test_a_poll_for_the_process_of_a_later_release_is_no_fault_and_tells_its_sender_what_to_write() -> None:
    one, two, three = cluster(PRESENT, PRESENT, PRESENT)
    old = restarted(two, FORMER, life="older")
    assert version_to(one, old) == 2
    answer = exchange(one, old, at(1))
    assert (answer.version, answer.complete) == (1, False)
    assert not old.take_events()
    assert not old.mismatched
    assert one.take_events() == [MemberJoined(NodeId(B))]
    assert exchange(one, old, at(1)).version == 1
    talk(at(1), one, old, three)
    assert old.is_ready(at(1))


def test_an_answer_under_way_from_an_ended_process_does_not_bring_its_version_back() -> None:
    one, two = cluster(PRESENT, PRESENT)
    sent = one.poll(B, at(1), at_once=True)
    late = two.arrived(sent.poll, at(1))
    assert isinstance(late, Answer)
    old = restarted(two, FORMER, life="older")
    exchange(old, one, at(1))
    one.answered(sent, late, at(1))
    assert version_to(one, old) == 1
    exchange(one, old, at(1))
    assert not old.mismatched


def test_a_push_for_the_process_of_a_later_release_is_answered_with_what_this_one_reads() -> None:
    one, two, three = cluster(PRESENT, PRESENT, PRESENT)
    receipt = one.append([deny("x")], at(1))
    old = restarted(two, FORMER, life="older")
    old.pushed(decode_push(encode(one.push(B, at(1)))), at(1))
    assert "x" not in old.view.denied
    one.push_answered(B, old.poll(A, at(1)).poll, at(1))
    old.pushed(decode_push(encode(one.push(B, at(1)))), at(1))
    assert "x" in old.view.denied
    talk(at(1), one, old, three)
    assert one.standing(receipt) == "fenced"


def test_members_with_no_version_in_common_never_count_and_both_say_so() -> None:
    one, _, three = cluster(PRESENT, PRESENT, PRESENT)
    skipped = member(B, A, B, C, protocol=Versions(3, 4), life="skipped")
    receipt = one.append([deny("x")], at(1))
    for _ in range(2):
        exchange(one, skipped, at(1))
        exchange(skipped, one, at(1))
    assert one.take_events() == [PeerMismatch(B, "version")]
    assert skipped.take_events() == [PeerMismatch(A, "version")]
    assert "x" not in skipped.view.denied
    assert not skipped.is_ready(at(1))
    assert one.standing(receipt) == "applied"
    talk(at(1), one, three)
    assert one.standing(receipt) == "durable"


def test_a_member_that_writes_a_version_that_it_does_not_read_is_reported() -> None:
    one, two = cluster(FORMER, FORMER)
    odd = msgspec.structs.replace(one.poll(B, at(1)).poll, version=2)
    assert isinstance(two.arrived(odd, at(1)), Answer)
    assert two.take_events() == [PeerMismatch(A, "version")]


def test_members_that_write_to_an_ended_process_of_this_node_do_not_take_it_for_one_of_another_list() -> None:
    one, two, three = cluster(PRESENT, PRESENT, PRESENT)
    old = restarted(two, FORMER, life="older")
    for other in (one, three):
        old.arrived(other.poll(B, at(1)).poll, at(1))
    assert not old.neighbours.is_claimed(at(0).boot_s)


# The form.


def later(message: Poll | Answer) -> bytes:
    """Return a message in the form of a later version, which has nothing but the opening in common with the present form."""
    fields = msgspec.msgpack.decode(encode(message))
    return msgspec.msgpack.encode([7, *fields[1:4], {"rest": fields[4:]}])


def test_of_a_message_in_another_form_the_opening_is_read() -> None:
    one, two = cluster(NEXT, NEXT)
    poll = one.poll(B, at(1), at_once=True).poll
    answer = two.arrived(poll, at(1))
    assert isinstance(answer, Answer)
    for message, read in ((poll, decode_poll(later(poll))), (answer, decode_answer(later(answer)))):
        assert isinstance(read, Poll | Answer)
        assert (read.version, read.digest, read.sender, read.heartbeat) == (7, message.digest, message.sender, message.heartbeat)
        assert read.heartbeat.protocol == NEXT
    push = decode_push(msgspec.msgpack.encode([msgspec.Raw(later(answer)), {"more": 1}]))
    assert (push.answer.version, push.answer.sender, push.leaves) == (7, B, False)


@pytest.mark.parametrize("decode", [decode_poll, decode_answer])
def test_a_message_of_a_known_version_in_another_form_is_damaged(decode: Any) -> None:
    one, _ = cluster(FORMER, FORMER)
    with pytest.raises(msgspec.ValidationError):
        decode(b"\x95\x01" + later(one.poll(B, at(1)).poll)[2:])
    with pytest.raises(msgspec.ValidationError):
        decode(msgspec.msgpack.encode([7, "", A]))


def test_a_heartbeat_says_which_versions_it_reads_and_an_earlier_release_does_not_look() -> None:
    told = Heartbeat(NodeId("n"), "life", A, "ready", 1, 2, (), 5.0, 3, "0.2.0", 1, PRESENT)
    fields = msgspec.msgpack.decode(packed(told))
    assert fields[-2:] == [1, [1, 2]]
    assert msgspec.convert(fields, Heartbeat) == told
    assert msgspec.convert(fields[:-1], Heartbeat).protocol == FORMER
    assert len(msgspec.msgpack.decode(packed(msgspec.structs.replace(told, protocol=FORMER)))) == 10
    assert len(msgspec.msgpack.decode(packed(msgspec.structs.replace(told, protocol=FORMER, weight=2)))) == 11
