"""Send a browser that needs a log-in to the log-in page, and from there back to where it wanted to go, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import parse_qs, quote_from_bytes

from starlette.types import Scope, Send

from .._core.paths import below_root
from .._core.problems import prefers_html
from .._core.request_fields import list_items
from ..exceptions import ClientFault, ProblemError, SessionSuperseded
from ..session.of_request import HasScope

LONGEST_NEXT = 2048
"""Characters of the longest ``next``. Servers refuse request lines of 8 kB and more, and ``next`` is one part of such a line."""

LONGEST_QUERY = 8192
"""Bytes of the longest query that is searched for ``next``: it is quoted there, and so up to three times as long."""

UNDER_WAY_S = 10.0
"""Seconds after a new token in which an older one may come with a GET that was under way. It has no body that a proxy waits for."""

# A browser takes // and /\ for the beginning of another host's name. It drops tabs and line ends before it looks.
_ON_THIS_SITE = re.compile(r"/(?![/\\])[!-\[\]-~]*")


def next_path(conn: HasScope | MutableMapping[str, Any], default: str = "/") -> str:
    """Return the address to go on to after a log-in: ``next`` in the query, if it is a path of this site; otherwise ``default``.

    Redirect to nothing else that comes with a request. Such a redirect leads users of a forged link to another site (an open redirect).

    Args:
        conn: the request to the log-in page, of any framework, or its ASGI scope.
        default: the address to go on to without a ``next``.
    """
    scope = conn if isinstance(conn, MutableMapping) else conn.scope
    query: bytes = scope.get("query_string", b"")
    if len(query) > LONGEST_QUERY:
        return default
    found = parse_qs(query.decode("latin-1")).get("next", [])
    return found[0] if len(found) == 1 and is_on_this_site(found[0]) else default


def is_on_this_site(target: str) -> bool:
    """Whether every browser takes a text for a path of the site that it came from."""
    return len(target) <= LONGEST_NEXT and _ON_THIS_SITE.fullmatch(target) is not None


def log_in_address(page: str, problem: ProblemError, scope: Scope) -> str | None:
    """Return the address of the log-in page for a request that is refused; None if the client gets the problem itself.

    Args:
        page: the path of the page below the root path, perhaps with a query.
        problem: why the request is refused.
        scope: of the request.
    """
    if (
        scope["type"] != "http"
        or scope["method"] != "GET"
        or not _helps(problem)
        or not prefers_html(list_items(scope["headers"], b"accept"))
    ):
        return None
    root_path: str = scope.get("root_path", "")
    below = below_root(scope["path"], root_path)
    if below == page.partition("?")[0]:
        return None  # the page itself requires a log-in, and would redirect for ever
    root = _quoted(root_path.rstrip("/"))
    address = root + page
    if root and not is_on_this_site(root):  # a router can take the root path from the request
        return None
    query: bytes = scope.get("query_string") or b""
    if len(below) + len(query) > LONGEST_NEXT:
        return address
    wanted = (root + _quoted(below)).encode("ascii")
    if query:
        wanted += b"?" + query
    if not is_on_this_site(wanted.decode("latin-1")):
        return address
    path, _, own = page.partition("?")
    # A second ``next`` would make both ambiguous. The page's own one counts without a way back.
    parts = [part for part in own.split("&") if part and "next" not in parse_qs(part, keep_blank_values=True)]
    return f"{root}{path}?" + "&".join([*parts, "next=" + quote_from_bytes(wanted, safe="/")])


def _quoted(path: str) -> str:
    return quote_from_bytes(path.encode("utf-8", "surrogatepass"))


def _helps(problem: ProblemError) -> bool:
    """Whether a log-in helps: the session has ended or never began, or the browser's cookie cannot be used, and a log-in replaces it."""
    if isinstance(problem, SessionSuperseded):
        return problem.ago_s > UNDER_WAY_S  # this browser has not got the newer cookie, or another answer has replaced it
    return isinstance(problem, ClientFault) and (problem.action == "reauthenticate" or problem.bearer_error == "invalid_request")


async def redirect(address: str, send: Send, *, vary: bytes) -> None:
    """Send the browser to an address by GET (303, RFC 9110 section 15.4.4)."""
    headers = [
        (b"location", address.encode("latin-1")),
        (b"content-length", b"0"),
        (b"cache-control", b"no-store"),
        (b"vary", b"Accept, " + vary),
    ]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
