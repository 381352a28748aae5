"""The machine's clocks."""

from __future__ import annotations

import time
from functools import partial

from anyio import move_on_after


class SystemClock:
    """The machine's clocks. Where there is no boot-time clock (it counts the time in suspend), the monotonic one."""

    boot_s = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic)
    wall_s = staticmethod(time.time)
    move_on_after = staticmethod(move_on_after)
