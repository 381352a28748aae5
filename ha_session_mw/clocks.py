"""The machine's clocks."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from anyio import CancelScope


class SystemClock:
    """The machine's clocks. ``boot_s`` counts the time in suspend if the system has such a clock; otherwise it is the monotonic clock."""

    boot_s = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic)
    wall_s = staticmethod(time.time)

    @staticmethod
    def move_on_after(seconds: float) -> CancelScope:
        """Return a cancel scope that ends its block after so many seconds."""
        return anyio.move_on_after(seconds)  # anyio loads its tasks at this first use
