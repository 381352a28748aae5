"""Devices: the list of a subject's log-ins, ending one of them, and their limit."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw import (
    ConfigurationError,
    Device,
    NotSupported,
    Session,
    SessionManager,
    SessionMiddleware,
    SessionTooLarge,
    SessionUnknown,
    Settings,
    StoreUnavailable,
)
from ha_session_mw._core.records.log_ins import roster_id
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw._node.devices import MOST_NOTES, ROUNDS, WRITE_EVERY_S, Devices
from ha_session_mw.abc import Conflict, Grant, Record
from ha_session_mw.backends.memory.store import MemoryRecords, MemoryStore
from ha_session_mw.exceptions import SessionLimitReached
from ha_session_mw.manager import node_of
from ha_session_mw.models import Claims, Deny, FamilyId, KeyId, NodeId, SessionId
from ha_session_mw.testing import ManualClock, mint_session
from ha_session_mw.testing.stillness import until_nothing_moves

from ..backends.board import page
from ..inside import devices_of
from ..shared import Shared
from ..waiting import eventually
from .driver import SECRET, Answer, Node, Visitor, call, obliging, scope_of, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

FIREFOX = b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
PATH = "/-/session/devices"


class TroubledStore(MemoryStore):
    """A store that can be made to fail, to lose each race, or to run something during a put. It counts its calls."""

    gone = False
    contended = False
    calls = 0

    def meanwhile(self) -> None:
        """Runs while a record is put."""

    async def get(self, id: str) -> Record | None:
        self._require()
        return await super().get(id)

    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        self._require()
        self.meanwhile()
        if self.contended:
            raise Conflict(None)
        return await super().put(record, guard=guard)

    async def delete(self, id: str) -> None:
        self._require()
        await super().delete(id)

    def _require(self) -> None:
        self.calls += 1
        if self.gone:
            raise StoreUnavailable("as told")


class DeviceNode(Node):
    """A node that records log-ins."""

    def __init__(self, clock: ManualClock, cluster: str = "memory://", **settings: Any) -> None:
        self.clock = clock
        self.store = TroubledStore(MemoryRecords(clock))
        found = Settings(**{"secret_key": SECRET, "track": "on", "devices": "on", "cluster": cluster, **settings})
        self.manager = SessionManager(
            found, clock=clock, backend=Shared(lambda _: self.store, kind="device") if cluster == "memory://" else None
        )
        self.app = SessionMiddleware(obliging, manager=self.manager)

    async def devices(self, subject: str = "ada") -> list[Device]:
        return await self.manager.sessions_of(subject)

    async def write(self) -> None:
        """Run the step of the background task once."""
        await devices_of(self.manager).write_notes()

    async def from_device(self, user_agent: bytes = FIREFOX, subject: str = "ada", **kwargs: Any) -> Visitor:
        visitor = self.visitor()
        await visitor.visit(lambda session: session.login(subject), headers=[(b"user-agent", user_agent)], **kwargs)
        return visitor


@pytest.fixture
def node(clock: ManualClock) -> DeviceNode:
    return DeviceNode(clock)


@pytest.fixture
def workers(clock: ManualClock, tmp_path: Path) -> list[DeviceNode]:
    """Three that share a file."""
    return [DeviceNode(clock, f"sqlite://{tmp_path}/sessions.db", max_sessions=3) for _ in range(3)]


def at(clock: ManualClock) -> datetime:
    return datetime.fromtimestamp(clock.wall_s(), UTC)


def family(visitor: Visitor) -> str:
    verified = node_of(visitor.node.manager).validator.verify(str(visitor.token).encode())
    assert verified is not None
    return verified.claims.family


# Recorded facts


async def test_a_log_in_is_recorded_with_a_name_for_its_device(node: DeviceNode, clock: ManualClock) -> None:
    clock.advance(90)
    logged_in_at = at(clock)
    visitor = await node.from_device()
    [device] = await node.devices()

    assert device.id == family(visitor)
    assert device.label == "Firefox on Linux"
    assert device.created_at == logged_in_at
    assert device.last_seen_at == logged_in_at  # only the minute is kept, but a use is never before the log-in
    assert device.expires_at == logged_in_at + timedelta(hours=12)
    assert timedelta(minutes=30) <= device.idle_expires_at - logged_in_at <= timedelta(minutes=31)
    assert device.address is None
    assert device.id not in repr(device)


async def test_the_address_is_recorded_only_where_that_is_wanted(clock: ManualClock) -> None:
    node = DeviceNode(clock, track_address=True)
    await node.from_device()
    [device] = await node.devices()

    assert device.address == "192.0.2.7"
    assert "192.0.2.7" not in repr(device)


async def test_a_client_without_an_address_or_a_name_is_recorded_too(clock: ManualClock) -> None:
    node = DeviceNode(clock, track_address=True)
    await node.visitor().visit(lambda session: session.login("ada"), client=None)

    assert [(device.label, device.address) for device in await node.devices()] == [("Unknown device", None)]


async def test_each_subject_has_its_own_and_visitors_have_none(node: DeviceNode) -> None:
    await node.from_device(subject="ada")
    await node.from_device(subject="bob", user_agent=b"curl/8.5.0")
    await node.visitor().visit(lambda session: session.update(cart=["book"]))
    await node.write()

    assert [device.label for device in await node.devices("ada")] == ["Firefox on Linux"]
    assert [device.label for device in await node.devices("bob")] == ["curl"]
    assert await node.devices("nobody") == []


async def test_the_newest_log_in_comes_first_however_many_there_are(node: DeviceNode, clock: ManualClock) -> None:
    visitors = []
    for _ in range(250):
        visitors.append(await node.from_device())
        clock.advance(1)

    assert [device.id for device in await node.devices()] == [family(visitor) for visitor in reversed(visitors)]


async def test_a_session_that_came_about_otherwise_is_there_once_it_was_written(node: DeviceNode) -> None:
    token = mint_session(node.manager, "ada")
    await node.write()

    assert (await node.request(who, token=token)).result == "ada"
    assert [device.label for device in await node.devices()] == ["Unknown device"]


# Removal


def log_out(session: Session) -> None:
    session.clear()


@pytest.mark.parametrize(
    "end",
    [
        lambda node, visitor: visitor.visit(log_out),
        lambda node, visitor: visitor.visit(lambda session: session.revoke()),
        lambda node, visitor: node.manager.revoke_session(family(visitor)),
        lambda node, visitor: node.manager.revoke_subject("ada"),
        lambda node, visitor: node.manager.revoke_everybody(),
        lambda node, visitor: node.manager.revoke_key(node_of(node.manager).keys.ring.kids[0]),
    ],
    ids=["clear", "revoke", "session", "subject", "everybody", "key"],
)
async def test_a_session_that_was_logged_out_is_not_in_the_list_and_does_not_come_back(
    node: DeviceNode, end: Callable[[DeviceNode, Visitor], Any]
) -> None:
    visitor = await node.from_device()
    await end(node, visitor)

    for _ in range(3):
        assert await node.devices() == []
        await node.write()
    assert await node.store.of_subject("ada") == []  # nor is it kept
    node.store.calls = 0
    await node.write()
    assert node.store.calls == 0  # nor deleted again


async def test_a_session_that_has_idled_is_not_in_the_list_and_one_that_is_used_is(node: DeviceNode, clock: ManualClock) -> None:
    await node.from_device(b"curl/8.5.0")
    used = await node.from_device()
    for _ in range(8):
        clock.advance(300)
        assert (await used.visit(who)).result == "ada"
    await node.write()

    [device] = await node.devices()
    assert device.id == family(used)
    assert device.idle_expires_at > at(clock)


async def test_a_session_that_has_reached_its_end_is_not_in_the_list(clock: ManualClock) -> None:
    node = DeviceNode(clock, idle_timeout="1h", absolute_timeout="1h")
    await node.from_device()
    clock.advance(3600)

    assert await node.devices() == []


async def test_a_second_log_in_replaces_the_session(node: DeviceNode) -> None:
    visitor = await node.from_device()
    await visitor.visit(lambda session: session.login("ada"))

    assert [device.id for device in await node.devices()] == [family(visitor)]


async def test_a_session_that_takes_a_new_id_is_the_same_device_on_every_node_at_once(workers: list[DeviceNode]) -> None:
    one, other, _ = workers
    visitor = await one.from_device()
    [before] = await other.devices()
    await visitor.visit(lambda session: session.cycle())

    assert [device.id for device in await other.devices()] == [before.id]
    assert [device.id for device in await one.devices()] == [before.id]


async def test_a_node_that_has_seen_the_old_id_and_writes_that_late_does_not_undo_the_new_one(workers: list[DeviceNode]) -> None:
    one, other, third = workers
    visitor = await one.from_device()
    assert (await other.request(who, token=visitor.token)).result == "ada"
    await visitor.visit(lambda session: session.cycle())
    await other.write()

    assert [device.id for device in await third.devices()] == [family(visitor)]


async def test_an_old_id_that_is_seen_after_the_new_one_does_not_undo_it(node: DeviceNode, clock: ManualClock) -> None:
    visitor = await node.from_device()
    old, devices = node_of(node.manager).validator.verify(str(visitor.token).encode()), node_of(node.manager).devices
    assert old is not None
    assert devices is not None
    clock.advance(60)
    node.store.gone = True
    await visitor.visit(lambda session: session.cycle())
    devices.note(old)
    node.store.gone = False
    await node.write()

    assert len(devices) == 0
    assert [device.id for device in await node.devices()] == [family(visitor)]


# When it was used


async def test_requests_ask_the_store_for_nothing_and_use_is_written_once_a_minute(node: DeviceNode, clock: ManualClock) -> None:
    visitor = await node.from_device()
    await node.write()
    clock.advance(65)
    node.store.calls = 0
    for _ in range(10):
        assert (await visitor.visit(who)).result == "ada"
        clock.advance(1)
    assert node.store.calls == 0

    await node.write()
    assert node.store.calls == 2  # one record is read and written
    await node.write()
    assert node.store.calls == 2
    [device] = await node.devices()
    assert timedelta() <= at(clock) - device.last_seen_at < timedelta(minutes=2)


async def test_however_often_a_session_changes_within_a_minute_that_is_one_write(node: DeviceNode, clock: ManualClock) -> None:
    visitor = await node.from_device()
    await node.write()
    clock.advance(60)
    versions: set[int] = set()
    for number in range(11):
        await visitor.visit(lambda session, number=number: session.update(number=number))  # type: ignore[misc]
        await node.write()
        versions.add(*[record.version for record in await node.store.of_subject("ada")])
        clock.advance(5)

    assert len(versions) == 1


async def test_a_use_that_a_node_has_not_written_yet_is_in_its_lists_already(node: DeviceNode, clock: ManualClock) -> None:
    visitor = await node.from_device()
    clock.advance(600)
    await visitor.visit(who)

    [device] = await node.devices()
    assert at(clock) - device.last_seen_at < timedelta(minutes=1)


async def test_nodes_that_see_a_session_at_the_same_time_agree(workers: list[DeviceNode], clock: ManualClock) -> None:
    visitor = await workers[0].from_device()
    clock.advance(120)
    for worker in workers:
        assert (await worker.request(who, token=visitor.token)).result == "ada"
    async with anyio.create_task_group() as tasks:
        for worker in workers:
            tasks.start_soon(worker.write)
    for worker in workers:
        await worker.write()

    lists = [await worker.devices() for worker in workers]
    assert lists == [lists[0]] * 3
    assert [device.label for device in lists[0]] == ["Firefox on Linux"]
    assert all(len(devices_of(worker.manager)) == 0 for worker in workers)


async def test_a_failed_write_of_a_use_is_retried_later(node: DeviceNode, clock: ManualClock) -> None:
    visitor = await node.from_device()
    clock.advance(600)
    await visitor.visit(who)
    node.store.gone = True
    await node.write()
    assert (await node.manager.status())["unwritten_notes"] == 1
    node.store.gone = False
    await node.write()

    assert (await node.manager.status())["unwritten_notes"] == 0
    assert (await node.manager.status())["lost_notes"] == 0


async def test_a_use_during_a_write_is_written_next(node: DeviceNode, clock: ManualClock) -> None:
    visitor = await node.from_device()
    verified, devices = node_of(node.manager).validator.verify(str(visitor.token).encode()), node_of(node.manager).devices
    assert verified is not None
    assert devices is not None

    def use() -> None:
        clock.advance(60)
        devices.note(verified)

    use()
    node.store.meanwhile = use  # type: ignore[method-assign]
    await node.write()
    node.store.meanwhile = lambda: None  # type: ignore[method-assign]
    assert len(devices) == 1
    await node.write()

    assert len(devices) == 0
    assert [device.last_seen_at for device in await node.devices()] == [at(clock).replace(second=0)]


async def test_a_background_task_writes_and_flushes_at_the_end(node: DeviceNode, clock: ManualClock) -> None:
    visitor = await node.from_device()
    unwritten = node_of(node.manager).devices
    assert unwritten is not None
    async with node.manager.running():
        await anyio.wait_all_tasks_blocked()
        clock.advance(65)
        await visitor.visit(who)
        assert len(unwritten) == 1
        clock.advance(6)
        await eventually(lambda: len(unwritten) == 0)
        clock.advance(65)
        await visitor.visit(who)
        assert len(unwritten) == 1
    assert len(unwritten) == 0

    [device] = await node.devices()
    assert at(clock) - device.last_seen_at < timedelta(minutes=1)


async def test_a_crash_of_the_writer_ends_it_at_once_so_that_it_can_be_started_again(node: DeviceNode, clock: ManualClock) -> None:
    visitor = await node.from_device()
    clock.advance(120)
    await visitor.visit(who)

    def crash() -> None:
        raise ZeroDivisionError

    node.store.meanwhile = crash  # type: ignore[method-assign]
    devices, crashed = node_of(node.manager).devices, list[BaseException]()
    assert devices is not None

    async def run() -> None:
        try:
            await devices.run()
        except BaseExceptionGroup as exc:
            crashed.append(exc)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until_nothing_moves()
        clock.advance(WRITE_EVERY_S)
        await until_nothing_moves()
    assert len(crashed) == 1


async def test_uses_that_could_not_be_written_before_the_end_are_counted_and_logged(
    node: DeviceNode, caplog: pytest.LogCaptureFixture
) -> None:
    async with node.manager.running():
        await anyio.wait_all_tasks_blocked()
        await node.from_device()
        node.store.gone = True

    assert (await node.manager.status())["lost_notes"] == 1
    assert "the last use of 1 sessions could not be written" in caplog.text


async def test_more_notes_than_there_is_room_for_are_counted(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_NOTES == 100_000
    monkeypatch.setattr("ha_session_mw._node.devices.MOST_NOTES", 2)
    node = DeviceNode(clock)
    for _ in range(5):
        mint_session(node.manager, "ada")

    assert (await node.manager.status())["unwritten_notes"] == 2
    assert (await node.manager.status())["lost_notes"] == 3


# Trouble


async def test_without_a_store_people_can_log_in_all_the_same_and_it_is_recorded_later(node: DeviceNode) -> None:
    node.store.gone = True
    visitor = await node.from_device()
    assert (await visitor.visit(who)).result == "ada"
    node.store.gone = False
    await node.write()

    assert [device.label for device in await node.devices()] == ["Firefox on Linux"]


async def test_a_limit_without_the_store_refuses_every_log_in(clock: ManualClock) -> None:
    node = DeviceNode(clock, max_sessions=2)
    node.store.gone = True
    answer = await node.visitor().visit(lambda session: session.login("ada"))

    assert (answer.status, answer.code) == (503, "store_unavailable")
    assert answer.cookies() == []


async def test_a_log_in_that_cannot_be_recorded_is_reported_as_such_even_where_no_log_out_could_be_durable(clock: ManualClock) -> None:
    node, board = DeviceNode(clock, max_sessions=1), page.Board()
    backend = page.BoardAndShelves(board)
    node.manager = SessionManager(node.manager.settings, clock=clock, backend=backend)
    node.app = SessionMiddleware(obliging, manager=node.manager)

    def log_in_and_lose_contact(session: Session) -> None:
        session.login("ada")
        board.is_up = backend._shelves["device"].is_up = False

    answer = await node.visitor().visit(log_in_and_lose_contact)
    assert (answer.status, answer.code) == (503, "store_unavailable")

    board.is_up = backend._shelves["device"].is_up = True
    assert (await node.visitor().visit(lambda session: session.login("ada"))).status == 200
    assert len(await node.devices()) == 1


async def test_a_log_in_that_always_loses_the_race_gets_a_conflict(clock: ManualClock) -> None:
    node = DeviceNode(clock, max_sessions=2)
    node.store.contended = True
    answer = await node.visitor().visit(lambda session: session.login("ada"))

    assert (answer.status, answer.code) == (409, "session_conflict")
    assert node.store.calls == 2 * ROUNDS
    assert answer.cookies() == []


async def test_an_unreadable_record_is_reported_and_not_overwritten(node: DeviceNode, clock: ManualClock) -> None:
    visitor = await node.from_device()
    await node.write()
    [record] = await node.store.of_subject("ada")
    damaged = await node.store.put(Record(record.id, b"\x09", record.until_ms, "ada", record.version))
    clock.advance(120)
    assert (await visitor.visit(who)).result == "ada"
    await node.write()

    assert await node.store.get(record.id) == damaged
    assert (await node.manager.status())["lost_notes"] == 1
    with pytest.raises(StoreUnavailable, match="another release"):
        await node.devices()
    answer = await visitor.visit(path=PATH)
    assert (answer.status, answer.code) == (503, "store_unavailable")


async def test_a_log_in_whose_token_does_not_come_to_be_is_not_in_the_list(node: DeviceNode) -> None:
    def too_much(session: Session) -> None:
        session.login("ada")
        session["list"] = []
        session["list"].append("x" * (2 << 20))

    with pytest.raises(SessionTooLarge):
        await node.visitor().visit(too_much)
    await node.write()
    assert await node.devices() == []


async def test_a_log_in_whose_client_goes_away_meanwhile_takes_no_place(clock: ManualClock) -> None:
    for puts in range(2):
        node = DeviceNode(clock, max_sessions=1, when_full="refuse")
        left = [puts]

        with anyio.CancelScope() as request:

            def meanwhile(left: list[int] = left, request: anyio.CancelScope = request) -> None:
                if not left[0]:
                    request.cancel()
                left[0] -= 1

            node.store.meanwhile = meanwhile  # type: ignore[method-assign]
            await node.visitor().visit(lambda session: session.login("ada"))
        assert request.cancelled_caught
        assert await node.devices() == []
        assert (await node.visitor().visit(lambda session: session.login("ada"))).status == 200


async def test_a_log_in_that_cannot_leave_the_old_session_behind_takes_no_place(clock: ManualClock) -> None:
    node, board = DeviceNode(clock, max_sessions=1, when_full="refuse"), page.Board()
    node.manager = SessionManager(node.manager.settings, clock=clock, backend=page.BoardAndShelves(board))
    node.app = SessionMiddleware(obliging, manager=node.manager)
    visitor = node.visitor()
    await visitor.visit(lambda session: session.update(cart=1))

    def log_in_and_lose_contact(session: Session) -> None:
        session.login("ada")
        board.is_up = False

    answer = await visitor.visit(log_in_and_lose_contact)
    assert (answer.status, answer.code) == (503, "quorum_lost")

    board.is_up = True
    assert await node.devices() == []
    assert (await node.visitor().visit(lambda session: session.login("ada"))).status == 200


async def test_a_log_in_that_fails_is_not_recorded(node: DeviceNode) -> None:
    await node.visitor().visit(lambda session: session.login("ada"), status=500)

    assert await node.devices() == []


async def test_without_recorded_log_ins_the_app_gets_an_error() -> None:
    manager = SessionManager(Settings(secret_key=SECRET))

    with pytest.raises(NotSupported, match="HA_SESSION_TRACK"):
        await manager.sessions_of("ada")
    with pytest.raises(NotSupported, match="HA_SESSION_TRACK"):
        await manager.revoke_session_of("ada", "x")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"devices": "on"}, "HA_SESSION_DEVICES='on': log-ins are not recorded; set HA_SESSION_TRACK=on"),
        ({"max_sessions": "3"}, "HA_SESSION_MAX_SESSIONS=3: log-ins are not recorded; set HA_SESSION_TRACK=on"),
        ({"track": "on", "max_sessions": "1001"}, "HA_SESSION_MAX_SESSIONS='1001': must be 1000 or less"),
        ({"track": "on", "max_sessions": "0"}, "HA_SESSION_MAX_SESSIONS='0': must be a whole number above zero"),
        (
            {"track": "on", "cluster": "peers://", "peers": "http://a,http://b", "advertise_url": "http://a"},
            "HA_SESSION_TRACK='on': HA_SESSION_CLUSTER=peers:// has no store",
        ),
    ],
)
def test_settings_that_cannot_be_kept_stop_the_start(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        Settings(secret_key=SECRET, **settings)

    assert fault in str(told.value)


# How many there may be


async def test_one_log_in_too_many_ends_the_oldest(clock: ManualClock) -> None:
    node = DeviceNode(clock, max_sessions=2)
    visitors = []
    for _ in range(4):
        visitors.append(await node.from_device())
        clock.advance(1)

    assert [(await visitor.visit(who)).result for visitor in visitors] == [None, None, "ada", "ada"]
    assert [(await node.visitor().visit(why)).result, (await visitors[0].visit(why)).result] == [None, "session_revoked"]
    assert [device.id for device in await node.devices()] == [family(visitors[3]), family(visitors[2])]


def log_in(session: Session) -> None:
    session.login("ada")
    session["cart"] = ["book"]


async def test_one_log_in_too_many_is_refused_where_that_is_wanted_and_nothing_is_saved(clock: ManualClock) -> None:
    node = DeviceNode(clock, max_sessions=2, when_full="refuse")
    kept = [await node.from_device() for _ in range(2)]
    visitor = node.visitor()
    await visitor.visit(lambda session: session.update(seen=1))
    before = visitor.token
    answer = await visitor.visit(log_in)

    assert (answer.status, answer.code) == (403, "session_limit_reached")
    assert answer.cookies() == []
    assert visitor.token == before
    assert (await visitor.visit(dict)).result == {"seen": 1}  # the visitor is still the same
    await node.write()
    assert len(await node.devices()) == 2

    await kept[0].visit(log_out)
    assert (await visitor.visit(log_in)).status == 200
    assert (await visitor.visit(who)).result == "ada"


async def test_a_session_that_has_idled_takes_no_place(clock: ManualClock) -> None:
    node = DeviceNode(clock, max_sessions=1, when_full="refuse")
    await node.from_device()
    clock.advance(1861)

    assert (await (await node.from_device()).visit(who)).result == "ada"


async def test_a_second_log_in_on_the_same_device_needs_no_second_place(clock: ManualClock) -> None:
    node = DeviceNode(clock, max_sessions=1, when_full="refuse")
    visitor = await node.from_device()

    assert (await visitor.visit(log_in)).status == 200
    assert (await visitor.visit(who)).result == "ada"


async def test_another_subject_has_places_of_its_own(clock: ManualClock) -> None:
    node = DeviceNode(clock, max_sessions=1, when_full="refuse")
    await node.from_device(subject="ada")

    assert (await (await node.from_device(subject="bob")).visit(who)).result == "bob"


async def test_sessions_that_were_there_before_the_limit_count(clock: ManualClock, tmp_path: Path) -> None:
    cluster = f"sqlite://{tmp_path}/sessions.db"
    before, after = DeviceNode(clock, cluster), DeviceNode(clock, cluster, max_sessions=2)
    old = []
    for _ in range(3):
        old.append(await before.from_device())
        clock.advance(1)
    new = await after.from_device()

    assert [(await visitor.visit(who)).result for visitor in (*old, new)] == [None, None, "ada", "ada"]


async def test_the_roster_lives_as_long_as_its_longest_session(clock: ManualClock) -> None:
    node, hasty = DeviceNode(clock, max_sessions=2), DeviceNode(clock, max_sessions=2, idle_timeout="1h", absolute_timeout="1h")
    node.manager = SessionManager(node.manager.settings, clock=clock, backend=Shared(lambda _: hasty.store, kind="device"))
    node.app = SessionMiddleware(obliging, manager=node.manager)
    await node.from_device()
    await hasty.from_device()

    roll = await hasty.store.get(roster_id("ada"))
    assert roll is not None
    assert roll.until_ms == (clock.wall_s() + 12 * 3600) * 1000


@pytest.mark.parametrize("when_full", ["end_oldest", "refuse"])
async def test_many_log_ins_at_once_on_several_nodes_keep_to_the_limit(clock: ManualClock, tmp_path: Path, when_full: str) -> None:
    cluster = f"sqlite://{tmp_path}/sessions.db"
    workers = [DeviceNode(clock, cluster, max_sessions=2, when_full=when_full) for _ in range(3)]
    visitors = [worker.visitor() for worker in workers for _ in range(2)]
    answers: list[int] = []

    async def enter(visitor: Visitor) -> None:
        answers.append((await visitor.visit(log_in)).status)

    async with anyio.create_task_group() as tasks:
        for visitor in visitors:
            tasks.start_soon(enter, visitor)

    inside = [visitor for visitor in visitors if visitor.token and (await visitor.visit(who)).result == "ada"]
    assert len(inside) == 2
    assert {device.id for device in await workers[0].devices()} == {family(visitor) for visitor in inside}
    assert sorted(answers) == ([200] * 6 if when_full == "end_oldest" else [200, 200, 403, 403, 403, 403])


class SlowStore(MemoryStore):
    """A store that takes a given number of rounds of the event loop for each call."""

    def __init__(self, records: MemoryRecords, turns: list[int]) -> None:
        super().__init__(records)
        self.turns = turns

    async def get(self, id: str) -> Record | None:
        await self._wait()
        return await super().get(id)

    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        await self._wait()
        found = await super().put(record, guard=guard)
        await self._wait()
        return found

    async def _wait(self) -> None:
        for _ in range(self.turns.pop() if self.turns else 0):
            await anyio.lowlevel.checkpoint()


@given(st.integers(1, 3), st.integers(1, 6), st.booleans(), st.lists(st.integers(0, 4), max_size=80))
async def test_however_log_ins_interleave_as_many_get_in_as_there_are_places_and_no_more(
    most: int, count: int, refuse: bool, turns: list[int]
) -> None:
    """The nodes' shared view is a set here, so that only the order of reads and writes can go wrong."""
    clock = ManualClock()
    records, ended = MemoryRecords(clock), set[str]()

    nodes = [
        Devices(
            SlowStore(records, turns),
            clock,
            may_be_valid=lambda verified: verified.claims.family not in ended,
            most=most,
            refuse=refuse,
            keep_address=False,
        )
        for _ in range(2)
    ]
    inside: list[str] = []

    async def enter(number: int) -> None:
        verified = token_of(clock, number)
        try:
            too_many = await nodes[number % 2].enter(
                verified, replaces=None, user_agent="", address=None, before_ending=anyio.lowlevel.checkpoint
            )
        except SessionLimitReached:
            return
        await anyio.lowlevel.checkpoint()
        ended.update(denial.id for denial in too_many)
        inside.append(verified.claims.family)

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(enter, number)

    standing = {one for one in inside if one not in ended}
    assert len(standing) == min(most, count)
    assert not refuse or ended == set()
    for one in nodes:
        assert {device.id for device in await one.of_subject("ada")} == standing


def token_of(clock: ManualClock, number: int) -> Verified:
    now_ms = int(clock.wall_s() * 1000) + number
    claims = Claims(
        sid=SessionId(f"sid-{number}"),
        subject="ada",
        family=FamilyId(f"family-{number}"),
        cuts=(),
        issued_ms=now_ms,
        authenticated_ms=now_ms,
        idle_end_ms=now_ms + 1_800_000,
        absolute_end_ms=now_ms + 3_600_000,
        issuer=NodeId("a"),
    )
    return Verified.of(claims, KeyId("kid"))


async def test_the_roll_of_a_subject_is_no_session(clock: ManualClock) -> None:
    node = DeviceNode(clock, max_sessions=2)
    visitor = await node.from_device()

    assert await node.store.get(roster_id("ada")) is not None
    assert len(await node.devices()) == 1
    with pytest.raises(SessionUnknown):
        await node.manager.revoke_session_of("ada", roster_id("ada"))
    assert (await visitor.visit(who)).result == "ada"


# The ready-made routes


async def routed(visitor: Visitor, method: str = "GET", below: str = "", **kwargs: Any) -> Answer:
    return await visitor.visit(path=PATH + below, method=method, **kwargs)


async def test_the_routes_list_a_subjects_sessions_and_which_is_the_present_one(node: DeviceNode, clock: ManualClock) -> None:
    laptop = await node.from_device()
    clock.advance(90)
    phone = await node.from_device(b"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) Version/18.5 Safari/604.1")
    await node.from_device(subject="bob")
    answer = await routed(laptop)

    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    assert "no-store" in (answer.header("cache-control") or "")
    told = json.loads(answer.body)["sessions"]
    assert [(one["id"], one["label"], one["current"]) for one in told] == [
        (family(phone), "Safari on iOS", False),
        (family(laptop), "Firefox on Linux", True),
    ]
    assert [set(one) for one in told] == [{"id", "label", "current", "created_at", "last_seen_at", "expires_at"}] * 2
    assert (await routed(laptop, "HEAD")).body == b""


async def test_a_recorded_address_is_in_the_list(clock: ManualClock) -> None:
    visitor = await DeviceNode(clock, track_address=True).from_device()

    assert json.loads((await routed(visitor)).body)["sessions"][0]["address"] == "192.0.2.7"


async def test_one_session_is_ended_by_its_id(node: DeviceNode) -> None:
    laptop, phone = await node.from_device(), await node.from_device()
    answer = await routed(laptop, "DELETE", f"/{family(phone)}")

    assert (answer.status, json.loads(answer.body)) == (200, {"acknowledged": "fenced"})
    assert answer.header("session-revocation") == "fenced"
    assert (await phone.visit(why)).result == "session_revoked"
    assert (await laptop.visit(who)).result == "ada"
    assert len(await node.devices()) == 1


@pytest.mark.parametrize("id", ["somebody-elses", "none", "", "/", "x/y", "roll~", "\ud800", "\0", "x" * 100_000])
async def test_another_ones_session_is_one_that_there_is_not(node: DeviceNode, id: str) -> None:
    ada, bob = await node.from_device(), await node.from_device(subject="bob")
    scope = scope_of("http", method="DELETE", headers=[(b"cookie", f"session={ada.token}".encode())])
    answer = await call(node.app, {**scope, "path": f"{PATH}/{family(bob) if id == 'somebody-elses' else id}"})

    assert (answer.status, answer.code) == (404, "session_unknown")
    assert [(await one.visit(who)).result for one in (ada, bob)] == ["ada", "bob"]
    assert family(bob) not in str(answer.problem)


@pytest.mark.parametrize("nonsense", [None, 7, b"ada", "", "\ud800", "x" * 513])
async def test_an_invalid_name_is_refused(workers: list[DeviceNode], nonsense: Any) -> None:
    visitor = await workers[0].from_device()
    manager = workers[1].manager
    kind = ValueError if isinstance(nonsense, str) else TypeError
    with pytest.raises(kind, match="subject must"):
        await manager.sessions_of(nonsense)
    with pytest.raises(kind, match="subject must"):
        await manager.revoke_session_of(nonsense, family(visitor))
    with pytest.raises(SessionUnknown if isinstance(nonsense, str) else TypeError):
        await manager.revoke_session_of("ada", nonsense)  # a client may send such an id
    with pytest.raises(kind, match="subject must"):
        await visitor.visit(lambda session: session.login(nonsense))

    assert (await visitor.visit(who)).result == "ada"


async def test_a_session_that_another_node_uses_and_could_not_write_down_can_be_ended(
    workers: list[DeviceNode], clock: ManualClock
) -> None:
    """By its record it has idled, or has an id that was left behind; and it is in use all the same."""
    used, cycled = await workers[0].from_device(), await workers[0].from_device()
    devices = node_of(workers[0].manager).devices
    assert devices is not None
    devices._store = TroubledStore(MemoryRecords(clock))
    devices._store.gone = True
    await cycled.visit(lambda session: session.cycle())
    clock.advance(1000)
    assert (await used.visit(who)).result == "ada"
    for lost, listed in (cycled, [family(used)]), (used, []):
        assert [device.id for device in await workers[1].devices()] == listed
        await workers[1].write()  # which leaves its record alone
        await workers[1].manager.revoke_session_of("ada", family(lost))
        assert (await lost.visit(why)).result == "session_revoked"
        clock.advance(1000)


async def test_a_session_that_has_ended_cannot_be_ended_again(node: DeviceNode) -> None:
    laptop, phone = await node.from_device(), await node.from_device()
    ended = family(phone)
    await phone.visit(log_out)

    assert (await routed(laptop, "DELETE", f"/{ended}")).code == "session_unknown"


async def test_the_present_session_is_ended_and_its_cookie_removed(node: DeviceNode) -> None:
    visitor = await node.from_device()
    answer = await routed(visitor, "DELETE", f"/{family(visitor)}")

    assert answer.status == 200
    assert answer.header("session-revocation") == "fenced"
    assert answer.token == ""
    assert visitor.token is None
    assert await node.devices() == []


async def test_a_repeat_with_its_key_ends_nothing_more_and_gets_the_same_answer(node: DeviceNode) -> None:
    laptop, phone = [await node.from_device() for _ in range(2)]
    key = [(b"idempotency-key", b"1")]
    answers = [await routed(laptop, "DELETE", "/others", headers=key)]
    assert (await phone.visit(who)).result is None
    later = await node.from_device()
    answers.append(await routed(laptop, "DELETE", "/others", headers=key))
    assert [(answer.status, answer.body) for answer in answers] == [(200, b'{"acknowledged":"fenced"}')] * 2
    assert (await later.visit(who)).result == "ada"
    reused = await routed(laptop, "DELETE", "", headers=key)
    assert (reused.status, reused.code) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("whose", ["all", "own"])
@pytest.mark.parametrize(("by", "root_path"), [("token", ""), ("bearer", ""), ("token", "/shop")])
async def test_a_repeat_of_a_request_that_ended_its_own_session_gets_the_same_answer(
    node: DeviceNode, whose: str, by: str, root_path: str
) -> None:
    laptop = await node.from_device()
    sent: dict[str, Any] = {by: laptop.token, "root_path": root_path}
    path = root_path + node.manager.settings.endpoints + "/devices" + ("" if whose == "all" else f"/{family(laptop)}")
    key = [(b"idempotency-key", b"1")]
    answers = [await node.request(path=path, method="DELETE", headers=key, **sent) for _ in range(3)]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b'{"acknowledged":"fenced"}')] * 3
    assert [answer.header("session-revocation") for answer in answers] == ["fenced"] * 3
    assert answers[1].cookies() == answers[2].cookies() == []

    later = await node.from_device()
    others = [
        await node.request(path=path, method="DELETE", **sent),
        await node.request(path=path, method="DELETE", headers=[(b"idempotency-key", b"2")], **sent),
        await node.request(path=path + "/x", method="DELETE", headers=key, **sent),
        await node.request(path=path, method="GET", headers=key, **sent),
        await node.request(path=path, method="DELETE", headers=[*key, (b"sec-fetch-site", b"cross-site")], **sent),
    ]
    assert {(answer.status, answer.code) for answer in others} == {(401, "session_revoked")}
    assert (await later.visit(who)).result == "ada"


async def test_ending_all_others_again_adds_nothing_unless_a_session_has_begun_since(node: DeviceNode, clock: ManualClock) -> None:
    async def entries() -> int:
        return len(node_of(node.manager).view)

    laptop, phone = [await node.from_device() for _ in range(2)]
    assert (await routed(laptop, "DELETE", "/others")).status == 200
    known = await entries()
    for _ in range(50):
        assert (await routed(laptop, "DELETE", "/others")).status == 200
    assert await entries() == known
    assert (await phone.visit(who)).result is None

    phone = await node.from_device()
    assert (await routed(laptop, "DELETE", "/others")).status == 200
    assert (await phone.visit(who)).result is None
    clock.advance(62)  # by its time, a token of another manager with the same secret could have begun since
    known = await entries()
    assert (await routed(laptop, "DELETE", "/others")).status == 200
    assert await entries() == known + 1
    assert (await laptop.visit(who)).result == "ada"
    await node.manager.revoke_subject("ada")
    assert (await laptop.visit(who)).result is None


async def test_all_others_are_ended(node: DeviceNode) -> None:
    laptop, *others = [await node.from_device() for _ in range(3)]
    assert (await routed(laptop, "DELETE", "/others")).status == 200

    assert (await laptop.visit(who)).result == "ada"
    assert [(await other.visit(who)).result for other in others] == [None, None]
    assert [device.id for device in await node.devices()] == [family(laptop)]


async def test_all_are_ended(node: DeviceNode) -> None:
    laptop, phone = await node.from_device(), await node.from_device()
    with node.manager.events() as stream:
        answer = await routed(laptop, "DELETE")
        assert "1 events" in repr(stream)  # one log-out, and not another of the present session

    assert (answer.status, answer.token) == (200, "")
    assert answer.header("session-revocation") == "fenced"
    assert (await phone.visit(who)).result is None
    assert await node.devices() == []


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b"what comes next"])
@pytest.mark.parametrize("below", ["", "/others", "/x"])
async def test_a_page_of_another_site_ends_nothing(node: DeviceNode, site: bytes, below: str) -> None:
    visitor, other = await node.from_device(), await node.from_device()
    answer = await routed(visitor, "DELETE", below, headers=[(b"sec-fetch-site", site)])

    assert (answer.status, answer.code) == (403, "request_cross_site")
    assert [(await one.visit(who)).result for one in (visitor, other)] == ["ada", "ada"]


@pytest.mark.parametrize("site", [b"same-origin", b"none"])
async def test_a_page_of_this_site_may(node: DeviceNode, site: bytes) -> None:
    visitor = await node.from_device()

    assert (await routed(visitor, "DELETE", headers=[(b"sec-fetch-site", site)])).status == 200


@pytest.mark.parametrize(("method", "below"), [("POST", ""), ("PUT", "/x"), ("POST", "/others"), ("OPTIONS", ""), ("GET", "/x")])
async def test_no_other_method_does_anything(node: DeviceNode, method: str, below: str) -> None:
    visitor = await node.from_device()
    answer = await routed(visitor, method, below)

    assert answer.status == 405
    assert "DELETE" in (answer.header("allow") or "")
    assert (await visitor.visit(who)).result == "ada"


async def test_an_anonymous_visitor_has_no_devices(node: DeviceNode) -> None:
    visitor = node.visitor()
    assert (await routed(visitor)).code == "token_missing"
    await visitor.visit(lambda session: session.update(cart=[]))
    assert (await routed(visitor)).code == "token_missing"
    assert (await routed(visitor, "DELETE")).status == 401


async def test_a_session_that_was_logged_out_lists_and_ends_nothing(node: DeviceNode) -> None:
    visitor, other = await node.from_device(), await node.from_device()
    await node.manager.revoke_session(family(visitor))

    assert (await routed(visitor)).code == "session_revoked"
    assert (await routed(visitor, "DELETE")).code == "session_revoked"
    assert (await other.visit(who)).result == "ada"


async def test_below_a_root_path_the_routes_are_there_too(node: DeviceNode) -> None:
    visitor = await node.from_device()

    assert (await visitor.visit(path="/shop" + PATH, root_path="/shop")).header("content-type") == "application/json"


async def test_the_routes_leave_the_rest_alone(node: DeviceNode) -> None:
    visitor = await node.from_device()

    assert (await visitor.visit(who, path="/-/session/devicesque")).status == 404
    assert (await visitor.visit(who, path="/devices")).result == "ada"
    assert (await visitor.visit(path="/-/session/livez")).status == 200


async def test_the_routes_are_there_only_where_they_are_wanted(clock: ManualClock) -> None:
    visitor = await DeviceNode(clock, devices="off").from_device()

    assert (await routed(visitor)).status == 404


@asynccontextmanager
async def without_a_store(node: DeviceNode) -> AsyncIterator[None]:
    node.store.gone = True
    yield
    node.store.gone = False


async def test_a_store_that_is_gone_is_a_503_and_ends_nothing(node: DeviceNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    laptop, phone = await node.from_device(), await node.from_device()
    async with without_a_store(node):
        answer = await routed(laptop, "DELETE", f"/{family(phone)}")

    assert (answer.status, answer.code) == (503, "store_unavailable")
    assert (await phone.visit(who)).result == "ada"


@pytest.mark.parametrize("whose", ["another", "this one", "all"])
async def test_a_provisional_log_out_is_a_202(node: DeviceNode, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    from ha_session_mw import Acknowledgement

    async def provisional(entry: Deny) -> Acknowledgement:
        return Acknowledgement(mode="provisional", waited_s=0.0)

    laptop, phone = await node.from_device(), await node.from_device()
    monkeypatch.setattr(node_of(node.manager).revoker, "revoke", provisional)
    answer = await routed(laptop, "DELETE", {"another": f"/{family(phone)}", "this one": f"/{family(laptop)}", "all": ""}[whose])

    assert (answer.status, answer.header("session-revocation")) == (202, "provisional")
    assert json.loads(answer.body) == {"acknowledged": "provisional"}
