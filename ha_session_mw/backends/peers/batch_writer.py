"""Writes the batches of a node into its file, one after the other, and repeats a write that failed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from ..._core.quorum.log import Quorum
from ..._core.quorum.messages import Batch
from ..._core.quorum.ready import Ready
from ..._machine.sqlite_file import FileTrouble
from ...abc import Clock
from ..common.membered import moment_of
from ..common.trouble import Troubles
from .batch_file import FILE, BatchFile

WRITE_RETRY_S = 1.0
"""Pause before a write that failed is tried again. A full disk does not empty itself in less."""


class BatchWriter:
    """Keeps the newest batch that the state machine has handed out.

    Args:
        quorum: the state machine.
        clock: measures the pause after a failure.
        obey: does what the state machine asks for.
        wake: lets requests that wait for news look again.
        logger: takes the lines about the file.
    """

    def __init__(
        self,
        quorum: Quorum,
        *,
        clock: Clock,
        obey: Callable[[Ready], None],
        wake: Callable[[], None],
        logger: logging.Logger,
    ) -> None:
        self._quorum = quorum
        self._clock = clock
        self._obey = obey
        self._wake = wake
        self._troubles = Troubles(logger)
        self._batch: Batch | None = None
        self._is_due = anyio.Event()

    @property
    def trouble(self) -> str | None:
        """Why the file cannot be written now, as a predicate; None if it can."""
        return self._troubles.current.get("file")

    def take(self, batch: Batch) -> None:
        """Write this batch next. No other one follows until it is reported."""
        self._batch = batch
        self._is_due.set()

    async def write_for_ever(self, file: BatchFile) -> None:
        """Write each batch into a file."""
        while True:
            if self._batch is None:
                self._is_due = anyio.Event()
                await self._is_due.wait()
            else:
                await self._write(file, self._batch)

    async def _write(self, file: BatchFile, batch: Batch) -> None:
        try:
            written = await file.write(batch, self._quorum.everything)
        except FileTrouble as trouble:
            # A node neither acknowledges nor serves an entry that it does not keep, so it falls behind and is not ready.
            self._troubles.begin("file", str(trouble), "nothing was written to %s: it %s", FILE, trouble, level=logging.ERROR)
            await self._clock.sleep(WRITE_RETRY_S)
            self._batch = None
            self._obey(self._quorum.not_kept(moment_of(self._clock)))
        else:
            self._troubles.end("file", "%s can be written again", FILE)
            self._batch = None  # not before: if this task ends within a write, the batch must not be lost
            self._obey(self._quorum.kept(written, moment_of(self._clock)))
            self._wake()
