"""The middleware: the way of a request, with no step back.

Read the token, check it, give the app its session, and when the response starts commit what the app did to it. Pure
ASGI: nothing is buffered, streams pass untouched, and no state of a request is kept on the middleware.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import anyio
import msgspec
from starlette.datastructures import Secret
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._core.accept_rule import CannotTell
from .._core.paths import PathKind, PathRules, below_root
from .._core.records.session_data import Stored
from .._core.token.cookies import INDEX_HEADER, Header, Presented, TokenReader, Transport, choose, claims_https
from .._core.token.tokens import Verified
from .._node.node import NOT_STARTED
from .._settings.setting import variable
from .._settings.values import LONGEST_S
from ..config import STARLETTE_MAX_AGE_S, SameSite, Settings
from ..exceptions import ClientFault, ConfigurationError, NodeStarting, ProblemError, StateStale, StoreUnavailable, TokenMissing
from ..manager import SessionManager, node_of
from ..session.commit import Outcome, adopt, close, commit, has_nothing_to_commit, require_unchanged, revoke_if_ended
from ..session.out_of_reach import stored_session_of
from ..session.session import EXEMPT, SCOPE_KEY, STARTED, WEBSOCKET, Session, Way, session_of
from .conversation import Conversation
from .device_routes import DeviceRoutes, path_of
from .endpoints import Endpoints
from .headers import EVENT_STREAM, TOKEN_HEADER, hands_out_token, is_event_stream, make_private, with_vary
from .lifespan import refuse_lifespan, run_lifespan
from .problems import send_problem
from .streams import Connection, Connections

logger = logging.getLogger("ha_session_mw")

UNSET: Any = object()
"""Default of an argument that was not given: the settings, the environment or a default then counts."""

SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
"""They ask for nothing to be changed (RFC 9110 section 9.2.1)."""

GIVE_UP_S = 5.0
"""How long to try to make a log-out good when the app has failed: as long as for all clean-up."""


class SessionMiddleware:
    """Sessions for any ASGI app, in the place of Starlette's middleware of the same name.

    Args:
        app: the app.
        secret_key: one key or several, the newest first. With it, and without ``settings``, the rest of Starlette's
            defaults hold too: the cookie only, not Secure, 14 days.
        session_cookie: the cookie's name.
        max_age: in seconds, for idle and absolute life alike. None: the cookie ends with the browser.
        path, same_site, https_only, domain, partitioned: the cookie's attributes.
        settings: used in the place of the environment.
        manager: a session manager made by hand, with its settings.

    The constructor does not raise for a wrong setting: that would not stop a server. All faults are told together when
    the app starts (``lifespan.startup.failed``), and no request is served.
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
        self._logged = False
        arguments = {
            "cookie_name": session_cookie,
            "cookie_path": path,
            "cookie_same_site": same_site,
            "cookie_https_only": https_only,
            "cookie_domain": domain,
            "cookie_partitioned": partitioned,
        }
        given = {name: value for name, value in arguments.items() if value is not UNSET}
        try:
            if manager is None:
                manager = _manager(_settings(settings, secret_key, max_age, given))
            elif not isinstance(manager, SessionManager):
                raise ConfigurationError([f"SessionMiddleware(manager=…): must be a SessionManager, got {type(manager).__name__}"])
            elif given or settings is not None or secret_key is not None or max_age is not UNSET:
                raise ConfigurationError(["SessionMiddleware(manager=…): the manager has its settings; no others can be given"])
        except ConfigurationError as fault:
            self._fault = fault
            return
        self._use(manager)

    def _use(self, manager: SessionManager) -> None:
        settings = manager.settings
        self.manager = manager
        self._node = node = node_of(manager)
        self._validator = node.validator
        self._endpoints = Endpoints(node)
        self._connections = Connections(node.view)
        node.on_entry(self._connections.on_news)
        node.add_task("connections", self._connections.run)
        self._prefix = settings.endpoints + "/"
        self._devices = path_of(settings.endpoints) if settings.devices == "on" else None
        protect = settings.protect
        if self._devices is not None:
            self.app = DeviceRoutes(self.app, manager)
            protect = (*protect, self._devices, self._devices + "/*")
        self._paths = PathRules(protect=protect, exempt=settings.exempt, relaxed=settings.relaxed)
        self._has_paths = bool(self._paths)
        cookie, bearer = "cookie" in settings.transports, "bearer" in settings.transports
        self._reader = TokenReader(settings.cookie_name if cookie else None, bearer=bearer)
        self._lone = self._reader.lone
        self._validate_cached = node.validator.validate_cached
        self._vary = (b"vary", b", ".join([b"Cookie"] * cookie + [b"Authorization"] * bearer))
        self._wall_s = manager.clock.wall_s
        self._full = settings.error_detail == "full"
        self._default_transport: Transport = "cookie" if cookie else "bearer"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._other(scope, receive, send)
            return
        if self._fault is not None:
            self._log_once(str(self._fault))
            raise ConfigurationError(self._fault.faults)  # a new one: its traceback grows each time it is raised
        path: str = scope["path"]
        root_path: str = scope.get("root_path") or ""
        if root_path:
            path = below_root(path, root_path)
        if kind == "http" and path.startswith(self._prefix) and not self._is_of_devices(path):
            await self._endpoints(path[len(self._prefix) - 1 :], scope, receive, send)
            return
        path_kind = self._paths.kind_of(scope["path"], root_path) if self._has_paths else "open"
        try:
            found = self._recognise(scope["headers"], path_kind)
            session = found if isinstance(found, Session) else await self._admit(scope, path, path_kind, found)
        except ProblemError as refusal:
            await self._refuse(refusal, scope, receive, send)
            return
        scope["session"] = scope[SCOPE_KEY] = session
        if kind == "websocket":
            await self._websocket(session, scope, receive, send)
            return
        exchange = _Exchange(self, session, scope, receive, send, path_kind)
        try:
            await self.app(scope, receive, exchange.pass_on)
        except BaseException as failure:
            if session._connection is not None and session._connection.ended and isinstance(failure, Exception):
                return  # it was told that its client has gone
            if session._read_only is STARTED:
                raise
            await self._abandon(session)
            # Starlette and Litestar take an error out of ``send`` for one after the start, and raise another because of it.
            cause = session._uncommitted
            told = cause if cause and failure.__cause__ is cause else failure
            if not isinstance(told, ProblemError):
                raise
            await self._refuse(told, scope, receive, send)
        else:
            if session._read_only is not STARTED:
                await self._abandon(session)
                if session._refusal is not None:
                    await self._refuse(session._refusal, scope, receive, send)
            elif session._kept is not None or scope.get("session") is not session:
                require_unchanged(session, scope.get("session"))
        finally:
            if session._connection is not None:
                self._connections.remove(session._connection)

    def _is_of_devices(self, path: str) -> bool:
        return self._devices is not None and (path == self._devices or path.startswith(self._devices + "/"))

    # Read and check

    def _recognise(self, headers: Iterable[Header], path_kind: PathKind) -> Session | Verified | None:
        """The session of a request that carries one token and nothing beside it, as most do.

        What the token says, where the session's data is in a record; None where there is more to find out.

        Raises:
            ClientFault: the request is to be refused.
        """
        field = self._lone(headers)
        if field is None or path_kind == "exempt":
            return None
        try:
            known = self._validate_cached(field)
            if known is None and (token := self._reader.token_of(field)) is not None:
                known = self._validator.validate_new(token, field)
        except ClientFault as problem:
            return self._refused(problem, path_kind, field)
        if not isinstance(known, Verified):
            return None
        return known if known.record else session_of(self.manager, known, field)

    async def _admit(self, scope: Scope, path: str, path_kind: PathKind, known: Verified | None) -> Session:
        """The session of a request, whatever it takes.

        Args:
            known: what its one token says, where that stands.

        Raises:
            ProblemError: the request is to be refused.
        """
        if path_kind == "exempt":
            session = session_of(self.manager, None, None)
            session._read_only = EXEMPT
            return session
        way: Way | None = None
        try:
            if known is not None:
                way = self._lone(scope["headers"])
                return await self._session_of(known, way)
            presented = self._present(scope["headers"], path_kind)
            if presented is None:
                return session_of(self.manager, None, None)
            way = presented[0]
            return await self._find_out(presented, scope, path)
        except ClientFault as problem:
            return self._refused(problem, path_kind, way)

    def _present(self, headers: Iterable[Header], path_kind: PathKind) -> Presented | None:
        found = self._reader.read(headers)
        if len(found) > 1:
            return choose(found, self._validator.verify, self._validator.may_be_valid)
        if not found and path_kind == "protected":
            raise TokenMissing("neither a session cookie nor a bearer token of ours", check="presented")
        return found[0] if found else None

    async def _find_out(self, presented: Presented, scope: Scope, path: str) -> Session:
        way, token = presented
        try:
            if index := next((value for name, value in scope["headers"] if name == INDEX_HEADER), None):
                await self._validator.catch_up(index.decode("latin-1"))
            outcome = self._validator.validate(token, self._reader.field(presented))
            if isinstance(outcome, CannotTell):
                outcome = await self._validator.resolve(token, outcome)
            return await self._session_of(outcome, way)
        except StateStale:
            if scope.get("method") not in SAFE_METHODS or not self._paths.is_relaxed(path):
                raise
            verified, age_s = self._validator.validate_relaxed(token)
            session = await self._session_of(verified, way)
            session._stale_s = age_s
            return session

    async def _session_of(self, verified: Verified, way: Way | None) -> Session:
        if not verified.record:
            return session_of(self.manager, verified, way)
        try:
            stored: Stored | StoreUnavailable = await self._node.data.load(verified.claims)
        except StoreUnavailable as problem:
            stored = problem
        return stored_session_of(self.manager, verified, way, stored)

    def _refused(self, problem: ClientFault, path_kind: PathKind, way: Way | None) -> Session:
        """A path that is open to visitors is open to those whose session has ended, too, and says why it has."""
        if path_kind == "protected":
            raise problem
        self._node.refused[problem.code] += 1
        session = session_of(self.manager, None, way)  # who logs in again gets the new token as the old one came
        session.problem = problem
        return session

    async def _refuse(self, problem: ProblemError, scope: Scope, receive: Receive, send: Send) -> None:
        self._node.refused[problem.code] += 1
        if isinstance(problem, NodeStarting) and not self._node.supervisor.is_running:
            self._log_once(NOT_STARTED)
        endpoints = self.manager.settings.endpoints
        await send_problem(problem, scope, receive, send, endpoints, vary=self._vary[1], full=self._full)

    def _log_once(self, why: str) -> None:
        """Tell an operator why no request is served, where no lifespan is there to tell it."""
        if not self._logged:
            self._logged = True
            logger.error("%s", why)

    # The app

    async def _websocket(self, session: Session, scope: Scope, receive: Receive, send: Send) -> None:
        close(session, WEBSOCKET)
        connection = Connection(session._verified, "websocket", receive, send) if session._verified is not None else None
        ear = Conversation(receive, send) if connection is None else Conversation(connection.receive, connection.send)
        if connection is not None:
            self._connections.add(connection)
        try:
            await self.app(scope, ear.receive, ear.send)
        except Exception as failure:
            if connection is not None and connection.ended:
                return  # it was told that its client has gone
            if ear.answered or not isinstance(failure, ProblemError):
                raise
            await self._refuse(failure, scope, ear.opening, send)
        finally:
            if connection is not None:
                self._connections.remove(connection)
        require_unchanged(session, scope.get("session"))

    async def _abandon(self, session: Session) -> None:
        """The app failed before it answered. Nothing is saved then, but a log-out that it asked for holds."""
        if session._uncommitted is None:  # else what could be done was tried
            with anyio.move_on_after(GIVE_UP_S, shield=True):
                try:
                    await revoke_if_ended(session, self._node)
                except ProblemError as problem:  # told in the log only: the failure of the app is on its way to the client
                    logger.error("the app failed, and the log-out that it had asked for is not durable: %s", problem)
        await session._unlock()

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
        elif self._fault is not None:
            await refuse_lifespan(self._fault, receive, send)
        else:
            await run_lifespan(self.app, self._node, scope, receive, send)


class _Exchange(msgspec.Struct):
    """The way back of one request. A struct and its bound method cost a third less than a closure over as many names, or a partial."""

    middleware: SessionMiddleware
    session: Session
    scope: Scope
    receive: Receive
    send: Send
    path_kind: PathKind

    def pass_on(self, message: Message) -> Awaitable[None]:
        """What the app sends goes through here; when the response starts, what it did to the session is committed."""
        session = self.session
        if message["type"] != "http.response.start" or session._read_only is STARTED:
            if message.get("more_body") and session._connection is None:
                self._note_stream()
            return self.send(message) if session._connection is None else session._connection.send(message)
        scope, middleware = self.scope, self.middleware
        headers = message.get("headers")
        if type(headers) is not list:  # any iterable may be sent, also one that can be gone through once only
            headers = [*(headers or ())]
            message = {**message, "headers": headers}
        if scope.get("session") is not session:
            adopt(session, scope.get("session"))
        if session.modified or (
            (now_ms := middleware._wall_s() * 1000) >= session._quiet_until_ms and not has_nothing_to_commit(session, now_ms)
        ):
            return self._commit_and_start(message)
        session._read_only = STARTED
        varies = False
        for name, value in headers:  # once, for both: each way through them costs a thirtieth of all that the middleware does
            if name == b"vary":
                varies = True
            elif name == b"content-type" and value.startswith(EVENT_STREAM) and session._connection is None:
                self._note_stream()
        if self.path_kind == "protected" or session._stale_s is not None:
            message = self._start(message, _stale_fields(session))
        elif session.accessed:
            message = {**message}
            message["headers"] = with_vary(headers, middleware._vary) if varies else [*headers, middleware._vary]
        return self.send(message)

    def _note_stream(self) -> None:
        """Have a stream end with the session that the client has now: the answer to a log-in or log-out may stream, too."""
        session = self.session
        came_in, claims = session._verified, session._claims
        if claims is None:
            return
        verified = came_in if came_in is not None and came_in.claims is claims else self.middleware._node.issuer.as_signed(claims)
        session._connection = Connection(verified, "http", self.receive, self.send)
        self.middleware._connections.add(session._connection)

    async def _commit_and_start(self, message: Message) -> None:
        session, node = self.session, self.middleware._node
        if session._refusal is not None:
            await self.middleware._abandon(session)
            await self.middleware._refuse(session._refusal, self.scope, self.receive, self.send)
            close(session, STARTED)
            self.send = _drop
            return
        # What a middleware further in has saved, or the app has done with the cookie, a mere renewal must not undo.
        renew = not hands_out_token(message["headers"], f"{node.cookie.name}=".encode())
        try:
            outcome = await commit(session, node, message["status"], self.scope, renew=renew)
        except ProblemError as problem:
            session._uncommitted = problem
            raise
        if session._hold is not None:  # else it is kept until the request has ended: an app may catch that, and answer by itself
            await session._unlock()
        close(session, STARTED)
        if is_event_stream(message["headers"]):
            self._note_stream()
        await self.send(self._start(message, self._fields(outcome)))

    def _start(self, message: Message, fields: Sequence[Header]) -> Message:
        """The start of the response with fields added. A copy: an app may send the same message again and again."""
        headers = with_vary(message["headers"], self.middleware._vary)
        headers += fields
        if self.path_kind == "protected":
            make_private(headers)
        return {**message, "headers": headers}

    def _fields(self, outcome: Outcome) -> list[Header]:
        session, node = self.session, self.middleware._node
        found: list[Header] = []
        transport = session._way or self.middleware._default_transport
        if isinstance(transport, bytes):
            transport = "bearer" if transport.startswith(b"Bearer ") else "cookie"
        if outcome.token is not None and transport != "cookie":
            found.append((TOKEN_HEADER, outcome.token))
        if transport != "bearer":
            secure = self._secure()
            if outcome.token is not None:
                found.append((b"set-cookie", node.cookie.set(outcome.token, max_age_s=outcome.max_age_s, secure=secure)))
            elif outcome.remove:
                found.append((b"set-cookie", node.cookie.remove(secure=secure)))
        if outcome.acknowledgement is not None:
            found.append((b"session-revocation", outcome.acknowledgement.mode.encode()))
            if index := node.log.index():
                found.append((INDEX_HEADER, index.encode()))
        found += _stale_fields(session)
        return found

    def _secure(self) -> bool:
        https_only = self.middleware.manager.settings.cookie_https_only
        return claims_https(self.scope.get("scheme", "http"), self.scope["headers"]) if https_only == "auto" else https_only


async def _drop(message: Message) -> None:
    """What the app sends after its request was refused."""


def _stale_fields(session: Session) -> list[Header]:
    """Marks an answer that rests on knowledge that is too old, on a path where that may be."""
    return [] if session._stale_s is None else [(b"session-stale", b"%d" % math.ceil(session._stale_s))]


_managers: WeakValueDictionary[Settings, SessionManager] = WeakValueDictionary()


def _manager(settings: Settings) -> SessionManager:
    """The manager of this process for these settings: a process is one node, however many middlewares it makes.

    Litestar makes one for each route, and a log-out on one route must hold on the others.
    """
    manager = _managers.get(settings)
    if manager is None:
        manager = _managers[settings] = SessionManager(settings)
    return manager


def _settings(settings: Settings | None, secret_key: Any, max_age: int | None, given: dict[str, Any]) -> Settings:
    """The settings that arguments, ``settings`` and environment give together, the first before the last."""
    if secret_key is not None:
        given = {**given, "secret_key": secret_key, "secret_key_file": None, "allow_weak_secret": True}
    faults = _max_age_faults(max_age)
    try:
        if settings is not None and not isinstance(settings, Settings):
            raise ConfigurationError([f"SessionMiddleware(settings=…): must be a Settings, got {type(settings).__name__}"])
        if settings is not None:
            found = replace(settings, **given)
        else:
            found = Settings.from_environ(defaults={} if secret_key is None else _starlette_defaults(max_age), **given)
    except ConfigurationError as exc:
        raise ConfigurationError([*exc.faults, *faults]) from None
    if faults:
        raise ConfigurationError(faults)
    for fault in found.weak_keys():
        logger.warning("a weak secret is used, because secret_key=… was given and HA_SESSION_CLUSTER=memory://. %s", fault)
    return found if max_age is UNSET else found.with_max_age(max_age)


def _max_age_faults(max_age: object) -> list[str]:
    if max_age is UNSET or max_age is None or (isinstance(max_age, (int, float)) and abs(max_age) <= LONGEST_S):
        return []
    return [f"SessionMiddleware(max_age={max_age!r}): must be seconds, or None"]


def _starlette_defaults(max_age: int | None) -> dict[str, Any]:
    """What holds besides for those who call the middleware as they call Starlette's. The environment goes before it."""
    lives: dict[str, Any] = {}
    if max_age is not None:
        absolute = os.environ.get(variable("absolute_timeout"), STARLETTE_MAX_AGE_S)
        lives = {"idle_timeout": absolute, "absolute_timeout": absolute}
    return {"transports": "cookie", "cookie_https_only": False, **lives}
