"""All errors of this package, in one tree. The branch says who must act: the app, the operator, the client or the infrastructure.

Each class below :class:`ProblemError` is a row of the error table. The class attributes feed the problem document (RFC 9457), the
counters and the client library. The docstring is the page that the document's ``type`` resolves to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

RetryWhere = Literal["same_node", "other_node", "any", "none"]
Action = Literal["retry", "renew", "reauthenticate", "fix_request", "contact"]
Turn = Literal["client", "operator", "infrastructure"]


class SessionError(Exception):
    """The root of all errors of this package."""


# For the app's developer and the operator. A client never sees these.


class UsageError(SessionError):
    """The app made a mistake. The error propagates like any other bug, and the client gets a 500."""


class SessionReadOnly(UsageError):
    """The app changed the session where the change can neither reach the client nor a store.

    This is the case for data in the token after the response started or the WebSocket was accepted. It is always the case on a
    path in ``HA_SESSION_EXEMPT``.
    """


class SessionTooLarge(UsageError):
    """The session data is too large for a cookie if there is no store, or too large for a record of the store. The change was not made."""


class SessionNotSerializable(UsageError, TypeError):
    """The session data contains a value that a token cannot carry. The change was not made."""


class NotSupported(UsageError):
    """The backend that ``HA_SESSION_CLUSTER`` names does not support this operation, or a setting that the operation needs is off."""


class EntryRejected(UsageError):
    """The cluster's log can never store this log-out, because its id or subject is far too long. This process alone enforces it."""


class ConfigurationError(SessionError):
    """The settings are invalid.

    Attributes:
        faults: every fault found. Each names the variable, the value (never a secret) and the rule.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        lines = "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(f"ha_session_mw cannot start, {len(self.faults)} setting(s) to correct:{lines}")


# For the client, as a problem document.


class ProblemError(SessionError):
    """A refusal. The client gets it as a problem document.

    Args:
        reason: the exact cause, for the log, the counters and ``HA_SESSION_ERROR_DETAIL=full``.
        retry_after_s: seconds after which to retry; by default the class's ``default_retry_after_s``.
        check: the step of the accept rule that failed; empty if none did.

    Attributes:
        code: the name of the problem for programs. Codes never change.
        status: the HTTP status.
        title, detail: texts for people. Their wording may change.
        bearer_error: the error code in ``WWW-Authenticate`` (RFC 6750 section 3.1).
        retryable: whether the same request may succeed later or on another node.
        retry_where: the nodes on which a retry may succeed.
        default_retry_after_s: seconds after which to retry; None if no wait helps or the wait is unknown.
        action: what the client should do.
        turn: who must act so that the problem ends: the client, an operator, or nobody, because the infrastructure recovers by itself.
        max_age_s: how many seconds ago the user may have logged in; None if it does not matter.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    detail: ClassVar[str]
    bearer_error: ClassVar[Literal["invalid_request", "invalid_token", "insufficient_user_authentication"] | None] = None
    retryable: ClassVar[bool] = False
    retry_where: ClassVar[RetryWhere] = "none"
    default_retry_after_s: ClassVar[float | None] = None
    action: ClassVar[Action]
    turn: ClassVar[Turn]
    max_age_s: int | None = None

    def __init__(self, reason: str = "", *, retry_after_s: float | None = None, check: str = "") -> None:
        super().__init__(reason or self.title)
        self.reason = reason
        self.check = check
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s


class ClientFault(ProblemError):
    """The client must act: correct the request, or log in again. All 4xx problems, and no others, are client faults."""

    turn: ClassVar[Turn] = "client"


class InfrastructureFault(ProblemError):
    """A node or the infrastructure failed, and the session may be valid. Never a 401, and worth a retry, unless this node has no store."""

    turn: ClassVar[Turn] = "infrastructure"
    status = 503
    retryable = True
    action: ClassVar[Action] = "retry"


class TokenMissing(ClientFault):
    """A session is required, and the request carried no token of one. Where a log-in is required, a visitor's session is not enough."""

    code, status, action = "token_missing", 401, "reauthenticate"
    title = "A session is required"
    detail = "A session is required here, and the request carried none that suffices. Log in first."


class InsufficientUserAuthentication(ClientFault):
    """The log-in is too long ago for this address, which requires that the user has proven to be there a short while ago (RFC 9470)."""

    code, status, action = "insufficient_user_authentication", 401, "reauthenticate"
    bearer_error = "insufficient_user_authentication"
    title = "A more recent log-in is required"
    detail = "This address requires a more recent log-in. The session is not affected. Log in again."

    def __init__(self, reason: str = "", *, max_age_s: int | None = None, retry_after_s: float | None = None, check: str = "") -> None:
        super().__init__(reason, retry_after_s=retry_after_s, check=check)
        self.max_age_s = max_age_s


class RequestAmbiguous(ClientFault):
    """The request carried several different session tokens. Choosing one of them would be unsafe."""

    code, status, action, bearer_error = "request_ambiguous", 400, "fix_request", "invalid_request"
    title = "Several different session tokens"
    detail = "The request carried several session tokens that differ. Send exactly one."


class HeadersTooLarge(ClientFault):
    """The request carried more header fields, or more bytes of cookies, than this service reads (RFC 6585 section 5)."""

    code, status, action = "headers_too_large", 431, "fix_request"
    title = "The request's header is too large"
    detail = "The request carried too many header fields, or too many cookies. Remove the cookies of this site, and log in again."


class TokenTooLarge(ClientFault):
    """The token is longer than 4096 bytes, the longest token that this service issues. It was not parsed."""

    code, status, action, bearer_error = "token_too_large", 400, "fix_request", "invalid_request"
    title = "The session token is too large"
    detail = "The session token is longer than 4096 bytes. This service issues no such token. Send the token exactly as received."


class TokenMalformed(ClientFault):
    """The token has characters or a structure that no session token of this service has."""

    code, status, action, bearer_error = "token_malformed", 400, "fix_request", "invalid_request"
    title = "The session token is malformed"
    detail = "The text sent as a session token does not have the structure of one. Send the token exactly as received."


class TokenInvalid(ClientFault):
    """The token failed verification. One answer covers every reason, so that an attacker learns nothing by probing."""

    code, status, action, bearer_error = "token_invalid", 401, "reauthenticate", "invalid_token"
    title = "The session token is not valid"
    detail = "The session token could not be verified. Log in again."


class TokenNotYetValid(ClientFault):
    """The token was issued more than 60 seconds in the future by this node's clock. 60 seconds is the leeway for clocks."""

    code, status, action, bearer_error = "token_not_yet_valid", 401, "retry", "invalid_token"
    retryable, retry_where = True, "any"
    title = "The session token is not valid yet"
    detail = "By this node's clock, the session has not begun yet. Try again after the time given."


class SessionIdleTimeout(ClientFault):
    """The session expired because it was not used for longer than its idle timeout."""

    code, status, action, bearer_error = "session_idle_timeout", 401, "reauthenticate", "invalid_token"
    title = "The session expired after it was idle"
    detail = "The session was not used for longer than its idle timeout. Log in again."


class SessionExpired(ClientFault):
    """The session expired because it reached its absolute timeout. Use does not extend that time."""

    code, status, action, bearer_error = "session_expired", 401, "reauthenticate", "invalid_token"
    title = "The session expired"
    detail = "The session reached its longest duration. Log in again."


class SessionRevoked(ClientFault):
    """The session was revoked by a log-out: on this node, on another node, or with all sessions of its subject."""

    code, status, action, bearer_error = "session_revoked", 401, "reauthenticate", "invalid_token"
    title = "The session was logged out"
    detail = "The session was ended by a log-out. Log in again."


class SessionSuperseded(ClientFault):
    """The request carried an older token of a session that goes on. A log-in or ``cycle`` gave the client a newer one a moment ago.

    That is so for requests that were under way at that moment. Two minutes later an older token counts as logged out, because its
    holder never got the newer one.

    Attributes:
        ago_s: how many seconds ago the client got the newer token.
    """

    code, status, action = "session_superseded", 409, "retry"
    retryable, retry_where, default_retry_after_s = True, "any", 0.1
    title = "The session has a newer token"
    detail = (
        "The session goes on under a newer token, which the client has got meanwhile. Reload the page, or send the newer token. "
        "If that does not help, log in again."
    )
    ago_s: float = 0.0


class RecordLost(ClientFault):
    """The store has lost the session's data for good, and ``HA_SESSION_WHEN_LOST=end`` ends such a session.

    The store was set back to an earlier state, lost its file, or its process ended (``memory://``).
    """

    code, status, action, bearer_error = "session_data_lost", 401, "reauthenticate", "invalid_token"
    title = "The session's data is lost"
    detail = "This service has lost the session's data, and has ended the session. Log in again."


class SessionLimitReached(ClientFault):
    """The subject already has ``HA_SESSION_MAX_SESSIONS`` sessions, and ``HA_SESSION_WHEN_FULL=refuse`` refuses one more."""

    code, status, action = "session_limit_reached", 403, "contact"
    title = "Too many sessions"
    detail = "This account is logged in on the largest number of devices allowed. Log out on one of them first."


class TooManyLogIns(ClientFault):
    """A user, or an address, has logged in and out, or begun visitors' sessions, faster than the settings allow (RFC 6585 section 4).

    ``HA_SESSION_LOGINS_PER_SUBJECT`` and ``HA_SESSION_LOGINS_PER_ADDRESS`` say how fast that is. Log-outs count, and are never refused.
    """

    code, status, action = "too_many_log_ins", 429, "retry"
    retryable, retry_where, default_retry_after_s = True, "same_node", 1.0
    title = "Too many log-ins"
    detail = (
        "This account, or this address, has logged in too often within a short time. No session has begun. Try again after the time given."
    )


class SessionUnknown(ClientFault):
    """The subject has no session of this id: it has ended, never existed, or belongs to another subject."""

    code, status, action = "session_unknown", 404, "fix_request"
    title = "There is no such session"
    detail = "None of your sessions has this id. It may have ended already."


class RequestCrossSite(ClientFault):
    """A page of another site made this request, which would have changed something. The browser said so."""

    code, status, action = "request_cross_site", 403, "fix_request"
    title = "The request comes from another site"
    detail = "A page of another site made this request. Nothing was changed. Make the change from a page of this site."


class SessionConflict(ClientFault):
    """Another request changed the session at the same time, and the app wants to know about that (``session.strict``).

    Also raised if a subject has a limit of sessions and too many log-ins of that subject happened at the same time.
    """

    code, status, action = "session_conflict", 409, "retry"
    retryable, retry_where, default_retry_after_s = True, "any", 0.05
    title = "The session was changed by another request"
    detail = "Another request changed the session, or logged in as the same user, at the same time. Nothing was saved. Try again."


class LockLost(SessionConflict):
    """The lease of a lock ended before the lock was released, so another request may hold the lock. Nothing was written."""


class SessionLocked(ClientFault):
    """Another request held the lock of the session, or another lock, for longer than this request could wait."""

    code, status, action = "session_locked", 423, "retry"
    retryable, retry_where = True, "any"
    title = "Another request is in progress"
    detail = "Another request uses the session, or another resource that only one request may use, and took too long. Try again shortly."


class RequestInFlight(ClientFault):
    """An earlier request with the same idempotency key is under way, or its process died a moment ago."""

    code, status, action = "request_in_flight", 409, "retry"
    retryable, retry_where, default_retry_after_s = True, "any", 1.0
    title = "The first request with this key is in progress"
    detail = "An earlier request with the same Idempotency-Key is in progress. This one did nothing. Send it again to get the answer."


class IdempotencyKeyReused(ClientFault):
    """An earlier request with the same idempotency key asked for something else. Each operation needs a key of its own."""

    code, status, action = "idempotency_key_reused", 422, "fix_request"
    title = "The key belongs to another request"
    detail = "An earlier request with the same Idempotency-Key asked for something else. Nothing was done. Use a new key."


class NodeStarting(InfrastructureFault):
    """The node has started, and does not know enough yet to validate sessions. Another node can answer at once."""

    code, retry_where, default_retry_after_s = "node_starting", "other_node", 0.0
    title = "The node is starting"
    detail = "This node has just started and cannot validate sessions yet. The session is not affected. Ask another node."


class NodeDraining(InfrastructureFault):
    """The node is about to stop, and has left the cluster. Another node can answer at once."""

    code, retry_where, default_retry_after_s = "node_draining", "other_node", 0.0
    title = "The node is stopping"
    detail = "This node is about to stop and validates no sessions any more. The session is not affected. Ask another node."


class StateStale(InfrastructureFault):
    """The node has been out of contact for longer than the freshness limit, so it may not know of recent log-outs."""

    code, retry_where, default_retry_after_s = "state_stale", "other_node", 0.25
    title = "The node's knowledge is too old"
    detail = "This node lost contact with the cluster and cannot tell whether the session is still valid. The session is not logged out."


class StateNotReached(InfrastructureFault):
    """The request shows that this node is behind, for example by a log-out that its token lists. The node is about to catch up."""

    code, retry_where, default_retry_after_s = "state_not_reached", "any", 0.1
    title = "The node is a moment behind"
    detail = "The session token is newer than what this node knows. The session is not affected. Try again shortly."


class KeyNotReached(InfrastructureFault):
    """The token was signed with a key that this node does not have, and another member may have that key."""

    code, retry_where, default_retry_after_s = "key_not_reached", "other_node", 0.25
    title = "The node lacks the key of this token"
    detail = "This node cannot verify the session token yet. Another node may be able to. The session is not affected."


class ClockUntrusted(InfrastructureFault):
    """The node's clock differs from the other nodes' clocks by more than 30 seconds, so it neither issues nor validates tokens.

    The only node of a cluster answers so for a minute after its clock was set by more than 30 seconds.
    """

    turn: ClassVar[Turn] = "operator"
    code, retry_where, default_retry_after_s = "clock_untrusted", "other_node", 1.0
    title = "The node's clock is wrong"
    detail = "This node's clock is wrong, or was set a moment ago. The session is not affected. Ask another node."


class StateRollback(InfrastructureFault):
    """The cluster's log is older than the entries that the node has already applied, for example after a backup was restored.

    An operator must decide how to continue.
    """

    turn: ClassVar[Turn] = "operator"
    code, retry_where, default_retry_after_s = "state_rollback", "other_node", 3.0
    title = "The cluster's log was set back"
    detail = "The cluster's log of log-outs went back to an earlier state. No session is affected, but this node validates none for now."


class Overloaded(InfrastructureFault):
    """The node has more requests than it can answer, and ``HA_SESSION_OVERLOAD=refuse`` has it refuse some. The app did not run.

    Requests without a session are refused first.
    """

    code, retry_where, default_retry_after_s = "overloaded", "other_node", 1.0
    title = "The node has too many requests"
    detail = "This node has more requests than it can answer. The session is not affected. Ask another node after the time given."


class QuorumLost(InfrastructureFault):
    """A log-out or another change could not be made durable: the cluster has no majority, or the file cannot be written."""

    code, retry_where, default_retry_after_s = "quorum_lost", "any", 3.0
    title = "The change is not durable"
    detail = "The change could not be made durable: the cluster has no majority, or its file cannot be written. Try again shortly."


class StoreUnavailable(InfrastructureFault):
    """The store of session data, or the lock service, did not answer in time or cannot be written. The session itself is not affected."""

    code = "store_unavailable"
    retry_where: ClassVar[RetryWhere] = "any"
    default_retry_after_s: ClassVar[float | None] = 3.0
    title = "The session's data cannot be reached"
    detail = "The store of session data or of locks did not answer, or cannot be written. The session is not logged out. Try again shortly."


class PeerUnreachable(InfrastructureFault):
    """The node that owns the session did not take the request, and this node cannot handle it, because the body of the request has gone."""

    code, retry_where, default_retry_after_s = "peer_unreachable", "any", 1.0
    title = "The node of the session cannot be reached"
    detail = "The node that keeps this session's state did not take the request. The session is not affected. Try again shortly."


class ForwardOutcomeUnknown(InfrastructureFault):
    """The node that owns the session took the request, and its answer did not come. It may have executed the request, or do so still."""

    code, status, retry_where, default_retry_after_s = "forward_outcome_unknown", 504, "any", 1.0
    title = "The outcome of the request is unknown"
    detail = "The node that keeps this session's state took the request, and gave no answer."


class ForwardLoop(InfrastructureFault):
    """A forwarded request came back to the node that had forwarded it. A member announces a URL that leads to another node."""

    code, status, retry_where, default_retry_after_s = "forward_loop", 508, "any", 1.0
    title = "The request went in a circle"
    detail = "The request was forwarded to the node that it came from. Nothing was executed. The session is not affected."


class StoreMissing(StoreUnavailable):
    """The session's data is in a store, and ``HA_SESSION_CLUSTER`` of this node names a cluster without one. No retry helps."""

    retryable, retry_where, default_retry_after_s, action = False, "none", None, "contact"
    detail = "This node has no store of session data, and the session's data is in one. The session is not logged out."


def problem_types() -> dict[str, type[ProblemError]]:
    """Return every problem that a client can get, by code."""
    found: dict[str, type[ProblemError]] = {}
    for family in (ClientFault, InfrastructureFault):
        for kind in family.__subclasses__():
            found[kind.code] = kind
    return found
