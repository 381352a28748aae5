"""The file of a node's batches: read once at the start, appended to, and rewritten once it has grown."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator

import anyio.lowlevel

from ..._core.quorum.messages import Batch, decode_batch, encode
from ..._machine.file_trouble import FileDamaged
from ..._machine.journal import JournalFile
from ..._machine.sqlite_file import FileTrouble
from ..._machine.threads import in_own_thread
from ...exceptions import ConfigurationError
from ...version import BATCH

logger = logging.getLogger("ha_session_mw.quorum")

FILE = "the file of HA_SESSION_CLUSTER"
"""Its name in the lines for operators."""

_REMEDY = "; restore it, or move it away, at one node at a time: the node then learns all log-outs anew from the other members"

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
            remedy = _REMEDY if isinstance(trouble, FileDamaged) else ""
            raise ConfigurationError([f"HA_SESSION_CLUSTER: the file cannot be used: it {trouble}{remedy}"]) from trouble
        self._bytes = sum(map(len, records))
        return self._decoded(records)

    @staticmethod
    def _decoded(records: deque[bytes]) -> Iterator[Batch]:
        while records:
            try:
                batch = decode_batch(records.popleft())
            except (ValueError, RecursionError) as exc:
                raise ConfigurationError([f"HA_SESSION_CLUSTER: the file cannot be used: a record in it is damaged{_REMEDY}"]) from exc
            if batch.version not in BATCH.reads:
                # A node that skipped unreadable batches would forget log-outs.
                raise ConfigurationError(
                    ["HA_SESSION_CLUSTER: the file was written by another release, in a form that this one cannot read"]
                )
            yield batch

    async def write(self, batch: Batch, everything: Callable[[], Iterator[Batch]]) -> Batch:
        """Write and sync a batch, or all entries if the file has grown or was deleted; return the last batch that was written.

        Args:
            batch: the next batch.
            everything: returns all entries, in batches. Other tasks run after each, because there may be many.

        Raises:
            FileTrouble: nothing was written.
        """
        if self._bytes <= self._compact_at_bytes and await self._append(encode(batch)):
            return batch
        records: list[bytes] = []
        for batch in everything():
            records.append(encode(batch))
            await anyio.lowlevel.checkpoint()
        if await in_own_thread(self._file.is_another):
            await in_own_thread(self._file.rewrite, records)
            logger.error("%s was deleted or replaced while it was in use; all log-outs are written down anew", FILE)
        else:
            await in_own_thread(self._file.replace, records)
        self._bytes = sum(map(len, records))
        self._compact_at_bytes = max(COMPACT_BYTES, COMPACT_FACTOR * self._bytes)
        return batch

    async def _append(self, record: bytes) -> bool:
        """Return whether the record was appended; False if the file was deleted or replaced, so that all must be written.

        Raises:
            FileTrouble: nothing was written, for another reason.
        """
        try:
            await in_own_thread(self._file.append, [record])
        except FileTrouble:
            if await in_own_thread(self._file.is_another):
                return False
            raise
        self._bytes += len(record)
        return True

    def hold(self) -> None:
        """Keep other processes from the file until :meth:`close`: this process serves."""
        self._file.hold()

    def close(self) -> None:
        """Let other processes have the file."""
        self._file.close()
