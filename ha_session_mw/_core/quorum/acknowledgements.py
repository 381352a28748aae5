"""Who holds how much of this node's sequence, proven for one common instant.

An acknowledgement proves that a member held something at some time; it may have restarted and forgotten since. Members
that take turns in acknowledging and forgetting would add up to a majority that never was. So only those count together that
are known to have held it *at one and the same instant*: from the arrival of an acknowledgement until the sending of a
later poll by the same incarnation. When that poll was sent, nobody knows; but it echoes a stamp of ours, so it was after
that stamp was given. All of it is counted in stamps of this node, and no clock is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_MOST_MARKS = 64
"""How much history is kept of a member while no majority forms around it. Coarser history proves later, never wrongly."""


class Acknowledgements:
    """What one other member is known to hold.

    Attributes:
        member: its name.
        incarnation: what its acknowledgements belong to; another one has forgotten them.
        position: up to where it has acknowledged.
        echo: the newest of our stamps that it has seen, as this incarnation.
    """

    __slots__ = ("_marks", "_reported_at", "_silent", "echo", "incarnation", "member", "position")

    def __init__(self, member: str, incarnation: str = "") -> None:
        self.member = member
        self.incarnation = incarnation
        self.position = 0
        self.echo = 0
        self._silent: tuple[str, ...] = ()
        self._reported_at = 0
        self._marks: list[tuple[int, int]] = []

    def acknowledge(self, position: int, stamp: int) -> bool:
        """It holds our sequence up to there; ``stamp`` is the newest we have given. Returns whether that was news."""
        if position <= self.position:
            return False
        self.position = position
        self._marks.append((stamp, position))
        if len(self._marks) > _MOST_MARKS:
            self._marks = self._marks[::2]
        return True

    def held_at(self, stamp: int) -> int:
        """Up to where it held our sequence, for certain, when that stamp was the newest."""
        held = 0
        for at, position in self._marks:
            if at > stamp:
                break
            held = position
        return held

    def report_silent(self, members: tuple[str, ...], position: int) -> None:
        """In a poll that acknowledges ``position`` it says which members it has not answered for as long as a lease lasts."""
        self._silent, self._reported_at = members, position

    def rules_out(self, member: str, position: int) -> bool:
        """Whether that member can owe to this one no lease under which it lacks the sequence up to ``position``.

        What was answered before the report has run out, and what is answered after it comes from a node that holds all
        up to there. So a report says nothing about positions that were not yet acknowledged when it was made.
        """
        return position <= self._reported_at and member in self._silent

    def forget_before(self, position: int) -> None:
        """History up to this position is of no use any more."""
        while len(self._marks) > 1 and self._marks[1][1] <= position:
            del self._marks[0]


def common_instants(holders: Iterable[Acknowledgements]) -> Iterator[list[tuple[int, Acknowledgements]]]:
    """For each instant worth looking at: who is known to have held how much just then, those with most first."""
    everyone = [holder for holder in holders if holder.echo]
    for echo in {holder.echo for holder in everyone}:
        # The instant just before this stamp was given. Whoever echoes it, or a later one, lived on past that instant.
        held = [(holder.held_at(echo - 1), holder) for holder in everyone if holder.echo >= echo]
        held.sort(key=lambda pair: pair[0], reverse=True)
        yield held
