"""Render a refusal as a problem document (RFC 9457): JSON for programs, HTML for people.

Every word comes from the class of the error. No token, id, subject, key, address or foreign error text is included.
"""

from __future__ import annotations

import hashlib
import html
import math
import string
from base64 import b64encode
from collections.abc import Iterable
from inspect import getdoc
from typing import Literal

from ..exceptions import InfrastructureFault, ProblemError
from .accept_rule import walk

Execution = Literal["not_executed", "executed", "unknown"]
"""Whether the app had handled the request: not at all, to its end, or up to the point where it raised the problem."""

CHECK_FIRST = "The app had begun to handle the request. Find out what it did before you send the request again."

MAX_PARAMETERS = 8
"""The most parameters of an item of ``Accept``. The quality is the last one in practice, after the one or two of the media type."""


def may_be_repeated(problem: ProblemError, outcome: Execution, *, safe: bool) -> bool:
    """Return whether a client may send the same request again by itself.

    Args:
        problem: the refusal.
        outcome: whether the app had handled the request.
        safe: whether a repetition does no harm: the request's method is safe (RFC 9110 section 9.2.1), or its client has given it an
            ``Idempotency-Key``.
    """
    return problem.retryable and (safe or outcome == "not_executed")


def document(
    problem: ProblemError,
    *,
    endpoints: str,
    instance: str,
    full: bool = False,
    outcome: Execution = "not_executed",
    safe: bool = True,
) -> dict[str, object]:
    """Return the problem document.

    Args:
        problem: the refusal.
        endpoints: the path below which this middleware serves its pages; ``type`` resolves there.
        instance: a URI that names this occurrence.
        full: whether to add the reason and the checks made, which help a developer and an attacker alike.
        outcome: whether the app had handled the request.
        safe: as for :func:`may_be_repeated`.
    """
    withdrawn = problem.retryable and not may_be_repeated(problem, outcome, safe=safe)
    after_s = None if withdrawn else problem.retry_after_s
    body: dict[str, object] = {
        "type": f"{endpoints}/problems/{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": f"{problem.detail} {CHECK_FIRST}" if withdrawn else problem.detail,
        "instance": instance,
        "code": problem.code,
        "retryable": problem.retryable and not withdrawn,
        "retry_after_ms": None if after_s is None else math.ceil(after_s * 1000),
        "retry_where": "none" if withdrawn else problem.retry_where,
        "action": "contact" if withdrawn else problem.action,
        "outcome": outcome,
    }
    if problem.max_age_s is not None:
        body["max_age"] = problem.max_age_s
    if full:
        body["reason"] = problem.reason
        body["checks"] = walk(problem)
    return body


def headers(problem: ProblemError) -> list[tuple[bytes, bytes]]:
    """Return the header fields of a problem, without those of its body."""
    found = [(b"cache-control", b"no-store"), *PAGE_HEADERS]
    if problem.status in (429, 503) and problem.retryable:
        found.append((b"retry-after", b"%d" % math.ceil(problem.retry_after_s or 0)))
    if problem.status == 401 or problem.bearer_error:
        found.append((b"www-authenticate", challenge(problem)))
    return found


def challenge(problem: ProblemError) -> bytes:
    """Return the value of ``WWW-Authenticate`` (RFC 6750 section 3, RFC 9470 section 3), without an error code if no token was sent."""
    parts = 'Bearer realm="session"'
    if problem.bearer_error:
        parts += f', error="{problem.bearer_error}", error_description="{problem.title}"'
    if problem.max_age_s is not None:
        parts += f', max_age="{problem.max_age_s}"'
    return parts.encode("ascii")


def prefers_html(accept: Iterable[str]) -> bool:
    """Return whether the items of an ``Accept`` header (RFC 9110 section 12.5.1) rank HTML above JSON. JSON wins a tie."""
    qualities: dict[str, float] = {}
    for item in accept:
        media, *parameters = (part.strip() for part in item.split(";", MAX_PARAMETERS))
        qualities[media] = max(qualities.get(media, 0.0), _quality(parameters))

    def rank(*ranges: str) -> float:  # the most specific range counts
        return next((qualities[media] for media in ranges if media in qualities), 0.0)

    json_q = max(rank(media, "application/*", "*/*") for media in ("application/problem+json", "application/json"))
    return rank("text/html", "text/*", "*/*") > json_q


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


_STYLE = """
  :root { color-scheme: light dark; font: 17px/1.55 system-ui, sans-serif }
  body { max-width: 38rem; margin: 12vh auto; padding: 0 1.25rem }
  h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .75rem }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin-top: 2rem; font-size: .9rem }
  dt { opacity: .7 } dd { margin: 0; overflow-wrap: anywhere }
"""

_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

PAGE_HEADERS = (
    (
        b"content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'".encode(),
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""Fields of each page and document of this package: it loads nothing, runs no script, and stands in no frame (CSP Level 3)."""

_PAGE = string.Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>$title</title>
<style>$style</style>
<h1>$title</h1>
$paragraphs
<dl>$facts</dl>
</html>
""")

_NEXT = {
    "retry": "Try again",
    "renew": "Renew the session",
    "reauthenticate": "Log in again",
    "fix_request": "Correct the request; repeating it will not help",
    "contact": "Ask the operator",
}
_WHERE = {"same_node": "on the same node", "other_node": "on another node", "any": "on any node", "none": ""}


def _advice(problem: ProblemError | type[ProblemError], after_s: float | None) -> str:
    where = _WHERE[problem.retry_where]
    wait = "" if after_s is None else " at once" if after_s == 0 else f" after {after_s:g} s"
    return f"{_NEXT[problem.action]}{' ' + where if where else ''}{wait}."


def _page(title: str, paragraphs: list[str], facts: dict[str, str]) -> bytes:
    return _PAGE.substitute(
        style=_STYLE,
        title=html.escape(title),
        paragraphs="\n".join(f"<p>{html.escape(text)}</p>" for text in paragraphs),
        facts="".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items()),
    ).encode()


def refusal_page(problem: ProblemError, body: dict[str, object]) -> bytes:
    """Return a refusal as a page, with the same facts as the document."""
    facts = {"Code": problem.code, "Status": str(problem.status), "Occurrence": str(body["instance"])}
    if "reason" in body:
        facts["Reason"] = str(body["reason"])
    advice = [_advice(problem, problem.retry_after_s)] if body["retryable"] else []  # otherwise the detail says what to do
    return _page(problem.title, [str(body["detail"]), *advice], facts)


def reference_page(kind: type[ProblemError]) -> bytes:
    """Return the page that ``type`` resolves to: the meaning of a code."""
    actor = "The infrastructure. The session may be valid." if issubclass(kind, InfrastructureFault) else "The client."
    facts = {
        "Code": kind.code,
        "Status": str(kind.status),
        "Who must act": actor,
        "Worth a retry": "yes" if kind.retryable else "no",
        "What to do": _advice(kind, kind.default_retry_after_s),
    }
    return _page(kind.title, [kind.detail, getdoc(kind) or ""], facts)
