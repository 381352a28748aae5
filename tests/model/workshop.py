"""Where the real objects are put to work: each is made for one thing to be done, and taken apart again.

An object's parts determine its future. So the real code does each step once for each different object,
however many states of the whole it is part of; and a state of the whole is a handful of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from .frozen import Frozen, freeze, thaw
from .terms import Numbered


class Worker(Protocol):
    """One node in a model: the real object, and the node's record of it."""

    def wake(self) -> None:
        """Restore the parts that ``rest`` left out, when the object is restored."""

    def rest(self) -> None:
        """Leave out the parts without effect, before the object is taken apart."""

    def looks(self) -> Any: ...


AnyWorker = TypeVar("AnyWorker", bound=Worker)
SomeLooks = TypeVar("SomeLooks")


class Workshop(Generic[AnyWorker, SomeLooks]):
    """All different members of a model that were met, by number."""

    def __init__(self) -> None:
        self._all: Numbered[Frozen] = Numbered()
        self._looks: dict[int, SomeLooks] = {}
        self._done: dict[tuple[object, ...], tuple[int, Any]] = {}

    def keep(self, worker: AnyWorker) -> int:
        """Its number."""
        worker.rest()
        return self._all.number(freeze(worker))

    def make(self, number: int) -> AnyWorker:
        """The member of that number, to do with as you like."""
        worker: AnyWorker = thaw(self._all[number])
        worker.wake()
        return worker

    def do(self, number: int, act: Callable[..., Any], *args: Hashable) -> tuple[int, Any]:
        """Return a member after an action, and its messages."""
        key = (number, act, *args)
        done = self._done.get(key)
        if done is None:
            worker = self.make(number)
            said = act(worker, *args)
            done = self._done[key] = (self.keep(worker), said)
        return done

    def looks(self, number: int) -> SomeLooks:
        """How it looks from outside."""
        found = self._looks.get(number)
        if found is None:
            found = self._looks[number] = self.make(number).looks()
        return found

    def __len__(self) -> int:
        return len(self._all)
