"""This node's copies of session records: their versions, how long they are valid, and which late answers must be dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from cachetools import TTLCache

from .._core.records.session_data import Stored
from ..abc import Clock

COPY_OVERHEAD_BYTES = 512
"""Memory that a copy takes besides its content, roughly: the bound on bytes counts it."""


class _Generation(TTLCache[str, Stored | int]):
    """The copies since the last gap, bounded in number, bytes and time.

    An int marks a newer version whose content this node has not read.
    """

    def __init__(self, most: int, max_bytes: int, ttl_s: float, now_s: Callable[[], float]) -> None:
        super().__init__(max_bytes, ttl_s, now_s, getsizeof=_size_of)
        self._most = most

    def version(self, id: str) -> int:
        known = self.get(id, 0)
        return known if isinstance(known, int) else known.version

    def put(self, id: str, known: Stored | int) -> None:
        """Keep a copy unless a later version is known."""
        if self.version(id) > (known if isinstance(known, int) else known.version):
            return
        self.pop(id, None)
        while self.currsize and len(self) >= self._most:
            self.popitem()
        if _size_of(known) > self.maxsize and not isinstance(known, int):
            known = known.version
        if _size_of(known) <= self.maxsize:
            self[id] = known


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
        known = self._generation.get(id, 0)
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
        return self._generation.pop(id, None) is not None

    def hear(self, id: str, version: int) -> None:
        """Take the news that a record was put, or deleted (version 0)."""
        if not version:
            self._deletions += 1
            self.drop(id)
        elif version > self.version(id):  # an equal one is this node's own write, whose copy is here
            self._generation.put(id, version)

    def drop_ended(self) -> None:
        """Drop the copies whose time is over. Call it now and then: no other call frees the memory of a quiet node."""
        self._generation.expire()

    def forget_all(self) -> None:
        """Drop all copies: changes may have been missed. Answers to earlier reads are not kept either."""
        self._generation = _Generation(*self._bounds)

    def __iter__(self) -> Iterator[str]:
        """Yield the ids of the records of which anything is known."""
        return iter([*self._generation])

    def __len__(self) -> int:
        return len(self._generation)
