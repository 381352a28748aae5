"""``sqlite:///path``: the locks of one machine. A waiting request looks into the file, the more often the nearer its turn comes.

A ticket that waits is a lease too, and a short one: a process that is killed while it waits is soon passed over.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from ..._machine import forks
from ..._machine.sqlite_file import WRITE_LIMIT_S, FileTrouble
from ..._machine.threads import one_thread
from ...abc import Clock, Grant
from ...exceptions import StoreUnavailable
from ..common.queued_locks import Admission, QueuedLocks, Ticket
from .lock_file import LockFile

logger = logging.getLogger("ha_session_mw.sqlite")

LET_GO_S = 1.0
"""How long to try to leave a queue. A lock that cannot be released is free at the end of its lease."""
TICKET_S = 3.0
"""How long a ticket that waits is good: a killed process delays the others by no more."""
LOOK_EVERY_S = 1.0
"""How often a process makes sure that its file is still the one of its name, while nobody waits for a lock."""
KEEP_EVERY_S = 1.0
"""How often a ticket that waits is kept. Each time is a write, which fifty waiting requests can afford."""
PRUNE_EVERY = 60
"""After how many of these looks the tickets of processes that died are deleted. Until then they delay no request."""

T = TypeVar("T")


class SqliteLocks(QueuedLocks):
    """One process's part in the queues.

    Args:
        clock: the two clocks; all processes of the machine have the same ones.
        file: the file that the processes share.
    """

    look_s = 0.005
    most_look_s = 0.1

    def __init__(self, clock: Clock, file: LockFile) -> None:
        super().__init__(clock)
        self._file = file
        self._threads = one_thread()
        forks.watch(self)

    async def _enter(self, name: str, lease_s: float, end_s: float) -> Ticket:
        return Ticket(name, secrets.token_urlsafe(12), lease_s, end_s, self._clock.boot_s())

    async def _stand(self, ticket: Ticket) -> Admission:
        now_s = self._clock.boot_s()
        ticket.kept_s, ticket.keep_at_s = now_s, now_s + KEEP_EVERY_S
        return await self._written(lambda: self._file.take(ticket, TICKET_S if now_s < ticket.end_s else 0))

    async def _wait_for_news(self, ticket: Ticket, admission: Admission) -> None:
        ahead, until_s = admission.ahead, min(ticket.end_s, ticket.keep_at_s)
        while ahead and self._clock.boot_s() < until_s:
            await self._pause(ahead, until_s)
            ahead = self._ahead(ticket.name, admission.number)

    def _ahead(self, name: str, number: int) -> int:
        try:
            self._file.require_same()
            return self._file.ahead(name, number)
        except FileTrouble:
            self._file.close_reader()
            return 0  # the write that comes next raises

    def _look(self) -> None:
        """Let a file go that has lost a part: the other processes wait for that."""
        try:
            self._file.require_whole()
        except FileTrouble:
            self._file.close_reader()

    async def _extend(self, grant: Grant, lease_s: float) -> None:
        await self._written(lambda: self._file.renew(grant, lease_s))

    async def _leave(self, name: str, holder: str) -> None:
        with anyio.move_on_after(LET_GO_S, shield=True):
            try:
                await self._written(lambda: self._file.leave(name, holder))
            except StoreUnavailable as trouble:
                logger.warning("%s; a lock is free later, at the end of its lease", trouble.reason)

    async def _written(self, write: Callable[[], T]) -> T:
        with self._clock.move_on_after(WRITE_LIMIT_S):
            try:
                return await anyio.to_thread.run_sync(write, abandon_on_cancel=True, limiter=self._threads.get())
            except FileTrouble as trouble:
                raise StoreUnavailable(f"the file of the locks {trouble}") from trouble
        raise StoreUnavailable("the file of the locks was not written in time")

    async def run(self) -> None:
        try:
            while True:
                for _ in range(PRUNE_EVERY):
                    await self._clock.sleep(LOOK_EVERY_S)
                    self._look()
                await self._prune()
        finally:
            self._file.close()

    async def _prune(self) -> None:
        try:
            await self._written(self._file.prune)
        except StoreUnavailable as trouble:
            logger.warning("%s; tickets of processes that died are deleted later", trouble.reason)

    # Forks

    def before_fork(self) -> None:
        """Do nothing: the file closes itself."""

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._threads = one_thread()
