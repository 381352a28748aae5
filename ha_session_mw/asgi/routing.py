"""Lead a request to the owner of its session, on paths whose handlers keep state on a node (``HA_SESSION_OWNED``).

It is an ASGI app directly in front of the user's app. So this node has validated the session, and refuses by itself what it must refuse.
The rule is in ``_core/cluster/owned.py``.
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

from .._core.cluster.owned import FORWARDED, Decision, Forward, Redirect, ServeHere, decide, follows_of
from .._core.paths import PathRules
from .._core.request_fields import values
from .._node.node import Node
from ..session.session import SCOPE_KEY, state_of
from ..session.state import STARTED, RequestState
from .forwarding import Forwarding
from .problems import SAFE_METHODS

LONGEST_REDIRECTED_BODY = 512 * 1024
"""Bytes of the longest body of a request that is redirected. It is sent twice, and balancers keep it meanwhile: Envoy 1 MiB at most.
A request with a longer body, or one of unknown length, is answered here."""

_NO_TARGET = ServeHere("no_target")
_TARGET = re.compile(rb"/[!-\"$-~]*")
"""A request target in origin form (RFC 9112 section 3.2.1). With anything in front of its slash, it would change the host of a URL."""


class OwnedApp:
    """Answers requests on owned paths where the owner of their session is.

    Args:
        app: the app.
        node: this node. Its settings name the paths, and how a request gets to the owner.
    """

    def __init__(self, app: ASGIApp, node: Node) -> None:
        settings = node.settings
        self.app = app
        self._node = node
        # As the path is spelled: an odd spelling is answered here.
        self._kind_of = PathRules(protect=(), exempt=settings.owned).kind_of
        self._own_url = settings.advertise_url or ""
        self._routing: Literal["redirect", "forward"] = "forward" if settings.routing == "forward" else "redirect"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._kind_of(scope["path"], scope.get("root_path") or "") != "exempt":
            await self.app(scope, receive, send)
            return
        state = state_of(scope[SCOPE_KEY])
        if state.verified is None:  # a visitor, or a path in HA_SESSION_EXEMPT
            await self.app(scope, receive, send)
            return
        decision = self._decide(state.verified.sid, scope)
        if isinstance(decision, Forward):
            again = await Forwarding(self._node, decision.owner, scope, receive, send, state).run()
            if again is not None:
                await self.app(scope, again, send)
        elif isinstance(decision, Redirect) and is_short(scope) and (target := target_of(scope, self._node)) is not None:
            await self._redirect(f"{decision.origin}{target}", decision.origin, receive, send, state)
        else:
            await self.app(scope, receive, send)

    def _decide(self, session_id: str, scope: Scope) -> Decision:
        ownership = self._node.ownership
        owner = ownership.elsewhere(session_id)
        is_forwarded = FORWARDED in scope
        decision = decide(self._routing, owner, own_url=self._own_url, is_forwarded=is_forwarded, follows=follows_of(scope["headers"]))
        if owner is not None and decision == _NO_TARGET:
            ownership.note(owner.member, "it announces no URL, or that of this node")
        return decision

    async def _redirect(self, url: str, origin: str, receive: Receive, send: Send, state: RequestState) -> None:
        """Tell the sender to ask the owner. Nothing else is said: nginx would add other fields to those of the owner's answer."""
        # Envoy passes a redirect on to the client if it comes before the end of the request.
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            pass
        if message["type"] != "http.request":
            return
        self._node.ownership.redirected += 1
        pass_on(state)
        accel = f"@{origin}".encode()  # the name of a location of nginx, see cli/nginx.py
        headers = [(b"location", url.encode()), (b"x-accel-redirect", accel), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 307, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def pass_on(state: RequestState) -> None:
    """Have the edge pass the answer on as it is: without a commit, and without fields of this node."""
    state.read_only = STARTED
    state.passed_on = True


def target_of(scope: Scope, node: Node) -> str | None:
    """Return the path and the query of a request as they came over the wire; None if they are not known, or have another form."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    if root := scope.get("app_root_path", scope.get("root_path")):
        # Some servers put it in front of the path that came, and others say what a proxy in front of them has cut off.
        added = None if node.peering is None else node.peering.server.added_root
        if added is None:
            return None
        raw = raw.removeprefix(added) if raw.startswith(root.encode() + b"/") else raw
    query: bytes = scope.get("query_string", b"")
    target = raw + b"?" + query if query else raw
    return target.decode("ascii") if _TARGET.fullmatch(target) else None


def is_short(scope: Scope) -> bool:
    """Whether the body of a request is known to be short enough for a redirect."""
    lengths = values(scope["headers"], b"content-length")
    if values(scope["headers"], b"transfer-encoding") or len(lengths) > 1:
        return False
    if not lengths:  # HTTP/2 has bodies without a length
        return scope.get("http_version", "1.1") < "2" or scope["method"] in SAFE_METHODS
    return lengths[0].isdigit() and len(lengths[0]) < 10 and int(lengths[0]) <= LONGEST_REDIRECTED_BODY
