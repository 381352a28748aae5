"""The backends of this package, and those that other packages bring. Each is imported when it is asked for, and not before."""

from __future__ import annotations

from importlib.metadata import EntryPoint

from .._settings.cluster_urls import BACKENDS, other_backends
from ..abc import Backend
from ..config import Settings
from ..exceptions import ConfigurationError

_OWN = {
    scheme: EntryPoint(scheme, f"{__name__}.{place}", BACKENDS)
    for scheme, place in (
        ("memory", "memory.log:MemoryBackend"),
        ("sqlite", "sqlite.log:SqliteBackend"),
        ("peers", "peers.log:PeersBackend"),
        ("etcd", "etcd.backend:EtcdBackend"),
        ("etcds", "etcd.backend:EtcdBackend"),
    )
}


def open_backend(settings: Settings) -> Backend:
    """What ``HA_SESSION_CLUSTER`` names.

    Raises:
        ConfigurationError: it cannot be used.
    """
    scheme = settings.cluster.partition("://")[0]
    if scheme in _OWN:
        made: Backend = _OWN[scheme].load()(settings)
        return made
    try:
        made = other_backends()[scheme].load()(settings)
    except (ImportError, AttributeError) as exc:
        raise ConfigurationError([f"HA_SESSION_CLUSTER: the backend for {scheme}:// cannot be loaded: {exc}"]) from exc
    return made
