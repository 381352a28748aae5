"""A request with a token that was refused never sets a cookie over its client's newer one, and never removes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ha_session_mw import Session
from ha_session_mw._core.cluster.view import SUPERSEDED_MS
from ha_session_mw._core.token.cookies import MAX_PRESENTED
from ha_session_mw.manager import node_of
from ha_session_mw.session.presented import UNDER_WAY_MS
from ha_session_mw.testing import Cluster, ManualClock

from ..asgi.driver import Act, Node, who, why
from ..backends.etcd.fake_cluster import EtcdCluster
from ..cluster.visits import Browser, obliging
from .test_life_of_a_session import overtaken

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

MOMENT_S, TWO_MINUTES_S = UNDER_WAY_MS / 1000, SUPERSEDED_MS / 1000


def log_in(session: Session) -> None:
    session.login("ada")


def log_in_by_data(session: Session) -> None:
    """As apps do that were written for Starlette's middleware."""
    session["user"] = "ada"


def clear(session: Session) -> None:
    session.clear()


def write(session: Session) -> None:
    session["late"] = 1


def write_after_clear(session: Session) -> None:
    session.clear()
    session["late"] = 1


async def revoke(session: Session) -> None:
    await session.revoke()


async def expire_idle(node: Node) -> str:
    visitor = await node.logged_in("bob")
    node.clock.advance(node.manager.settings.idle_timeout + 1)
    return visitor.token or ""


async def expire(node: Node) -> str:
    visitor = await node.logged_in("bob")
    node.clock.advance(node.manager.settings.absolute_timeout + 1)
    return visitor.token or ""


async def kick(node: Node) -> str:
    """Log out on another device, so that this client gets no answer to it."""
    visitor = await node.logged_in("bob")
    await node.manager.revoke_subject("bob")
    return visitor.token or ""


async def kick_one(node: Node) -> str:
    visitor = await node.logged_in("bob")
    await node.manager.revoke_session((await visitor.visit(lambda s: s.id)).result)
    return visitor.token or ""


ended = pytest.mark.parametrize("end", [expire_idle, expire, kick, kick_one])
by_cookie_or_bearer = pytest.mark.parametrize("by", ["token", "bearer"])
lates = pytest.mark.parametrize("late", [write, write_after_clear])


@pytest.fixture
def node() -> Node:
    return Node(protect="/account")


async def passes(node: Node, late: Act, **sent: Any) -> bool:
    """Whether a request is answered, and leaves the client's cookie alone."""
    answer = await node.request(late, **sent)
    return (answer.status, answer.cookies(), answer.header("session-token")) == (200, [], None)


async def tells(node: Node, late: Act, **sent: Any) -> bool:
    answer = await node.request(late, **sent)
    told = answer.status == 409 and answer.code == "session_superseded"
    assert (answer.cookies(), answer.header("session-token")) == ([], None) or not told
    return told


# The client has logged in again with the refused token


@ended
@lates
@by_cookie_or_bearer
async def test_a_late_write_after_a_log_in_is_told_and_sets_no_cookie(node: Node, end: Any, late: Act, by: str) -> None:
    sent: dict[str, Any] = {by: await end(node)}
    assert (await node.request(log_in, **sent)).status == 200
    assert await tells(node, late, **sent)


@ended
@lates
@by_cookie_or_bearer
async def test_a_late_write_after_a_visitors_write_passes_and_sets_no_cookie(node: Node, end: Any, late: Act, by: str) -> None:
    """A page may send several requests at once with a cookie that has expired. None of them fails, and the first cookie counts."""
    sent: dict[str, Any] = {by: await end(node)}
    first = await node.request(log_in_by_data, **sent)
    assert first.token or first.header("session-token")
    assert await passes(node, late, **sent)


@ended
async def test_reading_goes_on_as_before(node: Node, end: Any) -> None:
    old = await end(node)
    before = (await node.request(why, token=old)).result
    await node.request(log_in, token=old)
    answer = await node.request(why, token=old)
    assert (answer.status, answer.result, answer.cookies()) == (200, before, [])
    assert (await node.request(path="/account", token=old)).code == before


@ended
async def test_a_log_in_passes_again_because_its_client_may_not_have_got_the_first(node: Node, end: Any) -> None:
    old = await end(node)
    for _ in range(2):
        answer = await node.request(log_in, token=old)
        assert (await node.request(who, token=answer.token)).result == "ada"


async def test_a_write_that_was_refused_when_it_came_is_told_of_a_log_in_since(node: Node) -> None:
    old = await kick(node)
    slow, fast = await overtaken(node, old, slow=write, fast=log_in)
    assert (slow.status, slow.code, slow.cookies()) == (409, "session_superseded", [])
    assert (await node.request(who, token=fast.token)).result == "ada"


async def test_the_log_out_of_a_refused_token_removes_no_newer_cookie(node: Node) -> None:
    old = await kick(node)
    await node.request(log_in, token=old)
    for act in (clear, revoke):
        answer = await node.request(act, token=old)
        assert answer.cookies() == []


async def test_several_refused_tokens_each_count(node: Node) -> None:
    one, other = await kick(node), await kick_one(node)
    both = [(b"cookie", f"session={one}; session={other}".encode())]
    await node.request(log_in, headers=both)
    for token in (one, other):
        assert await tells(node, write, token=token)
    assert await tells(node, write, headers=both)


async def test_tokens_of_which_none_was_chosen_count_once_a_log_in_has_ended_them(node: Node) -> None:
    one, other = await node.logged_in("bob"), await node.logged_in("eve")
    both = [(b"cookie", f"session={one.token}; session={other.token}".encode())]
    await node.request(log_in, headers=both)
    for token in (one.token, other.token):
        assert await tells(node, write, token=token)


@ended
@pytest.mark.parametrize("log_out", [clear, revoke, write_after_clear])
async def test_a_dead_cookie_beside_the_newer_session_hinders_no_log_out(node: Node, end: Any, log_out: Act) -> None:
    """A browser may keep a dead cookie of another path or domain for days, and a sibling host may plant one."""
    old = await end(node)
    newer = await node.request(log_in, token=old)
    both = [(b"cookie", f"session={old}; session={newer.token}".encode())]
    assert (await node.request(who, headers=both)).result == "ada"
    answer = await node.request(log_out, headers=both)
    assert (answer.status, answer.header("session-revocation")) == (200, "fenced")
    assert (await node.request(why, token=newer.token)).result == "session_revoked"


async def test_a_request_with_many_refused_tokens_leaves_few_notes(node: Node) -> None:
    old = [(await node.logged_in(f"subject {number}")).token for number in range(2 * MAX_PRESENTED)]
    node.clock.advance(node.manager.settings.absolute_timeout + 1)
    known = len(node_of(node.manager).view)
    answer = await node.request(log_in, headers=[(b"cookie", "; ".join(f"session={token}" for token in old).encode())])
    assert (await node.request(who, token=answer.cookies()[-1].split(";")[0].partition("=")[2])).result == "ada"
    assert len(node_of(node.manager).view) - known <= MAX_PRESENTED


async def test_a_token_from_the_future_stays_what_it_is(node: Node) -> None:
    early = Node(clock=ManualClock(wall_s=node.clock.wall_s() + 3600))
    ahead = await early.logged_in("bob")
    assert (await node.request(why, token=ahead.token)).result == "token_not_yet_valid"
    await node.request(log_in, token=ahead.token)
    node.clock.advance(3600)
    assert (await node.request(who, token=ahead.token)).result == "bob"


# How long


@ended
@pytest.mark.parametrize(("begin", "for_s", "holds"), [(log_in, TWO_MINUTES_S, tells), (log_in_by_data, MOMENT_S, passes)])
async def test_later_its_holder_never_got_the_newer_token_and_begins(node: Node, end: Any, begin: Act, for_s: float, holds: Any) -> None:
    old = await end(node)
    await node.request(begin, token=old)
    node.clock.advance(for_s)
    assert await holds(node, write, token=old)
    node.clock.advance(0.01)
    assert (await node.request(write, token=old)).token


# A plain log-out, whose answer removes the cookie. The client may have logged in since, without the old token


log_outs = pytest.mark.parametrize("log_out", [clear, revoke])


@log_outs
@lates
async def test_a_late_write_after_a_log_out_sets_no_cookie(node: Node, log_out: Act, late: Act) -> None:
    visitor = await node.logged_in("bob")
    old = visitor.token
    assert (await visitor.visit(log_out)).token == ""
    await visitor.visit(log_in)
    assert await passes(node, late, token=old)
    assert (await visitor.visit(who)).result == "ada"


@log_outs
async def test_a_log_out_lets_a_later_visit_begin(node: Node, log_out: Act) -> None:
    """Its client may never have got the answer, and must get a form to log in with."""
    visitor = await node.logged_in("bob")
    old = visitor.token
    await visitor.visit(log_out)
    assert (await node.request(why, token=old)).result == "session_revoked"
    assert (await node.request(log_in, token=old)).token  # at once
    another = await node.logged_in("eve")
    token = another.token
    await another.visit(log_out)
    node.clock.advance(MOMENT_S + 0.01)
    assert (await node.request(write, token=token)).token


@log_outs
@pytest.mark.parametrize("again", [clear, revoke])
async def test_two_log_outs_at_once_both_pass_and_the_later_removes_no_cookie(node: Node, log_out: Act, again: Act) -> None:
    visitor = await node.logged_in("bob")
    old = visitor.token

    async def slow(session: Session) -> None:
        assert (await visitor.visit(log_out)).token == ""
        if (ended := again(session)) is not None:
            await ended

    answer = await node.request(slow, token=old)
    assert (answer.status, answer.cookies()) == (200, [])
    after = await node.request(again, token=old)
    assert (after.status, after.cookies()) == (200, [])


async def test_a_log_out_that_could_not_remove_the_cookie_lets_the_next_visit_begin(node: Node) -> None:
    visitor = await node.logged_in("bob")
    answer = await visitor.visit(clear, status=500)
    assert (answer.header("session-revocation"), answer.cookies()) == ("fenced", [])
    assert (await visitor.visit(write)).token


@ended
async def test_a_log_out_from_elsewhere_lets_the_next_visit_begin(node: Node, end: Any) -> None:
    """The client still has its cookie, and nothing newer."""
    old = await end(node)
    assert (await node.request(write, token=old)).token


async def test_a_visitor_who_clears_an_empty_session_is_none_of_this(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(write)
    old = visitor.token
    await visitor.visit(lambda s: s.pop("late"))
    assert (await node.request(write, token=old)).token


# Other nodes


@asynccontextmanager
async def opened(kind: type[Cluster]) -> AsyncIterator[Cluster]:
    async with kind(app=obliging, protect="/private*") as cluster:
        await cluster.ready()
        yield cluster


@pytest.mark.parametrize("kind", [Cluster, EtcdCluster], ids=["peers", "etcd"])
async def test_every_node_knows(kind: type[Cluster]) -> None:
    async with opened(kind) as cluster:
        a, b, c = cluster.nodes
        kicked, leaving = Browser(cluster), Browser(cluster)
        for browser in (kicked, leaving):
            await browser.visit(a, log_in)
        old = [kicked.token, leaving.token]
        await cluster.run(lambda: a.manager.revoke_session((node_of(a.manager).validator.verify(old[0].encode())).claims.sid))  # type: ignore[union-attr]
        await kicked.visit(b, log_in)
        await leaving.visit(b, clear)
        await cluster.advance(0.1)
        for node in (a, b, c):
            for token in old:
                late = await Browser(cluster, token).visit(node, write)
                assert (late.status, late.cookies()) == (409 if token == old[0] else 200, [])
            assert (await kicked.visit(node, who)).result == "ada"


async def test_every_worker_of_a_file_knows(tmp_path: Path) -> None:
    node, other = (Node(cluster=f"sqlite://{tmp_path}/sessions.db") for _ in range(2))
    visitor = await node.logged_in("bob")
    old = visitor.token
    await visitor.visit(clear)
    await node_of(node.manager).log.confirm()  # as the node's own task does at once
    assert await passes(other, write, token=old)
