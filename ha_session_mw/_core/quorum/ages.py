"""How long ago this node appended the entries that another member has yet to read: the sender's half of the sync lag.

Each half is an interval on one clock, so no clocks are compared. The sender says how old the oldest entry in an answer is, and for how
long it held the poll. The receiver adds the round trip that is left: at most one trip of the poll too much.
"""

from __future__ import annotations

from collections import deque

from .messages import UNKNOWN_AGE_S

_MOST_MARKS = 4096
"""Times that are remembered: those of a minute with 70 log-outs a second. Older entries have an unknown age, and are not counted."""


class Ages:
    """When the newest entries of this node's sequence were appended: here, or where they were made, if that is known.

    Args:
        known_after: the newest position that was read from a file, whose entries have an unknown age.
    """

    __slots__ = ("_known_after", "_marks")

    def __init__(self, known_after: int) -> None:
        self._marks: deque[tuple[int, float]] = deque()
        self._known_after = known_after
        """The times of all positions after this one are known."""

    def note(self, position: int, appended_s: float) -> None:
        """Note when the entries up to this position, after the last one noted, were appended."""
        if position <= (self._marks[-1][0] if self._marks else self._known_after):
            return
        self._marks.append((position, appended_s))
        if len(self._marks) > _MOST_MARKS:
            self._known_after = self._marks.popleft()[0]

    def oldest_s(self, since: int, now_s: float) -> float:
        """Return the age in seconds of the oldest entry after a position; negative if it is unknown."""
        if since < self._known_after:
            return UNKNOWN_AGE_S
        oldest_s = now_s
        for position, appended_s in reversed(self._marks):
            if position <= since:
                break
            oldest_s = min(oldest_s, appended_s)
        return now_s - oldest_s


def lag_s(age_s: float, *, sent_s: float, now_s: float, held_s: float) -> float | None:
    """Return how long entries took from where they were made to here, in seconds; None if it is unknown.

    Args:
        age_s: the age of the oldest one when the answer was made, on the sender's clock; negative if unknown.
        sent_s: when the poll was sent, on this node's boot-time clock.
        now_s: the present, on the same clock.
        held_s: how long the sender held the poll, on its own clock.
    """
    return None if age_s < 0 else age_s + max(0.0, now_s - sent_s - held_s)
