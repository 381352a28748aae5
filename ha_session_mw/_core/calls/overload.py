"""Decide which requests a node with too many of them refuses. Reads no clock.

The measure is how late the event loop runs a task that is due now and then. Each request waits as long as that for its turn. As in
CoDel (RFC 8289), a delay counts only if it stands. A burst, a pause in a debugger or a slow import delays the loop, too, but then the
next round of the loop is shorter. With too many requests it is longer. From then on, each round begins requests up to a limit, and the
rest is refused. That ends once the loop has been in time for a second.

Requests are counted as they begin, and not as they end. So long requests, streams and WebSockets cost nothing.
"""

from __future__ import annotations

import math

TICK_S = 0.05
"""How often the task is due."""
LATE_S = 0.1
"""Lateness from which the loop counts as late. A request that waits longer than that is felt."""
SESSIONS_LATE_S = 0.2
"""How late the loop must be for requests with a session to be refused, too: those without one make room first."""
STANDS_S = 1.0
"""How long a delay must stand: ten times ``LATE_S``, as CoDel's interval is to a usual delay. As long, the loop must be in time."""
BUSY = 5
"""How many requests must begin in a round that counts. A single handler may block the loop for as long as it likes."""
RETRY_S = (1.0, 3.0)
"""Bounds of the retry hint. It is spread, so that the refused clients do not come back together."""
HINTS = 64
"""How many hints there are. Answers with the same hint are alike, and rendered once."""


class OverloadGuard:
    """Tells from the lateness of the event loop whether the node has too many requests.

    Attributes:
        is_overloaded: whether it has.
    """

    __slots__ = ("_begun", "_due_s", "_last_late_s", "_late_for_s", "_late_since_s", "_room_at_s", "is_overloaded")

    def __init__(self) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse nothing, because nobody measures."""
        self.begin(math.inf)

    def begin(self, now_s: float) -> None:
        """Begin to measure: call :meth:`tick` in ``TICK_S``."""
        self.is_overloaded = False
        self._begun = 0
        self._due_s = now_s + TICK_S
        self._late_since_s = self._last_late_s = math.inf
        self._room_at_s = -math.inf
        """When requests without a session have room again: none while some with a session are refused."""
        self._late_for_s = math.inf
        """How late the last tick was, after a round that counts; infinity if that round does not count."""

    def tick(self, now_s: float) -> None:
        """Take the moment at which the task ran; it is due again in ``TICK_S``."""
        late_s = now_s - self._due_s
        if late_s > LATE_S and self._begun >= BUSY:
            if self._late_for_s == math.inf:
                self._late_since_s = self._due_s
            self._late_for_s = late_s
            self._last_late_s = now_s
        else:
            self._late_for_s = math.inf
            self.is_overloaded = self.is_overloaded and now_s - self._last_late_s < STANDS_S
        self._begun = 0
        self._due_s = now_s + TICK_S

    def refuses(self, now_s: float, *, has_session: bool) -> bool:
        """Count a request that begins now, and return whether to refuse it."""
        self._begun += 1
        late_s = now_s - self._due_s
        if late_s <= LATE_S and (has_session or now_s >= self._room_at_s):
            return False
        if not self.is_overloaded:
            # The delay stands if this round has lasted for longer than the last one, and both for a while.
            stands = late_s > self._late_for_s and now_s - self._late_since_s >= STANDS_S
            self.is_overloaded = stands and self._begun >= BUSY
        if not self.is_overloaded or (has_session and late_s <= SESSIONS_LATE_S):
            return False
        if has_session:
            self._room_at_s = now_s + STANDS_S
        return True


def retry_after_s(roll: int) -> float:
    """Return the retry hint of one refusal.

    Args:
        roll: a random number, not negative.
    """
    least_s, most_s = RETRY_S
    return least_s + (most_s - least_s) * (roll % HINTS) / (HINTS - 1)
