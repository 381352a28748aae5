"""What ``HA_SESSION_CLUSTER`` may say, and what the parts of it are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from .values import Unshown

BACKENDS = "ha_session_mw.backends"
"""The group of entry points by which other packages bring backends: the name is the scheme, and what it names makes one of settings."""
SQLITE = "sqlite://"
ETCD = ("etcd://", "etcds://")
ETCD_PORT = 2379
ETCD_PREFIX = "ha-session"
"""Where keys stand that were given no prefix."""
_HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?"


def cluster_url(value: object) -> str:
    """``memory://``, ``sqlite:///path/of/a/file``, ``peers://``, ``peers:///path/of/a/file``, ``etcd://host:port,…/prefix`` or ``etcds://…``"""
    text = str(value).strip()
    if re.match(r"etcds?://", text):
        return _etcd_cluster(text)
    if re.match(r"sqlite://", text) and not re.fullmatch(r"sqlite://(/+|\./)(?!:memory:$)[^/\0].*(?<!/)", text):
        raise ValueError("must be sqlite:///path/of/a/file; or sqlite://./file, which begins at the working directory")
    if re.fullmatch(r"memory://|sqlite://.+|peers://(/.+)?", text):
        return text
    others = other_backends()
    scheme, found, rest = text.partition("://")
    if not found or scheme not in others:
        installed = f"; or, of other packages: {', '.join(f'{other}://' for other in sorted(others))}" if others else ""
        kind = Unshown if re.search("[@?]", rest) else ValueError
        raise kind(
            "must be memory://, sqlite:///path/of/a/file, peers:// or peers:///path/of/a/file, or etcd://host:2379,host:2379/prefix"
            + installed
        )
    if "@" in rest:
        raise Unshown("holds a user or a password, and may not, for it is shown to operators")
    return text


def other_backends() -> Mapping[str, EntryPoint]:
    """The backends that other packages bring, by their scheme."""
    return {found.name: found for found in entry_points(group=BACKENDS)}


def _etcd_cluster(text: str) -> str:
    if "@" in text:
        raise Unshown("holds a user or a password; these belong into HA_SESSION_ETCD_USER and HA_SESSION_ETCD_PASSWORD")
    if not re.fullmatch(rf"etcds?://{_HOST}(,{_HOST})*(/[A-Za-z0-9._-]+)*/?", text):
        raise ValueError("must be etcd://host:2379,host:2379/prefix, or etcds://… for TLS; the prefix of letters, digits, dots and dashes")
    return text.rstrip("/")


def etcd_endpoints(cluster: str) -> tuple[tuple[str, ...], str]:
    """The URLs that ``etcd://…`` or, over TLS, ``etcds://…`` names, and the prefix of its keys."""
    scheme, _, rest = cluster.partition("://")
    hosts, _, prefix = rest.partition("/")
    protocol = "https" if scheme == "etcds" else "http"
    urls = (f"{protocol}://{host}" if re.search(r":[0-9]+$", host) else f"{protocol}://{host}:{ETCD_PORT}" for host in hosts.split(","))
    return tuple(urls), prefix or ETCD_PREFIX


def sqlite_path(cluster: str) -> Path:
    """The file that ``sqlite://…`` names. As with ``file:///``, the third slash is the path's own."""
    path = cluster.removeprefix(SQLITE)
    return Path(re.sub("^/+", "/", path)).absolute()
