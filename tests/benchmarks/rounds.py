"""Time contenders in interleaved rounds, so that whatever else the machine does meets them all alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .contenders import Contender

BEFORE = 25
"""Requests that do not count, at the beginning of each round."""


@dataclass(frozen=True)
class Timing:
    """The time of one request in each round, in microseconds."""

    rounds_us: tuple[float, ...]

    @property
    def best_us(self) -> float:
        """Of the quietest round: noise only ever adds."""
        return min(self.rounds_us)

    @property
    def median_us(self) -> float:
        return statistics.median(self.rounds_us)


async def race(contenders: Sequence[Contender], *, requests: int, rounds: int) -> dict[str, Timing]:
    """The time that each contender takes for a request, by name. A first round warms up and is not counted."""
    taken_us: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(rounds + 1):
        for contender in contenders:
            taken = await _time_one(contender, requests)
            if number:
                taken_us[contender.name].append(taken)
    return {name: Timing(tuple(taken)) for name, taken in taken_us.items()}


async def _time_one(contender: Contender, requests: int) -> float:
    """The time of a request, after some that do not count: the contender before, and the collection, have had the processor's caches."""
    gc.collect()
    await contender.batch(min(requests, BEFORE))
    batch = contender.batch(requests)
    begun_ns = time.perf_counter_ns()
    await batch
    return (time.perf_counter_ns() - begun_ns) / 1000 / requests
