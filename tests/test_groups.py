"""Tests that share servers run in one process, also where several processes share the tests."""

from __future__ import annotations

import pytest


@pytest.mark.real
def test_the_real_servers_of_a_file_are_started_once(request: pytest.FixtureRequest) -> None:
    """pytest-xdist tells groups apart by the end of a test's id. It puts the group there, which not every pytest permits."""
    with_groups = getattr(request.config.option, "loadgroup", False)
    assert request.node.nodeid.endswith("@test_groups.py") == with_groups
