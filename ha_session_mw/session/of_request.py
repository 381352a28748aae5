"""The way from a request or WebSocket of any framework to its session."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import HTTPConnection

from .session import SCOPE_KEY, Session

if TYPE_CHECKING:
    from collections.abc import MutableMapping


class HasScope(Protocol):
    """A request or WebSocket of any framework."""

    @property
    def scope(self) -> Any: ...


def get_session(conn: HasScope | MutableMapping[str, Any]) -> Session:
    """Return the session of a request or WebSocket, even if a framework has put something else into ``scope["session"]``.

    Args:
        conn: a request or WebSocket that has a ``scope``, as those of Starlette, Litestar and Quart do; or an ASGI scope.

    Raises:
        LookupError: the app is not behind this package's session middleware, or ``conn`` is not a request of an ASGI server.
    """
    try:
        scope = conn if isinstance(conn, dict) else conn.scope  # type: ignore[union-attr]
    except AttributeError:  # Django's requests have none under WSGI
        raise LookupError(
            f"a {type(conn).__name__} has no ASGI scope; is it a request or WebSocket, and the server an ASGI server?"
        ) from None
    session: Session | None = scope.get(SCOPE_KEY)
    if session is None:
        raise LookupError(
            "no session here: add ha_session_mw.SessionMiddleware to the app, outside of the middleware that asks for the session. "
            "In Starlette and FastAPI, the one that is added last is the outermost"
        )
    session.mark_accessed()
    return session


# For ``Depends(get_session)``: FastAPI passes a request or a WebSocket to a parameter of exactly this type.
get_session.__signature__ = Signature(  # type: ignore[attr-defined]
    [Parameter("conn", Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection)], return_annotation=Session
)
