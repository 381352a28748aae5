"""Write a configuration for a load balancer in front of the nodes. Reads the settings, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

from ..config import Settings
from ..exceptions import ConfigurationError
from .balanced import Address, Balanced, Tls
from .envoy import envoy
from .haproxy import haproxy
from .nginx import nginx

Kind = Literal["nginx", "haproxy", "envoy"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_WRITERS: Mapping[Kind, Callable[[Balanced], str]] = {"nginx": nginx, "haproxy": haproxy, "envoy": envoy}
DEFAULT_LISTEN = "127.0.0.1:8080"
DEFAULT_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""Those of the system, where Debian, Ubuntu, Alpine and Arch keep them."""

_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:[.][A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*")
_FILE = re.compile(r"/[A-Za-z0-9._/@+-]+")
_PORTS = {"http": "80", "https": "443"}


def lb_config(
    kind: Kind,
    settings: Settings | None = None,
    *,
    listen: str = DEFAULT_LISTEN,
    nodes: Iterable[str] | None = None,
    server_name: str | None = None,
    ca_file: str | None = None,
) -> str:
    """Return a complete configuration file for a load balancer in front of the nodes. It contains no secrets.

    Args:
        kind: ``nginx``, ``haproxy`` or ``envoy``.
        settings: of the nodes; by default the environment's.
        listen: where the balancer listens, as ``host:port``.
        nodes: the URLs of the nodes, all with http or all with https; by default ``HA_SESSION_PEERS``.
        server_name: with https, the DNS name in the certificates of all nodes.
        ca_file: with https, the file of the authorities that signed them, on the balancer's machine; by default the system's.

    Raises:
        ConfigurationError: there is no balancer of this kind, no address to listen on, no node, or something wrong about https.
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
            nodes=tuple(dict.fromkeys(address for _, address in found)),
            tls=_tls({scheme for scheme, _ in found}, server_name, ca_file),
            cookie=settings.cookie_name if "cookie" in settings.transports else None,
            bearer="bearer" in settings.transports,
            endpoints=settings.endpoints,
            redirects=settings.routing == "redirect",
        )
    )


def _node(url: str) -> tuple[str, Address]:
    scheme, _, rest = url.partition("://")
    if scheme not in _PORTS:
        raise ConfigurationError([f"{url!r}: must begin with http:// or https://"])
    fault = f"{url!r}: must be a URL such as {scheme}://10.0.0.1:8000"
    return scheme, _address(rest.rstrip("/"), fault, default_port=_PORTS[scheme])


def _tls(schemes: set[str], name: str | None, authorities: str | None) -> Tls | None:
    if schemes == {"http"}:
        if name is not None or authorities is not None:
            raise ConfigurationError(["server_name and ca_file (--server-name, --ca-file) are for nodes whose URLs begin with https://"])
        return None
    if len(schemes) > 1:
        raise ConfigurationError(["the nodes must all have http:// or all have https://"])
    if name is None:
        raise ConfigurationError(
            ["nodes with https:// need the DNS name that the certificates of all nodes contain (--server-name shop.internal)"]
        )
    authorities = DEFAULT_AUTHORITIES if authorities is None else authorities
    faults = []
    if not _NAME.fullmatch(name):
        faults.append(f"{name!r}: must be a DNS name such as shop.internal")
    if not _FILE.fullmatch(authorities):
        faults.append(f"{authorities!r}: must be the whole path of a file, without spaces, such as {DEFAULT_AUTHORITIES}")
    if faults:
        raise ConfigurationError(faults)
    return Tls(name, authorities)


def _address(text: str, fault: str, *, default_port: str = "") -> Address:
    # The text becomes part of a configuration, so nothing but a host and a port may pass.
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found["port"] or default_port or 0) < 65536:
        raise ConfigurationError([fault])
    return Address(found["host"], int(found["port"] or default_port))
