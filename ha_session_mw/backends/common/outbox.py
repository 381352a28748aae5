"""What a node has yet to write into a log. Nothing is dropped: what could not be written stays, until it can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import anyio


class Ticket:
    """Stands for what was put into the outbox at once.

    Attributes:
        left: the keys that have not been written yet.
        position: where the last of the others stand.
        rejected: how many of them the log will never take.
        done: set when none is left.
    """

    __slots__ = ("done", "left", "position", "rejected")

    def __init__(self, keys: Iterable[bytes]) -> None:
        self.left = set(keys)
        self.position = 0
        self.rejected = 0
        self.done = anyio.Event()
        self._settle()

    def written(self, key: bytes, position: int) -> None:
        self.left.discard(key)
        self.position = max(self.position, position)
        self._settle()

    def reject(self, key: bytes) -> None:
        self.left.discard(key)
        self.rejected += 1
        self._settle()

    def _settle(self) -> None:
        if not self.left:
            self.done.set()


class Outbox:
    """Keys with their values in the order in which they came, each once, with the tickets of those who wait for it.

    To write a key again is to write the same again, so whoever asks for one that is under way already waits for that.
    """

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._tickets: dict[bytes, list[Ticket]] = {}
        self._filled = anyio.Event()

    def put(self, records: Mapping[bytes, bytes]) -> Ticket:
        """Have records written."""
        ticket = Ticket(records)
        for key, value in records.items():
            self._values.setdefault(key, value)
            self._tickets.setdefault(key, []).append(ticket)
        self._filled.set()
        return ticket

    async def filled(self) -> None:
        """Return when there is something to write."""
        while not self._values:
            self._filled = anyio.Event()
            await self._filled.wait()

    def batch(self, limit: int) -> dict[bytes, bytes]:
        """The next to be written. They stay until it is told what became of them."""
        return dict(islice(self._values.items(), limit))

    def written(self, keys: Iterable[bytes], position: int) -> None:
        """They have been written, at this position."""
        for key in keys:
            for ticket in self._take(key):
                ticket.written(key, position)

    def reject(self, key: bytes) -> None:
        """The log will never take this one."""
        for ticket in self._take(key):
            ticket.reject(key)

    def _take(self, key: bytes) -> list[Ticket]:
        del self._values[key]
        return self._tickets.pop(key)

    def __len__(self) -> int:
        return len(self._values)
