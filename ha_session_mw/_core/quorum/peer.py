"""What one node of ``peers://`` knows of another, and what it owes to it."""

from __future__ import annotations

import math
from collections import deque


class Peer:
    """What this node knows of, and owes to, one other member."""

    __slots__ = (
        *("answered_s", "callee", "changed", "echo", "echo_life", "fresh_s", "hold", "incarnation", "life"),
        *("mismatch", "polled_s", "position", "read_sent_s", "sequence", "unkept", "url"),
    )

    def __init__(self, url: str, now_s: float) -> None:
        self.url = url
        self.mismatch: str | None = None
        # Who it is.
        self.incarnation = ""
        self.life = ""
        self.sequence = 0
        """Up to where its own sequence is known to reach."""
        self.changed = False
        """Whether it has been heard as another incarnation before."""
        # Its sequence, read by us.
        self.callee = ""
        self.position = 0
        self.unkept: deque[tuple[int, int]] = deque()
        """What was received beyond ``position``, each with the position of our own sequence that must be kept first."""
        self.read_sent_s = -math.inf
        self.echo = 0
        self.echo_life = ""
        self.fresh_s = -math.inf
        """When the newest poll was sent that it has answered, completely and not recovering itself."""
        # Our sequence, read by it.
        self.hold: object = None
        """Its poll that is held, the newest one."""
        self.polled_s = -math.inf
        self.answered_s = now_s
        """When we last answered it. A process that has just begun cannot know what an earlier one answered until now."""

    def speaks_as(self, incarnation: str) -> None:
        """Take note of who speaks: what is known of one incarnation says nothing about the next."""
        if incarnation != self.incarnation:
            self.changed |= bool(self.incarnation)
            self.incarnation, self.sequence = incarnation, 0

    @property
    def read(self) -> int:
        """Up to where its sequence has been applied here, kept or not."""
        return self.unkept[-1][1] if self.unkept else self.position

    def keep(self, kept: int) -> None:
        """Our own sequence is kept up to there: what was received by then may be acknowledged."""
        while self.unkept and self.unkept[0][0] <= kept:
            self.position = max(self.position, self.unkept.popleft()[1])
