"""Sessions as typed parameters of FastAPI's handlers. Needs FastAPI (``pip install ha-session-mw[fastapi]``).

``session: LoggedIn`` requires a log-in, as ``Depends(require_session)`` does. ``session: AnySession`` takes a visitor's, too.
"""

from __future__ import annotations

from typing import Annotated

from starlette.requests import HTTPConnection

from .asgi.guards import RequireSession
from .asgi.openapi import describe_refusals
from .session.of_request import get_session
from .session.session import Session

try:
    from fastapi import Depends
except ImportError as exc:
    raise ImportError("ha_session_mw.fastapi needs FastAPI: pip install ha-session-mw[fastapi]") from exc

__all__ = ["AnySession", "LoggedIn", "describe_refusals"]


class _InTheEventLoop(RequireSession):
    """The same check as a coroutine function. FastAPI runs any other dependency in a worker thread, which takes longer than the check."""

    async def __call__(self, conn: HTTPConnection) -> Session:  # type: ignore[override]
        return super().__call__(conn)


async def _session(conn: HTTPConnection) -> Session:
    return get_session(conn)


LoggedIn = Annotated[Session, Depends(_InTheEventLoop())]
"""The session of a user who is logged in. Any other request is refused with a problem document, before the handler runs."""
AnySession = Annotated[Session, Depends(_session)]
"""The session of a user or a visitor."""
