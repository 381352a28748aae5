"""Writes the batches of a node into its file, one after the other, and repeats a write that failed."""

from __future__ import annotations

import logging
import math
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


SLOW_S = 1.0
"""A write that takes longer makes log-outs slow. Disks that are well take milliseconds."""
SLOW_TOLD_S = 60.0
"""How long the node reports a slow write."""
SLOW = "writes to {} take longer than a second, and log-outs that are made here wait for them; see what else uses its disk"
UNKEPT = (
    "nothing is written to {}: it {}; until that is mended, this node enforces new log-outs and keeps none, "
    "and log-outs that are made here are provisional or refused"
)


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
        self._begun_s: float | None = None
        self._slow_s = -math.inf

    @property
    def trouble(self) -> str | None:
        """Why the file cannot be written now, or is written slowly, in a sentence for an operator; None if all is well."""
        if (why := self._troubles.current.get("file")) is not None:
            return UNKEPT.format(FILE, why)
        return self._troubles.current.get("disk")

    @property
    def is_failing(self) -> bool:
        """Whether the last write has failed."""
        return "file" in self._troubles.current

    def tick(self) -> None:
        """Look how long the write under way has taken."""
        now_s = self._clock.boot_s()
        if self._begun_s is not None and now_s - self._begun_s >= SLOW_S:
            self._slow_s = now_s
        if now_s - self._slow_s < SLOW_TOLD_S:
            slow = SLOW.format(FILE)
            self._troubles.begin("disk", slow, "%s", slow)
        else:
            self._troubles.end("disk", "writes to %s take less than a second again", FILE)

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
            written = await self._timed(file, batch)
        except FileTrouble as trouble:
            # A node neither acknowledges nor serves an entry that it does not keep. It says that it enforces the entry, so nobody waits.
            self._troubles.begin("file", str(trouble), "nothing was written to %s: it %s", FILE, trouble, level=logging.ERROR)
            await self._clock.sleep(WRITE_RETRY_S)
            self._batch = None
            self._obey(self._quorum.not_kept(moment_of(self._clock)))
        else:
            self._troubles.end("file", "%s can be written again", FILE)
            self._batch = None  # not before: if this task ends within a write, the batch must not be lost
            self._obey(self._quorum.kept(written, moment_of(self._clock)))
            self._wake()

    async def _timed(self, file: BatchFile, batch: Batch) -> Batch:
        self._begun_s = self._clock.boot_s()
        try:
            return await file.write(batch, self._quorum.everything)
        finally:
            self.tick()
            self._begun_s = None
