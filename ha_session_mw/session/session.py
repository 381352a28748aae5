"""The session as an app sees it: a ``dict`` that knows its subject and notes the operations that the app asks for.

Only ``await revoke()`` acts at once. Everything else is noted, and one commit does it when the response starts (``commit.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from .._core.names import require_name
from .._core.token.data import decode
from .._core.token.tokens import Transport, Verified
from .._node.locks import LEASE_S, TIMEOUT_S
from .._node.uncancelled import Uncancelled
from .._settings.values import duration
from ..exceptions import InsufficientUserAuthentication, NotSupported, ProblemError, SessionReadOnly, TokenMissing, UsageError
from ..manager import SessionManager, node_of
from ..models import Acknowledgement, Claims, CutId
from .presented import ensure_newest, log_out
from .state import EXEMPT, STARTED, WEBSOCKET, RequestState
from .tracked_dict import TrackedDict

if TYPE_CHECKING:
    from .._node.node import Node
    from ..abc import Grant
    from .once import Answer

ONCE_LEASE_S = 60.0
"""How long a request with an idempotency key may be under way, in seconds, unless the app says otherwise: servers give up before."""
SCOPE_KEY = "ha_session_mw.session"
"""Key of the session in the ASGI scope, besides ``session``: an app or a framework may overwrite the latter."""


class Session(TrackedDict):
    """A session: a ``dict`` of its data, with its subject, its lifetime and the operations of an app.

    The middleware puts one into each request's scope. A session made by hand is a ``dict`` that notes whether it was accessed
    and modified; it has no manager.

    Changes are saved when the response starts, or when a WebSocket is accepted. From then on, changes of data in a store are
    saved with the app's next message, and at its end; other changes raise ``SessionReadOnly``. A value that no session can hold,
    or that is too large, is refused by the assignment itself.

    Attributes:
        accessed: whether the app asked for the session.
        modified: whether the app changed the session. Changes inside nested values are found when the response starts.
    """

    __slots__ = ()

    @property
    def _claims(self) -> Claims | None:
        return self._state.claims

    @property
    def _present(self) -> Claims | Verified | None:
        made = self._made
        return made.present if type(made) is RequestState else self._verified

    @property
    def problem(self) -> ProblemError | None:
        """The reason why the request's token was not accepted, on a path that is open to visitors.

        None if the token was accepted, or if the request carried none.
        """
        return self._state.problem

    @problem.setter
    def problem(self, value: ProblemError | None) -> None:
        self._state.problem = value

    @property
    def data_lost(self) -> bool:
        """Whether the cluster's store has lost the data of this session, which goes on with empty data.

        True in the request that finds it, and once only: the session's next request finds the empty data, or what was written since.
        """
        return self._state.data_lost

    # Identity and lifetime

    @property
    def id(self) -> str | None:
        """The session's id; None for a visitor without a session. ``login`` and ``cycle`` change it."""
        present = self._present
        return present.sid if present else None

    @property
    def family(self) -> str | None:
        """The id that stays when ``cycle`` changes the other one; None for a visitor without a session."""
        present = self._present
        return present.family if present else None

    @property
    def subject(self) -> str | None:
        """The subject that is logged in; None for a visitor."""
        present = self._present
        return present.subject if present else None

    @property
    def cuts(self) -> tuple[CutId, ...]:
        """The log-outs of all the subject's sessions that were known when this session began, and so do not end it."""
        present = self._present
        return present.cuts if present else ()

    @property
    def issued_at(self) -> datetime | None:
        """The time at which the token was issued, in UTC."""
        return _utc(self._claims.issued_ms) if self._claims else None

    @property
    def authenticated_at(self) -> datetime | None:
        """The time at which the subject logged in, in UTC; for a visitor's session, the time at which it began."""
        return _utc(self._claims.authenticated_ms) if self._claims else None

    @property
    def expires_at(self) -> datetime | None:
        """The time at which the session expires even if it is used, in UTC."""
        return _utc(self._claims.absolute_end_ms) if self._claims else None

    @property
    def idle_expires_at(self) -> datetime | None:
        """The time at which the session expires unless it is used, in UTC."""
        return _utc(self._claims.idle_end_ms) if self._claims else None

    @property
    def issuer(self) -> str | None:
        """The node that issued the token."""
        return self._claims.issuer if self._claims else None

    @property
    def manager(self) -> SessionManager:
        """The node's session manager.

        Raises:
            LookupError: the session was made by hand.
        """
        if self._state.manager is None:
            raise LookupError("this session was made by hand and has no manager")
        return self._state.manager

    @property
    def strict(self) -> bool:
        """Whether a concurrent change by another request fails this request's change (409 ``session_conflict``).

        By default, both changes are kept. Set it before the response starts. Its next change moves the session's data into the
        store, and conflicts are detected from then on.

        Raises:
            NotSupported: the cluster has no store, so nothing could detect a conflict.
        """
        return self._state.strict

    @strict.setter
    def strict(self, value: bool) -> None:
        if value and not self._node.data.has_store:
            raise NotSupported(
                "HA_SESSION_CLUSTER has no store, so nothing can detect the changes of other requests; sqlite:// and etcd:// have one"
            )
        self._state.strict = value

    @property
    def _node(self) -> Node:
        return node_of(self.manager)

    def require(self, *, max_age: float | str | None = None) -> str:
        """Return the subject that is logged in; otherwise raise the problem that tells the client why there is none.

        Args:
            max_age: how long ago the log-in or :meth:`reauthenticate` may be, in seconds or as text such as ``"5m"``.

        Raises:
            InsufficientUserAuthentication: it is longer ago (RFC 9470).
            ProblemError: ``problem``, if the request's token was not accepted.
            TokenMissing: the request carried no token, or that of a visitor.
            UsageError: ``HA_SESSION_EXEMPT`` lists the path, so that nobody is ever logged in here.
        """
        subject = self.subject
        if subject is not None and self._claims is not None:
            if max_age is not None:
                self._require_recent(self._claims, duration(max_age))
            return subject
        if self._state.read_only is EXEMPT:
            raise UsageError(EXEMPT)
        if self.problem is not None:
            raise self.problem.with_traceback(None)  # the same error may be raised several times
        raise TokenMissing("no user is logged in", check="presented")

    def _require_recent(self, claims: Claims, max_age_s: float) -> None:
        # Without a manager, the session was made by hand and has no claims.
        age_s = self._node.clock.wall_s() - claims.authenticated_ms / 1000
        if age_s > max_age_s:
            raise InsufficientUserAuthentication(f"logged in {age_s:.0f} s ago, and {max_age_s:g} s is the most", max_age_s=int(max_age_s))

    # Operations

    def login(
        self,
        subject: str,
        *,
        idle: float | str | None = None,
        absolute: float | str | None = None,
        persistent: bool = True,
        transport: Transport | None = None,
    ) -> None:
        """Log a subject in. The session gets a new id and a new family, and the old one is revoked (no session fixation).

        A visitor's data stays, with the changes of other requests until the response starts. The data of another subject is
        dropped. If the old session cannot be revoked, the client gets 503 ``quorum_lost``, and keeps that session as it was.

        Args:
            subject: the name of the user or account.
            idle: how long the session may be unused, in seconds or as text such as ``"30m"``; by default ``HA_SESSION_IDLE_TIMEOUT``,
                which is also the most.
            absolute: how long the session lasts in any case; likewise ``HA_SESSION_ABSOLUTE_TIMEOUT``.
            persistent: whether a browser keeps the cookie when it closes. False: until then only.
            transport: how the client gets its token: ``cookie``, or ``bearer`` for the response field ``Session-Token``, which
                scripts can read. By default as its token came, or in a cookie.

        Raises:
            TypeError: the subject is not a str.
            ValueError: the subject is empty, longer than 512 characters, or not valid text. Or a life is no duration, or too long. Or
                ``HA_SESSION_TRANSPORTS`` does not list the transport.
            SessionTooLarge: the visitor's data does not fit into a token, and the settings keep it out of a store.
            StateStale: the node lost contact with the cluster; becomes a 503 with a hint if the app does not catch it.
            SessionReadOnly: the session cannot be changed here.
        """
        require_name(subject, "subject")
        self._require_open()
        idle_s, absolute_s = (None if life is None else duration(life) for life in (idle, absolute))
        node = self._node
        if transport is not None and transport not in node.settings.transports:
            raise ValueError(f"transport must be one of HA_SESSION_TRANSPORTS={','.join(node.settings.transports)}, got {transport!r}")
        self.mark_modified()
        node.validator.ensure_fresh()
        claims = node.issuer.issue(subject, idle_s=idle_s, absolute_s=absolute_s, persistent=persistent)
        if self.subject not in (None, subject):
            self._drop_data()
        node.issuer.fit(claims, self)
        self._state.became = claims
        self._state.hands_over_by = transport

    def cycle(self) -> None:
        """Give the session a new id in the same family, with the same data; the old id is revoked. Use it at a change of privilege.

        If the old id cannot be revoked, the client gets 503 ``quorum_lost``, and keeps its session as it was.

        Raises:
            LookupError: there is no session yet.
            StateStale: the node lost contact with the cluster; becomes a 503 with a hint if the app does not catch it.
            SessionReadOnly: the session cannot be changed here.
        """
        self._take_new_id(authenticated=False)

    def _take_new_id(self, *, authenticated: bool) -> None:
        self._require_open()
        self.mark_modified()
        if self._claims is None:
            raise LookupError("there is no session yet, so no id can be changed")
        node = self._node
        node.validator.ensure_fresh()
        self._state.became = node.issuer.issue_new_id(self._claims, authenticated=authenticated)

    def reauthenticate(self) -> None:
        """Note that the subject has just proven again to be there, by a password, say. The session takes a new id; the old one is revoked.

        ``authenticated_at`` is the present time then, and :meth:`require` with a ``max_age`` passes.

        Raises:
            LookupError: nobody is logged in.
            StateStale: the node lost contact with the cluster; becomes a 503 with a hint if the app does not catch it.
            SessionReadOnly: the session cannot be changed here.
        """
        if self.subject is None:
            raise LookupError("nobody is logged in; call login() instead")
        self._take_new_id(authenticated=True)

    def clear(self) -> None:
        """Log out: drop the data. When the response starts, the session is revoked with all its ids, and its cookie removed.

        After that, and in a WebSocket, the session is revoked as soon as the app sends or receives its next message, or ends.

        Raises:
            SessionReadOnly: the settings exempt this path.
        """
        if self._state.read_only in (STARTED, WEBSOCKET):
            self._state.is_late = self.modified = True
        else:
            self.mark_modified()
        self._drop_data()
        self._state.ended = self._state.verified is not None or bool(self._state.presented)
        self._state.hands_over_by = None
        self._state.became = None

    def _require_open(self) -> None:
        if self._state.read_only is not None:
            raise SessionReadOnly(self._state.read_only)

    async def revoke(self) -> Acknowledgement:
        """Log this session out on every node, with all its ids; return how far the log-out has got.

        The response removes the cookie. A later write by the app begins a new session. If the request carried tokens of several
        sessions, all of them are logged out.

        Raises:
            SessionSuperseded: the client has a newer session, or a newer token of this one. Nothing was logged out.
            QuorumLost: the log-out could not be made durable; this node enforces it all the same.
        """
        state = self._state
        node = None if state.manager is None else node_of(state.manager)
        if node is not None and state.acknowledgement is None:
            ensure_newest(state, node)
        if state.read_only is None:
            self.mark_modified()
            self._drop_data()
        state.became = state.hands_over_by = None
        if node is not None and state.acknowledgement is None and (state.verified is not None or state.presented):
            with Uncancelled() as uncancelled:
                state.acknowledgement = await log_out(state, node, uncancelled)
        return state.acknowledgement or Acknowledgement(mode="fenced", waited_s=0.0)  # no token of this session exists

    def refuse(self, problem: ProblemError) -> None:
        """Answer this request with a problem document, in place of the response that the app sends.

        It is meant for frameworks that turn a handler's exception into a response themselves, so that the exception never
        reaches the middleware (Litestar, Django, Quart). In other frameworks, raise the problem. As on a 5xx, nothing is saved,
        and a log-out holds.

        Raises:
            TypeError: the argument is not a ``ProblemError``.
            SessionReadOnly: the response has started, or the connection is a WebSocket.
        """
        state = self._state
        if not isinstance(problem, ProblemError):
            raise TypeError(f"problem must be a ProblemError, got {type(problem).__name__}")
        if state.read_only is STARTED:
            raise SessionReadOnly("the response has started, so the client cannot get another one; refuse earlier")
        if state.is_websocket:
            raise SessionReadOnly("to refuse a WebSocket, raise the problem in the handler before it accepts")
        state.refusal = problem
        self.modified = True  # so that the response does not start without a commit

    def lock(self, *, timeout: float = TIMEOUT_S, lease: float = LEASE_S) -> AbstractAsyncContextManager[Grant]:
        """Hold the lock of this session: ``async with session.lock():``. One request in the whole cluster holds it at a time.

        Inside the block, the session has the data that the last holder left, merged with this request's own changes. The lock
        is renewed while the block runs, and released at its end, even if it fails. If the session was changed, the lock is
        released only once the change is saved or given up, which is when the response starts. A request that holds the lock
        can take it again.

        Args:
            timeout: how many seconds to wait for the lock; 0 does not wait.
            lease: how many seconds the lock stays held if this process dies.

        Raises:
            LookupError: there is no session yet.
            TypeError, ValueError: a time is not a number of seconds, or too small.
            SessionRevoked: the session was logged out meanwhile, and its record is gone.
            SessionLocked: others held the lock for the whole timeout; becomes a 423 with a hint if the app does not catch it.
            SessionConflict: the session is ``strict``, and both this request and another one have changed it.
            LockLost: the lock could not be renewed in time, or this process was paused. The block was cancelled, and nothing is
                saved.
            StoreUnavailable: the lock service or the session's data cannot be reached.
            NotSupported: the cluster has no locks (``peers://``), or no store that checks them.
        """
        if self.family is None:
            raise LookupError(
                "there is no session yet that could be locked: one exists after login(), or from the request after the first write on"
            )
        self._node.locks.require()
        if not self._node.data.has_store:
            raise NotSupported("HA_SESSION_CLUSTER has no store, so nothing would check the session's lock before a change is saved")
        from .locking import locked  # only where an app takes locks

        return locked(self, self._state, self._node, f"session/{self.family}", timeout_s=timeout, lease_s=lease)

    def once(self, key: str, *, request: bytes | None = None, lease: float = ONCE_LEASE_S) -> AbstractAsyncContextManager[Answer]:
        """Execute a block once for each key: ``async with session.once(key) as once:``, in the whole cluster.

        The block looks at ``once.answer``. None: this is the first request with the key, so the block does the work and sets
        ``once.answer``. Otherwise, it is the answer that the first request has set. Answers are kept for 24 hours. If the block
        ends without an answer, by an error or not, the next request is the first again. An answer that was set before an error is kept.
        A repeat of a request that logged its session out gets the answer, too.

        Args:
            key: of the client: the ``Idempotency-Key`` of the request. Keys of other subjects, and of other visitors, are others.
            request: whatever tells this operation from others, such as the body. A repeat must have the same.
            lease: for how many seconds repeats are refused if this process dies in the block. Afterwards, one of them executes it again.

        Raises:
            LookupError: there is no session yet.
            SessionRevoked: the session was logged out, and no request with this key was answered before.
            ValueError: the key is empty, or the answer is longer than 64 KiB.
            TypeError: the answer has something that MessagePack cannot carry.
            RequestInFlight: an earlier request with this key is under way; becomes a 409 with a hint if the app does not catch it.
            IdempotencyKeyReused: an earlier request with this key asked for something else; becomes a 422.
            StoreUnavailable: nothing was executed; or, at the end of the block, the answer could not be kept.
            NotSupported: the cluster has no store (``peers://``).
        """
        if not key:
            raise ValueError("an idempotency key must not be empty")
        from .once import answered_before, executed_once, logged_out  # only where an app asks for it

        owner = self.subject or self.family
        if owner is None:
            if self._state.manager is not None and (ended := logged_out(self._state, self._node)) is not None:
                return answered_before(self._state, self._node, ended, key, request or b"")
            raise LookupError("there is no session yet whose key this could be")
        return executed_once(self._state, self._node, owner, self.subject, key, request or b"", lease_s=lease)

    def _drop_data(self) -> None:
        """Drop the session's data, including data that other requests have stored."""
        super().clear()
        self._state.stored = None


class SessionOfRequest(Session):
    """The session of a request. ``dict`` itself makes it, because a constructor in Python takes longer than the rest of a session."""

    __slots__ = ()

    __init__ = dict.__init__

    def __reduce__(self) -> tuple[type[Session], tuple[dict[str, Any]]]:  # type: ignore[override]
        return Session, (dict(self),)


state_of: Callable[[Session], RequestState] = attrgetter("_state")
"""Return the state of a session. It is internal, and so no attribute of the session's public face."""


def session_of(state: RequestState, kind: type[Session] = SessionOfRequest) -> Session:
    """Return the session with this state, and with the data from the record or token that came in."""
    verified = state.verified
    content: dict[str, Any] = {}
    if verified is not None:
        if not verified.nested:
            content = verified.data
        elif not verified.record:
            content = decode(verified.nested_data or b"")  # containers belong to one request, so each decodes its own
        elif state.stored is not None:
            content = decode(state.stored.data)
    session = kind(content)
    session._made = state  # noqa: SLF001 - this module's own class
    session.accessed = session.modified = False
    return session


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
