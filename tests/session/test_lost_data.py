"""Data that the store has lost for good: the session goes on without, and that is told once. Or it ends, as the settings say."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from ha_session_mw import Session, SessionManager
from ha_session_mw.abc import Record
from ha_session_mw.events import ClusterEvent, SessionDataLost, SessionRecovered
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny
from ha_session_mw.testing import ManualClock

from ..asgi.driver import Answer, Visitor, look, who, why
from .test_stored_sessions import LARGE, StoreNode, put

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

Lose = Callable[[StoreNode, Visitor], Awaitable[None]]


class Heard:
    """The events of a node since this was made."""

    def __init__(self, manager: SessionManager) -> None:
        self._stream = manager.events()

    def __call__(self) -> list[ClusterEvent]:
        found, self._stream._events = [*self._stream._events], type(self._stream._events)()
        return found


async def is_gone(node: StoreNode, visitor: Visitor) -> None:
    """As memory:// after a restart, or a file that was lost."""
    node.records._records.clear()
    node.forget_copies()


async def is_older(node: StoreNode, visitor: Visitor) -> None:
    """As after a backup was restored, which gives the versions once more."""
    [record] = node.stored()
    await visitor.visit(put(a=1))
    node.records._records[record.id] = record
    node.records._version = record.version
    node.forget_copies()


async def is_damaged(node: StoreNode, visitor: Visitor) -> None:
    [record] = node.stored()
    await node.store.put(Record(record.id, b"damaged", record.until_ms, record.subject, record.version))
    node.forget_copies()


async def was_visitors(node: StoreNode, visitor: Visitor) -> None:
    """As the oldest visitors' records of memory://, which make room for others."""
    node.records.delete(node.claims(visitor).family)


LOSSES: dict[str, Lose] = {"gone": is_gone, "older": is_older, "damaged": is_damaged, "evicted": was_visitors}


@pytest.fixture
def node(clock: ManualClock) -> StoreNode:
    return StoreNode(clock)


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
async def test_a_session_goes_on_without_lost_data_and_that_is_told_once(
    node: StoreNode, lose: Lose, caplog: pytest.LogCaptureFixture
) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    await lose(node, visitor)
    family, heard = node.claims(visitor).family, Heard(node.manager)

    def see(session: Session) -> tuple[bool, str | None, dict[str, Any]]:
        return session.data_lost, session.subject, dict(session)

    answers: list[Answer] = [await visitor.visit(see) for _ in range(3)]
    assert [answer.result for answer in answers] == [(True, "ada", {}), (False, "ada", {}), (False, "ada", {})]
    assert [answer.header("session-data-lost") for answer in answers] == ["?1", None, None]
    assert heard() == [SessionDataLost(family, "ada", ended=False)]
    status = await node.manager.status()
    assert (status["lost_session_data"], status["sessions_recovered"]["request"]) == (1, 0)  # type: ignore[index]
    assert len([entry for entry in caplog.records if "has lost" in entry.message and entry.levelno == logging.ERROR]) == 1

    assert (await visitor.visit(put(text=LARGE, b=2))).status == 200
    node.forget_copies()
    assert (await visitor.visit(look)).result == {"text": LARGE, "b": 2}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
async def test_older_tokens_of_the_session_find_the_new_data_and_report_no_second_loss(node: StoreNode, lose: Lose) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    await lose(node, visitor)
    other_tab = Visitor(node)
    other_tab.token = visitor.token
    await visitor.visit(put(b=2, text=LARGE))
    heard = Heard(node.manager)

    for _ in range(2):
        node.forget_copies()
        answer = await other_tab.visit(look)
        assert (answer.result, answer.header("session-data-lost")) == ({"b": 2, "text": LARGE}, None)
    assert not any(isinstance(event, SessionDataLost) for event in heard())
    await other_tab.visit(put(c=3))
    assert (await visitor.visit(look)).result == {"b": 2, "text": LARGE, "c": 3}


@pytest.mark.parametrize("path", ["/open", "/protected"])
async def test_a_session_ends_with_its_data_where_the_settings_say_so(clock: ManualClock, path: str) -> None:
    node = StoreNode(clock, when_lost="end", protect="/protected")
    visitor = await node.logged_in("ada", text=LARGE)
    await is_gone(node, visitor)
    family, heard = node.claims(visitor).family, Heard(node.manager)

    first, second = [await node.request(why, path, token=visitor.token) for _ in range(2)]
    if path == "/open":
        assert (first.result, second.result) == ("session_data_lost", "session_revoked")
    else:
        assert [(answer.status, answer.code) for answer in (first, second)] == [(401, "session_data_lost"), (401, "session_revoked")]
        assert 'error="invalid_token"' in str(first.header("www-authenticate"))
    [lost, _] = heard()
    assert lost == SessionDataLost(family, "ada", ended=True)
    assert node.stored() == []


async def test_a_store_that_cannot_be_reached_has_lost_nothing(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    node.forget_copies()
    node.store.gone = True
    answer = await visitor.visit(look)
    assert (answer.status, answer.code, answer.problem["retryable"]) == (503, "store_unavailable", True)
    node.store.gone = False
    assert (await visitor.visit(look)).result == {"text": LARGE}


async def test_lost_data_that_cannot_be_replaced_now_is_out_of_reach_and_nothing_is_told(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    await is_gone(node, visitor)
    heard = Heard(node.manager)

    async def refuse(record: Record, *, guard: object = None) -> Record:
        node.store.gone = True
        return await type(node.store).put(node.store, record)

    node.store.put = refuse  # type: ignore[method-assign]
    answer = await visitor.visit(look)
    assert (answer.status, answer.code) == (503, "store_unavailable")
    assert (await visitor.visit(who)).result == "ada"
    assert heard() == []


@pytest.mark.parametrize("knows", [True, False])
async def test_a_record_that_a_log_out_has_deleted_is_not_lost(clock: ManualClock, knows: bool) -> None:
    """The node sees the record gone before it hears of the log-out. It waits for that, and does not revive the session."""
    node = StoreNode(clock)
    visitor = await node.logged_in("ada", text=LARGE)
    claims, heard = node.claims(visitor), Heard(node.manager)
    await is_gone(node, visitor)
    inner = node_of(node.manager)
    waits = 0

    async def wait_changed() -> None:
        nonlocal waits
        waits += 1
        if knows:
            inner.log.apply([Deny(claims.family, claims.absolute_end_ms)])
            inner.view.fresh_at = clock.boot_s()
        else:
            clock.advance(0.5)
            await anyio.lowlevel.checkpoint()

    inner.view.fresh_at = clock.boot_s() - 1.0  # as on a cluster: what came in the last second is not here yet
    inner.log.trusts_clock()
    inner.log.wait_changed = wait_changed  # type: ignore[method-assign]
    answer = await visitor.visit(why)
    assert waits == (1 if knows else 3)
    if knows:
        assert answer.result == "session_revoked"
    else:
        assert (answer.status, (await visitor.visit(look)).code) == (200, "store_unavailable")
    assert node.stored() == []
    assert not any(isinstance(event, SessionDataLost) for event in heard())


async def test_a_request_that_holds_the_data_writes_it_again_when_the_store_has_lost_it(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE, cart=["book"])
    heard = Heard(node.manager)
    family = node.claims(visitor).family

    async def during(session: Session) -> None:
        node.records._records.clear()
        session["a"] = 1

    assert (await visitor.visit(during)).header("session-data-lost") is None
    node.forget_copies()
    assert (await visitor.visit(look)).result == {"text": LARGE, "cart": ["book"], "a": 1}
    assert heard() == [SessionRecovered(family, "request"), SessionRecovered(family, "store")]


async def test_a_request_that_holds_the_data_restores_it_over_what_another_has_begun_anew(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE, cart=["book"])
    other_tab = Visitor(node)
    other_tab.token = visitor.token

    async def during(session: Session) -> None:
        session["a"] = 1
        await is_gone(node, visitor)
        assert (await other_tab.visit(put(b=2))).header("session-data-lost") == "?1"

    await visitor.visit(during)
    node.forget_copies()
    found = (await visitor.visit(look)).result
    assert found["text"] == LARGE
    assert (found["cart"], found["a"], found["b"]) == (["book"], 1, 2)


async def test_a_record_older_than_a_requests_data_is_replaced_as_a_whole(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE, cart=["book"])
    [older] = node.stored()
    await visitor.visit(put(cart=["book", "pen"]))

    async def during(session: Session) -> None:
        node.records._records[older.id] = older
        session["a"] = 1

    await visitor.visit(during)
    node.forget_copies()
    assert (await visitor.visit(look)).result == {"text": LARGE, "cart": ["book", "pen"], "a": 1}


async def test_under_a_lock_a_request_goes_on_with_the_data_that_it_holds(node: StoreNode) -> None:
    """The lock reads the record anew. What it finds lost is in this node's memory."""
    visitor = await node.logged_in("ada", text=LARGE)
    node.records._records.clear()

    async def locked(session: Session) -> None:
        async with session.lock():
            session["a"] = 1

    node.records.require_held = lambda grant: None
    assert (await visitor.visit(locked)).status == 200
    node.forget_copies()
    assert (await visitor.visit(look)).result == {"text": LARGE, "a": 1}


async def test_requests_that_find_a_loss_at_once_report_one(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    await is_gone(node, visitor)
    heard = Heard(node.manager)
    found: list[Any] = []

    async def visit() -> None:
        tab = Visitor(node)
        tab.token = visitor.token
        found.append((await tab.visit(put(a=len(found)))).status)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(visit)
    assert found == [200] * 5
    assert len([event for event in heard() if isinstance(event, SessionDataLost)]) == 1


async def test_a_visitors_lost_data_goes_the_same_way(node: StoreNode) -> None:
    visitor = node.visitor()
    await visitor.visit(put(cart=[LARGE]))
    await was_visitors(node, visitor)
    answer = await visitor.visit(look)
    assert (answer.status, answer.result, answer.header("session-data-lost")) == (200, {}, "?1")
    await visitor.visit(put(cart=["pen"]))
    assert (await visitor.visit(look)).result == {"cart": ["pen"]}


async def test_a_log_in_after_a_loss_begins_with_none(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    await is_gone(node, visitor)

    def log_in(session: Session) -> None:
        session.login("ada")
        session["a"] = 1

    assert (await visitor.visit(log_in)).status == 200
    assert (await visitor.visit(look)).result == {"a": 1}
