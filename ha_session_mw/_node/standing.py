"""One line in the log when this node begins to refuse everybody with 503, one each minute while it does, and one when it ends.

The same for keys that do not go together, or that it lacks. And one for a name that several members have.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from .._core.cluster.key_use import KeyFit
from ..abc import Clock, ClusterLog

logger = logging.getLogger("ha_session_mw")

TELL_EVERY_S = 60.0
WARN_SKEW_S = 2.0
"""Skew from which a clock is wrong: NTP keeps clocks within some milliseconds."""
SKEW_LASTS_S = 5.0
"""How long a skew must last before the node logs it. A message that the network has held back looks like one until the next arrives."""


def farthest_skew_s(log: ClusterLog) -> float:
    """Return how many seconds this node's wall clock is ahead of that which differs most, of the live members' and the cluster server's.

    0 if there is none.
    """
    engine_s = log.engine_ahead_s()
    engines = [] if engine_s is None else [-engine_s]
    return max((*engines, *(-seen.ahead_s for seen in log.sightings() if seen.is_live and seen.ahead_s is not None)), key=abs, default=0.0)


class StandingLog:
    """Tells an operator whether this node serves, and whether its clock is right.

    Args:
        clock: the boot-time clock.
        why_not: returns why the node validates no sessions; None if it does, or never has since its start, or is about to stop.
        skew_s: returns how far this node's clock is ahead of the other clock that differs most.
        key_fit: returns how this node's keys go together with the other members'.
        lacked_keys: returns a line for each key that this node needs and does not have.
        shared_names: returns the names that several members have.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        why_not: Callable[[], str | None],
        skew_s: Callable[[], float],
        key_fit: Callable[[], KeyFit],
        lacked_keys: Callable[[], Sequence[str]],
        shared_names: Callable[[], tuple[str, ...]],
    ) -> None:
        self._boot_s = clock.boot_s
        self._why_not = why_not
        self._skew_s = skew_s
        self._since_s: float | None = None
        self._tell_at_s = 0.0
        self._is_skewed = False
        self._since_skew_s = clock.boot_s()
        self._key_fit = key_fit
        self._told_fit = KeyFit()
        self._tell_keys_at_s = -math.inf
        self._lacked_keys = lacked_keys
        self._tell_lacked_at_s: dict[str, float] = {}
        self._shared_names = shared_names
        self._told_names: tuple[str, ...] = ()

    def look(self) -> None:
        """Look whether there is something to tell. Called about once a second."""
        self._look_at_service()
        self._look_at_keys()
        self._look_at_lacked_keys()
        self._look_at_names()
        self._look_at_skew()

    def _look_at_service(self) -> None:
        why, now_s = self._why_not(), self._boot_s()
        if why is None:
            if self._since_s is not None:
                logger.warning("this node validates sessions again, after %.0f s", now_s - self._since_s)
                self._since_s = None
        elif self._since_s is None:
            self._since_s, self._tell_at_s = now_s, now_s + TELL_EVERY_S
            logger.error("this node validates no sessions and answers 503: %s", why)
        elif now_s >= self._tell_at_s:
            self._tell_at_s = now_s + TELL_EVERY_S
            logger.error("this node has validated no sessions for %.0f s and answers 503: %s", now_s - self._since_s, why)

    def _look_at_keys(self) -> None:
        fit, now_s = self._key_fit(), self._boot_s()
        if fit == self._told_fit and (not fit.apart or now_s < self._tell_keys_at_s):
            return
        self._told_fit, self._tell_keys_at_s = fit, now_s + TELL_EVERY_S
        if not fit.apart:
            logger.warning("the keys of all members go together again")
            return
        line = "member %s and this node cannot validate each other's tokens%s; give all nodes the same HA_SESSION_SECRET_KEY"
        odd = ": this node has other keys than most members, issues no tokens and is not ready" if fit.is_odd else ""
        logger.error(line, ", ".join(fit.apart), odd)

    def _look_at_lacked_keys(self) -> None:
        now_s = self._boot_s()
        self._tell_lacked_at_s = {line: self._tell_lacked_at_s.get(line, now_s) for line in self._lacked_keys()}
        for line, at_s in self._tell_lacked_at_s.items():
            if now_s >= at_s:
                self._tell_lacked_at_s[line] = now_s + TELL_EVERY_S
                logger.warning("%s", line)

    def _look_at_skew(self) -> None:
        skew_s, now_s = self._skew_s(), self._boot_s()
        if (abs(skew_s) > (WARN_SKEW_S / 2 if self._is_skewed else WARN_SKEW_S)) == self._is_skewed:
            self._since_skew_s = now_s
        elif now_s - self._since_skew_s >= SKEW_LASTS_S:
            self._is_skewed = not self._is_skewed
            if self._is_skewed:
                logger.warning(
                    "this node's clock and another member's, or the cluster server's, differ by %.1f s; from 30 s on it validates no "
                    "sessions; run NTP",
                    abs(skew_s),
                )
            else:
                logger.warning("this node's clock and the others agree again")

    def _look_at_names(self) -> None:
        names = self._shared_names()
        for name in names:
            if name not in self._told_names:
                logger.error("several members are named %s; give each node a HA_SESSION_NODE_ID of its own", name)
        self._told_names = names
