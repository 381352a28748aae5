"""Whether this node may have forgotten entries that it acknowledged. Until it has learned them again, it neither serves nor counts.

:mod:`.recovery` has the rule that ends an amnesia. This file leaves out how a node finds that its file is old: see :meth:`.Quorum.arrived`.
"""

from __future__ import annotations

from ..cluster.invariants import ensure
from .durability import DurablePrefix
from .membership import APART, Membership
from .messages import Answer
from .recovery import Memory, Recovery


class Amnesia:
    """The amnesia of one node: each process begins with one.

    Args:
        durable: the entries that the node keeps.
        membership: its lists.

    Attributes:
        recovery: the members from which it has learned so far; None once it has learned enough.
        is_claimed: whether nodes of another list take this one for a member. Then a first start may be none.
        majority_forgot: whether a majority had forgotten at once, as at a first start, so that acknowledged entries may be unknown to all.
    """

    __slots__ = ("_durable", "_is_doubted", "_membership", "is_claimed", "majority_forgot", "recovery")

    def __init__(self, durable: DurablePrefix, membership: Membership) -> None:
        self._durable = durable
        self._membership = membership
        self._is_doubted = False
        self.is_claimed = False
        self.majority_forgot = False
        self.recovery: Recovery | None = self._new_recovery()

    def _new_recovery(self) -> Recovery:
        return Recovery(majorities=self._membership.majorities, memory="unchecked" if self._durable.unchecked else "lost")

    def begin(self) -> None:
        """Begin another one, because this node has lost entries that it acknowledged."""
        self._durable.start_anew()
        self.recovery = self._new_recovery()

    def go_by_lists(self) -> None:
        """Go by the majorities that are needed from now on."""
        if self.recovery is not None:
            self.recovery.majorities = self._membership.majorities

    # Whether there is one.

    @property
    def lasts(self) -> bool:
        """Whether this node may have forgotten entries and not learned them again yet."""
        return self.recovery is not None or not self._durable.learned or self._is_doubted

    @property
    def memory(self) -> Memory:
        """How much this node knows of all that it ever acknowledged."""
        if not self.lasts:
            return "whole"
        return "unchecked" if self._durable.unchecked else "lost"

    # Its end.

    def begin_poll(self) -> int:
        """Return the step of a poll that is about to be sent; 0 if no answer is needed to recover."""
        return self.recovery.begin() if self.recovery is not None else 0

    def learned(self, member: str, answer: Answer, step: int) -> None:
        """Count a complete answer of a member to the poll of a step."""
        if answer.memory == "whole":
            self.majority_forgot |= answer.majority_forgot
        if self.recovery is not None:
            self.recovery.learned(member, answer.incarnation, step, answer.memory, known_before=answer.known_before)

    def conclude(self, *, is_claimed: bool, knows_entries: bool) -> bool:
        """End the recovery if this node has learned enough; return whether acknowledged entries may be lost.

        Args:
            is_claimed: whether nodes of another list take this one for a member.
            knows_entries: whether this node knows any entries.
        """
        self.is_claimed = is_claimed
        # The cluster began without entries, and others may have some. But a node that knows of a change has its list from there, and a
        # node of another list has missed it.
        self._is_doubted = self.majority_forgot and is_claimed and self._membership.latest is None
        recovery = self.recovery
        if recovery is None or self._membership.stage == APART or not recovery.is_complete(alone=not is_claimed):
            return False
        self.recovery = None
        self._durable.lists = self._membership.digests
        self._durable.confirm()
        self.majority_forgot |= recovery.majority_forgot
        # At a first start no member has known this node before, and there was nothing to forget.
        return recovery.majority_forgot and (recovery.known_before or knows_entries)

    def check(self) -> None:
        """Check what must hold after each change.

        Raises:
            InvariantBroken: it does not hold.
        """
        ensure(self.recovery is not None or not self._durable.unchecked, "a file is confirmed once its node has recovered")
        ensure(not self._is_doubted or self.majority_forgot, "only a cluster that began without entries is doubted")
