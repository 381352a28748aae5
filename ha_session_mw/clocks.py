"""The machine's clocks."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from anyio import CancelScope

_EARLIER_S = 1e-6
"""How much earlier than at a whole millisecond a wait may end. Otherwise a sum that is rounded up would end after it."""


class SystemClock:
    """The machine's clocks. ``boot_s`` counts the time in suspend if the system has such a clock; otherwise it is the monotonic clock."""

    boot_s = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic)
    wall_s = staticmethod(time.time)

    @staticmethod
    def move_on_after(seconds: float) -> CancelScope:
        """Return a cancel scope that ends its block after so many seconds."""
        return anyio.move_on_after(_in_milliseconds(seconds))  # anyio loads its tasks at this first use

    @staticmethod
    async def sleep(seconds: float) -> None:
        """Return after so many seconds."""
        await anyio.sleep(max(0.0, _in_milliseconds(seconds)))


def _in_milliseconds(seconds: float) -> float:
    """Return the seconds, rounded up to milliseconds.

    uvloop counts in milliseconds. Within the last one anyio would set its timer again and again, and keep the processor busy.
    """
    return math.ceil(seconds * 1000) / 1000 - _EARLIER_S if math.isfinite(seconds) else seconds
