"""Sessions without a log-in, and a small app that uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from ..asgi.of_app import manager_of
from ..exceptions import SessionTooLarge
from ..manager import SessionManager, node_of
from ..session.of_request import get_session

SECRET = "N3vcRw8ZpTq5YhK1sXjG7bLd0FmUe2Ay"  # noqa: S105 - no secret at all
"""Secret of the clusters in tests. It protects nothing."""


def mint_session(app: object, subject: str | None = None, data: Mapping[str, Any] | None = None) -> str:
    """Return the token of a new session, as the node issues it at a log-in. It works as a bearer token and in a cookie.

    Args:
        app: the app (FastAPI, Starlette, Litestar and others), the middleware in front of it, or its manager.
        subject: the subject that is logged in; None for a visitor.
        data: the data of the session.

    Raises:
        LookupError: the app has no session middleware.
        UsageError: nothing runs the node, which must hear from others before it begins a session.
        InfrastructureFault: the node cannot begin sessions now.
        SessionTooLarge, SessionNotSerializable: the data does not fit into a token, or has a type that no session holds.
    """
    issuing = node_of(_manager(app))
    issuing.require_running()
    issuing.validator.ensure_fresh()
    issuer = issuing.issuer
    claims = issuer.issue(subject)
    claims = issuer.change(claims, issuer.fit(claims, data or {}))
    if not issuer.has_room(claims):
        raise SessionTooLarge("the data does not fit into a token; let a request write it, which can put it into the store")
    return issuing.sign(claims).decode()


def session_cookie(app: object, subject: str | None = None, data: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the same token as a cookie's name and value, for the ``cookies`` of a test client."""
    manager = _manager(app)
    return {manager.settings.cookie_name: mint_session(manager, subject, data)}


def _manager(app: object) -> SessionManager:
    return app if isinstance(app, SessionManager) else manager_of(app)


async def who_is_there(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that returns the subject and the data, logs in the subject of ``POST /login/ada``, and logs out at ``POST /logout``."""
    session = get_session(scope)
    if scope["method"] == "POST" and scope["path"].startswith("/login/"):
        session.login(scope["path"].removeprefix("/login/"))
    elif scope["method"] == "POST" and scope["path"] == "/logout":
        session.clear()
    await JSONResponse({"subject": session.subject, "data": dict(session)})(scope, receive, send)
