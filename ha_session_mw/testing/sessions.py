"""Sessions without a log-in, and an app to try them on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from ..asgi.middleware import SessionMiddleware
from ..exceptions import SessionTooLarge
from ..manager import SessionManager, node_of
from ..session.session import get_session

SECRET = "N3vcRw8ZpTq5YhK1sXjG7bLd0FmUe2Ay"  # noqa: S105 - no secret at all
"""The secret of clusters in tests. Anybody may know it."""


def mint_session(node: SessionManager | SessionMiddleware, subject: str | None = None, data: Mapping[str, Any] | None = None) -> str:
    """The token of a new session, as the node would make it at a log-in: for a bearer, or for a cookie.

    Args:
        node: the middleware in front of the app, or its manager.
        subject: who is logged in; None for a visitor.
        data: what is in the session.

    Raises:
        InfrastructureFault: the node cannot make sessions now.
        SessionTooLarge, SessionNotSerializable: the data cannot travel.
    """
    manager = node.manager if isinstance(node, SessionMiddleware) else node
    issuing = node_of(manager)
    issuing.validator.ensure_fresh()
    issuer = issuing.issuer
    claims = issuer.issue(subject)
    claims = issuer.change(claims, issuer.fit(claims, data or {}))
    if not issuer.has_room(claims):
        raise SessionTooLarge("this is more than a token carries; have a request write it, and it is stored")
    return issuing.sign(claims).decode()


def session_cookie(
    node: SessionManager | SessionMiddleware, subject: str | None = None, data: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """The same as a cookie's name and value: what the ``cookies`` of a test client take."""
    manager = node.manager if isinstance(node, SessionMiddleware) else node
    return {manager.settings.cookie_name: mint_session(manager, subject, data)}


async def who_is_there(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that tells who is logged in, logs in whom ``POST /login/ada`` names, and logs out at ``POST /logout``."""
    session = get_session(scope)
    if scope["method"] == "POST" and scope["path"].startswith("/login/"):
        session.login(scope["path"].removeprefix("/login/"))
    elif scope["method"] == "POST" and scope["path"] == "/logout":
        session.clear()
    await JSONResponse({"subject": session.subject, "data": dict(session)})(scope, receive, send)
