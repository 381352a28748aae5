"""Send a problem document as an answer to a request or to a WebSocket handshake."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from uuid import UUID

import msgspec
from starlette.types import Message, Receive, Scope, Send

from .._core import problems
from .._core.request_fields import Header, list_items, values
from ..exceptions import ProblemError

_FIRST_CLOSE_CODE = 4000
"""First close code for private use (RFC 6455 section 7.4.2), for servers that cannot answer a handshake with a body."""


SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
"""The methods that change nothing (RFC 9110 section 9.2.1). A WebSocket's handshake is a GET."""


class Prepared(msgspec.Struct, frozen=True):
    """An answer without its instance.

    Attributes:
        headers: the header fields.
        before, after: the body before and after the instance.
    """

    headers: tuple[Header, ...]
    before: bytes
    after: bytes


_NO_INSTANCE = UUID(int=0).urn
_MOST_PREPARED = 1024
_LONGEST_ACCEPT = 256
_prepared: dict[tuple[object, ...], Prepared] = {}
"""A node that refuses many requests refuses them alike. Rendering each anew costs ten times as much, when there is least time."""


def response(
    problem: ProblemError, scope: Scope, endpoints: str, *, instance: str, vary: bytes, full: bool, outcome: problems.Execution
) -> tuple[list[Header], bytes]:
    """Return the header fields and the body of the answer: JSON, or a page for a client that prefers HTML.

    Args:
        problem, endpoints, vary, full, outcome: as for :func:`send_problem`.
        scope: of the request.
        instance: a UUID as a URN.
    """
    root_path: str = scope.get("root_path") or ""
    base = root_path.encode("utf-8", "replace").decode() + endpoints  # a lone surrogate cannot be sent
    safe = scope.get("method", "GET") in SAFE_METHODS or bool(values(scope["headers"], b"idempotency-key"))
    html = _prefers_html(values(scope["headers"], b"accept"))
    facts = (type(problem), problem.retry_after_s, problem.max_age_s, base, vary, outcome, safe, html)
    prepared = None if full else _prepared.get(facts)
    if prepared is None:
        body = problems.document(problem, endpoints=base, instance=_NO_INSTANCE, full=full, outcome=outcome, safe=safe)
        content = problems.refusal_page(problem, body) if html else msgspec.json.encode(body)
        before, _, after = content.partition(_NO_INSTANCE.encode())
        media = b"text/html; charset=utf-8" if html else b"application/problem+json"
        headers = ((b"content-type", media), (b"content-length", b"%d" % len(content)), (b"vary", b"Accept, " + vary))
        prepared = Prepared((*headers, *problems.headers(problem)), before, after)
        if not full:
            if len(_prepared) >= _MOST_PREPARED:
                _prepared.clear()
            _prepared[facts] = prepared
    return list(prepared.headers), prepared.before + instance.encode() + prepared.after


def _prefers_html(accept: Sequence[bytes]) -> bool:
    if len(accept) == 1 and len(accept[0]) <= _LONGEST_ACCEPT:
        return _one_prefers_html(accept[0])
    return problems.prefers_html(list_items([(b"accept", value) for value in accept], b"accept"))


@lru_cache(_MOST_PREPARED)
def _one_prefers_html(accept: bytes) -> bool:
    return problems.prefers_html(list_items([(b"accept", accept)], b"accept"))


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
