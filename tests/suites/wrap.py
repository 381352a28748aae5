"""A plugin of pytest: puts our middleware around each FastAPI app that a test serves, with all that the app has in it."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from ha_session_mw import SessionMiddleware
from ha_session_mw.session.session import SCOPE_KEY

bare = FastAPI.__call__


async def call(self: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a request; an app that is mounted in another one has a session already."""
    if SCOPE_KEY in scope:
        await bare(self, scope, receive, send)
        return
    if "around" not in vars(self):

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await bare(self, scope, receive, send)

        vars(self)["around"] = SessionMiddleware(app, secret_key="a secret of this test suite alone, 32 bytes")
    await vars(self)["around"](scope, receive, send)


FastAPI.__call__ = call  # type: ignore[method-assign]
