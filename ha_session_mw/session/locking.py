"""A session under its lock: it catches up with the last holder, and what changed inside is saved before others get the lock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .._core.token.data import fingerprint
from ..abc import Grant
from ..exceptions import LockLost
from .catch_up import catch_up
from .late_save import save_late
from .state import RequestState
from .tracked_dict import TrackedDict

if TYPE_CHECKING:
    from .._node.node import Node


@asynccontextmanager
async def locked(
    session: TrackedDict, state: RequestState, node: Node, name: str, *, timeout_s: float, lease_s: float
) -> AsyncIterator[Grant]:
    """Hold the lock of a session while the block runs; see ``Session.lock``."""
    locks = node.locks
    if state.hold is None:
        state.hold = await locks.acquire(name, timeout_s=timeout_s, lease_s=lease_s)
    elif (outer := state.hold).kept:
        yield outer.grant
        if not outer.kept:
            raise LockLost("the block of this request that took the lock has ended before this one, in another task")
        return
    else:
        await locks.confirm(state.hold)
    before = None
    try:
        async with locks.keep(state.hold):
            if await catch_up(session, state, node):
                session.mark_modified()
            before = fingerprint(session)
            yield state.hold.grant
            await save_late(session, state, node, {})
    finally:
        session.modified = session.modified or (before is not None and fingerprint(session) != before)  # a change inside nested values
        if state.read_only is not None or not session.modified:
            await state.release_lock()
