"""Which members provably held which prefix of this node's sequence at one common instant.

An acknowledgement proves that a member held something at some time; it may have restarted and forgotten since. Members
that take turns in acknowledging and forgetting would add up to a majority that never existed. So members count together only
if they provably held the prefix *at one and the same instant*. A member holds it from the arrival of its acknowledgement until the
sending of a later poll by the same incarnation. No node knows when that poll was sent. But the poll echoes a stamp of this node,
so it was sent after this node gave that stamp. Everything is counted in stamps of this node, and no clock is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from ..cluster.invariants import ensure

_MOST_MARKS = 64
"""Most marks of a member's history while no majority forms around it. A coarser history proves later, never wrongly."""


class Acknowledgements:
    """The prefix of this node's sequence that one other member provably holds.

    Attributes:
        member: its name.
        incarnation: the incarnation to which its acknowledgements belong. Another incarnation has forgotten them.
        position: up to where it has acknowledged.
        echo: the newest stamp of this node that it has seen, as this incarnation.
        before: up to where it had acknowledged when the member lists last changed. Then other majorities were in force.
        applied: up to where it enforces the sequence, though it may not keep all of it.
    """

    __slots__ = ("_reported_at", "applied", "before", "echo", "incarnation", "marks", "member", "position", "silent")

    def __init__(self, member: str, incarnation: str = "") -> None:
        self.member = member
        self.incarnation = incarnation
        self.position = 0
        self.before = 0
        self.applied = 0
        self.echo = 0
        self.silent: tuple[str, ...] = ()
        self._reported_at = 0
        self.marks: list[tuple[int, int]] = []
        """Stamps of this node, each with the position that the member had acknowledged when the stamp was the newest."""

    def acknowledge(self, position: int, stamp: int) -> bool:
        """Note that the member holds the sequence up to there; return whether that was news.

        Args:
            position: up to where.
            stamp: the newest stamp that this node has given.
        """
        if position <= self.position:
            return False
        self.position = position
        self.marks.append((stamp, position))
        if len(self.marks) > _MOST_MARKS:
            self.marks = self.marks[::2]
        return True

    def held_at(self, stamp: int) -> int:
        """Return up to where the member provably held the sequence when that stamp was the newest."""
        held = 0
        for at, position in self.marks:
            if at > stamp:
                break
            held = position
        return held

    def report_silent(self, members: tuple[str, ...], position: int) -> None:
        """Note which members this one has not answered for a lease's length, by a poll that acknowledges ``position``."""
        self.silent, self._reported_at = members, position

    def rules_out(self, member: str, position: int) -> bool:
        """Return whether that member can owe to this one no lease under which it lacks the sequence up to ``position``.

        Leases from answers before the report have run out. Answers after the report come from a node that holds everything up
        to that position. So a report says nothing about positions that were not yet acknowledged at the time.
        """
        return position <= self._reported_at and member in self.silent

    def forget_before(self, position: int) -> None:
        """Drop the history that is of no use once this position is fenced."""
        while len(self.marks) > 1 and self.marks[1][1] <= position:
            del self.marks[0]

    def check(self, stamp: int) -> None:
        """Check what must hold after each change.

        Args:
            stamp: the newest stamp that this node has given.

        Raises:
            InvariantBroken: it does not hold.
        """
        marks = self.marks
        ensure(all(one[0] <= other[0] and one[1] < other[1] for one, other in pairwise(marks)), "history goes forward")
        ensure(all(at <= stamp and position <= self.position for at, position in marks), "history ends now")
        ensure(self.echo <= stamp, "no member has seen a stamp that was not given")


def common_instants(members: Iterable[Acknowledgements]) -> Iterator[list[tuple[int, Acknowledgements]]]:
    """For each instant that can prove a majority, yield the members with the prefix that each provably held, longest first."""
    heard = [member for member in members if member.echo]
    for echo in {member.echo for member in heard}:
        # The instant just before this stamp was given. A member that echoes it, or a later one, lived on past that instant.
        held = [(member.held_at(echo - 1), member) for member in heard if member.echo >= echo]
        held.sort(key=lambda pair: pair[0], reverse=True)
        yield held
