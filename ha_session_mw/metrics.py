"""Metrics for Prometheus: ``ha_session_mw.metrics.register()``. Needs the extra ``prometheus``."""

from __future__ import annotations

from weakref import WeakSet

from .manager import SessionManager

try:
    from prometheus_client import REGISTRY, CollectorRegistry
except ImportError as exc:
    raise ImportError("ha_session_mw.metrics needs prometheus_client: pip install 'ha-session-mw[prometheus]'") from exc

from .ops.exposition import NodeCollector, is_shared, show
from .ops.shown import nodes_shown

__all__ = ["register"]

_registered: WeakSet[CollectorRegistry] = WeakSet()


def register(registry: CollectorRegistry = REGISTRY, *, manager: SessionManager | None = None) -> None:
    """Show the figures of this process's nodes in a registry of prometheus_client, whenever it is scraped.

    Call it once at the start, before or after the app is made. A further call for the same registry changes nothing. Where
    ``PROMETHEUS_MULTIPROC_DIR`` is set, nothing is added to the registry. Each worker then adds its figures to the shared ones once a
    second, and prometheus_client's ``MultiProcessCollector`` shows the sums.

    Args:
        registry: by default the one that most exporters show.
        manager: the one whose node is shown; by default all nodes of this process.
    """
    if registry in _registered:
        return
    _registered.add(registry)
    nodes = nodes_shown(manager, show)
    if not is_shared():
        registry.register(NodeCollector(nodes))
