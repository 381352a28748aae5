"""``memory://``: everything in one process."""

from __future__ import annotations

from ..._core.cluster.members import Heartbeat
from ..._core.cluster.view import View
from ...abc import Backend, Clock, ClusterLog, LockService, OnEvent, OnGap, OnNewer, PeerCalls, SessionStore
from ...config import Settings
from .locks import MemoryLocks
from .log import MemoryLog
from .store import MAX_VISITORS_BYTES, MemoryRecords, MemoryStore


class MemoryBackend(Backend):
    """Each node has a log, records and locks of its own, because it is the only one."""

    scheme = "memory"
    takes_workers = False

    def __init__(self, settings: Settings) -> None:
        """Take no setting: there is none."""

    def open_log(self, view: View, clock: Clock, own: Heartbeat, peering: PeerCalls | None, *, on_event: OnEvent) -> ClusterLog:  # noqa: ARG002 - one process has no peers and no events
        return MemoryLog(view, clock, own)

    def open_locks(self, clock: Clock) -> LockService:
        return MemoryLocks(clock)

    def open_store(
        self,
        kind: str,
        clock: Clock,
        locks: LockService | None,
        *,
        on_newer: OnNewer,
        on_gap: OnGap,  # noqa: ARG002 - each change is heard at once
    ) -> SessionStore:
        # Each kind has records of its own. In the others, records without a subject are no visitors'.
        records = MemoryRecords(clock, max_visitors_bytes=MAX_VISITORS_BYTES if kind == "session" else None)
        if isinstance(locks, MemoryLocks):
            records.require_held = locks.require
        return MemoryStore(records, on_newer=on_newer)
