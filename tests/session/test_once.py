"""A block that is executed once for each idempotency key, on any node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from ha_session_mw import NotSupported, Session, SessionManager, Settings, StoreUnavailable
from ha_session_mw._core.records.once import KEPT_MS, MOST_ANSWER_BYTES
from ha_session_mw.abc import Record
from ha_session_mw.backends.memory.store import MemoryStore
from ha_session_mw.manager import node_of
from ha_session_mw.session.session import ONCE_LEASE_S
from ha_session_mw.testing import ManualClock

from ..asgi.driver import SECRET, Node

pytestmark = pytest.mark.anyio


class Till:
    """A handler that charges a card, and counts."""

    def __init__(self, *, key: str = "k1", request: bytes = b"7 EUR") -> None:
        self.key = key
        self.request = request
        self.charged = 0
        self.told: list[Any] = []

    async def pay(self, session: Session) -> None:
        async with session.once(self.key, request=self.request) as once:
            if once.answer is None:
                self.charged += 1
                once.answer = {"receipt": self.charged}
        self.told.append(once.answer)


async def test_a_repeat_gets_the_answer_of_the_first_request() -> None:
    ada, till = await Node().logged_in(), Till()
    for _ in range(3):
        assert (await ada.visit(till.pay)).status == 200
    assert (till.charged, till.told) == (1, [{"receipt": 1}] * 3)


async def test_the_same_holds_on_another_worker(tmp_path: Path) -> None:
    till = Till()
    a, b = (Node(cluster=f"sqlite://{tmp_path}/sessions.db") for _ in range(2))
    ada = await a.logged_in()
    await ada.visit(till.pay)
    assert (await b.request(till.pay, token=ada.token)).status == 200
    assert till.charged == 1


async def test_keys_of_other_subjects_and_other_keys_are_others() -> None:
    node = Node()
    ada, grace, till = await node.logged_in("ada"), await node.logged_in("grace"), Till()
    await ada.visit(till.pay)
    await grace.visit(till.pay)
    till.key = "k2"
    await ada.visit(till.pay)
    assert till.charged == 3


async def test_a_new_session_of_the_subject_has_the_same_keys() -> None:
    node, till = Node(), Till()
    for _ in range(2):
        await (await node.logged_in("ada")).visit(till.pay)
    assert till.charged == 1


@pytest.mark.parametrize("by", ["token", "bearer"])
async def test_a_repeat_of_a_log_out_gets_the_answer_of_the_first_request(tmp_path: Path, by: str) -> None:
    done: list[str] = []
    told: list[Any] = []

    async def log_out(session: Session) -> None:
        async with session.once("k1", request=b"/logout") as once:
            if once.answer is None:
                done.append("logged out")
                session.clear()
                once.answer = "goodbye"
        told.append(once.answer)

    a, b = (Node(cluster=f"sqlite://{tmp_path}/sessions.db") for _ in range(2))
    ada = await a.logged_in()
    sent: dict[str, Any] = {by: ada.token}
    for node in (a, a, b):
        assert (await node.request(log_out, **sent)).status == 200
    assert (done, told) == (["logged out"], ["goodbye"] * 3)

    till = Till()
    answer = await a.request(till.pay, **sent)
    assert (answer.status, answer.code, answer.problem["outcome"], till.charged) == (422, "idempotency_key_reused", "not_executed", 0)
    till.key = "k2"
    answer = await a.request(till.pay, **sent)
    assert (answer.status, answer.code, till.charged) == (401, "session_revoked", 0)


async def test_a_key_for_something_else_is_refused() -> None:
    ada, till = await Node().logged_in(), Till()
    await ada.visit(till.pay)
    till.request = b"9 EUR"
    answer = await ada.visit(till.pay)
    assert (answer.status, answer.code) == (422, "idempotency_key_reused")
    assert till.charged == 1


async def test_a_repeat_while_the_first_is_under_way_is_refused_and_did_nothing() -> None:
    node = Node()
    ada, till = await node.logged_in(), Till()
    began, may_end = anyio.Event(), anyio.Event()

    async def slow(session: Session) -> None:
        async with session.once("k1", request=till.request) as once:
            began.set()
            await may_end.wait()
            once.answer = "done"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: node.request(slow, token=ada.token))
        await began.wait()
        answer = await node.request(till.pay, token=ada.token, method="POST")
        assert (answer.status, answer.code) == (409, "request_in_flight")
        assert (answer.problem["outcome"], answer.problem["retryable"]) == ("not_executed", True)
        may_end.set()
    await ada.visit(till.pay)
    assert (till.charged, till.told) == (0, ["done"])


async def test_after_a_block_that_failed_or_set_no_answer_the_next_request_is_the_first() -> None:
    ada, till = await Node().logged_in(), Till()

    async def fails(session: Session) -> None:
        async with session.once("k1", request=till.request):
            raise ZeroDivisionError

    async def sets_nothing(session: Session) -> None:
        async with session.once("k1", request=till.request):
            pass

    with pytest.raises(ZeroDivisionError):
        await ada.visit(fails)
    await ada.visit(sets_nothing)
    await ada.visit(till.pay)
    assert till.charged == 1


async def test_an_answer_that_was_set_is_kept_although_the_block_raises_afterwards() -> None:
    ada, till = await Node().logged_in(), Till()

    async def pay_and_fail(session: Session) -> None:
        async with session.once("k1", request=b"7 EUR") as once:
            till.charged += 1
            once.answer = {"receipt": till.charged}
            raise KeyError("of the app's own")

    with pytest.raises(KeyError):
        await ada.visit(pay_and_fail)
    assert (await ada.visit(till.pay)).status == 200
    assert (till.charged, till.told) == (1, [{"receipt": 1}])


async def test_no_number_of_keys_of_one_user_fills_the_store_by_the_ready_made_routes() -> None:
    node = Node(devices="on", track="on", logins_per_subject=5)
    ada = await node.logged_in()
    store = node_of(node.manager).once._store()
    assert isinstance(store, MemoryStore)
    records = store._records._records
    before = len(records)

    async def send(method: str, path: str, number: int) -> int:
        key = [(b"idempotency-key", b"k%d" % number)]
        return (await ada.visit(path=f"/-/session/{path}", method=method, headers=key)).status

    assert {await send("POST", "renew", number) for number in range(50)} == {204}
    assert len(records) == before
    assert {await send("DELETE", "devices/others", number) for number in range(50)} == {200}
    assert len(records) == before + 5


async def test_renew_obeys_the_key(tmp_path: Path) -> None:
    a, b = (Node(cluster=f"sqlite://{tmp_path}/sessions.db") for _ in range(2))
    ada = await a.logged_in()
    key = [(b"idempotency-key", b"k1")]
    for node in (a, b, a):
        answer = await node.request(path="/-/session/renew", method="POST", token=ada.token, headers=key)
        assert (answer.status, answer.body) == (204, b"")
        assert answer.token
    await ada.visit(Till(key="k2").pay)
    answer = await b.request(path="/-/session/renew", method="POST", token=ada.token, headers=[(b"idempotency-key", b"k2")])
    assert (answer.status, answer.code) == (422, "idempotency_key_reused")


async def test_a_block_that_was_cancelled_is_executed_again_only_after_its_lease() -> None:
    clock = ManualClock()
    node, till = Node(clock=clock), Till()
    ada = await node.logged_in()

    async def client_goes(session: Session) -> None:
        async with session.once("k1", request=till.request):
            scope.cancel()
            await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await ada.visit(client_goes)
    assert (await ada.visit(till.pay)).code == "request_in_flight"
    clock.advance(ONCE_LEASE_S + 1)
    await ada.visit(till.pay)
    await ada.visit(till.pay)
    assert till.charged == 1


async def test_a_request_that_outlives_its_lease_keeps_no_answer_once_a_repeat_has_taken_over() -> None:
    clock = ManualClock()
    node, till = Node(clock=clock), Till()
    ada = await node.logged_in()

    async def slow(session: Session) -> None:
        async with session.once("k1", request=till.request) as once:
            clock.advance(ONCE_LEASE_S + 1)
            await node.request(till.pay, token=ada.token)
            once.answer = "too late"

    assert (await ada.visit(slow)).code == "request_in_flight"
    await ada.visit(till.pay)
    assert till.told == [{"receipt": 1}] * 2


async def test_an_answer_is_kept_for_a_day() -> None:
    clock = ManualClock()
    node, till = Node(clock=clock), Till()
    await (await node.logged_in("ada")).visit(till.pay)
    clock.advance(KEPT_MS / 1000 - 60)
    await (await node.logged_in("ada")).visit(till.pay)
    assert till.charged == 1


@pytest.mark.parametrize("answer", [object(), "x" * MOST_ANSWER_BYTES])
async def test_an_answer_that_cannot_be_kept_is_an_error_of_the_app(answer: object) -> None:
    ada = await Node().logged_in()

    async def pay(session: Session) -> None:
        async with session.once("k1") as once:
            once.answer = answer

    with pytest.raises((TypeError, ValueError)):
        await ada.visit(pay)


async def test_without_a_session_a_store_or_a_key_it_says_so() -> None:
    def refused(kind: type[Exception], key: str = "k1") -> Callable[[Session], Any]:
        async def pay(session: Session) -> None:
            with pytest.raises(kind):
                async with session.once(key):
                    pass

        return pay

    node = Node()
    await node.request(refused(LookupError))
    await (await node.logged_in()).visit(refused(ValueError, key=""))
    url = "http://127.0.0.1:1"
    peers = SessionManager(Settings(secret_key=SECRET, cluster="peers://", peers=(url, "http://127.0.0.1:2"), advertise_url=url))
    with pytest.raises(NotSupported):
        await node_of(peers).once.begin("ada", "ada", "k1", b"", lease_s=1)


async def test_while_the_store_is_out_of_reach_nothing_is_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    ada, till = await Node().logged_in(), Till()

    async def unreachable(store: MemoryStore, record: Record, **_: Any) -> Record:
        raise StoreUnavailable("played")

    monkeypatch.setattr(MemoryStore, "put", unreachable)
    assert (await ada.visit(till.pay)).code == "store_unavailable"
    assert till.charged == 0
