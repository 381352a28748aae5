"""What a session leaves behind with a new id is denied last: no failure or cancellation of the request costs the client its session."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message

from ha_session_mw import Session, SessionManager, SessionMiddleware, Settings, StoreUnavailable
from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.cluster.view import View
from ha_session_mw.abc import Clock, ClusterLog, Grant, Receipt, Record
from ha_session_mw.backends.memory.log import MemoryLog
from ha_session_mw.backends.memory.store import MemoryRecords, MemoryStore
from ha_session_mw.exceptions import EntryRejected, QuorumLost
from ha_session_mw.manager import node_of
from ha_session_mw.models import Entry
from ha_session_mw.testing import ManualClock

from ..asgi.driver import SECRET, Node, Visitor, cycle, log_in_again, look, obliging, prove_again, scope_of, who, why
from ..asgi.test_legacy_cookies import starlette_cookie
from ..shared import Shared

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


def clear_and_log_in(session: Session) -> None:
    session.clear()
    session["role"] = "admin"
    session.login("ada")


every_change = pytest.mark.parametrize("change", [cycle, log_in_again, prove_again, clear_and_log_in], ids=lambda change: change.__name__)


class Log(MemoryLog):
    """A log that takes its time, and may be out of reach."""

    confirms = takes = True
    rejects = False

    async def confirm(self) -> None:
        await self._wait()
        if not self.confirms:
            raise QuorumLost("as told")

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        self.apply(entries)
        await self._wait()
        if self.rejects:
            raise EntryRejected("as told")
        if not self.takes:
            raise QuorumLost("as told")
        return Receipt(1, self._clock.boot_s())

    async def _wait(self) -> None:
        for _ in range(4):
            await anyio.lowlevel.checkpoint()


class Store(MemoryStore):
    """A store of session data that can be made to fail."""

    gone = False

    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        await anyio.lowlevel.checkpoint()
        if self.gone:
            raise StoreUnavailable("as told")
        return await super().put(record, guard=guard)


class Backend(Shared[Store]):
    def open_log(self, view: View, clock: Clock, own: Heartbeat, peering: Any, *, on_event: Any) -> ClusterLog:
        self.log = Log(view, clock, own)
        return self.log


class Alone(Node):
    """One node, with its log and its store in the test's hands."""

    def __init__(self, *, kind: str = "session", **settings: Any) -> None:
        self.clock = ManualClock()
        self.backend = Backend(lambda _: Store(MemoryRecords(self.clock)), kind=kind)
        self.manager = SessionManager(Settings(**{"secret_key": SECRET, **settings}), clock=self.clock, backend=self.backend)
        self.app = SessionMiddleware(obliging, manager=self.manager)

    @property
    def log(self) -> Log:
        return self.backend.log


async def is_as_before(visitor: Visitor, data: dict[str, Any] | None = None) -> bool:
    found = (await visitor.visit(who)).result, (await visitor.visit(look)).result
    return found == ("ada", data or {})


# The log refuses


@every_change
@pytest.mark.parametrize("data", ["token", "store"])
async def test_a_change_that_the_log_does_not_confirm_saves_and_denies_nothing(change: Any, data: str) -> None:
    node = Alone(data=data)
    visitor = await node.logged_in(cart=[1])
    before = visitor.token
    node.log.confirms = False

    answer = await visitor.visit(change)

    assert (answer.status, answer.code, answer.problem["outcome"]) == (503, "quorum_lost", "executed")
    assert answer.cookies() == []
    assert visitor.token == before
    assert await is_as_before(visitor, {"cart": [1]})
    assert [*node_of(node.manager).view.entries()] == []


@every_change
@pytest.mark.parametrize("fault", ["takes", "rejects"])
@pytest.mark.parametrize("data", ["token", "store"])
async def test_a_denial_that_fails_after_all_is_told_as_provisional_and_the_client_gets_its_new_token(
    change: Any, fault: str, data: str
) -> None:
    node = Alone(data=data, no_quorum="refuse")
    visitor = await node.logged_in()
    captured = node.visitor()
    captured.token = visitor.token
    setattr(node.log, fault, fault == "rejects")

    answer = await visitor.visit(change)

    assert (answer.status, answer.header("session-revocation")) == (200, "provisional")
    assert await is_as_before(visitor, {"role": "admin"})
    assert (await captured.visit(why)).result in ("session_revoked", "session_superseded")


async def test_a_log_in_from_nothing_leaves_nothing_behind_and_asks_no_log() -> None:
    node = Alone()
    node.log.confirms = node.log.takes = False
    assert await is_as_before(await node.logged_in())


async def test_a_log_out_is_denied_at_once_and_is_not_asked_about() -> None:
    node = Alone()
    for act in (lambda session: session.clear(), Session.revoke):
        visitor = await node.logged_in()
        node.log.confirms = node.log.takes = False
        answer = await visitor.visit(act)
        assert (answer.status, answer.code) == (503, "quorum_lost")
        assert (await visitor.visit(why)).result == "session_revoked"
        node.log.confirms = node.log.takes = True


@pytest.mark.parametrize("subject", [None, "ada"])
async def test_a_visitor_whose_session_cannot_be_cleared_and_begun_anew_keeps_it(subject: str | None) -> None:
    node = Alone()
    visitor = node.visitor()
    await visitor.visit(lambda session: session.update(cart=[1]))

    def begin_anew(session: Session) -> None:
        session.clear()
        session["cart"] = []
        if subject is not None:
            session.login(subject)

    node.log.confirms = node.log.takes = False
    answer = await visitor.visit(begin_anew)
    assert (answer.status, answer.code) == (503, "quorum_lost")
    assert (await visitor.visit(look)).result == {"cart": [1]}

    node.log.confirms = node.log.takes = True
    answer = await visitor.visit(begin_anew)
    assert (answer.status, answer.header("session-revocation")) == (200, "fenced")
    assert (await visitor.visit(look)).result == {"cart": []}


async def test_none_of_several_sessions_is_denied_if_they_cannot_all_be() -> None:
    node = Alone()
    tokens = [(await node.logged_in(name)).token for name in ("ada", "bob", "eve")]
    cookies = [(b"cookie", "; ".join(f"session={token}" for token in tokens).encode())]
    node.log.confirms = False

    answer = await node.request(lambda session: session.login("ada"), headers=cookies)

    assert (answer.status, answer.code) == (503, "quorum_lost")
    for token, name in zip(tokens, ("ada", "bob", "eve"), strict=True):
        assert (await node.request(who, token=token)).result == name

    node.log.confirms = True
    answer = await node.request(lambda session: session.login("ada"), headers=cookies)
    assert answer.token
    for token in tokens:
        assert (await node.request(why, token=token)).result in ("session_revoked", "session_superseded")


async def test_a_cookie_of_starlettes_middleware_that_cannot_be_left_behind_is_still_good() -> None:
    node = Alone(legacy_cookies="starlette")
    visitor = node.visitor()
    visitor.token = cookie = starlette_cookie(node.clock, {"cart": [1]})
    node.log.confirms = False
    assert (await visitor.visit(lambda session: session.login("ada"))).code == "quorum_lost"
    assert visitor.token == cookie
    assert (await visitor.visit(look)).result == {"cart": [1]}


# Something else fails in the same commit


@every_change
async def test_data_that_cannot_be_stored_leaves_the_old_id_good(change: Any) -> None:
    node = Alone(data="store")
    visitor = await node.logged_in(cart=[1])
    node.backend.store.gone = True

    answer = await visitor.visit(change)

    assert (answer.status, answer.code) == (503, "store_unavailable")
    node.backend.store.gone = False
    assert await is_as_before(visitor, {"cart": [1]})


@every_change
async def test_a_lock_that_is_lost_leaves_the_old_id_good(change: Any) -> None:
    node = Alone(data="store")
    visitor = await node.logged_in(cart=[1])

    async def under_a_lost_lock(session: Session) -> None:
        async with session.lock(lease=1):
            change(session)
        session._state.hold.lost = True  # type: ignore[union-attr]

    answer = await visitor.visit(under_a_lost_lock)

    assert (answer.status, answer.code) == (409, "session_conflict")
    assert await is_as_before(visitor, {"cart": [1]})


async def test_a_log_in_beyond_the_limit_leaves_the_visitors_session_good() -> None:
    node = Alone(track="on", max_sessions=1, when_full="refuse")
    await node.logged_in()
    visitor = node.visitor()
    await visitor.visit(lambda session: session.update(cart=[1]))

    answer = await visitor.visit(lambda session: session.login("ada"))

    assert answer.code == "session_limit_reached"
    assert (await visitor.visit(look)).result == {"cart": [1]}


@pytest.mark.parametrize("fault", ["quorum_lost", "store_unavailable", 500])
async def test_a_log_in_that_fails_ends_no_other_session_for_its_place(fault: str | int) -> None:
    node = Alone(track="on", max_sessions=1, data="store")
    oldest = await node.logged_in(cart=[1])
    node.log.confirms = fault != "quorum_lost"
    node.backend.store.gone = fault == "store_unavailable"
    visitor = node.visitor()

    answer = await visitor.visit(log_in_again, status=500 if fault == 500 else 200)

    assert answer.status == 500 if fault == 500 else answer.code == fault
    node.log.confirms, node.backend.store.gone = True, False
    assert await is_as_before(oldest, {"cart": [1]})
    assert [device.id for device in await node.manager.sessions_of("ada")] == [(await oldest.visit(lambda session: session.family)).result]

    assert (await visitor.visit(log_in_again)).status == 200
    assert (await oldest.visit(why)).result == "session_revoked"
    assert await is_as_before(visitor, {"role": "admin"})


# The request is cancelled


async def test_at_no_moment_a_cancelled_request_leaves_its_client_without_a_session() -> None:
    """The server cancels a request whose client has gone, or an app's time limit does."""
    outcomes = set()
    for moment in range(40):
        for change in (cycle, log_in_again):
            node = Alone(data="store", track="on")
            visitor = await node.logged_in(cart=[1])
            started = await _cancelled(node, visitor, change, moment)
            if started is None:
                assert (await visitor.visit(who)).result == "ada"
                # The data of a session that goes on may be stored by then, and it is the same session.
                assert change is cycle or (await visitor.visit(look)).result == {"cart": [1]}
            else:
                visitor.token = started
                assert await is_as_before(visitor, {"cart": [1], "role": "admin"})
            outcomes.add(started is None)
    assert outcomes == {True, False}


async def _cancelled(node: Node, visitor: Visitor, change: Callable[[Session], None], moment: int) -> str | None:
    """Cancel a request after so many steps. Return the token that it has sent, if it has."""
    headers = [(b"cookie", f"session={visitor.token}".encode())]
    scope = scope_of("http", "/", headers=headers, act=change, status=200, answer_headers=[])
    sent: list[Message] = []

    async def request() -> None:
        async def send(message: Message) -> None:  # as uvicorn's: it hands the message over and waits for nothing
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request"}

        await node.app(scope, receive, send)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request)
        for _ in range(moment):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    for message in sent:
        for name, value in message.get("headers", ()):
            if name == b"set-cookie":
                return str(value.decode().split(";")[0].partition("=")[2])
    return None


# sqlite://


@pytest.fixture
def intruder(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    Node(cluster=f"sqlite://{tmp_path}/sessions.db")
    db = sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)
    yield db
    db.close()


@pytest.mark.parametrize(("change", "data"), [(cycle, "token"), (cycle, "store"), (log_in_again, "store")])
async def test_a_locked_file_refuses_a_change_and_the_session_stays_as_it_was_at_all_workers(
    change: Any, data: str, tmp_path: Path, intruder: sqlite3.Connection
) -> None:
    node, other = (Node(cluster=f"sqlite://{tmp_path}/sessions.db", data=data) for _ in range(2))
    visitor = await node.logged_in(cart=[1])
    intruder.execute("BEGIN IMMEDIATE")

    answer = await visitor.visit(change)

    assert (answer.status, answer.code) == (503, "quorum_lost")
    intruder.execute("ROLLBACK")
    assert await is_as_before(visitor, {"cart": [1]})
    assert (await other.request(who, token=visitor.token)).result == "ada"
    assert (await visitor.visit(change)).status == 200
    assert await is_as_before(visitor, {"cart": [1], "role": "admin"})


@every_change
async def test_a_full_disk_refuses_a_change_and_the_session_stays_as_it_was(change: Any, tmp_path: Path) -> None:
    node = Node(cluster=f"sqlite://{tmp_path}/sessions.db")
    visitor = await node.logged_in(cart=[1])
    log: Any = node_of(node.manager).log
    await log.confirm()
    log._file._writer.execute("PRAGMA max_page_count = 1")  # SQLite's minimum is the current size
    last = visitor.token
    answer = await visitor.visit(change)
    while answer.status == 200:  # a page that is begun has room for some more
        last = visitor.token
        answer = await visitor.visit(change)

    assert (answer.status, answer.code) == (503, "quorum_lost")
    assert visitor.token == last
    log._file._writer = None  # there is room again
    assert (await visitor.visit(who)).result == "ada"
    assert (await visitor.visit(change)).status == 200
