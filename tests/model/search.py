"""Every state that can be reached, nearest first, until one of them is wrong or none is left."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

State = TypeVar("State", bound=Hashable)
Action = tuple[object, ...]


class Model(Protocol[State]):
    """A model that can be searched."""

    def start(self) -> State: ...

    def steps(self, state: State) -> Iterable[tuple[Action, State]]:
        """All that may happen next."""

    def fault(self, state: State) -> str | None:
        """Return the fault of this state; None if there is none."""


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        states: how many different ones it has been in.
        depth: how many steps the farthest of them is away.
        complete: whether there are no others.
        fault: the fault of the last state of the path; None if no state is faulty.
        path: the shortest way to it.
    """

    states: int
    depth: int
    complete: bool
    fault: str | None = None
    path: tuple[tuple[Action, Any], ...] = ()

    @property
    def summary(self) -> str:
        """The same in words."""
        extent = "these are all" if self.complete else "and there are more"
        bounds = extent if self.fault is None else "the last one wrong"
        return f"{self.states} states, up to {self.depth} steps from the start, {bounds}"


def search(model: Model[Any], *, most_states: int) -> Found:
    """Look for a wrong state among all that can be reached, or among the ``most_states`` nearest."""
    start = model.start()
    came_from: dict[Hashable, tuple[Any, Action] | None] = {start: None}
    frontier, depth = [start], 0
    while frontier:
        reached: list[Hashable] = []
        for state in frontier:
            for action, after in model.steps(state):
                if after in came_from:
                    continue
                came_from[after] = (state, action)
                fault = model.fault(after)
                if fault is not None:
                    return Found(len(came_from), depth + 1, complete=False, fault=fault, path=_path(came_from, after))
                reached.append(after)
            if len(came_from) >= most_states:
                return Found(len(came_from), depth, complete=False)
        frontier, depth = reached, depth + bool(reached)
    return Found(len(came_from), depth, complete=True)


def _path(came_from: dict[Hashable, tuple[Any, Action] | None], state: Hashable) -> tuple[tuple[Action, Any], ...]:
    path: list[tuple[Action, Any]] = []
    while (step := came_from[state]) is not None:
        path.append((step[1], state))
        state = step[0]
    return tuple(reversed(path))
