"""The latest time of this machine that earlier processes knew: the date of an empty file in the folder of keys."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

from ...abc import Clock

NAME = "latest"
TOUCH_EVERY_S = 5.0
"""How often a process with a trusted clock dates the file. Nothing is written or synced for that."""


class FileDates:
    """Dates a file while this process runs.

    Args:
        folder: of the file.
        clock: the two clocks.

    Attributes:
        latest_ms: the date of the file when this process began, in milliseconds; negative infinity if there was none.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path = folder / NAME
        self._clock = clock
        self._touch_at_s = -math.inf
        self.latest_ms = -math.inf
        with suppress(OSError):  # this is the first process, or cannot read the folder: then the clock has no witness
            self.latest_ms = self._path.stat().st_mtime * 1000

    def touch(self) -> None:
        """Date the file, now and then. The caller trusts its clock. Never raises."""
        now_s = self._clock.boot_s()
        if now_s < self._touch_at_s:
            return
        self._touch_at_s = now_s + TOUCH_EVERY_S
        with suppress(OSError):  # the folder of keys tells that it cannot be written
            self._path.touch(mode=0o600)
            os.utime(self._path, (self._clock.wall_s(),) * 2)
