"""Take in a snapshot of the whole log piece by piece, because a log may be long and other tasks must run meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from ...events import Rollback
from ...models import Entry
from ..cluster.view import View
from .digest import sum_of
from .keys import LogId, entry_key, key_end_ms
from .ready import Snapshot

PIECE = 1000
"""Entries that are taken in at a time. A piece takes some milliseconds, and no heartbeat or probe waits for longer."""


class Loading:
    """One snapshot on its way into a view.

    Args:
        snapshot: the whole log at one position.

    Attributes:
        keys: the keys of the entries that were counted.
        total: their sum, for the digest.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.keys: set[str] = set()
        self.total = 0
        self._snapshot = snapshot

    def count(self) -> Iterator[None]:
        """Sum up the entries in pieces."""
        for piece in self._pieces():
            keys = [entry_key(entry) for entry in piece]
            self.keys.update(keys)
            self.total += sum_of(keys)
            yield

    def rollback(self, log: LogId | None, position: int, view: View, *, explained: AbstractSet[str]) -> Rollback | None:
        """Return how the snapshot is older than what this process has applied; None if it is not.

        Args:
            log: the log that this process has read; None if it has read none.
            position: the position up to which it has applied that log.
            view: what it knows.
            explained: keys of known entries that the log may lack: those not written yet, and those that were deleted early.
        """
        if log is None:
            return None
        if self._snapshot.log.id != log.id:
            return "log"
        if self._snapshot.position < position:
            return "position"
        explained = explained | self.keys
        known = (entry_key(entry) for entry in view.entries())
        return "entries" if any(key not in explained and key_end_ms(key) > self._snapshot.floor_ms for key in known) else None

    def merge_into(self, view: View) -> Iterator[None]:
        """Merge the entries into the view, in pieces."""
        for piece in self._pieces():
            for entry in piece:
                view.merge(entry)
            yield

    def _pieces(self) -> Iterator[Sequence[Entry]]:
        entries = self._snapshot.entries
        return (entries[begin : begin + PIECE] for begin in range(0, len(entries), PIECE))
