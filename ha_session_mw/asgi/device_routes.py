"""The ready-made routes below ``HA_SESSION_ENDPOINTS``: a subject's devices, as JSON.

They are an ASGI app in front of the user's app, behind the middleware. So the middleware handles
their requests like all others: it validates the token, commits changes, and refuses with a problem document.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from .._core.paths import below_root
from .._core.problems import PAGE_HEADERS
from .._core.records.once import decode_answer
from .._core.request_fields import last_value
from .._node.node import Node
from ..exceptions import ProblemError, RequestCrossSite
from ..manager import SessionManager, node_of
from ..models import Acknowledgement, Device
from ..session.of_request import get_session
from ..session.session import Session, state_of
from .endpoints import DEVICES

MAX_KEY_LENGTH = 255
"""How many characters of an ``Idempotency-Key`` are read."""


class DeviceRoutes:
    """Answers ``GET`` (list the devices), ``DELETE`` (log all of them out), ``DELETE …/others`` and ``DELETE …/{id}``.

    A page of another site cannot send ``DELETE`` without a preflight request (CORS). In case a proxy turns another method into
    ``DELETE``, a request that the browser marks as cross-site (``Sec-Fetch-Site``) is refused, too.

    Args:
        app: answers all other paths.
        manager: of this node.
    """

    def __init__(self, app: ASGIApp, manager: SessionManager) -> None:
        self._app = app
        self._manager = manager
        self._path = manager.settings.endpoints + DEVICES
        node = node_of(manager)
        self._keeps_answers = node.data.has_store
        self._pace = node.pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        below = self._below(scope) if scope["type"] == "http" else None
        if below is None:
            await self._app(scope, receive, send)
            return
        session = get_session(scope)
        subject = session.require()
        method = scope["method"]
        if method in ("GET", "HEAD") and not below:
            await _answer(send, {"sessions": await self._list(session, subject)}, head=method == "HEAD")
        elif method == "DELETE":
            require_same_site(scope)
            acknowledged = await self._end_once(scope, session, subject, below)
            # If this request ended its own session as well, the commit adds the header.
            await _answer(send, {"acknowledged": acknowledged.mode}, acknowledged=acknowledged, tell=session.id is not None)
        else:
            allowed = "DELETE" if below else "GET, HEAD, DELETE"
            await _answer(send, {"error": f"only {allowed}"}, status=405, allow=allowed)

    def _below(self, scope: Scope) -> str | None:
        """Return the part of a path below the devices' path, empty or ``/`` and an id; None for any other path."""
        path = below_root(scope["path"], scope.get("root_path", ""))
        return path.removeprefix(self._path) if path == self._path or path.startswith(self._path + "/") else None

    async def _list(self, session: Session, subject: str) -> list[dict[str, object]]:
        return [_told(device, current=device.id == session.family) for device in await self._manager.sessions_of(subject)]

    async def _end_once(self, scope: Scope, session: Session, subject: str, below: str) -> Acknowledgement:
        """End sessions, or return the acknowledgement of the first request with this idempotency key."""
        key = last_value(scope["headers"], b"idempotency-key", MAX_KEY_LENGTH)
        # Beyond the pace a repeat ends the same sessions once more, which does no harm: a record for a day would.
        if not key or not self._keeps_answers or not self._pace.may_keep_answer(subject):
            return await self._end(session, subject, below)
        async with session.once(key, request=f"{self._path}{below}".encode()) as once:
            if once.answer is None:
                acknowledged = await self._end(session, subject, below)
                once.answer = msgspec.to_builtins(acknowledged)
                return acknowledged
            return msgspec.convert(once.answer, Acknowledgement)

    async def _end(self, session: Session, subject: str, below: str) -> Acknowledgement:
        if below == "/others":
            return await self._manager.revoke_subject(subject, except_session=session)
        if not below:
            acknowledged = await self._manager.revoke_subject(subject)
            session.clear()
            state_of(session).acknowledgement = acknowledged  # this session is among those that were revoked
            return acknowledged
        if below == f"/{session.family}":
            return await session.revoke()
        return await self._manager.revoke_session_of(subject, below[1:])


async def answer_again(node: Node, scope: Scope, tokens: Sequence[bytes], send: Send) -> bool:
    """Answer the repeat of a request that has ended its own session, as its first was answered. Return False for all others.

    Args:
        node: this node.
        scope: of the request, whose token is refused because its session is logged out.
        tokens: that came with it.
        send: to the client.
    """
    key = last_value(scope["headers"], b"idempotency-key", MAX_KEY_LENGTH)
    verified = node.validator.verify(tokens[0]) if len(tokens) == 1 else None
    if scope.get("method") != "DELETE" or not key or not node.data.has_store or verified is None or verified.subject is None:
        return False
    try:
        require_same_site(scope)
        found = await node.once.find(verified.subject, key, below_root(scope["path"], scope.get("root_path", "")).encode())
    except ProblemError:
        return False  # the refusal of its token says more
    if found is None:
        return False
    acknowledged = msgspec.convert(decode_answer(found), Acknowledgement)
    await _answer(send, {"acknowledged": acknowledged.mode}, acknowledged=acknowledged, tell=True)
    return True


def require_same_site(scope: Scope) -> None:
    """Raise :class:`RequestCrossSite` if the browser marks the request as made by a page of another site."""
    if last_value(scope["headers"], b"sec-fetch-site", 32) not in ("", "same-origin", "none"):
        raise RequestCrossSite("by Sec-Fetch-Site")


def _told(device: Device, *, current: bool) -> dict[str, object]:
    told: dict[str, object] = {
        "id": device.id,
        "label": device.label,
        "current": current,
        "created_at": _moment(device.created_at),
        "last_seen_at": _moment(device.last_seen_at),
        "expires_at": _moment(device.expires_at),
    }
    return told if device.address is None else {**told, "address": device.address}


def _moment(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


async def _answer(
    send: Send,
    told: dict[str, object],
    *,
    status: int = 200,
    head: bool = False,
    allow: str | None = None,
    acknowledged: Acknowledgement | None = None,
    tell: bool = False,
) -> None:
    body = msgspec.json.encode(told)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *PAGE_HEADERS,
    ]
    if allow is not None:
        headers.append((b"allow", allow.encode()))
    if acknowledged is not None:
        status = 202 if acknowledged.mode == "provisional" else 200
        if tell:
            headers.append((b"session-revocation", acknowledged.mode.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})
