"""Protection that travels with a handler: one object that is a decorator, a FastAPI dependency and a Litestar guard.

Unlike ``HA_SESSION_PROTECT``, it depends on no spelling of a path. No framework is imported here: each calls the object in its own way.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar, overload

from starlette.requests import HTTPConnection

from .._settings.values import duration
from ..exceptions import ProblemError
from ..session.of_request import HasScope, get_session
from ..session.session import SCOPE_KEY, Session, state_of

_MARK = "_requires_session"
Handler = TypeVar("Handler", bound=Callable[..., Any])


class RequireSession:
    """Requires that a user is logged in. Otherwise the client gets the same answer as on a path in ``HA_SESSION_PROTECT``.

    There is one, ``require_session``. It takes one of two arguments:

    * A handler, as a decorator. It returns the handler with the check in front. The handler is a function or coroutine function
      with a request or WebSocket among its arguments. It may be a method of a class endpoint. Such a class is decorated as a whole, too.
    * A connection, as a dependency of FastAPI (``Depends(require_session)``) or as a guard of Litestar
      (``guards=[require_session]``). It checks, and returns the session.

    With ``require_session(max_age="5m")``, the log-in must also be recent enough: a step-up (RFC 9470).

    A visitor's session does not pass. In a WebSocket, the handshake is refused before the handler runs.

    Raises:
        ProblemError: the request must be refused, as by :meth:`Session.require`.
        LookupError: the app is not behind the session middleware.
        TypeError: the argument is neither a handler nor a connection, or the handler takes no connection.
    """

    __signature__ = inspect.Signature(
        [inspect.Parameter("conn", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection)], return_annotation=Session
    )
    """For FastAPI, which passes a request or a WebSocket to a parameter of exactly this type."""

    def __init__(self, max_age: float | str | None = None) -> None:
        self._max_age_s = None if max_age is None else duration(max_age)

    def __repr__(self) -> str:
        return "require_session" if self._max_age_s is None else f"require_session(max_age={self._max_age_s:g})"

    @overload
    def __call__(self, *, max_age: float | str) -> RequireSession: ...

    @overload
    def __call__(self, conn: HasScope | MutableMapping[str, Any]) -> Session: ...

    @overload
    def __call__(self, conn: HasScope | MutableMapping[str, Any], handler: object) -> None: ...

    @overload
    def __call__(self, conn: Handler) -> Handler: ...

    def __call__(self, conn: Any = None, handler: object = None, *, max_age: float | str | None = None) -> Any:
        if max_age is not None:
            guard = RequireSession(max_age)
            return guard if conn is None else guard(conn, handler)
        if inspect.isclass(conn):
            return self._guard_class(conn)
        if isinstance(conn, MutableMapping) or hasattr(conn, "scope"):
            session = self.admit(conn)
            return session if handler is None else None  # the handler comes from Litestar, whose guards return nothing
        if callable(conn):
            return self._guard(conn)
        raise TypeError(f"require_session takes a handler or a request, got {type(conn).__name__}")

    def admit(self, conn: HasScope | MutableMapping[str, Any]) -> Session:
        """Return the session of a connection, or raise why the request must be refused."""
        session = get_session(conn)
        state = state_of(session)
        if state.path_kind == "open":
            state.path_kind = "guarded"
        try:
            session.require(max_age=self._max_age_s)
        except ProblemError as problem:
            state.turned_away = problem
            raise
        return session

    def _guard(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        if not inspect.signature(handler).parameters:
            raise TypeError(f"{_name(handler)} takes no request, in which a session could be found")

        @functools.wraps(handler)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            self.admit(_connection(handler, args, kwargs))
            return await handler(*args, **kwargs)

        @functools.wraps(handler)
        def guarded_in_a_thread(*args: Any, **kwargs: Any) -> Any:
            self.admit(_connection(handler, args, kwargs))
            return handler(*args, **kwargs)

        chosen = guarded if _is_async(handler) else guarded_in_a_thread
        setattr(chosen, _MARK, True)
        return chosen

    def _guard_class(self, endpoint: type[Any]) -> type[Any]:
        dispatch = getattr(endpoint, "dispatch", None)
        if not inspect.iscoroutinefunction(dispatch):
            raise TypeError(f"{endpoint.__name__} is no HTTPEndpoint or WebSocketEndpoint; decorate its methods")
        endpoint.dispatch = self._guard(dispatch)
        return endpoint


def is_guarded(handler: object) -> bool:
    """Whether the decorator made this handler."""
    return getattr(handler, _MARK, False) is True


def _is_async(handler: Callable[..., Any]) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(type(handler), "__call__", None))  # noqa: B004


def _connection(handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> HasScope | MutableMapping[str, Any]:
    """Return the request or WebSocket among the arguments of a handler; of a class endpoint's method, the endpoint will do."""
    scopes = [value if isinstance(value, MutableMapping) else getattr(value, "scope", None) for value in (*args, *kwargs.values())]
    found = [scope for scope in scopes if isinstance(scope, MutableMapping) and scope.get("type") in ("http", "websocket")]
    for scope in found:  # a body that a client has sent may look like a scope, and has no session
        if isinstance(scope.get(SCOPE_KEY), Session):
            return scope
    if found:
        return found[0]
    raise TypeError(f"{_name(handler)} was called without a request, in which a session could be found")


def _name(handler: Callable[..., Any]) -> str:
    return getattr(handler, "__qualname__", repr(handler))


require_session = RequireSession()
