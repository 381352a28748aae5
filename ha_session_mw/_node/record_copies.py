"""This node's copies of session records: their versions, how long they are valid, and which late answers must be dropped."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator

import msgspec

from .._core.records.session_data import Stored
from ..abc import Clock

COPY_OVERHEAD_BYTES = 512
"""Memory that a copy takes besides its content, roughly: the bound on bytes counts it."""


class _Generation:
    """The copies since the last gap, bounded in number, bytes and time.

    An int marks a newer version whose content this node has not read. All are kept for the same time, so the oldest one ends first.
    """

    def __init__(self, most: int, max_bytes: int, ttl_s: float, now_s: Callable[[], float]) -> None:
        self._most = most
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._now_s = now_s
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[float, Stored | int]] = OrderedDict()
        """The end of the time for which each is kept, and the copy or the version. The oldest one comes first."""

    def get(self, id: str) -> Stored | int:
        """Return what is known of a record; 0 if nothing is."""
        found = self._kept.get(id)
        return found[1] if found is not None and self._now_s() < found[0] else 0

    def version(self, id: str) -> int:
        known = self.get(id)
        return known if isinstance(known, int) else known.version

    def put(self, id: str, known: Stored | int) -> None:
        """Keep a copy unless a later version is known."""
        version, size = (known, COPY_OVERHEAD_BYTES) if isinstance(known, int) else (known.version, _size_of(known))
        if self.version(id) > version:
            return
        self.drop(id)
        if size > self._max_bytes:
            known, size = version, COPY_OVERHEAD_BYTES
        while self._kept and (len(self._kept) >= self._most or self._bytes + size > self._max_bytes):
            self.drop(next(iter(self._kept)))
        if size <= self._max_bytes:
            self._kept[id] = self._now_s() + self._ttl_s, known
            self._bytes += size

    def drop(self, id: str) -> bool:
        """Drop what is known of a record; return whether anything was."""
        found = self._kept.pop(id, None)
        if found is None:
            return False
        self._bytes -= _size_of(found[1])
        return self._now_s() < found[0]

    def drop_ended(self) -> None:
        """Drop the copies whose time is over."""
        now_s = self._now_s()
        while self._kept and (oldest := next(iter(self._kept.items())))[1][0] <= now_s:
            self.drop(oldest[0])

    def ids(self) -> Collection[str]:
        """Return the ids of the records of which anything is known."""
        self.drop_ended()
        return self._kept.keys()


def _size_of(known: Stored | int) -> int:
    return COPY_OVERHEAD_BYTES + (0 if isinstance(known, int) else len(known.data))


class Mark(msgspec.Struct, frozen=True):
    """The moment before a record is read or written. It decides whether the answer is kept."""

    generation: _Generation
    deletions: int


class RecordCopies:
    """This node's copies of records. A store reports changes to :meth:`hear` and gaps to :meth:`forget_all`.

    Args:
        clock: measures how long a copy has been kept.
        most: the largest number of copies.
        max_bytes: the most bytes that all copies together may take.
        ttl_s: how long a copy is kept.
    """

    def __init__(self, clock: Clock, *, most: int, max_bytes: int, ttl_s: float) -> None:
        self._bounds = most, max_bytes, ttl_s, clock.boot_s
        self._generation = _Generation(*self._bounds)
        self._deletions = 0

    def get(self, id: str) -> Stored | None:
        """Return the copy of a record, or None."""
        known = self._generation.get(id)
        return None if isinstance(known, int) else known

    def version(self, id: str) -> int:
        """Return the newest version of a record that this node has heard of, or 0."""
        return self._generation.version(id)

    def mark(self) -> Mark:
        """Return the present moment; take it before a record is read or written."""
        return Mark(self._generation, self._deletions)

    def keep_read(self, id: str, stored: Stored, since: Mark) -> None:
        """Keep a record read since a moment, unless any record was deleted meanwhile: this one may have been."""
        if self._deletions == since.deletions:
            since.generation.put(id, stored)

    def keep_written(self, id: str, stored: Stored, since: Mark) -> None:
        """Keep a record that this node has written since a moment."""
        since.generation.put(id, stored)

    def drop(self, id: str) -> bool:
        """Drop a copy; return whether anything was known of the record."""
        return self._generation.drop(id)

    def hear(self, id: str, version: int) -> None:
        """Take the news that a record was put, or deleted (version 0)."""
        if not version:
            self._deletions += 1
            self.drop(id)
        elif version > self.version(id):  # an equal one is this node's own write, whose copy is here
            self._generation.put(id, version)

    def drop_ended(self) -> None:
        """Drop the copies whose time is over. Call it now and then: no other call frees the memory of a quiet node."""
        self._generation.drop_ended()

    def forget_all(self) -> None:
        """Drop all copies: changes may have been missed. Answers to earlier reads are not kept either."""
        self._generation = _Generation(*self._bounds)

    def __iter__(self) -> Iterator[str]:
        """Yield the ids of the records of which anything is known."""
        return iter([*self._generation.ids()])

    def __len__(self) -> int:
        return len(self._generation.ids())
