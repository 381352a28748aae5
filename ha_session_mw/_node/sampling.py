"""Looks closer at one of 64 accepted requests, once figures are wanted: at its standing a while later, and at how long it was validated."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

from .second_look import SecondLook
from .validation import Accepted, TokenValidator

MOST_WAITING = 4096
"""The most samples that wait for :meth:`Sampling.take_in`. A node that runs takes them in each few seconds."""


class Sampling:
    """The samples of one node. Until :meth:`start`, there are none.

    A request only leaves its sample here. Later, all of them are taken in together, so no request takes the time for that.

    Args:
        validator: takes the samples.
        second_look: returns the object that looks at them again; None before the node is open.
    """

    def __init__(self, validator: TokenValidator, second_look: Callable[[], SecondLook | None]) -> None:
        self._validator = validator
        self._second_look = second_look
        self._waiting: deque[Accepted] = deque(maxlen=MOST_WAITING)

    def start(self) -> None:
        """Take samples from now on."""
        self._validator.on_sample = self._waiting.append

    def take_in(self) -> None:
        """Note how long the samples took, and have them looked at again."""
        cached, second_look = self._validator.durations["cached"], self._second_look()
        with suppress(IndexError):  # when none is left: another thread may scrape at the same time
            while True:
                verified, is_cached, begun_s, ended_s, ended_boot_s = self._waiting.popleft()
                took_s = max(0.0, ended_s - begun_s)
                if is_cached:
                    cached.observe(took_s)
                if second_look is not None:
                    # The process may have been paused since the decision. Its wall clock was read before that.
                    second_look.note(verified, ended_boot_s - took_s)
