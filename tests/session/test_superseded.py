"""A request that is under way while its session takes another id: it is told so, and sets no cookie over the newer one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from ha_session_mw import Session, get_session
from ha_session_mw._core.cluster.view import SUPERSEDED_MS
from ha_session_mw.exceptions import SessionReadOnly, SessionSuperseded
from ha_session_mw.manager import node_of

from ..asgi.driver import Act, Node, Visitor, call, look, scope_of, who, why
from .test_life_of_a_session import overtaken

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


@pytest.fixture(params=["token", "store"])
def node(request: pytest.FixtureRequest) -> Node:
    return Node(data=request.param, protect=("/account",))


def put(**data: Any) -> Act:
    return lambda session: session.update(data)


def log_in(session: Session) -> None:
    session.login("ada")


def cycle(session: Session) -> None:
    session.cycle()


def clear(session: Session) -> None:
    session.clear()


def begin_anew(session: Session) -> None:
    session.clear()
    session["anew"] = 1


def write_and_tell(session: Session) -> str | None:
    session["seen"] = 1
    return why(session)


async def browsing(node: Node, act: Act) -> tuple[Visitor, str]:
    """A browser whose session has just taken another id, and the token that it had before."""
    visitor = await node.logged_in("bob", cart=["book"]) if act is cycle else node.visitor()
    await visitor.visit(put(cart=["book"]))
    old = visitor.token
    assert (await visitor.visit(act)).token
    assert old
    return visitor, old


new_id = pytest.mark.parametrize("act", [log_in, cycle])


# A request that comes a moment late


@new_id
async def test_on_a_protected_path_it_is_asked_to_come_again_with_the_newer_token(node: Node, act: Act) -> None:
    _, old = await browsing(node, act)
    answer = await node.request(path="/account", token=old, method="POST")
    assert (answer.status, answer.code, answer.cookies()) == (409, "session_superseded", [])
    found = {name: answer.problem[name] for name in ("retryable", "retry_where", "action", "outcome")}
    assert found == {"retryable": True, "retry_where": "any", "action": "retry", "outcome": "not_executed"}
    assert answer.header("www-authenticate") is None


@new_id
async def test_on_an_open_path_a_reader_is_a_visitor_and_keeps_the_newer_cookie(node: Node, act: Act) -> None:
    _, old = await browsing(node, act)
    answer = await node.request(lambda s: (s.subject, why(s)), token=old)
    assert (answer.result, answer.cookies()) == ((None, "session_superseded"), [])


@new_id
@pytest.mark.parametrize("late", [put(cart=["pen"]), clear, lambda s: s.revoke()], ids=["write", "clear", "revoke"])
async def test_on_an_open_path_what_cannot_be_done_is_told_and_no_cookie_is_set_or_removed(node: Node, act: Act, late: Act) -> None:
    visitor, old = await browsing(node, act)
    answer = await node.request(late, token=old)
    assert (answer.status, answer.code, answer.cookies()) == (409, "session_superseded", [])
    assert answer.header("session-revocation") is None
    assert (await visitor.visit(look)).result == {"cart": ["book"]}


@new_id
async def test_require_raises_it_as_any_other_reason(node: Node, act: Act) -> None:
    _, old = await browsing(node, act)
    assert (await node.request(lambda s: s.require(), token=old)).code == "session_superseded"


@new_id
async def test_a_log_in_begins_anew_all_the_same(node: Node, act: Act) -> None:
    """Its client may never have got the newer token."""
    _, old = await browsing(node, act)
    late = node.visitor()
    late.token = old
    assert (await late.visit(lambda s: s.login("eve"))).token
    assert (await late.visit(who)).result == "eve"


@new_id
async def test_the_page_of_a_browser_says_that_a_reload_helps(node: Node, act: Act) -> None:
    _, old = await browsing(node, act)
    answer = await node.request(path="/account", token=old, headers=[(b"accept", b"text/html")])
    assert answer.status == 409
    assert b"Reload the page" in answer.body


@new_id
async def test_a_browser_is_sent_to_the_log_in_page_only_once_its_request_cannot_have_been_under_way(act: Act) -> None:
    """After ten seconds, it never got the newer cookie, or a late answer of another node has replaced it: no reload would help."""
    node = Node(protect="/account", login_url="/login")
    _, old = await browsing(node, act)
    html = [(b"accept", b"text/html")]
    node.clock.advance(10)
    assert (await node.request(path="/account", token=old, headers=html)).status == 409
    node.clock.advance(0.01)
    answer = await node.request(path="/account", token=old, headers=html)
    assert (answer.status, answer.header("location"), answer.cookies()) == (303, "/login?next=/account", [])
    assert (await node.request(path="/account", token=old, headers=html, method="POST")).status == 409
    assert (await node.request(path="/account", token=old)).status == 409


@new_id
async def test_the_older_token_is_not_renewed(node: Node, act: Act) -> None:
    _, old = await browsing(node, act)
    answer = await node.request(path="/-/session/renew", method="POST", token=old)
    assert (answer.status, answer.code, answer.cookies()) == (409, "session_superseded", [])


@new_id
@pytest.mark.parametrize("path", ["/", "/account"])
async def test_a_handshake_is_refused_where_it_would_be_lost(node: Node, act: Act, path: str) -> None:
    _, old = await browsing(node, act)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        get_session(scope)["late"] = 1
        await send({"type": "websocket.accept"})

    node.app.app = app
    headers = [(b"cookie", f"session={old}".encode())]
    answer = await call(node.app, scope_of("websocket", path, headers=headers))
    assert answer.messages == [{"type": "websocket.close", "code": 4409, "reason": "session_superseded"}]


@new_id
async def test_a_client_that_never_got_the_newer_token_is_logged_out_after_two_minutes(node: Node, act: Act) -> None:
    _, old = await browsing(node, act)
    node.clock.advance(SUPERSEDED_MS / 1000)
    assert (await node.request(path="/account", token=old)).code == "session_superseded"
    node.clock.advance(0.01)
    assert (await node.request(path="/account", token=old)).code == "session_revoked"
    assert (await node.request(put(form="sent"), token=old)).token


@new_id
async def test_a_log_out_of_the_session_outranks_it(node: Node, act: Act) -> None:
    _, old = await browsing(node, act)
    verified = node_of(node.manager).validator.verify(old.encode())
    assert verified is not None
    await node.request(lambda s: s.manager.revoke_session(verified.claims.family))
    assert (await node.request(path="/account", token=old)).code == "session_revoked"


async def test_the_security_log_and_the_counters_name_it(node: Node) -> None:
    _, old = await browsing(node, log_in)
    await node.request(path="/account", token=old)
    assert node_of(node.manager).errors.counts["session_superseded"] == 1


async def test_a_log_out_everywhere_outranks_it(node: Node) -> None:
    visitor, old = await browsing(node, cycle)
    await visitor.visit(lambda s: s.manager.revoke_subject("bob"))
    assert (await node.request(path="/account", token=old)).code == "session_revoked"


# A request that had begun before


@new_id
async def test_a_slow_write_is_told_that_it_was_lost_and_sets_no_cookie(node: Node, act: Act) -> None:
    visitor = await node.logged_in("bob")
    slow, fast = await overtaken(node, visitor.token, slow=put(cart=["pen"]), fast=act)
    assert fast.token
    assert (slow.status, slow.code, slow.cookies()) == (409, "session_superseded", [])
    assert slow.problem["outcome"] == "executed"


@new_id
async def test_a_slow_reader_is_answered_and_sets_no_cookie(node: Node, act: Act) -> None:
    visitor = await node.logged_in("bob")
    node.clock.advance(16 * 60)  # so that a renewal is due
    slow, fast = await overtaken(node, visitor.token, slow=who, fast=act)
    assert fast.token
    assert (slow.status, slow.cookies()) == (200, [])


async def test_a_slow_log_out_ends_a_session_that_only_took_a_new_id(node: Node) -> None:
    visitor = await node.logged_in("bob")
    slow, fast = await overtaken(node, visitor.token, slow=clear, fast=cycle)
    assert (slow.status, slow.token, slow.header("session-revocation")) == (200, "", "fenced")
    assert (await node.request(why, token=fast.token)).result == "session_revoked"


@pytest.mark.parametrize("subject", ["bob", None])
@pytest.mark.parametrize("act", [clear, begin_anew, lambda s: s.revoke()], ids=["clear", "anew", "revoke"])
async def test_a_slow_log_out_leaves_the_cookie_of_a_log_in_alone_and_says_so(node: Node, subject: str | None, act: Act) -> None:
    visitor = await node.logged_in(subject) if subject else node.visitor()
    await visitor.visit(put(cart=["book"]))

    async def slow(session: Session) -> None:
        inner = node.visitor()
        inner.token = visitor.token
        assert (await inner.visit(log_in)).token
        ended = act(session)
        if hasattr(ended, "__await__"):
            await ended

    answer = await node.request(slow, token=visitor.token)
    assert (answer.status, answer.code, answer.cookies()) == (409, "session_superseded", [])


async def test_two_log_ins_at_once_both_get_their_cookies(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(put(form=1))
    slow, fast = await overtaken(node, visitor.token, slow=log_in, fast=log_in)
    assert [(await node.request(who, token=answer.token)).result for answer in (slow, fast)] == ["ada", "ada"]


async def test_of_two_new_ids_at_once_one_is_told(node: Node) -> None:
    visitor = await node.logged_in("bob")
    slow, fast = await overtaken(node, visitor.token, slow=cycle, fast=cycle)
    assert (slow.code, slow.cookies()) == ("session_superseded", [])
    assert (await node.request(who, token=fast.token)).result == "bob"


async def test_a_write_beside_the_end_of_a_visitors_session_needs_no_log_in(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(put(cart=["book"]))
    slow, _ = await overtaken(node, visitor.token, slow=put(form="sent"), fast=clear)
    assert (slow.status, slow.code, slow.cookies()) == (409, "session_superseded", [])


async def test_a_write_beside_a_log_out_of_somebody_logged_in_is_told_of_the_log_out(node: Node) -> None:
    visitor = await node.logged_in("bob")
    slow, _ = await overtaken(node, visitor.token, slow=put(form="sent"), fast=clear)
    assert (slow.status, slow.code) == (401, "session_revoked")


# Log-ins of an app that keeps its user in the data


async def test_a_visitors_session_that_is_cleared_and_begun_anew_is_superseded(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(put(cart=["book"]))
    old = visitor.token
    answer = await visitor.visit(begin_anew)
    assert answer.header("session-revocation") == "fenced"

    late = await node.request(put(cart=["pen"]), token=old)
    assert (late.status, late.code, late.cookies()) == (409, "session_superseded", [])
    assert (await visitor.visit(look)).result == {"anew": 1}


@pytest.mark.parametrize("subject", ["bob", None])
async def test_a_session_that_is_cleared_before_a_log_in_is_superseded(node: Node, subject: str | None) -> None:
    visitor = await node.logged_in(subject) if subject else node.visitor()
    await visitor.visit(put(cart=["book"]))
    old = visitor.token

    def clear_and_log_in(session: Session) -> None:
        session.clear()
        session.login("ada")

    answer = await visitor.visit(clear_and_log_in)
    assert answer.header("session-revocation") == "fenced"
    late = await node.request(put(cart=["pen"]), token=old)
    assert (late.status, late.code, late.cookies()) == (409, "session_superseded", [])
    assert (await visitor.visit(who)).result == "ada"


async def test_a_log_out_that_begins_a_visitors_session_is_a_log_out(node: Node) -> None:
    visitor = await node.logged_in("bob")
    old = visitor.token
    await visitor.visit(begin_anew)
    assert (await node.request(why, token=old)).result == "session_revoked"


# Several tokens


async def test_a_visitors_write_takes_the_place_of_none_of_several_sessions(node: Node) -> None:
    one, other = await node.logged_in("ada"), await node.logged_in("eve")
    both = [(b"cookie", f"session={one.token}; session={other.token}".encode())]
    answer = await node.request(write_and_tell, headers=both)
    assert (answer.status, answer.result, answer.cookies()) == (200, "request_ambiguous", [])
    assert [(await node.request(who, token=each.token)).result for each in (one, other)] == ["ada", "eve"]


async def test_a_replaced_token_beside_a_foreign_cookie_sets_no_cookie_either(node: Node) -> None:
    _, old = await browsing(node, log_in)
    answer = await node.request(put(seen=1), headers=[(b"cookie", f"session=foreign; session={old}".encode())])
    assert (answer.code, answer.cookies()) == ("session_superseded", [])


async def test_revoke_raises_it_before_anything_is_dropped(node: Node) -> None:
    _, old = await browsing(node, log_in)

    async def act(session: Session) -> str:
        with pytest.raises(SessionSuperseded):
            await session.revoke()
        return "kept"

    assert (await node.request(act, token=old)).result == "kept"


# A log-out after which the app writes, so that the client gets a visitor's session


async def revoke_and_write(session: Session) -> None:
    await session.revoke()
    session["anew"] = 1


by_cookie_or_bearer = pytest.mark.parametrize("by", ["token", "bearer"])
log_outs = pytest.mark.parametrize("log_out", [begin_anew, revoke_and_write], ids=["clear", "revoke"])
lates = pytest.mark.parametrize(
    "late", [put(cart=["pen"]), clear, begin_anew, lambda s: s.revoke(), revoke_and_write], ids=["write", "clear", "anew", "revoke", "both"]
)


async def goodbye(node: Node, log_out: Act) -> tuple[Visitor, str]:
    """A browser that has just logged out and got the app's good-bye, and the token that it had before."""
    visitor = await node.logged_in("bob", cart=["book"])
    old = visitor.token
    assert (await visitor.visit(log_out)).token
    assert old
    return visitor, old


@log_outs
@lates
@by_cookie_or_bearer
async def test_after_it_a_late_request_sets_no_cookie_over_that_session(node: Node, log_out: Act, late: Act, by: str) -> None:
    visitor, old = await goodbye(node, log_out)
    sent: dict[str, Any] = {by: old}
    answer = await node.request(late, **sent)
    assert (answer.status, answer.code, answer.cookies(), answer.header("session-token")) == (409, "session_superseded", [], None)
    assert (await visitor.visit(look)).result == {"anew": 1}


@log_outs
@by_cookie_or_bearer
async def test_it_is_a_log_out_all_the_same(node: Node, log_out: Act, by: str) -> None:
    _, old = await goodbye(node, log_out)
    sent: dict[str, Any] = {by: old}
    answer = await node.request(path="/account", **sent)
    assert (answer.status, answer.code) == (401, "session_revoked")
    answer = await node.request(why, **sent)
    assert (answer.status, answer.result, answer.cookies()) == (200, "session_revoked", [])
    assert (await node.request(lambda s: s.login("eve"), **sent)).status == 200


@log_outs
@pytest.mark.parametrize("late", [clear, begin_anew, lambda s: s.revoke()], ids=["clear", "anew", "revoke"])
async def test_a_log_out_that_had_begun_before_it_removes_no_cookie(node: Node, log_out: Act, late: Act) -> None:
    visitor = await node.logged_in("bob")

    async def slow(session: Session) -> None:
        assert (await node.request(log_out, token=visitor.token)).token
        ended = late(session)
        if hasattr(ended, "__await__"):
            await ended

    answer = await node.request(slow, token=visitor.token)
    assert (answer.status, answer.code, answer.cookies()) == (409, "session_superseded", [])


@log_outs
async def test_a_handshake_after_it_sets_no_cookie_either(node: Node, log_out: Act) -> None:
    _, old = await goodbye(node, log_out)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        get_session(scope)["late"] = 1
        await send({"type": "websocket.accept"})

    node.app.app = app
    answer = await call(node.app, scope_of("websocket", headers=[(b"cookie", f"session={old}".encode())]))
    assert answer.messages == [{"type": "websocket.close", "code": 4409, "reason": "session_superseded"}]


@log_outs
async def test_a_stream_after_it_sets_no_cookie_either(node: Node, log_out: Act) -> None:
    visitor, old = await goodbye(node, log_out)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        with pytest.raises(SessionReadOnly):
            get_session(scope)["late"] = 1
        await send({"type": "http.response.body"})

    inner, node.app.app = node.app.app, app
    answer = await node.request(token=old)
    node.app.app = inner
    assert (answer.status, answer.cookies(), answer.body) == (200, [], b"1")
    assert (await visitor.visit(look)).result == {"anew": 1}


@log_outs
async def test_it_is_forgotten_after_two_minutes(node: Node, log_out: Act) -> None:
    _, old = await goodbye(node, log_out)
    node.clock.advance(SUPERSEDED_MS / 1000)
    assert (await node.request(put(form="sent"), token=old)).code == "session_superseded"
    node.clock.advance(0.01)
    assert (await node.request(put(form="sent"), token=old)).token
    assert (await node.request(why, token=old)).result == "session_revoked"


async def test_it_counts_for_each_of_several_tokens(node: Node) -> None:
    one, other = await node.logged_in("ada"), await node.logged_in("eve")
    both = [(b"cookie", f"session={one.token}; session={other.token}".encode())]
    answer = await node.request(begin_anew, headers=both)
    assert any("session=hs1." in line for line in answer.cookies())
    for token in (one.token, other.token):
        assert (await node.request(put(form="sent"), token=token)).code == "session_superseded"


async def test_it_is_known_to_the_other_workers_of_a_file(tmp_path: Path) -> None:
    node, other = (Node(cluster=f"sqlite://{tmp_path}/sessions.db") for _ in range(2))
    _, old = await goodbye(node, begin_anew)
    await node_of(node.manager).log.confirm()  # as the node's own task does at once
    assert (await other.request(put(cart=["pen"]), token=old)).code == "session_superseded"
