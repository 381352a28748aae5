"""Serves the paths below ``HA_SESSION_ENDPOINTS``: probes, calls of nodes and operators, a page for each problem code, the script."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from .._core.problems import PAGE_HEADERS, reference_page
from .._core.request_fields import list_items, values
from ..exceptions import problem_types

if TYPE_CHECKING:
    from .._node.node import Node
    from ..ops.page import Page

_FORWARD = "/peer/forward/"
_FORWARDED = "/peer/forward/request"
DEVICES, RENEW = "/devices", "/renew"
"""The routes that run behind the middleware, like an app: ``device_routes.py`` and ``renew_route.py``."""
SCRIPT = "/ha-session.js"
SCRIPT_KEPT_S = 3600
"""For how many seconds a browser may keep the script. It holds no secret, and an old one goes on working."""
_ADMIN = "/admin/"
_UI = "/ui"
LONGEST_PAGE = 128
"""How many characters of a path below the prefix are looked at. No page has so long a name."""


class Endpoints:
    """Answers the paths below the prefix.

    Args:
        node: this node.
        app: answers requests that other nodes forward: the middleware.
    """

    def __init__(self, node: Node, app: ASGIApp) -> None:
        self._node = node
        self._app = app
        self._has_metrics = node.settings.metrics == "on"
        if self._has_metrics:
            show_metrics(node)
        self._ui = self._page_of_operators() if node.settings.ui == "on" else None
        self._problems = {f"/problems/{code}": kind for code, kind in problem_types().items()}

    async def __call__(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to ``path``, which is relative to the prefix."""
        if path.startswith(_FORWARD) and self._node.peering is not None and (forwarded := self._node.peering.forwarded) is not None:
            if path == _FORWARDED:
                await forwarded.answer(self._app, scope, receive, send)
            else:
                await forwarded(path.removeprefix(_FORWARD), scope, receive, send)
            return
        if path.startswith("/peer/") and self._node.peering is not None:
            await self._node.peering.server(path.removeprefix("/peer/"), scope, receive, send)
            return
        if path.startswith(_ADMIN) and scope["method"] == "POST" and _is_signed(scope):
            from .._node.administration import administration_of  # most processes never get such a call

            answering = administration_of(self._node, lambda send: self._serve(_ADMIN, "POST", send))
            await answering(path.removeprefix(_ADMIN), scope, receive, send)
            return
        if self._ui is not None and (path == _UI or path.startswith(_UI + "/")):
            await self._ui(path.removeprefix(_UI), scope, receive, send)
            return
        accept = ", ".join(list_items(scope["headers"], b"accept"))
        await self._serve(path, scope["method"], send, accept=accept)

    def _page_of_operators(self) -> Page:
        from ..ops.page import Page  # most processes never serve it

        return Page(self._node, lambda send: self._serve(_UI, "GET", send))

    async def _serve(self, path: str, method: str, send: Send, *, accept: str = "") -> None:
        if path == "/metrics" and self._has_metrics:
            from ..ops.exposition import expose

            status, media, body = 200, *await expose(self._node, accept)
        else:
            status, media, body = self._answer(path)
        extra = []
        if method not in ("GET", "HEAD") and status != 404:  # a path that does not exist has no methods
            status, media, body, extra = 405, "application/json", _json({"error": "only GET and HEAD"}), [(b"allow", b"GET, HEAD")]
        kept = b"public, max-age=%d" % SCRIPT_KEPT_S if path == SCRIPT and status == 200 else b"no-store"
        headers = [
            (b"content-type", media.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", kept),
            *PAGE_HEADERS,
            *extra,
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        if path == "/livez":
            # Liveness says only that this process answers. A fault elsewhere must not make an orchestrator restart the fleet.
            crashes = self._node.supervisor.crashes
            return 200, "application/json", _json({"status": "pass", **({"restarted_tasks": dict(crashes)} if crashes else {})})
        if path == "/startupz":
            # A node that waits for others has started: an orchestrator must not restart nodes that wait for each other.
            return 200, "application/json", _json({"status": "pass"})
        if path == "/readyz":
            return self._readiness()
        if path == "/health":
            from ..ops.health import health_of  # most processes are asked for the other probes

            health, told = health_of(self._node)
            return 503 if health == "fail" else 200, "application/health+json", _json(told)
        if path == SCRIPT:
            return 200, "text/javascript; charset=utf-8", Path(__file__).with_name(SCRIPT[1:]).read_bytes()
        if kind := self._problems.get(path):
            return 200, "text/html; charset=utf-8", reference_page(kind)
        return 404, "application/json", _json({"error": "no such page"})

    def _readiness(self) -> tuple[int, str, bytes]:
        why = self._node.why_not_ready()
        if why is None:
            warnings = self._node.warnings()
            return 200, "application/json", _json({"status": "pass", **({"warning": "; ".join(warnings)} if warnings else {})})
        return 503, "application/json", _json({"status": "fail", "output": why})


def _is_signed(scope: Scope) -> bool:
    from .._peering.signatures import HEADER  # most processes never get such a call

    return bool(values(scope["headers"], HEADER.encode()))


def show_metrics(node: Node) -> None:
    """Count what only metrics need, and share it with the other workers of the port, if they share their figures."""
    from ..ops.exposition import show  # the package behind it is an extra

    show(node)


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
