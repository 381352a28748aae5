"""What directed schedules have in common, whatever the log."""

from __future__ import annotations

from typing import Any

from .node import LIMIT_S, Node
from .world import Session, World

OVER_S = LIMIT_S * 1.02 + 0.05
"""When every lease of now is over."""


def log_in(node: Node) -> Session:
    session = node.log_in()
    assert session is not None
    return session


def ask_for(world: World[Any], node: Node, session: Session, seconds: float, pauses: tuple[float, float] = (0.0, 0.0)) -> None:
    """A request every 10 ms."""
    for _ in range(round(seconds * 100)):
        node.request(session, pauses)
        world.run(0.01)
