"""The cluster listener on one node: the listeners, their order, and the fate of those that are slow, fail or leave."""

from __future__ import annotations

import asyncio
import gc
import typing
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ha_session_mw import EventStream, SessionManager, Settings, events
from ha_session_mw._node.listeners import ROOM
from ha_session_mw.events import (
    ClusterEvent,
    EverybodyRevoked,
    FoundQuorum,
    IdRevoked,
    KeyRevoked,
    LostQuorum,
    MemberJoined,
    Missed,
    PossibleLoss,
    SubjectRevoked,
    ViewFresh,
    ViewStale,
)
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny, NodeId
from ha_session_mw.testing import SECRET, ManualClock

from ..waiting import LIMIT_S, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def manager(clock: ManualClock) -> SessionManager:
    return SessionManager(Settings(secret_key=SECRET), clock=clock)


def member(number: int) -> MemberJoined:
    return MemberJoined(NodeId(f"node-{number}"))


async def taken(stream: EventStream, count: int) -> list[ClusterEvent]:
    with anyio.fail_after(LIMIT_S):
        return [await anext(stream) for _ in range(count)]


# Events


async def test_each_log_out_is_an_event_with_its_scope(manager: SessionManager) -> None:
    claims, kid = node_of(manager).issuer.issue("ada"), node_of(manager).keys.ring.kids[0]
    with manager.events() as stream:
        await node_of(manager).revoker.revoke_session(claims)
        replaced = Deny(claims.sid, claims.absolute_end_ms, claims.issued_ms)
        await node_of(manager).revoker.leave_behind([replaced], durable=True, report=False)
        await manager.revoke_subject("ada", except_session="the-family-that-stays-")
        await manager.revoke_everybody()
        await manager.revoke_key(kid)
        family, sid, subject, everybody, key = await taken(stream, 5)

    assert family == IdRevoked(claims.family, claims.absolute_end_ms)
    assert sid == IdRevoked(claims.sid, claims.absolute_end_ms, superseded=True)
    assert isinstance(subject, SubjectRevoked)
    assert (subject.subject, subject.except_family) == ("ada", "the-family-that-stays-")
    assert isinstance(everybody, EverybodyRevoked)
    assert isinstance(key, KeyRevoked)
    assert key.kid == kid
    assert min(subject.until_ms, everybody.until_ms, key.until_ms) >= claims.absolute_end_ms


async def test_a_log_out_that_is_known_is_not_told_again(manager: SessionManager) -> None:
    claims = node_of(manager).issuer.issue("ada")
    with manager.events() as stream:
        await node_of(manager).revoker.revoke_session(claims)
        await node_of(manager).revoker.revoke_session(claims)
        await manager.revoke_everybody()

        assert [type(event) for event in await taken(stream, 2)] == [IdRevoked, EverybodyRevoked]


@pytest.mark.parametrize("kind", typing.get_args(ClusterEvent), ids=lambda kind: kind.__name__)
def test_an_event_cannot_be_changed_and_shows_neither_ids_nor_subjects(kind: type[msgspec.Struct]) -> None:
    values = {name: f"canary {name}" for name in kind.__struct_fields__}
    event = kind(**values)

    for name in values:
        with pytest.raises(AttributeError):
            setattr(event, name, "another")
    hidden = {"id", "subject", "except_family"} & values.keys()
    assert all(f"canary {name}" not in repr(event) for name in hidden)
    assert all(getattr(event, name) == value for name, value in values.items())


def test_every_event_is_listed() -> None:
    kinds = {
        name
        for name, kind in vars(events).items()
        if isinstance(kind, msgspec.StructMeta) and kind.__module__ == events.__name__ and not name.startswith("_")
    }

    assert kinds == {kind.__name__ for kind in typing.get_args(ClusterEvent)} == set(events.__all__) - {"ClusterEvent"}


# Streams


async def test_several_listen_at_once_and_each_from_when_it_began(manager: SessionManager) -> None:
    tell = node_of(manager).listeners.tell
    first = manager.events()
    tell(member(1))
    second = manager.events()
    tell(member(2))

    assert await taken(first, 2) == [member(1), member(2)]
    assert await taken(second, 1) == [member(2)]


async def test_a_waiting_listener_is_woken(manager: SessionManager) -> None:
    seen: list[ClusterEvent] = []

    async def listen() -> None:
        async for event in manager.events():
            seen.append(event)
            if len(seen) == 3:
                return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        node_of(manager).listeners.tell(member(1))
        await eventually(lambda: len(seen) == 1)
        node_of(manager).listeners.tell(member(2))
        node_of(manager).listeners.tell(member(3))

    assert seen == [member(1), member(2), member(3)]


async def test_several_tasks_may_share_a_stream_and_each_event_goes_to_one(manager: SessionManager) -> None:
    seen: list[ClusterEvent] = []
    stream = manager.events()

    async def listen() -> None:
        async for event in stream:
            seen.append(event)  # noqa: PERF401 - one by one

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(listen)
        for number in range(4):
            await anyio.wait_all_tasks_blocked()
            node_of(manager).listeners.tell(member(number))
        await eventually(lambda: len(seen) == 4)
        stream.close()

    assert seen == [member(number) for number in range(4)]


async def test_a_listener_that_is_cancelled_while_it_waits_loses_nothing(manager: SessionManager) -> None:
    stream = manager.events()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anext, stream)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        node_of(manager).listeners.tell(member(1))

    assert await taken(stream, 1) == [member(1)]


async def test_of_two_tasks_that_wait_the_other_is_woken_when_one_is_cancelled(manager: SessionManager) -> None:
    stream, scope = manager.events(), anyio.CancelScope()
    seen: list[ClusterEvent] = []

    async def listen() -> None:
        seen.extend(await taken(stream, 1))

    async def listen_in_vain() -> None:
        with scope:
            await anext(stream)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen_in_vain)
        tasks.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        node_of(manager).listeners.tell(member(1))

    assert seen == [member(1)]


@pytest.mark.parametrize("in_another_thread", [False, True])
def test_a_listener_of_an_ended_event_loop_is_woken_in_the_next_one(
    manager: SessionManager, anyio_backend_name: str, *, in_another_thread: bool
) -> None:
    stream = manager.events()
    seen: list[ClusterEvent] = []
    manager.on_event(seen.append)

    async def listen(number: int) -> None:
        """As a test client does it: each time it starts the app, that has an event loop and a thread of its own."""
        async with manager.running(), anyio.create_task_group() as tasks:
            tasks.start_soon(anext, stream)
            await anyio.wait_all_tasks_blocked()
            node_of(manager).listeners.tell(member(number))
            await eventually(lambda: seen == [member(one) for one in range(number + 1)])
            await anyio.wait_all_tasks_blocked()
            assert "0 events" in repr(stream)
            tasks.start_soon(anext, stream)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    for number in range(2):
        run = Thread(target=anyio.run, args=[listen, number], kwargs={"backend": anyio_backend_name})
        if in_another_thread:
            run.start()
            run.join()
        else:
            run.run()

    assert seen == [member(0), member(1)]


async def test_a_flood_of_events_does_not_keep_other_tasks_from_running(manager: SessionManager) -> None:
    stream, turns = manager.events(), 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    for number in range(200):
        node_of(manager).listeners.tell(member(number))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await taken(stream, 200)
        tasks.cancel_scope.cancel()

    assert turns > 50


async def test_a_stream_that_is_closed_ends_and_leaves_nothing_behind(manager: SessionManager) -> None:
    ended: list[bool] = []
    with manager.events() as stream:

        async def listen() -> None:
            async for _ in stream:
                raise AssertionError
            ended.append(True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            stream.close()
            stream.close()

    node_of(manager).listeners.tell(member(1))
    assert ended
    assert stream.is_closed
    assert "closed" in repr(stream)
    assert (await manager.status())["listeners"] == 0
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_stream_without_a_reference_is_forgotten(manager: SessionManager) -> None:
    node_of(manager).listeners.tell(member(0))

    async def listen() -> None:
        async for _ in manager.events():
            return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        assert (await manager.status())["listeners"] == 1
        node_of(manager).listeners.tell(member(1))

    gc.collect()
    assert (await manager.status())["listeners"] == 0


async def test_an_event_from_another_thread_arrives_too(clock: ManualClock) -> None:
    manager = SessionManager(Settings(secret_key=SECRET), clock=clock)
    seen: list[ClusterEvent] = []

    async def listen() -> None:
        seen.append(await anext(manager.events()))

    async with manager.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        thread = Thread(target=node_of(manager).listeners.tell, args=[member(1)])
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        clock.advance(0.5)
        await eventually(lambda: seen == [member(1)])
        tasks.cancel_scope.cancel()


async def test_a_listener_that_another_thread_opens_is_found_within_a_second(clock: ManualClock) -> None:
    manager = SessionManager(Settings(secret_key=SECRET), clock=clock)
    listeners = node_of(manager).listeners
    streams: list[EventStream] = []
    async with manager.running():
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(lambda: streams.append(listeners.open(ROOM)))
        clock.advance(1)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(listeners.tell, member(1))
        clock.advance(0.5)
        with anyio.fail_after(LIMIT_S):
            assert await anext(streams[0]) == member(1)


# Slow listeners


async def test_a_slow_listener_gets_a_count_of_the_missed_events_in_their_place(manager: SessionManager) -> None:
    tell, stream = node_of(manager).listeners.tell, manager.events(room=2)
    for number in range(5):
        tell(member(number))
    assert await taken(stream, 1) == [member(0)]
    tell(member(5))
    tell(member(6))

    assert await taken(stream, 4) == [member(1), Missed(3), member(5), Missed(1)]
    tell(member(7))
    assert await taken(stream, 1) == [member(7)]
    assert stream.missed == 4
    assert (await manager.status())["missed_events"] == 4


async def test_by_default_a_thousand_events_may_wait(manager: SessionManager) -> None:
    stream = manager.events()
    for number in range(ROOM + 1):
        node_of(manager).listeners.tell(member(number))

    assert ROOM == 1000
    assert await taken(stream, ROOM + 1) == [*map(member, range(ROOM)), Missed(1)]


@given(st.integers(1, 4), st.lists(st.booleans(), max_size=60))
@example(1, [True, True, False, True, True])
async def test_taken_and_missed_events_are_all_events_in_order(room: int, steps: list[bool]) -> None:
    """True: an event is published. False: the listener takes one."""
    stream, told, seen = EventStream(room), 0, 0

    async def take() -> None:
        nonlocal seen
        (event,) = await taken(stream, 1)
        if isinstance(event, Missed):
            assert event.count > 0
            seen += event.count
        else:
            assert event == member(seen)
            seen += 1

    for tells in steps:
        if tells:
            stream.put(member(told))
            told += 1
        elif seen < told:
            await take()
        assert len(stream._events) <= 2 * room + 1  # a count of missed events before each, and after the last
        assert told - seen - stream.missed <= room
    while seen < told:
        await take()
    assert not stream._events


@pytest.mark.parametrize("room", [0, -1])
def test_a_stream_without_room_is_refused(manager: SessionManager, room: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        manager.events(room=room)


# Callbacks


@asynccontextmanager
async def running(manager: SessionManager) -> AsyncIterator[None]:
    async with manager.running():
        await anyio.wait_all_tasks_blocked()
        yield


async def test_a_function_and_a_coroutine_function_are_called_with_each_event_in_order(manager: SessionManager) -> None:
    seen: list[ClusterEvent] = []
    awaited: list[ClusterEvent] = []

    async def slow(event: ClusterEvent) -> None:
        await anyio.sleep(0.001)
        awaited.append(event)

    manager.on_event(seen.append)
    node_of(manager).listeners.tell(member(1))  # before the node runs
    async with running(manager):
        manager.on_event(slow)
        node_of(manager).listeners.tell(member(2))
        node_of(manager).listeners.tell(member(3))
        await eventually(lambda: len(awaited) == 2)

    assert seen == [member(1), member(2), member(3)]
    assert awaited == [member(2), member(3)]


async def test_a_callback_that_raises_is_logged_and_counted_and_called_again(
    manager: SessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[ClusterEvent] = []

    def breaks(event: ClusterEvent) -> None:
        seen.append(event)
        raise ZeroDivisionError

    manager.on_event(breaks)
    claims = node_of(manager).issuer.issue("ada")
    async with running(manager):
        assert (await node_of(manager).revoker.revoke_session(claims)).mode == "fenced"
        await manager.revoke_everybody()
        await eventually(lambda: len(seen) == 2)

    assert (await manager.status())["failed_callbacks"] == 2
    assert caplog.text.count("has failed on IdRevoked") == 1
    assert all(secret not in caplog.text for secret in (claims.family, claims.sid, "ada"))


async def test_a_callback_that_waits_for_a_cancelled_task_has_failed_and_is_called_again(
    manager: SessionManager, anyio_backend_name: str
) -> None:
    seen: list[ClusterEvent] = []

    async def wait_in_vain(event: ClusterEvent) -> None:
        seen.append(event)
        if anyio_backend_name == "asyncio":
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone
        raise OSError

    manager.on_event(wait_in_vain)
    async with running(manager):
        for number in range(2):
            node_of(manager).listeners.tell(member(number))
        await eventually(lambda: node_of(manager).listeners.failures == 2)

    assert seen == [member(0), member(1)]


@pytest.mark.parametrize("nonsense", [None, "a name", EventStream()])
async def test_an_object_that_is_not_callable_is_refused(manager: SessionManager, nonsense: Any) -> None:
    with pytest.raises(TypeError, match="callback must be callable"):
        manager.on_event(nonsense)

    assert (await manager.status())["listeners"] == 0


async def test_a_callback_that_hangs_delays_only_itself(manager: SessionManager) -> None:
    seen: list[ClusterEvent] = []

    async def hangs(event: ClusterEvent) -> None:
        await anyio.sleep_forever()

    manager.on_event(hangs, room=1)
    manager.on_event(seen.append)
    async with running(manager):
        for number in range(3):
            assert (await manager.revoke_session(f"session-{number:014}")).mode == "fenced"
            await anyio.wait_all_tasks_blocked()
        await eventually(lambda: len(seen) == 3)

        status = await manager.status()
    assert status["missed_events"] == 1
    assert node_of(manager).listeners.failures == 0  # that the node has ended is none


async def test_a_callback_that_has_ended_is_not_called_any_more(manager: SessionManager) -> None:
    seen: list[ClusterEvent] = []

    def once(event: ClusterEvent) -> None:
        seen.append(event)
        stop()

    stop = manager.on_event(once)
    async with running(manager):
        node_of(manager).listeners.tell(member(1))
        node_of(manager).listeners.tell(member(2))
        await eventually(lambda: bool(seen))
        await anyio.wait_all_tasks_blocked()
        stop()

        assert seen == [member(1)]
        assert (await manager.status())["listeners"] == 0
    async with running(manager):  # nor when the node is started again
        node_of(manager).listeners.tell(member(3))
        await anyio.wait_all_tasks_blocked()
    assert seen == [member(1)]


async def test_a_callback_that_has_ended_is_forgotten(manager: SessionManager) -> None:
    def nothing(event: ClusterEvent) -> None:
        raise AssertionError(event)

    forgotten = weakref.ref(nothing)
    manager.on_event(nothing)()
    del nothing
    gc.collect()

    assert forgotten() is None


async def test_a_node_that_is_started_again_calls_back_again(manager: SessionManager) -> None:
    seen: list[ClusterEvent] = []
    manager.on_event(seen.append)
    for number in range(2):
        async with running(manager):
            node_of(manager).listeners.tell(member(number))
            await eventually(lambda: len(seen) == number + 1)  # noqa: B023 - called at once

    assert seen == [member(0), member(1)]


async def test_a_callback_that_registers_between_two_starts_is_called_after_the_second(manager: SessionManager) -> None:
    async with running(manager):
        await anyio.wait_all_tasks_blocked()
    seen: list[ClusterEvent] = []
    manager.on_event(seen.append)
    async with running(manager):
        node_of(manager).listeners.tell(member(1))
        await eventually(lambda: seen == [member(1)])


# A file that workers share


class Worker:
    """A process that shares a file with others, with a listener."""

    def __init__(self, file: Path) -> None:
        self.clock = ManualClock()
        self.manager = SessionManager(Settings(secret_key=SECRET, cluster=f"sqlite://{file}"), clock=self.clock)
        self.stream = self.manager.events()
        self.heard: list[ClusterEvent] = []

    async def hears(self, *events: ClusterEvent) -> bool:
        """Return whether the listener's next event is this one, as time passes."""
        self.heard.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen)
            await eventually(lambda: self._later(len(events)))
            tasks.cancel_scope.cancel()
        return self.heard == [*events]

    def _later(self, count: int) -> bool:
        self.clock.advance(0.1)
        return len(self.heard) >= count

    async def _listen(self) -> None:
        async for event in self.stream:
            self.heard.append(event)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    worker = Worker(tmp_path / "sessions.db")
    async with running(worker.manager):
        assert await worker.hears(ViewFresh())
        yield worker


async def test_a_lost_and_recreated_file_is_an_event_that_names_the_possible_loss(worker: Worker, tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "sessions.db").unlink()
        assert await worker.hears(LostQuorum(), ViewStale(), PossibleLoss(), FoundQuorum(), ViewFresh())


async def test_a_log_out_by_another_worker_is_an_event(worker: Worker, tmp_path: Path) -> None:
    other = Worker(tmp_path / "sessions.db").manager
    claims = node_of(other).issuer.issue("ada")
    async with running(other):
        await node_of(other).revoker.revoke_session(claims)

    assert await worker.hears(IdRevoked(claims.family, claims.absolute_end_ms))
