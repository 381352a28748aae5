"""``sqlite:///path``: the locks of one machine. Who waits looks into the file, more often the nearer the turn comes.

A place in the queue is a lease too, and a short one: a process that is killed while it waits is soon passed over.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import anyio
import anyio.to_thread

from ..._machine import forks
from ..._machine.sqlite_file import FileTrouble
from ...abc import Clock, Grant, LockService
from ...exceptions import StoreUnavailable
from .lock_file import LockFile, Place, Wish

logger = logging.getLogger("ha_session_mw.sqlite")

WRITE_LIMIT_S = 2.0
"""How long to wait for the disk; twice what one write waits for the other workers."""
LET_GO_S = 1.0
"""How long to try to leave. What cannot be released is free at the end of its lease."""
PLACE_S = 3.0
KEEP_EVERY_S = 1.0
"""How long a place is good, and how often it is kept. Each time is a write, which fifty who wait can afford."""
LOOK_S = 0.005
MOST_LOOK_S = 0.1
"""How often the next one looks, at the most; each one who comes first makes it so much rarer, down to the second."""
PRUNE_EVERY_S = 60.0

T = TypeVar("T")


class SqliteLocks(LockService):
    """One process's part in the queues.

    Args:
        clock: the two clocks; all processes of the machine have the same ones.
        file: which other processes share.
    """

    def __init__(self, clock: Clock, file: LockFile) -> None:
        self._clock = clock
        self._file = file
        self._threads = anyio.CapacityLimiter(1)
        forks.watch(self)

    async def acquire(self, name: str, *, within_s: float, lease_s: float) -> Grant:
        end_s = self._clock.boot_s() + within_s
        given_up = False
        wish = Wish(name, secrets.token_urlsafe(12), lease_s, lambda: not given_up)
        try:
            return await self._wait_for_grant(wish, end_s)
        except BaseException:
            given_up = True
            await self._leave(wish.name, wish.holder)
            raise

    async def _wait_for_grant(self, wish: Wish, end_s: float) -> Grant:
        while True:
            now_s = self._clock.boot_s()
            place = await self._take(wish, PLACE_S if now_s < end_s else 0)
            if place.ahead == 0:
                return Grant(wish.name, place.number, now_s + wish.lease_s, wish.holder)
            await self._wait_for_turn(wish.name, place, min(end_s, now_s + KEEP_EVERY_S))

    async def _take(self, wish: Wish, place_s: float) -> Place:
        return await self._written(lambda: self._file.take(wish, place_s))

    async def _wait_for_turn(self, name: str, place: Place, end_s: float) -> None:
        """Return when this may be the next one, and at that time at the latest."""
        ahead = place.ahead
        while ahead and (left_s := end_s - self._clock.boot_s()) > 0:
            pause_s = min(LOOK_S * ahead, MOST_LOOK_S) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            with self._clock.move_on_after(min(pause_s, left_s)):
                await anyio.sleep_forever()
            ahead = self._ahead(name, place)

    def _ahead(self, name: str, place: Place) -> int:
        try:
            self._file.require_same()
            return self._file.ahead(name, place.number)
        except FileTrouble:
            self._file.close_reader()
            return 0  # the write that comes next tells

    async def renew(self, grant: Grant, *, lease_s: float) -> Grant:
        begun_s = self._clock.boot_s()
        await self._written(lambda: self._file.renew(grant, lease_s))
        return replace(grant, until_s=begun_s + lease_s)

    async def release(self, grant: Grant) -> None:
        await self._leave(grant.name, grant.holder)

    async def _leave(self, name: str, holder: str) -> None:
        with anyio.move_on_after(LET_GO_S, shield=True):
            try:
                await self._written(lambda: self._file.leave(name, holder))
            except StoreUnavailable as trouble:
                logger.warning("%s; a lock is free later, at the end of its lease", trouble.reason)

    async def _written(self, write: Callable[[], T]) -> T:
        with self._clock.move_on_after(WRITE_LIMIT_S):
            try:
                return await anyio.to_thread.run_sync(write, abandon_on_cancel=True, limiter=self._threads)
            except FileTrouble as trouble:
                raise StoreUnavailable(f"the file of the locks {trouble}") from trouble
        raise StoreUnavailable("the file of the locks was not written in time")

    async def run(self) -> None:
        try:
            while True:
                with self._clock.move_on_after(PRUNE_EVERY_S):
                    await anyio.sleep_forever()
                await self._prune()
        finally:
            self._file.close()

    async def _prune(self) -> None:
        try:
            await self._written(self._file.prune)
        except StoreUnavailable as trouble:
            logger.warning("%s; what is left of processes that died is forgotten later", trouble.reason)

    # Forks: the file closes itself, see there.

    def before_fork(self) -> None:
        """There is nothing to let go."""

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._threads = anyio.CapacityLimiter(1)
