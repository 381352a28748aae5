"""Commands whose argument is an id: one of 64 begins with a hyphen, and is no option all the same."""

from __future__ import annotations

import re

import click

from .._core.names import is_id

_ID = re.compile(r"-[\w-]{21}|-\w[\w-]{6}", re.ASCII)
"""A session, a family, or a key. A word of eight characters that begins with two hyphens is taken for an option."""


def require_session_id(text: str) -> None:
    """Refuse a text that cannot be the id of a session. A node would acknowledge the log-out, and nobody would be logged out.

    Raises:
        click.UsageError: without the text, because a token is a secret.
    """
    if not is_id(text):
        raise click.UsageError(
            "SESSION has 22 letters, digits, hyphens and underscores, as `ha-session sessions` lists it. "
            "Name a subject by --subject. `ha-session inspect` shows the session of a token"
        )


class IdCommand(click.Command):
    """A command that takes an id as its argument, whatever character the id begins with."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        options = {name for param in self.params for name in param.opts}
        ids = [arg for arg in args[:end] if _ID.fullmatch(arg) and arg not in options]
        rest = [arg for arg in args[:end] if arg not in ids]
        return super().parse_args(ctx, [*rest, "--", *ids, *args[end + 1 :]] if ids else args)
