"""Take in a whole log piece by piece, because a log may be long and other tasks must run meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from ...events import Rollback
from ...models import Deny, Entry
from ..cluster.view import SUPERSEDED_MS, View
from .digest import sum_of
from .keys import LogId, entry_key, key_end_ms
from .ready import Snapshot

PIECE = 1000
"""Entries that are taken in at a time. A piece takes some milliseconds, and no heartbeat or probe waits for longer."""


class Loading:
    """One log, read at one position, on its way into a view.

    Denials go into the view at once, so that a long log is in memory only once. The view enforces them even if the load breaks off, or if
    the log turns out to be an older one.

    Args:
        view: what this process knows.
        wanted: returns the keys for which the process will ask whether the log has them; None for all, which takes more memory.
        floor_ms: the log's floor, or less.

    Attributes:
        keys: the wanted keys that the log has.
        total: the sum over all keys, for the digest.
    """

    def __init__(self, view: View, wanted: Callable[[], AbstractSet[str]] | None, floor_ms: int) -> None:
        self.keys: set[str] = set()
        self.total = 0
        self._floor_ms = floor_ms
        self._view = view
        self._wanted = wanted
        self._others: list[Entry] = []

    def take(self, entries: Iterable[tuple[str, Entry]]) -> None:
        """Take in the next entries, with their keys."""
        keys: list[str] = []
        denials: list[Deny] = []
        for key, entry in entries:
            keys.append(key)
            if isinstance(entry, Deny):
                denials.append(entry)
            else:
                self._others.append(entry)
        self._merge(denials)
        self.keys.update(keys if self._wanted is None else self._wanted() & {*keys})
        self.total += sum_of(keys)

    def expect(self, count: int) -> None:
        """Make room for so many denials."""
        self._view.denied.expect(count)

    def take_packed(self, denials: Sequence[Deny]) -> None:
        """Take in denials from a checkpoint, whose digest has the sum over their keys."""
        self._merge(denials)
        if self._wanted is not None and (wanted := self._wanted()):
            self.keys.update(wanted & {*map(entry_key, denials)})

    def _merge(self, denials: Iterable[Deny]) -> None:
        # After that time a replacement counts as a log-out, and takes less memory.
        floor_ms, old_ms = self._floor_ms, self._floor_ms - SUPERSEDED_MS
        self._view.merge_all(
            Deny(denial.id, denial.until_ms) if 0 < denial.replaced_ms < old_ms else denial
            for denial in denials
            if denial.until_ms > floor_ms
        )

    def rollback(
        self, snapshot: Snapshot, log: LogId | None, position: int, *, is_explained: Callable[[str], bool]
    ) -> Generator[None, None, Rollback | None]:
        """Return how the log is older than what this process has applied, in pieces; None if it is not.

        Args:
            snapshot: the log.
            log: the log that this process has read; None if it has read none.
            position: the position up to which it has applied that log.
            is_explained: whether the log may lack a known entry with this key: one not written yet, or one that was deleted early.
        """
        if log is None:
            return None
        if snapshot.log.id != log.id:
            return "log"
        if snapshot.position < position:
            return "position"
        for number, entry in enumerate(self._view.entries(), 1):
            key = entry_key(entry)
            if key not in self.keys and not is_explained(key) and key_end_ms(key) > snapshot.floor_ms:
                return "entries"
            if number % PIECE == 0:
                yield
        return None

    def merge_others(self) -> Iterator[None]:
        """Merge the cuts and the keys into the view, in pieces."""
        for begin in range(0, len(self._others), PIECE):
            self._view.merge_all(self._others[begin : begin + PIECE])
            yield
