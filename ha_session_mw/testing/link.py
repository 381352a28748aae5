"""A link between two nodes in one process, which can be cut, delay, lose, duplicate, corrupt and replay messages."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass
class Link:
    """The link from one node to another. It may be changed at any time.

    Attributes:
        cut: messages are lost silently, those under way, too.
        delay_s: seconds that a message takes.
        jitter_s: seconds that a message may take longer, drawn for each message, so that a later one may overtake it.
        loss: share of messages that are lost, between 0 and 1.
        duplication: share of calls that are carried twice, between 0 and 1; the copy takes a time of its own.
        garbles: whether one bit of each body is flipped.
        replays: whether each call arrives a second time, right after it was answered.
    """

    cut: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    garbles: bool = False
    replays: bool = False

    def mend(self) -> None:
        """Reset the link: every message arrives at once again."""
        self.__init__()  # type: ignore[misc]

    def copies(self, dice: Random) -> list[float]:
        """Return the seconds after which each copy of a message that is sent now arrives; no copy if it is lost."""
        if self.cut or _falls(self.loss, dice):
            return []
        return [self._time_s(dice) for _ in range(1 + _falls(self.duplication, dice))]

    def _time_s(self, dice: Random) -> float:
        return self.delay_s + (dice.uniform(0, self.jitter_s) if self.jitter_s else 0.0)

    def as_it_arrives(self, body: bytes) -> bytes:
        """Return a body as it arrives."""
        return bytes([body[0] ^ 1]) + body[1:] if self.garbles and body else body


def _falls(chance: float, dice: Random) -> bool:
    return chance > 0 and dice.random() < chance
