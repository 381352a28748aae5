"""The ports: the contracts of a clock, a cluster log, a store of records, a lock service, and the backend that opens them.

Each docstring is the whole contract. *Absent* (None) and *unknown* (an exception) are different answers.
"""

from .._core.cluster.members import UNKNOWN_END_MARGIN_MS, Heartbeat
from .._core.cluster.view import FLOOR_MARGIN_MS, View
from .backend import Backend
from .clock import Clock
from .locks import Grant, LockService
from .log import CLOCK_SLACK_MS, ClusterLog, OnEvent, Receipt
from .peers import HELLO, PeerCalls, PeerFailure, PeerHandler
from .store import MAX_RECORD_BYTES, Conflict, OnGap, OnNewer, Record, SessionStore, ignore

__all__ = [
    "CLOCK_SLACK_MS",
    "FLOOR_MARGIN_MS",
    "HELLO",
    "MAX_RECORD_BYTES",
    "UNKNOWN_END_MARGIN_MS",
    "Backend",
    "Clock",
    "ClusterLog",
    "Conflict",
    "Grant",
    "Heartbeat",
    "LockService",
    "OnEvent",
    "OnGap",
    "OnNewer",
    "PeerCalls",
    "PeerFailure",
    "PeerHandler",
    "Receipt",
    "Record",
    "SessionStore",
    "View",
    "ignore",
]
