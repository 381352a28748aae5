"""A process that is stopped between any two steps of the accept rule, while the rest of the world goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from ha_session_mw._core.accept_rule import CannotTell
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.exceptions import ClockUntrusted, SessionRevoked, StateStale
from ha_session_mw.manager import node_of
from ha_session_mw.testing import Cluster, Node, mint_session

from .steps import SteppedClock, Steps

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

HOUR_S = 3600
EVERY_STEP = range(6)
"""More than there are: the last of them find the check at its end."""


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Three nodes that judge sessions, and can be stopped wherever they look at a clock."""
    cluster = Cluster(protect="/private*")
    for node in cluster.nodes:
        node.clock = SteppedClock()
    async with cluster:
        await cluster.ready()
        yield cluster


def paused_at(step: int, check: Callable[[bytes], Verified | CannotTell], token: bytes) -> Steps[Verified | CannotTell]:
    steps = Steps(check, token)
    for _ in range(step + 1):
        if not steps.go_on():
            break
    return steps


def checks(node: Node) -> list[Callable[[bytes], Verified | CannotTell]]:
    """At its first sight, and once it is known."""
    return [lambda token: node_of(node.manager).validator.validate_new(token, token), node_of(node.manager).validator.validate]


@pytest.mark.parametrize("step", EVERY_STEP)
async def test_a_session_that_is_revoked_during_the_pause_is_not_accepted_for_later_requests(cluster: Cluster, step: int) -> None:
    a, _, c = cluster.nodes
    for check in checks(c):
        token = mint_session(a.manager, "ada")
        cluster.cut(c)
        assert (await a.post("/logout", token=token)).headers["session-revocation"] == "fenced"
        steps = paused_at(step, check, token.encode())
        cluster.heal(c)
        await cluster.ready()
        try:
            outcome = steps.result()
        except SessionRevoked:
            continue
        assert isinstance(outcome, CannotTell)
        assert isinstance(outcome.problem, StateStale | ClockUntrusted)


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
@pytest.mark.parametrize("step", EVERY_STEP)
async def test_a_wrong_clock_that_is_corrected_during_the_pause_refuses_no_request(cluster: Cluster, step: int, seconds: float) -> None:
    a, _, c = cluster.nodes
    for check in checks(c):
        token = mint_session(a.manager, "ada").encode()
        c.clock.step_wall(seconds)
        await cluster.advance(1)
        steps = paused_at(step, check, token)
        c.clock.step_wall(-seconds)
        steps.result()  # accepts, or cannot tell


@pytest.mark.parametrize("others_go_on", [False, True])
@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
@pytest.mark.parametrize("step", EVERY_STEP)
async def test_a_clock_that_is_set_wrong_during_the_pause_refuses_no_request(
    cluster: Cluster, step: int, seconds: float, others_go_on: bool
) -> None:
    a, _, c = cluster.nodes

    def check_again(token: bytes) -> Verified | CannotTell:
        """As at the end of a request, whose session must not have been revoked meanwhile."""
        verified = node_of(c.manager).validator.verify(token)
        assert verified is not None
        assert node_of(c.manager).validator.may_be_valid(verified)
        return verified

    for check in (*checks(c), check_again):
        token = mint_session(a.manager, "ada").encode()
        steps = paused_at(step, check, token)
        c.clock.step_wall(seconds)
        if others_go_on:  # in another thread of this process, which hears of the members meanwhile
            await cluster.advance(1)
        steps.result()
        c.clock.step_wall(-seconds)
        await cluster.advance(1)
