"""A backend of one process whose store, and locks, the test has in its hands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ha_session_mw.abc import Clock, LockService, OnGap, OnNewer, SessionStore
from ha_session_mw.backends.memory import MemoryBackend

S = TypeVar("S", bound=SessionStore)


class Shared(MemoryBackend, Generic[S]):
    """``memory://``, except for the store of one kind, and perhaps the locks, which several nodes may share.

    Args:
        make: makes the store, given the callback for each change.
        locks: by default those of ``memory://``.
        kind: of the store.

    Attributes:
        store: the one that was made last.
    """

    store: S

    def __init__(self, make: Callable[[OnNewer], S], locks: LockService | None = None, *, kind: str = "session") -> None:
        self._make = make
        self._locks = locks
        self._kind = kind

    def open_locks(self, clock: Clock) -> LockService:
        return self._locks or super().open_locks(clock)

    def open_store(self, kind: str, clock: Clock, locks: LockService | None, *, on_newer: OnNewer, on_gap: OnGap) -> SessionStore:
        if kind != self._kind:
            return super().open_store(kind, clock, locks, on_newer=on_newer, on_gap=on_gap)
        self.store = self._make(on_newer)
        return self.store
