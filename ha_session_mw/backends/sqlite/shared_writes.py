"""The writes of one event loop to a file: one thread at a time commits all that wait.

They share a transaction, and so a sync of the disk, a thread's work and the limit of its time.
"""

from __future__ import annotations

from typing import TypeVar

import anyio
import anyio.to_thread

from ..._machine.shared_file import SharedFile
from ..._machine.sqlite_file import WRITE_LIMIT_S, FileTrouble, Work
from ...abc import Clock

T = TypeVar("T")


class SharedWrites:
    """Carries writes to a file. The next write that waits commits all of them, whatever happens to the task of the one before.

    Args:
        file: which other processes and threads may write, too.
        clock: bounds the waiting.
    """

    def __init__(self, file: SharedFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._threads = anyio.CapacityLimiter(1)
        self._over = anyio.Event()
        self.is_committing = False
        """Whether a thread is at work for a task that waits."""

    async def carry_out(self, work: Work[T]) -> T:
        """Return what the work returns, once the disk has its changes; or raise what it raises, and nothing was changed.

        A caller that is cancelled does not know: a write that has not begun is left out.

        Raises:
            FileTrouble: the file cannot be written, or not within ``WRITE_LIMIT_S``.
        """
        until_s = self._clock.boot_s() + WRITE_LIMIT_S
        write = self._file.submit(work)
        try:
            while not write.is_done:
                if self.is_committing:  # for a task whose time is limited as well
                    await self._over.wait()
                elif (left_s := until_s - self._clock.boot_s()) > 0:
                    await self._commit(left_s)
                else:
                    raise FileTrouble("was not written in time", passing=True)
            return write.outcome()
        finally:
            self._file.give_up(write)

    async def _commit(self, within_s: float) -> None:
        self.is_committing = True
        try:
            with self._clock.move_on_after(within_s):
                # A disk may not answer for minutes. The thread then goes on without this task, and another task tries.
                await anyio.to_thread.run_sync(self._file.commit, abandon_on_cancel=True, limiter=self._threads)
        finally:
            self.is_committing = False
            self._over.set()
            self._over = anyio.Event()
