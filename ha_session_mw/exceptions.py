"""Everything that can go wrong, as one tree whose types say whose turn it is.

A class is a row of the error table: ``code``, ``status`` and the hints on it feed the problem document (RFC 9457),
the counters and the client alike. Its docstring is the page that ``type`` of the document resolves to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

RetryWhere = Literal["same_node", "other_node", "any", "none"]
Action = Literal["retry", "renew", "reauthenticate", "fix_request", "contact"]


class SessionError(Exception):
    """The root of all errors of this package."""


# The app's turn and the operator's turn: these are never shown to a client.


class UsageError(SessionError):
    """The app asked for something that cannot be; a bug there, so it propagates as one (and becomes a 500)."""


class SessionReadOnly(UsageError):
    """The session was changed where a change could not reach the client.

    That is: after the response started, in a WebSocket, or on a path listed in ``HA_SESSION_EXEMPT``.
    """


class SessionTooLarge(UsageError):
    """The data no longer fits into a cookie and there is no store, or not into the store's record either. The change was not made."""


class SessionNotSerializable(UsageError, TypeError):
    """The session would hold a value that a token cannot carry. The change was not made."""


class NotSupported(UsageError):
    """What the app asked for needs an engine, and the backend that ``HA_SESSION_CLUSTER`` names is none; or a setting that is off."""


class EntryRejected(UsageError):
    """The cluster's log will never take this log-out: its id or subject is far too long. This process enforces it all the same."""


class ConfigurationError(SessionError):
    """The settings cannot be used.

    Attributes:
        faults: every fault found, each naming the variable, the value (never a secret) and the rule.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        lines = "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(f"ha_session_mw cannot start, {len(self.faults)} setting(s) to mend:{lines}")


# What a client is told.


class ProblemError(SessionError):
    """A refusal that a client is told about as a problem document.

    Args:
        reason: what exactly failed, for the log, the counters and ``HA_SESSION_ERROR_DETAIL=full``.
        retry_after_s: when the wait is known better than the class knows it.
        check: the step of the accept rule that failed.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    detail: ClassVar[str]
    bearer_error: ClassVar[Literal["invalid_request", "invalid_token"] | None] = None
    retryable: ClassVar[bool] = False
    retry_where: ClassVar[RetryWhere] = "none"
    default_retry_after_s: ClassVar[float | None] = None
    action: ClassVar[Action]

    def __init__(self, reason: str = "", *, retry_after_s: float | None = None, check: str = "") -> None:
        super().__init__(reason or self.title)
        self.reason = reason
        self.check = check
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s


class ClientFault(ProblemError):
    """It is the client's turn: send something else, or log in again. Only these are 4xx."""


class InfrastructureFault(ProblemError):
    """It is ours or the infrastructure's fault: the session may well be good. Never a 401, always worth a retry."""

    status = 503
    retryable = True
    action = "retry"


class TokenMissing(ClientFault):
    """The path needs a session and the request carried no token: neither a session cookie nor a bearer token of ours."""

    code, status, action = "token_missing", 401, "reauthenticate"
    title = "A session is required"
    detail = "This address needs a session, and the request carried no session token. Log in first."


class RequestAmbiguous(ClientFault):
    """The request carried several different session tokens, and guessing which one counts would be unsafe."""

    code, status, action, bearer_error = "request_ambiguous", 400, "fix_request", "invalid_request"
    title = "Several different session tokens"
    detail = "The request carried more than one session token and they differ. Send exactly one."


class TokenTooLarge(ClientFault):
    """The token is longer than any token this service makes (4096 bytes). It was not looked at."""

    code, status, action, bearer_error = "token_too_large", 400, "fix_request", "invalid_request"
    title = "The session token is too large"
    detail = "The session token is longer than 4096 bytes, which no token of this service is. Send it unaltered."


class TokenMalformed(ClientFault):
    """The token cannot be one of ours: it has characters or a shape that no session token has."""

    code, status, action, bearer_error = "token_malformed", 400, "fix_request", "invalid_request"
    title = "This is not a session token"
    detail = "What was sent as a session token does not have the shape of one. Send the token exactly as received."


class TokenInvalid(ClientFault):
    """The token is not accepted. For safety there is one answer for every reason that could be probed."""

    code, status, action, bearer_error = "token_invalid", 401, "reauthenticate", "invalid_token"
    title = "The session token is not valid"
    detail = "The session token could not be verified. Log in again."


class TokenNotYetValid(ClientFault):
    """The token says it was issued in the future, beyond the leeway for clocks (60 seconds)."""

    code, status, action, bearer_error = "token_not_yet_valid", 401, "retry", "invalid_token"
    retryable, retry_where = True, "any"
    title = "The session token is not valid yet"
    detail = "The session begins later than this node's clock. Try again after the time given."


class SessionIdleTimeout(ClientFault):
    """The session was not used for longer than the idle timeout, and ended by that."""

    code, status, action, bearer_error = "session_idle_timeout", 401, "reauthenticate", "invalid_token"
    title = "The session ended: it was idle for too long"
    detail = "The session was not used for longer than its idle timeout allows. Log in again."


class SessionExpired(ClientFault):
    """The session reached the end of its absolute life. Using it more would not have kept it."""

    code, status, action, bearer_error = "session_expired", 401, "reauthenticate", "invalid_token"
    title = "The session ended: its time is over"
    detail = "The session reached the end of its absolute life. Log in again."


class SessionRevoked(ClientFault):
    """The session was logged out: here, on another node, or together with all sessions of its subject."""

    code, status, action, bearer_error = "session_revoked", 401, "reauthenticate", "invalid_token"
    title = "The session was logged out"
    detail = "The session was ended by a log-out. Log in again."


class SessionLimitReached(ClientFault):
    """The subject has as many sessions as it may have (``HA_SESSION_MAX_SESSIONS``), and this log-in would be one more."""

    code, status, action = "session_limit_reached", 403, "contact"
    title = "Too many sessions"
    detail = "This account is logged in on as many devices as it may be. Log out on one of them first."


class SessionUnknown(ClientFault):
    """Whoever is logged in has no session of that id: it has ended, there never was one, or it is somebody else's."""

    code, status, action = "session_unknown", 404, "fix_request"
    title = "There is no such session"
    detail = "None of your sessions has this id. It may have ended already."


class RequestCrossSite(ClientFault):
    """A browser says that a page of another site made this request, which would change something."""

    code, status, action = "request_cross_site", 403, "fix_request"
    title = "The request comes from another site"
    detail = "A page of another site made this request. Nothing was changed. Do it from a page of this site."


class SessionConflict(ClientFault):
    """Another request changed the session at the same time, and the app asked for that to be told (``session.strict``).

    Or so many logged in as the same subject at the same time, where there is a limit, that this one did not get through.
    """

    code, status, action = "session_conflict", 409, "retry"
    retryable, retry_where, default_retry_after_s = True, "any", 0.05
    title = "The session was changed by another request"
    detail = "Another request changed the session, or logged in as the same user, at the same time. Nothing was saved. Try again."


class LockLost(SessionConflict):
    """The lock of a session was held beyond its lease, and somebody else may have it. Nothing was written."""


class SessionLocked(ClientFault):
    """The session, or something else that takes one at a time, was in use for longer than the request could wait."""

    code, status, action = "session_locked", 423, "retry"
    retryable, retry_where = True, "any"
    title = "Another request is at work"
    detail = "Another request works on the session, or on something that takes one at a time, and did not end in time. Try again shortly."


class NodeStarting(InfrastructureFault):
    """The node has started and has not yet learned enough to judge sessions. Another node can answer at once."""

    code, retry_where, default_retry_after_s = "node_starting", "other_node", 0.0
    title = "The node is starting"
    detail = "This node has just started and cannot judge sessions yet. The session is not affected. Ask another node."


class StateStale(InfrastructureFault):
    """The node has been out of contact for longer than the freshness limit, so it cannot know of recent log-outs."""

    code, retry_where, default_retry_after_s = "state_stale", "other_node", 0.25
    title = "The node's knowledge is too old"
    detail = "This node lost contact with the cluster and cannot tell whether the session still stands. It is not logged out."


class StateNotReached(InfrastructureFault):
    """The token is newer than what the node has learned so far. It is about to catch up."""

    code, retry_where, default_retry_after_s = "state_not_reached", "any", 0.1
    title = "The node is a moment behind"
    detail = "The session token is newer than what this node knows. The session is not affected. Try again shortly."


class KeyNotReached(InfrastructureFault):
    """The token was signed with a key that this node does not have yet, or cannot rule out."""

    code, retry_where, default_retry_after_s = "key_not_reached", "other_node", 0.25
    title = "The node lacks the key of this token"
    detail = "This node cannot verify the session token yet, though another node may. The session is not affected."


class ClockUntrusted(InfrastructureFault):
    """The node's clock differs from the other nodes' by more than 30 seconds, so it neither mints nor judges."""

    code, retry_where, default_retry_after_s = "clock_untrusted", "other_node", 1.0
    title = "The node's clock is wrong"
    detail = "This node's clock differs too much from the cluster's. The session is not affected. Ask another node."


class StateRollback(InfrastructureFault):
    """The cluster's log is older than what the node has applied already: a backup was restored, say, and an operator has to decide."""

    code, retry_where, default_retry_after_s = "state_rollback", "other_node", 3.0
    title = "The cluster's log was set back"
    detail = "The log of log-outs is older than what this node knows of it. Until that is mended it judges no sessions. None is affected."


class QuorumLost(InfrastructureFault):
    """A log-out or another change could not be made durable: no majority of the cluster can be reached, or the file cannot be written."""

    code, retry_where, default_retry_after_s = "quorum_lost", "any", 3.0
    title = "The change is not durable"
    detail = "The change could not be made durable: the cluster has no majority, or its file cannot be written. Try again shortly."


class StoreUnavailable(InfrastructureFault):
    """The store of session data could not be read or written in time. The session itself is not affected."""

    code, retry_where, default_retry_after_s = "store_unavailable", "any", 3.0
    title = "The session's data cannot be reached"
    detail = (
        "The store of session data, or of locks, did not answer or cannot be written. The session is not logged out. Try again shortly."
    )


class RecordLost(StoreUnavailable):
    """The store has lost what it had acknowledged: it was put back to an earlier state, or its process ended (``memory://``)."""


def problem_types() -> dict[str, type[ProblemError]]:
    """Every problem a client can be told, by its code."""
    found: dict[str, type[ProblemError]] = {}
    for family in (ClientFault, InfrastructureFault):
        for kind in family.__subclasses__():
            found[kind.code] = kind
    return found
