"""Where the real objects are put to work: each is made for one thing to be done, and taken apart again.

What an object is made of says all about what will come of it. So each thing is done by the real code once for each different object,
however many states of the whole it is part of; and a state of the whole is a handful of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from .frozen import Frozen, freeze, thaw
from .terms import Numbered


class Worker(Protocol):
    """One node in a model: the real object, and what the node did with it."""

    def wake(self) -> None:
        """It was made; what was left out comes back."""

    def rest(self) -> None:
        """It is about to be taken apart: leave out what has no say."""

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
        """What becomes of a member that does something, and what it says."""
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
