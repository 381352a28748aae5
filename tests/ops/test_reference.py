"""The page of metrics tells what the table of figures has."""

from __future__ import annotations

from pathlib import Path

import pytest

from ha_session_mw.ops.figures import FIGURES, Figure

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text("utf-8")


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_each_metric_has_its_row(figure: Figure) -> None:
    labels = ", ".join(f"`{label}`" for label in figure.labels) or "–"  # noqa: RUF001 - as in the other tables
    assert f"| `{figure.name}` | {figure.kind} | {labels} | {figure.help} |\n" in PAGE
