"""Records that a node has yet to write into a log. A record stays until it is written, or rejected for good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

import anyio


class Ticket:
    """The progress of the records that were put into the outbox together.

    Attributes:
        left: the keys that are not written yet.
        position: the highest position of the written ones.
        rejected: how many keys the log will never take.
        done: set when no key is left.
    """

    __slots__ = ("done", "left", "position", "rejected")

    def __init__(self, keys: Iterable[bytes]) -> None:
        self.left = set(keys)
        self.position = 0
        self.rejected = 0
        self.done = anyio.Event()
        self._finish_if_empty()

    def written(self, key: bytes, position: int) -> None:
        self.left.discard(key)
        self.position = max(self.position, position)
        self._finish_if_empty()

    def reject(self, key: bytes) -> None:
        self.left.discard(key)
        self.rejected += 1
        self._finish_if_empty()

    def _finish_if_empty(self) -> None:
        if not self.left:
            self.done.set()


def _never(_: bytes) -> bool:
    return False


class Outbox:
    """Keys with their values, each once, in the order in which they were put, and the tickets that wait for each.

    A key that is put again while it waits is written once, for both tickets. A key has the same value each time, or one of two.

    Args:
        gives_way: whether a value that waits is replaced by another value of its key. Of any other key, the first value is written.
    """

    def __init__(self, gives_way: Callable[[bytes], bool] = _never) -> None:
        self._gives_way = gives_way
        self._values: dict[bytes, bytes] = {}
        self._tickets: dict[bytes, list[Ticket]] = {}
        self._filled = anyio.Event()

    def put(self, records: Mapping[bytes, bytes]) -> Ticket:
        """Add records to be written, and return the ticket of them all."""
        ticket = Ticket(records)
        for key, value in records.items():
            waiting = self._values.setdefault(key, value)
            if waiting is not value and self._gives_way(waiting):
                self._values[key] = value
            self._tickets.setdefault(key, []).append(ticket)
        self._filled.set()
        return ticket

    async def filled(self) -> None:
        """Wait until there is something to write."""
        while not self._values:
            self._filled = anyio.Event()
            await self._filled.wait()

    def batch(self, limit: int) -> dict[bytes, bytes]:
        """Return the next records to write. They stay until :meth:`written` or :meth:`reject` is called."""
        return dict(islice(self._values.items(), limit))

    def written(self, records: Mapping[bytes, bytes], position: int) -> None:
        """Take out records that were written at a position. A key whose value was replaced meanwhile stays."""
        for key, value in records.items():
            if self._values.get(key) == value:
                for ticket in self._remove(key):
                    ticket.written(key, position)

    def reject(self, key: bytes) -> None:
        """Take out a key that the log will never take."""
        for ticket in self._remove(key):
            ticket.reject(key)

    def _remove(self, key: bytes) -> list[Ticket]:
        del self._values[key]
        return self._tickets.pop(key)

    def __contains__(self, key: bytes) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)
