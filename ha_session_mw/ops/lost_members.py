"""The members that fell silent without a good-bye. A log without a list of members forgets them within seconds, and an operator must not.

Reads no clock. A member that leaves in order says so, and one in whose place another process has started is back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

KEPT_S = 600.0
"""How long a lost member is shown. Where members come and go, nobody knows for longer whether it was meant to come back."""
MOST = 32
"""Lost members that are shown at most: the newest."""

Row = Mapping[str, Any]


class LostMembers:
    """The members that one node no longer hears."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[Row, float]] = {}
        self._lost: dict[str, tuple[Row, float]] = {}

    def look(self, rows: Iterable[Row], now_s: float) -> None:
        """Take in the members that the node hears now, as :func:`ha_session_mw._node.members_told.members_of` tells them."""
        heard = {row["member"]: (row, now_s - row["heard_ago_s"]) for row in _present(rows) if not row["here"]}
        for name, (row, heard_s) in self._heard.items():
            # One that leaves is gone at once. One that falls silent counts as a member until its lease is over.
            if name not in heard and row["state"] != "draining" and now_s - heard_s > row["freshness_limit_s"]:
                self._lost[name] = (row, heard_s)
        self._heard = heard
        kept = [(name, found) for name, found in self._lost.items() if name not in heard and now_s - found[1] <= KEPT_S]
        self._lost = dict(kept[-MOST:])

    def told(self, rows: Iterable[Row], now_s: float) -> list[dict[str, Any]]:
        """Return a row for each lost member in whose place there is none of the present ones."""
        taken = {_place(row) for row in _present(rows)}
        return [
            {**row, "state": "not heard", "heard_ago_s": now_s - heard_s, "ahead_s": None}
            for row, heard_s in self._lost.values()
            if _place(row) not in taken
        ]


def _present(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["state"] != "gone"]


def _place(row: Row) -> str:
    """Return what a process has in common with the one that is started in its place: the URL, else the name without its random part."""
    name = str(row["member"])
    stem = name.rpartition("-")[0]
    return row["url"] or (stem if stem not in ("", "node") else name)
