"""Send a problem document as an answer to a request or to a WebSocket handshake."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from starlette.types import Message, Receive, Scope, Send

from .._core import problems
from .._core.request_fields import Header, list_items
from ..exceptions import ProblemError

_FIRST_CLOSE_CODE = 4000
"""First close code for private use (RFC 6455 section 7.4.2), for servers that cannot answer a handshake with a body."""


SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
"""The methods that change nothing (RFC 9110 section 9.2.1). A WebSocket's handshake is a GET."""


def response(
    problem: ProblemError, scope: Scope, endpoints: str, *, instance: str, vary: bytes, full: bool, outcome: problems.Execution
) -> tuple[list[Header], bytes]:
    """Return the header fields and the body of the answer: JSON, or a page for a client that prefers HTML."""
    root_path: str = scope.get("root_path") or ""
    base = root_path.encode("utf-8", "replace").decode() + endpoints  # a lone surrogate cannot be sent
    safe = scope.get("method", "GET") in SAFE_METHODS
    body = problems.document(problem, endpoints=base, instance=instance, full=full, outcome=outcome, safe=safe)
    if problems.prefers_html(list_items(scope["headers"], b"accept")):
        media, content = b"text/html; charset=utf-8", problems.refusal_page(problem, body)
    else:
        media, content = b"application/problem+json", msgspec.json.encode(body)
    headers = [(b"content-type", media), (b"content-length", b"%d" % len(content)), (b"vary", b"Accept, " + vary)]
    return headers + problems.headers(problem), content


async def send_problem(
    problem: ProblemError,
    scope: Scope,
    receive: Receive,
    send: Send,
    endpoints: str,
    *,
    instance: str,
    vary: bytes,
    full: bool,
    outcome: problems.Execution,
    more: Iterable[Header],
) -> None:
    """Answer with a problem document, without reading the request's body.

    Args:
        problem: the problem.
        scope, receive, send: of the request or WebSocket.
        endpoints: the path below which each problem code has its page.
        instance: a URI that names this answer.
        vary: the request fields, besides ``Accept``, that the answer depends on.
        full: whether the answer contains the reason.
        outcome: whether the app had handled the request.
        more: further header fields.
    """
    headers, content = response(problem, scope, endpoints, instance=instance, vary=vary, full=full, outcome=outcome)
    headers += more
    kind = "http"
    if scope["type"] == "websocket":
        message = await receive()
        if message["type"] != "websocket.connect":
            return  # the client has gone
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send(_close(problem))
            return
        kind = "websocket.http"
    await send({"type": f"{kind}.response.start", "status": problem.status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": b"" if scope.get("method") == "HEAD" else content})


def _close(problem: ProblemError) -> Message:
    return {"type": "websocket.close", "code": _FIRST_CLOSE_CODE + problem.status, "reason": problem.code}
