"""The other processes that have a beat in an ordered log: who has confirmed what, whose lease is over, and who has a vote.

A process, not a node: each has a view and a lease of its own, and none confirms for another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..cluster.invariants import ensure


@dataclass(slots=True)
class _Process:
    first: int
    applied: int
    position: int
    heard_s: float
    heard_alive_s: float


class Leases:
    """The account of one node, fed with the beats that it reads in the log.

    Two clocks are kept of each: the boot-time clock, by which its lease runs out; and how long the log has been seen *alive*, by which
    it loses its vote. While the log takes no writes everybody is silent, and nobody is gone.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, _Process] = {}

    def heard(self, slot: str, applied: int, position: int, *, first: int, now_s: float, alive_s: float) -> None:
        """The beat of a process was read.

        Args:
            slot: its key.
            applied: up to where it says that it has applied the log.
            position: where its beat stands.
            first: a position before which it cannot have had another beat, if it is news.
            now_s: the boot-time clock.
            alive_s: for how long the log has been alive.
        """
        known = self._known.setdefault(slot, _Process(first, 0, 0, now_s, alive_s))
        known.position = max(known.position, position)
        known.heard_s, known.heard_alive_s = now_s, alive_s
        # Who has applied what is not there yet has read another log, before this one was put in its place: that confirms nothing.
        if applied < position:
            known.applied = max(known.applied, applied)

    def is_news(self, slot: str, position: int) -> bool:
        """Whether the beat of a process that stands there has not been heard yet."""
        known = self._known.get(slot)
        return known is None or known.position < position

    def keep_only(self, slots: set[str]) -> list[str]:
        """The log was read as a whole; returns who is in it no more."""
        return [slot for slot in [*self._known] if slot not in slots and self.gone(slot)]

    def gone(self, slot: str) -> bool:
        """The beat of a process was deleted, by itself as its last word, or long after it fell silent. Returns whether it was known."""
        return self._known.pop(slot, None) is not None

    def lack_until(self, position: int, wait_s: float) -> float:
        """The boot time from which on nobody can hold a lease under which it lacks the log up to there. In the past, if it is so already.

        Whoever has confirmed lacks nothing. Who began after the position needs not be asked: a lease begins with a beat that its
        sender has read in the log, and so after everything before that beat. And who was heard last some time ago had its beat
        before that, and sent it earlier still: a lease's length after it was heard, its lease is over.
        """
        waits = (known.heard_s + wait_s for known in self._known.values() if known.applied < position and known.first < position)
        return max(waits, default=-math.inf)

    def voters(self, since_alive_s: float) -> int:
        """How many have been heard while the log was alive, since then."""
        return sum(known.heard_alive_s >= since_alive_s for known in self._known.values())

    def silent(self, since_s: float) -> list[tuple[str, int]]:
        """Who was not heard since then, and where its last beat stands."""
        return [(slot, known.position) for slot, known in self._known.items() if known.heard_s < since_s]

    def check(self, position: int, now_s: float) -> None:
        """Check what must hold after each change.

        Args:
            position: up to where the log has been applied.
            now_s: the boot-time clock.

        Raises:
            InvariantBroken: it does not hold.
        """
        for known in self._known.values():
            ensure(known.applied < known.position <= position, "a heartbeat confirms only what stands before it, and was read in the log")
            ensure(known.first <= known.position, "no process had a heartbeat before its first one")
            ensure(known.heard_s <= now_s, "no process was heard at a time to come")
