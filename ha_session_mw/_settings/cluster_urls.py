"""Parse ``HA_SESSION_CLUSTER`` into its parts: the scheme, and the file or the endpoints that it names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .values import Unshown, check_port

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BACKENDS = "ha_session_mw.backends"
"""The group of entry points through which other packages add backends. An entry point's name is the scheme."""
ETCD_SCHEMES = ("etcd", "etcds")
ETCD_PORT = 2379
"""The port of an endpoint that names none: etcd's own default for clients."""
ETCD_PREFIX = "ha-session"
"""The prefix of all keys in etcd if the URL has no path."""
_HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?"


class ClusterUrl(str):
    """The text of ``HA_SESSION_CLUSTER`` with its parts. Equal to the plain text.

    Attributes:
        scheme: the part before ``://``.
        file: the absolute path that ``sqlite://…`` or ``peers:///…`` names; None for other schemes, and for ``peers://``.
        endpoints: the http or https URLs that ``etcd://…`` or ``etcds://…`` names; empty for other schemes.
        prefix: the prefix of all keys in etcd; empty for other schemes.
    """

    __slots__ = ("endpoints", "file", "prefix", "scheme")

    def __new__(cls, text: str, *, file: Path | None = None, endpoints: tuple[str, ...] = (), prefix: str = "") -> ClusterUrl:
        url = super().__new__(cls, text)
        url.scheme = text.partition("://")[0]
        url.file = file
        url.endpoints = endpoints
        url.prefix = prefix
        return url

    scheme: str
    file: Path | None
    endpoints: tuple[str, ...]
    prefix: str


def cluster_url(value: object) -> ClusterUrl:
    """``memory://``, ``sqlite:///path/of/a/file``, ``peers://``, ``peers:///path/of/a/file``, ``etcd://host:port,…/prefix`` or ``etcds://…``"""
    if isinstance(value, ClusterUrl):
        return value
    text = str(value).strip()
    scheme, found, rest = text.partition("://")
    if found and scheme in ETCD_SCHEMES:
        return _etcd(text)
    if found and scheme == "sqlite":
        return _sqlite(text)
    if text == "memory://" or re.fullmatch(r"peers://(/.+)?", text):
        return ClusterUrl(text, file=Path(rest) if rest else None)
    others = other_backends()
    if not found or scheme not in others:
        installed = f"; or, of other packages: {', '.join(f'{other}://' for other in sorted(others))}" if others else ""
        kind = Unshown if re.search("[@?]", rest) else ValueError
        raise kind(
            "must be memory://, sqlite:///path/of/a/file, peers:// or peers:///path/of/a/file, or etcd://host:2379,host:2379/prefix"
            + installed
        )
    if "@" in rest:
        raise Unshown("must not contain a user or a password, because operators are shown this URL")
    return ClusterUrl(text)


def other_backends() -> Mapping[str, EntryPoint]:
    """Return the entry points of backends from other packages, by scheme."""
    from importlib.metadata import entry_points  # takes long to load, and few clusters need it

    return {found.name: found for found in entry_points(group=BACKENDS)}


def _sqlite(text: str) -> ClusterUrl:
    if not re.fullmatch(r"sqlite://(/+|\./)(?!:memory:$)[^/\0].*(?<!/)", text):
        raise ValueError("must be sqlite:///path/of/a/file; or sqlite://./file, which begins at the working directory")
    # As with file:///, the third slash belongs to the path.
    return ClusterUrl(text, file=Path(re.sub("^/+", "/", text.removeprefix("sqlite://"))).absolute())


def _etcd(text: str) -> ClusterUrl:
    if "@" in text:
        raise Unshown("must not contain a user or a password; set HA_SESSION_CLUSTER_USER and HA_SESSION_CLUSTER_PASSWORD")
    if not re.fullmatch(rf"etcds?://{_HOST}(,{_HOST})*(/[A-Za-z0-9._-]+)*/?", text):
        raise ValueError("must be etcd://host:2379,host:2379/prefix, or etcds://… for TLS; the prefix of letters, digits, dots and dashes")
    text = text.rstrip("/")
    scheme, _, rest = text.partition("://")
    hosts, _, prefix = rest.partition("/")
    for port in re.findall(r":([0-9]+)(?=,|$)", hosts):
        check_port(port)
    protocol = "https" if scheme == "etcds" else "http"
    endpoints = (
        f"{protocol}://{host}" if re.search(r":[0-9]+$", host) else f"{protocol}://{host}:{ETCD_PORT}" for host in hosts.split(",")
    )
    return ClusterUrl(text, endpoints=tuple(endpoints), prefix=prefix or ETCD_PREFIX)
