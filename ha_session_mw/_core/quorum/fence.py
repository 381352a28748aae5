"""How far this node's sequence is durable, and how far it is fenced: the ground of an acknowledged log-out.

Durable: a majority holds it at one instant, so a node that learns from a majority afterwards learns it. Fenced: besides, no
member can still hold a lease from before. Each has confirmed, is ruled out by others, or has had time enough for its lease to end.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from itertools import pairwise

from ..cluster.invariants import ensure
from .acknowledgements import Acknowledgements, common_instants
from .majorities import Majorities
from .ready import Sought


class Fence:
    """The account of one node's own sequence, fed with the acknowledgements of the others.

    Args:
        majorities: of all members.

    Attributes:
        durable: up to which position a majority provably holds the sequence.
        fenced: up to which position no member can still accept a session that the sequence revokes.
    """

    __slots__ = ("_known_durable", "awaited", "durable", "fenced", "majorities", "members", "sought", "waits")

    def __init__(self, majorities: Majorities) -> None:
        self.members = {member: Acknowledgements(member) for member in majorities.others}
        self.majorities = majorities
        self.waits: deque[tuple[int, float]] = deque()
        """Positions, and when this node learned that each is durable."""
        self._known_durable: deque[tuple[int, int]] = deque()
        """Stamps, each with the position that was known to be durable before the next stamp was given."""
        self.awaited = 0
        """The stamp after which a member must be heard again before its newest acknowledgement can count."""
        self.sought = -1
        """The stamp after which each member is to be heard again, as a sign of contact."""
        self.durable = 0
        self.fenced = 0

    def heard(self, member: str, incarnation: str, echo: int) -> None:
        """Note that a member spoke after it had seen the stamp ``echo`` (0: none). Another incarnation has forgotten all."""
        known = self.members.get(member)
        if known is None:
            return  # it is on its way out of the list
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
        known = self.members.get(member)
        if known is None:
            return
        known.report_silent(silent, position)
        if known.acknowledge(position, stamp):
            self.awaited = stamp

    def applied(self, member: str, position: int, echo: int) -> None:
        """Note that a process of the member enforces the sequence up to there, though it may not keep it.

        That fences only what was durable when the member's process spoke. A process that comes after it then learns the position before
        it serves. The answer with the stamp ``echo`` was given before, and what was durable then is durable still.

        Args:
            member: its name.
            position: up to where.
            echo: the newest stamp that the process has seen.
        """
        known = self.members.get(member)
        if known is not None:
            durable = max((durable for at, durable in self._known_durable if at < echo), default=0)
            known.applied = max(known.applied, min(position, durable))

    def start_anew(self) -> None:
        """Begin the account anew: this node's sequence has begun anew, and no member has acknowledged any of it."""
        self._known_durable.clear()
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
        heard = [known.member for known in self.members.values() if known.echo > sought.stamp]
        return self.majorities.reached(heard) and self.durable >= sought.position

    def go_by(self, majorities: Majorities) -> None:
        """Go by other majorities from now on. Positions that are durable or fenced stay so."""
        self.majorities = majorities
        self.members = {member: self.members.get(member) or Acknowledgements(member) for member in majorities.others}
        self._known_durable.clear()
        for known in self.members.values():
            known.before, known.applied = known.position, 0

    def is_waiting_for(self, member: str, kept: int) -> bool:
        """Return whether to answer this member's poll at once, because its next poll can prove a position, or a contact."""
        known = self.members.get(member)
        if known is None:
            return False
        return self.seeks(member) or (self.fenced < kept and known.echo <= self.awaited and not self._suffices(member))

    def seeks(self, member: str) -> bool:
        """Return whether this member is to be heard again as a sign of contact."""
        known = self.members.get(member)
        return known is not None and known.echo <= self.sought

    def have_acknowledged(self, members: Collection[str], position: int) -> bool:
        """Return whether all of these members have acknowledged the sequence up to there."""
        return all(known.position >= position for member, known in self.members.items() if member in members)

    def _suffices(self, member: str) -> bool:
        """Return whether that member and this node are a majority."""
        return self.majorities.reached([member])

    def _each_for_itself(self) -> list[tuple[int, Acknowledgements]]:
        """Return the members that suffice, each with the prefix that it held when it acknowledged that, longest first.

        They count together, though each at a time of its own. The first of them to acknowledge makes the prefix durable at that instant.
        The others acknowledged later: those that have forgotten since learn what was durable before they serve again.
        """
        members = self.members.values()
        held = [(known.position, known) for known in members if known.position > known.before and self._suffices(known.member)]
        held.sort(key=lambda pair: pair[0], reverse=True)
        return held

    def prove(self, kept: int, silent: Collection[str], *, stamp: int, now_s: float, wait_s: float) -> None:
        """Bring :attr:`durable` and :attr:`fenced` up to date.

        Args:
            kept: up to where this node itself holds its sequence.
            silent: the members that this node has not answered for a lease's length.
            stamp: the newest stamp that this node has given.
            now_s: the boot-time clock.
            wait_s: how long until every lease of now is over.
        """
        if self.fenced >= kept:
            return
        if not self.members:
            self.durable = self.fenced = kept
            return
        if (durable := self._fence_by_confirmations(silent)) > self.durable:
            self._known_durable.append((stamp, durable))
        self._fence_by_time(durable, now_s, wait_s)
        while len(self._known_durable) > 1 and self._known_durable[1][1] <= self.fenced:
            self._known_durable.popleft()
        for known in self.members.values():
            known.forget_before(self.fenced)

    def _fence_by_confirmations(self, silent: Collection[str]) -> int:
        """Fence the positions that all members have confirmed or cannot miss; return up to where a majority holds the sequence."""
        durable = self.durable
        for held in (self._each_for_itself(), *common_instants(self.members.values())):
            for count in range(max(1, self.majorities.least - 1), len(held) + 1):
                confirmed, position = [known for _, known in held[:count]], held[count - 1][0]
                if not self.majorities.reached([known.member for known in confirmed]):
                    continue
                durable = max(durable, position)
                if position > self.fenced and self._all_others_are_ruled_out(confirmed, position, silent):
                    self.fenced = position
        return durable

    def _all_others_are_ruled_out(self, confirmed: list[Acknowledgements], position: int, silent: Collection[str]) -> bool:
        """Return whether all members but the confirmed ones certainly have no lease from before."""
        others = self.members.keys() - {known.member for known in confirmed}
        return all(self._is_ruled_out(member, confirmed, position, silent) for member in others)

    def _is_ruled_out(self, member: str, confirmed: list[Acknowledgements], position: int, silent: Collection[str]) -> bool:
        if self.members[member].applied >= position:
            return True
        # Each majority that could have answered it includes one of the witnesses. Only members that hold the entry may testify:
        # the others might answer tomorrow, and without it.
        witnesses = [known.member for known in confirmed if known.rules_out(member, position)]
        if member in silent:
            witnesses.append(self.majorities.me)
        return self.majorities.exclude(member, witnesses)

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
