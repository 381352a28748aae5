"""Paths on which the log-in must be recent: a step-up of the authentication (RFC 9470), by ``HA_SESSION_STEP_UP``."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from .._core.paths import PathRules
from .guards import RequireSession


class StepUp:
    """Puts the guard of a recent log-in in front of an app, on some of its paths.

    Args:
        app: the app.
        paths: their patterns. Each spelling of such a path counts, as with ``HA_SESSION_PROTECT``.
        max_age_s: how many seconds ago the log-in may be.
    """

    def __init__(self, app: ASGIApp, paths: Sequence[str], max_age_s: float) -> None:
        self.app = app
        self._rules = PathRules(protect=paths, exempt=())
        self._guard = RequireSession(max_age_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and self._rules.kind_of(scope["path"], scope.get("root_path") or "") == "protected":
            self._guard.admit(scope)
        await self.app(scope, receive, send)
