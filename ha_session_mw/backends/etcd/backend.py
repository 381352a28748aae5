"""``etcd://`` and ``etcds://``: all that a process keeps in etcd, each over connections of its own."""

from __future__ import annotations

import os

from ..._core.cluster.members import Heartbeat
from ..._core.cluster.view import View
from ...abc import Backend, Clock, ClusterLog, LockService, OnEvent, OnGap, OnNewer, PeerCalls, SessionStore
from ...config import Settings
from .locks import open_etcd_locks
from .log import open_etcd
from .store import open_etcd_store


class EtcdBackend(Backend):
    """Each process is a member of its own, a forked one, too."""

    hears_others = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.scheme = settings.cluster.partition("://")[0]

    def open_log(self, view: View, clock: Clock, own: Heartbeat, peering: PeerCalls | None, *, on_event: OnEvent) -> ClusterLog:  # noqa: ARG002 - etcd carries all
        return open_etcd(self._settings, view, clock, own, on_event=on_event)

    def open_locks(self, clock: Clock) -> LockService:
        return open_etcd_locks(self._settings, clock)

    def open_store(
        self,
        kind: str,
        clock: Clock,
        locks: LockService | None,  # noqa: ARG002 - etcd knows the holder of a lock
        *,
        on_newer: OnNewer,
        on_gap: OnGap,
    ) -> SessionStore:
        return open_etcd_store(self._settings, clock, kind, os.urandom, on_newer=on_newer, on_gap=on_gap)
