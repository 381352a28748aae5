"""The short way in: an HTTP client for a cluster in one call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

import httpx2

from .exchange import limits_of
from .transport import AsyncNodesTransport, NodesTransport


def connect(urls: Sequence[str], *, login: Callable[[httpx2.Client], Any] | None = None, **options: Any) -> httpx2.Client:
    """Return a client whose requests reach a node that is well.

    Args:
        urls: the base URLs of the nodes. Requests name a path only.
        login: logs in by requests of the client that it is given, and raises if that fails. Called whenever there is no valid session.
        options: of ``httpx2.Client``. ``verify``, ``cert``, ``http2`` and ``limits`` go to the transport.
    """
    transport = NodesTransport(urls, httpx2.HTTPTransport(**_of_transport(options)))
    client = httpx2.Client(transport=cast(Any, transport), base_url=urls[0], **options)
    if login is not None:
        transport.reauthenticate = partial(login, client)
    return client


def connect_async(
    urls: Sequence[str], *, login: Callable[[httpx2.AsyncClient], Awaitable[Any]] | None = None, **options: Any
) -> httpx2.AsyncClient:
    """Do as :func:`connect` for asyncio and trio. ``login`` is a coroutine function."""
    transport = AsyncNodesTransport(urls, httpx2.AsyncHTTPTransport(**_of_transport(options)))
    client = httpx2.AsyncClient(transport=cast(Any, transport), base_url=urls[0], **options)
    if login is not None:
        transport.reauthenticate = partial(login, client)
    return client


def _of_transport(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of the transport out of those of the client."""
    return {"limits": limits_of(httpx2)} | {
        name: options.pop(name) for name in ("verify", "cert", "trust_env", "http1", "http2", "limits") if name in options
    }
