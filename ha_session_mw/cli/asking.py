"""Ask running nodes, as a command does. Address and credential come from the variables that describe a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import msgspec

    from ..config import Settings

ASK_LIMIT_S = 5.0
"""Time limit of a question that a node answers from what it knows."""
KNOWS_NO_KEY = "none of our keys"
"""Part of the failure of a node that answers, and cannot verify the question."""
SAME_SETTINGS = "one HA_SESSION_SECRET_KEY, HA_SESSION_AUDIENCE and HA_SESSION_ENDPOINTS, and this release"
"""The remedy: settings that a node and the one that asks must share."""


def node_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--node``, as ``nodes``."""
    return click.option(
        "--node",
        "nodes",
        multiple=True,
        metavar="URL",
        help="A node to ask; repeat it for others to ask if it does not answer. By default those of the environment.",
    )(command)


def settings_of_environment() -> Settings:
    """Return the settings that the environment gives.

    Raises:
        click.UsageError: they cannot be used.
    """
    from ..config import Settings
    from ..exceptions import ConfigurationError

    try:
        return Settings.from_environ()
    except ConfigurationError as exc:
        raise click.UsageError("\n".join(exc.faults)) from None


def urls_of(settings: Settings, nodes: Sequence[str] = ()) -> list[str]:
    """Return the URLs of the nodes to ask, in this order.

    Raises:
        click.UsageError: there are none.
    """
    own = (settings.advertise_url,) if settings.advertise_url else ()
    found = [url.rstrip("/") for url in (nodes or (*own, *settings.peers, *settings.peers_next))]
    if not found:
        raise click.UsageError("where does a node answer? Name it, such as --node http://127.0.0.1:8000, or set HA_SESSION_ADVERTISE_URL")
    for url in found:
        if not url.startswith(("http://", "https://")):
            raise click.BadParameter(f"{url!r}: must be a URL such as http://127.0.0.1:8000", param_hint="--node")
    return list(dict.fromkeys(found))


def ask_first(
    settings: Settings, urls: Sequence[str], name: str, request: msgspec.Struct, *, but: str | None = None, limit_s: float = ASK_LIMIT_S
) -> tuple[str, Any]:
    """Return the answer of the first node that answers, with its URL.

    Args:
        settings: of the nodes.
        urls: where to ask, in this order.
        name: of the call.
        request: what to do. The same node, or another one, may do it twice without harm.
        but: the id of a key that is about to be revoked, and signs nothing.
        limit_s: the time limit at each node.

    Raises:
        click.ClickException: no node answers, or one refuses.
    """
    answers = ask_each(settings, urls, name, request, but=but, until_first=True, limit_s=limit_s)
    for url, answer in answers.items():
        if not isinstance(answer, Exception):
            return url, answer
    raise click.ClickException("\n".join(f"{url} {failure}" for url, failure in answers.items()))


def ask_each(
    settings: Settings,
    urls: Sequence[str],
    name: str,
    request: msgspec.Struct,
    *,
    but: str | None = None,
    until_first: bool = False,
    limit_s: float = ASK_LIMIT_S,
) -> dict[str, Any]:
    """Return the answer of each node, or the exception in its place.

    Args:
        settings, urls, name, request, but: as for :func:`ask_first`.
        until_first: whether to stop at the first answer, and to ask one node after the other.
        limit_s: the time limit at each node.

    Raises:
        click.ClickException: a node refuses to do it.
    """
    import anyio

    from .._node.admin_call import Refused, operator
    from ..abc import PeerFailure

    answers: dict[str, Any] = dict.fromkeys(urls)

    async def run() -> None:
        async with operator(settings, tls=any(url.startswith("https:") for url in urls), but=but) as caller:

            async def ask(url: str) -> None:
                try:
                    answers[url] = await caller.ask(url, name, request, limit_s=limit_s)
                except (PeerFailure, Refused) as failure:
                    answers[url] = failure

            if not until_first:
                async with anyio.create_task_group() as tasks:
                    for url in urls:
                        tasks.start_soon(ask, url)
                return
            for url in urls:
                await ask(url)
                if not isinstance(answers[url], PeerFailure):
                    return

    try:
        anyio.run(run)
    except OSError as exc:
        raise click.UsageError(f"HA_SESSION_PEER_CA_FILE, HA_SESSION_PEER_CERT_FILE, HA_SESSION_PEER_KEY_FILE: {exc}") from None
    for answer in answers.values():
        if isinstance(answer, Refused):
            raise click.ClickException(str(answer))
    return {url: answer for url, answer in answers.items() if answer is not None}
