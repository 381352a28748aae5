"""The form of a finding: a fact, and its remedy."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["error", "advice"]


class Finding(NamedTuple):
    """One finding.

    Attributes:
        level: ``error``: users or log-outs suffer, or will. ``advice``: it works, and could be better.
        check: the name of the check.
        text: what was found. It contains no secret.
        remedy: what to do.
    """

    level: Level
    check: str
    text: str
    remedy: str
