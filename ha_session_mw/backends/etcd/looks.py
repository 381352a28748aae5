"""Look at the log while etcd has no space for heartbeats. A read that shows no write proves the same as a heartbeat that was read back."""

from __future__ import annotations

from .api import EtcdError
from .gateway import SCAN_S
from .process import Process

LOOK_S = SCAN_S + 0.6
"""Time limit of one look: a read of some milliseconds, and sometimes one of all keys. The next look follows with the next heartbeat."""


class Looks:
    """The looks of one process.

    Args:
        process: what the tasks of this process share.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._quiet = (0, 0)
        """A position after which nothing in the log was written, and the newest revision of etcd for which that is known."""

    async def look(self) -> None:
        """Tell the state machine what the log shows now. A look that fails tells it nothing."""
        process = self._process
        look = process.ordered.look(process.now())
        if look is None:
            return
        try:
            with process.clock.move_on_after(LOOK_S):
                revision, has_heartbeat = await self._own_heartbeat()
                seen = process.now()  # the second read is later, so what it shows was so by then, too
                is_quiet = await self._is_quiet(look.position, revision)
                process.obey(process.ordered.looked(look, revision, is_quiet=has_heartbeat and is_quiet, now=seen))
                process.wake()
        except EtcdError as exc:
            process.troubles.failed("looking", str(exc))
        else:
            process.troubles.works("looking")

    async def _own_heartbeat(self) -> tuple[int, bool]:
        """Return etcd's present revision, and whether the key of this process exists."""
        key = self._process.heartbeat_key
        page = await self._process.gateway.page(key, key + b"\0", limit=1)
        return page.header.revision, bool(page.kvs)

    async def _is_quiet(self, position: int, revision: int) -> bool:
        """Return whether no key in the log was written after a position.

        Keys outside the log have revisions, too. So etcd is asked about the log only when its revision has moved. That takes it some
        time in a long log, because it looks at each key.
        """
        if revision <= position or (position == self._quiet[0] and revision <= self._quiet[1]):
            return True
        keys = self._process.keys
        page = await self._process.gateway.written_after(keys.start, keys.end, position)
        if not page.kvs:
            self._quiet = position, page.header.revision
        return not page.kvs
