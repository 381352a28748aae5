"""The arithmetic of the lease: how long a node may answer from what it knows, and when such a lease is over for certain.

Reads no clock. A lease runs on the clock of the node that holds it and is waited out on the clock of another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

DRIFT = 1.02
"""A lease on a clock that is 1 % slow outlasts, by 1.01/0.99, its length on a clock that is 1 % fast."""

FENCE_MARGIN_S = 0.05
"""For what 1.02 lacks of 1.01/0.99, with limits of up to four minutes, and for the granularity of timers."""


class Moment(NamedTuple):
    """Now, on both clocks of a node.

    Attributes:
        boot_s: the boot-time clock, in seconds: for what stays in this node.
        wall_ms: the wall clock, in milliseconds: for what crosses nodes. May step at any time.
    """

    boot_s: float
    wall_ms: float


def fence_wait_s(limit_s: float) -> float:
    """How long to wait until no node can still hold a lease that began before now."""
    return limit_s * DRIFT + FENCE_MARGIN_S


def acceptance_limit_s(announced: Iterable[float]) -> float:
    """How old a node's knowledge may be: the smallest limit that anybody announces, for others may fence by theirs."""
    return min(announced)


def fencing_limit_s(announced: Iterable[float]) -> float:
    """Which limit a fence waits out: the largest that anybody announces, for others may accept by theirs."""
    return max(announced)
