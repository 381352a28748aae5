"""The commands that lead through a rotation of keys.

Keys stand in the environment of each node, and no command can change them there. These look at all members, and print the new values.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .asking import ask_first, node_option, settings_of_environment, urls_of
from .ids import IdCommand
from .inspecting import KEY_BYTES
from .operating import LOG_OUT_LIMIT_S, show_acknowledgement
from .tables import output, print_json, print_table, seconds

if TYPE_CHECKING:
    from ..config import Settings

Secrets = Sequence[bytes]


@click.group()
def keys() -> None:
    """Lead through a rotation of keys.

    List, stage, promote and retire keys, or revoke one that has leaked.

    Example: ha-session keys list
    """


@keys.command("list")
@node_option
@output
def list_keys(nodes: tuple[str, ...], output: str) -> None:
    """List the ids of all keys, and which step is safe.

    Shows which members have each, and which sign with it. Exits with 1 if some member lacks a key of another one.

    Example: ha-session keys list
    """
    settings = settings_of_environment()
    found = _ask(settings, nodes)
    if output == "json":
        print_json(found)
    else:
        rows = [
            (
                key["kid"],
                f"{len(key['announced_by'])} of {len(found['members'])}",
                ", ".join(key["signing_at"]),
                seconds(key["known_for_s"]),
                "revoked" if key["revoked"] else key["not_promoted_because"] or "safe",
                key["not_retired_because"] or "safe",
            )
            for key in found["keys"]
        ]
        print_table(("KEY", "AT", "SIGNS AT", "KNOWN FOR", "PROMOTE", "RETIRE"), rows)
        if not found["hears_others"]:
            click.echo("Only this process is known: processes on this HA_SESSION_CLUSTER do not hear each other.")
    raise SystemExit(1 if any(key["missing_at"] and not key["revoked"] for key in found["keys"]) else 0)


@keys.command()
@node_option
@output
def stage(nodes: tuple[str, ...], output: str) -> None:
    """Make a new key, and print the variables that stage it.

    By them every node can verify it, and the old key goes on signing. Exits with 1 if a rotation is under way: some member lacks
    a key of another one.

    Example: ha-session keys stage
    """
    settings = settings_of_environment()
    there = [key for key in _ask(settings, nodes)["keys"] if not key["revoked"]]
    _require(there, "missing_at", "a rotation is under way: {kid} is missing at {why}")
    signing, fallbacks = settings.read_keys()
    _print_variables(settings, signing, [*fallbacks, secrets.token_urlsafe(KEY_BYTES).encode()], output)


@keys.command(cls=IdCommand)
@click.argument("kid")
@node_option
@output
def promote(kid: str, nodes: tuple[str, ...], output: str) -> None:
    """Print the variables by which the staged key KID signs.

    The keys before it only verify then. Exits with 1 unless every member has the key already.

    Example: ha-session keys promote 2JxQ8vZ6
    """
    settings = settings_of_environment()
    signing, fallbacks = settings.read_keys()
    secret = _secret_of(settings, kid, fallbacks, "HA_SESSION_SECRET_KEY_FALLBACKS: stage it first")
    _require(_of(_ask(settings, nodes), kid), "not_promoted_because", "{kid} must not sign yet: {why}")
    _print_variables(settings, [secret], [*signing, *(other for other in fallbacks if other != secret)], output)


@keys.command(cls=IdCommand)
@click.argument("kid")
@node_option
@output
def retire(kid: str, nodes: tuple[str, ...], output: str) -> None:
    """Print the variables without the old key KID. Its tokens are refused then.

    Exits with 1 while a member signs with it, or a token of it may live.

    Example: ha-session keys retire 9hQ2vX7m
    """
    settings = settings_of_environment()
    signing, fallbacks = settings.read_keys()
    secret = _secret_of(settings, kid, fallbacks, "HA_SESSION_SECRET_KEY_FALLBACKS: promote another one first")
    _require(_of(_ask(settings, nodes), kid), "not_retired_because", "{kid} is still needed: {why}")
    _print_variables(settings, signing, [other for other in fallbacks if other != secret], output)


@keys.command("revoke", cls=IdCommand)
@click.argument("kid")
@node_option
@output
def revoke_key(kid: str, nodes: tuple[str, ...], output: str) -> None:
    """Have all nodes refuse each token of the key KID.

    Use it for a key that has leaked: old and new tokens of it are refused. Put a new key on all nodes first. Prints how far that
    has spread, and exits as `ha-session revoke` does.

    Example: ha-session keys revoke 9hQ2vX7m
    """
    from .._node.admin_messages import REVOKE, Revoke

    settings = settings_of_environment()
    url, done = ask_first(settings, urls_of(settings, nodes), REVOKE, Revoke(key=kid), but=kid, limit_s=LOG_OUT_LIMIT_S)
    show_acknowledgement(url, done, output)


def _ask(settings: Settings, nodes: Sequence[str]) -> Any:
    from .._node.admin_messages import KEYS, Nothing

    return ask_first(settings, urls_of(settings, nodes), KEYS, Nothing())[1]


def _of(found: Any, kid: str) -> list[Any]:
    rows = [key for key in found["keys"] if key["kid"] == kid]
    if not rows:
        raise click.ClickException(f"no member announces {kid}: give the staged variables to the nodes first")
    return rows


def _require(rows: Sequence[Any], reason: str, text: str) -> None:
    for key in rows:
        if why := key[reason]:
            raise click.ClickException(text.format(kid=key["kid"], why=why if isinstance(why, str) else ", ".join(why)))


def _secret_of(settings: Settings, kid: str, among: Secrets, place: str) -> bytes:
    from .._core.token.keys import SigningKey

    for secret in among:
        if SigningKey(secret, settings.audience).kid == kid:
            return secret
    raise click.UsageError(f"{kid} is not one of {place}")


def _print_variables(settings: Settings, signing: Secrets, fallbacks: Secrets, output: str) -> None:
    shown: dict[str, Any] = {}
    for name, values, separator in (("SECRET_KEY", signing, "\n"), ("SECRET_KEY_FALLBACKS", fallbacks, ",")):
        variable = f"HA_SESSION_{name}"
        texts = [value.decode("utf-8", "surrogateescape") for value in values]
        file = getattr(settings, f"{name.lower()}_file")
        if file is not None:
            shown[f"{variable}_FILE"] = {"path": str(file), "lines": texts}
        elif any(separator in text for text in texts):
            raise click.ClickException(f"a key contains {separator!r}, so {variable} cannot hold it: put the keys into {variable}_FILE")
        else:
            shown[variable] = separator.join(texts)
    if output == "json":
        print_json(shown)
        return
    for variable, value in shown.items():
        if isinstance(value, str):
            click.echo(f"{variable}={shlex.quote(value)}")
        else:
            click.echo("\n".join([f"# the lines of {value['path']}, the file in {variable}:", *value["lines"]]))
