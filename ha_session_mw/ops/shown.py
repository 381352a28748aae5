"""The nodes of which an exporter shows the figures: one manager's, or all nodes of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .._node import census
from .._node.node import Node
from ..manager import SessionManager, node_of


def nodes_shown(manager: SessionManager | None, begin: Callable[[Node], None]) -> Callable[[], Sequence[Node]]:
    """Return a function that returns the nodes in use.

    Args:
        manager: the one whose node is shown; None for all nodes of this process.
        begin: called with each of these nodes, now or once it is made.
    """
    if manager is not None:
        node = node_of(manager)
        begin(node)
        return lambda: [node]

    def is_made(node: object) -> None:
        if isinstance(node, Node):
            begin(node)

    census.watch(is_made)
    return lambda: [node for node in census.all_nodes() if isinstance(node, Node)]
