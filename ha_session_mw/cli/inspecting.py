"""The commands that look at a token, and make a secret. They ask no node."""

from __future__ import annotations

import os
import secrets
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from .asking import settings_of_environment
from .tables import output, print_json, print_table, seconds

if TYPE_CHECKING:
    from ..models import Claims

KEY_BYTES = 48
"""Random bytes of a new secret: more than the 32 that HMAC-SHA256 can use, as text of 64 characters."""
_KEY_VARIABLES = ("HA_SESSION_SECRET_KEY", "HA_SESSION_SECRET_KEY_FILE")


@click.command()
@output
def keygen(output: str) -> None:
    """Print a new secret for HA_SESSION_SECRET_KEY.

    Example: ha-session keygen
    """
    secret = secrets.token_urlsafe(KEY_BYTES)
    if output == "json":
        from .._core.token.keys import SigningKey

        print_json({"secret": secret, "kid": SigningKey(secret.encode()).kid})
    else:
        click.echo(secret)


@click.command()
@click.argument("token", default="-")
@output
def inspect(token: str, output: str) -> None:
    """Show the content of TOKEN, and whether a node would refuse it.

    It decides by the key of the environment, and asks no node. TOKEN may be a cookie or a header field, such as `Bearer hs1.…`.
    Without it, standard input is read: a token on the command line is seen by other users of the machine. Exits with 1 if a node
    would refuse the token. Only a node knows whether its session was logged out.

    Example: ha-session inspect < token.txt
    """
    from .._core.token.tokens import unverified
    from ..exceptions import ProblemError

    text = _token_in(sys.stdin.read() if token == "-" else token)  # noqa: S105 - the name of an argument
    try:
        kid, claims = unverified(text)
    except ProblemError as problem:
        raise click.ClickException(f"{problem.code}: {problem.reason}") from None
    verdict = _verdict(text)
    found: dict[str, Any] = {"verdict": verdict, **_fields(kid, claims)}
    if output == "json":
        print_json(found)
    else:
        print_table(("FIELD", "VALUE"), [*_lines(found)])
    raise SystemExit(1 if verdict["refused"] else 0)


def _token_in(text: str) -> bytes:
    """The token in a cookie, a header field, or by itself."""
    words = text.replace("=", " ").replace(";", " ").split()
    return next((word for word in words if word.startswith("hs1.")), text.strip()).encode("utf-8", "replace")


def _verdict(token: bytes) -> dict[str, Any]:
    """Whether a node would refuse the token, as far as the key and the clock of this machine can tell; None: they cannot."""
    if not any(os.environ.get(name) for name in _KEY_VARIABLES):
        return {"refused": None, "code": None, "reason": "unverified: HA_SESSION_SECRET_KEY is not set, so anybody may have written this"}
    from .._core.accept_rule import Refuse, decide
    from .._core.cluster.view import View
    from .._core.token.keys import KeyRing
    from .._core.token.tokens import verify
    from ..exceptions import KeyNotReached, ProblemError

    settings = settings_of_environment()
    try:
        verified = verify(token, KeyRing(*settings.read_keys(), audience=settings.audience))
    except KeyNotReached as problem:
        # A node that hears the others knows that none of them has the key, and refuses the token as invalid.
        return {"refused": True, "code": problem.code, "reason": problem.reason}
    except ProblemError as problem:
        return {"refused": True, "code": problem.code, "reason": problem.reason}
    decision = decide(verified, View(), fresh_at=0.0, boot_s=0.0, wall_ms=time.time() * 1000, freshness_limit_s=1.0)
    if isinstance(decision, Refuse):
        return {"refused": True, "code": decision.problem.code, "reason": decision.problem.reason}
    return {"refused": False, "code": None, "reason": "the signature and the times are good; only a node knows of log-outs"}


def _fields(kid: str, claims: Claims) -> dict[str, Any]:
    from .._core.token.data import decode
    from ..models import OwnLives

    own = claims.own if isinstance(claims.own, OwnLives) else None
    try:
        data: Any = decode(claims.data)
    except ValueError:
        data = None  # a record holds the data, and the token no copy
    return {
        "session": claims.sid,
        "family": claims.family,
        "key": kid,
        "subject": claims.subject,
        "issuer": claims.issuer,
        "issued": _time(claims.issued_ms),
        "authenticated": _time(claims.authenticated_ms),
        "idle_end": _time(claims.idle_end_ms),
        "absolute_end": _time(claims.absolute_end_ms),
        "own_idle_timeout_s": own.idle_ms / 1000 if own and own.idle_ms else None,
        "persistent": claims.persistent,
        "cuts": list(claims.cuts),
        "record": claims.record,
        "data": _told(data),
    }


def _time(ms: int) -> datetime | int:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return ms  # an unverified token may state anything


def _told(data: Any) -> Any:
    """The data with text in the place of what JSON cannot carry."""
    if isinstance(data, dict):
        return {str(name).encode("utf-8", "backslashreplace").decode(): _told(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_told(value) for value in data]
    if isinstance(data, str):
        return data.encode("utf-8", "backslashreplace").decode()
    return data if data is None or isinstance(data, (bool, int, float)) else repr(data)


def _lines(found: dict[str, Any]) -> list[tuple[str, object]]:
    verdict = found["verdict"]
    word = {True: "refused", False: "accepted", None: "unknown"}[verdict["refused"]]
    lines: list[tuple[str, object]] = [("verdict", f"{word}: {verdict['code'] + ': ' if verdict['code'] else ''}{verdict['reason']}")]
    for name, value in found.items():
        if isinstance(value, datetime):
            left_s = value.timestamp() - time.time()
            lines.append((name, f"{value:%Y-%m-%d %H:%M:%S} UTC ({seconds(abs(left_s))} {'ahead' if left_s > 0 else 'ago'})"))
        elif name != "verdict":
            lines.append((name, " ".join(value) if name == "cuts" else value))
    return lines
