"""The growth of the log-outs that a node remembers: two figures for operators, and a warning once one of them is large."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from .._core.cluster.view import View
from ..abc import Clock
from ..models import Entry

logger = logging.getLogger("ha_session_mw.revocations")

ENTRY_BYTES = 40
"""Memory of one entry, measured over 10^6 denials with ``peers://``; less elsewhere. A cut has more, and is rarer."""
MANY = 100_000
"""Entries from which the node warns, and again at each doubling: some 4 MB in each process, and 15 MB in etcd's file."""
MANY_A_MINUTE = 6000
"""New entries within a minute from which the node warns: a hundred log-outs a second are many in any app."""
MINUTE_S = 60.0


class Growth:
    """The number of revocations on one node, and how fast it grows.

    Args:
        view: holds the entries.
        clock: whose boot-time clock counts.

    Attributes:
        per_minute: how many entries were news within the last whole minute.
    """

    def __init__(self, view: View, clock: Clock) -> None:
        self._view = view
        self._clock = clock
        self.per_minute = 0
        self._news = 0
        self._since_s = clock.boot_s()
        self._warn_at = MANY
        self._is_fast = False

    @property
    def bytes(self) -> int:
        """About how much memory the entries take."""
        return len(self._view) * ENTRY_BYTES

    def on_news(self, entries: Sequence[Entry]) -> None:
        """Count entries that are news to this node."""
        self._news += len(entries)

    def look(self) -> None:
        """Warn if there are many entries, or many new ones. Called about once a second."""
        if (entries := len(self._view)) >= self._warn_at:
            self._warn_at = 2 * entries
            logger.warning("this node holds %d revocations, about %d MB; each stays until the last token that it concerns has expired",
                           entries, self.bytes >> 20)  # fmt: skip
        elif entries < MANY // 2:
            self._warn_at = MANY
        if (now_s := self._clock.boot_s()) - self._since_s >= MINUTE_S:
            self.per_minute = round(self._news * MINUTE_S / (now_s - self._since_s))
            self._news, self._since_s = 0, now_s
            self._warn_of_pace()

    def _warn_of_pace(self) -> None:
        was_fast, self._is_fast = self._is_fast, self.per_minute >= MANY_A_MINUTE
        if self._is_fast and not was_fast:
            logger.warning("%d revocations came within a minute; find out in the security log whose sessions begin and end so fast",
                           self.per_minute)  # fmt: skip
