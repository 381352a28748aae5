"""Which instances of a costly test ``make test`` runs. ``make prove`` runs the others, too."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def thinned(values: Iterable[Any], kept: Container[Any]) -> list[ParameterSet]:
    """Return parameters for a test, of which ``make test`` runs only those in ``kept``."""
    return [pytest.param(value, marks=() if value in kept else pytest.mark.prove) for value in values]
