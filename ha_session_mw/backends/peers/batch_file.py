"""The file of a node's batches: read once at the start, appended to, and rewritten once it has grown."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import anyio.lowlevel
import anyio.to_thread

from ..._core.quorum.messages import Batch, decode_batch, encode
from ..._machine.journal import JournalFile
from ..._machine.sqlite_file import FileTrouble
from ...exceptions import ConfigurationError
from ...version import BATCH

FILE = "the file of HA_SESSION_CLUSTER"
"""Its name in the lines for operators."""

COMPACT_BYTES = 1024 * 1024
"""Smallest file that is rewritten: below a megabyte a start reads it in a moment."""
COMPACT_FACTOR = 4
"""Growth since the last rewriting that is worth the next one. So rewriting costs at most a third of appending."""


class BatchFile:
    """The batches of one node, on disk.

    Args:
        file: the file of records that they are kept in.
    """

    def __init__(self, file: JournalFile) -> None:
        self._file = file
        self._bytes = 0
        self._compact_at_bytes = COMPACT_BYTES

    def load(self) -> Iterator[Batch]:
        """Open the file, and return all batches, the oldest first. Each is decoded once it is asked for: all would take much memory.

        Raises:
            ConfigurationError: the file cannot be used; from the iterator: it was written by another release, or is damaged.
        """
        try:
            records = deque(self._file.load())
        except FileTrouble as trouble:
            raise ConfigurationError([f"HA_SESSION_CLUSTER: the file cannot be used: it {trouble}"]) from trouble
        self._bytes = sum(map(len, records))
        return self._decoded(records)

    @staticmethod
    def _decoded(records: deque[bytes]) -> Iterator[Batch]:
        while records:
            try:
                batch = decode_batch(records.popleft())
            except (ValueError, RecursionError) as exc:
                raise ConfigurationError([f"HA_SESSION_CLUSTER: the file cannot be used: a record in it is damaged: {exc}"]) from exc
            if batch.version not in BATCH.reads:
                # A node that skipped unreadable batches would forget log-outs.
                raise ConfigurationError(
                    ["HA_SESSION_CLUSTER: the file was written by another release, in a form that this one cannot read"]
                )
            yield batch

    async def write(self, batch: Batch, everything: Callable[[], Iterator[Batch]]) -> Batch:
        """Write and sync a batch, or all entries if the file has grown; return the last batch that was written.

        Args:
            batch: the next batch.
            everything: returns all entries, in batches. Other tasks run after each, because there may be many.

        Raises:
            FileTrouble: nothing was written.
        """
        if self._bytes <= self._compact_at_bytes:
            record = encode(batch)
            await anyio.to_thread.run_sync(self._file.append, [record])
            self._bytes += len(record)
            return batch
        records: list[bytes] = []
        for batch in everything():
            records.append(encode(batch))
            await anyio.lowlevel.checkpoint()
        await anyio.to_thread.run_sync(self._file.replace, records)
        self._bytes = sum(map(len, records))
        self._compact_at_bytes = max(COMPACT_BYTES, COMPACT_FACTOR * self._bytes)
        return batch

    def hold(self) -> None:
        """Keep other processes from the file until :meth:`close`: this process serves."""
        self._file.hold()

    def close(self) -> None:
        """Let other processes have the file."""
        self._file.close()
