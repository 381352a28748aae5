"""A backend of one process whose store, and locks, the test has in its hands."""

from __future__ import annotations

from ha_session_mw.abc import Clock, LockService, SessionStore
from ha_session_mw.backends.memory.log import MemoryBackend


class Shared(MemoryBackend):
    """``memory://``, but for a store of one kind, and perhaps the locks, which other nodes may share."""

    def __init__(self, store: SessionStore, locks: LockService | None = None, *, kind: str = "session") -> None:
        self._store = store
        self._locks = locks
        self._kind = kind

    def open_locks(self, clock: Clock) -> LockService:
        return self._locks or super().open_locks(clock)

    def open_store(self, kind: str, clock: Clock, locks: LockService | None) -> SessionStore:
        return self._store if kind == self._kind else super().open_store(kind, clock, locks)
