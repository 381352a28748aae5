"""Sessions for ASGI apps on several nodes: checked in microseconds, logged out everywhere, honest in trouble."""

from __future__ import annotations

from .asgi.middleware import SessionMiddleware
from .asgi.session import Session, get_session
from .config import Settings
from .exceptions import (
    ClientFault,
    ClockUntrusted,
    ConfigurationError,
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
    "StateStale",
    "TokenInvalid",
    "TokenMalformed",
    "TokenMissing",
    "TokenNotYetValid",
    "TokenTooLarge",
    "UsageError",
    "get_session",
]
