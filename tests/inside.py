"""Parts of a node that tests inspect, on nodes that have them."""

from __future__ import annotations

from typing import TypeVar

from ha_session_mw import SessionManager
from ha_session_mw._node.devices import Devices
from ha_session_mw._node.lookups import LookUps
from ha_session_mw._node.records import Records
from ha_session_mw._peering.peering import Peering
from ha_session_mw.backends.peers.log import QuorumLog
from ha_session_mw.manager import node_of

T = TypeVar("T")


def _there(part: T | None) -> T:
    assert part is not None
    return part


def peering_of(manager: SessionManager) -> Peering:
    return _there(node_of(manager).peering)


def look_ups_of(manager: SessionManager) -> LookUps:
    return _there(node_of(manager).look_ups)


def records_of(manager: SessionManager) -> Records:
    return _there(node_of(manager).records)


def devices_of(manager: SessionManager) -> Devices:
    return _there(node_of(manager).devices)


def quorum_log_of(manager: SessionManager) -> QuorumLog:
    log = node_of(manager).log
    assert isinstance(log, QuorumLog)
    return log
