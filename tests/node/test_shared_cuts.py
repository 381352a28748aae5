"""One user's log-outs everywhere make few entries, however often they are repeated, and none is refused or forgotten."""

from __future__ import annotations

import anyio
import pytest

from ha_session_mw import QuorumLost
from ha_session_mw._node.pace import WITHIN_S, LogInPace
from ha_session_mw._node.shared_cuts import SharedCuts
from ha_session_mw.models import Acknowledgement, Cut, CutId
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

pytestmark = pytest.mark.anyio

PER_SUBJECT = 10
EVERY_S = WITHIN_S / PER_SUBJECT


class Logs:
    """Log-outs everywhere that wait for their turn, and the entries that were written for them."""

    def __init__(self, clock: ManualClock) -> None:
        self.turns = SharedCuts(clock, LogInPace(clock, per_subject=PER_SUBJECT, per_address=None))
        self.entries: list[Cut] = []
        self.done: list[str] = []
        self.refusals = 0

    async def log_out(self, name: str = "", *, subject: str = "ada", kept: str | None = None) -> None:
        def make() -> Cut:
            return Cut(CutId(f"{len(self.entries)}"), subject, 0)

        await self.turns.take_turn(subject, kept, make, self.write)
        self.done.append(name)

    async def write(self, cut: Cut) -> Acknowledgement:
        self.entries.append(cut)
        await anyio.lowlevel.checkpoint()
        if self.refusals:
            self.refusals -= 1
            raise QuorumLost("nobody there")
        return Acknowledgement(mode="fenced", waited_s=0.0)

    async def use_up(self) -> None:
        for _ in range(PER_SUBJECT):
            await self.log_out()
        self.entries.clear()
        self.done.clear()


@pytest.fixture
def logs(clock: ManualClock) -> Logs:
    return Logs(clock)


async def test_the_usual_one_waits_for_nothing_and_has_an_entry_of_its_own(logs: Logs) -> None:
    for _ in range(PER_SUBJECT):
        await logs.log_out()
    assert len(logs.entries) == PER_SUBJECT
    await logs.log_out(subject="bob")
    assert len(logs.turns) == 0


async def test_those_that_wait_for_the_same_turn_share_an_entry_that_was_made_after_all_of_them(logs: Logs, clock: ManualClock) -> None:
    await logs.use_up()
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(logs.log_out)
        await until_nothing_moves()
        assert (logs.entries, len(logs.turns)) == ([], 1)
        clock.advance(EVERY_S)
    assert len(logs.entries) == 1
    assert len(logs.done) == 50


async def test_one_that_comes_while_an_entry_is_written_waits_for_the_next(logs: Logs, clock: ManualClock) -> None:
    await logs.use_up()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(logs.log_out)
        await until_nothing_moves()
        clock.advance(EVERY_S)
        while not logs.entries:
            await anyio.lowlevel.checkpoint()
        tasks.start_soon(logs.log_out)
        await until_nothing_moves()
        assert len(logs.entries) == 1
        clock.advance(EVERY_S)
    assert len(logs.entries) == 2


async def test_those_that_keep_different_sessions_share_nothing(logs: Logs, clock: ManualClock) -> None:
    await logs.use_up()
    async with anyio.create_task_group() as tasks:
        for kept in ("laptop", "phone", None):
            tasks.start_soon(lambda kept: logs.log_out(kept=kept), kept)
        await until_nothing_moves()
        clock.advance(3 * EVERY_S)
    assert len(logs.entries) == 3


async def test_one_that_is_cancelled_takes_no_other_with_it(logs: Logs, clock: ManualClock) -> None:
    await logs.use_up()
    with anyio.CancelScope() as gone:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(logs.log_out)
            await until_nothing_moves()
            gone.cancel()
    assert len(logs.turns) == 0
    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def gives_up() -> None:
            with scope:
                await logs.log_out("gave up")

        tasks.start_soon(gives_up)
        tasks.start_soon(logs.log_out, "stayed")
        await until_nothing_moves()
        scope.cancel()
        await until_nothing_moves()
        clock.advance(2 * EVERY_S)
    assert logs.done == ["stayed"]
    assert len(logs.entries) == 1


async def test_an_entry_that_cannot_be_written_is_tried_by_each_of_its_callers(logs: Logs, clock: ManualClock) -> None:
    await logs.use_up()
    logs.refusals, failed = 1, []

    async def log_out() -> None:
        try:
            await logs.log_out()
        except QuorumLost as problem:
            failed.append(problem)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(log_out)
        await until_nothing_moves()
        clock.advance(EVERY_S)
    assert (len(failed), len(logs.done)) == (1, 2)
    assert len(logs.entries) == 2
    assert len(set(logs.entries)) == 1, "the same one, which does no harm twice"


async def test_without_a_pace_each_has_an_entry_at_once(clock: ManualClock) -> None:
    logs = Logs(clock)
    logs.turns = SharedCuts(clock, LogInPace(clock, per_subject=None, per_address=None))
    for _ in range(3 * PER_SUBJECT):
        await logs.log_out()
    assert len(logs.entries) == 3 * PER_SUBJECT
