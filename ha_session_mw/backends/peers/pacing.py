"""Limits the pace of each peer, so that no broken or hostile peer keeps this node busy or fills its log."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable

from ..._core.calls.faults import Fault
from ..._core.calls.rate_limit import RateLimiter
from ..._core.quorum.messages import Answer

LEAST_ROUND_S = 0.001
"""Shortest time from one poll of a peer to the next. A peer that answers faster, again and again, must not keep this node busy."""

ROUNDS_PER_S = 50
"""Polls of one peer per second in the long run."""
MANY = 8
"""News in an answer from which the next poll waits for its turn twice as long. In a storm of log-outs, each brings those of 40 ms
together."""
ROUNDS_AT_ONCE = 50
"""Polls of one peer without a pause, after it was quiet: a single log-out waits for no turn."""

LEAST_ENTRY_S = 1 / 80_000
"""Shortest time per entry of an answer, known or not: 10^5 entries may take this node 1.25 s."""

LEAST_ENTRY_WHILE_LEARNING_S = 1 / 1_000_000
"""The same while this node has to learn, and serves nobody: a million entries may take a second."""

LEAST_PAGE_AGAIN_S = 0.05
"""Shortest time per page that this node has read before, while it has to learn."""
LEAST_PAGE_WHILE_SERVING_S = 0.25
"""Shortest time per page while this node serves: the pages of one peer must leave time for the others."""

NEWS_PER_S = 16_384
"""News that one peer may bring per second in the long run, while this node serves: more than any site logs out."""
NEWS_AT_ONCE = 131_072
"""News that one peer may bring at once while this node serves: as many as in eight seconds of the long run."""
INCOMPLETE_COUNTS = 8
"""How many times over news count in an incomplete answer. A peer that floods all others with such pages then fills
them more slowly than they pass the news on. So the others stay fresh by each other."""
CATCH_UP_AT_ONCE = 262_144
"""News in incomplete answers that one peer may bring at once while this node does not serve: it was out of contact, and catches up.
After that, a peer that floods the others is as slow as while they serve. So they become fresh again by each other, in its flood."""

JOINS_AT_ONCE = 5
"""Joins of one member that are logged in a row."""
JOINS_EVERY_S = 60.0
"""Seconds per logged join in the long run. Of two processes with one URL each joins anew whenever the other was heard."""


class PeerPace:
    """The shortest time that a poll of one peer and the pause after it must take.

    Args:
        note: counts a fault of the peer.
    """

    __slots__ = ("_allowance", "_catching_up", "_note", "_reached", "_rounds")

    def __init__(self, note: Callable[[Fault], None]) -> None:
        self._note = note
        self._allowance = RateLimiter(NEWS_PER_S, NEWS_AT_ONCE)
        self._catching_up = RateLimiter(NEWS_PER_S / INCOMPLETE_COUNTS, CATCH_UP_AT_ONCE)
        self._rounds = RateLimiter(ROUNDS_PER_S, ROUNDS_AT_ONCE)
        self._reached = ("", 0)
        """How far the last answer went in the peer's sequence, and in which incarnation of it."""

    def least_round_s(self, answer: Answer, news: int, now_s: float, *, recovering: bool, fresh: bool) -> float:
        """Return the shortest time of the round that brought this answer, in seconds.

        Args:
            answer: the peer's answer.
            news: how many of its entries were news here.
            now_s: the boot-time clock.
            recovering: whether this node learns the entries that it may have forgotten.
            fresh: whether this node serves. Before that it catches up as fast as it can, from answers that bring something.
        """
        if not answer.complete:
            self._note("pages")
        if recovering:
            # A file that no member has confirmed is not written, so a node that cannot finish its recovery reads the same entries again.
            is_again = bool(answer.size) and not news and self._reached == (answer.incarnation, answer.upto)
            page_s = LEAST_PAGE_AGAIN_S if is_again else LEAST_ROUND_S
            round_s = max(page_s, answer.size * LEAST_ENTRY_WHILE_LEARNING_S)
        else:
            page_s = LEAST_ROUND_S if answer.complete else LEAST_PAGE_WHILE_SERVING_S
            round_s = max(page_s, answer.size * LEAST_ENTRY_S)
        self._reached = answer.incarnation, answer.upto
        if recovering and answer.size:
            return round_s
        if fresh or not answer.size:
            round_s = max(round_s, self._rounds.spend(2 if news >= MANY else 1, now_s) or 0.0)
            owed_s = self._allowance.spend(news if answer.complete else news * INCOMPLETE_COUNTS, now_s) or 0.0
        elif not answer.complete:
            # A peer that passes on another's flood also repeats what this node has told it. That earns it more news.
            owed_s = self._catching_up.spend(news - (answer.size - news) / 2, now_s) or 0.0
        else:
            return round_s
        if owed_s > round_s:
            self._note("slowed")
        return max(round_s, owed_s)


class JoinReports:
    """Logs that members join, and sums up those that join over and over.

    Args:
        logger: where operators read of them.
    """

    __slots__ = ("_limits", "_logger", "_untold")

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._limits: defaultdict[str, RateLimiter] = defaultdict(lambda: RateLimiter(1 / JOINS_EVERY_S, JOINS_AT_ONCE))
        self._untold: defaultdict[str, int] = defaultdict(int)

    def report(self, member: str, now_s: float) -> None:
        """Log that a member has joined, or count it if its joins were logged too often of late."""
        if self._limits[member].spend(1, now_s, patience_s=0.0) is None:
            self._untold[member] += 1
        elif untold := self._untold.pop(member, 0):
            self._logger.warning(
                "member %s has joined, and %d times more since the last such line; two processes may have its HA_SESSION_ADVERTISE_URL",
                member,
                untold,
            )
        else:
            self._logger.info("member %s has joined", member)
