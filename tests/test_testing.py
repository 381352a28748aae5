"""The clocks that apps' tests move by hand."""

from __future__ import annotations

import anyio
import pytest

from ha_session_mw.testing import ManualClock


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
