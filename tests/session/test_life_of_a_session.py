"""Log in, change, log out: an app's actions on a session and their effects."""

from __future__ import annotations

import contextlib
import copy
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from litestar.connection import ASGIConnection
from starlette.types import Message, Receive, Scope, Send

from ha_session_mw import Session, SessionNotSerializable, SessionReadOnly, SessionRevoked, SessionTooLarge, StateStale, get_session
from ha_session_mw.asgi.streams import SessionEnded
from ha_session_mw.manager import node_of
from ha_session_mw.session.session import state_of
from ha_session_mw.session.state import RequestState
from ha_session_mw.testing import ManualClock

from ..asgi.driver import Act, Answer, Node, call, look, respond, scope_of, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


def put(**data: Any) -> Act:
    return lambda session: session.update(data)


# Identity and lifetime


async def test_a_visitor_has_no_id_until_something_is_written(node: Node) -> None:
    visitor = node.visitor()
    answer = await visitor.visit(lambda session: (session.id, session.family, session.subject, session.issuer, session.expires_at))
    assert answer.result == (None,) * 5
    assert answer.token is None
    await visitor.visit(put(colour="blue"))
    answer = await visitor.visit(lambda session: (session.id, session.subject))
    session_id, subject = answer.result
    assert visitor.token is not None
    assert visitor.token.split(".")[1] == session_id
    assert subject is None


async def test_a_session_has_its_times_and_its_issuer(clock: ManualClock) -> None:
    node = Node(clock=clock, node_id="alpha", idle_timeout="10m", absolute_timeout="1h")
    visitor = await node.logged_in()
    clock.advance(60)
    await visitor.visit(put(colour="blue"))
    now = clock.wall_s()
    answer = await visitor.visit(
        lambda s: (s.issuer, s.issued_at, s.authenticated_at, s.idle_expires_at, s.expires_at),
    )
    times = [datetime.fromtimestamp(moment, UTC) for moment in (now, now - 60, now + 600, now + 3540)]
    assert answer.result == ("alpha", *times)


async def test_a_session_made_by_hand_is_a_dict() -> None:
    session = Session({"a": 1})
    assert session == {"a": 1}
    assert (session.accessed, session.modified, session.id, session.subject) == (False, False, None, None)
    session["b"] = 2
    assert (session.accessed, session.modified) == (True, True)
    session.clear()
    assert session == {}
    with pytest.raises(LookupError, match="made by hand"):
        _ = session.manager


async def test_there_is_no_session_where_no_middleware_is() -> None:
    with pytest.raises(LookupError, match=r"add ha_session_mw.*, outside of the middleware that asks for the session"):
        get_session(scope_of("http"))


class WSGIRequest:
    """A request as Django makes it under WSGI."""


async def test_there_is_no_session_where_no_asgi_is() -> None:
    with pytest.raises(LookupError, match="a WSGIRequest has no ASGI scope"):
        get_session(WSGIRequest())  # type: ignore[arg-type]


# login


async def test_login_takes_a_new_id_and_a_new_family_and_denies_the_old_id(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(put(cart="book"))
    planted = visitor.token
    before = (await visitor.visit(lambda s: (s.id, s.family))).result
    answer = await visitor.visit(lambda s: s.login("ada"))
    after = (await visitor.visit(lambda s: (s.id, s.family))).result
    assert not {*before} & {*after}
    assert answer.header("session-revocation") is None
    assert (await node.request(why, token=planted)).result == "session_superseded"
    assert (await node.request(look, token=planted)).result == {}


async def test_login_keeps_the_visitors_data(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(put(cart="book"))
    await visitor.visit(lambda s: s.login("ada"))
    assert (await visitor.visit(lambda s: (s.subject, dict(s)))).result == ("ada", {"cart": "book"})


async def test_login_of_another_subject_keeps_nothing_of_the_first(node: Node) -> None:
    visitor = await node.logged_in("ada", diary="private")
    token_of_ada = visitor.token
    await visitor.visit(lambda s: s.login("eve"))
    assert (await visitor.visit(lambda s: (s.subject, dict(s)))).result == ("eve", {})
    assert (await node.request(why, token=token_of_ada)).result == "session_superseded"


async def test_login_of_the_same_subject_keeps_the_data_under_a_new_id(node: Node) -> None:
    visitor = await node.logged_in("ada", theme="dark")
    old = visitor.token
    await visitor.visit(lambda s: s.login("ada"))
    assert (await visitor.visit(look)).result == {"theme": "dark"}
    assert (await node.request(why, token=old)).result == "session_superseded"


@pytest.mark.parametrize(("subject", "error"), [(7, TypeError), ("", ValueError), ("x" * 513, ValueError), (None, TypeError)])
async def test_login_refuses_an_invalid_subject(node: Node, subject: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await node.request(lambda s: s.login(subject))


async def test_login_refuses_a_str_that_is_no_text_and_changes_nothing(node: Node) -> None:
    visitor = await node.logged_in("ada", cart="book")

    def try_it(session: Session) -> None:
        with pytest.raises(ValueError, match="subject must be text"):
            session.login("\udc80")

    assert (await visitor.visit(try_it)).status == 200
    assert ((await visitor.visit(who)).result, (await visitor.visit(look)).result) == ("ada", {"cart": "book"})


async def test_login_on_a_stale_node_becomes_its_problem_document(node: Node) -> None:
    node_of(node.manager).view.fresh_at = node.clock.boot_s()
    node.clock.advance(6)
    answer = await node.request(lambda s: s.login("ada"))
    assert (answer.status, answer.code, answer.header("retry-after")) == (503, "state_stale", "1")
    assert answer.cookies() == []


async def test_login_is_not_saved_on_a_5xx(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(put(cart="book"))
    token = visitor.token
    answer = await visitor.visit(lambda s: s.login("ada"), status=500)
    assert answer.cookies() == []
    assert (await node.request(lambda s: (s.subject, dict(s)), token=token)).result == (None, {"cart": "book"})


# cycle


async def test_cycle_changes_the_id_in_the_same_family_and_denies_the_old_one(node: Node) -> None:
    visitor = await node.logged_in("ada", theme="dark")
    old = visitor.token
    before = (await visitor.visit(lambda s: (s.id, s.family))).result
    await visitor.visit(lambda s: s.cycle())
    after = (await visitor.visit(lambda s: (s.id, s.family))).result
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert (await visitor.visit(lambda s: (s.subject, dict(s)))).result == ("ada", {"theme": "dark"})
    assert (await node.request(why, token=old)).result == "session_superseded"


async def test_cycle_needs_a_session(node: Node) -> None:
    with pytest.raises(LookupError, match="no session yet"):
        await node.request(lambda s: s.cycle())


async def test_a_session_revoked_meanwhile_does_not_escape_into_a_new_id(node: Node) -> None:
    visitor = await node.logged_in()

    async def cycle_while_logged_out(session: Session) -> None:
        session.cycle()
        assert session.family is not None
        await session.manager.revoke_session(session.family)

    answer = await visitor.visit(cycle_while_logged_out)
    assert (answer.status, answer.code) == (401, "session_revoked")
    assert answer.cookies() == []


async def test_cycle_on_a_stale_node_becomes_its_problem_document(node: Node) -> None:
    visitor = await node.logged_in()

    def cycle(session: Session) -> None:
        node_of(node.manager).view.fresh_at = node.clock.boot_s()
        node.clock.advance(6)
        with pytest.raises(StateStale):
            session.cycle()
        session.cycle()

    answer = await visitor.visit(cycle)
    assert (answer.status, answer.code) == (503, "state_stale")


# Two requests at once


class Gate:
    """Lets a request be held in the app while others go by."""

    def __init__(self) -> None:
        self.inside = anyio.Event()
        self.go_on = anyio.Event()

    async def wait(self) -> None:
        self.inside.set()
        await self.go_on.wait()


async def overtaken(node: Node, token: str | None, slow: Act, fast: Act) -> tuple[Answer, Answer]:
    """Two requests with one token: the slow one comes first and answers last."""
    gate = Gate()
    answers: list[Answer] = []

    async def first() -> None:
        async def act(session: Session) -> None:
            await gate.wait()
            slow(session)

        answers.append(await node.request(act, token=token))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await gate.inside.wait()
        fast_answer = await node.request(fast, token=token)
        gate.go_on.set()
    return answers[0], fast_answer


async def test_two_requests_at_once_do_not_share_state(node: Node) -> None:
    visitor = await node.logged_in(cart=["book"])
    seen: list[Any] = []
    await overtaken(node, visitor.token, slow=lambda s: seen.append(look(s)), fast=lambda s: s["cart"].append("pen"))
    assert seen == [{"cart": ["book"]}]


async def test_a_slow_read_does_not_overwrite_a_log_in(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(put(cart="book"))
    slow, fast = await overtaken(node, visitor.token, slow=look, fast=lambda s: s.login("ada"))
    assert fast.token
    assert slow.cookies() == []


async def test_a_slow_change_of_the_old_session_does_not_overwrite_a_log_in(node: Node) -> None:
    """Its token would be dead on arrival, and would log the browser out by replacing the good one."""
    visitor = node.visitor()
    await visitor.visit(put(cart="book"))
    slow, fast = await overtaken(node, visitor.token, slow=put(cart="pen"), fast=lambda s: s.login("ada"))
    assert fast.token
    assert slow.cookies() == []
    assert slow.code == "session_superseded"  # the change is lost, and that is said


async def test_a_renewal_of_a_session_revoked_meanwhile_is_not_made(node: Node) -> None:
    visitor = await node.logged_in()
    node.clock.advance(16 * 60)
    slow, fast = await overtaken(node, visitor.token, slow=look, fast=lambda s: s.clear())
    assert fast.token == ""
    assert slow.status == 200
    assert slow.cookies() == []


# revoke and clear


async def test_revoke_acknowledges_and_the_captured_cookie_is_dead(node: Node) -> None:
    visitor = await node.logged_in("ada", theme="dark")
    captured = visitor.token
    answer = await visitor.visit(lambda s: s.revoke(), status=204)
    assert (answer.result.mode, answer.status) == ("fenced", 204)
    assert answer.header("session-revocation") == "fenced"
    assert answer.token == ""
    assert (await node.request(why, token=captured)).result == "session_revoked"


async def test_revoke_ends_all_ids_of_the_family(node: Node) -> None:
    visitor = await node.logged_in()
    await visitor.visit(lambda s: s.cycle())
    cycled = visitor.token
    node.clock.advance(16 * 60)
    await visitor.visit()
    renewed = visitor.token
    assert renewed != cycled
    await visitor.visit(lambda s: s.revoke())
    for token in (cycled, renewed):
        assert (await node.request(why, token=token)).result == "session_revoked"


async def test_revoke_without_a_session_is_acknowledged(node: Node) -> None:
    answer = await node.request(lambda s: s.revoke())
    assert answer.result.mode == "fenced"
    assert answer.cookies() == []


async def test_revoke_twice_is_one_log_out(node: Node) -> None:
    visitor = await node.logged_in()

    async def twice(session: Session) -> bool:
        return await session.revoke() is await session.revoke()

    assert (await visitor.visit(twice)).result is True


async def test_a_write_after_revoke_begins_a_new_session(node: Node) -> None:
    visitor = await node.logged_in("ada", theme="dark")
    captured = visitor.token

    async def act(session: Session) -> None:
        await session.revoke()
        session["flash"] = "Good bye"

    answer = await visitor.visit(act)
    assert answer.header("session-revocation") == "fenced"
    assert (await visitor.visit(lambda s: (s.subject, dict(s)))).result == (None, {"flash": "Good bye"})
    assert (await node.request(why, token=captured)).result == "session_revoked"


async def test_clear_removes_the_cookie_and_the_captured_one_is_dead(node: Node) -> None:
    visitor = await node.logged_in("ada", theme="dark")
    captured = visitor.token
    answer = await visitor.visit(lambda s: s.clear())
    assert answer.token == ""
    assert answer.header("session-revocation") == "fenced"
    assert (await node.request(why, token=captured)).result == "session_revoked"


async def test_clear_of_a_session_without_data_logs_out_all_the_same(node: Node) -> None:
    visitor = await node.logged_in("ada")
    captured = visitor.token
    assert (await visitor.visit(lambda s: s.clear())).token == ""
    assert (await node.request(who, token=captured)).result is None


async def test_clear_then_write_is_a_new_session(node: Node) -> None:
    visitor = await node.logged_in("ada", theme="dark")
    captured = visitor.token
    old_id = (await visitor.visit(lambda s: s.id)).result

    def act(session: Session) -> None:
        session.clear()
        session["flash"] = "Good bye"

    answer = await visitor.visit(act)
    assert answer.header("session-revocation") == "fenced"
    assert answer.token
    new_id, subject, data = (await visitor.visit(lambda s: (s.id, s.subject, dict(s)))).result
    assert new_id != old_id
    assert (subject, data) == (None, {"flash": "Good bye"})
    assert (await node.request(why, token=captured)).result == "session_revoked"


async def test_clear_then_login_is_a_new_session(node: Node) -> None:
    visitor = await node.logged_in("ada", theme="dark")
    captured = visitor.token

    def act(session: Session) -> None:
        session.clear()
        session.login("ada")

    await visitor.visit(act)
    assert (await visitor.visit(lambda s: (s.subject, dict(s)))).result == ("ada", {})
    assert (await node.request(why, token=captured)).result == "session_superseded"


async def test_a_5xx_saves_nothing_but_the_log_out_holds(node: Node) -> None:
    visitor = await node.logged_in("ada", theme="dark")
    captured = visitor.token

    def act(session: Session) -> None:
        session.clear()
        session["flash"] = "Good bye"

    answer = await visitor.visit(act, status=503)
    assert answer.cookies() == []
    assert answer.header("session-revocation") == "fenced"
    assert (await node.request(why, token=captured)).result == "session_revoked"


@pytest.mark.parametrize("status", [500, 502, 599])
async def test_a_5xx_saves_no_change(node: Node, status: int) -> None:
    visitor = await node.logged_in(cart=["book"])
    token = visitor.token
    assert (await visitor.visit(put(colour="blue"), status=status)).cookies() == []
    assert (await visitor.visit(lambda s: s["cart"].append("pen"), status=status)).cookies() == []
    assert (await node.request(look, token=token)).result == {"cart": ["book"]}


@pytest.mark.parametrize("status", [200, 204, 302, 404, 499])
async def test_other_answers_save(node: Node, status: int) -> None:
    visitor = await node.logged_in()
    await visitor.visit(put(colour="blue"), status=status)
    assert (await visitor.visit(look)).result == {"colour": "blue"}


async def test_a_log_out_holds_though_the_app_fails_afterwards(node: Node) -> None:
    visitor = await node.logged_in()
    captured = visitor.token

    def act(session: Session) -> None:
        session.clear()
        raise RuntimeError("the app is broken")

    with pytest.raises(RuntimeError, match="the app is broken"):
        await visitor.visit(act)
    assert (await node.request(why, token=captured)).result == "session_revoked"


async def test_a_log_out_holds_though_the_client_has_gone(node: Node) -> None:
    visitor = await node.logged_in()
    captured = visitor.token

    with anyio.CancelScope() as scope:

        async def act(session: Session) -> None:
            session.clear()
            scope.cancel()
            await anyio.sleep_forever()

        await visitor.visit(act)
    assert scope.cancelled_caught
    assert (await node.request(why, token=captured)).result == "session_revoked"


async def test_a_log_out_holds_though_the_app_never_answers(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        get_session(scope).clear()

    node = Node(clock=clock)
    captured = (await node.logged_in()).token
    node.app.app = app
    answer = await call(node.app, scope_of("http", headers=[(b"cookie", b"session=" + str(captured).encode())]))
    assert answer.messages == []
    with pytest.raises(SessionRevoked):
        node_of(node.manager).validator.validate(str(captured).encode())


def pop_all(session: Session) -> None:
    for key in [*session]:
        session.pop(key)


def delete_all(session: Session) -> None:
    for key in [*session]:
        del session[key]


EMPTYING: list[Act] = [pop_all, delete_all, lambda s: s.replace({}), lambda s: [s.popitem() for _ in [*s]]]


@pytest.mark.parametrize("empty", EMPTYING)
async def test_a_visitors_session_that_is_emptied_loses_its_cookie_and_nobody_hears_of_it(node: Node, empty: Act) -> None:
    visitor = node.visitor()
    await visitor.visit(put(a=1, b=2))
    captured = visitor.token
    answer = await visitor.visit(empty)
    assert answer.token == ""
    assert answer.header("session-revocation") is None
    assert (await node.request(why, token=captured)).result is None


@pytest.mark.parametrize("empty", EMPTYING)
async def test_a_write_beside_one_that_empties_a_visitors_session_stands(node: Node, empty: Act) -> None:
    """As a flash message is shown, and a form of the same visitor is sent."""
    visitor = node.visitor()
    await visitor.visit(put(flash="hello"))
    slow, fast = await overtaken(node, visitor.token, slow=put(form="sent"), fast=empty)
    assert (fast.token, slow.status) == ("", 200)
    assert (await node.request(look, token=slow.token)).result["form"] == "sent"


@pytest.mark.parametrize("act", [lambda s: s.login("ada"), lambda s: s.clear()])
async def test_emptying_a_visitors_session_that_ended_meanwhile_changes_nothing(node: Node, act: Act) -> None:
    """The page that shows the message arrives, and the browser keeps the cookie of the log-in."""
    visitor = node.visitor()
    await visitor.visit(put(flash="hello"))
    slow, _ = await overtaken(node, visitor.token, slow=pop_all, fast=act)
    assert (slow.status, slow.cookies()) == (200, [])


async def test_a_visitors_session_that_is_emptied_in_an_answer_that_fails_stays(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(put(flash="hello"))
    answer = await visitor.visit(pop_all, status=500)
    assert (answer.cookies(), answer.header("session-revocation")) == ([], None)
    assert (await visitor.visit(look)).result == {"flash": "hello"}


async def test_a_visitors_session_that_is_emptied_and_filled_again_goes_on(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(put(a=1))
    session_id = (await visitor.visit(lambda s: s.id)).result

    def act(session: Session) -> None:
        session.pop("a")
        session["b"] = 2

    await visitor.visit(act)
    assert (await visitor.visit(lambda s: (s.id, dict(s)))).result == (session_id, {"b": 2})


async def test_a_new_id_for_a_visitors_session_that_is_emptied_leaves_the_old_id_behind(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(put(a=1))
    captured = visitor.token

    def act(session: Session) -> None:
        session.cycle()
        session.pop("a")

    assert (await visitor.visit(act)).token
    assert (await node.request(why, token=captured)).result == "session_superseded"


async def test_clear_of_a_visitors_session_is_a_log_out(node: Node) -> None:
    """An app of Starlette's may have put its user there."""
    visitor = node.visitor()
    await visitor.visit(put(user="ada"))
    captured = visitor.token
    answer = await visitor.visit(lambda s: s.clear())
    assert (answer.token, answer.header("session-revocation")) == ("", "fenced")
    assert (await node.request(why, token=captured)).result == "session_revoked"


async def test_somebody_logged_in_stays_so_when_the_last_key_goes(node: Node) -> None:
    visitor = await node.logged_in("ada", flash="hello")
    answer = await visitor.visit(lambda s: s.pop("flash"))
    assert answer.token
    assert (await visitor.visit(lambda s: (s.subject, dict(s)))).result == ("ada", {})


# Changes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s.update(a=2), {"a": 2, "n": {"list": [1]}}),
        (lambda s: s.__setitem__("b", 2), {"a": 1, "n": {"list": [1]}, "b": 2}),
        (lambda s: s.pop("a"), {"n": {"list": [1]}}),
        (lambda s: s.popitem(), {"a": 1}),
        (lambda s: s.__delitem__("n"), {"a": 1}),
        (lambda s: s.setdefault("b", 3), {"a": 1, "n": {"list": [1]}, "b": 3}),
        (lambda s: s.__ior__({"c": 4}), {"a": 1, "n": {"list": [1]}, "c": 4}),
        (lambda s: s["n"]["list"].append(2), {"a": 1, "n": {"list": [1, 2]}}),
        (lambda s: s["n"].clear(), {"a": 1, "n": {}}),
        (lambda s: s.replace({"z": 0}), {"z": 0}),
    ],
    ids=["update", "setitem", "pop", "popitem", "del", "setdefault", "ior", "nested list", "nested dict", "replace"],
)
async def test_every_kind_of_change_is_saved(node: Node, change: Act, expected: dict[str, Any]) -> None:
    visitor = await node.logged_in("ada", a=1, n={"list": [1]})
    assert (await visitor.visit(change)).token
    assert (await visitor.visit(look)).result == expected


@pytest.mark.parametrize(
    "read",
    [
        look,
        lambda s: s.get("a"),
        lambda s: s.pop("absent", None),
        lambda s: s.setdefault("a", 5),
        lambda s: s.copy(),
        lambda s: s | {"b": 2},
        lambda s: s["n"]["list"].sort(),
    ],
)
async def test_reading_sets_no_cookie(node: Node, read: Act) -> None:
    visitor = await node.logged_in("ada", a=1, n={"list": [1, 2]})
    assert (await visitor.visit(read)).all("set-cookie") == []


async def test_data_comes_back_as_it_went_in(node: Node) -> None:
    data = {
        "none": None,
        "yes": True,
        "n": -(2**63),
        "f": 0.1,
        "s": "ä€🎉",
        "b": b"\0\xff",
        "t": datetime(2030, 1, 1, tzinfo=UTC),
        "l": [{"k": [1]}],
    }
    visitor = await node.logged_in("ada", **data)
    assert (await visitor.visit(look)).result == data


async def test_an_unserializable_value_is_refused_at_its_place_and_the_old_one_stays(node: Node) -> None:
    visitor = await node.logged_in("ada", a=1)

    def act(session: Session) -> None:
        with pytest.raises(SessionNotSerializable, match=r"session\['a'\]\['deep'\]\[0\] cannot travel"):
            session["a"] = {"deep": [object()]}
        with pytest.raises(SessionNotSerializable):
            session.update(a=2, b={1, 2})
        with pytest.raises(SessionNotSerializable):
            session[b"key"] = "the key"  # type: ignore[index]

    await visitor.visit(act)
    assert (await visitor.visit(look)).result == {"a": 1}


async def test_values_that_starlette_stores_are_stored_as_starlette_reads_them_back(node: Node) -> None:
    class Markup(str):
        __slots__ = ()

    def act(session: Session) -> None:
        session["m"] = Markup("<b>x</b>")
        session["cart"] = {"title": Markup("x"), "n": 2**64, "s": "\ud800"}
        session[1] = "one"  # type: ignore[index]

    def act_inside(session: Session) -> None:
        session["cart"]["title"] = Markup("y")

    visitor = await node.logged_in("ada", a=1)
    assert (await visitor.visit(act)).status == 200
    assert (await visitor.visit(look)).result == {"a": 1, "m": "<b>x</b>", "cart": {"title": "x", "n": 2**64, "s": "\ud800"}, "1": "one"}
    await visitor.visit(act_inside)
    assert (await visitor.visit(look)).result["cart"]["title"] == "y"


async def test_too_large_a_value_is_refused_at_its_place_and_the_old_one_stays() -> None:
    node = Node(data="token")
    visitor = await node.logged_in("ada", a=1)

    def act(session: Session) -> None:
        with pytest.raises(SessionTooLarge, match="is the most that browsers keep"):
            session["a"] = "x" * 4000
        with pytest.raises(SessionTooLarge):
            session |= {"a": "x" * 4000}

    await visitor.visit(act)
    assert (await visitor.visit(look)).result == {"a": 1}


async def test_the_largest_cookie_that_is_accepted_is_one_that_browsers_keep() -> None:
    node = Node(data="token")
    visitor = await node.logged_in("ada")

    def fill(session: Session) -> None:
        with contextlib.suppress(SessionTooLarge):
            for length in range(2000, 5000):
                session["a"] = "x" * length

    answer = await visitor.visit(fill)
    [cookie] = answer.cookies()
    assert 4000 < len(cookie) <= 4096
    assert len((await visitor.visit(look)).result["a"]) > 2000


async def test_a_nested_value_that_is_too_large_raises_before_the_response_starts() -> None:
    node = Node(data="token")
    visitor = await node.logged_in("ada", notes=["a"])
    with pytest.raises(SessionTooLarge):
        await visitor.visit(lambda s: s["notes"].append("x" * 4000))
    with pytest.raises(SessionNotSerializable):
        await visitor.visit(lambda s: s["notes"].append(object()))
    assert (await visitor.visit(look)).result == {"notes": ["a"]}


# Where a change cannot reach the client


class Late:
    """An app that changes the session after its response has started."""

    def __init__(self, change: Act, *, also_before: Act = look) -> None:
        self.change, self.also_before = change, also_before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.also_before(get_session(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.change(get_session(scope))
        await send({"type": "http.response.body", "body": b""})


TOO_LATE: list[Act] = [
    lambda s: s.update(a=2),
    lambda s: s.__setitem__("b", 2),
    lambda s: s.__delitem__("a"),
    lambda s: s.pop("a"),
    lambda s: s.popitem(),
    lambda s: s.setdefault("b", 3),
    lambda s: s.__ior__({"c": 4}),
    lambda s: s.login("eve"),
    lambda s: s.cycle(),
    lambda s: s.replace({}),
    lambda s: s["n"].append(2),
]


@pytest.mark.parametrize("change", TOO_LATE)
async def test_a_change_after_the_response_started_raises(node: Node, change: Act) -> None:
    visitor = await node.logged_in("ada", a=1, n=[1])
    token = visitor.token
    node.app.app = Late(change)
    with pytest.raises(SessionReadOnly, match="the response has started"):
        await node.request(token=token)


@pytest.mark.parametrize("before", [lambda s: s.update(a=2), lambda s: s["n"].append(7), lambda s: s.update(n=[3])])
async def test_a_change_in_time_is_no_reason_to_complain_but_one_more_too_late_is(node: Node, before: Act) -> None:
    visitor = await node.logged_in("ada", a=1, n=[1])
    token = visitor.token
    assert (await node.request(before, token=token)).token
    node.app.app = Late(lambda s: s["n"].append(2), also_before=before)
    with pytest.raises(SessionReadOnly, match="the response has started"):
        await node.request(token=token)


async def test_a_5xx_after_a_nested_change_is_no_reason_to_complain(node: Node) -> None:
    visitor = await node.logged_in("ada", n=[1])
    assert (await visitor.visit(lambda s: s["n"].append(2), status=500)).status == 500


async def test_content_that_litestar_sets_after_the_response_started_raises(node: Node) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        ASGIConnection[Any, Any, Any, Any](scope).set_session({"a": 1})  # type: ignore[arg-type]

    node.app.app = app
    with pytest.raises(SessionReadOnly, match="the response has started"):
        await node.request()


async def test_a_revocation_works_after_the_response_started(node: Node) -> None:
    visitor = await node.logged_in("ada", a=1)
    captured = visitor.token

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        assert (await get_session(scope).revoke()).mode == "fenced"

    async def probe(scope: Scope, receive: Receive, send: Send) -> None:
        scope["result"] = why(get_session(scope))
        await respond(send)

    node.app.app = app
    await node.request(token=captured)
    node.app.app = probe
    assert (await node.request(token=captured)).result == "session_revoked"


@pytest.mark.parametrize("change", TOO_LATE)
async def test_a_change_in_a_websocket_raises(node: Node, change: Act) -> None:
    visitor = await node.logged_in("ada", a=1, n=[1])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        change(get_session(scope))
        await send({"type": "websocket.close"})

    node.app.app = app
    with pytest.raises(SessionReadOnly, match="a WebSocket cannot change the session"):
        await call(node.app, scope_of("websocket", headers=[(b"cookie", f"session={visitor.token}".encode())]))


@pytest.mark.parametrize("change", [lambda s: s.update(a=2), lambda s: s.login("ada"), lambda s: s.clear(), lambda s: s.setdefault("a", 1)])
async def test_a_change_on_an_exempt_path_raises(change: Act) -> None:
    node = Node(exempt="/static/*")
    visitor = await node.logged_in("ada", a=1)
    with pytest.raises(SessionReadOnly, match="HA_SESSION_EXEMPT"):
        await visitor.visit(change, "/static/style.css")


async def test_a_websocket_sees_the_session_and_may_revoke_it(node: Node) -> None:
    visitor = await node.logged_in("ada", a=1)
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        session = get_session(scope)
        seen.extend([session.subject, dict(session), (await session.revoke()).mode])
        await send({"type": "websocket.close"})

    captured, obliging = visitor.token, node.app.app
    node.app.app = app
    await call(node.app, scope_of("websocket", headers=[(b"cookie", f"session={captured}".encode())]))
    assert seen == ["ada", {"a": 1}, "fenced"]
    node.app.app = obliging
    assert (await node.request(why, token=captured)).result == "session_revoked"


# Copies


def pickled(session: Session) -> Any:
    return pickle.loads(pickle.dumps(session))


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickled])
async def test_a_copy_has_the_data_and_no_claim_to_the_session(node: Node, make: Act) -> None:
    """Error reporters and template debuggers copy whatever they find; that must neither fail nor save anything."""
    visitor = await node.logged_in("ada", a={"b": [1]})

    def copy_and_change(session: Session) -> Session:
        made: Session = make(session)
        made["c"] = 2
        return made

    answer = await visitor.visit(copy_and_change)
    assert (type(answer.result), answer.result) == (Session, {"a": {"b": [1]}, "c": 2})
    assert (answer.result.id, answer.cookies()) == (None, [])


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickled])
async def test_a_session_that_cannot_be_written_can_be_copied(node: Node, make: Act) -> None:
    sessions: list[Session] = []
    visitor = await node.logged_in("ada", a=1)
    await visitor.visit(sessions.append)
    assert make(sessions[0]) == {"a": 1}


# Sessions in each other; tests/asgi/test_neighbours.py has those of other packages


async def test_a_mounted_app_with_sessions_of_its_own_leaves_the_outer_one_alone() -> None:
    """Routers hand one scope on, so the outer middleware finds the inner session in its place."""
    inner = Node(cookie_name="inner")
    outer = Node(app=inner.app)

    async def request(act: Act, *cookies: str) -> Answer:
        headers = [(b"cookie", "; ".join(cookies).encode())]
        return await call(outer.app, scope_of("http", headers=headers, act=act, status=200, answer_headers=()))

    token = node_of(outer.manager).sign(node_of(outer.manager).issuer.issue("ada")).decode()
    answer = await request(lambda s: s.update(a=1), f"session={token}")
    assert answer.cookies("session") == []
    assert len(answer.cookies("inner")) == 1


# Messages


async def test_an_app_that_sends_one_message_again_and_again_leaks_no_cookie() -> None:
    headers = [(b"content-type", b"text/plain")]
    start: Message = {"type": "http.response.start", "status": 200, "headers": headers}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["act"](get_session(scope))
        await send(start)
        await send({"type": "http.response.body", "body": b"ok"})

    node = Node(app=app, protect="/private")
    visitor = await node.logged_in("ada")
    assert visitor.token
    await visitor.visit(path="/private")
    assert (headers, start) == (
        [(b"content-type", b"text/plain")],
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]},
    )
    assert (await node.request()).all("set-cookie") == []


async def test_other_set_cookie_headers_and_doubled_headers_stay(node: Node) -> None:
    given = [(b"set-cookie", b"a=1; path=/"), (b"link", b"</x>"), (b"set-cookie", b"b=2"), (b"link", b"</y>")]
    answer = await node.request(lambda s: s.login("ada"), answer_headers=given)
    assert [header for header in answer.start["headers"] if header in given] == given
    assert answer.all("set-cookie")[:2] == ["a=1; path=/", "b=2"]
    assert len(answer.all("set-cookie")) == 3


async def test_a_start_without_headers_is_a_start(node: Node) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        get_session(scope).login("ada")
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    node.app.app = app
    assert (await node.request()).token


async def test_a_stream_passes_chunk_by_chunk(node: Node) -> None:
    order: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            order.append(f"app {number}")
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        await send({"type": "http.response.body"})

    async def send(message: Message) -> None:
        order.append("out " + (message.get("body", b"").decode() or message["type"].rpartition(".")[2]))

    async def receive() -> Message:
        raise AssertionError("the body is read although no handler asked for it")

    node.app.app = app
    await node.app(scope_of("http"), receive, send)
    assert order == ["out start", "app 0", "out 0", "app 1", "out 1", "app 2", "out 2", "out body"]


async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
    """Does as the request says, and then answers in chunks, as Starlette's BaseHTTPMiddleware makes any app do."""
    act = scope["act"](get_session(scope))
    if inspect.isawaitable(act):
        await act
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for chunk in (b"a", b"b"):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await scope.get("between", anyio.lowlevel.checkpoint)()
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    "act",
    [lambda s: s.login("ada"), lambda s: s.login("bob"), lambda s: s.cycle(), lambda s: s.clear(), lambda s: s.revoke()],
    ids=["login again", "login", "cycle", "clear", "revoke"],
)
async def test_the_answer_to_a_log_in_or_log_out_may_stream(node: Node, act: Act) -> None:
    """It is the session that came in which has ended, and its client knows."""
    visitor = await node.logged_in("ada", a=1)
    node.app.app = streaming
    async with node.manager.running():
        assert (await visitor.visit(act)).body == b"ab"


@pytest.mark.parametrize("token", ["of ada", None])
async def test_a_stream_that_began_with_a_log_in_ends_with_that_session(node: Node, token: str | None) -> None:
    token = token and (await node.logged_in("ada")).token
    node.app.app = streaming
    sessions: list[Session] = []

    def log_in(session: Session) -> None:
        session.login("bob")
        sessions.append(session)

    async def log_out() -> None:
        if not node_of(sessions[0].manager).view.denied.keys() & {sessions[0].family}:
            await node.manager.revoke_session(str(sessions[0].id))

    async def never() -> Message:
        raise AssertionError("the app asked for nothing")

    answer = Answer()
    headers = [(b"cookie", b"session=" + token.encode())] if token else []
    async with node.manager.running():
        with pytest.raises(SessionEnded):  # the server drops the connection
            await node.app(scope_of("http", headers=headers, act=log_in, between=log_out), never, answer.send)
    assert answer.body == b"a"
    assert all(message.get("more_body", True) for message in answer.messages)


async def test_messages_before_the_start_pass(node: Node) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</style.css>"]})
        get_session(scope).login("ada")
        await respond(send)

    node.app.app = app
    answer = await node.request()
    assert answer.messages[0]["type"] == "http.response.early_hint"
    assert answer.token


async def test_the_body_of_a_request_is_the_apps_alone(node: Node) -> None:
    chunks: list[Message] = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.request", "body": b"b"}]
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([await receive(), await receive()])
        await respond(send)

    node.app.app = app
    await node.request(incoming=chunks)
    assert seen == chunks


async def test_no_state_of_a_request_stays_on_the_middleware(node: Node) -> None:
    before = dict(vars(node.app))
    visitor = await node.logged_in("ada", a=1)
    await visitor.visit(lambda s: s.clear())
    assert vars(node.app) == before


async def test_a_session_that_several_threads_use_has_one_state() -> None:
    def state(session: Session, all_there: Barrier) -> RequestState:
        all_there.wait()
        return state_of(session)

    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            states = [*threads.map(state, [Session()] * 4, [Barrier(4)] * 4)]
            assert all(other is states[0] for other in states)
