"""Metrics in the form that Prometheus reads, for one process or for all workers of a port. Needs the extra ``prometheus``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast
from weakref import WeakSet

from prometheus_client import CollectorRegistry, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from .._machine.threads import in_own_thread
from .._node.node import Node
from .figures import FIGURES, Figure, Labels, combined, combined_tallies
from .rendering import rendered

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which the workers of a port share their figures: as prometheus_client defines it."""
TELL_EVERY_S = 1.0
PREFIX = "ha_session_"

_mark_process_dead: Callable[[int], None] = cast(Any, mark_process_dead)
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class SharedValue(Protocol):
    """A number in the folder that the workers share."""

    def inc(self, amount: float) -> None: ...

    def set(self, value: float) -> None: ...


class NodeCollector(Collector):
    """Collects the figures of nodes when they are scraped.

    Args:
        nodes: returns the nodes.
    """

    def __init__(self, nodes: Callable[[], Sequence[Node]]) -> None:
        self._nodes = nodes

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values: the registry wants their names before there is a node."""
        return [_family(figure) for figure in FIGURES]

    def collect(self) -> Iterator[Metric]:
        """Return the metrics with their values."""
        nodes = self._nodes()
        for figure in FIGURES:
            family = _family(figure)
            if isinstance(family, HistogramMetricFamily):
                for labels, tally in combined_tallies(figure, nodes).items():
                    family.add_metric(labels, [(bound, float(count)) for bound, count in tally.cumulated()], tally.sum)
            else:
                for labels, value in combined(figure, nodes).items():
                    family.add_metric(labels, value)
            yield family


def _family(figure: Figure) -> Family:
    kind = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}[figure.kind]
    family: Family = kind(figure.name, figure.help, labels=figure.labels)
    return family


def is_shared() -> bool:
    """Whether several workers share their figures in a folder."""
    return bool(os.environ.get(FOLDER))


class OwnMetricsOfAllWorkers(Collector):
    """Collects what all workers have written down, except what other libraries have: their metrics are not for this page."""

    def __init__(self) -> None:
        self._all = cast(Collector, cast(Any, MultiProcessCollector)(None))  # it has no types

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of this package."""
        return (metric for metric in self._all.collect() if metric.name.startswith(PREFIX))


async def expose(node: Node, accept: str) -> tuple[str, bytes]:
    """Return the metrics as Prometheus asks for them. The files of several workers are read in a thread: that takes 20 ms and more.

    Args:
        node: this middleware's. With several workers, all of them count.
        accept: the request's field of that name.

    Returns:
        The content type, and the body.
    """
    encode, media = choose_encoder(accept)
    if not is_shared():
        return media, rendered(node, as_open_metrics="openmetrics" in media)
    return media, await in_own_thread(_of_all_workers, encode)


def _of_all_workers(encode: Callable[[CollectorRegistry], bytes]) -> bytes:
    forget_dead_workers()
    registry = CollectorRegistry()
    registry.register(OwnMetricsOfAllWorkers())
    return encode(registry)


_shown: WeakSet[Node] = WeakSet()


def show(node: Node) -> None:
    """Take samples on a node from now on, and share its figures where several workers do. A further call changes nothing."""
    node.sampling.start()
    if is_shared() and node not in _shown:
        _shown.add(node)
        node.add_task("metrics", Sharing(node).run)


class Sharing:
    """Adds what one node has counted to the figures that all workers of a port share, once a second.

    Args:
        node: the node.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._values: dict[tuple[str, Labels], SharedValue] = {}
        self._told: dict[tuple[str, Labels], float] = {}

    async def run(self) -> None:
        """Tell until cancelled."""
        try:
            while True:
                self.tell()
                await self._node.clock.sleep(TELL_EVERY_S)
        finally:
            self.tell()

    def tell(self) -> None:
        """Tell now."""
        for figure in FIGURES:
            if figure.kind == "histogram":
                self._tell_tallies(figure)
                continue
            for labels, value in figure.read(self._node):
                if figure.kind == "counter":
                    self._add(figure, figure.name, figure.labels, labels, value)
                else:
                    self._value(figure, figure.name, figure.labels, labels).set(value)

    def _tell_tallies(self, figure: Figure) -> None:
        for labels, tally in figure.tallies(self._node):
            for bound, count in zip((*tally.bounds, None), tally.counts, strict=True):
                told = "+Inf" if bound is None else f"{bound:g}"
                self._add(figure, f"{figure.name}_bucket", (*figure.labels, "le"), (*labels, told), count)
            self._add(figure, f"{figure.name}_sum", figure.labels, labels, tally.sum)

    def _add(self, figure: Figure, name: str, names: Labels, labels: Labels, total: float) -> None:
        value = self._value(figure, name, names, labels)
        if more := total - self._told.get((name, labels), 0.0):
            self._told[name, labels] = total
            value.inc(more)

    def _value(self, figure: Figure, name: str, names: Labels, labels: Labels) -> SharedValue:
        found = self._values.get((name, labels))
        if found is None:
            mode = f"live{figure.combine}" if figure.kind == "gauge" else ""
            made = values.ValueClass(figure.kind, figure.name, name, names, labels, figure.help, mode)
            found = self._values[name, labels] = made
        return found


def forget_dead_workers() -> None:
    """Take the gauges of workers that are gone out of the folder. Their counters stay: what they counted has happened."""
    for file in Path(os.environ[FOLDER]).glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit():
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                with suppress(FileNotFoundError):  # another worker was faster
                    _mark_process_dead(int(pid))
            except PermissionError:
                continue  # it lives, as another user
