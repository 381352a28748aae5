"""A histogram of plain integers, for figures that are read seldom and counted often."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

FAST_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Bounds for work on one node and calls between nodes, in seconds."""
SPREAD_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds for how long news take through the cluster, in seconds: from a loopback to an outage of a minute."""


class Tally:
    """Counts values by buckets.

    Args:
        bounds: the upper bounds of the buckets, ascending; each belongs to its bucket. A last bucket counts larger values.

    Attributes:
        counts: how many values each bucket has, the last one included.
        sum: the sum of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, once or several times. A negative one, by a clock that is no better than that, counts as 0."""
        value = max(0.0, value)
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.counts)

    def at_most(self, share: float) -> float:
        """Return the least bound that such a share of the values does not exceed; infinity beyond the last one, and 0 without values."""
        needed, running = share * self.total, 0
        for bound, count in zip((0.0, *self.bounds), (0, *self.counts), strict=False):
            running += count
            if running >= needed:
                return bound
        return math.inf

    def told(self) -> Mapping[str, float | None]:
        """Return the number of values, their mean, and bounds of most of them, for people. None is a bound beyond the last one."""
        total = self.total
        return {"count": total, "mean_s": self.sum / total if total else 0.0, "p50_s": self._told(0.5), "p99_s": self._told(0.99)}

    def _told(self, share: float) -> float | None:
        bound = self.at_most(share)
        return bound if bound < math.inf else None  # JSON has no infinity

    def cumulated(self) -> list[tuple[str, int]]:
        """Return for each bound, as text, how many values are at or below it; the last one is ``+Inf``."""
        told, running = [], 0
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            running += count
            told.append(("+Inf" if bound is None else f"{bound:g}", running))
        return told
