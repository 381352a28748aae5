"""The commands of ``ha-session``. Each reads the environment of a node, and imports only what it needs."""

from __future__ import annotations

from importlib import import_module

import click

from ..version import __version__

COMMANDS = {
    "completion": ("completing", "completion"),
    "doctor": ("doctor", "doctor"),
    "drain": ("operating", "drain"),
    "inspect": ("inspecting", "inspect"),
    "keygen": ("inspecting", "keygen"),
    "keys": ("rotating", "keys"),
    "lb-config": ("balancing", "lb_config_command"),
    "members": ("membering", "members"),
    "revoke": ("operating", "revoke"),
    "sessions": ("operating", "sessions"),
    "status": ("operating", "status"),
}
"""Each command with its module and its name there."""


class Commands(click.Group):
    """Imports a command when it is called, or when its help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(f".{module}", __package__), name)
        return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ha-session")
def ha_session() -> None:
    """Operate the nodes of ha_session_mw. The variables HA_SESSION_… describe them, as they do for a node.

    Exits with 0 if all is well, with 1 for findings and failures, and with 2 if it was used in a wrong way.
    """
