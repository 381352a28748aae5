"""The other processes with a heartbeat in an ordered log: what each has confirmed, when its lease ends, and which have a vote.

Each process of a node has a view and a lease of its own, so no process confirms for another.
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
    limit_s: float
    is_found: bool  # only its heartbeat was found in the log, which it may have written at any time


class Leases:
    """The leases of all other processes, as one process derives them from the heartbeats that it reads in the log.

    Each process has two times. The boot-time clock decides when its lease ends. The time for which the log was seen *alive* decides
    when it loses its vote. While the log takes no writes, every process is silent, and none has left.
    """

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: dict[str, _Process] = {}

    def heard(
        self, slot: str, applied: int, position: int, *, first: int, now_s: float, alive_s: float, limit_s: float, found: bool = False
    ) -> None:
        """Take in a heartbeat of another process that was read in the log.

        Args:
            slot: the key of the process.
            applied: up to which position the process has applied the log, by its own word.
            position: the position of the heartbeat.
            first: for a process that was unknown, a position before which it cannot have had another heartbeat.
            now_s: the boot-time clock.
            alive_s: for how long the log was seen to take writes, in all.
            limit_s: how old the knowledge of the process may be, by its own word.
            found: whether it was part of a load. Its process may have ended long ago.
        """
        known = self.known.setdefault(slot, _Process(first, 0, 0, now_s, alive_s, limit_s, is_found=found))
        known.is_found = found
        known.position = max(known.position, position)
        known.heard_s, known.heard_alive_s = now_s, alive_s
        # A position that did not exist yet is one of an earlier log, which this one has replaced. It confirms nothing.
        if applied < position:
            known.applied = max(known.applied, applied)

    def is_news(self, slot: str, position: int) -> bool:
        """Return whether a heartbeat at this position is newer than the last one of its process."""
        known = self.known.get(slot)
        return known is None or known.position < position

    def keep_only(self, slots: set[str]) -> list[str]:
        """Take out all processes that a whole log does not contain, and return their slots."""
        return [slot for slot in [*self.known] if slot not in slots and self.gone(slot)]

    def gone(self, slot: str) -> bool:
        """Take out a process whose heartbeat was deleted, and return whether it was known."""
        return self.known.pop(slot, None) is not None

    def limits(self, own_s: float) -> tuple[float, float]:
        """Return the least and the largest limit of all processes, the own one included. A process counts until its slot is deleted."""
        limits = [own_s, *(known.limit_s for known in self.known.values())]
        return min(limits), max(limits)

    def lack_until(self, position: int, wait_s: float, lapsed_s: float) -> float:
        """Return the boot time from which no process can hold a lease while it lacks the log up to a position.

        Args:
            position: in the log.
            wait_s: the length of the longest lease, with a margin.
            lapsed_s: until when silence proves nothing, because the log may have stood still (:mod:`.standstill`).

        The time is in the past if that holds already. A process that has confirmed the position lacks nothing. A process whose first
        heartbeat is later lacks nothing either. Its lease begins only once it has read that heartbeat, and everything before it, in
        the log. A heartbeat is sent before it is heard here, so a lease has ended once its length has passed since then.
        """
        lacking = [known.heard_s for known in self.known.values() if known.applied < position and known.first < position]
        return max(*lacking, lapsed_s) + wait_s if lacking else -math.inf

    def confirmed(self, since_s: float) -> float:
        """The position up to which no process that was heard since a boot time lacks the log; infinity if there is no such process."""
        return min((max(known.applied, known.first) for known in self.known.values() if known.heard_s > since_s), default=math.inf)

    def voters(self, since_alive_s: float, found_since_alive_s: float) -> int:
        """Return how many processes have a vote.

        Args:
            since_alive_s: a time counted while the log was alive. A process has a vote if it was heard since.
            found_since_alive_s: the same for a process whose heartbeat was found in a load. A live one is heard again within a heartbeat.
        """
        return sum(known.heard_alive_s >= (found_since_alive_s if known.is_found else since_alive_s) for known in self.known.values())

    def awaited(self, since_alive_s: float) -> bool:
        """Return whether a process that was found in a load since a time, counted while the log was alive, has not been heard again."""
        return any(known.is_found and known.heard_alive_s >= since_alive_s for known in self.known.values())

    def silent(self, since_s: float, since_alive_s: float) -> list[tuple[str, int]]:
        """Return the slots that were not heard since two times, each with the position of its last heartbeat.

        Args:
            since_s: a boot time.
            since_alive_s: a time counted while the log was alive. A process that could not write may hold a lease all the same.
        """
        found = self.known.items()
        return [(slot, known.position) for slot, known in found if known.heard_s < since_s and known.heard_alive_s < since_alive_s]

    def check(self, position: int, now_s: float) -> None:
        """Check what must hold after each change.

        Args:
            position: up to where the log has been applied.
            now_s: the boot-time clock.

        Raises:
            InvariantBroken: it does not hold.
        """
        for known in self.known.values():
            ensure(known.applied < known.position <= position, "a heartbeat confirms only what stands before it, and was read in the log")
            ensure(known.first <= known.position, "no process had a heartbeat before its first one")
            ensure(known.heard_s <= now_s, "no process was heard at a time to come")
