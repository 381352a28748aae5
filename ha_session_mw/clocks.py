"""The machine's clocks."""

from __future__ import annotations

import time
from functools import partial

from anyio import move_on_after


class SystemClock:
    """The machine's clocks. ``boot_s`` counts the time in suspend if the system has such a clock; otherwise it is the monotonic clock."""

    boot_s = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic)
    wall_s = staticmethod(time.time)
    move_on_after = staticmethod(move_on_after)
