"""A majority held each durable entry at one instant, however late messages are and whatever members forget."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ha_session_mw._core.quorum.fence import Fence
from ha_session_mw._core.quorum.majorities import Majorities

OTHERS = ("b", "c", "d", "e")
FIVE = Majorities("a", [("a", *OTHERS)])
BOTH_NEEDED = Majorities("a", [("a", "b"), ("a", "c")])
"""Two other members, none of which a quorum can do without."""


@dataclass
class Member:
    incarnation: int = 1
    held: int = 0
    seen: int = 0
    answers: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Model:
    """Two other members, both needed, and all polls that they ever sent: each may arrive at any time, and again."""

    majorities: Majorities = BOTH_NEEDED
    majority: int = 3
    members: dict[str, Member] = field(default_factory=dict)
    polls: list[tuple[str, str, int, int]] = field(default_factory=list)
    stamp: int = 0
    kept: int = 0
    ever_by_majority: int = 0
    ever_by_all: int = 0

    def __post_init__(self) -> None:
        self.fence = Fence(self.majorities)
        self.members = {name: Member() for name in self.majorities.others}

    def append(self, name: str, late: int) -> None:
        self.kept += 1

    def answer(self, name: str, late: int) -> None:
        """Send all entries to the member, with a stamp."""
        self.stamp += 1
        self.members[name].answers.append((self.kept, self.stamp))

    def receive(self, name: str, late: int) -> None:
        member = self.members[name]
        if member.answers:
            held, seen = member.answers.pop()
            member.held, member.seen = max(member.held, held), max(member.seen, seen)

    def poll(self, name: str, late: int) -> None:
        member = self.members[name]
        self.polls.append((name, str(member.incarnation), member.held, member.seen))

    def forget(self, name: str, late: int) -> None:
        self.members[name] = Member(self.members[name].incarnation + 1)

    def arrive(self, name: str, late: int) -> None:
        """Let a poll arrive: mostly the latest, sometimes an old one."""
        if self.polls:
            sender, incarnation, held, seen = self.polls[max(0, len(self.polls) - 1 - late)]
            self.fence.heard(sender, incarnation, seen)
            self.fence.acknowledged(sender, held, (), self.stamp)

    def look(self) -> None:
        held = sorted((member.held for member in self.members.values()), reverse=True)
        self.ever_by_majority = max(self.ever_by_majority, held[self.majority - 2])
        self.ever_by_all = max(self.ever_by_all, held[-1])
        self.fence.prove(self.kept, (), stamp=0, now_s=0.0, wait_s=math.inf)

    def exchange(self, name: str, late: int) -> None:
        """Let an answer, the next poll and its arrival happen with nothing in between."""
        self.answer(name, late)
        self.receive(name, late)
        self.poll(name, late)
        self.arrive(name, 0)


ACTIONS = (Model.append, Model.answer, Model.receive, Model.poll, Model.arrive, Model.forget, Model.exchange, Model.exchange)


BARELY_MISSED = [
    *((Model.append, "b", 0), (Model.answer, "c", 0), (Model.answer, "b", 0)),
    *((act, "b", 0) for act in (Model.receive, Model.poll, Model.arrive, Model.forget)),
    *((act, "c", 0) for act in (Model.receive, Model.poll, Model.arrive, Model.exchange)),
]
"""One forgets between the giving of two stamps, and within the same span the other one learns."""


@pytest.mark.long
@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from(("b", "c")), st.integers(0, 3)), max_size=30))
@example(BARELY_MISSED)
def test_entries_not_held_at_one_instant_are_never_called_durable_or_fenced(steps: list[tuple[object, str, int]]) -> None:
    model = Model()
    for act, name, late in steps:
        act(model, name, late)  # type: ignore[operator]
        model.look()
        assert model.fence.durable <= model.ever_by_majority
        assert model.fence.fenced <= model.ever_by_all


def test_an_entry_that_all_hold_and_confirm_twice_is_fenced() -> None:
    model = Model(FIVE)
    model.append("", 0)
    for _ in range(3):
        for name in OTHERS:
            model.exchange(name, 0)
            model.look()
    assert model.fence.fenced == 1


def test_members_that_hold_the_entry_can_exclude_a_silent_member() -> None:
    fence = Fence(FIVE)
    for stamp in (1, 2, 3):
        for name in ("b", "c", "d"):
            fence.heard(name, "1", stamp)
            fence.acknowledged(name, 1, ("e",) if name != "d" else (), stamp)
        fence.prove(1, (), stamp=0, now_s=0.0, wait_s=math.inf)
    assert (fence.durable, fence.fenced) == (1, 0)
    fence.prove(1, ("e",), stamp=0, now_s=0.0, wait_s=math.inf)
    assert fence.fenced == 1


@dataclass
class Process:
    """A process of a member with a file. What it has applied and not kept ends with it."""

    kept: int = 0
    applied: int = 0
    knew: int = 0
    """What was durable when it began. It learns that before it serves."""
    seen: int = 0
    answers: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Files:
    """Members with files, whose processes end and begin again, and all polls that they ever sent."""

    members: dict[str, Process] = field(default_factory=lambda: {name: Process() for name in ("b", "c")})
    fence: Fence = field(default_factory=lambda: Fence(Majorities("a", [("a", "b", "c")])))
    polls: list[tuple[str, int, int, int]] = field(default_factory=list)
    stamp: int = 0
    own: int = 0
    durable: int = 0
    fenced: int = 0

    def append(self, name: str, late: int) -> None:
        self.own += 1

    def exchange(self, name: str, late: int) -> None:
        self.answer(name, late)
        self.receive(name, late)
        self.poll(name, late)
        self.arrive(name, 0)

    def answer(self, name: str, late: int) -> None:
        self.stamp += 1
        self.members[name].answers.append((self.own, self.stamp))

    def receive(self, name: str, late: int) -> None:
        one = self.members[name]
        if one.answers:
            applied, seen = one.answers.pop()
            one.applied, one.seen = max(one.applied, applied), max(one.seen, seen)

    def keep(self, name: str, late: int) -> None:
        self.members[name].kept = self.members[name].applied

    def end(self, name: str, late: int) -> None:
        kept = self.members[name].kept
        self.members[name] = Process(kept, kept, self.durable)

    def poll(self, name: str, late: int) -> None:
        one = self.members[name]
        self.polls.append((name, one.kept, one.applied, one.seen))

    def arrive(self, name: str, late: int) -> None:
        if self.polls:
            sender, kept, applied, seen = self.polls[max(0, len(self.polls) - 1 - late)]
            self.fence.heard(sender, sender, seen)
            self.fence.acknowledged(sender, kept, (), self.stamp)
            self.fence.applied(sender, applied, seen)

    def look(self) -> None:
        self.durable = max(self.durable, *(one.kept for one in self.members.values()))
        self.fenced = max(self.fenced, min(max(one.applied, one.knew) for one in self.members.values()))
        self.fence.prove(self.own, (), stamp=self.stamp, now_s=0.0, wait_s=math.inf)


OF_FILES = (Files.append, Files.answer, Files.receive, Files.keep, Files.end, Files.poll, Files.arrive, Files.exchange, Files.exchange)
ENDED_BEFORE_IT_WAS_DURABLE = [
    *((Files.append, "b", 0), (Files.exchange, "c", 0), (Files.end, "c", 0)),
    *((Files.exchange, "b", 0), (Files.keep, "b", 0), (Files.exchange, "b", 0), (Files.arrive, "c", 1)),
]


@pytest.mark.long
@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OF_FILES), st.sampled_from(("b", "c")), st.integers(0, 3)), max_size=30))
@example(ENDED_BEFORE_IT_WAS_DURABLE)
def test_no_process_that_lacks_a_fenced_entry_began_before_it_was_durable(steps: list[tuple[object, str, int]]) -> None:
    model = Files()
    for act, name, late in steps:
        act(model, name, late)  # type: ignore[operator]
        model.look()
        assert model.fence.durable <= model.durable
        assert model.fence.fenced <= model.fenced


def test_a_confirmation_from_before_a_change_of_the_lists_does_not_count_after_it() -> None:
    fence = Fence(Majorities("a", [("a", "b", "c")]))
    for stamp in (1, 2):
        fence.heard("b", "1", stamp)
        fence.acknowledged("b", 1, (), stamp)
        fence.prove(1, (), stamp=stamp, now_s=0.0, wait_s=math.inf)
    fence.go_by(Majorities("a", [("a", "b", "c")]))
    fence.applied("c", 1, 2)
    fence.prove(1, (), stamp=2, now_s=0.0, wait_s=math.inf)
    assert (fence.durable, fence.fenced) == (1, 0)


def test_what_was_known_to_be_durable_is_forgotten_once_it_is_fenced() -> None:
    fence = Fence(Majorities("a", [("a", "b", "c")]))
    for stamp in range(1, 1000):
        for name in ("b", "c"):
            fence.heard(name, "1", stamp)
            fence.acknowledged(name, stamp, (), stamp)
        fence.prove(stamp, (), stamp=stamp, now_s=0.0, wait_s=math.inf)
    assert fence.fenced == 999
    assert len(fence._known_durable) == 1


def test_history_is_bounded_while_no_majority_forms() -> None:
    fence = Fence(FIVE)
    for stamp in range(1, 10_000):
        fence.heard("b", "1", stamp)
        fence.acknowledged("b", stamp, (), stamp)
        fence.prove(stamp, (), stamp=0, now_s=0.0, wait_s=math.inf)
    assert len(fence.members["b"].marks) <= 64
    for stamp in range(10_000, 10_004):
        for name in ("b", "c"):
            fence.heard(name, "1", stamp)
            fence.acknowledged(name, 10_000, (), stamp)
        fence.prove(10_000, (), stamp=0, now_s=0.0, wait_s=math.inf)
    assert fence.durable == 10_000
