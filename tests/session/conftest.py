from __future__ import annotations

import pytest

from ha_session_mw.testing import ManualClock

from ..asgi.driver import Node


@pytest.fixture
def node(clock: ManualClock) -> Node:
    """A node with default settings, and clocks that stand still."""
    return Node(clock=clock)
