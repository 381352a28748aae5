"""Notes about ids reach all nodes, and in a storm many of them share one entry of the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.cluster.view import SUPERSEDED_MS, View
from ha_session_mw._node.notes import HAS_SUCCESSOR, MOST_TOGETHER, MOVED_ON, TOGETHER_S, Notes
from ha_session_mw.backends.memory.log import MemoryLog
from ha_session_mw.models import Deny, Entry, NodeId, SessionId
from ha_session_mw.testing import ManualClock

pytestmark = pytest.mark.anyio

OWN = Heartbeat(NodeId("me"), "life", "", "ready", 1, 0, (), 5.0, 3_600_000)
A, B, C = SessionId("a"), SessionId("b"), SessionId("c")


class Log(MemoryLog):
    """A log that lists what it was given, one list for each call."""

    def __init__(self, view: View, clock: ManualClock) -> None:
        super().__init__(view, clock, OWN)
        self.applied: list[list[Entry]] = []

    def apply(self, entries: Sequence[Entry]) -> None:
        self.applied.append([*entries])
        super().apply(entries)

    def names(self) -> list[list[str]]:
        return [[entry.id for entry in entries if isinstance(entry, Deny)] for entries in self.applied]


class Noted:
    """The notes of a node, and those of another one, which reads the log of the first."""

    def __init__(self, clock: ManualClock) -> None:
        self.is_leaving = False
        self.view = View()
        self.log = Log(self.view, clock)
        self.own, self.other = (Notes(clock, log=lambda: self.log, is_leaving=lambda: self.is_leaving) for _ in range(2))
        self.view.on_news = self.on_news

    def on_news(self, entries: Sequence[Entry]) -> None:
        for notes in (self.own, self.other):
            notes.on_news(entries)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.own.run)
            await settled()
            yield
            tasks.cancel_scope.cancel()


@pytest.fixture
def noted(clock: ManualClock) -> Noted:
    return Noted(clock)


async def settled() -> None:
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


async def test_a_note_reaches_the_other_nodes_at_once_after_a_quiet_time(noted: Noted) -> None:
    async with noted.running():
        noted.own.note(MOVED_ON, [A, B], 10_000)
        assert noted.log.names() == [[f"{MOVED_ON}a,b"]]
    for notes in (noted.own, noted.other):
        assert notes.has(MOVED_ON, A)
        assert notes.has(MOVED_ON, B)
        assert not notes.has(MOVED_ON, C)
        assert not notes.has(HAS_SUCCESSOR, A)


async def test_the_notes_of_a_moment_share_one_entry_and_count_here_at_once(noted: Noted, clock: ManualClock) -> None:
    async with noted.running():
        for id in (A, B, C):
            noted.own.note(MOVED_ON, [id], 10_000)
        assert noted.own.has(MOVED_ON, C)
        assert not noted.other.has(MOVED_ON, C)
        await settled()
        clock.advance(TOGETHER_S)
        await settled()
        assert noted.other.has(MOVED_ON, C)
        clock.advance(TOGETHER_S)
        noted.own.note(HAS_SUCCESSOR, [A], 10_000)
    assert noted.log.names() == [[f"{MOVED_ON}a"], [f"{MOVED_ON}b,c"], [f"{HAS_SUCCESSOR}a"]]


async def test_an_entry_has_so_many_notes_at_most(noted: Noted) -> None:
    ids = [SessionId(f"{number}") for number in range(MOST_TOGETHER + 1)]
    noted.own.note(MOVED_ON, ids, 10_000)
    (names,) = noted.log.names()
    assert [len(name.split(",")) for name in names] == [MOST_TOGETHER, 1]
    assert all(noted.other.has(MOVED_ON, id) for id in ids)


async def test_notes_wait_for_nothing_on_a_node_that_is_about_to_stop_or_does_not_run(noted: Noted) -> None:
    noted.own.note(MOVED_ON, [A], 10_000)
    noted.own.note(MOVED_ON, [B], 10_000)
    assert len(noted.log.applied) == 2
    async with noted.running():
        noted.own.note(MOVED_ON, [A], 10_000)
        noted.is_leaving = True
        noted.own.note(MOVED_ON, [C], 10_000)
    assert noted.other.has(MOVED_ON, C)


async def test_a_note_ends_by_each_nodes_own_clock_and_is_forgotten_then(noted: Noted, clock: ManualClock) -> None:
    noted.own.note(MOVED_ON, [A], 10_000)
    noted.own.note(HAS_SUCCESSOR, [A], SUPERSEDED_MS)
    clock.advance(10)
    noted.own.forget(clock.wall_s() * 1000)
    assert noted.own.has(MOVED_ON, A)
    clock.advance(0.002)
    assert not noted.own.has(MOVED_ON, A)
    assert noted.other.has(HAS_SUCCESSOR, A)
    noted.own.forget(None)  # by a clock that is not trusted, nothing ends
    clock.step_wall(-1)
    assert noted.own.has(MOVED_ON, A)
    clock.step_wall(1)
    noted.own.forget(clock.wall_s() * 1000)
    clock.step_wall(-1)
    assert not noted.own.has(MOVED_ON, A)
    assert noted.own.has(HAS_SUCCESSOR, A)


async def test_a_log_out_is_no_note(noted: Noted) -> None:
    noted.log.apply([Deny("a", 2_000_000_000_000), Deny("b", 2_000_000_000_000, 1_800_000_000_000)])
    assert not any(noted.other.has(MOVED_ON, id) for id in (A, B))
