"""When a node that may have forgotten entries has learned enough to count again.

Quorums intersect only while the members that acknowledged still know. A node that comes back without its entries
learns first, from enough members that one of them must know. Recovery in Viewstamped Replication does the same (Liskov and Cowling
2012, section 4.3).
"""

from __future__ import annotations

from typing import Literal

from .majorities import Majorities, blocking_of, majority_of

Memory = Literal["whole", "unchecked", "lost"]
"""How much a member still knows of the entries that it ever acknowledged. ``whole``: all of them. ``unchecked``: all of them, by a
file that no member has confirmed yet. ``lost``: fewer."""


class _Fellow:
    """A member that was recovering itself, as one incarnation, whenever it answered from ``since`` to ``until``."""

    __slots__ = ("incarnation", "lost", "since", "until")

    def __init__(self, incarnation: str, since: int, *, lost: bool) -> None:
        self.incarnation = incarnation
        self.lost = lost
        self.since = since
        self.until = 0


class Recovery:
    """The members from which one recovering node has learned so far.

    Args:
        majorities: of all members. A list that does not name this node needs nothing: this node never counted in it.
        memory: the knowledge with which this node came back. Without its entries, it needs enough members that are not recovering
            to share one with any majority. With its file, any majority is enough. The node then asks only that no member knows
            more of the node's sequence than the node itself.
    """

    __slots__ = ("_teachers", "fellows", "known_before", "majorities", "memory", "step")

    def __init__(self, *, majorities: Majorities, memory: Memory) -> None:
        self.memory = memory
        self.majorities = majorities
        self.step = 0
        self._teachers: set[str] = set()
        self.fellows: dict[str, _Fellow] = {}
        self.known_before = False
        """Whether a member knows an earlier incarnation of this node. Then this is no first start."""

    def needed(self, members: frozenset[str]) -> int:
        """Return from how many other members of a list this node must learn."""
        return majority_of(members) - 1 if self.memory == "unchecked" else blocking_of(members)

    def begin(self) -> int:
        """Return the step of a poll that is about to be sent. :meth:`learned` takes it with the answer."""
        self.step += 1
        return self.step

    def learned(self, member: str, incarnation: str, begun: int, memory: Memory, *, known_before: bool) -> None:
        """Count a complete answer.

        Args:
            member: the member that answered.
            incarnation: the incarnation that answered.
            begun: the step of the poll, as :meth:`begin` gave it.
            memory: how much the member knows itself.
            known_before: whether it knows an earlier incarnation of this node.
        """
        self.step += 1
        self.known_before |= known_before
        if memory == "whole" or self.memory == "unchecked":
            self._teachers.add(member)
            self.fellows.pop(member, None)
        elif member not in self._teachers:
            fellow = self.fellows.get(member)
            if fellow is None or fellow.incarnation != incarnation:
                fellow = self.fellows[member] = _Fellow(incarnation, self.step, lost=memory == "lost")
            fellow.until = max(fellow.until, begun)

    def is_complete(self, *, alone: bool = True) -> bool:
        """Return whether the node may serve and count.

        Args:
            alone: whether no node of another list has polled this one. Otherwise entries may be known to members that this node cannot ask,
                and only members that know all entries can speak for them.
        """
        return all(self._has_enough_teachers(members) or (alone and self._all_have_been_heard(members)) for members in self._own_lists)

    @property
    def _own_lists(self) -> list[frozenset[str]]:
        return [members for members in self.majorities.lists if self.majorities.me in members]

    def _has_enough_teachers(self, members: frozenset[str]) -> bool:
        return len(self._teachers & members) >= self.needed(members)

    @property
    def majority_forgot(self) -> bool:
        """Whether a majority had forgotten at once, so that no member knows its acknowledged entries. A first start is such a case."""
        forgetful = {member for member, fellow in self.fellows.items() if fellow.lost}
        if self.memory == "lost":
            forgetful.add(self.majorities.me)
        return any(
            not self._has_enough_teachers(members) and len(forgetful & members) >= majority_of(members) for members in self._own_lists
        )

    def _all_have_been_heard(self, members: frozenset[str]) -> bool:
        """Whether all others of a list answered, and those that are recovering too were so *at one and the same instant*.

        Otherwise members that take turns in forgetting would hide an entry that no majority had forgotten. The first one answers
        before it learns the entry from the second one. The second one answers after it forgot the entry.
        """
        if not members <= {self.majorities.me, *self._teachers, *self.fellows}:
            return False
        fellows = [fellow for member, fellow in self.fellows.items() if member in members]
        return max((fellow.since for fellow in fellows), default=0) <= min((fellow.until for fellow in fellows), default=0)
