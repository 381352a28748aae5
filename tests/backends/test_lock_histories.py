"""Random histories of holders that pause, lose their network, return and are cancelled: at most one can write at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import anyio
import anyio.abc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ha_session_mw import LockLost, SessionLocked, StoreUnavailable
from ha_session_mw.abc import Grant, LockService
from ha_session_mw.testing import LockNode

from ..testing.contracts.test_locks import Memory, OneClock, OneMachine

LEASE_S = 6.0
NAMES = ("x", "y")

Cut = Literal["no", "there", "back"]
"""The state of a link: it works, loses requests, or loses answers only."""


class Step(NamedTuple):
    """One step of a history: which node does what, to which lock or grant."""

    does: Literal["ask", "wait", "cancel", "renew", "release", "write", "cut", "pass"]
    desk: int = 0
    which: int = 0
    seconds: float = 0.0
    cut: Cut = "no"


steps = st.builds(
    Step,
    does=st.sampled_from(["ask", "ask", "wait", "wait", "cancel", "renew", "release", "write", "write", "cut", "pass", "pass"]),
    desk=st.integers(0, 2),
    which=st.integers(0, 50),
    seconds=st.sampled_from([0.1, 1.0, LEASE_S / 3, LEASE_S - 0.1, LEASE_S, 2 * LEASE_S]),
    cut=st.sampled_from(["no", "there", "back"]),
)


class Holder(NamedTuple):
    """A grant, as its holder sees it."""

    desk: int
    grant: Grant


class History:
    """Nodes that share one lock service, each behind a link that can be cut."""

    def __init__(self, nodes: OneClock, tasks: anyio.abc.TaskGroup) -> None:
        self.nodes = nodes
        self.tasks = tasks
        self.cuts: list[Cut] = ["no"] * 3
        self.holders: list[Holder] = []
        self.granted: dict[str, int] = {}
        self.waiting: list[anyio.CancelScope] = []

    def desk(self, number: int) -> LockNode:
        return self.nodes.desks[number % len(self.nodes.desks)]

    @contextmanager
    def link(self, number: int) -> Iterator[None]:
        """Call over the link. The call may have been done although its answer is lost."""
        if self.cuts[number] == "there":
            raise StoreUnavailable("cut off")
        yield
        if self.cuts[number] == "back":
            raise StoreUnavailable("cut off")

    async def play(self, step: Step) -> None:
        try:
            await getattr(self, f"do_{step.does}")(step)
        except (SessionLocked, LockLost, StoreUnavailable):
            return
        finally:
            await self.settle()
            await self.judge()

    async def settle(self) -> None:
        while True:
            await anyio.wait_all_tasks_blocked()
            if not self.nodes.is_busy():
                return
            await anyio.sleep(0.0005)

    async def do_ask(self, step: Step) -> None:
        await self.acquire(step, 0)

    async def do_wait(self, step: Step) -> None:
        scope = anyio.CancelScope()
        self.waiting.append(scope)
        self.tasks.start_soon(self.wait, step, scope)

    async def wait(self, step: Step, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                await self.acquire(step, 5 * LEASE_S)
            except (SessionLocked, StoreUnavailable):
                return

    async def acquire(self, step: Step, within_s: float) -> None:
        name = NAMES[step.which % 2]
        with self.link(step.desk):
            grant = await self.desk(step.desk).locks.acquire(name, within_s=within_s, lease_s=LEASE_S)
            assert grant.fence > self.granted.get(name, 0), "a number was granted again, or a lower one"
            self.granted[name] = grant.fence
        self.holders.append(Holder(step.desk, grant))

    async def do_cancel(self, step: Step) -> None:
        if self.waiting:
            self.waiting.pop(step.which % len(self.waiting)).cancel()

    async def do_renew(self, step: Step) -> None:
        if self.holders:
            place = step.which % len(self.holders)
            desk, grant = self.holders[place]
            with self.link(desk):
                grant = await self.desk(desk).locks.renew(grant, lease_s=LEASE_S)
            self.holders[place] = Holder(desk, grant)

    async def do_release(self, step: Step) -> None:
        if self.holders:
            desk, grant = self.holders[step.which % len(self.holders)]
            with self.link(desk):
                await self.desk(desk).locks.release(grant)

    async def do_write(self, step: Step) -> None:
        if self.holders:
            desk, grant = self.holders[step.which % len(self.holders)]
            with self.link(desk):
                await self.desk(desk).write(grant.name, b"", grant)

    async def do_cut(self, step: Step) -> None:
        self.cuts[step.desk] = step.cut

    async def do_pass(self, step: Step) -> None:
        """Let time pass in steps: each wait ends at its moment, and no task runs in between."""
        for _ in range(4):
            self.nodes.clock.advance(step.seconds / 4)
            await self.settle()

    async def judge(self) -> None:
        """Assert that only the last grant of each name can write, at a store that can be reached."""
        for name in NAMES:
            told = [holder for holder in self.holders if holder.grant.name == name]
            able = {holder.grant.fence for holder in told if await self.can_write(holder)}
            assert able <= {self.granted.get(name, 0)}, "an older holder can write"

    async def can_write(self, holder: Holder) -> bool:
        try:
            await self.desk(holder.desk).write(holder.grant.name, b"", holder.grant)
        except LockLost:
            return False
        return True


# On trio, which can tell at once that all tasks wait; anyio has to try again and again for asyncio.
async def play(open: Callable[[], OneClock], history: list[Step]) -> None:
    nodes = open()
    try:
        async with anyio.create_task_group() as tasks:
            played = History(nodes, tasks)
            for step in history:
                await played.play(step)
            tasks.cancel_scope.cancel()
    finally:
        nodes.close()


@given(st.lists(steps, min_size=5, max_size=40))
def test_in_memory_at_most_one_fencing_number_can_write_at_any_moment(history: list[Step]) -> None:
    anyio.run(play, Memory, history, backend="trio")


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=10, max_size=30))
def test_on_one_machine_at_most_one_fencing_number_can_write_at_any_moment(history: list[Step]) -> None:
    with TemporaryDirectory() as folder:
        anyio.run(play, lambda: OneMachine(Path(folder) / "sessions.db-records"), history, backend="trio")


# The checker finds each broken rule.


class Reviving(Memory):
    """A service that never expires a fencing number."""

    def __init__(self) -> None:
        super().__init__()
        locks: LockService = self.desks[0].locks
        locks.require = lambda grant: None  # type: ignore[attr-defined]
        self.desks = [self.desk(locks)]  # type: ignore[arg-type]


def test_a_service_that_lets_an_older_holder_write_is_detected() -> None:
    history = [Step("ask"), Step("pass", seconds=LEASE_S), Step("ask", 1)]
    anyio.run(play, Memory, history, backend="trio")
    with pytest.raises(BaseExceptionGroup) as caught:
        anyio.run(play, Reviving, history, backend="trio")
    assert caught.group_contains(AssertionError, match="an older holder can write")
