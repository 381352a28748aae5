"""A node without other clocks, on ``memory://`` and ``sqlite://``, whose wall clock is wrong for a while."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ha_session_mw._core.cluster.proven_lead import PROVEN_AFTER_S
from ha_session_mw.manager import node_of
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

from ..asgi.driver import Node

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

DAY_S = 24 * 3600


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Node]:
    cluster = "memory://" if request.param == "memory" else f"sqlite://{tmp_path / 'log.db'}"
    return lambda: Node(protect="/private", idle_timeout="12h", relaxed="/relaxed", cluster=cluster)


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


@pytest.mark.parametrize("seconds", [-121, -300, -3600, -DAY_S])
@pytest.mark.parametrize("runs", [False, True], ids=["by hand", "running"])
async def test_a_clock_that_was_set_back_for_good_takes_no_session_with_it(make: Callable[[], Node], seconds: float, *, runs: bool) -> None:
    node = make()
    async with AsyncExitStack() as stack:
        if runs:
            await stack.enter_async_context(node.manager.running())
        user = await node.logged_in()
        token = user.token
        node.clock.advance(5)
        node.clock.step_wall(seconds)
        answers = []
        for _ in range(int(PROVEN_AFTER_S) + 2):
            refresh(node)
            await until_nothing_moves()
            answers.append(await node.request(path="/private", token=token))
            node.clock.advance(1)
        codes = {"clock_untrusted" if answer.status == 503 else answer.status for answer in answers}
        assert codes == {"clock_untrusted", 200}
        assert (await user.visit(lambda session: session.update(n=1), path="/private")).token
        assert (await user.visit(lambda session: dict(session), path="/private")).result == {"n": 1}


async def test_a_token_from_the_future_of_another_clock_is_told_as_such(make: Callable[[], Node], tmp_path: Path) -> None:
    ahead = Node(clock=ManualClock(), cluster=f"sqlite://{tmp_path / 'another.db'}")
    ahead.clock.advance(200)
    token = (await ahead.logged_in()).token
    node = make()
    await node.logged_in()
    assert (await node.request(path="/private", token=token)).code == "token_not_yet_valid"


@pytest.mark.parametrize("log_out", ["subject", "everybody", "id"])
async def test_a_log_out_after_the_clock_was_set_back_ends_the_sessions_of_before(make: Callable[[], Node], log_out: str) -> None:
    """By the times alone, they seem to have begun after it, and to last longer than its entry."""
    node = make()
    user = await node.logged_in()
    token, id = user.token, (await user.visit(lambda session: session.id)).result
    node.clock.step_wall(-600)
    for seconds in (1, PROVEN_AFTER_S):
        node.clock.advance(seconds)
        refresh(node)
    assert (await node.request(path="/private", token=token)).status == 200
    if log_out == "id":
        await node.manager.revoke_session(id)
    else:
        await (node.manager.revoke_subject("ada") if log_out == "subject" else node.manager.revoke_everybody())
    for minutes in (0, 60 * 12 - 15, *[1] * 30):  # until the absolute end, and beyond
        node.clock.advance(60 * minutes)
        refresh(node)
        assert (await node.request(path="/private", token=token)).status == 401


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
