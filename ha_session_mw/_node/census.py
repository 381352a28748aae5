"""The nodes of this process. An app may have several, and metrics are about all of them."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakSet

_nodes: WeakSet[object] = WeakSet()
_callbacks: list[Callable[[object], None]] = []


def add(node: object) -> None:
    """Note a node that was made."""
    _nodes.add(node)
    for callback in _callbacks:
        callback(node)


def all_nodes() -> list[object]:
    """Return the nodes of this process that are in use."""
    return [*_nodes]


def watch(callback: Callable[[object], None]) -> None:
    """Call a function with each node of this process, now or once it is made."""
    _callbacks.append(callback)
    for node in all_nodes():
        callback(node)
