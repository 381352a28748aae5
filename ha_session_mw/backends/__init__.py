"""Open a backend: one of this package, or one that another package adds. A backend is imported only when it is opened."""

from __future__ import annotations

from importlib.metadata import EntryPoint

from .._settings.cluster_urls import BACKENDS
from .._settings.clusters import load_other
from ..abc import Backend
from ..config import Settings

_OWN = {
    scheme: EntryPoint(scheme, f"{__name__}.{place}", BACKENDS)
    for scheme, place in (
        ("memory", "memory.backend:MemoryBackend"),
        ("sqlite", "sqlite.backend:SqliteBackend"),
        ("peers", "peers.backend:PeersBackend"),
        ("etcd", "etcd.backend:EtcdBackend"),
        ("etcds", "etcd.backend:EtcdBackend"),
    )
}


def open_backend(settings: Settings) -> Backend:
    """The backend that ``HA_SESSION_CLUSTER`` names.

    Raises:
        ConfigurationError: the backend cannot be loaded, or cannot be used.
    """
    scheme = settings.cluster.scheme
    opener = _OWN[scheme].load() if scheme in _OWN else load_other(scheme)
    made: Backend = opener(settings)
    return made
