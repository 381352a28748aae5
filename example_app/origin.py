"""Refuse what a page of another site makes a browser send."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_SAFE = {"GET", "HEAD", "OPTIONS"}


class SameOrigin:
    """Lets through what changes nothing, and what comes from a page of this very host.

    The session cookie is ``SameSite=lax`` and everything that changes something is a POST, so another site's page has no
    session here. That leaves forged log-ins, WebSockets and sites of a neighbouring subdomain; browsers name the sender
    of all three in ``Origin``. Programs such as curl send none: nobody lends them a cookie, so there is nothing to forge.
    Behind a proxy that rewrites ``Host``, compare with the public name instead.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in _SAFE):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                refusal = PlainTextResponse("This came from a page of another site.\n", status_code=403)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)
