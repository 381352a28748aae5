"""The commands of ``ha-session``. Each reads the environment of a node, and imports only what it needs."""

from __future__ import annotations

import os
import secrets
from functools import partial

import click

from .._settings.setting import ENV_PREFIX
from ..abc import PeerFailure
from ..config import Settings
from ..exceptions import ConfigurationError
from ..version import __version__
from .balancers import DEFAULT_LISTEN, KINDS, Kind, lb_config

_SECRETS = ("SECRET_KEY", "CLUSTER_PASSWORD", "ETCD_PASSWORD")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ha-session")
def ha_session() -> None:
    """Operate the nodes of ha_session_mw. The variables HA_SESSION_… describe them, as they do for a node."""


@ha_session.command("lb-config")
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--listen", default=DEFAULT_LISTEN, show_default=True, metavar="HOST:PORT", help="Where the balancer listens.")
@click.option("--node", "nodes", multiple=True, metavar="URL", help="A node; repeat it for each. By default those of HA_SESSION_PEERS.")
def _lb_config(kind: Kind, listen: str, nodes: tuple[str, ...]) -> None:
    """Print a configuration for a load balancer in front of the nodes.

    It keeps each session on one node, asks the nodes whether they are ready, tries safe methods elsewhere, and hides the
    calls between nodes.
    """
    try:
        click.echo(lb_config(kind, _settings(), listen=listen, nodes=nodes or None), nl=False)
    except ConfigurationError as exc:
        raise click.UsageError("\n".join(exc.faults)) from None


@ha_session.command("drain")
@click.argument("url")
@click.option("--wait", is_flag=True, help="Return once the server may stop, after HA_SESSION_DRAIN_DELAY.")
def _drain(url: str, wait: bool) -> None:  # noqa: FBT001 - click's way to hand a flag over
    """Take the node at URL out of service, before its server stops.

    The environment must hold the secret of the nodes. The node must have HA_SESSION_ADVERTISE_URL, and answers at any URL that
    reaches it. Exits with 1 if it does not answer.
    """
    import anyio  # with httpx2, half a second that the other commands need not wait for

    from .._node.drain_call import ask_to_drain

    try:
        anyio.run(partial(ask_to_drain, url, Settings.from_environ(), wait=wait))
    except ConfigurationError as exc:
        raise click.UsageError("\n".join(exc.faults)) from None
    except PeerFailure as failure:
        raise click.ClickException(f"{url} {failure}") from None


def _settings() -> Settings:
    """The settings of the environment, but for its secrets: a configuration holds none, and the balancer's machine need not have them."""
    names = tuple(ENV_PREFIX + name for name in _SECRETS)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return Settings.from_environ(environ, secret_key=secrets.token_urlsafe(48))
