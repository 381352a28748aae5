"""The backend of ``peers://``: a log among the nodes themselves, and neither locks nor records."""

from __future__ import annotations

from ..._core.cluster.members import Heartbeat
from ..._core.cluster.view import View
from ..._machine.journal import JournalFile
from ..._machine.sqlite_file import OPEN_S
from ...abc import HELLO, Backend, Clock, ClusterLog, OnEvent, PeerCalls
from ...config import Settings
from ..common.witness import Witness
from .batch_file import BatchFile
from .log import QuorumLog


class PeersBackend(Backend):
    """Opens the log among the nodes of ``HA_SESSION_PEERS``, and of ``HA_SESSION_PEERS_NEXT`` while the list changes.

    Args:
        settings: the settings of this node.
    """

    scheme = "peers"
    takes_workers = False
    hears_others = True

    def __init__(self, settings: Settings) -> None:
        self._file = settings.cluster.file
        self._open_s = OPEN_S + settings.drain_delay  # a worker drains while the one that replaces it starts
        self._members = settings.peers
        self._coming = settings.peers_next
        self._heartbeat_s = settings.heartbeat

    def open_log(self, view: View, clock: Clock, own: Heartbeat, peering: PeerCalls | None, *, on_event: OnEvent) -> ClusterLog:
        assert peering is not None  # noqa: S101 - the settings require HA_SESSION_ADVERTISE_URL with peers://
        log = QuorumLog(
            view,
            clock,
            own,
            self._members,
            heartbeat_s=self._heartbeat_s,
            call=peering.call,
            faults=peering.faults,
            coming=self._coming,
            file=BatchFile(JournalFile(self._file, open_s=self._open_s)) if self._file is not None else None,
            witness=Witness(self._file, clock, own.absolute_ms) if self._file is not None else None,
            on_event=on_event,
        )
        peering.handle("poll", log.answering.on_poll)
        peering.handle("push", log.pushing.on_push)
        peering.handle(HELLO, log.own_url.on_hello)
        return log
