"""The way of a request: read its token, validate it, and give the app its session. The way back stands in ``exchange.py``.

Pure ASGI: nothing is buffered, streams pass unchanged, and the middleware keeps no state of a request.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from starlette.datastructures import Secret
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._core.accept_rule import BEFORE_A_SIGNATURE_COUNTS, CHECKS, CannotTell
from .._core.paths import PathKind, PathRules, below_root, literally
from .._core.request_fields import last_value
from .._core.token.cookies import INDEX_HEADER, MAX_INDEX_LENGTH, Presented, choose
from .._core.token.tokens import Verified
from ..config import SameSite, Settings
from ..exceptions import ClientFault, ConfigurationError, ProblemError, SessionRevoked, StateStale, StoreUnavailable, TokenMissing
from ..manager import SessionManager, node_of
from ..session import litestar
from ..session.late_save import has_late_changes
from ..session.out_of_reach import SessionOutOfReach
from ..session.session import SCOPE_KEY, Session, session_of
from ..session.state import EXEMPT, STARTED, CameBy, RequestState
from .arguments import UNSET, manager_of_arguments
from .cookie_attributes import CookieAttributes
from .edge import Edge
from .endpoints import DEVICES, LONGEST_PAGE, RENEW, Endpoints
from .exchange import Exchange
from .problems import SAFE_METHODS
from .transfer import telling_of_loss, telling_of_transfer
from .websocket_exchange import WebSocketExchange

logger = logging.getLogger("ha_session_mw")


class SessionMiddleware(CookieAttributes):
    """Sessions for any ASGI app, in the place of Starlette's middleware of the same name.

    Without arguments, the environment variables ``HA_SESSION_…`` configure it. Put it around the whole app, so that it sees the
    lifespan: that is when the node starts and stops.

    Args:
        app: the app.
        secret_key: one key or several, the newest first. If it is given, and ``settings`` is not, the other defaults of
            Starlette's middleware apply, too: cookie only, not Secure, 14 days.
        session_cookie: the cookie's name.
        max_age: idle and absolute lifetime in seconds. None: the cookie ends with the browser.
        path, same_site, https_only, domain, partitioned: the cookie's attributes.
        settings: replaces the environment.
        manager: a session manager made by hand, with its settings. No other setting can be given then.

    The constructor does not raise for a wrong setting, because that would not stop a server. Instead the app does not start: the
    server gets ``lifespan.startup.failed`` with all faults in one message, and no request is served.
    """

    def __init__(
        self,
        app: ASGIApp,
        secret_key: str | bytes | Secret | Sequence[str | bytes | Secret] | None = None,
        session_cookie: str = UNSET,
        max_age: int | None = UNSET,
        path: str = UNSET,
        same_site: SameSite = UNSET,
        https_only: bool = UNSET,  # noqa: FBT001 - Starlette's signature
        domain: str | None = UNSET,
        partitioned: bool = UNSET,  # noqa: FBT001 - Starlette's signature
        *,
        settings: Settings | None = None,
        manager: SessionManager | None = None,
    ) -> None:
        self.app = app
        self._fault: ConfigurationError | None = None
        self._told_fault = False
        try:
            manager = manager_of_arguments(
                secret_key, session_cookie, max_age, path, same_site, https_only, domain, partitioned, settings=settings, manager=manager
            )
        except ConfigurationError as fault:
            self._fault = fault
            return
        litestar.watch()
        self._use(manager)

    def _use(self, manager: SessionManager) -> None:
        settings = manager.settings
        self.manager = manager
        self._node = node = node_of(manager)
        self._edge = edge = Edge(node)
        self._connections = edge.connections
        node.on_entry(edge.connections.on_news)
        node.on_tick(edge.connections.end_expired)
        node.add_task("connections", edge.connections.run)
        self._endpoints = Endpoints(node, self)
        self._prefix = settings.endpoints + "/"
        self._renew_path = settings.endpoints + RENEW
        self._wrapped = self.app
        self._devices = settings.endpoints + DEVICES if settings.devices == "on" else None
        if settings.routing != "serve":
            from .routing import OwnedApp  # only where it is set

            self.app = OwnedApp(self.app, node)
        protect = settings.protect
        if self._devices is not None:
            from .device_routes import DeviceRoutes

            self.app = DeviceRoutes(self.app, manager)
            protect = (*protect, self._devices, self._devices + "/*")
        if settings.overload == "refuse":
            from .overload import GuardedApp  # only where it is set

            self.app = guarded = GuardedApp(self.app, node.clock, node.random, edge.is_passive)
            node.add_task("overload", guarded.run)
        if settings.step_up:
            from .step_up import StepUp  # only where it is set

            self.app = StepUp(self.app, settings.step_up, settings.step_up_max_age)
            protect = (*protect, *settings.step_up)
        public = settings.public if settings.login_url is None else (*settings.public, literally(settings.login_url.partition("?")[0]))
        self._paths = PathRules(protect=protect, public=public, exempt=settings.exempt, relaxed=settings.relaxed)
        self._has_paths = bool(self._paths)
        self._waits_for_start = settings.start_wait > 0
        self._is_within_drain = False
        node.draining.on_begin(self._drain)
        self._use_cookie(settings)
        self._refuse_overrides()
        self._validator = node.validator
        self._validate_cached = node.validator.validate_cached
        node.sampling.on_sample(self._time_next)

    def _drain(self) -> None:
        """Have the app's clients go elsewhere: from now on, so that no request pays for it before."""
        if not self._is_within_drain:
            self._is_within_drain = True
            from .draining import DrainingApp  # once in a process's life

            self.app = DrainingApp(self.app, self._node.draining, refuse_safe=self.manager.settings.drain_refuse == "safe")

    def _time_next(self) -> None:
        """Measure the next validation from the cache. The requests between samples do not pay for that."""
        self._validate_cached = self._validate_timed

    def _validate_timed(self, key: bytes) -> Verified | CannotTell | None:
        self._validate_cached = self._validator.validate_cached
        return self._validator.validate_timed(key)

    def require_manager(self) -> SessionManager:
        """Return the session manager.

        Raises:
            ConfigurationError: the settings cannot be used.
        """
        if self._fault is not None:
            raise ConfigurationError(self._fault.faults)
        return self.manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._other(scope, receive, send)
            return
        if self._fault is not None:
            raise self._told(self._fault)
        if "session" in scope:
            await self._within_another(scope, receive, send)
            return
        if "headers" not in scope:  # the specification demands it; test harnesses leave it out
            scope["headers"] = []
        path: str = scope["path"]
        root_path: str = scope.get("root_path") or ""
        app = self.app
        if self._prefix in path and kind == "http" and (below := below_root(path, root_path)).startswith(self._prefix):
            if below == self._renew_path:
                from .renew_route import renew

                app = renew
            elif not self._is_of_devices(below):
                if not self._edge.has_met:
                    await self._meet_without_lifespan(scope)
                await self._endpoints(below[len(self._prefix) - 1 : len(self._prefix) + LONGEST_PAGE], scope, receive, send)
                return
        path_kind = self._paths.kind_of(path, root_path) if self._has_paths else "open"
        field = self._lone(scope["headers"])
        try:
            try:
                known = self._validate_cached(field) if field is not None and path_kind != "exempt" else None
                if type(known) is Verified and not known.record:  # as on most requests
                    state = RequestState(self.manager, known, field, path_kind)
                    session = session_of(state)
                else:
                    state = await self._admit(scope, below_root(path, root_path), path_kind, field, known)
                    state.path_kind = path_kind
                    session = session_of(state, Session if state.out_of_reach is None else SessionOutOfReach)
                    if state.verified is not None:
                        if state.arrives:
                            send = telling_of_transfer(send, self._node, state.verified.claims, state)
                            self._node.recoveries.arrive(state.verified.claims)
                        if state.data_lost:
                            send = telling_of_loss(send, state)
            except ClientFault as problem:
                state = self._refused(problem, path_kind, field)
                session = session_of(state)
        except ProblemError as refusal:
            if isinstance(refusal, SessionRevoked) and self._is_of_devices(below_root(path, root_path)):
                from .device_routes import answer_again

                if await answer_again(self._node, scope, [token for _, token in self._reader.read(scope["headers"])], send):
                    return
            await self._edge.refuse(refusal, scope, receive, send)
            return
        scope["session"] = scope[SCOPE_KEY] = session
        if kind == "websocket":
            await self._websocket(WebSocketExchange(self._edge, session, state, scope, receive, send, root_path))
            return
        exchange = Exchange(self._edge, session, state, scope, receive, send, root_path)
        try:
            await app(scope, exchange.receive_next, exchange.pass_on)
        except BaseException as failure:
            if not await exchange.handles(failure):
                raise
        else:
            if state.read_only is not STARTED:
                await exchange.end_unanswered()
            elif (state.content_when_closed is not None or state.is_late) and has_late_changes(session, state):
                await exchange.save()
            if exchange.connection is not None:
                await exchange.connection.app_is_over()
        finally:
            if exchange.connection is not None:
                self._connections.remove(exchange.connection)

    async def _within_another(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that has a session of another middleware further out, which finds its own when the response starts."""
        outer = {key: scope.pop(key) for key in ("session", SCOPE_KEY) if key in scope}

        async def send_out(message: Message) -> None:
            if message["type"] != "http.response.start":
                await send(message)
                return
            inner = {key: scope[key] for key in ("session", SCOPE_KEY) if key in scope}
            scope.update(outer)
            try:
                await send(message)
            finally:
                scope.update(inner)

        try:
            await self(scope, receive, send_out)
        finally:
            scope.update(outer)

    def _is_of_devices(self, path: str) -> bool:
        return self._devices is not None and (path == self._devices or path.startswith(self._devices + "/"))

    def _meet(self, scope: Scope) -> None:
        """Describe the refusals in the document of the app around which this was put, once. No server shows the app to a constructor."""
        from .openapi import describe_refusals  # only once

        self._edge.has_met = True
        for app in (scope.get("app"), self._wrapped):
            describe_refusals(app)

    async def _meet_without_lifespan(self, scope: Scope) -> None:
        self._meet(scope)
        from .daphne import run_with_reactor  # other servers have a lifespan

        await run_with_reactor(self._node)

    # Read and validate the token

    async def _admit(
        self, scope: Scope, path: str, path_kind: PathKind, field: bytes | None, known: Verified | CannotTell | None
    ) -> RequestState:
        """Find the session of a request, and wait for other nodes if necessary.

        Args:
            scope, path, path_kind: of the request.
            field: the header field that carries its one token and nothing else, if there is such a field.
            known: the earlier result for that token.

        Raises:
            ProblemError: the request must be refused.
        """
        if not self._edge.has_met:
            await self._meet_without_lifespan(scope)
        if path_kind == "exempt":
            return RequestState(self.manager, read_only=EXEMPT)
        arrives = False
        if self._waits_for_start and self._node.log.is_starting():
            await self._node.wait_started()
        if known is None and field is not None and (token := self._reader.token_of(field)) is not None:
            known, arrives = self._validator.validate_new(token, field), True
        if isinstance(known, Verified):
            state = await self._state_of(known, field) if known.record else RequestState(self.manager, known, field)
            if arrives:
                state.arrives = True
            return state
        found = self._reader.read(scope["headers"])
        presented = None
        try:
            presented = self._choose(found, path_kind)
            if presented is None:
                return RequestState(self.manager)
            state = await self._find_out(presented, scope, path)
        except ClientFault as problem:
            state = self._refused(problem, path_kind, presented and presented[0])
            state.refused = [token for _, token in found]
        if len(found) > 1:
            state.presented = found
        return state

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
                await self._node.resolver.catch_up(index)
            key = self._reader.field(presented)
            known = self._validator.validate_cached(key)
            outcome = known or self._validator.validate_new(token, key)
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

    async def _state_of(self, verified: Verified, transport: CameBy | None) -> RequestState:
        state = RequestState(self.manager, verified, transport)
        if verified.record:
            try:
                state.stored, state.data_lost = await self._node.data.load(verified.claims)
            except StoreUnavailable as problem:
                state.out_of_reach = problem
        return state

    def _refused(self, problem: ClientFault, path_kind: PathKind, transport: CameBy | None) -> RequestState:
        """Let a visitor in whose session says why the token was refused; on a protected path, raise the refusal."""
        if path_kind == "protected":
            raise problem
        self._node.errors.note(problem, None)
        # After a new log-in, the client gets its token by the transport of the old one, if a member issued that one. After a
        # made-up bearer token, the new token must not come where scripts can read it.
        proven = problem.check in CHECKS and problem.check not in BEFORE_A_SIGNATURE_COUNTS
        state = RequestState(self.manager, transport=transport if proven else None)
        state.problem = problem
        if isinstance(transport, bytes) and (token := self._reader.token_of(transport)) is not None:
            state.refused = (token,)
        return state

    # WebSockets and the lifespan

    async def _websocket(self, exchange: WebSocketExchange) -> None:
        exchange.open()
        try:
            await self.app(exchange.scope, exchange.receive_next, exchange.pass_on)
        except BaseException as failure:
            if not await exchange.handles(failure):
                raise
        else:
            await exchange.end()
        finally:
            exchange.forget()

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        from .lifespan import refuse_lifespan, run_lifespan  # once in a process's life

        litestar.watch()  # once more, for an app that loads it after the middleware was made
        if self._fault is not None:
            await refuse_lifespan(self._fault, receive, send)
        else:
            self._meet(scope)
            await run_lifespan(self.app, self._node, scope, receive, send)

    def _told(self, fault: ConfigurationError) -> ConfigurationError:
        """Log once why no request is served, for servers that run no lifespan. Return a new error: a traceback grows with each raise."""
        if not self._told_fault:
            self._told_fault = True
            logger.error("%s", fault)
        return ConfigurationError(fault.faults)
