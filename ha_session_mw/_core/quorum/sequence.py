"""A node's own order of the entries it knows: the others read it from a position on.

Positions are given once and never move. Entries that ended leave; their positions stay behind as gaps.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import pairwise

from ...models import Cut, CutId, Deny, DenyKey, Entry
from ..cluster.invariants import ensure
from ..cluster.view import View

LOOKED_AT_ONCE = 4000
"""How many entries are looked at in one step, at least, which takes a millisecond or two."""
LOOKED_WITHIN = 100
"""Within so many steps all of them are looked at: floors are a minute apart, and steps a heartbeat."""


class Sequence:
    """The entries of a view in the order in which this node learned them.

    A denial is stored as its id, the same string object that the view holds, and its end is read from the view. So 10^5
    denials cost 16 bytes each, not an object each.
    """

    __slots__ = ("_items", "_next", "_positions", "_unseen", "_view", "cuts", "last")

    def __init__(self, view: View) -> None:
        self.last = 0
        """The newest position."""
        self.cuts: dict[CutId, int] = {}
        """The positions of the newest cuts, until :meth:`forget_cuts` drops them."""
        self._view = view
        self._positions = array("Q")
        self._items: list[str | Cut | DenyKey] = []
        self._next = self._unseen = 0
        """Where to look for ended entries next, and how many entries are to be looked at from there."""

    def append(self, entry: Entry, position: int | None = None) -> int:
        """Add an entry that was news to the view; return its position, the next one if none is given."""
        self.last = self.last + 1 if position is None else max(self.last, position)
        self._positions.append(self.last)
        self._items.append(entry.id if isinstance(entry, Deny) else entry)
        if isinstance(entry, Cut):
            self.cuts[entry.id] = self.last
        return self.last

    def forget_cuts(self, upto: int) -> None:
        """Drop the positions of cuts up to this one from :attr:`cuts`. The cuts themselves stay."""
        while self.cuts and (oldest := next(iter(self.cuts.items())))[1] <= upto:
            del self.cuts[oldest[0]]

    def page(self, since: int, upto: int, limit: int) -> tuple[list[tuple[int, Entry]], int]:
        """Return the living entries after ``since`` with their positions, at most ``limit``, and the position they reach."""
        start, end = bisect_right(self._positions, since), bisect_right(self._positions, upto)
        reached = upto if end - start <= limit else self._positions[start + limit - 1]
        found: list[tuple[int, Entry]] = []
        for index in range(start, min(end, start + limit)):
            entry = self._entry(self._items[index])
            if entry is not None:
                found.append((self._positions[index], entry))
        return found, reached

    def _entry(self, item: str | Cut | DenyKey) -> Entry | None:
        """Return the entry with its present end and reason, which another entry of the id may have changed; None if it ended."""
        if isinstance(item, str):
            end = self._view.denied.get(item)
            return None if end is None else Deny(item, end, self._view.superseded.get(item, 0))
        # Replaced cuts are sent, too: a node that has read up to here must know every acknowledged entry.
        known: bool = item.id in self._view.known_cuts if isinstance(item, Cut) else item.kid in self._view.denied_keys
        return item if known else None

    def _is_in_force(self, item: str | Cut | DenyKey) -> bool:
        view = self._view
        ends = view.denied.get(item) if isinstance(item, str) else None
        if isinstance(item, Cut):
            ends = view.known_cuts.get(item.id)
        elif isinstance(item, DenyKey):
            ends = view.denied_keys.get(item.kid)
        return ends is not None and ends > view.floor_ms

    def forget_ended(self) -> None:
        """Begin to drop the entries that have ended, because the floor has risen: some now, the others by :meth:`forget_some`."""
        self._next, self._unseen = 0, len(self._items)
        self.forget_some()

    def forget_some(self) -> None:
        """Drop ended entries among the next few: in a long sequence, to look at all of them would take too long at a time."""
        if not self._unseen:
            return
        begin = self._next
        end = begin + min(self._unseen, max(LOOKED_AT_ONCE, len(self._items) // LOOKED_WITHIN))
        kept = [index for index in range(begin, end) if self._is_in_force(self._items[index])]
        if len(kept) < end - begin:
            self._positions[begin:end] = array("Q", [self._positions[index] for index in kept])
            self._items[begin:end] = [self._items[index] for index in kept]
        self._next = begin + len(kept)
        self._unseen -= end - begin

    def check(self) -> None:
        """Check what must hold after each change.

        Raises:
            InvariantBroken: it does not hold.
        """
        ensure(len(self._positions) == len(self._items), "each entry has a position")
        ensure(all(one <= other for one, other in pairwise(self._positions)), "positions only grow")
        ensure(not self._positions or self._positions[-1] <= self.last, "no entry stands after the newest position")
        told = {item if isinstance(item, str) else item.id if isinstance(item, Cut) else item.kid for item in self._items}
        known = {entry.kid if isinstance(entry, DenyKey) else entry.id for entry in self._view.entries()}
        ensure(known <= told, "every entry that this node enforces is in its sequence, for the others to read")
        looked_at = self._items if not self._unseen else self._items[: self._next]
        ensure(all(map(self._is_in_force, looked_at)), "no entry leaves the view before the floor has passed its end")

    def __len__(self) -> int:
        return len(self._items)
