"""Fixtures of the clusters: three nodes in memory, and one order of tasks for each seed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import pytest

from ha_session_mw.testing import Cluster

from .visits import obliging


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Three nodes that judge sessions."""
    async with Cluster(app=obliging, protect="/private*") as cluster:
        await cluster.ready()
        yield cluster


@pytest.fixture
def one_order_for_a_seed(anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make trio run ready tasks in an order that depends only on a fixed seed. By default the order is random."""
    if anyio_backend_name == "trio":
        monkeypatch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
        monkeypatch.setattr("trio._core._run._r", Random(0))
