"""Looks closer at one of 64 accepted requests, once figures are wanted: at its standing a while later, and at how long the next takes."""

from __future__ import annotations

from collections.abc import Callable

from .._core.token.tokens import Verified
from .second_look import SecondLook
from .validation import TokenValidator


class Sampling:
    """The samples of one node. Until :meth:`start`, there are none.

    Args:
        validator: takes the samples.
        second_look: returns the object that looks at them again; None before the node is open.
    """

    def __init__(self, validator: TokenValidator, second_look: Callable[[], SecondLook | None]) -> None:
        self._validator = validator
        self._second_look = second_look
        self._callbacks: list[Callable[[], None]] = []

    def on_sample(self, callback: Callable[[], None]) -> None:
        """Call a function with each sample. It returns at once."""
        self._callbacks.append(callback)

    def start(self) -> None:
        """Take samples from now on."""
        self._validator.on_sample = self._sample

    def _sample(self, verified: Verified, decided_s: float) -> None:
        if (second_look := self._second_look()) is not None:
            second_look.note(verified, decided_s)
        for callback in self._callbacks:
            callback()
