"""Which paths need a session, and on which none is looked at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Literal

PathKind = Literal["open", "protected", "exempt"]


class PathRules:
    """Sorts paths by patterns in which ``*`` stands for any characters, in upper and lower case as written (``fnmatchcase``).

    A path that is both exempt and protected is protected: of two rules in contradiction the safe one holds.
    """

    def __init__(self, *, protect: Sequence[str], exempt: Sequence[str], relaxed: Sequence[str] = ()) -> None:
        self._protect = _union(protect)
        self._exempt = _union(exempt)
        self._relaxed = _union(relaxed)
        self._remembered = lru_cache(maxsize=1024)(self._kind_of)

    def __bool__(self) -> bool:
        return self._protect is not None or self._exempt is not None

    def kind_of(self, path: str) -> PathKind:
        """The kind of a path below the app's root path."""
        # Long paths come from nobody's router; remembering them would let a client fill the memory.
        return self._remembered(path) if len(path) < 256 else self._kind_of(path)

    def is_relaxed(self, path: str) -> bool:
        """Whether a path may be served on a stale view."""
        return self._relaxed is not None and self._relaxed.match(path) is not None

    def _kind_of(self, path: str) -> PathKind:
        if self._protect and self._protect.match(path):
            return "protected"
        if self._exempt and self._exempt.match(path):
            return "exempt"
        return "open"


def _union(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(translate(pattern) for pattern in patterns)) if patterns else None


def below_root(path: str, root_path: str) -> str:
    """The part of a request's path that the app routes by."""
    if root_path and path.startswith(root_path) and path[len(root_path) : len(root_path) + 1] in ("", "/"):
        return path[len(root_path) :] or "/"
    return path
