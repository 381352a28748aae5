"""A node's own order of the entries it knows: what others read from a position on.

Positions are given once and never move. Entries that ended leave; their positions stay behind as gaps.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

from ...models import Cut, Deny, DenyKey, Entry
from ..cluster.view import View


class Sequence:
    """The entries of a view in the order in which this node learned them.

    A denial is kept as its id, the very string that the view holds, and its end is read from there: 10^5 of them cost
    16 bytes each, not an object each.
    """

    __slots__ = ("_items", "_positions", "_view", "last")

    def __init__(self, view: View) -> None:
        self.last = 0
        """The newest position."""
        self._view = view
        self._positions = array("Q")
        self._items: list[str | Cut | DenyKey] = []

    def append(self, entry: Entry, position: int | None = None) -> int:
        """Take in an entry that was news to the view; returns its position, the next one if none is given."""
        self.last = self.last + 1 if position is None else max(self.last, position)
        self._positions.append(self.last)
        self._items.append(entry.id if isinstance(entry, Deny) else entry)
        return self.last

    def page(self, since: int, upto: int, limit: int) -> tuple[list[tuple[int, Entry]], int]:
        """The living entries after ``since`` with their positions, ``limit`` of them at the most, and how far they reach."""
        start, end = bisect_right(self._positions, since), bisect_right(self._positions, upto)
        reached = upto if end - start <= limit else self._positions[start + limit - 1]
        found: list[tuple[int, Entry]] = []
        for index in range(start, min(end, start + limit)):
            entry = self._entry(self._items[index])
            if entry is not None:
                found.append((self._positions[index], entry))
        return found, reached

    def _entry(self, item: str | Cut | DenyKey) -> Entry | None:
        """The entry as it stands now: a denial may have been extended, and then goes by its later end. None if it ended."""
        if isinstance(item, str):
            end = self._view.denied.get(item)
            return None if end is None else Deny(item, end)
        # Cuts that were replaced are told too: whoever has read up to here is to know all that was acknowledged.
        known: bool = item.id in self._view.known_cuts if isinstance(item, Cut) else item.kid in self._view.denied_keys
        return item if known else None

    def forget_ended(self) -> None:
        """Let go of the entries that the view has let go of."""
        kept = [index for index, item in enumerate(self._items) if self._entry(item) is not None]
        if len(kept) < len(self._items):
            self._positions = array("Q", (self._positions[index] for index in kept))
            self._items = [self._items[index] for index in kept]

    def __len__(self) -> int:
        return len(self._items)
