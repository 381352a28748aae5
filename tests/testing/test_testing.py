"""The clocks that apps' tests move by hand."""

from __future__ import annotations

from random import Random

import anyio
import pytest

from ha_session_mw.manager import node_of
from ha_session_mw.testing import Cluster, Link, ManualClock, mint_session

from ..inside import peering_of


def test_time_passes_on_both_clocks_and_only_when_told(clock: ManualClock) -> None:
    boot_s, wall_s = clock.boot_s(), clock.wall_s()
    assert (clock.boot_s(), clock.wall_s()) == (boot_s, wall_s)

    clock.advance(2.5)

    assert (clock.boot_s(), clock.wall_s()) == (boot_s + 2.5, wall_s + 2.5)


def test_only_the_wall_clock_can_be_set_back(clock: ManualClock) -> None:
    boot_s, wall_s = clock.boot_s(), clock.wall_s()

    clock.step_wall(-3600)

    assert (clock.boot_s(), clock.wall_s()) == (boot_s, wall_s - 3600)
    with pytest.raises(ValueError, match="forwards only"):
        clock.advance(-1)


@pytest.mark.anyio
async def test_a_wait_ends_when_the_clock_was_moved_to_its_end(clock: ManualClock) -> None:
    async def pass_time(task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await anyio.lowlevel.checkpoint()
        clock.advance(0.9)
        clock.step_wall(100)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert not scope.cancel_called
        clock.advance(0.1)

    async with anyio.create_task_group() as tasks:
        with clock.move_on_after(1.0) as scope:
            await tasks.start(pass_time)
            await anyio.sleep_forever()

    assert scope.cancelled_caught


@pytest.mark.anyio
async def test_a_wait_of_nothing_ends_at_once_and_one_that_was_not_needed_is_forgotten(clock: ManualClock) -> None:
    with clock.move_on_after(0) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    with clock.move_on_after(1) as scope:
        pass
    clock.advance(2)
    assert not scope.cancel_called


@pytest.mark.anyio
async def test_a_clock_that_drifts_shows_another_time_and_says_when_it_will_show_the_next_end(clock: ManualClock) -> None:
    clock.rate = 1.25
    clock.advance(4)
    assert (clock.boot_s(), clock.wall_s()) == (1_005.0, 1_800_000_005.0)
    with clock.move_on_after(1):
        assert clock.until_next() == 0.8


@pytest.mark.anyio
async def test_nothing_ends_by_a_frozen_clock_before_it_is_thawed(clock: ManualClock) -> None:
    with clock.move_on_after(1) as scope:
        clock.freeze()
        clock.advance(2)
        assert not scope.cancel_called
        assert clock.until_next() is None
        clock.thaw()
        await anyio.sleep_forever()
    assert scope.cancelled_caught


def test_a_link_follows_its_faults() -> None:
    dice = Random(1)
    assert Link(delay_s=0.1).copies(dice) == [0.1]
    assert Link(cut=True).copies(dice) == Link(loss=1.0).copies(dice) == []
    assert len(Link(duplication=1.0).copies(dice)) == 2
    times = [Link(delay_s=1, jitter_s=2).copies(dice)[0] for _ in range(100)]
    assert 1 <= min(times) < 1.5 < 2.5 < max(times) <= 3
    link = Link(cut=True, loss=0.5, jitter_s=1)
    link.mend()
    assert link == Link()


@pytest.mark.anyio
async def test_a_frozen_node_does_not_answer_and_continues_where_it_was() -> None:
    async with Cluster() as cluster:
        await cluster.ready()
        a, b, c = cluster.nodes
        token = mint_session(a.manager, "ada")
        c.freeze()
        position = node_of(c.manager).log.index()
        await cluster.run(a.manager.revoke_session, "somebody".ljust(22, "-"))
        await cluster.advance(10)
        assert (c.frozen, node_of(c.manager).log.index()) == (True, position)
        assert (await b.get(token=token)).json()["subject"] == "ada"
        with pytest.raises(TimeoutError):
            await c.get(token=token)

        c.thaw()
        assert str(c.why_not_ready).startswith("out of contact with a majority of the members")
        await cluster.ready()
        assert (await c.get(token=token)).json()["subject"] == "ada"


@pytest.mark.anyio
async def test_a_frozen_node_may_be_killed_and_started_anew() -> None:
    async with Cluster() as cluster:
        await cluster.ready()
        c = cluster["c"]
        c.freeze()
        await c.kill()
        await c.start()
        await cluster.ready()


@pytest.mark.anyio
async def test_a_cluster_lives_with_links_that_lose_double_and_reorder() -> None:
    async with Cluster(seed=3) as cluster:
        await cluster.ready()
        for one in cluster.nodes:
            for other in cluster.nodes:
                link = cluster.link(one, other)
                link.loss, link.duplication, link.jitter_s = 0.1, 0.2, 0.05
        a, b, c = cluster.nodes
        token = mint_session(a.manager, "ada")
        assert (await b.post("/logout", token=token)).headers["session-revocation"] == "fenced"
        assert (await c.get(token=token)).json()["subject"] is None
        await cluster.advance(10)
        assert sum(peering_of(node.manager).server.refused for node in cluster.nodes) > 0  # calls that arrive twice
