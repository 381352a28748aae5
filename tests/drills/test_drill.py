"""The short drill: users of the client see nothing of a node that is killed."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from example_app.processes import running
from example_app.servers import cluster, new_secret

from .__main__ import MOST_SENT, drill


@pytest.mark.real
def test_users_of_the_client_see_no_error_and_no_log_in_when_a_node_is_killed(tmp_path: Path) -> None:
    nodes = cluster("abc", tmp_path, {"SECRET_KEY": new_secret(), "FRESHNESS_LIMIT": "2s"})
    with running(*nodes):
        found = anyio.run(lambda: drill(nodes, users=4, seconds=4.0, every_s=1.0))["this package's"]
    assert found.wanted > 20
    assert not found.errors, found.told("client")
    assert found.log_ins == 0
    assert found.let_in == 0
    assert found.sent <= MOST_SENT * found.wanted + 3
