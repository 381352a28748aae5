from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ha_session_mw.testing import Cluster

from .visits import obliging


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Three nodes that judge sessions."""
    async with Cluster(app=obliging, protect="/private*") as cluster:
        await cluster.ready()
        yield cluster
