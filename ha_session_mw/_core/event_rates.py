"""How often something happened within the last minutes. Reads no clock."""

from __future__ import annotations

from collections import deque

STEP_S = 5.0
"""The grain of the rates: fine enough for one minute, and 15 minutes are 180 numbers."""
WINDOWS_S = (60.0, 300.0, 900.0)
"""The windows of the rates: those of a load average."""
_MOST_STEPS = int(WINDOWS_S[-1] / STEP_S) + 1


class EventRates:
    """Counts events by time.

    Args:
        began_s: when the counting begins. A rate before that much time has passed counts the time that has.
    """

    __slots__ = ("_began_s", "_steps")

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        self._steps: deque[list[int]] = deque(maxlen=_MOST_STEPS)

    def add(self, now_s: float) -> None:
        """Count one event that happens now."""
        step = int(now_s // STEP_S)
        if self._steps and self._steps[-1][0] == step:
            self._steps[-1][1] += 1
        else:
            self._steps.append([step, 1])

    def per_second(self, window_s: float, now_s: float) -> float:
        """Return how often it happened a second, within the last so many seconds."""
        first = int((now_s - window_s) // STEP_S)
        events = sum(count for step, count in self._steps if step > first)
        return events / max(STEP_S, min(window_s, now_s - self._began_s))
