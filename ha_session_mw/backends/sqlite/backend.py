"""``sqlite:///path``: one file of log-outs for all processes of a machine, and beside it one of records and locks."""

from __future__ import annotations

from ..._core.cluster.members import Heartbeat
from ..._core.cluster.view import View
from ...abc import Backend, Clock, ClusterLog, LockService, OnEvent, OnGap, OnNewer, PeerCalls, SessionStore
from ...config import Settings
from .lock_file import LockFile
from .locks import SqliteLocks
from .log import SqliteLog
from .record_file import RecordFile
from .store import SqliteStore


class SqliteBackend(Backend):
    """Each process opens the files for itself."""

    scheme = "sqlite"

    def __init__(self, settings: Settings) -> None:
        assert settings.cluster.file is not None  # noqa: S101 - its rule demands one
        self._path = settings.cluster.file

    def open_log(self, view: View, clock: Clock, own: Heartbeat, peering: PeerCalls | None, *, on_event: OnEvent) -> ClusterLog:  # noqa: ARG002 - the file is all there is
        return SqliteLog(view, clock, own, self._path, on_event=on_event)

    def open_locks(self, clock: Clock) -> LockService:
        return SqliteLocks(clock, LockFile.beside(self._path, clock.boot_s))

    def open_store(
        self,
        kind: str,
        clock: Clock,
        locks: LockService | None,  # noqa: ARG002 - the file knows the holder of a lock
        *,
        on_newer: OnNewer,
        on_gap: OnGap,  # noqa: ARG002 - the file keeps each change until it was read
    ) -> SessionStore:
        return SqliteStore(clock, RecordFile.beside(self._path), kind, on_newer=on_newer)
