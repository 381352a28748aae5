"""A list of members that changes: no two quorums without a common member, in any state that any order of acts can lead to."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.quorum.majorities import Majorities
from ha_session_mw._core.quorum.membership import APART, MARK, MOVED, OPEN, SEALED, Change, Membership, Standing

A, B, C = ("a", "b", "c"), ("a", "b", "c", "d", "e"), ("a", "b", "f")
SIZES = range(1, 6)


def members(old: int, common: int, new: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Two lists of these sizes, with so many common members."""
    return tuple(f"m{n}" for n in range(old)), tuple(f"m{n}" for n in range(old - common, old - common + new))


SHAPES = [(old, common, new) for old, new in product(SIZES, SIZES) for common in range(min(old, new) + 1) if not old == common == new]
"""All that two lists of up to five members can have in common, apart from one list itself."""


def standing(digests: tuple[str, ...], stage: int = OPEN) -> Standing:
    return Standing(digests, stage)


# Majorities.


def quorums(lists: list[tuple[str, ...]]) -> list[frozenset[str]]:
    """All smallest sets that are a majority of each list."""
    everybody = sorted(set().union(*lists))
    me = "nobody"
    found: list[frozenset[str]] = []
    for size in range(1, len(everybody) + 1):
        for some in map(frozenset, combinations(everybody, size)):
            if Majorities(me, lists).reached(some) and not any(other <= some for other in found):
                found.append(some)
    return found


@pytest.mark.parametrize(("old", "common", "new"), [shape for shape in SHAPES if shape[0] + shape[2] - shape[1] <= 6], ids=str)
def test_quorums_of_two_nodes_that_count_each_other_share_a_member(old: int, common: int, new: int) -> None:
    one, other = members(old, common, new)
    of_old, of_both, of_new = quorums([one]), quorums([one, other]), quorums([other])
    for ours, theirs in ((of_old, of_old), (of_old, of_both), (of_both, of_both), (of_both, of_new), (of_new, of_new)):
        assert all(quorum & its for quorum in ours for its in theirs)


def test_quorums_of_the_old_list_and_of_the_new_one_need_not_share_a_member() -> None:
    assert any(not quorum & its for quorum in quorums([("a", "b", "c", "d", "e")]) for its in quorums([("a", "b", "c")]))


@given(st.sets(st.sampled_from("bcde")), st.sampled_from("bcde"))
def test_witnesses_exclude_a_member_if_it_finds_no_majority_without_them(witnesses: set[str], member: str) -> None:
    lists = [("a", "b", "c"), ("a", "b", "c", "d", "e")]
    excluded = Majorities("a", lists).exclude(member, witnesses)
    for one in lists:
        if member in one:
            left = set(one) - witnesses
            assert not (excluded and len(left) > len(one) // 2)


# A whole cluster.


class Node(NamedTuple):
    """A node, as far as its lists go: it is a member of the old list, of the new one, or of both."""

    name: str
    lists: int
    """0: the old one; 1: both; 2: the new one."""
    act: int
    """The latest act that it knows of: 0, ``SEALED`` or ``MOVED``."""
    was_joint: bool


State = tuple[Node, ...]


class Cluster:
    """All states of a cluster whose nodes are restarted in any order, and learn of acts from each other in any order."""

    def __init__(self, old: tuple[str, ...], new: tuple[str, ...]) -> None:
        self.lists = (old, new)
        self.digests = Membership(old[0], old, new).digests
        self._made: dict[Node, Membership] = {}

    def membership(self, node: Node) -> Membership:
        if node not in self._made:
            lists = (self.lists[:1], self.lists, self.lists[1:])[node.lists]
            made = Membership(node.name, *lists)
            if node.act:
                made.note(Change(1, node.act, *self.digests).id)
            if node.lists == 2 and node.was_joint:
                assert made.follows(self.digests)
            self._made[node] = made
        return self._made[node]

    def start(self) -> State:
        old, new = self.lists
        return tuple(Node(name, 0 if name in old else 1, 0, name not in old) for name in sorted({*old, *new}))

    def next(self, state: State) -> Iterator[State]:
        for place, node in enumerate(state):
            for after in self._restarts(node):
                yield self._with(state, place, after)
            mine = self.membership(node)
            if mine.is_joint and mine.stage == OPEN:
                yield self._with(state, place, node._replace(act=SEALED))
            if mine.is_joint and mine.stage == SEALED and self._is_sealed(state):
                yield self._with(state, place, node._replace(act=MOVED))
            for other in state:
                if other.act > node.act and mine.standing.is_related(self.membership(other).standing):
                    yield self._with(state, place, node._replace(act=other.act))

    @staticmethod
    def _with(state: State, place: int, node: Node) -> State:
        return (*state[:place], node, *state[place + 1 :])

    def _restarts(self, node: Node) -> Iterator[Node]:
        """Yield the node after a restart with each list under which it starts."""
        kept = (self.digests[:1], self.digests, self.digests[1:])[node.lists]
        for lists in (node.lists - 1, node.lists + 1):
            if lists == 2 and self.membership(node).standing.stage == APART:
                continue  # its file stays that of the list before
            if 0 <= lists <= 2 and node.name in (self.lists[0], sum(self.lists, ()), self.lists[1])[lists]:
                after = Node(node.name, lists, node.act, node.lists == 1 or (node.was_joint and lists == 2))
                made = Membership(node.name, *(self.lists[:1], self.lists, self.lists[1:])[lists])
                if node.act:
                    made.note(Change(1, node.act, *self.digests).id)
                if made.follows(kept):
                    yield after

    def _is_sealed(self, state: State) -> bool:
        """Return whether nodes that know the seal, and count together, are a majority of both lists."""
        know = [node.name for node in state if node.act and node.lists == 1]
        return Majorities("nobody", self.lists).reached(know)

    def has_quorum(self, state: State, of: int) -> bool:
        """Return whether nodes of the old list alone, or of the new list alone, find a quorum."""
        single = standing((self.digests[of],))
        count = [node.name for node in state if self.membership(node).standing.counts_with(single)]
        return len(set(count).intersection(self.lists[of])) > len(self.lists[of]) // 2

    def fold(self, state: State) -> tuple[object, ...]:
        """Return the same for states that differ in names only."""
        return tuple(sorted((node.name in self.lists[0], node.name in self.lists[1], *node[1:]) for node in state))


def reachable(cluster: Cluster) -> Iterator[State]:
    met, new = set(), [cluster.start()]
    while new:
        state = new.pop()
        if (folded := cluster.fold(state)) not in met:
            met.add(folded)
            yield state
            new += cluster.next(state)


@pytest.mark.parametrize(("old", "common", "new"), [shape for shape in SHAPES if shape[0] + shape[2] - shape[1] <= 4], ids=str)
def test_the_old_list_and_the_new_one_never_have_a_quorum_each(old: int, common: int, new: int) -> None:
    cluster = Cluster(*members(old, common, new))
    ends = set()
    for state in reachable(cluster):
        have = cluster.has_quorum(state, 0), cluster.has_quorum(state, 1)
        assert have != (True, True), state
        ends.add(have)
    assert ends >= {(True, False), (False, True)}  # the search gets from one end to the other


@pytest.mark.long
@pytest.mark.parametrize(("old", "common", "new"), [(3, 3, 5), (5, 3, 3)], ids=str)
def test_a_list_of_three_and_one_of_five_never_have_a_quorum_each(old: int, common: int, new: int) -> None:
    cluster = Cluster(*members(old, common, new))
    assert not any(cluster.has_quorum(state, 0) and cluster.has_quorum(state, 1) for state in reachable(cluster))


def test_the_search_finds_two_quorums_if_nodes_with_both_lists_count_with_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Standing, "counts_with", Standing.is_related)
    cluster = Cluster(*members(3, 2, 3))
    assert any(cluster.has_quorum(state, 0) and cluster.has_quorum(state, 1) for state in reachable(cluster))


# Files.


def membership(current: tuple[str, ...], coming: tuple[str, ...] = (), *, latest: Change | None = None) -> Membership:
    made = Membership("a", current, coming)
    if latest is not None:
        made.note(latest.id)
    return made


OLD, NEW, THIRD = (Membership("a", members).digests[0] for members in (A, B, C))


@pytest.mark.parametrize(
    ("current", "coming", "kept", "latest", "may"),
    [
        (A, (), (), None, True),
        (A, (), (OLD,), None, True),
        (B, (), (OLD,), None, False),
        (A, B, (OLD,), None, True),
        (B, A, (OLD,), None, False),
        (B, (), (OLD, NEW), None, True),
        (A, (), (OLD, NEW), None, True),
        (A, (), (OLD, NEW), Change(1, SEALED, OLD, NEW), False),
        (A, C, (OLD, NEW), None, True),
        (A, C, (OLD, NEW), Change(1, SEALED, OLD, NEW), False),
        (B, C, (OLD, NEW), Change(1, MOVED, OLD, NEW), True),
        (B, A, (OLD, NEW), Change(1, MOVED, OLD, NEW), True),
        (B, A, (OLD, NEW), None, False),
        (A, B, (OLD,), Change(1, SEALED, OLD, NEW), True),
        (A, B, (OLD,), Change(1, MOVED, OLD, NEW), True),
        (B, (), (OLD,), Change(1, MOVED, OLD, NEW), True),
        (A, (), (NEW,), Change(2, MOVED, NEW, OLD), True),
        (C, (), (OLD, NEW), Change(1, MOVED, OLD, NEW), False),
    ],
)
def test_a_file_may_be_continued_under_lists_that_follow_its_own(
    current: tuple[str, ...], coming: tuple[str, ...], kept: tuple[str, ...], latest: Change | None, may: bool
) -> None:
    found = membership(current, coming, latest=latest)
    assert found.follows(kept) is may
    if not may:
        assert "HA_SESSION_PEERS" in found.why_not_after(kept)


def test_a_node_that_left_both_lists_waits_for_the_move() -> None:
    left = membership(B)
    assert left.follows((OLD, NEW))
    assert (left.stage, left.phase, left.serves) == (APART, "waiting", False)
    assert not left.note(Change(1, SEALED, OLD, NEW).id)
    assert left.phase == "waiting"
    assert left.note(Change(1, MOVED, OLD, NEW).id)
    assert (left.stage, left.phase, left.serves) == (OPEN, "steady", True)


def test_a_list_can_come_back_in_a_later_change() -> None:
    moved = membership(A, latest=Change(1, MOVED, OLD, NEW))
    assert (moved.phase, moved.serves) == ("retired", False)
    assert moved.note(Change(2, MOVED, NEW, OLD).id)
    assert (moved.phase, moved.serves) == ("steady", True)
    assert membership(B, A, latest=Change(1, MOVED, OLD, NEW)).seal() == Change(2, SEALED, NEW, OLD)


def test_of_two_changes_at_once_one_wins_and_the_nodes_of_the_other_stand_apart() -> None:
    one = membership(A, B, latest=Change(1, SEALED, OLD, NEW))
    assert one.note(max(Change(1, MOVED, OLD, THIRD), Change(1, MOVED, OLD, NEW)).id) or one.stage == MOVED
    other = membership(A, C, latest=Change(1, MOVED, OLD, NEW))
    assert other.stage == APART


@pytest.mark.parametrize("id", ["", "x", MARK, f"{MARK}1.3.a.b", f"{MARK}x.1.a.b", f"{MARK}1.1.a", f"{MARK}9999999999.1.a.b"])
def test_any_other_id_is_no_act(id: str) -> None:
    assert Change.parse(id) is None
    assert not membership(A).note(id)


@pytest.mark.parametrize("text", ["", ":", "a:9", ">:1", "a>b>c:0"])
def test_a_text_that_says_nothing_counts_with_nobody(text: str) -> None:
    assert not Standing.parse(text).counts_with(Standing((OLD,), OPEN))
    assert not Standing.parse(text).counts_with(Standing((OLD, NEW), OPEN))


def test_the_same_list_twice_is_one_list() -> None:
    assert membership(A, tuple(reversed(A))).digests == (OLD,)
