"""The port of a backend, which opens the services that the nodes of a cluster share."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .._core.cluster.members import Heartbeat
from .._core.cluster.view import View
from .clock import Clock
from .locks import LockService
from .log import ClusterLog, OnEvent
from .peers import PeerCalls
from .store import OnGap, OnNewer, SessionStore


class Backend(ABC):
    """Opens the services that the nodes of a cluster share: a log, and perhaps a store of records and locks.

    One backend may serve several nodes of a process. Each thing that it opens belongs to one node. Opening waits for nothing. All
    methods raise :class:`~ha_session_mw.exceptions.ConfigurationError` if the settings cannot be used.

    A forked process opens everything anew.

    Attributes:
        scheme: the backend's name in ``HA_SESSION_CLUSTER``, shown to operators.
        takes_workers: whether several processes may have the same settings. Each process then adds a random part to ``node_id``.
        hears_others: whether a request that waits may learn from other nodes (:meth:`ClusterLog.wait_changed`).
    """

    scheme: str
    takes_workers: bool = True
    hears_others: bool = False

    @abstractmethod
    def open_log(self, view: View, clock: Clock, own: Heartbeat, peering: PeerCalls | None, *, on_event: OnEvent) -> ClusterLog:
        """Open the log of one node.

        Args:
            view: the node's knowledge, into which the log merges entries.
            clock: the node's two clocks.
            own: the constant parts of the node's heartbeat.
            peering: the node's calls to other nodes; None without ``HA_SESSION_ADVERTISE_URL``.
            on_event: see :data:`OnEvent`. The log may call it from now on.
        """

    def open_locks(self, clock: Clock) -> LockService | None:  # noqa: ARG002 - there are none here
        """Open the lock service for one node; None if the backend has no locks.

        Args:
            clock: the node's two clocks.
        """
        return None

    def open_store(
        self,
        kind: str,  # noqa: ARG002 - a backend need not have a store
        clock: Clock,  # noqa: ARG002
        locks: LockService | None,  # noqa: ARG002
        *,
        on_newer: OnNewer,  # noqa: ARG002
        on_gap: OnGap,  # noqa: ARG002
    ) -> SessionStore | None:
        """Open the store of one kind of records for one node; None if the backend has no store.

        Args:
            kind: ``session`` or ``device``. Records of both kinds may have the same id.
            clock: the node's two clocks.
            locks: the service that :meth:`open_locks` returned. Its grants may guard a put.
            on_newer: see :data:`OnNewer`. The store may call it from now on.
            on_gap: see :data:`OnGap`. The store may call it from now on.
        """
        return None
