"""Where log-outs are kept and shared. A backend is imported when it is asked for, and not before."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .._core.members import Heartbeat
from .._core.view import View
from ..abc import Clock, ClusterLog, SessionStore
from ..config import ETCD, SQLITE, Settings, sqlite_path
from ..peering import HELLO, Peering


def open_backend(settings: Settings, view: View, clock: Clock, own: Heartbeat, peering: Peering | None) -> ClusterLog:
    """The log that ``HA_SESSION_CLUSTER`` names, folding into ``view``.

    Args:
        own: what this member says of itself.
        peering: how it talks to others, for a log that has no server of its own.

    Raises:
        ConfigurationError: it cannot be opened.
    """
    if settings.cluster.startswith(SQLITE):
        from .sqlite import SqliteLog

        return SqliteLog(view, clock, own, sqlite_path(settings.cluster))
    if settings.cluster.startswith(ETCD):
        from .etcd import open_etcd

        return open_etcd(settings, view, clock, own)
    if peering is None:
        from .memory import MemoryLog

        return MemoryLog(view, clock, own)
    from ..state_file import StateFile
    from .quorum import QuorumLog

    path = settings.cluster.removeprefix("peers://")
    log = QuorumLog(
        view,
        clock,
        own,
        tuple(settings.peers),
        heartbeat_s=float(settings.heartbeat),
        call=peering.call,
        file=StateFile(Path(path)) if path else None,
    )
    peering.handle("poll", log.on_poll)
    peering.handle(HELLO, log.on_hello)
    return log


def open_store(settings: Settings, clock: Clock, kind: str, random: Callable[[int], bytes] = os.urandom) -> SessionStore | None:
    """The store that belongs to ``HA_SESSION_CLUSTER``, for records of one kind; None where there is none.

    Args:
        random: makes n random bytes.

    Raises:
        ConfigurationError: it cannot be opened.
    """
    if settings.cluster.startswith(SQLITE):
        from ..record_file import RecordFile
        from .sqlite_store import SqliteStore

        return SqliteStore(clock, RecordFile.beside(sqlite_path(settings.cluster)), kind)
    if settings.cluster.startswith(ETCD):
        from .etcd import open_gateway
        from .etcd_store import EtcdStore

        gateway, prefix = open_gateway(settings, clock, int.from_bytes(random(4), "big"))
        return EtcdStore(clock, gateway, prefix, kind, random)
    if settings.cluster.startswith("peers://"):
        return None
    from .memory import MemoryRecords, MemoryStore

    return MemoryStore(MemoryRecords(clock))
