"""Sessions whose data is in the store: where data goes, how two concurrent requests merge, and how a missing store is handled."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from litestar.connection import ASGIConnection

from ha_session_mw import LockLost, NotSupported, Session, SessionManager, SessionTooLarge, Settings, StoreUnavailable
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw._node.locks import Hold
from ha_session_mw.abc import MAX_RECORD_BYTES, Grant, Record
from ha_session_mw.backends.memory.store import MemoryRecords, MemoryStore
from ha_session_mw.manager import node_of
from ha_session_mw.models import Claims, Deny
from ha_session_mw.session.session import session_of, state_of
from ha_session_mw.session.state import RequestState
from ha_session_mw.testing import ManualClock, mint_session

from ..asgi.driver import SECRET, Act, Answer, Node, Visitor, look, obliging, respond, who, why
from ..shared import Shared
from ..waiting import LIMIT_S

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

LARGE = "x" * 5000


class TroubledStore(MemoryStore):
    """A store that can be made to fail: ``gone`` makes each call raise; ``hook`` runs in the middle of the next put."""

    gone = False
    hook: Callable[[], Awaitable[object]] | None = None
    reads = 0

    async def get(self, id: str) -> Record | None:
        self.reads += 1
        self._require()
        return await super().get(id)

    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        self._require()
        if self.hook is not None:
            hook, self.hook = self.hook, None
            await hook()
        return await super().put(record, guard=guard)

    async def delete(self, id: str) -> None:
        self._require()
        await super().delete(id)

    def _require(self) -> None:
        if self.gone:
            raise StoreUnavailable("as told")


class StoreNode(Node):
    """A node whose store can be looked into."""

    def __init__(self, clock: ManualClock, **settings: Any) -> None:
        super().__init__(clock=clock, **settings)
        self.records = MemoryRecords(clock)
        shared = Shared(lambda on_newer: TroubledStore(self.records, on_newer=on_newer))
        self.manager = SessionManager(Settings(**{"secret_key": SECRET, **settings}), clock=clock, backend=shared)
        self.store = shared.store
        self.app = type(self.app)(self.app.app, manager=self.manager)

    def forget_copies(self) -> None:
        """As on another node, or after a restart."""
        node_of(self.manager).copies.forget_all()

    def claims(self, visitor: Visitor) -> Claims:
        assert visitor.token
        verified = node_of(self.manager).validator.verify(visitor.token.encode())
        assert isinstance(verified, Verified)
        return verified.claims

    def stored(self) -> list[Record]:
        return [*self.records._records.values()]


@pytest.fixture
def node(clock: ManualClock) -> StoreNode:
    return StoreNode(clock)


def put(**data: Any) -> Act:
    return lambda session: session.update(data)


# Where data goes


async def test_data_stays_in_the_token_while_it_fits(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", cart=["book"])

    assert node.claims(visitor).record == 0
    assert node.stored() == []


async def test_data_that_outgrows_the_token_moves_to_the_store(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", cart=["book"])
    await visitor.visit(put(text=LARGE))

    claims = node.claims(visitor)
    [record] = node.stored()
    assert (claims.record, claims.family, claims.absolute_end_ms, "ada") == (record.version, record.id, record.until_ms, record.subject)
    assert visitor.token
    assert len(visitor.token) < 500
    assert (await visitor.visit(look)).result == {"cart": ["book"], "text": LARGE}


async def test_data_that_fits_again_travels_in_the_token_again_and_needs_no_look_up(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    await visitor.visit(put(text="short"))
    node.forget_copies()
    node.store.gone = True

    assert (await visitor.visit(look)).result == {"text": "short"}
    assert node.store.reads == 0


async def test_a_later_version_that_is_known_counts_for_more_than_the_copy_in_a_token(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    await visitor.visit(put(text="short"))
    older = Visitor(node)
    older.token = visitor.token
    await visitor.visit(put(more=1))

    assert (await older.visit(look)).result == {"text": "short", "more": 1}


@pytest.mark.parametrize("mode", ["token", "store", "auto"])
async def test_a_setting_says_where_small_data_goes(clock: ManualClock, mode: str) -> None:
    node = StoreNode(clock, data=mode)
    visitor = await node.logged_in("ada", cart=["book"])

    assert bool(node.claims(visitor).record) == (mode == "store")
    assert len(node.stored()) == (mode == "store")
    assert (b"book" in node.claims(visitor).data) == (mode != "store")
    assert (await visitor.visit(look)).result == {"cart": ["book"]}


async def test_with_data_in_the_store_a_session_without_data_has_no_record(clock: ManualClock) -> None:
    node = StoreNode(clock, data="store")
    visitor = await node.logged_in("ada")

    assert node.stored() == []
    await visitor.visit(put(a=1))
    await visitor.visit(lambda session: session.pop("a"))
    assert (await visitor.visit(look)).result == {}
    assert (await visitor.visit(who)).result == "ada"


async def test_where_data_stays_in_the_token_too_much_of_it_is_refused(clock: ManualClock) -> None:
    node = StoreNode(clock, data="token")
    visitor = await node.logged_in("ada")
    with pytest.raises(SessionTooLarge, match="browsers keep of this cookie; HA_SESSION_DATA=auto has the store keep it"):
        await visitor.visit(put(text=LARGE))


async def test_more_than_the_store_takes_is_refused_at_its_place_and_the_old_value_stays(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", a=1)

    def act(session: Session) -> None:
        with pytest.raises(SessionTooLarge, match="is the most; keep large data in a database and its key in the session"):
            session["a"] = "x" * MAX_RECORD_BYTES
        session["b"] = "x" * (MAX_RECORD_BYTES - 100)

    await visitor.visit(act)
    assert (await visitor.visit(lambda session: session["a"])).result == 1


async def test_a_minted_token_carries_all_of_its_data_or_is_not_made(node: StoreNode) -> None:
    with pytest.raises(SessionTooLarge):
        mint_session(node.manager, "ada", {"text": LARGE})


async def test_changes_inside_nested_values_are_stored_and_reading_stores_nothing(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE, notes=[{"done": False}])
    before = node.stored()
    answer = await visitor.visit(look)
    assert answer.cookies() == []
    assert node.stored() == before

    await visitor.visit(lambda session: session["notes"][0].update(done=True))
    assert (await visitor.visit(lambda session: session["notes"])).result == [{"done": True}]


async def test_nothing_is_stored_on_a_server_error(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    before = node.stored()
    await visitor.visit(put(a=1), status=500)
    assert node.stored() == before


async def test_a_renewed_token_names_the_same_record(node: StoreNode, clock: ManualClock) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    before = node.claims(visitor)
    clock.advance(20 * 60)
    await visitor.visit(who)

    assert node.claims(visitor).issued_ms > before.issued_ms
    assert node.claims(visitor).record == before.record
    assert (await visitor.visit(look)).result == {"text": LARGE}


async def test_a_bearer_has_its_data_in_the_store_too(node: StoreNode) -> None:
    visitor = await node.logged_in("ada")
    answer = await node.request(put(text=LARGE), bearer=visitor.token)
    token = answer.header("session-token")
    assert token
    assert (await node.request(look, bearer=token)).result == {"text": LARGE}


async def test_a_websocket_has_its_data(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["session"]))
        await send({"type": "websocket.close"})

    middleware = type(node.app)(app, manager=node.manager)
    from ..asgi.driver import call, scope_of

    assert visitor.token
    await call(middleware, scope_of("websocket", headers=[(b"cookie", b"session=" + visitor.token.encode())]))
    assert seen == [{"text": LARGE}]


@pytest.mark.parametrize("before", ["store", "auto"])
async def test_a_session_that_has_a_record_goes_on_in_the_store_where_data_stays_in_the_token_now(clock: ManualClock, before: str) -> None:
    node = StoreNode(clock, data=before)
    visitor = await node.logged_in("ada", text=LARGE)
    shared = Shared(lambda on_newer: MemoryStore(node.records, on_newer=on_newer))
    node.manager = SessionManager(Settings(secret_key=SECRET, data="token"), clock=clock, backend=shared)
    node.app = type(node.app)(obliging, manager=node.manager)

    assert (await visitor.visit(put(more=LARGE))).status == 200
    assert (await visitor.visit(look)).result == {"text": LARGE, "more": LARGE}


# The life of a session


async def test_a_log_in_moves_a_visitors_data_to_a_new_record(node: StoreNode) -> None:
    visitor = node.visitor()
    await visitor.visit(put(text=LARGE))
    [old] = node.stored()
    await visitor.visit(lambda session: session.login("ada"))

    [new] = node.stored()
    assert (old.subject, new.subject) == (None, "ada")
    assert old.id != new.id == node.claims(visitor).family
    assert (await visitor.visit(look)).result == {"text": LARGE}


async def test_a_log_in_of_somebody_else_takes_no_data_along(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    await visitor.visit(lambda session: session.login("bob"))

    assert node.stored() == []
    assert (await visitor.visit(look)).result == {}


async def test_a_new_id_keeps_the_record(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    [before] = node.stored()
    await visitor.visit(lambda session: session.cycle())

    [after] = node.stored()
    assert before.id == after.id
    assert (await visitor.visit(look)).result == {"text": LARGE}


@pytest.mark.parametrize("act", [lambda s: s.clear(), lambda s: s.revoke(), lambda s: s.manager.revoke_session(s.family)])
async def test_the_record_of_a_session_that_is_logged_out_is_deleted(node: StoreNode, act: Act) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    captured = Visitor(node)
    captured.token = visitor.token
    await visitor.visit(act)

    assert node.stored() == []
    assert (await captured.visit(why)).result == "session_revoked"


@pytest.mark.parametrize("mode", ["auto", "store"])
async def test_a_visitors_record_is_emptied_with_the_session_and_stays_for_requests_under_way(clock: ManualClock, mode: str) -> None:
    node = StoreNode(clock, data=mode)
    visitor = node.visitor()
    await visitor.visit(put(text=LARGE))
    captured = visitor.token
    answer = await visitor.visit(lambda session: session.pop("text"))
    assert (answer.token, answer.header("session-revocation")) == ("", None)
    assert (await node.request(look, token=captured)).result == {}
    [record] = node.stored()
    assert len(record.content) < 50


@pytest.mark.parametrize("mode", ["auto", "store"])
@pytest.mark.parametrize("first", ["write", "empty"])
async def test_a_write_beside_one_that_empties_a_visitors_session_stands(clock: ManualClock, mode: str, first: str) -> None:
    node = StoreNode(clock, data=mode)
    visitor = node.visitor()
    await visitor.visit(put(flash=LARGE))
    other = Visitor(node)
    other.token = visitor.token
    acts: dict[str, Act] = {"write": put(form="sent"), "empty": lambda session: session.pop("flash")}
    later = acts.pop("empty" if first == "write" else "write")

    async def slow(session: Session) -> None:
        later(session)
        await other.visit(acts[first])

    answer = await visitor.visit(slow)
    assert (answer.status, bool(answer.token)) == (200, True)
    assert (await visitor.visit(look)).result == {"form": "sent"}


async def test_a_log_out_everywhere_deletes_the_records_but_that_of_the_session_that_may_stay(node: StoreNode) -> None:
    phone, laptop, bob = [await node.logged_in(subject, text=LARGE) for subject in ("ada", "ada", "bob")]

    async def everywhere_else(session: Session) -> None:
        await session.manager.revoke_subject("ada", except_session=session)

    await laptop.visit(everywhere_else)
    assert {record.id for record in node.stored()} == {node.claims(laptop).family, node.claims(bob).family}
    assert (await phone.visit(why)).result == "session_revoked"
    assert (await laptop.visit(look)).result == {"text": LARGE}

    await node.manager.revoke_subject("ada", except_session=node.claims(laptop).sid)  # which does not tell the record
    assert (await laptop.visit(look)).result == {"text": LARGE}
    await node.manager.revoke_subject("ada")
    assert {record.id for record in node.stored()} == {node.claims(bob).family}


async def test_a_record_that_cannot_be_deleted_is_deleted_later(node: StoreNode, clock: ManualClock) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    async with node.manager.running():
        await visitor.visit(who)
        node.store.gone = True
        answer = await visitor.visit(lambda session: session.clear())
        assert answer.header("session-revocation") == "fenced"  # that does not wait for the store to come back
        node.store.gone = False
        with anyio.fail_after(LIMIT_S):
            while node.stored():
                clock.advance(1)
                await anyio.lowlevel.checkpoint()


# Two at once


async def test_two_requests_that_change_a_session_at_once_lose_nothing(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE, step=1)
    other = Visitor(node)
    other.token = visitor.token

    async def first(session: Session) -> None:
        session["cart"] = ["book"]
        session["step"] = 2
        await other.visit(put(seen=True, step=3))  # begins later, and is done before

    await visitor.visit(first)
    assert (await visitor.visit(look)).result == {"text": LARGE, "cart": ["book"], "seen": True, "step": 2}
    assert (await other.visit(look)).result == {"text": LARGE, "cart": ["book"], "seen": True, "step": 2}


async def test_two_requests_that_outgrow_the_token_at_once_lose_nothing(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", step=1)
    other = Visitor(node)
    other.token = visitor.token

    async def first(session: Session) -> None:
        session["text"] = LARGE
        await other.visit(put(more=LARGE, step=2))

    await visitor.visit(first)
    assert (await visitor.visit(look)).result == {"text": LARGE, "more": LARGE, "step": 2}


async def test_a_strict_session_that_others_changed_raises_and_saves_nothing(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    other = Visitor(node)
    other.token = visitor.token

    async def first(session: Session) -> None:
        session.strict = True
        session["cart"] = ["book"]
        await other.visit(put(seen=True))

    answer = await visitor.visit(first)
    assert (answer.status, answer.code) == (409, "session_conflict")
    assert answer.problem["retryable"] is True
    assert answer.cookies() == []
    assert (await visitor.visit(look)).result == {"text": LARGE, "seen": True}

    def again(session: Session) -> None:
        session.strict = True
        session["cart"] = ["book"]

    assert (await visitor.visit(again)).status == 200
    assert (await other.visit(look)).result == {"text": LARGE, "seen": True, "cart": ["book"]}


async def test_a_retry_after_a_conflict_succeeds_even_if_the_node_hears_of_others_late(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    node.records.stores.discard(node.store)  # the node hears of no changes by others, for now
    [record] = node.stored()
    await node.store.put(record)

    def strictly(session: Session) -> None:
        session.strict = True
        session["cart"] = ["book"]

    assert (await visitor.visit(strictly)).status == 409
    assert (await visitor.visit(strictly)).status == 200


async def test_the_lock_too_reports_changes_by_others_to_a_strict_session(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    node.records.require_held = lambda grant: None
    other = Visitor(node)
    other.token = visitor.token

    async def first(session: Session, *, changes_before: bool) -> None:
        session.strict = True
        if changes_before:
            session["paid"] = session.get("price", 0)
        await other.visit(put(price=7))
        async with session.lock():
            session["paid"] = session.get("price", 0)

    answer = await visitor.visit(lambda session: first(session, changes_before=True))
    assert (answer.status, answer.code) == (409, "session_conflict")
    assert (await visitor.visit(lambda session: first(session, changes_before=False))).status == 200
    assert (await visitor.visit(look)).result == {"text": LARGE, "price": 7, "paid": 7}
    assert node_of(node.manager).locks.held == 0


async def test_strictness_takes_small_data_to_the_store_where_it_can_be_told(node: StoreNode) -> None:
    visitor = await node.logged_in("ada")

    def strictly(session: Session) -> None:
        session.strict = True
        session["a"] = 1

    await visitor.visit(strictly)
    assert node.claims(visitor).record
    assert (await visitor.visit(look)).result == {"a": 1}


async def test_the_first_strict_change_of_small_data_is_put_together_with_another_one(node: StoreNode) -> None:
    visitor = await node.logged_in("ada")
    other = Visitor(node)
    other.token = visitor.token

    async def strictly(session: Session, *, key: str, meanwhile: Act = who) -> None:
        session.strict = True
        session[key] = 1
        await other.visit(meanwhile)

    await visitor.visit(lambda session: strictly(session, key="a", meanwhile=lambda other: strictly(other, key="b")))
    assert (await visitor.visit(look)).result == {"a": 1, "b": 1}


async def test_strictness_that_cannot_be_kept_is_refused_at_the_call() -> None:
    def strictly(session: Session) -> bool:
        session.strict = False
        with pytest.raises(NotSupported):
            session.strict = True
        return session.strict

    from ha_session_mw.testing import Cluster

    async with Cluster("ab", app=Node().app.app) as cluster:
        await cluster.ready()
        session = session_of(RequestState(cluster.nodes[0].manager))
        assert strictly(session) is False


async def test_merged_data_that_is_too_large_raises_and_the_stored_data_stays(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    other = Visitor(node)
    other.token = visitor.token

    async def first(session: Session) -> None:
        session["mine"] = "x" * (MAX_RECORD_BYTES // 2)
        await other.visit(put(theirs="y" * (MAX_RECORD_BYTES // 2)))

    with pytest.raises(SessionTooLarge, match="with the changes of other requests"):
        await visitor.visit(first)
    assert set((await visitor.visit(look)).result) == {"text", "theirs"}


async def test_as_many_requests_at_once_as_a_browser_makes_all_get_through(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    answers: list[Answer] = []

    async def change(number: int) -> None:
        answers.append(await node.request(put(**{f"key {number}": number}), token=visitor.token))

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(change, number)
    assert [answer.status for answer in answers] == [200] * 100
    assert (await visitor.visit(look)).result == {"text": LARGE, **{f"key {number}": number for number in range(100)}}


async def test_a_change_that_others_overtake_again_and_again_is_given_up(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    other = Visitor(node)
    other.token = visitor.token
    number = 0

    async def overtake() -> None:
        nonlocal number
        number += 1
        node.store.hook = None
        await other.visit(put(number=number))
        node.store.hook = overtake

    node.store.hook = overtake
    answer = await visitor.visit(put(mine=1))
    assert (answer.status, answer.code) == (503, "store_unavailable")
    assert 100 < number < 1000


# A log-out in the midst of a change


async def test_a_change_that_began_before_a_log_out_and_ends_after_it_brings_nothing_back(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    other = Visitor(node)
    other.token = visitor.token

    async def slow(session: Session) -> None:
        session["cart"] = ["book"]
        await other.visit(lambda other_session: other_session.clear())

    answer = await visitor.visit(slow)
    assert (answer.status, answer.code) == (401, "session_revoked")
    assert node.stored() == []


async def test_a_log_out_while_the_store_writes_brings_nothing_back_either(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    claims = node.claims(visitor)
    node.store.hook = lambda: node_of(node.manager).revoker.revoke_session(claims)
    answer = await visitor.visit(put(cart=["book"]))
    assert (answer.status, answer.code) == (401, "session_revoked")
    assert node.stored() == []


@pytest.mark.parametrize("path", ["/open", "/protected"])
async def test_a_log_out_while_the_store_reads_counts_as_one_before_it(clock: ManualClock, path: str) -> None:
    node = StoreNode(clock, protect="/protected")
    visitor = await node.logged_in("ada", text=LARGE)
    node.forget_copies()
    claims, read = node.claims(visitor), node.store.get

    async def get(id: str) -> Record | None:
        await node_of(node.manager).revoker.revoke_session(claims)
        return await read(id)

    node.store.get = get  # type: ignore[method-assign]
    answer = await visitor.visit(why, path)
    if path == "/open":
        assert (answer.status, answer.result) == (200, "session_revoked")
    else:
        assert (answer.status, answer.code) == (401, "session_revoked")


async def test_a_log_out_while_the_first_record_is_written_leaves_none(node: StoreNode) -> None:
    visitor = await node.logged_in("ada")
    claims = node.claims(visitor)
    node.store.hook = lambda: node_of(node.manager).revoker.revoke_session(claims)
    answer = await visitor.visit(put(text=LARGE))
    assert (answer.status, answer.code) == (401, "session_revoked")
    assert node.stored() == []


async def test_a_log_out_that_this_node_hears_of_later_deletes_its_writes_since_then(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    async with node.manager.running():
        node_of(node.manager).log.apply([Deny(node.claims(visitor).family, node.claims(visitor).absolute_end_ms)])  # as another node's
        with anyio.fail_after(LIMIT_S):
            while node.stored():
                await anyio.lowlevel.checkpoint()


async def test_changes_by_others_before_a_log_in_are_carried_over(node: StoreNode) -> None:
    visitor = node.visitor()
    await visitor.visit(put(text=LARGE, seen=1, gone=1))
    other = Visitor(node)
    other.token = visitor.token

    async def log_in(session: Session) -> None:
        session["seen"] = 2
        del session["gone"]
        session.login("ada")
        session["more"] = 3
        await other.visit(put(cart=["book"], seen=7))

    await visitor.visit(log_in)
    assert (await visitor.visit(look)).result == {"text": LARGE, "seen": 2, "more": 3, "cart": ["book"]}
    assert len(node.stored()) == 1


async def test_a_log_in_of_somebody_else_takes_nothing_along(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    other = Visitor(node)
    other.token = visitor.token

    async def log_in(session: Session) -> None:
        session.login("bob")
        session["mine"] = 1
        await other.visit(put(cart=["book"]))

    await visitor.visit(log_in)
    assert (await visitor.visit(look)).result == {"mine": 1}


@pytest.mark.parametrize("trouble", ["logged out", "lost"])
async def test_a_log_in_needs_nothing_of_a_record_that_is_gone(node: StoreNode, trouble: str) -> None:
    visitor = node.visitor()
    await visitor.visit(put(text=LARGE))
    claims = node.claims(visitor)

    async def log_in(session: Session) -> None:
        session.login("ada")
        if trouble == "lost":
            await node.store.delete(claims.family)
        else:
            await node_of(node.manager).revoker.revoke_session(claims)

    assert (await visitor.visit(log_in)).status == 200
    assert (await visitor.visit(look)).result == {"text": LARGE}


async def test_a_log_out_everywhere_takes_all_records_of_the_subject_however_many(node: StoreNode) -> None:
    for _ in range(105):  # more than a page
        await node.logged_in("ada", text=LARGE)
    await node.logged_in("grace", text=LARGE)
    await node.manager.revoke_subject("ada")
    assert [record.subject for record in node.stored()] == ["grace"]


async def test_a_new_id_that_is_taken_while_another_request_writes_costs_no_data(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    other = Visitor(node)
    other.token = visitor.token
    node.store.hook = lambda: other.visit(lambda session: session.cycle())

    await visitor.visit(put(a=1))
    assert (await other.visit(look)).result["text"] == LARGE


async def test_an_id_that_was_left_behind_meanwhile_writes_nothing(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    other = Visitor(node)
    other.token = visitor.token

    async def slow(session: Session) -> None:
        session["late"] = 1
        await other.visit(lambda other_session: other_session.cycle())

    answer = await visitor.visit(slow)
    assert (answer.status, answer.code) == (409, "session_superseded")
    assert (await other.visit(look)).result == {"text": LARGE}


async def test_a_change_under_a_lock_that_is_held_no_more_is_not_stored(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    before = node.stored()

    def locked(session: Session) -> None:
        state_of(session).hold = Hold(Grant("lock", 7, 0.0, "me"), 6.0)
        session["a"] = 1

    answer = await visitor.visit(locked)
    assert (answer.status, answer.code) == (409, LockLost.code)
    assert node.stored() == before
    node.records.require_held = lambda grant: None
    assert (await visitor.visit(locked)).status == 200


# Without the store


async def test_without_the_store_requests_that_need_no_data_work(node: StoreNode, clock: ManualClock) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    node.forget_copies()
    node.store.gone = True

    assert (await visitor.visit(who)).result == "ada"
    before = visitor.token
    clock.advance(20 * 60)
    assert (await visitor.visit(who)).status == 200
    assert visitor.token != before  # renewed
    assert (await visitor.visit(lambda session: session.cycle())).status == 200

    node.store.gone = False
    assert (await visitor.visit(look)).result == {"text": LARGE}

    node.forget_copies()
    node.store.gone = True
    captured = Visitor(node)
    captured.token = visitor.token
    assert (await visitor.visit(lambda session: session.clear())).header("session-revocation") == "fenced"
    assert (await captured.visit(why)).result == "session_revoked"


READS_AND_WRITES: dict[str, Act] = {
    "look": look,
    "item": lambda session: session["text"],
    "get": lambda session: session.get("text"),
    "in": lambda session: "text" in session,
    "len": len,
    "bool": bool,
    "iter": lambda session: [*session],
    "keys": lambda session: session.keys(),
    "values": lambda session: session.values(),
    "items": lambda session: session.items(),
    "==": lambda session: session == {},
    "!=": lambda session: session != {},
    "{**}": lambda session: {**session},
    "copy": lambda session: session.copy(),
    "|": lambda session: session | {},
    "reversed": lambda session: [*reversed(session)],
    "set": put(a=1),
    "del": lambda session: session.__delitem__("text"),
    "pop": lambda session: session.pop("text", None),
    "popitem": lambda session: session.popitem(),
    "setdefault": lambda session: session.setdefault("a", 1),
    "replace": lambda session: session.replace({}),
    "login": lambda session: session.login("ada"),
    "|=": lambda session: session.__ior__({"a": 1}),
}


@pytest.mark.parametrize("act", READS_AND_WRITES.values(), ids=READS_AND_WRITES)
async def test_without_the_store_requests_that_need_data_get_an_error_and_nothing_is_overwritten(node: StoreNode, act: Act) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    node.forget_copies()
    node.store.gone = True
    before = node.stored(), visitor.token

    answer = await visitor.visit(act)
    assert (answer.status, answer.code, answer.header("retry-after")) == (503, "store_unavailable", "3")
    assert answer.cookies() == []
    assert (node.stored(), visitor.token) == before
    node.store.gone = False
    assert (await visitor.visit(look)).result == {"text": LARGE}


async def test_content_that_litestar_sets_overwrites_no_data_that_is_out_of_reach(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    node.forget_copies()
    node.store.gone = True

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ASGIConnection[Any, Any, Any, Any](scope).set_session({"fresh": 1})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    node.app = type(node.app)(app, manager=node.manager)
    assert (await visitor.visit()).status == 503
    assert len(node.stored()) == 1


async def test_litestars_clear_session_logs_out_though_the_data_is_out_of_reach(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    node.forget_copies()
    node.store.gone = True
    captured = visitor.token

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ASGIConnection[Any, Any, Any, Any](scope).clear_session()
        await respond(send)

    node.app = type(node.app)(app, manager=node.manager)
    answer = await visitor.visit()
    assert (answer.status, answer.token, answer.header("session-revocation")) == (200, "", "fenced")
    node.app = type(node.app)(obliging, manager=node.manager)
    assert (await node.request(why, token=captured)).result == "session_revoked"


async def test_a_change_that_cannot_be_stored_raises_and_the_session_stays(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    node.store.gone = True
    before = visitor.token
    answer = await visitor.visit(put(a=1))
    assert (answer.status, answer.code) == (503, "store_unavailable")
    assert visitor.token == before
    node.store.gone = False
    assert (await visitor.visit(look)).result == {"text": LARGE}


async def test_a_small_session_needs_no_store(node: StoreNode) -> None:
    node.store.gone = True
    visitor = await node.logged_in("ada", a=1)
    assert (await visitor.visit(put(b=2))).status == 200
    assert (await visitor.visit(look)).result == {"a": 1, "b": 2}


async def test_an_unreadable_record_is_logged_once_and_left_unchanged(node: StoreNode, caplog: pytest.LogCaptureFixture) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    [record] = node.stored()
    await node.store.put(Record(record.id, b"\x93\x02 of a later release", record.until_ms, record.subject, record.version))
    before = node.stored()
    for act in (look, put(a=1), look):
        answer = await visitor.visit(act)
        assert (answer.status, answer.code) == (503, "store_unavailable")
    assert (await visitor.visit(who)).result == "ada"
    assert node.stored() == before
    assert [entry.levelno for entry in caplog.records if "another release" in entry.message] == [logging.ERROR]


async def test_a_record_that_becomes_unreadable_during_a_request_is_not_overwritten_either(node: StoreNode) -> None:
    visitor = await node.logged_in("ada", text=LARGE)
    [record] = node.stored()

    async def replace() -> None:
        await node.store.put(Record(record.id, b"\x93\x02 of a later release", record.until_ms, record.subject, record.version))

    node.store.hook = replace
    answer = await visitor.visit(put(a=1))
    assert (answer.status, answer.code) == (503, "store_unavailable")
    assert [record.content for record in node.stored()] == [b"\x93\x02 of a later release"]


@pytest.mark.parametrize("locked", [False, True])
async def test_data_that_the_store_has_lost_and_the_token_has_goes_on_from_there(node: StoreNode, locked: bool) -> None:
    """Also where the store gives lower versions now: it was made anew, or is another one."""
    visitor = await node.logged_in("ada", text=LARGE)
    await visitor.visit(put(text="short"))
    await node.store.delete(node.claims(visitor).family)
    node.forget_copies()
    node.records._version = 1000

    async def change(session: Session) -> None:
        if locked:
            async with session.lock():
                session["a"] = 1
        else:
            session["a"] = 1

    node.records.require_held = lambda grant: None
    assert (await visitor.visit(look)).result == {"text": "short"}
    assert (await visitor.visit(change)).status == 200
    assert node.claims(visitor).record < 1010
    assert (await visitor.visit(look)).result == {"text": "short", "a": 1}


async def test_a_full_store_is_reported_and_ended_records_make_room(clock: ManualClock) -> None:
    node = StoreNode(clock)
    node.records._max_stored_bytes = 14_000
    visitors = [await node.logged_in("ada", text=LARGE) for _ in range(2)]
    third = await node.logged_in("bob")
    answer = await third.visit(put(text=LARGE))
    assert (answer.status, answer.code) == (503, "store_unavailable")
    assert (await third.visit(who)).result == "bob"
    assert [(await visitor.visit(look)).status for visitor in visitors] == [200, 200]

    clock.advance(13 * 3600)
    fourth = await node.logged_in("eve", text=LARGE)
    assert (await fourth.visit(look)).result == {"text": LARGE}


async def test_a_token_whose_store_is_not_there_any_more_tells_so_or_shows_its_copy(node: StoreNode, clock: ManualClock) -> None:
    large, small = await node.logged_in("ada", text=LARGE), await node.logged_in("bob", text=LARGE)
    await small.visit(put(text="short"))
    elsewhere = Node(clock=clock)
    node_of(elsewhere.manager).data._records = None
    node_of(elsewhere.manager).issuer._max_stored_bytes = None

    answer = await elsewhere.request(look, token=large.token)
    hints = [answer.problem[name] for name in ("retryable", "retry_where", "retry_after_ms", "action")]
    assert (answer.status, answer.code, hints, answer.header("retry-after")) == (
        503,
        "store_unavailable",
        [False, "none", None, "contact"],
        None,
    )
    begun = await elsewhere.request(lambda session: session.login("ada"), token=large.token)
    assert (await elsewhere.request(who, token=begun.token)).result == "ada"
    assert (await elsewhere.request(look, token=small.token)).result == {"text": "short"}
    answer = await elsewhere.request(put(a=1), token=small.token)
    assert (await elsewhere.request(look, token=answer.token)).result == {"text": "short", "a": 1}
