"""Counts what a request costs, in units that do not depend on the machine: executed lines, and characters that are worked on."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ha_session_mw

PACKAGE = str(Path(ha_session_mw.__file__).parent)
FREE = frozenset({"startswith", "endswith", "get", "append", "pop", "popitem", "add", "items", "isascii", "keys", "values", "setdefault"})
"""Methods whose cost does not depend on the object's size, or ends at the first wrong character."""


@dataclass
class Cost:
    """The cost of some work of the package.

    Attributes:
        lines: how many lines were executed.
        characters: how many characters C functions were called with, and how many were copied out of a client's text.
    """

    lines: int = 0
    characters: int = 0


@contextmanager
def metered() -> Iterator[Cost]:
    """Count the cost of the package's code within the block."""
    cost = Cost()

    def on_line(frame: FrameType, event: str, _: Any) -> Any:
        cost.lines += event == "line"
        return on_line

    def on_call(frame: FrameType, event: str, _: Any) -> Any:
        return on_line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def on_c_call(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        of = getattr(function, "__self__", None)
        if isinstance(of, re.Pattern):  # its argument is one of these
            cost.characters += max((len(value) for value in frame.f_locals.values() if isinstance(value, str | bytes)), default=0)
        elif isinstance(of, str | bytes) and not isinstance(of, Text | Octets) and function.__name__ not in FREE:
            cost.characters += len(of)

    Text.cost = Octets.cost = cost
    trace, profile = sys.gettrace(), sys.getprofile()
    gc.disable()  # other tests have left garbage that runs code when it is collected
    sys.settrace(on_call)
    sys.setprofile(on_c_call)
    try:
        yield cost
    finally:
        sys.setprofile(profile)
        sys.settrace(trace)
        gc.enable()


class Octets(bytes):
    """Bytes of a client, which count the bytes that are looked at. Work on all of them at once counts all of them."""

    cost = Cost()

    def __getitem__(self, key: Any) -> Any:
        found = bytes.__getitem__(self, key)
        self.cost.characters += len(found) if isinstance(found, bytes) else 1
        return found

    def __getattribute__(self, name: str) -> Any:
        if name not in FREE and name not in ("cost", "find", "rfind", "__class__"):
            Octets.cost.characters += len(self)
        return bytes.__getattribute__(self, name)

    def find(self, *args: Any) -> int:
        found = bytes.find(self, *args)
        self.cost.characters += (found if found >= 0 else len(self)) - (args[1] if len(args) > 1 else 0)
        return found

    def rfind(self, *args: Any) -> int:
        found = bytes.rfind(self, *args)
        self.cost.characters += args[2] - max(found, args[1])
        return found

    def __hash__(self) -> int:
        Octets.cost.characters += len(self)
        return bytes.__hash__(self)

    def __eq__(self, other: object) -> bool:
        Octets.cost.characters += len(self) if isinstance(other, bytes) and len(other) == len(self) else 0
        return bytes.__eq__(self, other)

    def __contains__(self, other: Any) -> bool:
        Octets.cost.characters += len(self)
        return bytes.__contains__(self, other)


class Text(str):
    """The same for a text."""

    __slots__ = ()
    cost = Cost()

    def __getitem__(self, key: Any) -> str:
        found = str.__getitem__(self, key)
        self.cost.characters += len(found)
        return found

    def __getattribute__(self, name: str) -> Any:
        if name not in FREE and name not in ("cost", "__class__"):
            Text.cost.characters += len(self)
        return str.__getattribute__(self, name)

    def __hash__(self) -> int:
        Text.cost.characters += len(self)
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        Text.cost.characters += len(self) if isinstance(other, str) and len(other) == len(self) else 0
        return str.__eq__(self, other)

    def __contains__(self, other: Any) -> bool:
        Text.cost.characters += len(self)
        return str.__contains__(self, other)
