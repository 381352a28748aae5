"""The newest log-outs as one node saw them: when it applied each, and how the one that it made itself was acknowledged.

A node tells how long ago that was. Such an interval is on one clock, so a reader compares nodes without comparing their clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from .._core.cluster.view import NO_SESSION
from ..abc import Clock
from ..models import Cut, Deny, DenyKey, Entry

KEPT = 32
"""Log-outs that a node remembers: as many as a reader sees at once."""
TOLD_FOR_S = 3600.0
"""Age from which a log-out is recent no more."""


class _Applied:
    __slots__ = ("acknowledged_s", "applied_s", "at_start", "entry", "mode")

    def __init__(self, entry: Entry, applied_s: float, *, at_start: bool) -> None:
        self.entry = entry
        self.applied_s = applied_s
        self.at_start = at_start
        self.mode: str | None = None
        self.acknowledged_s = 0.0


def _is_log_out(entry: Entry) -> bool:
    return not (isinstance(entry, Deny) and (entry.replaced_ms or entry.id.startswith(NO_SESSION)))


class RecentLogOuts:
    """Remembers the newest log-outs of a node. Ids that were merely replaced by others are none.

    Args:
        clock: whose boot-time clock counts.
        pseudonym: returns the keyed hash of a name, as the security log writes it.
        is_starting: whether this node is still learning the log. Entries from then are older than its life.
    """

    def __init__(self, clock: Clock, *, pseudonym: Callable[[str], str], is_starting: Callable[[], bool]) -> None:
        self._boot_s = clock.boot_s
        self._pseudonym = pseudonym
        self._is_starting = is_starting
        self._applied: deque[_Applied] = deque(maxlen=KEPT)

    def on_news(self, entries: Sequence[Entry]) -> None:
        """Note entries that this node applies now."""
        now_s, at_start = self._boot_s(), self._is_starting()
        # A node that starts learns a million, and would take the most time for those that it forgets at once.
        newest = islice((entry for entry in reversed(entries) if _is_log_out(entry)), KEPT)
        self._applied.extend(_Applied(entry, now_s, at_start=at_start) for entry in reversed([*newest]))

    def acknowledged(self, entry: Entry, mode: str) -> None:
        """Note that a log-out of this node was acknowledged now, and how."""
        for one in reversed(self._applied):
            if one.entry == entry:
                one.mode, one.acknowledged_s = mode, self._boot_s() - one.applied_s
                return

    def told(self) -> list[dict[str, object]]:
        """Return the log-outs, the oldest first. They contain no id and no subject, but the hashes that the security log has, too."""
        now_s = self._boot_s()
        return [self._told(one, now_s - one.applied_s) for one in self._applied if now_s - one.applied_s < TOLD_FOR_S]

    def _told(self, one: _Applied, ago_s: float) -> dict[str, object]:
        match one.entry:
            case Deny(id=id):
                key, reach, name = self._pseudonym(id), "session", self._pseudonym(id)
            case Cut(id=cut, subject=None):
                key, reach, name = self._pseudonym(cut), "everybody", ""
            case Cut(id=cut, subject=str() as subject, except_family=kept):
                key, reach, name = self._pseudonym(cut), "subject" if kept is None else "others", self._pseudonym(subject)
            case DenyKey(kid=kid):
                key, reach, name = kid, "key", kid
        told: dict[str, object] = {"key": key, "reach": reach, "name": name, "ago_s": ago_s, "at_start": one.at_start}
        return told if one.mode is None else {**told, "mode": one.mode, "acknowledged_s": one.acknowledged_s}
