"""A log-out of sessions that a node cannot know holds, although it ends with the absolute timeout of now, and theirs was longer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ha_session_mw.manager import node_of
from ha_session_mw.testing import Cluster, ManualClock, mint_session

from ..asgi.driver import Node

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

LONG_S, SHORT_S = 14 * 86_400, 3600
LogOut = Callable[[Any, str], Any]
LOG_OUTS: dict[str, LogOut] = {
    "a subject": lambda manager, _: manager.revoke_subject("ada"),
    "everybody": lambda manager, _: manager.revoke_everybody(),
    "an id": lambda manager, token: manager.revoke_session(token.split(".")[1]),
    "a key": lambda manager, token: manager.revoke_key(token.split(".")[2]),
}


@pytest.mark.parametrize("log_out", LOG_OUTS.values(), ids=LOG_OUTS)
async def test_no_token_from_before_the_timeout_was_shortened_outlives_its_log_out(
    clock: ManualClock, tmp_path: Path, log_out: LogOut
) -> None:
    cluster = f"sqlite://{tmp_path / 'log.db'}"
    before = Node(clock=clock, cluster=cluster, idle_timeout=LONG_S, absolute_timeout=LONG_S)
    ada = await before.logged_in()
    after = Node(clock=clock, cluster=cluster, idle_timeout=SHORT_S, absolute_timeout=SHORT_S, protect="/private")
    async with after.manager.running():
        assert (await log_out(after.manager, str(ada.token))).mode == "fenced"
        for _ in range(3 * SHORT_S // 60):
            clock.advance(60)
            node_of(after.manager).refresh()
            assert (await after.request(path="/private", token=ada.token)).status == 401
    assert len(node_of(after.manager).view) == 0, "the log-out has ended"


async def test_an_active_session_goes_on_and_one_that_was_not_used_for_the_new_timeout_ends(clock: ManualClock) -> None:
    def node(absolute_s: float) -> Node:
        return Node(clock=clock, idle_timeout=absolute_s, absolute_timeout=absolute_s, protect="/private")

    before, after = node(LONG_S), node(SHORT_S)
    active, idle = await before.logged_in("ada"), await before.logged_in("bob")
    active.node = idle.node = after
    for _ in range(4):
        clock.advance(SHORT_S * 0.6)
        assert (await active.visit(path="/private")).status == 200
    assert (await idle.visit(path="/private")).code == "session_idle_timeout"


async def test_a_rolling_restart_with_a_shorter_timeout_leaves_no_token_that_outlives_a_log_out() -> None:
    async with Cluster(idle_timeout="1h", absolute_timeout="1h", protect="/private") as cluster:
        await cluster.ready()
        token = mint_session(cluster.nodes[0].manager, "ada")
        for node in cluster.nodes:
            await node.stop()
            node.settings.update(idle_timeout="60s", absolute_timeout="60s")
            await node.start()
            await cluster.ready()
        assert (await cluster.run(cluster.nodes[1].manager.revoke_subject, "ada")).mode == "fenced"
        for _ in range(30):
            await cluster.advance(10)
            for node in cluster.nodes:
                assert (await node.get("/private", token=token)).status_code == 401
        assert not any(node_of(node.manager).view.known_cuts for node in cluster.nodes), "the log-out has ended"
