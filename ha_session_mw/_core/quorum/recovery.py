"""When a node that may have forgotten entries has learned enough to count again.

Quorums intersect only while those who acknowledged still know. A node that comes back without its entries learns first
(as recovery in Viewstamped Replication, Liskov and Cowling 2012, section 4.3), from so many that one of them must know.
"""

from __future__ import annotations

from typing import Literal

Memory = Literal["whole", "unchecked", "lost"]
"""Whether a member knows all that it ever acknowledged; thinks so, by its file, and waits to be contradicted; or has forgotten."""


class _Fellow:
    """A member that was recovering itself, as one incarnation, whenever it answered from ``since`` to ``until``."""

    __slots__ = ("incarnation", "lost", "since", "until")

    def __init__(self, incarnation: str, since: int, *, lost: bool) -> None:
        self.incarnation = incarnation
        self.lost = lost
        self.since = since
        self.until = 0


class Recovery:
    """What one recovering node has learned so far, and from whom.

    Args:
        others: how many other members there are.
        majority: of all members.
        memory: with what this node came back. If it has lost its entries, it takes so many members that are not recovering
            themselves that they share one with any majority. If it has its file, a majority will do, recovering or not: all
            that it asks of them is that none knows more of this node's own sequence than the node itself.
    """

    __slots__ = ("_fellows", "_majority", "_needed", "_others", "_step", "_teachers", "known_before", "memory")

    def __init__(self, *, others: int, majority: int, memory: Memory) -> None:
        self.memory = memory
        self._others = others
        self._majority = majority
        self._needed = majority - 1 if memory == "unchecked" else others + 2 - majority
        self._step = 0
        self._teachers: set[str] = set()
        self._fellows: dict[str, _Fellow] = {}
        self.known_before = False
        """Whether somebody knows an earlier incarnation of this node: then this is no first start."""

    def begin(self) -> int:
        """A poll is about to be sent; returns its step, to be handed to :meth:`learned` with the answer."""
        self._step += 1
        return self._step

    def learned(self, member: str, incarnation: str, begun: int, memory: Memory, *, known_before: bool) -> None:
        """A complete answer came, from a member with this memory, to a poll that was sent in step ``begun`` of this recovery."""
        self._step += 1
        self.known_before |= known_before
        if memory == "whole" or self.memory == "unchecked":
            self._teachers.add(member)
            self._fellows.pop(member, None)
        elif member not in self._teachers:
            fellow = self._fellows.get(member)
            if fellow is None or fellow.incarnation != incarnation:
                fellow = self._fellows[member] = _Fellow(incarnation, self._step, lost=memory == "lost")
            fellow.until = max(fellow.until, begun)

    @property
    def complete(self) -> bool:
        """Whether the node may serve and count."""
        return len(self._teachers) >= self._needed or self._everybody_has_been_heard

    @property
    def majority_forgot(self) -> bool:
        """Whether so many had forgotten at once that nobody needs to know what they had acknowledged. So it is at a first start."""
        forgetful = (self.memory == "lost") + sum(fellow.lost for fellow in self._fellows.values())
        return len(self._teachers) < self._needed and forgetful >= self._majority

    @property
    def _everybody_has_been_heard(self) -> bool:
        """All others answered, and those that are recovering too were so *at one and the same instant*.

        Otherwise members that take turns in forgetting would hide from us what never a majority had forgotten: the first
        answers before it learns an entry from the second, the second after it forgot it.
        """
        if len(self._teachers) + len(self._fellows) < self._others:
            return False
        fellows = self._fellows.values()
        return max((fellow.since for fellow in fellows), default=0) <= min((fellow.until for fellow in fellows), default=0)
