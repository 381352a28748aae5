"""Open a backend: one of this package, or one that another package adds. A backend is imported only when it is opened."""

from __future__ import annotations

from importlib import import_module

from .._settings.clusters import load_other
from ..abc import Backend
from ..config import Settings

_OWN = {
    "memory": ("memory.backend", "MemoryBackend"),
    "sqlite": ("sqlite.backend", "SqliteBackend"),
    "peers": ("peers.backend", "PeersBackend"),
    "etcd": ("etcd.backend", "EtcdBackend"),
    "etcds": ("etcd.backend", "EtcdBackend"),
}
"""The module and the class of each backend of this package, by scheme."""


def open_backend(settings: Settings) -> Backend:
    """The backend that ``HA_SESSION_CLUSTER`` names.

    Raises:
        ConfigurationError: the backend cannot be loaded, or cannot be used.
    """
    scheme = settings.cluster.scheme
    if scheme in _OWN:
        module, name = _OWN[scheme]
        opener = getattr(import_module(f".{module}", __name__), name)
    else:
        opener = load_other(scheme)
    made: Backend = opener(settings)
    return made
