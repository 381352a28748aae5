"""Print what a drill does: one line per step, with the time that the step took."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_WHAT_WIDTH = 47
_ROW_WIDTH = 79
"""The row of a step under way must not wrap, or it could not be cleared."""
_ROW_ABOVE, _CLEAR_ROW = "\x1b[1A", "\r\x1b[2K"
_COLOURS = {"good": "32", "bad": "31", "soft": "2", "title": "1"}


class StepError(Exception):
    """A step of the drill failed. The story has printed the step and the reason."""


class Step:
    """One line of the story.

    Attributes:
        told: the outcome, in words.
        took_s: the time to print, if it is not the time of the whole step.
    """

    def __init__(self) -> None:
        self.told = ""
        self.took_s: float | None = None


class Story:
    """Prints chapters and steps: plain lines, or on a terminal a table whose last row shows the step under way.

    In colour on a terminal unless ``NO_COLOR`` is set.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._updates = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._coloured = self._out.isatty() and "NO_COLOR" not in os.environ
        self._under_way = False
        unicode = "utf" in (self._out.encoding or "utf").lower()
        self._ticks = ("✓", "✗") if unicode else ("ok", "FAILED")
        self.steps = 0

    def say(self, text: str = "", style: str = "") -> None:
        if self._under_way:
            self._under_way = False
            print(_CLEAR_ROW, end="", file=self._out)
        encoding = self._out.encoding or "utf-8"
        text = text.encode(encoding, "replace").decode(encoding)
        print(self._in(style, text), file=self._out, flush=True)

    def chapter(self, title: str) -> None:
        self.say()
        self.say(title, "title")
        if self._updates:
            self.say(f"    {'step':<{_WHAT_WIDTH}} {'time':>10}  outcome", "soft")

    def _begin_row(self, what: str) -> None:
        if self._updates:
            self.say(f"  - {what}"[:_ROW_WIDTH])
            print(_ROW_ABOVE, end="", file=self._out, flush=True)
            self._under_way = True

    @contextmanager
    def step(self, what: str) -> Iterator[Step]:
        """Print a step when its block ends.

        Raises:
            StepError: the block raised an exception.
        """
        step = Step()
        self._begin_row(what)
        began = time.perf_counter()
        try:
            yield step
        except Exception as exc:
            self.say(f"  {self._in('bad', self._ticks[1])} {what}")
            self.say(f"    {type(exc).__name__}: {exc}", "bad")
            raise StepError(what) from exc
        took_s = time.perf_counter() - began if step.took_s is None else step.took_s
        self.steps += 1
        self.say(f"  {self._in('good', self._ticks[0])} {what:<{_WHAT_WIDTH}} {_duration(took_s)}  {step.told}".rstrip())

    def _in(self, style: str, text: str) -> str:
        return f"\x1b[{_COLOURS[style]}m{text}\x1b[0m" if style and self._coloured else text


def _duration(seconds: float) -> str:
    return f"{seconds:7.2f} s " if seconds >= 1 else f"{seconds * 1000:7.1f} ms"
