"""Refuse requests that a page of another site makes a browser send (CSRF)."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_SAFE = {"GET", "HEAD", "OPTIONS"}


class SameOrigin:
    """Passes safe requests, and requests whose ``Origin`` is this host.

    The session cookie is ``SameSite=lax``, and every change is a POST, so a page of another site sends no session.
    Forged log-ins, WebSockets and pages of a neighbouring subdomain remain; for all three, browsers send ``Origin``.
    Programs such as curl send no ``Origin``: they hold no cookie of somebody else. Behind a proxy that rewrites ``Host``,
    compare with the public name instead.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in _SAFE):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                refusal = PlainTextResponse("The request came from a page of another site.\n", status_code=403)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)
