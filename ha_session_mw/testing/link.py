"""The way from one node of a cluster in one process to another: it can be cut, is slow, and loses, doubles, garbles and replays."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass
class Link:
    """The way from one node to another. May be changed at any time.

    Attributes:
        cut: what is sent is lost, and what would arrive now, and nobody is told.
        delay_s: how long it takes.
        jitter_s: how much longer it may take, each time anew, so that what was sent later may arrive earlier.
        loss: how often what is sent is lost, between 0 and 1.
        duplication: how often a call is carried twice, between 0 and 1; the copy takes a time of its own.
        garbles: a bit of each body is turned over.
        replays: each call arrives a second time, right after it was answered.
    """

    cut: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    garbles: bool = False
    replays: bool = False

    def mend(self) -> None:
        """It carries everything at once again."""
        self.__init__()  # type: ignore[misc]

    def copies(self, dice: Random) -> list[float]:
        """After how long each copy arrives of what is sent now; none where it is lost."""
        if self.cut or _falls(self.loss, dice):
            return []
        return [self._time_s(dice) for _ in range(1 + _falls(self.duplication, dice))]

    def _time_s(self, dice: Random) -> float:
        return self.delay_s + (dice.uniform(0, self.jitter_s) if self.jitter_s else 0.0)

    def as_it_arrives(self, body: bytes) -> bytes:
        """What is left of a body."""
        return bytes([body[0] ^ 1]) + body[1:] if self.garbles and body else body


def _falls(chance: float, dice: Random) -> bool:
    return chance > 0 and dice.random() < chance
