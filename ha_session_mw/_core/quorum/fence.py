"""How far this node's sequence is durable, and how far it is fenced: the ground of an acknowledged log-out.

Durable: a majority holds it at one instant, so a node that learns from a majority afterwards learns it. Fenced: besides, no
member can still hold a lease from before. Each has confirmed, is ruled out by others, or has had time enough for its lease to end.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable
from itertools import pairwise

from ..cluster.invariants import ensure
from .acknowledgements import Acknowledgements, common_instants
from .ready import Sought


class Fence:
    """The account of one node's own sequence, fed with the acknowledgements of the others.

    Args:
        others: all other members.
        majority: of all members.

    Attributes:
        durable: up to which position a majority provably holds the sequence.
        fenced: up to which position no member can still accept a session that the sequence revokes.
    """

    __slots__ = ("awaited", "durable", "fenced", "majority", "members", "sought", "waits")

    def __init__(self, others: Iterable[str], majority: int) -> None:
        self.members = {member: Acknowledgements(member) for member in others}
        self.majority = majority
        self.waits: deque[tuple[int, float]] = deque()
        """Positions, and when this node learned that each is durable."""
        self.awaited = 0
        """The stamp after which a member must be heard again before its newest acknowledgement can count."""
        self.sought = -1
        """The stamp after which each member is to be heard again, as a sign of contact."""
        self.durable = 0
        self.fenced = 0

    def heard(self, member: str, incarnation: str, echo: int) -> None:
        """Note that a member spoke after it had seen the stamp ``echo`` (0: none). Another incarnation has forgotten all."""
        known = self.members[member]
        if known.incarnation != incarnation:
            known = self.members[member] = Acknowledgements(member, incarnation)
        known.echo = max(known.echo, echo)

    def acknowledged(self, member: str, position: int, silent: tuple[str, ...], stamp: int) -> None:
        """Note that the member holds the sequence up to there.

        Args:
            member: its name.
            position: up to where.
            silent: the members that it has not answered for a lease's length.
            stamp: the newest stamp that this node has given.
        """
        known = self.members[member]
        known.report_silent(silent, position)
        if known.acknowledge(position, stamp):
            self.awaited = stamp

    def start_anew(self) -> None:
        """Begin the account anew: this node's sequence has begun anew, and no member has acknowledged any of it."""
        self.members = {member: Acknowledgements(member, known.incarnation) for member, known in self.members.items()}

    def seek_contact(self, last: int, stamp: int) -> Sought:
        """Have each member heard again, and return what stands for a sign of a majority.

        Args:
            last: the newest position of this node's sequence.
            stamp: the newest stamp that this node has given.
        """
        self.sought = stamp
        return Sought(stamp, last)

    def is_found(self, sought: Sought) -> bool:
        """Return whether a majority was in contact after that stamp, both ways, and holds all entries from before.

        A member that echoes a later stamp has got an answer that was given since, and its poll has arrived. Entries go to it that way,
        and their acknowledgements come back. While earlier entries do not become durable, further ones will not either: a disk may be full.
        """
        heard = 1 + sum(known.echo > sought.stamp for known in self.members.values())
        return heard >= self.majority and self.durable >= sought.position

    def is_waiting_for(self, member: str, kept: int) -> bool:
        """Return whether to answer this member's poll at once, because its next poll can prove a position, or a contact."""
        echo = self.members[member].echo
        return echo <= self.sought or (self.fenced < kept and echo <= self.awaited)

    def prove(self, kept: int, silent: Collection[str], *, now_s: float, wait_s: float) -> None:
        """Bring :attr:`durable` and :attr:`fenced` up to date.

        Args:
            kept: up to where this node itself holds its sequence.
            silent: the members that this node has not answered for a lease's length.
            now_s: the boot-time clock.
            wait_s: how long until every lease of now is over.
        """
        if self.fenced >= kept:
            return
        if not self.members:
            self.durable = self.fenced = kept
            return
        self._fence_by_time(self._fence_by_confirmations(silent), now_s, wait_s)
        for known in self.members.values():
            known.forget_before(self.fenced)

    def _fence_by_confirmations(self, silent: Collection[str]) -> int:
        """Fence the positions that all members have confirmed or cannot miss; return up to where a majority holds the sequence."""
        durable = self.durable
        for held in common_instants(self.members.values()):
            for count in range(self.majority - 1, len(held) + 1):
                position = held[count - 1][0]
                durable = max(durable, position)
                if position > self.fenced and self._all_others_are_ruled_out([known for _, known in held[:count]], position, silent):
                    self.fenced = position
        return durable

    def _all_others_are_ruled_out(self, confirmed: list[Acknowledgements], position: int, silent: Collection[str]) -> bool:
        """Return whether all members but the confirmed ones certainly have no lease from before."""
        others = self.members.keys() - {known.member for known in confirmed}
        return all(self._is_ruled_out(member, confirmed, position, silent) for member in others)

    def _is_ruled_out(self, member: str, confirmed: list[Acknowledgements], position: int, silent: Collection[str]) -> bool:
        # Of any majority that could have answered it, one of n - majority + 1 members is part; this node is one of those.
        # Only members that hold the entry may testify: the others might answer tomorrow, and without it.
        witnesses = (member in silent) + sum(known.rules_out(member, position) for known in confirmed)
        return witnesses >= len(self.members) + 2 - self.majority

    def _fence_by_time(self, durable: int, now_s: float, wait_s: float) -> None:
        """Note when a position became known to be durable, and fence positions that have been durable for long enough."""
        if durable > self.durable:
            self.durable = durable
            self.waits.append((durable, now_s))
        while self.waits and now_s >= self.waits[0][1] + wait_s:
            self.fenced = max(self.fenced, self.waits.popleft()[0])
        while self.waits and self.waits[0][0] <= self.fenced:
            self.waits.popleft()

    def fenced_by(self, position: int, wait_s: float) -> float | None:
        """Return the boot time at which waiting alone fences it; None while it is not durable: waiting does not help then."""
        if position <= self.fenced:
            return -math.inf
        known = next((known_s for durable, known_s in self.waits if durable >= position), None)
        return None if known is None else known + wait_s

    def check(self, last: int, stamp: int) -> None:
        """Check what must hold after each change.

        Args:
            last: the newest position of this node's sequence.
            stamp: the newest stamp that this node has given.

        Raises:
            InvariantBroken: it does not hold.
        """
        ensure(0 <= self.fenced <= self.durable, "what is fenced is durable")
        ensure(self.durable <= last, "no more is durable than there is")
        ensure(all(one[0] < other[0] and one[1] <= other[1] for one, other in pairwise(self.waits)), "waits begin in their order")
        ensure(all(position <= self.durable for position, _ in self.waits), "only what is durable waits for its fence")
        ensure(self.sought <= stamp, "no sign is sought of a stamp to come")
        for known in self.members.values():
            known.check(stamp)
