"""Metrics for OpenTelemetry: ``ha_session_mw.otel.register()``. Needs the extra ``otel``.

Each instrument is observed when a reader collects it, so a request pays for none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from weakref import WeakSet

from ._core.tally import Tally
from ._node.node import Node
from .manager import SessionManager

try:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter_provider
except ImportError as exc:
    raise ImportError("ha_session_mw.otel needs opentelemetry-api: pip install 'ha-session-mw[otel]'") from exc

from .ops.figures import FIGURES, Figure, combined, combined_tallies
from .ops.shown import nodes_shown
from .version import __version__

__all__ = ["register"]

Nodes = Callable[[], Sequence[Node]]
Callback = Callable[[CallbackOptions], Iterator[Observation]]

_registered: WeakSet[MeterProvider] = WeakSet()


def register(provider: MeterProvider | None = None, *, manager: SessionManager | None = None) -> None:
    """Show the figures of this process's nodes to the readers of a meter provider, under the names that Prometheus has.

    Call it once at the start, before or after the app is made. A further call for the same provider changes nothing. OpenTelemetry has
    no histograms that are observed. So three counters stand for each histogram, as in Prometheus: ``…_bucket`` by
    ``le``, ``…_sum`` and ``…_count``.

    Args:
        provider: by default the global one.
        manager: the one whose node is shown; by default all nodes of this process.
    """
    provider = provider or get_meter_provider()
    if provider in _registered:
        return
    _registered.add(provider)
    nodes = nodes_shown(manager, lambda node: node.sampling.start())
    meter = provider.get_meter("ha_session_mw", __version__)
    for figure in FIGURES:
        _add(meter, figure, nodes)


def _add(meter: Meter, figure: Figure, nodes: Nodes) -> None:
    unit = "s" if figure.name.endswith("_seconds") else "1"
    if figure.kind == "histogram":
        for suffix, read in (("bucket", _buckets), ("sum", _sum), ("count", _count)):
            callback = partial(_observed_tallies, figure, nodes, read)
            meter.create_observable_counter(f"{figure.name}_{suffix}", [callback], unit if suffix == "sum" else "1", figure.help)
    elif figure.kind == "counter":
        meter.create_observable_counter(figure.name, [partial(_observed, figure, nodes)], unit, figure.help)
    else:
        meter.create_observable_gauge(figure.name, [partial(_observed, figure, nodes)], unit, figure.help)


def _observed(figure: Figure, nodes: Nodes, _: CallbackOptions) -> Iterator[Observation]:
    for labels, value in combined(figure, nodes()).items():
        yield Observation(value, dict(zip(figure.labels, labels, strict=True)))


def _observed_tallies(
    figure: Figure, nodes: Nodes, read: Callable[[Tally], Iterator[tuple[dict[str, str], float]]], _: CallbackOptions
) -> Iterator[Observation]:
    for labels, tally in combined_tallies(figure, nodes()).items():
        for more, value in read(tally):
            yield Observation(value, {**dict(zip(figure.labels, labels, strict=True)), **more})


def _buckets(tally: Tally) -> Iterator[tuple[dict[str, str], float]]:
    return (({"le": bound}, count) for bound, count in tally.cumulated())


def _sum(tally: Tally) -> Iterator[tuple[dict[str, str], float]]:
    yield {}, tally.sum


def _count(tally: Tally) -> Iterator[tuple[dict[str, str], float]]:
    yield {}, tally.total
