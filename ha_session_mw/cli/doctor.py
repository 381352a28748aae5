"""The command that looks for faults before users find them. It reads the environment and asks others, and starts nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .checkup.findings import Finding
from .tables import POSITIVE, cell, output, print_json

if TYPE_CHECKING:
    from ..config import Settings


@click.command()
@click.option("--balancer", type=click.Choice(["nginx", "haproxy", "envoy"]), help="The load balancer in front of the nodes.")
@click.option("--check-every", type=POSITIVE, metavar="SECONDS", help="How often it asks readyz. By default as lb-config writes it.")
@click.option("--fall", type=click.IntRange(min=1), metavar="COUNT", help="How many checks in a row must fail.")
@click.option("--grace", type=POSITIVE, metavar="SECONDS", help="The time between SIGTERM and SIGKILL.")
@output
def doctor(balancer: str | None, check_every: float | None, fall: int | None, grace: float | None, output: str) -> None:
    """Look for faults of the settings, the nodes, and etcd.

    It reads the environment of a node, asks the others, and starts nothing. Each finding has a remedy. Exits with 1 if there is an
    error among the findings, and with 0 if all of them are advice.

    Example: ha-session doctor --balancer haproxy --grace 30
    """
    findings = _findings(balancer, check_every, fall, grace)
    if output == "json":
        print_json([one._asdict() for one in findings])
    else:
        for level, check, text, remedy in findings:
            click.echo(f"{level}  {check}: {cell(text) if len(text) < 100 else text}\n       → {remedy}")
        if not findings:
            click.echo("no findings")
    raise SystemExit(1 if any(one.level == "error" for one in findings) else 0)


def _findings(balancer: str | None, check_every: float | None, fall: int | None, grace: float | None) -> list[Finding]:
    from ..config import Settings
    from ..exceptions import ConfigurationError
    from .checkup.alone import check_alone, check_drain
    from .checkup.among_nodes import check_nodes
    from .checkup.of_etcd import check_etcd

    try:
        settings = Settings.from_environ()
    except ConfigurationError as exc:
        return [Finding("error", "settings", *_parted(fault)) for fault in exc.faults]
    findings = [
        *check_alone(settings, os.environ),
        *check_drain(settings, balancer, check_every, fall, grace),
        *check_nodes(settings, lambda urls: _ask(settings, urls)),
        *check_etcd(settings),
    ]
    return [*dict.fromkeys(findings)]  # a node and etcd tell the same of a key


def _parted(fault: str) -> tuple[str, str]:
    """A fault of the settings, and the rule that it breaks."""
    text, _, rule = fault.partition(": ")
    return text, rule or "correct it"


def _ask(settings: Settings, urls: Sequence[str]) -> dict[str, Any]:
    from .._node.admin_messages import STATUS, Nothing
    from .asking import ask_each

    return ask_each(settings, urls, STATUS, Nothing())
