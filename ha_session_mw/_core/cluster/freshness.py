"""The arithmetic of the lease: how long a node may answer from its own knowledge, and when such a lease is certainly over.

Reads no clock. A lease runs on the clock of the node that holds it, and another node waits for its end on its own clock.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

DRIFT = 1.02
"""A fence waits this many times the length of a lease. Clocks that drift by 1 % stretch a lease to 1.01/0.99 of its length."""

FENCE_MARGIN_S = 0.05
"""Added to a fence's wait. It covers the difference between 1.02 and 1.01/0.99 for limits up to four minutes, and the granularity of
timers."""


class Moment(msgspec.Struct, frozen=True):
    """The present, on both clocks of a node.

    Attributes:
        boot_s: the boot-time clock, in seconds, for times that stay in this node.
        wall_ms: the wall clock, in milliseconds, for times that cross nodes. It may step at any time.
    """

    boot_s: float
    wall_ms: float


def fence_wait_s(limit_s: float) -> float:
    """Return how many seconds to wait until no node can still hold a lease that began before now."""
    return limit_s * DRIFT + FENCE_MARGIN_S


def acceptance_limit_s(announced: Iterable[float]) -> float:
    """Return how old a node's knowledge may be: the smallest announced limit, because any member may fence by its own."""
    return min(announced)


def fencing_limit_s(announced: Iterable[float]) -> float:
    """Return the limit that a fence waits for: the largest announced one, because any member may accept by its own."""
    return max(announced)
