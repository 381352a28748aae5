"""Find the session of a request whose token is not in the cache: read the tokens, validate them, and ask other nodes if necessary."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.types import Receive, Scope, Send

from .._core.accept_rule import BEFORE_A_SIGNATURE_COUNTS, CHECKS, CannotTell
from .._core.paths import PathKind, PathRules, below_root
from .._core.request_fields import last_value
from .._core.token.cookies import INDEX_HEADER, MAX_INDEX_LENGTH, Presented, choose
from .._core.token.tokens import Transport, Verified
from ..exceptions import ClientFault, ProblemError, StateStale, StoreUnavailable, TokenMissing
from ..manager import SessionManager, node_of
from ..session.out_of_reach import SessionOutOfReach
from ..session.session import Session, session_of
from ..session.state import EXEMPT, RequestState, Transports
from .edge import Edge
from .problems import SAFE_METHODS
from .transfer import telling_of_loss, telling_of_transfer

Begun = tuple[Session, Send]
"""The session of a request, and the request's ``send`` from now on."""


class Arriving(msgspec.Struct, frozen=True):
    """A valid token whose client or whose operator is to be told that this node sees it for the first time."""

    verified: Verified


Known = Verified | Arriving | CannotTell | ProblemError | None
"""The token of a request, or the reason why there is none."""


class SessionFinder:
    """Finds the session of each request that needs more than the cache.

    Args:
        manager: of the sessions.
        edge: what all requests share.
        paths: the rules for paths.
        meet: called first while the app has not been seen.
        refuse: answers a request that is refused.
    """

    def __init__(
        self,
        manager: SessionManager,
        edge: Edge,
        paths: PathRules,
        *,
        meet: Callable[[Scope], Awaitable[None]],
        refuse: Callable[[ProblemError, Scope, Receive, Send], Awaitable[None]],
    ) -> None:
        self._manager = manager
        self._node = node_of(manager)
        self._validator = self._node.validator
        self._cached = self._node.cache.entries
        self._recoveries = self._node.recoveries
        self._names_node = bool(self._node.node_fields)
        self._edge = edge
        self._paths = paths
        self._meet = meet
        self._refuse = refuse
        self._waits_for_start = manager.settings.start_wait > 0

    def validate_alone(self, field: bytes, transport: Transport | None) -> Known:
        """Validate a token that the short way does not accept, without waiting for anything.

        Args:
            field: the only header field that can carry a token.
            transport: how it came.

        Returns:
            the token; why it is refused, or cannot be decided; None if something must be waited for first, or the field must be parsed.
            A token that is :class:`Arriving` is to be told of.
        """
        token = self._edge.reader.token_alone(field, transport)
        if token is None:
            return None
        validator = self._validator
        try:
            if field in self._cached and (known := validator.validate_cached(field)) is not None:
                return known
            if not self._edge.has_met or (self._waits_for_start and self._node.log.is_starting()):
                return None
            known = validator.validate_new(token, field, transport)
        except ProblemError as problem:
            return problem
        if type(known) is Verified and (self._names_node or known.first_claims().issued_ms < self._recoveries.began_ms):
            return Arriving(known)
        return known

    async def begin(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        path_kind: PathKind | None,
        field: bytes | None,
        transport: Transport | None,
        known: Known,
    ) -> Begun | None:
        """Find the session of a request for which its token alone does not suffice; None once the request was refused.

        Args:
            scope, receive, send: of the request.
            path_kind: the kind of its path, unless it is open.
            field: the only header field that can carry a token; None if there are several.
            transport: of that field.
            known: what is known of that token.
        """
        if isinstance(known, ProblemError):
            return await self._begin_without(known, scope, receive, send, path_kind, field, transport)
        arrives = isinstance(known, Arriving)
        if isinstance(known, Arriving):
            known = known.verified
        try:
            path = below_root(scope["path"], scope["root_path"])
            state = await self._find(scope, path, path_kind or "open", field, transport, known)
        except ProblemError as problem:
            return await self._begin_without(problem, scope, receive, send, path_kind, field, transport)
        state.path_kind = path_kind or "open"
        state.arrives |= arrives
        session = session_of(state, Session if state.out_of_reach is None else SessionOutOfReach)
        if state.arrives or state.data_lost:
            send = self._telling(send, state)
        return session, send

    async def _begin_without(
        self,
        problem: ProblemError,
        scope: Scope,
        receive: Receive,
        send: Send,
        path_kind: PathKind | None,
        field: bytes | None,
        transport: Transport | None,
    ) -> Begun | None:
        """Let a request in whose token is not accepted, if its path is open to visitors. Else refuse it, and return None."""
        if path_kind == "protected" or not isinstance(problem, ClientFault):
            await self._refuse(problem, scope, receive, send)
            return None
        token = self._edge.reader.token_alone(field, transport)
        return session_of(self._as_visitor(problem, None if token is None else transport, token)), send

    async def _find(
        self,
        scope: Scope,
        path: str,
        path_kind: PathKind,
        field: bytes | None,
        transport: Transport | None,
        known: Verified | CannotTell | None,
    ) -> RequestState:
        """Find the session of a request, and wait for other nodes if necessary.

        Args:
            scope, path, path_kind: of the request.
            field: the only header field that can carry a token; None if there are several.
            transport: of that field.
            known: the earlier result for that token.

        Raises:
            ProblemError: the request must be refused.
        """
        if not self._edge.has_met:
            await self._meet(scope)
        if path_kind == "exempt":
            return RequestState(self._manager, read_only=EXEMPT)
        arrives = False
        if self._waits_for_start and self._node.log.is_starting():
            await self._node.wait_started()
        reader = self._edge.reader
        token = reader.token_alone(field, transport)
        if known is None and field is not None and token is not None:
            known, arrives = self._validator.validate_new(token, field, transport), True
        if isinstance(known, Verified):
            state = await self._state_of(known, transport) if known.record else RequestState(self._manager, known, transport)
            if arrives:
                state.arrives = True
            return state
        found = reader.read(scope["headers"])
        presented = None
        try:
            presented = self._choose(found, path_kind)
            if presented is None:
                return RequestState(self._manager)
            state = await self._find_out(presented, scope, path)
            if field is not None and transport == "cookie" and token is None and len(found) == 1:
                self._validator.recall_from(field, reader.field(presented), transport)
        except ClientFault as problem:
            if path_kind == "protected":
                raise
            state = self._as_visitor(problem, presented and presented[0])
            state.refused = [token for _, token in found]
        if len(found) > 1:
            state.presented = found
        return state

    def _telling(self, send: Send, state: RequestState) -> Send:
        """Return a ``send`` that tells the client if its session came from another node, or has lost its data."""
        verified = state.verified
        if verified is None:
            return send
        if state.arrives:
            send = self._arrive(verified, send, state)
        return telling_of_loss(send, state) if state.data_lost else send

    def _arrive(self, verified: Verified, send: Send, state: RequestState) -> Send:
        """Note that this node sees a token for the first time. Return a ``send`` that tells the client if another node has issued it."""
        self._recoveries.arrive(verified)
        return telling_of_transfer(send, self._node, verified.issuer, state) if self._names_node else send

    def _choose(self, found: list[Presented], path_kind: PathKind) -> Presented | None:
        if len(found) > 1:
            return choose(found, self._validator.verify, self._validator.may_be_valid)
        if not found and path_kind == "protected":
            raise TokenMissing("neither a session cookie nor a bearer token of this package", check="presented")
        return found[0] if found else None

    async def _find_out(self, presented: Presented, scope: Scope, path: str) -> RequestState:
        transport, token = presented
        try:
            if index := last_value(scope["headers"], INDEX_HEADER, MAX_INDEX_LENGTH):
                self._validator.ensure_genuine(token)  # nothing waits for a made-up one
                await self._node.resolver.catch_up(index)
            key = self._edge.reader.field(presented)
            known = self._validator.validate_cached(key)
            name = b"authorization" if transport == "bearer" else b"cookie"
            outcome = known or self._validator.validate_new(token, key, self._edge.reader.transports[name])
            if isinstance(outcome, CannotTell):
                outcome = await self._node.resolver.resolve(token, outcome)
            state = await self._state_of(outcome, transport)
        except StateStale:
            if scope.get("method") not in SAFE_METHODS or not self._paths.is_relaxed(path):
                raise
            verified, age_s = self._validator.validate_relaxed(token)
            state = await self._state_of(verified, transport)
            state.stale_s = age_s
            return state
        state.arrives = known is None
        return state

    async def _state_of(self, verified: Verified, transport: Transports | None) -> RequestState:
        state = RequestState(self._manager, verified, transport)
        if verified.record:
            try:
                state.read_claims = verified.claims
                state.stored, state.data_lost = await self._node.data.load(state.read_claims)
            except StoreUnavailable as problem:
                state.out_of_reach = problem
        return state

    def _as_visitor(self, problem: ClientFault, transport: Transports | None, token: bytes | None = None) -> RequestState:
        """Return the state of a request that is let in without its session, in which the app finds why its token was refused.

        Args:
            problem: why.
            transport: how the token came, if it is certain which one it was.
            token: the token, if it came in a field that carried nothing else.
        """
        self._node.errors.note(problem, None)
        # After a new log-in, the client gets its token by the transport of the old one, if a member issued that one. After a
        # made-up bearer token, the new token must not come where scripts can read it.
        proven = problem.check in CHECKS and problem.check not in BEFORE_A_SIGNATURE_COUNTS
        state = RequestState(self._manager, transport=transport if proven else None)
        state.problem = problem
        if token is not None:
            state.refused = (token,)
        return state
