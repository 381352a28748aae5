"""How far this node's sequence is durable, and how far it is fenced: what an acknowledged log-out rests on.

Durable: a majority holds it at one instant, so whoever learns from a majority afterwards learns it. Fenced: besides, no member
can still hold a lease from before, since it has confirmed, or is ruled out, or because time enough has passed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable

from .acknowledgements import Acknowledgements, common_instants


class Fence:
    """The account of one node's own sequence, fed with the acknowledgements of the others.

    Args:
        others: all other members.
        majority: of all members.
    """

    __slots__ = ("_awaited", "_holders", "_majority", "_waits", "durable", "fenced")

    def __init__(self, others: Iterable[str], majority: int) -> None:
        self._holders = {member: Acknowledgements(member) for member in others}
        self._majority = majority
        self._waits: deque[tuple[int, float]] = deque()
        """Positions, and when each was known to be durable."""
        self._awaited = 0
        """Who has echoed no later stamp than this is to be heard again before what it acknowledged can count."""
        self.durable = 0
        self.fenced = 0

    def heard(self, member: str, incarnation: str, echo: int) -> None:
        """A member spoke, after it had seen the stamp ``echo`` (0: none). Another incarnation has forgotten what it held."""
        holder = self._holders[member]
        if holder.incarnation != incarnation:
            holder = self._holders[member] = Acknowledgements(member, incarnation)
        holder.echo = max(holder.echo, echo)

    def acknowledged(self, member: str, position: int, silent: tuple[str, ...], stamp: int) -> None:
        """The member holds the sequence up to there, and names those whom it has not answered for as long as a lease lasts.

        Args:
            stamp: the newest that was given to anybody.
        """
        holder = self._holders[member]
        holder.report_silent(silent, position)
        if holder.acknowledge(position, stamp):
            self._awaited = stamp

    def start_anew(self) -> None:
        """This node's sequence has begun anew, and nobody has acknowledged any of it."""
        self._holders = {member: Acknowledgements(member, holder.incarnation) for member, holder in self._holders.items()}

    def is_waiting_for(self, member: str, kept: int) -> bool:
        """Whether a poll of this member is held in vain: the next one would prove what is not proven yet."""
        return self.fenced < kept and self._holders[member].echo <= self._awaited

    def prove(self, kept: int, silent: Collection[str], *, now_s: float, wait_s: float) -> None:
        """See how far things are by now.

        Args:
            kept: up to where this node itself holds its sequence.
            silent: the members that this node has not answered for as long as a lease lasts.
            now_s: the boot-time clock.
            wait_s: how long until every lease of now is over.
        """
        if self.fenced >= kept:
            return
        if not self._holders:
            self.durable = self.fenced = kept
            return
        self._wait(self._count(silent), now_s, wait_s)
        for holder in self._holders.values():
            holder.forget_before(self.fenced)

    def _count(self, silent: Collection[str]) -> int:
        """Fence what all have confirmed or cannot miss; returns up to where a majority holds the sequence."""
        durable = self.durable
        for held in common_instants(self._holders.values()):
            for count in range(self._majority - 1, len(held) + 1):
                position = held[count - 1][0]
                durable = max(durable, position)
                if position > self.fenced and self._all_others_are_ruled_out([holder for _, holder in held[:count]], position, silent):
                    self.fenced = position
        return durable

    def _all_others_are_ruled_out(self, confirmed: list[Acknowledgements], position: int, silent: Collection[str]) -> bool:
        """Whether all but those who confirmed have, for certain, no lease from before."""
        others = self._holders.keys() - {holder.member for holder in confirmed}
        return all(self._is_ruled_out(member, confirmed, position, silent) for member in others)

    def _is_ruled_out(self, member: str, confirmed: list[Acknowledgements], position: int, silent: Collection[str]) -> bool:
        # Of any majority that could have answered it, one of n - majority + 1 members is part; this node is one of those.
        # Only members that hold the entry may testify: the others might answer tomorrow, and without it.
        witnesses = (member in silent) + sum(holder.rules_out(member, position) for holder in confirmed)
        return witnesses >= len(self._holders) + 2 - self._majority

    def _wait(self, durable: int, now_s: float, wait_s: float) -> None:
        """Keep the time at which more was known to be durable, and fence what was known to be so for long enough."""
        if durable > self.durable:
            self.durable = durable
            self._waits.append((durable, now_s))
        while self._waits and now_s >= self._waits[0][1] + wait_s:
            self.fenced = max(self.fenced, self._waits.popleft()[0])
        while self._waits and self._waits[0][0] <= self.fenced:
            self._waits.popleft()

    def fenced_by(self, position: int, wait_s: float) -> float | None:
        """The boot time at which waiting alone will have fenced it; None while it is not durable, for then no wait helps."""
        if position <= self.fenced:
            return -math.inf
        known = next((known_s for durable, known_s in self._waits if durable >= position), None)
        return None if known is None else known + wait_s
