"""Sessions for ASGI apps on several nodes: checked in microseconds, logged out everywhere, honest in trouble."""

from __future__ import annotations

from .asgi.middleware import SessionMiddleware
from .asgi.session import Session, get_session
from .config import Settings
from .exceptions import (
    ClientFault,
    ClockUntrusted,
    ConfigurationError,
    EntryRejected,
    InfrastructureFault,
    KeyNotReached,
    NodeStarting,
    ProblemError,
    QuorumLost,
    RequestAmbiguous,
    SessionError,
    SessionExpired,
    SessionIdleTimeout,
    SessionNotSerializable,
    SessionReadOnly,
    SessionRevoked,
    SessionTooLarge,
    StateNotReached,
    StateRollback,
    StateStale,
    TokenInvalid,
    TokenMalformed,
    TokenMissing,
    TokenNotYetValid,
    TokenTooLarge,
    UsageError,
)
from .manager import SessionManager
from .models import Acknowledgement

__all__ = [
    "Acknowledgement",
    "ClientFault",
    "ClockUntrusted",
    "ConfigurationError",
    "EntryRejected",
    "InfrastructureFault",
    "KeyNotReached",
    "NodeStarting",
    "ProblemError",
    "QuorumLost",
    "RequestAmbiguous",
    "Session",
    "SessionError",
    "SessionExpired",
    "SessionIdleTimeout",
    "SessionManager",
    "SessionMiddleware",
    "SessionNotSerializable",
    "SessionReadOnly",
    "SessionRevoked",
    "SessionTooLarge",
    "Settings",
    "StateNotReached",
    "StateRollback",
    "StateStale",
    "TokenInvalid",
    "TokenMalformed",
    "TokenMissing",
    "TokenNotYetValid",
    "TokenTooLarge",
    "UsageError",
    "get_session",
]
