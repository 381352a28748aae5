"""The command that prints a configuration for a load balancer."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

import click

from .balancers import DEFAULT_LISTEN, KINDS, Kind, lb_config

if TYPE_CHECKING:
    from ..config import Settings

_SECRETS = ("SECRET_KEY", "CLUSTER_PASSWORD", "ETCD_PASSWORD")


@click.command("lb-config")
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--listen", default=DEFAULT_LISTEN, show_default=True, metavar="HOST:PORT", help="Where the balancer listens.")
@click.option("--node", "nodes", multiple=True, metavar="URL", help="A node; repeat it for each. By default those of HA_SESSION_PEERS.")
@click.option("--server-name", metavar="NAME", help="With https: the DNS name in the certificates of all nodes.")
@click.option("--ca-file", metavar="FILE", help="With https: the authorities, on the balancer's machine. By default the system's.")
def lb_config_command(kind: Kind, listen: str, nodes: tuple[str, ...], server_name: str | None, ca_file: str | None) -> None:
    """Print a configuration for a load balancer.

    It keeps each session on one node, asks the nodes whether they are ready, tries safe methods elsewhere, and hides the
    calls between nodes.

    Example: ha-session lb-config haproxy --listen 10.0.0.9:80
    """
    from ..exceptions import ConfigurationError

    try:
        text = lb_config(kind, _settings(), listen=listen, nodes=nodes or None, server_name=server_name, ca_file=ca_file)
        click.echo(text, nl=False)
    except ConfigurationError as exc:
        raise click.UsageError("\n".join(exc.faults)) from None


def _settings() -> Settings:
    """The settings of the environment, but for its secrets: a configuration holds none, and the balancer's machine need not have them."""
    from .._settings.setting import ENV_PREFIX
    from ..config import Settings

    names = tuple(ENV_PREFIX + name for name in _SECRETS)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return Settings.from_environ(environ, secret_key=secrets.token_urlsafe(48))
