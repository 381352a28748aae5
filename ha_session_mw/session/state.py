"""The state of one request's session besides its data: the one object that the session, the edge and the commit share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from .._core.token.cookies import Presented
from .._core.token.tokens import Transport
from ..manager import SessionManager, node_of

if TYPE_CHECKING:
    from .._core.paths import PathKind
    from .._core.records.session_data import Stored
    from .._core.token.tokens import Verified
    from .._node.locks import Hold
    from ..exceptions import ProblemError, StoreUnavailable
    from ..models import Acknowledgement, Claims

STARTED = "the response has started, so a change cannot reach the client; change the session earlier"
WEBSOCKET = (
    "a WebSocket cannot change the session once it is accepted, because no response can hand the client a new token; change it before, "
    "use an HTTP request, or have a store keep the data (HA_SESSION_DATA=store)"
)
EXEMPT = "HA_SESSION_EXEMPT lists this path, so it has no session; where visitors may log in, list the path in HA_SESSION_PUBLIC instead"
"""Reasons for which a session is read-only. ``STARTED`` also means that the response has started."""


Transports = Transport | Literal["both"]
"""How a token came."""


class StandIn(msgspec.Struct, frozen=True):
    """The object that Litestar has put in the session's place; see ``litestar.py``.

    Attributes:
        object: the object.
        was_modified: whether the session was modified before.
        content: returns the session's new content; None after ``clear_session``.
    """

    object: Any
    was_modified: bool
    content: Callable[[], Mapping[str, Any]] | None = None


class Rare:
    """The rare part of a request's state: the app's wishes, and the session's record. Each is a class attribute until it is set.

    Attributes:
        became: the claims after ``login`` or ``cycle``, None after ``clear`` or ``revoke``; ``...`` if none of them was called.
        hands_over_by: how the app wants the token of its log-in to reach the client; None if it does not say.
        ended: whether ``clear`` was called in a request with a token, so that the commit revokes its session.
        acknowledgement: of the log-out, once the session that came in is revoked.
        refusal: the problem that the client gets in place of the app's response.
        strict: whether a concurrent change by another request fails this request's change.
        hold: the session's lock, until the commit of the data that it protects.
        turned_away: why a guard of the handler has refused this request; sent in place of an error that the framework makes of it.
        commit_failure: why the commit failed.
        problem: why the token that came in was not accepted, on a path that is open to visitors.
        stand_in: the object that Litestar has put in the session's place, if it did.
        stored: the content and version of the session's record, as last read.
        fitted: the session's data as it travels, after the app's last change by a method of the session.
        is_dropped: whether the response was a 5xx, so that nothing of this request is saved.
        is_websocket: whether the session belongs to a WebSocket.
        out_of_reach: why that record cannot be read; see ``out_of_reach.py``.
        data_lost: whether this request has found that the session's data is lost, and goes on without.
        presented: the tokens of a request that carried several, as often as they came; see ``presented.py``.
        refused: the tokens of a request, none of which was accepted.
        arrives: whether this node sees the token for the first time.
        renews_now: whether the client gets a renewed token although renewal may not be due yet.
        passed_on: whether another node answers, or the sender must ask one. This node passes the answer on as it is.
        passes_events: whether that answer is an event stream.
        read_claims: the claims of the session that came in, once they were read.
    """

    became: Claims | EllipsisType | None = ...
    hands_over_by: Transport | None = None
    ended: bool = False
    acknowledgement: Acknowledgement | None = None
    refusal: ProblemError | None = None
    strict: bool = False
    hold: Hold | None = None
    turned_away: ProblemError | None = None
    commit_failure: ProblemError | None = None
    problem: ProblemError | None = None
    stand_in: StandIn | None = None
    stored: Stored | None = None
    fitted: bytes | None = None
    is_dropped: bool = False
    is_websocket: bool = False
    out_of_reach: StoreUnavailable | None = None
    data_lost: bool = False
    presented: Sequence[Presented] = ()
    refused: Sequence[bytes] = ()
    arrives: bool = False
    renews_now: bool = False
    passed_on: bool = False
    passes_events: bool = False
    read_claims: Claims | None = None


class RequestState(Rare, msgspec.Struct, eq=False):
    """The state of one request: its token, the app's changes, and the progress of the response.

    A session makes its state when it is asked for; or the edge makes it first, and builds the session from it (``session_of``). While
    the app runs, only ``Session`` writes to it: it notes the app's operations. When the response starts, the commit carries the notes
    out, and closes the session. The edge reads ``read_only`` and ``refusal`` to know how to go on, and notes ``commit_failure``.

    A session made by hand has an empty state without a manager. A state belongs to one request: copies and pickles of a
    session do not carry it. The state does not hold the session, so that both are freed without a garbage collection.

    This is a struct with few fields, because they cost less than those of any other class.

    Attributes:
        manager: the node's session manager; None for a session made by hand.
        verified: the token that came in, if its session is valid.
        transport: how the request's token came; None if there was none that proves anything.
        path_kind: the kind of the request's path; a guard of the handler changes it.
        stale_s: age in seconds of the knowledge by which the token was accepted, where that exceeds the freshness limit.
        read_only: why the session cannot be changed any more; None while it can.
        content_when_closed: fingerprint of nested content as it was saved, or at the moment when the session became read-only.
        is_late: whether changes wait to be saved that came after the session was handed out; see ``late.py``.
    """

    manager: SessionManager | None = None
    verified: Verified | None = None
    transport: Transports | None = None
    path_kind: PathKind = "open"
    stale_s: float | None = None
    read_only: str | None = None
    content_when_closed: bytes | None = None
    is_late: bool = False

    __repr__ = object.__repr__  # the generated one would print the token

    @property
    def claims(self) -> Claims | None:
        """The claims of the session as it is now; None for a visitor without a session."""
        return self.came_in if self.became is ... else self.became

    @property
    def present(self) -> Claims | Verified | None:
        """The source of the session's present id, family, subject and cuts; None for a visitor without a session."""
        return self.verified if self.became is ... else self.became

    @property
    def came_in(self) -> Claims | None:
        """The claims of the session that came in."""
        if self.read_claims is None and self.verified is not None:
            self.read_claims = self.verified.claims
        return self.read_claims

    @property
    def came_in_data(self) -> bytes | None:
        """The data that came in as it travels, or as other requests have stored it since; None if there is none to rely on."""
        if self.stored is not None:
            return self.stored.data
        came_in = self.came_in
        return None if came_in is None or came_in.record else came_in.data

    @property
    def continues(self) -> bool:
        """Whether the session is still the one that came in, under whichever id; False after ``login`` and ``clear``."""
        became, verified = self.became, self.verified
        if became is ...:
            return verified is not None
        return became is not None and verified is not None and became.family == verified.family

    async def release_lock(self) -> None:
        """Release the session's lock, unless this request does not hold it or a block still runs under it."""
        hold = self.hold
        if hold is not None and not hold.kept and self.manager is not None:
            self.hold = None
            await node_of(self.manager).locks.release(hold)
