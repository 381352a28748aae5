"""Print what a command found: as a table for people, or as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

LONGEST_CELL = 120
"""How many characters of a text from elsewhere are shown."""


class Above0(click.FloatRange):
    """A number of seconds above 0. Not a number, such as ``nan``, is none."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return number


POSITIVE = Above0()


def output(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``-o``, as ``output``."""
    choice = click.Choice(["table", "json"])
    return click.option("-o", "--output", type=choice, default="table", show_default=True, help="For people, or for programs.")(command)


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    import msgspec  # JSON of the standard library knows no times

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows below a head, in columns that are as wide as they must be."""
    cells = [[cell(value) for value in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(head, *cells, strict=True)]
    for line in (list(head), *cells):
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def cell(value: object) -> str:
    """Return a value as one short line. A text may come from a client, so nothing in it reaches the terminal but what can be printed."""
    if value is None or value == "":
        return "-"
    text = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(value))
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def known_age(status: Mapping[str, Any]) -> float | None:
    """Return the age of what a node knows, in seconds, or None if it knows nothing yet."""
    age_s: float | None = status["freshness_age_s"]  # endless in MessagePack, and null in JSON, at a node that has learned nothing
    return age_s if age_s is not None and math.isfinite(age_s) else None


def number(value: float) -> str:
    """Return three digits, and more where there are more before the point: never an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def seconds(value: float | None) -> str | None:
    """Return a short text for a number of seconds: ``12 ms``, ``3.4 s``, ``5 min``, ``2.5 h``, ``12 d``."""
    if value is None:
        return None
    size = abs(value)
    for least, unit_s, unit in ((2 * 86400, 86400, "d"), (2 * 3600, 3600, "h"), (120, 60, "min"), (1, 1, "s")):
        if size >= least:
            return f"{number(value / unit_s)} {unit}"
    return f"{value * 1000:.0f} ms"
