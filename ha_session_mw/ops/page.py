"""The page ``{ENDPOINTS}/ui``: shows an operator the cluster at work. Everything on it is text that the browser never takes for markup.

Without its cookie there is the log-in form, and nothing else exists. The page changes nothing: it has a log-in and a log-out of its own.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import msgspec
from starlette.types import Message, Receive, Scope, Send

from .._core.request_fields import last_value
from .._core.token.cookies import TokenReader, claims_https
from .._node.node import Node
from ..exceptions import ClientFault
from .credential import COOKIE, LIFE_S, Credential
from .survey import Survey

EVERY_S = 1.0
"""How often a reader gets news."""
MOST_READERS = 16
"""Readers of one process at a time: each takes a connection, and some milliseconds a second."""
STALL_S = 10.0
"""How long a reader may take no news before it loses its place."""
LARGEST_FORM = 4096
"""Bytes of a log-in's form."""
FORM_WITHIN_S = 5.0
_LONGEST_FIELD = 512

NotFound = Callable[[Send], Awaitable[None]]
Fields = list[tuple[bytes, bytes]]


class Page:
    """Answers the requests below ``/ui``.

    Args:
        node: this node.
        not_found: answers as a path that does not exist.
    """

    def __init__(self, node: Node, not_found: NotFound) -> None:
        self._node = node
        self._not_found = not_found
        self._credential = Credential(node.settings.read_ui_password, node.peer_keys, node.clock)
        self._reader = TokenReader(COOKIE, bearer=False)
        self._survey = Survey(node)
        self._readers = 0
        node.add_task("page", self._survey.run)

    async def __call__(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to ``path``, which is relative to ``/ui``."""
        method, left_s = scope["method"], self._left_s(scope)
        if path == "" and method in ("GET", "HEAD"):
            html, policy = document() if left_s else log_in_form()
            await answer(send, 200, html, _fields_of_page(policy), head=method == "HEAD")
        elif path == "/log-in" and method == "POST":
            await self._log_in(scope, receive, send)
        elif not left_s:
            await self._not_found(send)
        elif path == "/log-out" and method == "POST":
            if not is_same_origin(scope):
                await _refuse(send, 403, "This form was not sent by this page.")
            else:
                await answer(send, 303, b"", [(b"location", b"../ui"), self._set_cookie(scope, "", 0)])
        elif path == "/events" and method == "GET":
            await self._tell(scope, receive, send)
        else:
            await self._not_found(send)

    # The credential

    def _left_s(self, scope: Scope) -> float:
        """Return for how long the reader may read; 0 without a good cookie. Of several cookies of the name, one that is good counts."""
        try:
            cookies = [value.decode("latin-1") for _, value in self._reader.read(scope["headers"])[:4]]
            return max((self._credential.left_s(cookie) for cookie in cookies), default=0.0)
        except (ClientFault, OSError, UnicodeDecodeError):
            return 0.0  # too many cookies; or nobody can log in either, and the answer to a log-in says why

    async def _log_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_same_origin(scope):
            await _refuse(send, 403, "This form was not sent by this page.")
            return
        form = await _body(receive, self._node)
        if form is None:
            await _refuse(send, 400, "This is no log-in form.")
            return
        if not self._credential.may_try():
            await _refuse(send, 429, "Too many log-ins: wait some seconds.", (b"retry-after", b"5"))
            return
        given = parse_qs(form.decode("utf-8", "replace")).get("password", [""])
        try:
            admitted = self._credential.is_password(given[0])
            cookie = self._credential.issue() if admitted else ""
        except (OSError, UnicodeDecodeError):
            await _refuse(send, 503, "The file in HA_SESSION_UI_PASSWORD_FILE cannot be read.")
            return
        self._node.security.page_log_in(admitted=admitted)
        if admitted:
            await answer(send, 303, b"", [(b"location", b"../ui"), self._set_cookie(scope, cookie, int(LIFE_S))])
        else:
            await _refuse(send, 403, "The password is wrong.")

    def _set_cookie(self, scope: Scope, value: str, max_age_s: int) -> tuple[bytes, bytes]:
        # No Path: the cookie is then for the folder of this request, /…/ui, as the browser sees it (RFC 6265 section 5.1.4).
        https_only = self._node.settings.cookie_https_only
        secure = claims_https(scope.get("scheme", "http"), scope["headers"]) if https_only == "auto" else https_only
        return b"set-cookie", f"{COOKIE}={value}; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}".encode()

    # The news

    async def _tell(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a survey a second, until the reader leaves, its log-in ends, or this node drains."""
        if self._readers >= MOST_READERS or self._node.draining.begun:
            await answer(send, 503, b"no more readers here", [(b"content-type", b"text/plain"), (b"retry-after", b"5")])
            return
        self._readers += 1
        try:
            fields = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no"), *_COMMON]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
                with suppress(OSError):  # servers raise it once the reader is gone
                    await self._tell_on(scope, send)
                    await send({"type": "http.response.body", "body": b""})
                tasks.cancel_scope.cancel()
        finally:
            self._readers -= 1

    async def _tell_on(self, scope: Scope, send: Send) -> None:
        while self._left_s(scope):  # a new password ends it at once
            is_last = self._node.draining.begun
            survey = await self._survey.newest()
            with self._node.clock.move_on_after(STALL_S) as sending:
                await send(event(survey))
            if sending.cancelled_caught or is_last:
                return
            await self._node.clock.sleep(EVERY_S)


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def event(told: object) -> Message:
    """Return an event with this content, as JSON on one line."""
    return {"type": "http.response.body", "body": b"data: " + msgspec.json.encode(told) + b"\n\n", "more_body": True}


def is_same_origin(scope: Scope) -> bool:
    """Whether the browser says that a page of this very origin sends the request (``Sec-Fetch-Site``, or ``Origin`` over plain http)."""
    if site := last_value(scope["headers"], b"sec-fetch-site", 32):
        return site == "same-origin"
    origin = last_value(scope["headers"], b"origin", _LONGEST_FIELD)
    host = last_value(scope["headers"], b"host", _LONGEST_FIELD)
    try:
        return bool(host) and urlsplit(origin).netloc == host
    except ValueError:
        return False


async def _body(receive: Receive, node: Node) -> bytes | None:
    """Return the body of a log-in; None if it is too large, too late, or cut off."""
    body = bytearray()
    with node.clock.move_on_after(FORM_WITHIN_S):
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if len(body) > LARGEST_FORM:
                return None
            if not message.get("more_body"):
                return bytes(body)
    return None


# The documents

_COMMON: Fields = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
"""Not ``no-referrer``: with that, browsers send ``Origin: null`` with a form."""


def _fields_of_page(policy: str) -> Fields:
    return [(b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", policy.encode())]


async def answer(send: Send, status: int, body: bytes, fields: Fields, *, head: bool = False) -> None:
    """Send an answer that nobody keeps."""
    sent = [(b"content-length", b"%d" % len(body)), *fields, *_COMMON]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": b"" if head else body})


async def _refuse(send: Send, status: int, why: str, *fields: tuple[bytes, bytes]) -> None:
    html, policy = log_in_form(why, base="../ui")
    await answer(send, status, html, [*_fields_of_page(policy), *fields])


@cache
def document(extra: str = "") -> tuple[bytes, str]:
    """Return the page and its content security policy.

    Args:
        extra: a script of the caller that runs after the page's own, such as that of the demo's buttons.
    """
    return _filled("page.html", {"style": _text("page.css"), "script": _text("page.js"), "extra": extra})


@cache
def log_in_form(why: str = "", base: str = "ui") -> tuple[bytes, str]:
    """Return the log-in form and its content security policy.

    Args:
        why: a text of this file that says why the form is there again.
        base: the relative address of the page.
    """
    return _filled("log-in.html", {"style": _text("page.css"), "why": why, "base": base})


def _filled(name: str, parts: dict[str, str]) -> tuple[bytes, str]:
    html = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _text(name))
    hashes = {
        tag: " ".join(f"'sha256-{_hash(content)}'" for content in re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", html, re.DOTALL) if content)
        for tag in ("style", "script")
    }
    policy = f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script'] or repr('none')}; connect-src 'self'; "
    policy += "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    return html.encode(), policy


def _hash(content: str) -> str:
    return b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")
