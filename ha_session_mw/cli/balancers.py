"""Write a configuration for a load balancer in front of the nodes. Reads the settings, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

from ..config import Settings
from ..exceptions import ConfigurationError
from .balanced import Address, Balanced
from .envoy import envoy
from .haproxy import haproxy
from .nginx import nginx

Kind = Literal["nginx", "haproxy", "envoy"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_WRITERS: Mapping[Kind, Callable[[Balanced], str]] = {"nginx": nginx, "haproxy": haproxy, "envoy": envoy}
DEFAULT_LISTEN = "127.0.0.1:8080"

_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")


def lb_config(kind: Kind, settings: Settings | None = None, *, listen: str = DEFAULT_LISTEN, nodes: Iterable[str] | None = None) -> str:
    """Return a complete configuration file for a load balancer in front of the nodes. It contains no secrets.

    Args:
        kind: ``nginx``, ``haproxy`` or ``envoy``.
        settings: of the nodes; by default the environment's.
        listen: where the balancer listens, as ``host:port``.
        nodes: the URLs of the nodes; by default ``HA_SESSION_PEERS``.

    Raises:
        ConfigurationError: there is no balancer of this kind, no address to listen on, or no node with plain http.
    """
    if kind not in KINDS:
        raise ConfigurationError([f"{kind!r}: must be one of {', '.join(KINDS)}"])
    settings = settings or Settings.from_environ()
    found = [_node(url) for url in (settings.peers if nodes is None else nodes)]
    if not found:
        raise ConfigurationError(["there are no nodes: set HA_SESSION_PEERS, or name each node (--node http://10.0.0.1:8000)"])
    return _WRITERS[kind](
        Balanced(
            listen=_address(listen, f"{listen!r}: must be host:port, such as 10.0.0.1:80"),
            nodes=tuple(dict.fromkeys(found)),
            cookie=settings.cookie_name if "cookie" in settings.transports else None,
            bearer="bearer" in settings.transports,
            endpoints=settings.endpoints,
        )
    )


def _node(url: str) -> Address:
    scheme, _, rest = url.partition("://")
    if scheme != "http":
        raise ConfigurationError(
            [f"{url!r}: must begin with http://. The balancer speaks plain http to the nodes, in a network of their own"]
        )
    return _address(rest.rstrip("/"), f"{url!r}: must be a URL such as http://10.0.0.1:8000", default_port="80")


def _address(text: str, fault: str, *, default_port: str = "") -> Address:
    # The text becomes part of a configuration, so nothing but a host and a port may pass.
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found["port"] or default_port or 0) < 65536:
        raise ConfigurationError([fault])
    return Address(found["host"], int(found["port"] or default_port))
