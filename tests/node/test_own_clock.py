"""A node without other clocks, on ``memory://`` and ``sqlite://``, whose wall clock is wrong for a while."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ha_session_mw.backends.common.own_clock import PROVEN_AFTER_S
from ha_session_mw.manager import node_of
from ha_session_mw.testing.stillness import until_nothing_moves

from ..asgi.driver import Node

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Node]:
    cluster = "memory://" if request.param == "memory" else f"sqlite://{tmp_path / 'log.db'}"
    return lambda: Node(protect="/private", relaxed="/relaxed", cluster=cluster)


def refresh(node: Node) -> None:
    node_of(node.manager).refresh()


@pytest.mark.parametrize("seconds", [DAY_S, -DAY_S, 90, -60])
async def test_a_step_of_the_clock_is_the_nodes_fault_and_ends_no_session(make: Callable[[], Node], seconds: float) -> None:
    node = make()
    user = await node.logged_in()
    token = user.token
    node.clock.step_wall(seconds)
    answers = [await node.request(path=path, token=token) for path in ("/private", "/", "/relaxed")]
    assert all(answer.status in (200, 503) and answer.token is None for answer in answers)  # the node looks once a second

    assert (await node.visitor().visit(lambda session: session.login("bob"))).code == "clock_untrusted"
    refresh(node)
    for path in ("/private", "/"):
        answer = await node.request(path=path, token=token)
        assert (answer.status, answer.code, answer.token) == (503, "clock_untrusted", None)
    assert (await node.request(path="/relaxed", token=token)).status in (200, 503)
    assert "clock" in (node.manager.why_not_ready() or "")

    node.clock.advance(2)
    node.clock.step_wall(-seconds)
    assert (await node.request(path="/private", token=token)).status == 200
    assert node.manager.why_not_ready() is None


async def test_a_node_that_runs_goes_on_while_its_clock_is_wrong(make: Callable[[], Node]) -> None:
    """Its tasks look again and again whether it has become right, and must let others run in between."""
    node = make()
    async with node.manager.running():
        user = await node.logged_in()
        node.clock.step_wall(DAY_S)
        for _ in range(3):
            node.clock.advance(1)
            await until_nothing_moves()
        assert (await user.visit(path="/private")).status == 503
        node.clock.advance(PROVEN_AFTER_S)
        await until_nothing_moves()
        assert node.manager.why_not_ready() is None


async def test_log_ins_after_a_wrong_clock_of_two_seconds_are_valid(make: Callable[[], Node]) -> None:
    node = make()
    node.clock.step_wall(DAY_S)
    for _ in range(2):
        refresh(node)
        node.clock.advance(1)
    node.clock.step_wall(-DAY_S)
    refresh(node)
    user = await node.logged_in()
    assert (await user.visit(path="/private")).status == 200


@pytest.mark.parametrize("seconds", [DAY_S, -90, 45])
async def test_a_clock_that_keeps_its_new_time_is_trusted_again(make: Callable[[], Node], seconds: float) -> None:
    node = make()
    node.clock.step_wall(seconds)
    refresh(node)
    node.clock.advance(PROVEN_AFTER_S - 1)
    refresh(node)
    assert node.manager.why_not_ready() is not None
    node.clock.advance(1)
    refresh(node)
    user = await node.logged_in()
    answer = await user.visit(lambda session: session.subject, path="/private")
    assert (answer.status, answer.result) == (200, "ada")


async def test_a_step_within_the_leeway_is_not_noticed(make: Callable[[], Node]) -> None:
    node = make()
    user = await node.logged_in()
    for seconds in (29, -58, 29):
        node.clock.step_wall(seconds)
        refresh(node)
        assert (await node.request(path="/private", token=user.token)).status == 200


async def test_many_small_steps_do_not_carry_the_trust_away(make: Callable[[], Node]) -> None:
    node = make()
    for _ in range(4):
        node.clock.step_wall(20)
        refresh(node)
        node.clock.advance(1)
    assert node.manager.why_not_ready() is not None


async def test_a_drift_is_followed(make: Callable[[], Node]) -> None:
    node = make()
    user = await node.logged_in()
    for _ in range(100):
        node.clock.advance(15)
        node.clock.step_wall(1)  # far more than any clock drifts
        refresh(node)
        assert (await user.visit(path="/private")).status == 200


async def test_a_revoked_session_stays_revoked_while_the_clock_is_wrong(make: Callable[[], Node]) -> None:
    node = make()
    user = await node.logged_in()
    token = user.token
    await user.visit(lambda session: session.clear())
    for seconds in (DAY_S, -2 * DAY_S, DAY_S):
        node.clock.step_wall(seconds)
        refresh(node)
        assert (await node.request(path="/private", token=token)).status in (401, 503)
    answer = await node.request(path="/private", token=token)
    assert (answer.status, answer.code) == (401, "session_revoked")
