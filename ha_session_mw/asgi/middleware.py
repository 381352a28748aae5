"""The way of a request: look its token up in the cache, else have its session found, and give the app its session.

``session_finder.py`` finds the sessions of which the cache does not know enough. The way back stands in ``exchange.py``.

Pure ASGI: nothing is buffered, streams pass unchanged, and the middleware keeps no state of a request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.datastructures import Secret
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._core.paths import PathKind, PathRules, below_root, literally
from .._core.request_fields import MAX_FIELDS
from .._core.token.cookies import LONGEST_FIELD
from .._core.token.data import CANNOT_TRAVEL, decode_again, encode_again
from .._core.token.tokens import Verified
from .._node.short_way import FOREVER
from ..config import SameSite, Settings
from ..exceptions import ConfigurationError, ProblemError, SessionRevoked
from ..manager import SessionManager, node_of
from ..session import litestar
from ..session.session import SCOPE_KEY, SessionOfRequest, state_of
from ..session.state import STARTED
from .arguments import UNSET, manager_of_arguments
from .cookie_attributes import CookieAttributes
from .edge import Edge
from .endpoints import DEVICES, LONGEST_PAGE, RENEW, Endpoints
from .exchange import Exchange
from .session_finder import SessionFinder
from .websocket_exchange import WebSocketExchange

logger = logging.getLogger("ha_session_mw")

_READ = frozenset(("path", "root_path", "headers"))
"""The keys of its scope that each request reads, besides the type."""


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
        app: Callable[..., Awaitable[None]],  # each framework has types of its own for what an ASGI app takes
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
        self.app: ASGIApp = app
        self._fault: ConfigurationError | None = None
        self._prefix = ""  # of each path, so that each request finds the fault, if there is one
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
        node.on_entries(edge.connections.on_news)
        node.on_tick(edge.connections.end_expired)
        node.add_task("connections", edge.connections.run)
        self._endpoints = Endpoints(node, self)
        self._prefix = settings.endpoints + "/"
        self._renew_path = settings.endpoints + RENEW
        self._wrapped = self.app
        self._devices = settings.endpoints + DEVICES if settings.devices == "on" else None
        protect = self._wrap_app(settings)
        public = settings.public if settings.login_url is None else (*settings.public, literally(settings.login_url.partition("?")[0]))
        self._paths = PathRules(protect=protect, public=public, exempt=settings.exempt, relaxed=settings.relaxed)
        self._has_paths = bool(self._paths)
        finder = SessionFinder(manager, edge, self._paths, meet=self._meet_without_lifespan, refuse=self._refuse)
        self._validate_alone, self._begin = finder.validate_alone, finder.begin
        self._is_within_drain = False
        node.draining.on_begin(self._drain)
        self._use_cookie(settings)
        self._refuse_overrides()
        self._short_way = node.validator.short_way

    def _wrap_app(self, settings: Settings) -> tuple[str, ...]:
        """Put around the app what the settings ask for; return the patterns of the protected paths."""
        node, protect = self._node, settings.protect
        if settings.routing != "serve":
            from .routing import OwnedApp  # only where it is set

            self.app = OwnedApp(self.app, node)
        if self._devices is not None:
            from .device_routes import DeviceRoutes

            self.app = DeviceRoutes(self.app, self.manager)
            protect = (*protect, self._devices, self._devices + "/*")
        if settings.overload == "refuse":
            from .overload import GuardedApp  # only where it is set

            self.app = guarded = GuardedApp(self.app, node.clock, node.random, self._edge.is_passive)
            node.add_task("overload", guarded.run)
        if settings.step_up:
            from .step_up import StepUp  # only where it is set

            self.app = StepUp(self.app, settings.step_up, settings.step_up_max_age)
            protect = (*protect, *settings.step_up)
        return protect

    def _drain(self) -> None:
        """Have the app's clients go elsewhere: from now on, so that no request pays for it before."""
        if not self._is_within_drain:
            self._is_within_drain = True
            from .draining import DrainingApp  # once in a process's life

            self.app = DrainingApp(self.app, self._node.draining, refuse_safe=self.manager.settings.drain_refuse == "safe")

    def require_manager(self) -> SessionManager:
        """Return the session manager.

        Raises:
            ConfigurationError: the settings cannot be used.
        """
        if self._fault is not None:
            raise ConfigurationError(self._fault.faults)
        return self.manager

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # Each step counts here, see docs/explanation/speed.md. A function that is an attribute gets a local name before it is called:
        # the interpreter would look for a method first.
        try:
            path = scope["path"]
            root_path = scope["root_path"]
            headers = scope["headers"]
        except KeyError:
            path, root_path, headers = self._prefix, "", ()  # left at once: what the app raises has nothing to do with this
        app: ASGIApp | None = self.app
        if self._prefix in path or scope["type"] != "http" or "session" in scope:
            app, has_session = self._app_for(scope)
            if app is not None and not has_session:
                await app(scope, receive, send)
                return
        special: PathKind | None = None  # the kind of the path, unless it is open
        if self._has_paths:
            special = self._paths.kind_of(path, root_path)
            if special == "open":
                special = None
            elif special == "exempt":
                headers = ()
        # The one field that can carry a token is the key of the cache, as it came. If there are several, they must be parsed.
        field = transport = None
        if len(headers) <= MAX_FIELDS:
            transports = self._transports
            for name, value in headers:
                if name in transports:
                    if field is not None or len(value) > LONGEST_FIELD:
                        field = None
                        break
                    field = value
                    transport = transports[name]
        # As ``ShortWay.recall`` does; a test compares the two.
        short = self._short_way
        cached = short.cached
        verified = cached(field)
        if verified is not None:
            for now_s in short.accepted.readings:
                if short.poll_now is not None:
                    short.poll_now()
                view = short.view
                if not (
                    (view.fresh_at == FOREVER or short.is_within_lease(view.fresh_at, now_s))
                    and verified.generation is view.generation
                    and verified.transport is transport
                    and verified.from_s <= now_s
                    and now_s < verified.until_s
                    and now_s >= view.floor_s
                ):
                    short.accepted.take_back()
                    verified = None
                break
            else:
                verified = short.recall_sample(field, transport)
        if verified is None or verified.record:  # on few requests
            known: Any = verified
            if verified is None and field is not None:
                validate_alone = self._validate_alone
                known = validate_alone(field, transport)
            if type(known) is Verified and not known.record:
                verified = known
            else:
                begun = await self._begin(scope, receive, send, special, field, transport, known)
                if begun is None:
                    return  # the request was refused
                session, send = begun
                verified = nested = None
        if verified is not None:
            nested = verified.nested_data  # containers belong to one request, so each decodes its own
            session = SessionOfRequest(verified.data if nested is None else decode_again(nested))
            # A call would take a fiftieth of everything that the middleware does.
            session._verified = verified  # noqa: SLF001
            session._manager = self.manager  # noqa: SLF001
            session._made = nested  # noqa: SLF001
            session.accessed = session.modified = False
            if special is not None:
                state_of(session).path_kind = special
        scope["session"] = scope[SCOPE_KEY] = session
        if app is None:
            await self._websocket(WebSocketExchange(self._edge, session, scope, receive, send, root_path))
            return
        exchange = Exchange(self._edge, session, scope, receive, send, root_path)
        try:
            await app(scope, exchange, exchange.pass_on)
        except BaseException as failure:
            if not await exchange.handles(failure):
                raise
        else:
            if session._made is STARTED:  # noqa: SLF001
                if nested is None:
                    return
                try:
                    if encode_again(session) == nested:
                        return
                except CANNOT_TRAVEL:
                    pass  # so it has changed
            if exchange.is_unfinished():
                await exchange.end()

    async def _incomplete(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request without something that servers give and test harnesses leave out."""
        if "path" not in scope:
            raise KeyError("path")
        scope.setdefault("root_path", "")
        scope.setdefault("headers", [])
        await self(scope, receive, send)

    def _app_for(self, scope: Scope) -> tuple[ASGIApp | None, bool]:
        """Return the app for a request that is not like most, None for a WebSocket; and whether it gets a session from here."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            return self._other, False
        if not scope.keys() >= _READ:
            return self._incomplete, False
        if self._fault is not None:
            raise self._told(self._fault)
        if "session" in scope:
            return (self.app if self._shares_session(scope) else self._within_another), False
        if kind == "websocket":
            return None, True
        below = below_root(scope["path"], scope["root_path"])
        if below.startswith(self._prefix):
            if below == self._renew_path:
                from .renew_route import renew

                return renew, True
            if not self._is_of_devices(below):
                return self._answer_endpoint, False
        return self.app, True

    async def _answer_endpoint(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._edge.has_met:
            await self._meet_without_lifespan(scope)
        path = below_root(scope["path"], scope["root_path"])
        await self._endpoints(path[len(self._prefix) - 1 : len(self._prefix) + LONGEST_PAGE], scope, receive, send)

    async def _refuse(self, problem: ProblemError, scope: Scope, receive: Receive, send: Send) -> None:
        if isinstance(problem, SessionRevoked) and self._is_of_devices(below_root(scope["path"], scope.get("root_path") or "")):
            from .device_routes import answer_again

            if await answer_again(self._node, scope, [token for _, token in self._edge.reader.read(scope["headers"])], send):
                return
        await self._edge.refuse(problem, scope, receive, send)

    def _shares_session(self, scope: Scope) -> bool:
        """Whether a middleware of the same settings further out has found the session already, and this one has nothing to add to that."""
        session = scope.get(SCOPE_KEY)
        if session is None or session is not scope["session"] or self._prefix in scope["path"]:
            return False
        state = state_of(session)
        is_open = state.path_kind == self._paths.kind_of(scope["path"], scope["root_path"]) == "open"
        return is_open and state.manager is self.manager

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

    # WebSockets and the lifespan

    async def _websocket(self, exchange: WebSocketExchange) -> None:
        exchange.open()
        try:
            await self.app(exchange.scope, exchange, exchange.pass_on)
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
