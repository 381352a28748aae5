"""When a node that may have forgotten entries has learned enough to count again.

Quorums intersect only while those who acknowledged still know. A node that comes back without its entries learns first
(as recovery in Viewstamped Replication, Liskov and Cowling 2012, section 4.3), from so many that one of them must know.
"""

from __future__ import annotations


class _Fellow:
    """A member that was recovering itself, as one incarnation, whenever it answered from ``since`` to ``until``."""

    __slots__ = ("incarnation", "since", "until")

    def __init__(self, incarnation: str, since: int) -> None:
        self.incarnation = incarnation
        self.since = since
        self.until = 0


class Recovery:
    """What one recovering node has learned so far, and from whom.

    Args:
        others: how many other members there are.
        needed: how many of them, not recovering themselves, are enough.
        remembers: whether this node came back with its entries. Then a majority that does not know better will do, recovering
            or not: all that it asks of them is that none knows more of this node's own sequence than the node itself.
    """

    __slots__ = ("_fellows", "_needed", "_others", "_remembers", "_step", "_teachers", "known_before")

    def __init__(self, *, others: int, needed: int, remembers: bool) -> None:
        self._others = others
        self._needed = needed
        self._remembers = remembers
        self._step = 0
        self._teachers: set[str] = set()
        self._fellows: dict[str, _Fellow] = {}
        self.known_before = False
        """Whether somebody knows an earlier incarnation of this node: then this is no first start."""

    def begin(self) -> int:
        """A poll is about to be sent; returns its step, to be handed to :meth:`learned` with the answer."""
        self._step += 1
        return self._step

    def learned(self, member: str, incarnation: str, begun: int, *, recovering: bool, known_before: bool) -> None:
        """A complete answer came, to a poll that was sent in step ``begun`` of this recovery."""
        self._step += 1
        self.known_before |= known_before
        if not recovering or self._remembers:
            self._teachers.add(member)
            self._fellows.pop(member, None)
        elif member not in self._teachers:
            fellow = self._fellows.get(member)
            if fellow is None or fellow.incarnation != incarnation:
                fellow = self._fellows[member] = _Fellow(incarnation, self._step)
            fellow.until = max(fellow.until, begun)

    @property
    def complete(self) -> bool:
        """Whether the node may serve and count."""
        return len(self._teachers) >= self._needed or self._everybody_has_been_heard

    @property
    def by_default(self) -> bool:
        """Whether it is complete only because nobody else knows more: a first start, or several have forgotten at once."""
        return len(self._teachers) < self._needed

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
