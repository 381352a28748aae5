"""Whose entries are in a node's sequence, so that nobody has to read there what it has already.

Each process gives its positions once, and its memory only grows. So a process and a position name a set of entries for ever: all that
it had up to there. A node *has* such a set if its own memory has each entry of it that has not ended by its floor. That stays true as long
as the node's process lives. Three rules tell it:

* A process has its own entries.
* A node has the set once it has read the process from the beginning, or from a position up to which it had all before.
* A node has it once it has read another process to the end, and that process had it.

A set of a process says nothing of the next process of the same node. Even if that one goes on with the positions of a file, the file may be
an old one. Then a position names something else. A node that knows less than it could reads more, and nothing worse.
"""

from __future__ import annotations

from .messages import Answer, Read
from .ready import Hold
from .sequence import Sequence

MOST = 64
"""Most processes that one node remembers: those of a large cluster, and some that have ended. Their names take four kilobytes."""


class Provenance:
    """The sequences that one process has, and the origins of its own.

    Args:
        life: names the process.
        sequence: its own sequence.
    """

    __slots__ = ("_had", "_life", "_origins", "_sequence", "_upto")

    def __init__(self, life: str, sequence: Sequence) -> None:
        self._life = life
        self._sequence = sequence
        self._had: dict[str, int] = {}
        """By process: the position up to which this one has its entries."""
        self._upto = 0
        """The position up to which all entries of this process's sequence came from the sets in ``_origins``."""
        self._origins: dict[str, int] = {}

    @property
    def had(self) -> Read:
        """The processes whose entries this one has, each with the position."""
        return tuple(self._had.items())

    @property
    def told(self) -> Read:
        """The same for an answer: behind the own process, whose newest position says where one has all of that."""
        return ((self._life, self._sequence.last), *self.had)

    def merged(self, answer: Answer, before: int, *, asked: int) -> None:
        """Note that an answer was merged.

        Args:
            answer: the answer.
            before: the newest own position before that.
            asked: the position after which this node wanted the answer to begin. The other raises it only over what this one has.
        """
        its = answer.heartbeat.life
        teller, newest = answer.read[0] if answer.read else ("", 0)
        if before == self._upto < self._sequence.last and teller == its and len(self._origins) < MOST:
            # An answer has the ends and reasons of now. A later position than the answer reaches may have brought them.
            self._origins[its] = max(newest, self._origins.get(its, 0))
            self._upto = self._sequence.last
        had = max(self._had.get(its, 0), answer.since if answer.since > asked else 0)
        if answer.since <= had:
            self._note(its, max(had, answer.upto))
            if teller == its and newest <= answer.upto:
                for other, position in answer.read[1:MOST]:
                    self._note(other, max(position, self._had.get(other, 0)))

    def _note(self, life: str, position: int) -> None:
        if life != self._life:
            self._had.pop(life, None)
            self._had[life] = position
            if len(self._had) > MOST:
                del self._had[next(iter(self._had))]

    def known_to(self, hold: Hold) -> int:
        """Return a position of the own sequence up to which the sender of a poll has all, by its own word."""
        if hold.read is None:
            return 0
        had = dict(hold.read)
        has_origins = all(life == hold.life or had.get(life, 0) >= position for life, position in self._origins.items())
        return max(had.get(self._life, 0), self._upto if has_origins else 0)
