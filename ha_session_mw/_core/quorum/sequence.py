"""A node's own order of the entries it knows: the others read it from a position on.

Positions are given once and never move. Entries that ended leave; their positions stay behind as gaps.
"""

from __future__ import annotations

from array import array
from binascii import a2b_base64, b2a_base64
from bisect import bisect_right
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from itertools import pairwise

from ...models import Cut, CutId, Deny, DenyKey, Entry
from ..cluster.denials import REFERENCE_LENGTH
from ..cluster.invariants import ensure
from ..cluster.view import END_STEP_MS, WORTH_A_SWEEP, View

LOOKED_AT_ONCE = 4000
"""How many entries are looked at in one step, at least, which takes a few milliseconds. A sequence without more is looked at as a whole."""
LOOKED_WITHIN = 200
"""Within so many steps all of them are looked at. A step comes each heartbeat."""

BLOCK = 128
"""Positions in one block: as many as there are ASCII characters."""
_PLACE = 1 + REFERENCE_LENGTH
_NO_REFERENCE = "~" * REFERENCE_LENGTH
"""Stands for an entry that is an object: ``~`` is in no reference."""
_POSITIONS = "".join(map(chr, range(BLOCK)))
_TO_BASE64, _FROM_BASE64 = bytes.maketrans(b"-_", b"+/"), bytes.maketrans(b"+/", b"-_")


class Sequence:
    """The entries of a view in the order in which this node learned them.

    A packed denial takes six bytes here: a character for its position in its block, and the reference by which the view finds the rest. In
    a block with a packed denial at each position it takes four. So the view must drop no denial that this sequence still refers to: it does
    so when :meth:`forget_some` has gone through all.
    """

    __slots__ = ("_blocks", "_count", "_ended", "_firsts", "_next", "_objects", "_unseen", "_upto_ms", "_view", "cuts", "last")

    def __init__(self, view: View) -> None:
        self.last = 0
        """The newest position."""
        self.cuts: dict[CutId, int] = {}
        """The positions of the newest cuts, until :meth:`forget_cuts` drops them."""
        self._view = view
        view.referred = True
        self._firsts = array("Q")
        """The first position of each block."""
        self._blocks: list[str | bytes] = []
        """The entries of each block, as places of six characters. Bytes are the references of a full block, as base64 reads them."""
        self._objects: dict[int, tuple[str | Cut | DenyKey, ...]] = {}
        """By position: cuts, keys, and the ids of denials that are not packed. The garbage collector passes over tuples of ids."""
        self._count = 0
        self._next = self._unseen = 0
        """Which block to look at next for ended entries, and how many blocks are to be looked at from there."""
        self._ended = self._upto_ms = 0
        """The values of ``view.ended`` and of the floor when the present look at all entries began."""

    def append(self, entry: Entry, position: int | None = None) -> int:
        """Add an entry that was news to the view; return its position, the next one if none is given."""
        self.last = self.last + 1 if position is None else max(self.last, position)
        reference = self._view.denied.reference(entry.id) if isinstance(entry, Deny) else None
        if reference is None:
            self._objects[self.last] = (*self._objects.get(self.last, ()), entry.id if isinstance(entry, Deny) else entry)
        self._add_places(self.last, chr(self.last - self._first_of(self.last)) + (reference or _NO_REFERENCE))
        self._count += 1
        if isinstance(entry, Cut):
            self.cuts[entry.id] = self.last
        return self.last

    def append_all(self, entries: SequenceOf[Entry]) -> None:
        """Add entries that were news to the view, at the next positions."""
        others, begun = self._view.denied.others, 0
        while begun < len(entries):
            first, last = self._first_of(self.last + 1), self.last
            some = entries[begun : begun + BLOCK - (last + 1 - first)]
            places: list[str] = []
            for position, entry in enumerate(some, last + 1):
                if isinstance(entry, Deny) and entry.id not in others:
                    places.append(chr(position - first) + entry.id[:REFERENCE_LENGTH])
                    continue
                places.append(chr(position - first) + _NO_REFERENCE)
                self._objects[position] = (entry.id if isinstance(entry, Deny) else entry,)
                if isinstance(entry, Cut):
                    self.cuts[entry.id] = position
            self._add_places(last + 1, "".join(places))
            self._count += len(some)
            self.last += len(some)
            begun += len(some)

    def append_packed(self, ids: SequenceOf[str]) -> None:
        """Add packed denials that were news to the view, at the next positions."""
        references, begun = [id[:REFERENCE_LENGTH] for id in ids], 0
        while begun < len(references):
            offset = self.last + 1 - self._first_of(self.last + 1)
            some = references[begun : begun + BLOCK - offset]
            self._add_places(self.last + 1, _full(some) if len(some) == BLOCK else "".join(map(str.__add__, _POSITIONS[offset:], some)))
            self._count += len(some)
            self.last += len(some)
            begun += len(some)

    def _first_of(self, position: int) -> int:
        """Return the first position of the block that takes a new position."""
        return self._firsts[-1] if self._firsts and position - self._firsts[-1] < BLOCK else position

    def _add_places(self, position: int, places: str | bytes) -> None:
        """Add places that begin at a position, and lie within one block; or a full block."""
        if isinstance(places, str) and self._firsts and position - self._firsts[-1] < BLOCK:
            self._blocks[-1] = _text(self._blocks[-1]) + places
            return
        if self._blocks:
            self._blocks[-1] = _packed(self._blocks[-1])
        self._firsts.append(position)
        self._blocks.append(places)

    def forget_cuts(self, upto: int) -> None:
        """Drop the positions of cuts up to this one from :attr:`cuts`. The cuts themselves stay."""
        while self.cuts and (oldest := next(iter(self.cuts.items())))[1] <= upto:
            del self.cuts[oldest[0]]

    def page(self, since: int, upto: int, limit: int) -> tuple[list[tuple[int, Entry]], int]:
        """Return the living entries after ``since`` with their positions, about ``limit`` at most, and the position they reach."""
        positions, references, reached = self._references(since, upto, limit)
        found: list[tuple[int, Entry]] = []
        packed = [reference for reference in references if reference != _NO_REFERENCE]
        referred = self._view.denied.referred_all(packed, self._view.superseded)
        if len(packed) == len(references):
            return [(position, denial) for position, denial in zip(positions, referred, strict=True) if denial is not None], reached
        denials = iter(referred)
        for position, reference in zip(positions, references, strict=True):
            if reference == _NO_REFERENCE:
                found += [(position, entry) for entry in self._entries(position, reference)]
            elif (denial := next(denials)) is not None:
                found.append((position, denial))
        return found, reached

    def packed_page(self, since: int, upto: int, limit: int) -> tuple[list[Entry], list[str], list[int], int]:
        """Return the same without positions, at half the cost: ids that are logged out and the minutes in which they end, apart."""
        positions, references, reached = self._references(since, upto, limit)
        packed = [reference for reference in references if reference != _NO_REFERENCE]
        ids, minutes = self._view.denied.columns(packed)
        entries: list[Entry] = []
        if len(packed) < len(references):
            for position, reference in zip(positions, references, strict=True):
                if reference == _NO_REFERENCE:
                    entries += self._entries(position, reference)
        replaced = self._view.superseded
        if not replaced.keys().isdisjoint(ids):
            entries += [Deny(id, minute * END_STEP_MS, replaced[id]) for id, minute in zip(ids, minutes, strict=True) if id in replaced]
            minutes = [minute for id, minute in zip(ids, minutes, strict=True) if id not in replaced]
            ids = [id for id in ids if id not in replaced]
        return entries, ids, minutes, reached

    def _references(self, since: int, upto: int, limit: int) -> tuple[list[int], list[str], int]:
        """Return the positions after ``since`` that have entries, their references, and the position that they reach."""
        positions: list[int] = []
        references: list[str] = []
        for some, named in self._blocks_after(since):
            positions += some
            references += named
            if len(positions) > limit:
                break
        count, reached = bisect_right(positions, upto), upto
        if count > limit:
            count, reached = limit, positions[limit - 1]
        del positions[count:], references[count:]
        return positions, references, reached

    def _blocks_after(self, since: int) -> Iterator[tuple[SequenceOf[int], list[str]]]:
        """Yield the positions after this one that have entries, and their references, block by block."""
        index = max(0, bisect_right(self._firsts, since) - 1)
        for first, block in zip(self._firsts[index:], self._blocks[index:], strict=True):
            positions, references = _places(first, block)
            begin = bisect_right(positions, since)
            yield positions[begin:], references[begin:]

    def _entries(self, position: int, reference: str) -> list[Entry]:
        """Return what stands at a position, with the present ends and reasons, which other entries of an id may have changed."""
        view = self._view
        if reference != _NO_REFERENCE:
            referred = view.denied.referred(reference)
            return [] if referred is None else [Deny(*referred, view.superseded.get(referred[0], 0))]
        found: list[Entry] = []
        for item in self._objects[position]:
            if isinstance(item, str):
                if (end := view.denied.get(item)) is not None:
                    found.append(Deny(item, end, view.superseded.get(item, 0)))
            # Replaced cuts are sent, too: a node that has read up to here must know every acknowledged entry.
            elif (item.id in view.known_cuts) if isinstance(item, Cut) else (item.kid in view.denied_keys):
                found.append(item)
        return found

    def forget_some(self) -> None:
        """Drop ended entries, a few at a time, once it is worth it: in a long sequence, to look at all of them takes time."""
        view = self._view
        if not self._unseen:
            ended = view.ended - self._ended
            if not ended or self._count > max(LOOKED_AT_ONCE, ended * WORTH_A_SWEEP) or view.denied.is_sweeping:
                return
            self._next, self._unseen = 0, len(self._blocks)
            self._ended, self._upto_ms = view.ended, view.floor_ms
        for _ in range(min(self._unseen, max(LOOKED_AT_ONCE // BLOCK, len(self._blocks) // LOOKED_WITHIN))):
            self._look_at_next()
        if not self._unseen:
            view.sweep(self._upto_ms)
            view.drop_ended()

    def _look_at_next(self) -> None:
        first, block = self._firsts[self._next], _text(self._blocks[self._next])
        places = [block[at : at + _PLACE] for at in range(0, len(block), _PLACE)]
        kept = [place for place in places if self._is_in_force(first + ord(place[0]), place[1:])]
        self._count -= len(places) - len(kept)
        self._unseen -= 1
        if kept:
            if len(kept) < len(places):
                self._blocks[self._next] = "".join(kept)
            self._next += 1
        else:
            del self._firsts[self._next], self._blocks[self._next]

    def _is_in_force(self, position: int, reference: str) -> bool:
        """Return whether anything at a position has not ended, and drop the objects there that have."""
        if reference != _NO_REFERENCE:
            referred = self._view.denied.referred(reference)
            return referred is not None and referred[1] > self._view.floor_ms
        kept = tuple(item for item in self._objects[position] if self._has_not_ended(item))
        if kept:
            self._objects[position] = kept
        else:
            del self._objects[position]
        return bool(kept)

    def _has_not_ended(self, item: str | Cut | DenyKey) -> bool:
        view = self._view
        if isinstance(item, str):
            end = view.denied.get(item)
        else:
            end = view.known_cuts.get(item.id) if isinstance(item, Cut) else view.denied_keys.get(item.kid)
        return end is not None and end > view.floor_ms

    def check(self) -> None:
        """Check what must hold after each change.

        Raises:
            InvariantBroken: it does not hold.
        """
        places = [place for block in self._blocks_after(-1) for place in zip(*block, strict=True)]
        ensure(len(places) == self._count, "the entries are counted")
        ensure(all(one[0] <= other[0] for one, other in pairwise(places)), "positions only grow")
        ensure(not places or places[-1][0] <= self.last, "no entry stands after the newest position")
        objects = [position for position, reference in places if reference == _NO_REFERENCE]
        ensure(objects == sorted(self._objects), "an object stands at its position")
        entries = [entry for place in places for entry in self._entries(*place)]
        told = {entry.kid if isinstance(entry, DenyKey) else entry.id for entry in entries}
        known = {entry.kid if isinstance(entry, DenyKey) else entry.id for entry in self._view.entries()}
        ensure(known <= told, "every entry that this node enforces is in its sequence, for the others to read")
        if self._view.ended == self._ended and not self._unseen:
            items = sum(map(len, self._objects.values())) + len(places) - len(objects)
            ensure(len(entries) == items, "no entry leaves the view before the floor has passed its end")

    def __len__(self) -> int:
        return self._count


def _packed(block: str | bytes) -> str | bytes:
    """Return a block that takes no more places as bytes, if it has a packed denial at each position."""
    if isinstance(block, bytes) or block[::_PLACE] != _POSITIONS or _NO_REFERENCE in block:
        return block
    return _full(_places(0, block)[1])


def _full(references: SequenceOf[str]) -> bytes:
    """Return a block with a packed denial at each position."""
    return a2b_base64("".join(references).encode().translate(_TO_BASE64))


def _places(first: int, block: str | bytes) -> tuple[SequenceOf[int], list[str]]:
    """Return the positions of a block, whose first one is known, and the references there."""
    if isinstance(block, str):
        references = [block[at + 1 : at + _PLACE] for at in range(0, len(block), _PLACE)]
        return [first + ord(position) for position in block[::_PLACE]], references
    text = b2a_base64(block, newline=False).translate(_FROM_BASE64).decode()
    return range(first, first + BLOCK), [text[at : at + REFERENCE_LENGTH] for at in range(0, len(text), REFERENCE_LENGTH)]


def _text(block: str | bytes) -> str:
    """Return the places of a block."""
    return block if isinstance(block, str) else "".join(map(str.__add__, _POSITIONS, _places(0, block)[1]))
