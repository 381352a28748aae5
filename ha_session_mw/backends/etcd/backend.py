"""``etcd://`` and ``etcds://``: the log, the locks and the records of a process in etcd, each over connections of its own."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

import httpx2

from ..._core.cluster.members import Heartbeat
from ..._core.cluster.view import View
from ..._machine.tls import tls_context
from ...abc import Backend, Clock, ClusterLog, LockService, OnEvent, OnGap, OnNewer, PeerCalls, SessionStore
from ...config import Settings
from ...exceptions import ConfigurationError
from ..common.witness import Witness
from .gateway import EtcdGateway
from .locks import EtcdLocks
from .log import EtcdLog
from .store import EtcdStore


class EtcdBackend(Backend):
    """Opens the services of one process. Each process, including a forked one, is a member of its own.

    Args:
        settings: ``cluster`` names the endpoints and the prefix of all keys.
        transport: makes an HTTP transport; by default one over the network.
        random: makes n random bytes.
    """

    hears_others = True

    def __init__(
        self,
        settings: Settings,
        *,
        transport: Callable[[], httpx2.AsyncBaseTransport] | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._random = random
        self.scheme = settings.cluster.scheme
        self._endpoints, self._prefix = settings.cluster.endpoints, settings.cluster.prefix

    def open_log(self, view: View, clock: Clock, own: Heartbeat, peering: PeerCalls | None, *, on_event: OnEvent) -> ClusterLog:  # noqa: ARG002 - etcd carries everything
        settings = self._settings
        witness = Witness(settings.state_dir / "etcd", clock, own.absolute_ms, what="the log in etcd") if settings.state_dir else None
        gateway = self._gateway(clock)
        return EtcdLog(view, clock, own, gateway, self._prefix, heartbeat_s=settings.heartbeat, witness=witness, on_event=on_event)

    def open_locks(self, clock: Clock) -> LockService:
        return EtcdLocks(clock, self._gateway(clock), self._prefix)

    def open_store(
        self,
        kind: str,
        clock: Clock,
        locks: LockService | None,  # noqa: ARG002 - etcd knows the holder of a lock
        *,
        on_newer: OnNewer,
        on_gap: OnGap,
    ) -> SessionStore:
        return EtcdStore(clock, self._gateway(clock), self._prefix, kind, self._random, on_newer=on_newer, on_gap=on_gap)

    def _gateway(self, clock: Clock) -> EtcdGateway:
        """Return a client that begins with a random endpoint, so that a failed endpoint is not the first one of every process."""
        first = int.from_bytes(self._random(4)) % len(self._endpoints)
        return EtcdGateway(
            self._endpoints[first:] + self._endpoints[:first],
            clock,
            tls=self._tls(),
            user=self._settings.cluster_user,
            password=self._settings.read_cluster_password,
            transport=self._transport,
        )

    def _tls(self) -> ssl.SSLContext | None:
        settings = self._settings
        if self.scheme != "etcds":
            return None
        try:
            return tls_context(settings.cluster_ca_file, settings.cluster_cert_file, settings.cluster_key_file)
        except OSError as exc:
            raise ConfigurationError(
                [f"HA_SESSION_CLUSTER_CA_FILE, HA_SESSION_CLUSTER_CERT_FILE, HA_SESSION_CLUSTER_KEY_FILE: {exc}"]
            ) from exc
