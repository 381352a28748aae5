"""Writes the figures of one node as text for Prometheus, in a tenth of the time that prometheus_client takes.

A scrape is one step of the event loop, and all requests wait for it. The text is the same as that of prometheus_client.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from prometheus_client.utils import floatToGoString

from .._node.node import Node
from .figures import FIGURES, Figure, Labels, combined, combined_tallies

_as_go_does: Callable[[float], str] = cast(Any, floatToGoString)  # it has no types
MOST_SERIES = 2048
"""Series whose names and labels are kept as text: all of a node."""


def rendered(node: Node, *, as_open_metrics: bool) -> bytes:
    """Return the figures of a node in Prometheus' text format, or in OpenMetrics."""
    lines = []
    for figure in FIGURES:
        lines.append(_heading(figure.name, figure.kind, figure.help, as_open_metrics=as_open_metrics))
        lines += _tallies(figure, node) if figure.kind == "histogram" else _values(figure, node)
    if as_open_metrics:
        lines.append("# EOF\n")
    return "".join(lines).encode()


def _values(figure: Figure, node: Node) -> list[str]:
    name = f"{_base(figure.name)}_total" if figure.kind == "counter" else figure.name
    return [f"{_series(name, figure.labels, labels)} {_number(value)}\n" for labels, value in combined(figure, [node]).items()]


def _tallies(figure: Figure, node: Node) -> list[str]:
    lines = []
    for labels, tally in combined_tallies(figure, [node]).items():
        buckets = tally.cumulated()
        lines += [f"{_series(f'{figure.name}_bucket', (*figure.labels, 'le'), (*labels, le))} {_number(count)}\n" for le, count in buckets]
        lines.append(f"{_series(f'{figure.name}_count', figure.labels, labels)} {_number(buckets[-1][1])}\n")
        lines.append(f"{_series(f'{figure.name}_sum', figure.labels, labels)} {_number(tally.sum)}\n")
    return lines


def _base(name: str) -> str:
    return name.removesuffix("_total")


@lru_cache(MOST_SERIES)
def _heading(name: str, kind: str, help: str, *, as_open_metrics: bool) -> str:
    shown = _base(name) if kind == "counter" else name
    if kind == "counter" and not as_open_metrics:
        shown += "_total"
    told = _escaped(help) if as_open_metrics else help.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {shown} {told}\n# TYPE {shown} {kind}\n"


@lru_cache(MOST_SERIES)
def _series(name: str, names: Labels, values: Labels) -> str:
    labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(zip(names, values, strict=True)))
    return f"{name}{{{labels}}}" if labels else name


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return f"{value:d}.0" if isinstance(value, int) and 0 <= value < 1_000_000 else _as_go_does(value)
