"""Write log-outs again that somebody has deleted or overwritten in etcd.

Each process writes them in an order of its own, a batch at a time, and leaves out those that another process has written meanwhile. So the
processes share the work, and it is done by the others if one of them ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import islice

import anyio
import anyio.lowlevel

from ..._core.ordered.keys import entry_key
from ..._core.ordered.loading import PIECE
from ...models import Entry
from ..common.outbox import Ticket
from .process import Process, logger
from .writer import BATCH, Outboxes

GATHER_S = 0.5
"""How long deletions are gathered. Each search for their entries goes through all log-outs."""

_FOUND = (
    "somebody has deleted or overwritten %d log-outs in etcd that have not ended; this node writes them again; "
    "let no other program, and nobody by hand, write or delete keys below the prefix of HA_SESSION_CLUSTER"
)


class Restorer:
    """Has the log-outs that etcd lacks written again.

    Args:
        process: what the tasks of this process share.
        outboxes: take what is to be written.
    """

    def __init__(self, process: Process, outboxes: Outboxes) -> None:
        self._process = process
        self._lacks = process.ordered.entries
        self._outboxes = outboxes
        self._due: set[str] = set()
        self._found: dict[str, Entry] = {}
        self._filled = anyio.Event()

    def add(self, keys: Iterable[str]) -> None:
        """Have the entries of these keys written again."""
        self._due.update(keys)
        if self._due:
            self._filled.set()

    def exposure(self) -> str | None:
        """Return how many log-outs etcd lacks, for operators; None if it lacks none."""
        if not (missing := len(self._lacks.deleted)):
            return None
        return f"somebody has deleted {missing} log-outs in etcd, which are being written again: until then, start no node"

    async def restore_for_ever(self) -> None:
        """Write the entries that are due, until cancelled."""
        while True:
            await self._filled.wait()
            await self._process.clock.sleep(GATHER_S)
            due, self._due, self._filled = self._due, set(), anyio.Event()
            await self._find(due)
            if self._found:
                logger.error(_FOUND, len(self._found))
                await self._restore()
                logger.warning("the log-outs that somebody has deleted or overwritten are in etcd again")

    async def _find(self, keys: set[str]) -> None:
        entries = self._process.ordered.view.entries()
        while piece := [*islice(entries, PIECE)]:
            self._found.update((key, entry) for entry in piece if (key := entry_key(entry)) in keys)
            await anyio.lowlevel.checkpoint()

    async def _restore(self) -> None:
        slot = self._process.ordered.slot
        in_turn = iter(sorted(self._found, key=lambda key: blake2b((slot + key).encode(), digest_size=8).digest()))
        while batch := [*islice(in_turn, BATCH)]:
            await self._put(batch).done.wait()
            await anyio.lowlevel.checkpoint()  # so that this process reads what the others have written
        self._found = {}

    def hand_over(self) -> None:
        """Have all that is left written at once: this process ends."""
        self._put(self._found)

    def _put(self, keys: Iterable[str]) -> Ticket:
        missing = [self._found[key] for key in keys if key in self._lacks.deleted]
        return self._outboxes.put(self._process.keys.records(missing))
