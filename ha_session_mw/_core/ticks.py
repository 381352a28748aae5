"""The common instants of a node's regular work. An idle process has to fetch its code into the processor's cache for each wake-up."""

from __future__ import annotations


def until_tick_s(now_s: float, every_s: float) -> float:
    """Return the seconds until the next multiple of an interval. Tasks that wait for multiples wake up together.

    A multiple counts as reached a hundredth of the interval before it, because a timer may end a millisecond early.

    Args:
        now_s: the boot-time clock.
        every_s: the interval.
    """
    left_s = every_s - now_s % every_s
    return left_s if left_s > every_s / 100 else left_s + every_s
