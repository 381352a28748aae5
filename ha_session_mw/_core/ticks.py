"""The common instants of a node's regular work. An idle process has to fetch its code into the processor's cache for each wake-up."""

from __future__ import annotations


def until_tick_s(now_s: float, every_s: float) -> float:
    """Return the seconds until the next multiple of an interval. Tasks that wait for multiples wake up together.

    Args:
        now_s: the boot-time clock.
        every_s: the interval.
    """
    return every_s - now_s % every_s
