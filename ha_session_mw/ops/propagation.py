"""How long each log-out took to each node, from what the nodes tell of themselves. Reads no clock.

Each node tells how long ago it applied a log-out, on its own clock. The node that asks was there when the answer was on its way:
between the sending of its question and the arrival. So it knows the moment on its own clock, give or take half of that time
(as NTP does, RFC 5905). Of several answers, the one with the shortest way counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

import msgspec

KEPT = 32
"""Log-outs that are shown at most."""


class ToldLogOut(msgspec.Struct):
    """A log-out as a node tells it, see :mod:`ha_session_mw._node.recent_log_outs`."""

    key: str
    reach: str
    name: str
    ago_s: float
    at_start: bool
    mode: str | None = None
    acknowledged_s: float | None = None


class _Applied(NamedTuple):
    at_s: float
    error_s: float
    at_start: bool


class _LogOut:
    __slots__ = ("acknowledged_s", "applied", "by", "told")

    def __init__(self, told: ToldLogOut) -> None:
        self.told = told
        self.by: str | None = None
        self.acknowledged_s: float | None = None
        self.applied: dict[str, _Applied] = {}

    @property
    def origin(self) -> _Applied:
        """The node that made it applies it first. If that node is gone, the first of the others counts."""
        if self.by is not None:
            return self.applied[self.by]
        return min(self.applied.values(), key=attrgetter("at_start", "at_s"))


class Propagation:
    """The log-outs that some nodes have told."""

    def __init__(self) -> None:
        self._log_outs: dict[str, _LogOut] = {}

    def learn(self, member: str, told: Iterable[ToldLogOut], *, sent_s: float, received_s: float) -> None:
        """Take in what a member tells.

        Args:
            member: its name.
            told: the log-outs, and how long ago it applied them.
            sent_s, received_s: the present before it made the answer, and after (the clock of the asking node).
        """
        error_s = (received_s - sent_s) / 2
        for one in told:
            log_out = self._log_outs.setdefault(one.key, _LogOut(one))
            known = log_out.applied.get(member)
            if known is None or error_s < known.error_s:
                log_out.applied[member] = _Applied(received_s - error_s - one.ago_s, error_s, one.at_start)
            if one.mode is not None:
                log_out.by, log_out.told.mode, log_out.acknowledged_s = member, one.mode, one.acknowledged_s
        newest = sorted(self._log_outs, key=lambda key: self._log_outs[key].origin.at_s)
        for key in newest[:-KEPT]:
            del self._log_outs[key]

    def told(self, now_s: float) -> list[dict[str, object]]:
        """Return the log-outs, the newest first, with the seconds that each took to each node."""
        newest = sorted(self._log_outs.values(), key=lambda one: -one.origin.at_s)
        return [_told(one, now_s) for one in newest]


def _told(log_out: _LogOut, now_s: float) -> dict[str, object]:
    origin = log_out.origin
    return {
        "key": log_out.told.key,
        "reach": log_out.told.reach,
        "name": log_out.told.name,
        "ago_s": max(0.0, now_s - origin.at_s),
        "by": log_out.by,
        "mode": log_out.told.mode,
        "acknowledged_s": log_out.acknowledged_s,
        "nodes": {
            member: {
                "after_s": None if applied.at_start else max(0.0, applied.at_s - origin.at_s),
                "error_s": 0.0 if applied is origin else applied.error_s + origin.error_s,
            }
            for member, applied in log_out.applied.items()
        },
    }
