"""Nodes do not read from each other what they have already, and never pass over what they have not."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ha_session_mw._core.cluster.view import new_cut_id
from ha_session_mw._core.quorum.messages import Answer, Push, decode_answer, decode_poll, decode_push, encode
from ha_session_mw._core.quorum.provenance import MOST
from ha_session_mw.models import Cut, Deny, Entry

from ...simulation.quorum_node import entries_upto
from ..builders import HOUR_MS, MINUTE_MS, NOW_MS
from .test_log import A, B, C, Member, at, deny, exchange, member, talk

PAGE = 3


def cluster(names: Sequence[str] = (A, B, C)) -> list[Member]:
    members = [started(url, names) for url in names]
    talk(at(0), *members)
    return members


def started(url: str, names: Sequence[str] = (A, B, C), life: str = "") -> Member:
    one = member(url, *names, life=life)
    one.quorum.page_entries = PAGE
    return one


def read(reader: Member, teller: Member) -> Answer:
    return exchange(reader, teller, at(1))


def read_all(reader: Member, teller: Member) -> int:
    """The reader polls until it has all; return how many entries came."""
    count = 0
    while True:
        answer = read(reader, teller)
        count += len(answer.entries)
        if answer.complete:
            return count


def test_a_new_node_reads_once_what_two_members_have() -> None:
    one, two, three = cluster()
    one.append([deny(f"a{number}") for number in range(10)], at(0))
    two.append([deny(f"b{number}") for number in range(10)], at(0))
    talk(at(1), one, two, three, rounds=8)
    new = started(C, life="new")
    read(new, two)
    assert read_all(new, one) == 20
    assert read_all(new, two) == 0
    assert len(new.view) == 20


def test_members_do_not_read_back_what_a_new_node_has_from_them() -> None:
    one, two, three = cluster()
    one.append([deny(f"a{number}") for number in range(10)], at(0))
    talk(at(1), one, two, three, rounds=8)
    new = started(C, life="new")
    read_all(new, one)
    read_all(new, two)
    first = read(two, new)  # it does not know yet that this is another process
    assert len(first.entries) == PAGE
    assert read_all(two, new) == 0
    assert two.peers[C].read == new.position


def test_what_came_meanwhile_is_read() -> None:
    one, two, three = cluster()
    one.append([deny(f"a{number}") for number in range(10)], at(0))
    talk(at(1), one, two, three, rounds=8)
    two.append([deny("only-at-two")], at(1))
    new = started(C, life="new")
    read_all(new, one)
    assert read_all(new, two) == 1
    assert len(new.view) == 11
    new.append([deny("of-the-new-one")], at(1))
    read(one, new)
    read_all(one, new)
    assert len(one.view) == 12


def test_a_page_does_not_count_for_the_whole() -> None:
    one, two, three = cluster()
    one.append([deny(f"a{number}") for number in range(10)], at(0))
    talk(at(1), one, two, three, rounds=8)
    new = started(C, life="new")
    assert not read(new, one).complete
    assert dict(new.provenance.had) == {one.life: PAGE}


def test_a_position_of_the_process_before_says_nothing_of_this_one() -> None:
    """A file may be an old one, and then the next process gives its positions again."""
    one, two, _ = cluster()
    one.append([deny("a")], at(1))
    talk(at(1), one, two, rounds=8)
    poll = two.poll(A, at(2)).poll
    sent = msgspec.structs.replace(poll, callee="", position=0, read=two.provenance.had)
    again = started(A, life="again")
    again.append([deny("another")], at(2))
    answer = again.arrived(sent, at(2))
    assert isinstance(answer, Answer)
    assert answer.entries == (deny("another"),)


def test_a_longer_end_is_read_although_the_entry_is_known() -> None:
    """The page of an entry has its present end, so what a node has of it is not known to all that have read up to the entry."""
    one, two, three = cluster()
    one.append([deny("a")], at(0))
    read_all(two, one)
    later = msgspec.structs.replace(deny("a"), until_ms=deny("a").until_ms + 3_600_000)
    one.append([later], at(1))
    new = started(C, life="new")
    read_all(new, one)
    read(two, new)
    read_all(two, new)
    assert two.view.denied[later.id] == one.view.denied[later.id]
    del three


def test_a_node_remembers_some_processes_and_no_more() -> None:
    one, two, _ = cluster()
    answer = read(two, one)
    told = tuple((f"process {number}", 5) for number in range(1000))
    two.provenance.merged(msgspec.structs.replace(answer, read=((one.life, answer.upto), *told)), two.position, asked=0)
    assert len(two.provenance.had) <= MOST


def test_an_earlier_release_reads_what_a_node_says_that_it_has() -> None:
    one, two, _ = cluster()
    poll = started(B, life="new").poll(A, at(1)).poll
    assert poll.read == ()
    *known, _, _ = msgspec.msgpack.decode(encode(poll))
    assert decode_poll(msgspec.msgpack.encode(known)) == msgspec.structs.replace(poll, read=None, by_column=None)
    answer = msgspec.structs.replace(read(two, one), read=((one.life, 7),))
    assert decode_answer(encode(answer)) == answer
    *known, _ = msgspec.msgpack.decode(encode(answer))
    assert decode_answer(msgspec.msgpack.encode(known)) == msgspec.structs.replace(answer, read=())


def test_a_node_of_an_earlier_release_is_answered_in_its_form() -> None:
    one, two, _ = cluster()
    one.append([deny("a")], at(1))
    answer = one.arrived(msgspec.structs.replace(two.poll(A, at(1)).poll, read=None, by_column=None), at(1))
    assert isinstance(answer, Answer)
    assert answer.entries
    assert answer.read == ()


STEPS = st.lists(st.tuples(st.sampled_from(["append", "read", "restart", "lose"]), st.integers(0, 2), st.integers(0, 2)), max_size=60)


@settings(max_examples=60)
@given(STEPS)
def test_a_node_has_all_that_it_takes_itself_to_have(steps: list[tuple[str, int, int]]) -> None:
    urls = (A, B, C)
    members = [started(url) for url in urls]
    processes = {one.life: one for one in members}
    for number, (step, mine, other) in enumerate(steps):
        if step == "append":
            members[mine].append([deny(f"{number}.{count}") for count in range(1 + other)], at(1))
        elif step == "restart":
            members[mine] = started(urls[mine], life=f"{number}")
            processes[members[mine].life] = members[mine]
        elif mine != other:
            if step == "read":
                read(members[mine], members[other])
            else:
                members[other].arrived(members[mine].poll(urls[other], at(1)).poll, at(1))
        for one in members:
            has = [*one.provenance.had, *((peer.echo_life, peer.read) for peer in one.peers.values() if peer.echo_life)]
            for life, position in has:
                assert all(one.view.knows(entry) for entry in entries_upto(processes[life].quorum, position)), (one.me, life, position)


def test_members_that_know_all_do_not_say_what_they_have() -> None:
    one, two, _ = cluster()
    assert started(B, life="new").poll(A, at(1)).poll.read == ()
    read_all(two, one)
    assert two.poll(A, at(1)).poll.read is None


IDS = [f"{number:02}".ljust(22, "-") for number in range(4 * PAGE)]
AGES_MS = NOW_MS - NOW_MS % MINUTE_MS + HOUR_MS


def test_a_new_node_reads_many_log_outs_by_column_and_all_else_besides() -> None:
    one, two, three = cluster()
    cut = Cut(new_cut_id("a-cut", AGES_MS), "ada", AGES_MS)
    others: list[Entry] = [
        Deny(IDS[1][:5].ljust(22, "x"), AGES_MS),
        Deny("a-replaced-id".ljust(22, "_"), AGES_MS, int(at(1).wall_ms)),
        deny("short"),
        cut,
    ]
    one.append([*[Deny(id, AGES_MS) for id in IDS], *others], at(1))
    talk(at(1), one, two, three, rounds=8)
    new = started(C, life="new")
    answer = read(new, one)
    assert (answer.size, len(answer.ends), answer.entries, answer.count) == (PAGE, PAGE, (), len(IDS) + len(others))
    read_all(new, one)
    assert {*new.view.entries()} == {*one.view.entries()}
    assert new.view.superseded == one.view.superseded != {}
    new.check(at(1))


def test_a_node_of_an_earlier_release_gets_no_columns() -> None:
    one, two, _ = cluster()
    one.append([Deny(IDS[0], AGES_MS)], at(1))
    answer = one.arrived(msgspec.structs.replace(two.poll(A, at(1)).poll, by_column=None), at(1))
    assert isinstance(answer, Answer)
    assert (len(answer.entries), answer.ids, answer.ends, answer.count) == (1, "", (), 0)


@pytest.mark.parametrize(
    ("ids", "ends"), [("", (1,)), (IDS[0], ()), (IDS[0][1:], (1,)), (IDS[0], (1, 2)), ("é" * 22, (1,)), ("~" * 22, (1,))]
)
def test_columns_that_are_no_log_outs_are_refused(ids: str, ends: tuple[int, ...]) -> None:
    one, two, _ = cluster()
    answer = msgspec.structs.replace(read(two, one), ids=ids, ends=ends, count=1)
    with pytest.raises(ValueError, match="no log-outs"):
        decode_answer(encode(answer))
    with pytest.raises(ValueError, match="no log-outs"):
        decode_push(encode(Push(answer=answer, callee_life="", leaves=False)))


def test_a_column_with_ended_log_outs_brings_the_others() -> None:
    """A member whose floor is behind may tell of them."""
    one, two, _ = cluster()
    sent = two.poll(A, at(2))
    answer = msgspec.structs.replace(read(two, one), ids="".join(IDS[:2]), ends=(1, AGES_MS // MINUTE_MS), upto=2, count=2)
    two.view.raise_floor(int(at(2).wall_ms))
    two.answered(sent, answer, at(2))
    assert [*two.view.entries()] == [Deny(IDS[1], AGES_MS)]
    two.check(at(2))
