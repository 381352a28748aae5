"""Helpers for the tests of apps and backends: clocks moved by hand, sessions without a log-in, and clusters in one process."""

from __future__ import annotations

from .clock import ManualClock
from .cluster import Cluster
from .contracts.locks import LockNode, LockNodes, LockServiceContract
from .contracts.logs import ClusterLogContract, Member, Nodes
from .contracts.stores import News, SessionStoreContract, Stores
from .link import Link
from .node import Node
from .sessions import SECRET, mint_session, session_cookie, who_is_there

__all__ = [
    "SECRET",
    "Cluster",
    "ClusterLogContract",
    "Link",
    "LockNode",
    "LockNodes",
    "LockServiceContract",
    "ManualClock",
    "Member",
    "News",
    "Node",
    "Nodes",
    "SessionStoreContract",
    "Stores",
    "mint_session",
    "session_cookie",
    "who_is_there",
]
