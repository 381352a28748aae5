"""The heartbeats that one process writes into an ordered log: when the next one is due, and which of them it has read back.

A process that has read its own heartbeat back has read everything that was logged before it sent that heartbeat. So the sending
of the newest one that was read back is the moment since which the process is fresh.
"""

from __future__ import annotations

import math

from ..cluster.invariants import ensure
from ..tally import SPREAD_S, Tally

LEAST_BEAT_S = 0.025
"""Least time between two heartbeats, when news brings the next one forward. All news of that time share one heartbeat. A log-out waits
no longer than this for a confirmation, except in a storm."""

MANY, STORM_BEAT_S = 16, 0.1
"""If so many entries of others wait for the next heartbeat, it confirms those of this time together. A heartbeat costs each process, and
etcd, more than ten log-outs."""

FOUND_BEATS = 1.9
"""After so many heartbeats' time, a process that a load has found is dead unless it was heard since. The log takes writes meanwhile, and a
live process writes one. The start of a node waits for it. A tenth is for jitter."""

LAPSED_BEATS = 3
"""If none came back for so many heartbeats' time, the log was not read. Entries may then be as old as the last one that did."""

_MOST_TRIES = 256
"""Most heartbeats that are remembered until they are read back. Older ones are minutes old, and prove no freshness."""


class OwnBeats:
    """The heartbeats of this process.

    Args:
        every_s: time between two heartbeats.

    Attributes:
        every_s: time between two heartbeats.
        tries: when each heartbeat was sent that has not been read back, by its number.
        sent_s: when the newest one was sent.
        hurried: whether news brings the next one forward.
        news: how many entries of others it will be the first to confirm.
        fresh_s: when the newest one was sent that has been read back. A read of a log that stands still counts, too. Negative infinity
            if there was neither.
        alive_s: total time for which the log was seen to take writes.
        returned_s: when a heartbeat was last read back.
        sync_lag: for each heartbeat that was read back, the seconds since it was sent. So long the log takes from a write to here,
            on one clock. If this process could not read the log in between, since it last knew everything.
    """

    __slots__ = ("alive_s", "every_s", "fresh_s", "hurried", "news", "returned_s", "sent_s", "sync_lag", "tries")

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self.tries: dict[int, float] = {}
        self.sent_s = -math.inf
        self.hurried = False
        self.news = 0
        self.fresh_s = -math.inf
        self.alive_s = 0.0
        self.returned_s = math.inf
        self.sync_lag = Tally(SPREAD_S)

    @property
    def due_s(self) -> float:
        """The boot time at which the next heartbeat is due."""
        if not self.hurried:
            return self.sent_s + self.every_s
        return self.sent_s + min(STORM_BEAT_S if self.news >= MANY else LEAST_BEAT_S, self.every_s)

    def sent(self, number: int, now_s: float) -> None:
        """Note that the heartbeat of this number is sent now."""
        self.sent_s, self.hurried, self.news = now_s, False, 0
        self.tries[number] = now_s
        if len(self.tries) > _MOST_TRIES:
            del self.tries[min(self.tries)]

    def when_sent(self, number: int) -> float:
        """Return when the heartbeat of this number was sent; negative infinity if it is none of this process, or proves nothing new."""
        return self.tries.get(number, -math.inf)

    def read_back(self, sent_s: float) -> bool:
        """Take in that the heartbeat that was sent then has been read back; return whether that makes this process fresher."""
        if sent_s <= self.fresh_s:
            return False
        self.fresh_s = sent_s
        self.tries = {number: tried_s for number, tried_s in self.tries.items() if tried_s > sent_s}
        return True

    def measure_lag(self, sent_s: float, before_s: float, now_s: float) -> None:
        """Count how old a heartbeat was when it was read back.

        Args:
            sent_s: when it was sent.
            before_s: when the one was sent that was read back before it.
            now_s: the present.
        """
        followed = sent_s - before_s <= LAPSED_BEATS * self.every_s or before_s == -math.inf
        self.sync_lag.observe(now_s - (sent_s if followed else before_s))

    def count_alive(self, now_s: float) -> None:
        """Count the time since a heartbeat was last read back: the log took writes then.

        It counts as two heartbeats at most, because nothing can be read while the log takes no writes.
        """
        self.alive_s += max(0.0, min(now_s - self.returned_s, 2 * self.every_s))
        self.returned_s = now_s

    def check(self) -> None:
        """Check what must hold after each change.

        Raises:
            InvariantBroken: it does not hold.
        """
        ensure(all(tried_s >= self.fresh_s for tried_s in self.tries.values()), "no heartbeat from before the lease is awaited")
