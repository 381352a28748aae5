"""Decide how many requests may wait for something other than the event loop: a pool of connections, threads, a service. Reads no clock.

The measure is the time from the begin of a request to the start of its response, without the time to send its body. Behind a queue,
that time is the number of requests in flight, divided by the answers per second (Little's law). So a limit in flight bounds the time,
and keeps the resource busy: what the node answers in the time allowed. BBR limits a sender by the same product, the highest rate seen
lately times a round trip (Cardwell and others, ACM Queue 14-5, 2016).

A long time alone proves no queue, because the work itself may take long. Therefore the time must have grown to a multiple of the
shortest one, as in gradient limits (TCP Vegas, 1994). It must also stand, as in CoDel (RFC 8289). A limit that does not shorten the
time was a mistake, and ends.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

WINDOW_S = 0.5
"""How often times are judged."""
LEAST = 5
"""Of fewer answers in a window than these, nothing is concluded."""
STANDS = 2
"""For how many windows in a row a delay must stand."""
FELT_S = 0.25
"""The least median of a delay."""
AHEAD_S = 1.0
"""The least wait ahead of a new request, if there is a queue: the requests in flight by the answers a second."""
GROWN = 4.0
"""To how many times the shortest median both must have grown."""
ALLOWED_S = 0.5
"""The time that is allowed under a limit, if twice the shortest median is not longer."""
LATELY = 10
"""Over how many windows the highest rate is taken. A resource that becomes slower is followed after as many."""
HELPS = 0.7
"""To which share of the wait ahead a limit must shorten the median."""
FORGETS = 1.001
"""By which factor the shortest median grows a window: by half in three minutes, so that an app may change its ways."""


class InFlightLimit:
    """Limits the requests in flight by the time they take.

    Attributes:
        limit: how many requests may be in flight; infinite unless a delay stands.
    """

    __slots__ = ("_begun", "_judge_at_s", "_rates", "_refused", "_shortest_s", "_slow", "_times_s", "_useless", "_was_s", "limit")

    def __init__(self) -> None:
        self.limit = math.inf
        self._begun: dict[object, float] = {}
        """When each request in flight began."""
        self._times_s: list[float] = []
        self._rates: deque[float] = deque(maxlen=LATELY)
        self._shortest_s = math.inf
        self._slow = self._useless = self._refused = 0
        self._was_s = 0.0
        """The wait ahead that led to the limit."""
        self._judge_at_s = -math.inf

    def refuses(self, *, has_session: bool) -> bool:
        """Return whether to refuse a request that begins now. Those without a session get half of the room."""
        if len(self._begun) < (self.limit if has_session else self.limit / 2):
            return False
        self._refused += 1
        return True

    def begin(self, request: object, now_s: float, took_s: float = 0.0) -> None:
        """Note that a request begins, or goes on after ``took_s``."""
        self._begun[request] = now_s - took_s

    def pause(self, request: object, now_s: float) -> float:
        """Note that a request waits for its client; return the time that it has taken so far."""
        return now_s - self._begun.pop(request, now_s)

    def answered(self, request: object, now_s: float) -> None:
        """Note that the response to a request starts."""
        begun_s = self._begun.pop(request, None)
        if begun_s is not None:
            self._times_s.append(now_s - begun_s)

    def forget(self, request: object) -> None:
        """Note that a request ends, whether it was answered or not."""
        self._begun.pop(request, None)

    def tick(self, now_s: float) -> None:
        """Judge the times of the last window, if that is over. Call this several times in each."""
        if now_s < self._judge_at_s:
            return
        lasted_s = WINDOW_S + max(0.0, now_s - self._judge_at_s) if self._judge_at_s > -math.inf else WINDOW_S
        self._judge_at_s = now_s + WINDOW_S
        times_s, self._times_s = self._times_s, []
        refused, self._refused = self._refused, 0
        if self.limit == math.inf:
            self._look_for_delay(times_s, lasted_s)
        elif not refused:
            self._end()
        else:
            self._leave_out_waiting(now_s)
            self._follow(times_s, lasted_s)

    def _look_for_delay(self, times_s: list[float], lasted_s: float) -> None:
        self._shortest_s *= FORGETS
        if len(times_s) < LEAST:
            self._slow = 0
            return
        usual_s, rate = median(times_s), len(times_s) / lasted_s
        ahead_s = len(self._begun) / rate
        self._shortest_s = min(self._shortest_s, usual_s)
        self._rates.append(rate)
        grown_s = GROWN * self._shortest_s
        self._slow = self._slow + 1 if usual_s > max(FELT_S, grown_s) and ahead_s > max(AHEAD_S, grown_s) else 0
        if self._slow >= STANDS:
            self._was_s = max(usual_s, ahead_s)
            self._set_limit()

    def _follow(self, times_s: list[float], lasted_s: float) -> None:
        if not times_s:
            return
        usual_s = median(times_s)
        self._rates.append(len(times_s) / lasted_s)
        self._useless = self._useless + 1 if usual_s > HELPS * self._was_s else 0
        if self._useless * WINDOW_S > self._was_s + LATELY * WINDOW_S:  # the queue had time to go, and the limit to follow
            self._shortest_s = usual_s
            self._end()
        else:
            self._set_limit()

    def _set_limit(self) -> None:
        self.limit = max(2.0, max(self._rates) * max(ALLOWED_S, GROWN / 2 * self._shortest_s))

    def _end(self) -> None:
        self.limit = math.inf
        self._slow = self._useless = 0
        self._rates.clear()

    def _leave_out_waiting(self, now_s: float) -> None:
        """Leave out requests that take longer than the queue ever did. They wait for an event, and take no room from others."""
        for request, begun_s in list(self._begun.items()):
            if now_s - begun_s > 2 * self._was_s + WINDOW_S:
                del self._begun[request]
