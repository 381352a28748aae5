"""The session as an app sees it: a ``dict`` that knows who it belongs to and notes what the app wants done with it.

Nothing is signed or revoked here but by ``await revoke()``; the rest is noted, and done by one commit when the response
starts (``commit.py``).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

from .._core.names import require_name
from .._core.records.session_data import Stored, merge
from .._core.token.data import decode, fingerprint
from .._node.locks import LEASE_S, TIMEOUT_S, Hold
from ..exceptions import (
    LockLost,
    NotSupported,
    ProblemError,
    RecordLost,
    SessionConflict,
    SessionReadOnly,
    SessionRevoked,
    StoreUnavailable,
)
from ..manager import SessionManager, node_of
from ..models import Acknowledgement, Claims, CutId

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from .._core.token.tokens import Verified
    from .._node.node import Node
    from ..abc import Grant

Way = Literal["cookie", "bearer", "both"] | bytes
"""How a token came; or the header field that carried it and nothing else, which tells."""
SCOPE_KEY = "ha_session_mw.session"
"""Where the session stands in the ASGI scope besides ``session``, which an app or a framework may overwrite."""

STARTED = "the response has started, so a change could not reach the client; make it before"
WEBSOCKET = "a WebSocket cannot change the session, for nothing could hand the client a new token; use a request"
EXEMPT = "this path is listed in HA_SESSION_EXEMPT, so it has no session"
"""Why a session cannot be written; and so, how far the answer is."""


class Session(dict[str, Any]):
    """A session's data, with who and when it is about.

    Made by the middleware; made by hand it is a ``dict`` that notes whether it was accessed and modified.

    Attributes:
        accessed: whether the app asked for the session.
        modified: whether the app changed it; changes inside nested values are found when the response starts.
        problem: why the token that was sent is not accepted, on a path that is open to all the same.
    """

    # What every request asks about has a slot, which is read and written in a third of the time. See ``blank`` for how each begins.
    __slots__ = (
        *("__dict__", "__weakref__", "_connection", "_kept", "_manager", "_quiet_until_ms", "_read_only", "_stale_s", "_verified", "_way"),
        *("accessed", "modified"),
    )

    accessed: bool
    modified: bool
    _connection: Any  # the response streams
    _kept: bytes | None  # nested content as it was when it could last be changed
    _manager: SessionManager | None  # the node's; None for a session made by hand
    _quiet_until_ms: float  # until when there is nothing to commit, unless one of its methods changes it
    _read_only: str | None  # why it cannot be written any more
    _stale_s: float | None  # how old the knowledge is by which the session stands
    _verified: Verified | None  # the token that came in, if its session stands
    _way: Way | None  # how a token came

    # The rest is rare, and set on an instance where it differs from these.
    problem: ProblemError | None = None
    _became: Claims | EllipsisType | None = ...  # what login(), cycle() and clear() made of who this is
    _ended: bool = False  # clear() was called: the session that came in is to be revoked
    _acknowledgement: Acknowledgement | None = None
    _uncommitted: ProblemError | None = None  # why the commit failed
    _refusal: ProblemError | None = None  # what the client is told, whatever the app sends
    _stored: Stored | None = None  # what came from the session's record
    _out_of_reach: StoreUnavailable | None = None  # why nothing did; see ``stored_session.py``
    _strict = False
    _hold: Hold | None = None  # the session's lock, until what it protects is committed

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: ARG004 - they are the content, for dict.__init__
        return blank(cls)

    @property
    def _claims(self) -> Claims | None:
        """Who this is now."""
        if self._became is not ...:
            return self._became
        verified = self._verified
        return verified.claims if verified else None

    # Who and when

    @property
    def id(self) -> str | None:
        """The session's id; None for a visitor who has no session yet. Changes at ``login`` and ``cycle``."""
        return self._claims.sid if self._claims else None

    @property
    def family(self) -> str | None:
        """The id that stays when ``cycle`` changes the other; None for a visitor who has no session yet."""
        return self._claims.family if self._claims else None

    @property
    def subject(self) -> str | None:
        """Who is logged in; None for a visitor."""
        return self._claims.subject if self._claims else None

    @property
    def cuts(self) -> tuple[CutId, ...]:
        """The log-outs-everywhere of the subject that this session has withstood."""
        return self._claims.cuts if self._claims else ()

    @property
    def issued_at(self) -> datetime | None:
        """When the token was made, in UTC."""
        return _utc(self._claims.issued_ms) if self._claims else None

    @property
    def authenticated_at(self) -> datetime | None:
        """When the subject logged in, in UTC; for a visitor's session, when it began."""
        return _utc(self._claims.authenticated_ms) if self._claims else None

    @property
    def expires_at(self) -> datetime | None:
        """When the session is over however much it is used, in UTC."""
        return _utc(self._claims.absolute_end_ms) if self._claims else None

    @property
    def idle_expires_at(self) -> datetime | None:
        """When the session is over unless it is used, in UTC."""
        return _utc(self._claims.idle_end_ms) if self._claims else None

    @property
    def issuer(self) -> str | None:
        """The node that made the token."""
        return self._claims.issuer if self._claims else None

    @property
    def manager(self) -> SessionManager:
        """The node's session manager.

        Raises:
            LookupError: this session was made by hand.
        """
        if self._manager is None:
            raise LookupError("this session was made by hand and has no manager")
        return self._manager

    @property
    def strict(self) -> bool:
        """Whether a change that another request has made meanwhile fails this one's (409 ``session_conflict``); else both are kept.

        Set it before the response starts. It has the session's data kept in the store, and counts from its next change on.

        Raises:
            NotSupported: there is no store, so nobody could tell.
        """
        return self._strict

    @strict.setter
    def strict(self, value: bool) -> None:
        if value and not self._node.data.has_store:
            raise NotSupported(
                "HA_SESSION_CLUSTER has no store, and so nobody can tell what another request has changed; sqlite:// and etcd:// have one"
            )
        self._strict = value

    @property
    def _node(self) -> Node:
        """The node behind the manager; LookupError as there."""
        return node_of(self.manager)

    # What an app may do with it

    def login(self, subject: str) -> None:
        """Bind a subject. The session takes a new id and a new family, and the old id is denied (no session fixation).

        A visitor's data stays, with what others change of it until the response starts. That of another subject does not: it is
        not theirs.

        Raises:
            TypeError: the subject is not a str.
            ValueError: it is empty, longer than 512 characters, or no text.
            SessionTooLarge: the visitor's data has no room in a token, and is not to go to a store.
            StateStale: the node lost contact; becomes a 503 with a hint if the app lets it pass.
            SessionReadOnly: the session cannot be written here.
        """
        require_name(subject, "subject")
        self.mark_modified()
        node = self._node
        node.validator.ensure_fresh()
        claims = node.issuer.issue(subject)
        if self.subject not in (None, subject):
            self._drop_data()
        node.issuer.fit(claims, self)
        self._became = claims

    def cycle(self) -> None:
        """Take a new id in the same family, with the same data; the old id is denied. For a change of privilege.

        Raises:
            LookupError: there is no session yet.
            StateStale: the node lost contact; becomes a 503 with a hint if the app lets it pass.
            SessionReadOnly: the session cannot be written here.
        """
        self.mark_modified()
        if self._claims is None:
            raise LookupError("there is no session yet whose id could be changed")
        self._node.validator.ensure_fresh()
        self._became = self._node.issuer.issue_new_id(self._claims)

    async def revoke(self) -> Acknowledgement:
        """Log this session out, with all its ids, on every node; returns how far that has got.

        The cookie is removed when the response starts. What is written after this begins a new session.

        Raises:
            QuorumLost: it could not be made durable; this node enforces it all the same.
        """
        if self._read_only is None:
            self.mark_modified()
            self._drop_data()
        self._became = None
        if self._acknowledgement is None:
            if self._verified is None:
                return Acknowledgement(mode="fenced", waited_s=0.0)  # there is no session that anybody could accept
            self._acknowledgement = await self._node.revoker.revoke_session(self._verified.claims)
        return self._acknowledgement

    def refuse(self, problem: ProblemError) -> None:
        """Have this request answered with a problem document, whatever the app sends.

        For frameworks that answer by themselves what a handler raises, so that it never gets to the middleware (Litestar,
        Django, Quart). Elsewhere, raise it. As on a 5xx nothing is saved, and a log-out holds.

        Raises:
            TypeError: that is nothing to tell a client.
            SessionReadOnly: the response has started, or this is a WebSocket.
        """
        if not isinstance(problem, ProblemError):
            raise TypeError(f"problem must be a ProblemError, got {type(problem).__name__}")
        if self._read_only is STARTED:
            raise SessionReadOnly("the response has started, so the client cannot be told anything else; refuse before")
        if self._read_only is WEBSOCKET:
            raise SessionReadOnly("a WebSocket is refused by what its handler raises before it accepts")
        self._refusal = problem
        self.modified = True  # so that the response does not start without being looked at

    def lock(self, *, timeout: float = TIMEOUT_S, lease: float = LEASE_S) -> AbstractAsyncContextManager[Grant]:
        """The lock of this session, which one request has at a time, on whichever node: ``async with session.lock():``.

        Inside, the session is as the last holder left it, with what this request has changed already. The lock is renewed
        while what is inside runs. It is let go at the end, however that comes; or, if the session was changed, when that has
        been saved or given up, which is when the response starts. A request that has the lock may take it again.

        Args:
            timeout: for how many seconds to wait. 0: not at all.
            lease: for how many seconds it is held when this process dies.

        Raises:
            LookupError: there is no session yet.
            TypeError, ValueError: a time is no number of seconds, or too small.
            SessionRevoked: the session was logged out meanwhile, and its record is gone.
            SessionLocked: others had it all the time; becomes a 423 with a hint if the app lets it pass.
            SessionConflict: the session is ``strict``, this request has changed it already, and others have since it began.
            LockLost: it could not be renewed in time, or this process stood still; what ran inside was cancelled, and
                nothing is saved.
            StoreUnavailable: it cannot be known who has it, or the session's data cannot be reached.
            NotSupported: there are no locks on ``peers://``, or no store that could ask for them.
        """
        if self.family is None:
            raise LookupError(
                "there is no session yet that could be locked: there is one after login(), or from the request after the first write on"
            )
        self._node.locks.require()
        if not self._node.data.has_store:
            raise NotSupported("HA_SESSION_CLUSTER has no store, and so nobody would ask for the session's lock before it is saved")
        return self._locked(f"session/{self.family}", timeout, lease)

    @asynccontextmanager
    async def _locked(self, name: str, timeout_s: float, lease_s: float) -> AsyncIterator[Grant]:
        locks = self._node.locks
        if self._hold is None:
            self._hold = await locks.acquire(name, timeout_s=timeout_s, lease_s=lease_s)
        elif (outer := self._hold).kept:
            yield outer.grant
            if not outer.kept:
                raise LockLost("the block of this request that took the lock has ended before this one, in another task")
            return
        else:
            await locks.confirm(self._hold)
        before = None
        try:
            async with locks.keep(self._hold):
                await self._catch_up()
                before = fingerprint(self)
                yield self._hold.grant
        finally:
            self.modified = self.modified or (before is not None and fingerprint(self) != before)  # inside nested values, that is
            if self._read_only is not None or not self.modified:
                await self._unlock()

    async def _catch_up(self) -> None:
        """Take in what others have stored since this request began.

        Raises:
            SessionConflict: there is some, this request has changed something already, and that is to be told.
            StoreUnavailable, SessionRevoked: as :meth:`SessionData.newest`; not if a new session is to begin with the data.
        """
        verified = self._verified
        if verified is None or self._out_of_reach is not None:
            return
        moves = self.family != verified.claims.family
        if moves and self._stored is None:
            return
        base = self._stored or Stored.in_token(verified.claims.data)
        try:
            newest = await self._node.data.newest(verified.claims)
        except (RecordLost, SessionRevoked):
            if not moves:
                raise
            return
        if newest is None or newest.version == base.version:
            return
        if self._strict and base.version and fingerprint(self) != base.data:
            raise SessionConflict("it has changed since this request began to change it")
        content = merge(base, self, newest)
        self._stored = newest
        super().clear()
        super().update(content)
        if self._read_only is not None:
            self._kept = fingerprint(self)  # it was not the app that changed it
        elif not verified.record:
            self.mark_modified()  # the client is to learn that its session has a record now

    def _drop_data(self) -> None:
        """What the session has is not to go on; nor what others make of it."""
        super().clear()
        self._stored = None

    async def _unlock(self) -> None:
        """Let the lock go, if this request has it and none of its work is going on under it."""
        hold = self._hold
        if hold is not None and not hold.kept:
            self._hold = None
            await self._node.locks.release(hold)

    # dict, noting changes, and refusing at the place of the change what could not be kept

    def mark_accessed(self) -> None:
        """Note that the app asked for the session."""
        self.accessed = True

    def mark_modified(self) -> None:
        """Note that the session changed.

        Raises:
            SessionReadOnly: it cannot be written here.
        """
        if self._read_only is not None:
            raise SessionReadOnly(self._read_only)
        self.accessed = True
        self.modified = True

    def _apply(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Make a change, unless what comes of it could not be kept."""
        self.mark_modified()
        candidate = dict(self)
        change(candidate)
        if self._manager is not None:
            self._node.issuer.fit(self._claims, candidate)
        super().clear()
        super().update(candidate)

    def __setitem__(self, key: str, value: Any) -> None:
        self._apply(lambda data: data.__setitem__(key, value))

    def __delitem__(self, key: str) -> None:
        self.mark_modified()
        super().__delitem__(key)

    def clear(self) -> None:
        """Empty the session. A live one is revoked, with all its ids, when the response starts, and its cookie removed."""
        self.mark_modified()
        self._drop_data()
        self._ended = self._verified is not None
        self._became = None

    def replace(self, content: Mapping[str, Any]) -> None:
        """Give the session another content. An empty one is no log-out, unlike ``clear``."""

        def change(data: dict[str, Any]) -> None:
            data.clear()
            data.update(content)

        self._apply(change)

    def pop(self, key: str, *default: Any) -> Any:
        if key in self:
            self.mark_modified()
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        self.mark_modified()
        return super().popitem()

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._apply(lambda data: data.update(*args, **kwargs))

    def __ior__(self, other: Any, /) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, Any]]]:
        """What ``copy`` and ``pickle`` make is the data alone, as a session made by hand: there is one to commit."""
        return type(self), (dict(self),)


_S = TypeVar("_S", bound=Session)
_new, _fill = dict.__new__, dict.update


def blank(cls: type[_S]) -> _S:
    """A session by hand or of a request, before anything is known of it; for each request, so no ``__init__``."""
    session = _new(cls)
    session._connection = session._kept = session._read_only = session._stale_s = None
    session._manager = session._verified = session._way = None
    session.accessed = session.modified = False
    session._quiet_until_ms = math.inf
    return session


def session_of(manager: SessionManager, verified: Verified | None, way: Way | None) -> Session:
    """The session of a request: that of the token that came in, else a new visitor's."""
    session = _new(Session)
    session._connection = session._kept = session._read_only = session._stale_s = None
    session.accessed = session.modified = False
    session._manager, session._verified, session._way = manager, verified, way
    if verified is None:
        session._quiet_until_ms = math.inf
    else:
        session._quiet_until_ms = verified.quiet_until_ms
        _fill(session, decode(verified.claims.data) if verified.nested else verified.data)
    return session


class HasScope(Protocol):
    """A request or WebSocket, of whichever framework."""

    @property
    def scope(self) -> Any: ...


def get_session(conn: HasScope | MutableMapping[str, Any]) -> Session:
    """The session of a request or WebSocket (or of an ASGI scope), whatever a framework has put beside it.

    Raises:
        LookupError: no session middleware of this package is in front of the app, or that is no request of an ASGI server.
    """
    try:
        scope = conn if isinstance(conn, dict) else conn.scope  # type: ignore[union-attr]
    except AttributeError:  # Django's requests have none under WSGI
        raise LookupError(f"a {type(conn).__name__} has no ASGI scope; is it of an ASGI server, and a request or WebSocket?") from None
    session: Session | None = scope.get(SCOPE_KEY)
    if session is None:
        raise LookupError("no session here: add ha_session_mw.SessionMiddleware to the app")
    session.mark_accessed()
    return session


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
