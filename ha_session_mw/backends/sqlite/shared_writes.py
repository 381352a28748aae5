"""The writes of one event loop to a file: one thread at a time commits all that wait.

They share a transaction, and so a sync of the disk.
"""

from __future__ import annotations

from typing import TypeVar

import anyio
import anyio.to_thread

from ..._machine.shared_file import SharedFile
from ..._machine.sqlite_file import Work

T = TypeVar("T")


class SharedWrites:
    """Carries writes to a file. The next write that waits commits all of them, whatever happens to the task of the one before.

    Args:
        file: which other processes and threads may write, too.
    """

    def __init__(self, file: SharedFile) -> None:
        self._file = file
        self._threads = anyio.CapacityLimiter(1)
        self._over = anyio.Event()
        self.is_committing = False
        """Whether a thread is at work for a task that waits."""

    async def carry_out(self, work: Work[T]) -> T:
        """Return what the work returns, once the disk has its changes; or raise what it raises, and nothing was changed.

        A caller that is cancelled does not know: a write that has not begun is left out.

        Raises:
            FileTrouble: the file cannot be written.
        """
        write = self._file.submit(work)
        try:
            while not write.is_done:
                await (self._over.wait() if self.is_committing else self._commit())
            return write.outcome()
        finally:
            self._file.give_up(write)

    async def _commit(self) -> None:
        self.is_committing = True
        try:
            # A disk may not answer for minutes. The thread then goes on without this task, and another task tries.
            await anyio.to_thread.run_sync(self._file.commit, abandon_on_cancel=True, limiter=self._threads)
        finally:
            self.is_committing = False
            self._over.set()
            self._over = anyio.Event()
