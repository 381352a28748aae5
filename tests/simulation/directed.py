"""The common parts of directed schedules, independent of the log and the world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ha_session_mw._core.cluster.view import View

from .node import LIMIT_S
from .world import Findings, Session, Way, around

OVER_S = LIMIT_S * 1.02 + 0.05
"""When every lease of now is over."""


class AnyNode(Protocol):
    """The part of a node that the schedules use."""

    session_ms: int

    @property
    def view(self) -> View: ...
    def start(self) -> None: ...
    def crash(self) -> None: ...
    def step_wall(self, step_ms: float) -> None: ...
    def set_clock(self) -> None: ...
    def log_in(self) -> Session | None: ...
    def revoke(self, session: Session) -> None: ...
    def request(self, session: Session, pauses: tuple[float, float] = ...) -> None: ...


class AnyWorld(Protocol):
    """The part of the world that the schedules use."""

    findings: Findings
    least_pause_s: float
    """Pause between two requests of a client that repeats its request."""

    @property
    def time(self) -> float: ...
    @property
    def nodes(self) -> Sequence[AnyNode]: ...
    def run(self, seconds: float) -> None: ...
    def cut(self, *ways: Way) -> None: ...
    def mend(self, *ways: Way) -> None: ...
    def slow(self, *ways: Way, by_s: float) -> None: ...
    def cut_subject(self, node: Any, subject: str) -> None: ...


def log_in(node: AnyNode) -> Session:
    session = node.log_in()
    assert session is not None
    return session


def isolate(world: AnyWorld, number: int) -> None:
    world.cut(*around(number, len(world.nodes)))


def ask_for(world: AnyWorld, node: AnyNode, session: Session, seconds: float, pauses: tuple[float, float] = (0.0, 0.0)) -> None:
    """A request after another."""
    for _ in range(round(seconds / world.least_pause_s)):
        node.request(session, pauses)
        world.run(world.least_pause_s)
