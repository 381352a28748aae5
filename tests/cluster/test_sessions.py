"""The purpose of a cluster: a session of one node counts on all, and so does its end."""

from __future__ import annotations

import anyio
import pytest

from ha_session_mw import Session, UsageError
from ha_session_mw.manager import node_of
from ha_session_mw.testing import Cluster, mint_session, session_cookie

from .visits import Browser, log_out, logged_in, look, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

FENCE_WAIT_S = 5 * 1.02 + 0.05


async def test_a_session_of_one_node_is_honoured_by_all(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    browser = await logged_in(cluster, a)
    await browser.visit(b, lambda session: session.update(cart=[1, 2]))

    answers = [await browser.visit(node, look) for node in (a, b, c)]

    assert [answer.result for answer in answers] == [{"cart": [1, 2]}] * 3
    assert [(await browser.visit(node, who)).result for node in (a, b, c)] == ["ada"] * 3


async def test_a_log_out_on_one_node_counts_on_all_and_is_acknowledged_fenced(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    browser = await logged_in(cluster, a)
    captured = Browser(cluster, browser.token)
    before_s = cluster.passed_s

    answer = await browser.visit(b, log_out)

    assert answer.header("session-revocation") == "fenced"
    assert cluster.passed_s - before_s < 0.05
    assert browser.token is None
    for node in (a, b, c):
        assert (await captured.visit(node, why)).result == "session_revoked"
        refused = await captured.visit(node, path="/private")
        assert (refused.status, refused.code) == (401, "session_revoked")


async def test_two_log_outs_at_once_while_a_member_is_dead_wait_without_waking_each_other(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    one, other = await logged_in(cluster, a, "ada"), await logged_in(cluster, a, "bob")
    await cluster.advance(1)
    await c.kill()
    before_s = cluster.passed_s

    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            for browser in (one, other):
                assert browser.token
                tasks.start_soon(a.manager.revoke_subject, {one: "ada", other: "bob"}[browser])

    await cluster.run(both)  # would not come to rest

    # Its lease counts from its last poll, which came up to three heartbeats before its death.
    assert FENCE_WAIT_S - 1.5 <= cluster.passed_s - before_s <= FENCE_WAIT_S + 0.1
    assert (await one.visit(b, why)).result == "session_revoked"
    assert (await other.visit(b, why)).result == "session_revoked"


async def test_a_killed_node_is_not_missed_and_costs_its_fence_wait_once(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    browsers = [await logged_in(cluster, a) for _ in range(3)]
    await cluster.advance(1)
    await a.kill()

    assert [(await browsers[0].visit(node, who)).result for node in (b, c)] == ["ada", "ada"]

    waited = []
    for browser in browsers:
        begun_s = cluster.passed_s
        answer = await browser.visit(b, log_out)
        assert answer.header("session-revocation") == "fenced"
        waited.append(cluster.passed_s - begun_s)
    assert 4 < waited[0] < FENCE_WAIT_S + 0.1  # less where others report it silent for so long
    assert max(waited[1:]) < 0.7, waited


async def test_a_node_that_comes_back_learns_before_it_judges(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    browser, other = await logged_in(cluster, a), await logged_in(cluster, a, "bob")
    captured = Browser(cluster, browser.token)
    await a.kill()
    await browser.visit(b, log_out)
    cluster.cut(a)

    await a.start()
    await cluster.advance(2)

    for token in (captured.token, other.token):
        answer = await Browser(cluster, token).visit(a)
        assert (answer.status, answer.code) == (503, "node_starting")
        assert answer.problem["retry_where"] == "other_node"
    assert a.why_not_ready is not None
    assert (await Browser(cluster).visit(a)).status == 200  # a visitor has nothing that could be misjudged

    cluster.heal(a)
    await cluster.ready()

    assert (await captured.visit(a, why)).result == "session_revoked"
    assert (await other.visit(a, who)).result == "bob"


async def test_all_sessions_of_a_subject_end_everywhere_but_the_one_that_may_stay(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    phone, laptop, bob = await logged_in(cluster, a), await logged_in(cluster, b), await logged_in(cluster, c, "bob")

    async def everywhere_else(session: Session) -> str:
        return (await session.manager.revoke_subject("ada", except_session=session)).mode

    assert (await laptop.visit(c, everywhere_else)).result == "fenced"

    for node in (a, b, c):
        assert (await phone.visit(node, why)).result == "session_revoked"
        assert (await laptop.visit(node, who)).result == "ada"
        assert (await bob.visit(node, who)).result == "bob"
    again = await logged_in(cluster, a)
    assert [(await again.visit(node, who)).result for node in (a, b, c)] == ["ada"] * 3


@pytest.mark.parametrize("change", [lambda session: session.cycle(), lambda session: session.login("ada")], ids=["cycle", "login"])
async def test_an_id_that_was_left_behind_is_dead_on_the_other_nodes(cluster: Cluster, change: object) -> None:
    a, b, c = cluster.nodes
    browser = await logged_in(cluster, a)
    old = Browser(cluster, browser.token)

    await browser.visit(b, change)  # type: ignore[arg-type]
    await cluster.settle()

    assert old.token != browser.token
    for node in (a, b, c):
        assert (await old.visit(node, why)).result == "session_superseded"
        assert (await browser.visit(node, who)).result == "ada"


async def test_a_node_tells_how_far_it_is_and_another_waits_until_it_is_as_far(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    browser, other = await logged_in(cluster, a), await logged_in(cluster, a, "bob")
    await other.visit(c)  # a token that was seen before must wait all the same
    cluster.link(b, c).delay_s = cluster.link(c, b).delay_s = 0.03
    cluster.cut(a, c)
    await cluster.advance(1)
    begun_s = cluster.passed_s

    answer = await browser.visit(b, log_out)
    index = answer.header("session-index")
    assert index

    read = await other.visit(c, headers=[(b"session-index", index.encode())])
    assert read.status == 200
    assert read.result == "bob"
    assert cluster.passed_s - begun_s < 0.3


async def test_a_node_that_does_not_get_as_far_says_so(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    browser, other = await logged_in(cluster, a), await logged_in(cluster, a, "bob")
    cluster.cut(c)
    index = (await browser.visit(b, log_out)).header("session-index")
    assert index
    begun_s = cluster.passed_s

    answer = await other.visit(c, headers=[(b"session-index", index.encode())])

    assert (answer.status, answer.code, answer.problem["retry_where"]) == (503, "state_not_reached", "any")
    assert cluster.passed_s - begun_s == pytest.approx(0.075)


async def test_nobody_waits_for_an_index_that_comes_with_a_made_up_token(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    browser = await logged_in(cluster, a)
    token = browser.token or ""
    cluster.cut(c)
    index = (await browser.visit(b, log_out)).header("session-index")
    begun_s = cluster.passed_s

    forged = Browser(cluster, f"{token[:-1]}{'A' if token[-1] != 'A' else 'E'}")
    assert (await forged.visit(c, why, headers=[(b"session-index", str(index).encode())])).result == "token_invalid"
    assert cluster.passed_s == begun_s


NO_INDEX = ["", "-", "-5", "5", "a-b", "0123456789abcdef0123456789abcdef-99", "x-1" * 2000, "é-1", "-" * 50, "x-²", "x-" + "9" * 5000]


async def test_an_index_that_is_none_is_ignored(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    browser = await logged_in(cluster, a)

    for index in NO_INDEX:
        assert (await browser.visit(b, headers=[(b"session-index", index.encode())])).result == "ada"


async def test_an_invalid_index_is_ignored_by_a_node_that_knows_no_other() -> None:
    async with Cluster("ab") as cluster:
        await cluster["b"].kill()
        for index in NO_INDEX:
            assert node_of(cluster["a"].manager).log.has_reached(index)


async def test_a_session_can_be_minted_for_a_client_of_any_kind(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    token = mint_session(a.manager, "ada", {"cart": [1]})
    cookies = session_cookie(b.middleware, data={"seen": True})

    assert (await Browser(cluster, token).visit(b, look)).result == {"cart": [1]}
    assert (await Browser(cluster, token).visit(b)).result == "ada"
    assert (await Browser(cluster, cookies["session"]).visit(a, look)).result == {"seen": True}


class Elsewhere:
    """A handler in a worker thread that makes an event loop of its own, as asyncio.run does."""

    def __init__(self, cluster: Cluster) -> None:
        self.manager = cluster.nodes[0].manager

    def act(self, how: str) -> None:
        acts = {
            "subject": lambda: self.manager.revoke_subject("ada"),
            "session": lambda: self.manager.revoke_session("the-id-of-some-session"),
            "everybody": self.manager.revoke_everybody,
        }
        anyio.run(acts[how])


@pytest.mark.parametrize("how", ["subject", "session", "everybody"])
async def test_a_call_that_waits_for_other_nodes_is_refused_in_an_event_loop_of_its_own(cluster: Cluster, how: str) -> None:
    # It would wait for events that only the node's own event loop receives, and disturb that loop.
    with pytest.raises(UsageError, match=r"another event loop than the node's.*anyio\.from_thread\.run"):
        await anyio.to_thread.run_sync(Elsewhere(cluster).act, how)
