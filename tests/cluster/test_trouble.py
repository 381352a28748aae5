"""Trouble: a client never sees a fault of the infrastructure as its own."""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from ha_session_mw._core.quorum.messages import decode_answer, encode
from ha_session_mw.abc import PeerFailure
from ha_session_mw.backends.peers.pacing import ROUNDS_PER_S
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny
from ha_session_mw.testing import Cluster, Node, mint_session

from ..asgi.driver import call, scope_of
from ..inside import peering_of, quorum_log_of
from .visits import Browser, log_out, logged_in, look, obliging, refused_for_infrastructure, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


async def test_a_node_out_of_contact_says_so_and_heals_by_itself(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    browser = await logged_in(cluster, a)
    cluster.cut(a)

    await cluster.advance(4)
    assert (await browser.visit(a)).result == "ada"  # for so long its knowledge is good enough
    await cluster.advance(1.5)

    for path in ("/", "/private"):
        assert refused_for_infrastructure(await browser.visit(a, path=path), "state_stale", "other_node")
    assert (await browser.visit(b)).result == "ada"
    assert (await Browser(cluster).visit(a)).status == 200

    cluster.heal(a)
    await cluster.advance(2)
    assert (await browser.visit(a)).result == "ada"


@pytest.mark.parametrize(
    "change", [lambda session: session.login("ada"), lambda session: session.update(cart=[])], ids=["login", "visitor"]
)
async def test_a_node_out_of_contact_begins_no_session(cluster: Cluster, change: Any) -> None:
    """It might list too few cuts, and be refused for that where they are known."""
    a, *_ = cluster.nodes
    cluster.cut(a)
    await cluster.advance(6)

    assert refused_for_infrastructure(await Browser(cluster).visit(a, change), "state_stale", "other_node")


@pytest.mark.parametrize("lost", ["questions", "answers"])
async def test_links_that_fail_one_way_make_a_node_stale_too(cluster: Cluster, lost: str) -> None:
    a, b, c = cluster.nodes
    browser = await logged_in(cluster, b)
    for other in (b, c):
        (cluster.link(a, other) if lost == "questions" else cluster.link(other, a)).cut = True
    await cluster.advance(6)

    assert refused_for_infrastructure(await browser.visit(a), "state_stale", "other_node")
    assert [(await browser.visit(node)).result for node in (b, c)] == ["ada", "ada"]


async def test_a_node_that_lost_one_link_of_two_notices_nothing(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    browser, other = await logged_in(cluster, a), await logged_in(cluster, a, "bob")
    captured = Browser(cluster, browser.token)
    cluster.cut(a, b)
    await cluster.advance(10)

    assert (await other.visit(b)).result == "bob"
    assert (await browser.visit(b, log_out)).header("session-revocation") == "fenced"
    assert [(await captured.visit(node, why)).result for node in (a, b, c)] == ["session_revoked"] * 3


async def test_relaxed_paths_go_on_for_a_minute_and_are_marked() -> None:
    async with Cluster(app=obliging, relaxed="/news*") as cluster:
        await cluster.ready()
        a, _, _ = cluster.nodes
        browser, left = await logged_in(cluster, a), await logged_in(cluster, a, "bob")
        captured = Browser(cluster, left.token)
        cluster.cut(a)
        assert (await browser.visit(a, path="/news")).header("session-stale") is None
        await cluster.advance(10)

        answer = await browser.visit(a, path="/news")
        assert answer.result == "ada"
        assert 9 <= int(answer.header("session-stale") or "") <= 12
        assert (await browser.visit(a, path="/news", method="OPTIONS")).result == "ada"
        assert refused_for_infrastructure(await browser.visit(a, path="/"), "state_stale", "other_node")
        assert refused_for_infrastructure(await browser.visit(a, path="/news", method="POST"), "state_stale", "other_node")
        # The node's own knowledge counts there too.
        await left.visit(a, log_out, path="/news")
        assert (await captured.visit(a, why, path="/news")).result == "session_revoked"

        await cluster.advance(52)
        assert refused_for_infrastructure(await browser.visit(a, path="/news"), "state_stale", "other_node")


@pytest.mark.parametrize("with_file", [False, True], ids=["memory", "file"])
async def test_a_cluster_that_forgets_log_outs_when_all_restart_says_so_once_a_start(
    with_file: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Cluster(app=obliging) as cluster:
        if with_file:
            with_files(cluster, tmp_path)
            for node in cluster.nodes:
                await node.stop()
            caplog.clear()
            for node in cluster.nodes:
                await node.start()
        await cluster.ready()
        a = cluster["a"]
        told = [message for message in caplog.messages if "peers:///path" in message]
        assert len(told) == (0 if with_file else 3)
        status = await cluster.run(a.manager.status)
        answer = await cluster.run(call, a.middleware, scope_of("http", "/-/session/readyz"))
        assert answer.status == 200
        assert ("peers:///path" in str(status["exposed_because"])) is not with_file
        assert (b"peers:///path" in answer.body) is not with_file
        if not with_file:
            await a.stop()
            await a.start()
            await cluster.ready()
            assert len([message for message in caplog.messages if "peers:///path" in message]) == 4


async def test_a_first_node_has_started_while_it_waits_for_the_others_to_be_made() -> None:
    """So an orchestrator does not restart it, and its readiness tells when it has caught up."""

    async def probes(node: Node) -> list[int]:
        return [
            (await cluster.run(call, node.middleware, scope_of("http", f"/-/session/{name}"))).status
            for name in ("startupz", "livez", "readyz")
        ]

    async with Cluster(app=obliging) as cluster:
        a, b, c = cluster.nodes
        for node in cluster.nodes:
            await node.kill()
        await a.start()
        await cluster.advance(120)
        assert await probes(a) == [200, 200, 503]
        assert json.loads(json.dumps(await a.manager.status(), allow_nan=False))["freshness_age_s"] is None
        await b.start()
        await c.start()
        await cluster.ready()
        assert [await probes(node) for node in cluster.nodes] == [[200, 200, 200]] * 3


async def test_two_members_cannot_lose_one_and_say_so_at_start(caplog: pytest.LogCaptureFixture) -> None:
    async with Cluster("ab", app=obliging) as cluster:
        await cluster.ready()
        a, b = cluster.nodes
        assert "two members cannot lose one" in caplog.text
        browser = await logged_in(cluster, a)
        assert (await browser.visit(b)).result == "ada"
        await b.kill()
        await cluster.advance(6)

        assert refused_for_infrastructure(await browser.visit(a), "state_stale", "other_node")
        await b.start()
        await cluster.ready()
        assert (await browser.visit(a)).result == "ada"


async def test_one_member_alone_is_a_cluster() -> None:
    async with Cluster("a", app=obliging) as cluster:
        await cluster.ready()
        browser = await logged_in(cluster, cluster["a"])
        captured = Browser(cluster, browser.token)
        assert (await browser.visit(cluster["a"], log_out)).header("session-revocation") == "fenced"
        assert (await captured.visit(cluster["a"], why)).result == "session_revoked"


def with_files(cluster: Cluster, folder: Path) -> Cluster:
    for node in cluster.nodes:
        node.settings.update(cluster=f"peers://{folder}/{node.name}.log")
    return cluster


async def test_with_files_all_may_restart_at_once_and_nothing_is_forgotten(tmp_path: Path) -> None:
    async with with_files(Cluster(app=obliging), tmp_path) as cluster:
        await cluster.ready()
        a, b, _ = cluster.nodes
        browser, other = await logged_in(cluster, a), await logged_in(cluster, a, "bob")
        captured = Browser(cluster, browser.token)
        assert (await browser.visit(b, log_out)).header("session-revocation") == "fenced"
        for node in cluster.nodes:
            await node.kill()
        for node in cluster.nodes:
            await node.start()
        await cluster.ready()

        for node in cluster.nodes:
            assert (await captured.visit(node, why)).result == "session_revoked"
            assert (await other.visit(node, who)).result == "bob"


async def test_with_a_file_a_node_needs_a_majority_only_to_come_back(tmp_path: Path) -> None:
    async with with_files(Cluster(app=obliging), tmp_path) as cluster:
        await cluster.ready()
        a, b, c = cluster.nodes
        browser = await logged_in(cluster, a)
        await c.kill()
        await b.stop()
        await b.start()
        await cluster.ready()

        assert (await browser.visit(b)).result == "ada"


async def test_without_files_a_majority_that_forgets_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async with Cluster(app=obliging) as cluster:
        await cluster.ready()
        a, b, _ = cluster.nodes
        browser = await logged_in(cluster, a)
        await browser.visit(a, log_out)
        await a.kill()
        await b.kill()
        assert "forgot their entries" not in caplog.text
        await a.start()
        await b.start()
        await cluster.ready()

        assert "a majority of the members forgot their entries at once" in caplog.text


async def keep_journals(cluster: Cluster, folder: Path, names: str = "abc") -> None:
    """Start nodes again, each with a folder for its journal."""
    for name in names:
        await cluster[name].stop()
        cluster[name].settings.update(state_dir=folder / name)
        await cluster[name].start()
    await cluster.ready()


@pytest.mark.parametrize("change", [lambda session: session.cycle(), lambda session: session.login("ada")], ids=["cycle", "login"])
async def test_a_change_of_the_id_without_a_majority_is_told_as_provisional(change: Any, tmp_path: Path) -> None:
    async with Cluster(app=obliging) as cluster:
        await keep_journals(cluster, tmp_path)
        a, b, _ = cluster.nodes
        browser = await logged_in(cluster, a)
        healthy = await browser.visit(a, change)
        assert (healthy.status, healthy.header("session-revocation")) == (200, None)
        captured = Browser(cluster, browser.token)
        cluster.cut(a)

        answer = await browser.visit(a, change)

        assert (answer.status, answer.header("session-revocation")) == (200, "provisional")
        assert (await captured.visit(b, who)).result == "ada"  # the old id is still good there
        assert (await browser.visit(a, who)).result == "ada"


async def test_a_log_out_without_a_majority_is_enforced_here_kept_and_made_good(tmp_path: Path) -> None:
    async with Cluster(app=obliging) as cluster:
        await keep_journals(cluster, tmp_path)
        a, b, c = cluster.nodes
        browser, bob = await logged_in(cluster, a), await logged_in(cluster, a, "bob")
        captured = Browser(cluster, browser.token)
        cluster.cut(a)

        answer = await browser.visit(a, log_out)

        assert (answer.status, answer.header("session-revocation")) == (200, "provisional")
        assert (await captured.visit(a, why)).result == "session_revoked"
        assert (await captured.visit(b, who)).result == "ada"  # no peer could tell b

        # Forgotten in memory, known by the journal.
        await a.kill()
        await a.start()
        assert len(node_of(a.manager).view.denied) == 1
        for visitor in (captured, bob):
            assert refused_for_infrastructure(await visitor.visit(a), "node_starting", "other_node")

        cluster.heal(a)
        await cluster.ready()
        await cluster.advance(2)
        assert [(await captured.visit(node, why)).result for node in (a, b, c)] == ["session_revoked"] * 3
        assert (await bob.visit(a)).result == "bob"
        assert node_of(a.manager).revoker.provisional == []

        # It is not kept for longer than it has to be.
        await a.kill()
        await a.start()
        assert node_of(a.manager).revoker.provisional == []


@pytest.mark.parametrize("everybody", [False, True], ids=["subject", "everybody"])
async def test_a_log_out_everywhere_that_is_made_good_late_ends_no_session_that_began_after_it(everybody: bool, tmp_path: Path) -> None:
    async with Cluster(app=obliging) as cluster:
        a, b, c = cluster.nodes
        await keep_journals(cluster, tmp_path, "a")
        before = await logged_in(cluster, b)
        cluster.cut(a)
        revoke = a.manager.revoke_everybody if everybody else partial(a.manager.revoke_subject, "ada")
        assert (await cluster.run(revoke)).mode == "provisional"
        await cluster.advance(62)
        assert (await before.visit(c)).result == "ada"  # no peer could tell c
        anew = await logged_in(cluster, b)

        cluster.heal(a)
        await cluster.ready()
        await cluster.advance(3)

        assert node_of(a.manager).revoker.provisional == []
        for node in (a, b, c):
            assert (await before.visit(node, why)).result == "session_revoked"
            assert (await anew.visit(node)).result == "ada"


async def test_more_log_outs_without_a_majority_do_not_wait_long(tmp_path: Path) -> None:
    async with Cluster(app=obliging) as cluster:
        await keep_journals(cluster, tmp_path, "a")
        a = cluster["a"]
        browsers = [await logged_in(cluster, a) for _ in range(3)]
        cluster.cut(a)
        await cluster.advance(6)
        begun_s = cluster.passed_s
        for browser in browsers:
            acknowledged = await cluster.run(a.manager.revoke_session, _sid(browser))
            assert acknowledged.mode == "provisional"
        assert cluster.passed_s - begun_s < 1


def _sid(browser: Browser) -> str:
    assert browser.token
    return browser.token.split(".")[1]


@pytest.mark.parametrize("settings", [{"no_quorum": "refuse", "state_dir": "journals"}, {}], ids=["refuse", "no journal"])
async def test_a_log_out_that_cannot_be_kept_is_refused_and_enforced_here(settings: dict[str, Any], tmp_path: Path) -> None:
    if "state_dir" in settings:
        settings = {**settings, "state_dir": tmp_path / "journals"}
    async with Cluster(app=obliging, **settings) as cluster:
        await cluster.ready()
        a, b, c = cluster.nodes
        browser = await logged_in(cluster, a)
        cluster.cut(a)

        assert refused_for_infrastructure(await browser.visit(a, log_out), "quorum_lost", "any")

        assert (await browser.visit(a, why)).result == "session_revoked"
        cluster.heal(a)
        await cluster.advance(3)
        assert [(await browser.visit(node, why)).result for node in (b, c)] == ["session_revoked"] * 2


@pytest.mark.parametrize("seconds", [3600, -3600])
async def test_a_clock_an_hour_off_ends_no_session(cluster: Cluster, seconds: float) -> None:
    a, b, c = cluster.nodes
    browser = await logged_in(cluster, a)
    b.clock.step_wall(seconds)

    for path in ("/", "/private"):
        assert refused_for_infrastructure(await browser.visit(b, path=path), "clock_untrusted", "other_node")
    assert refused_for_infrastructure(await Browser(cluster).visit(b, lambda s: s.login("bob")), "clock_untrusted", "other_node")
    assert refused_for_infrastructure(await Browser(cluster).visit(b, lambda s: s.update(a=1)), "clock_untrusted", "other_node")
    await cluster.advance(2)
    assert "clock" in (b.why_not_ready or "")
    for node in (a, c):
        assert (await browser.visit(node)).result == "ada"
        assert node.why_not_ready is None

    b.clock.step_wall(-seconds)
    await cluster.advance(1)
    assert (await browser.visit(b)).result == "ada"


async def test_clocks_that_are_all_set_back_take_no_session_with_them(cluster: Cluster) -> None:
    """As by a time server that was wrong, and is right again."""
    browser = await logged_in(cluster, cluster.nodes[0])
    for node in cluster.nodes:
        node.clock.step_wall(-300)
        await cluster.advance(1)
        answers = [await browser.visit(node, path="/private") for node in cluster.nodes]
        assert {answer.status if answer.status == 200 else answer.code for answer in answers} <= {200, "clock_untrusted"}
    await cluster.advance(2)
    assert [(await browser.visit(node, path="/private")).result for node in cluster.nodes] == ["ada"] * 3


async def test_clocks_that_are_all_a_day_ahead_for_two_seconds_end_no_session(cluster: Cluster) -> None:
    """As by a time server that was wrong for a moment. Each node's boot-time clock contradicts the others' wall clocks."""
    browser = await logged_in(cluster, cluster.nodes[0])
    for node in cluster.nodes:
        node.clock.step_wall(24 * 3600)
        await cluster.advance(0.5)
        answers = [await browser.visit(node, path="/private") for node in cluster.nodes]
        assert {answer.status if answer.status == 200 else answer.code for answer in answers} <= {200, "clock_untrusted"}
    await cluster.advance(2)
    assert [(await browser.visit(node, path="/private")).code for node in cluster.nodes] == ["clock_untrusted"] * 3
    for node in cluster.nodes:
        node.clock.step_wall(-24 * 3600)
        await cluster.advance(0.5)
    await cluster.advance(2)
    assert [(await browser.visit(node, path="/private")).result for node in cluster.nodes] == ["ada"] * 3
    assert (await (await logged_in(cluster, cluster.nodes[1])).visit(cluster.nodes[2], path="/private")).result == "ada"


async def test_clocks_that_are_all_set_anew_are_trusted_after_a_minute(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.clock.step_wall(3600)
    await cluster.advance(2)
    assert all("clock" in (node.why_not_ready or "") for node in cluster.nodes)
    await cluster.advance(60)
    assert [node.why_not_ready for node in cluster.nodes] == [None] * 3
    assert (await (await logged_in(cluster, cluster.nodes[1])).visit(cluster.nodes[2], path="/private")).result == "ada"


async def test_a_node_that_starts_with_a_wrong_clock_validates_no_session() -> None:
    cluster = Cluster(app=obliging)
    a, b, c = cluster.nodes
    b.clock.step_wall(7200)
    async with cluster:
        await cluster.wait_until(lambda: a.why_not_ready is None and c.why_not_ready is None)
        await cluster.advance(1)
        browser = await logged_in(cluster, a)
        assert refused_for_infrastructure(await browser.visit(b), "clock_untrusted", "other_node")


async def test_a_known_denial_outweighs_a_peers_yes_by_any_clock() -> None:
    async with Cluster("abcde", app=obliging, protect="/private*") as cluster:
        await cluster.ready()
        a, b, *others = cluster.nodes
        browser = await logged_in(cluster, b)
        claims = node_of(a.manager).validator.verify(browser.token.encode()).claims  # type: ignore[union-attr]
        cluster.cut(a, *others)
        await cluster.advance(6)
        assert (await browser.visit(a)).result == "ada"  # b says so
        cluster.link(b, a).delay_s = 0.1

        async def meanwhile() -> None:
            await cluster.sleep(0.1)  # b has said yes, and its answer has not arrived yet
            a.clock.step_wall(3600)
            node_of(a.manager).log.apply([Deny(claims.family, claims.absolute_end_ms)])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(meanwhile)
            answer = await browser.visit(a, path="/private")

        assert (answer.status, answer.problem["code"]) == (401, "session_revoked")
        assert refused_for_infrastructure(await Browser(cluster, browser.token).visit(a), "clock_untrusted", "other_node")


async def test_a_node_of_another_freshness_limit_refuses_readiness_and_the_safer_ones_count() -> None:
    cluster = Cluster(app=obliging)
    a, b, c = cluster.nodes
    a.settings.update(freshness_limit="8s")
    async with cluster:
        await cluster.advance(2)
        assert "HA_SESSION_FRESHNESS_LIMIT differs" in (a.why_not_ready or "")
        assert b.why_not_ready is c.why_not_ready is None
        browser = await logged_in(cluster, a)
        cluster.cut(a)
        await cluster.advance(5.6)
        assert refused_for_infrastructure(await browser.visit(a), "state_stale", "other_node")


async def restarted(node: Node, **settings: Any) -> None:
    await node.kill()
    node.settings.update(settings)
    await node.start()


async def test_differing_lists_are_named_once_and_by_readiness(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(app=obliging)
    a, b, c = cluster.nodes
    with caplog.at_level(logging.ERROR):
        async with cluster:
            await cluster.ready()
            await restarted(c, peers=(*c.settings["peers"], "http://d.test"))
            await cluster.advance(10)
            assert "member 1 of HA_SESSION_PEERS has another HA_SESSION_PEERS" in (c.why_not_ready or "")
            assert a.why_not_ready is b.why_not_ready is None  # the odd one must not take them out of service too
            named = "member 3 of HA_SESSION_PEERS has another HA_SESSION_PEERS; they must name the same members everywhere"
            assert (await cluster.run(a.manager.status))["mismatches"] == [named]
            readiness = await cluster.run(call, a.middleware, scope_of("http", "/-/session/readyz"))
            assert readiness.status == 200
            assert named.encode() in readiness.body
            browser = await logged_in(cluster, a)  # two of three agree, and go on
            assert (await browser.visit(b)).result == "ada"
            assert refused_for_infrastructure(await browser.visit(c), "node_starting", "other_node")
    told = [record.getMessage() for record in caplog.records if "has another HA_SESSION_PEERS" in record.getMessage()]
    assert sorted(told) == sorted(
        f"member {n} of HA_SESSION_PEERS has another HA_SESSION_PEERS; they must name the same members everywhere" for n in (3, 3, 1, 2)
    )


async def test_a_peer_of_another_secret_is_named_in_the_log_and_no_token_of_its_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    async with Cluster(app=obliging) as cluster:
        await cluster.ready()
        a, b, c = cluster.nodes
        await restarted(c, secret_key="another9hQ2vX7mRk4TzLwB8sNpYd3JfGcVuA6E")
        await cluster.advance(6)
        assert a.why_not_ready is b.why_not_ready is None
        assert "member 3 of HA_SESSION_PEERS: answers, but knows none of our keys: it has another secret" in caplog.text
        assert ".test" not in caplog.text  # no addresses
        browser = await logged_in(cluster, a)
        assert refused_for_infrastructure(await browser.visit(c), "key_not_reached", "other_node")


@pytest.mark.parametrize("fault", ["garbles", "replays"])
async def test_a_link_that_garbles_or_replays_is_as_good_as_none_and_does_no_harm(cluster: Cluster, fault: str) -> None:
    a, b, c = cluster.nodes
    browser, other = await logged_in(cluster, a), await logged_in(cluster, a, "bob")
    for node in (b, c):
        setattr(cluster.link(a, node), fault, True)
        setattr(cluster.link(node, a), fault, True)
    await cluster.advance(6)

    if fault == "garbles":
        assert refused_for_infrastructure(await browser.visit(a), "state_stale", "other_node")
    else:
        assert (await browser.visit(a)).result == "ada"
        assert peering_of(b.manager).server.refused > 0
    assert (await other.visit(b)).result == "bob"
    assert not node_of(a.manager).supervisor.crashes + node_of(b.manager).supervisor.crashes


async def test_a_slow_link_delays_and_no_more(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    for one, other in ((a, b), (a, c), (b, c)):
        cluster.link(one, other).delay_s = cluster.link(other, one).delay_s = 0.1
    await cluster.advance(2)
    browser = await logged_in(cluster, a)
    captured = Browser(cluster, browser.token)
    begun_s = cluster.passed_s

    assert (await browser.visit(b, log_out)).header("session-revocation") == "fenced"

    assert cluster.passed_s - begun_s < 1
    assert [(await captured.visit(node, why)).result for node in (a, c)] == ["session_revoked"] * 2


async def test_a_node_that_was_stopped_leaves_nothing_running(cluster: Cluster) -> None:
    a, *_ = cluster.nodes
    token = mint_session(a.manager, "ada", {"x": 1})
    await a.stop()
    with pytest.raises(RuntimeError, match="does not run"):
        _ = a.manager
    await a.start()
    await cluster.ready()
    assert (await Browser(cluster, token).visit(a, look)).result == {"x": 1}


async def test_three_nodes_that_agree_stay_at_rest(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await cluster.advance(60)
    assert [record.getMessage() for record in caplog.records] == []
    nodes: list[Node] = cluster.nodes
    assert all(len(quorum_log_of(node.manager).quorum.held) <= 2 for node in nodes)
    assert all(len(node.clock._limits) < 40 for node in nodes)


async def test_two_nodes_of_one_url_are_reported_until_one_goes(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    a, b, c = cluster.nodes
    b.settings.update(advertise_url=a.url)
    await b.stop()
    await b.start()  # its peers take it for a, whenever it calls
    await cluster.advance(6)
    for node in (a, b):
        assert "another process answers at HA_SESSION_ADVERTISE_URL" in (node.why_not_ready or "")
    assert caplog.text.count("give each process a URL of its own, or start one worker only") == 2

    b.settings.update(advertise_url=b.url)
    await b.kill()
    await b.start()
    await cluster.advance(30)
    assert a.why_not_ready is b.why_not_ready is c.why_not_ready is None


NO_TEXT = b"\x9d\x01" + b"\xa1\xff" * 12  # of the right shape up to there
GARBAGE = [b"", b"\xc1", b"\x92\x01\xa1\xff", NO_TEXT, b"\x9d" + b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"x" * 100_000]


@pytest.mark.parametrize("call", ["poll", "lookup"])
async def test_a_member_that_asks_nonsense_is_refused_and_crashes_nothing(cluster: Cluster, call: str) -> None:
    a, b, _ = cluster.nodes
    for garbage in GARBAGE:
        with pytest.raises(PeerFailure, match="answered 400"):
            await cluster.run(peering_of(a.manager).call, b.url, call, garbage, 1.0)
    await cluster.advance(2)
    assert not node_of(b.manager).supervisor.crashes
    assert b.why_not_ready is None


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_a_member_that_answers_nonsense_is_as_good_as_none_and_named(
    cluster: Cluster, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, c = cluster.nodes

    async def nonsense(_: bytes) -> bytes:
        return garbage

    peering_of(a.manager).handle("poll", nonsense)
    peering_of(a.manager).handle("lookup", nonsense)
    browser = await logged_in(cluster, a)
    await cluster.advance(7)

    assert "member 1 of HA_SESSION_PEERS: answers in a form that this release cannot read" in caplog.text
    assert not node_of(b.manager).supervisor.crashes
    assert [(await browser.visit(node)).result for node in (b, c)] == ["ada", "ada"]
    assert (await browser.visit(b, log_out)).header("session-revocation") == "fenced"


async def test_a_member_that_answers_at_once_over_and_over_does_not_keep_the_others_busy(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    polls = 0
    answer = quorum_log_of(a.manager).answering.on_poll

    async def counted(body: bytes) -> bytes:
        nonlocal polls
        polls += 1
        return await answer(body)

    peering_of(a.manager).handle("poll", counted)
    quorum_log_of(a.manager).quorum.holds.limit_s = 0
    await cluster.advance(2)  # until those that are held are answered, and the first of each member's polls are spent
    polls = 0
    await cluster.advance(1)
    assert 10 < polls <= 2 * (ROUNDS_PER_S + 1)
    assert b.why_not_ready is None


async def test_a_clock_that_is_ahead_within_tolerance_dates_no_token_into_the_others_future(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    a.clock.step_wall(20)
    await cluster.advance(2)
    assert a.why_not_ready is None

    ahead_ms = node_of(a.manager).issuer.issue("ada").issued_ms - b.clock.wall_s() * 1000

    assert abs(ahead_ms) < 1_000


async def test_a_member_with_page_after_page_to_tell_does_not_keep_the_others_busy(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    for node in cluster.nodes:
        quorum_log_of(node.manager).quorum.page_entries = 10
    node_of(a.manager).log.apply([Deny(f"flood {n}", node_of(a.manager).log.unknown_end_ms()) for n in range(1000)])
    before = len(node_of(b.manager).view.denied)
    await cluster.advance(1)

    told = len(node_of(b.manager).view.denied) - before

    assert 10 <= told <= 2 * 10 * 6  # from the flooder, and relayed by the third member
    browser = await logged_in(cluster, b)
    assert (await browser.visit(b, log_out)).header("session-revocation") == "fenced"


def faults(node: Node) -> Any:
    """Return a node's counts of the others' faults, as its operator sees them."""
    return peering_of(node.manager).faults.told()


async def test_the_faults_of_each_peer_are_counted_under_its_place_in_the_list(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    with pytest.raises(PeerFailure):
        await cluster.run(peering_of(a.manager).call, b.url, "poll", b"nonsense", 1.0)
    assert faults(a)["member 2"]["refused"] == 1
    assert faults(b)["member 1"] == {"garbage": 1}
    cluster.link(c, b).replays = True
    await cluster.advance(4)
    assert faults(b)["member 3"]["replayed"] >= 2
    cluster.link(b, c).garbles = True
    cluster.cut(a, b)
    await cluster.advance(5)
    assert faults(b)["member 1"]["stalled"] >= 2
    assert faults(c)["member 2"]["garbage"] >= 2
    assert faults(b)["member 3"]["refused"] >= 2
    assert (await b.manager.status())["peers"] == faults(b)
    assert ".test" not in repr(faults(b))


async def test_a_member_that_makes_an_impossible_claim_is_a_liar(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await cluster.run(a.manager.revoke_session, "somebody".ljust(22, "-"))
    for peer in quorum_log_of(a.manager).quorum.peers.values():
        peer.sequence = 1000
        peer.position = 1000
        peer.read_sent_s = float("inf")
    await cluster.advance(3)
    assert faults(b)["member 1"]["lied"] >= 2
    assert b.why_not_ready is None


async def test_a_member_that_answers_with_more_than_a_page_is_not_listened_to(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, c = cluster.nodes
    monkeypatch.setattr("ha_session_mw.backends.peers.polling.PAGE_ENTRIES", 9)
    node_of(a.manager).log.apply([Deny(f"flood {n}", node_of(a.manager).log.unknown_end_ms()) for n in range(10)])
    await cluster.advance(3)
    assert "member 1 of HA_SESSION_PEERS: answers with more than a page" in caplog.text
    assert faults(b)["member 1"]["garbage"] >= 2
    assert b.why_not_ready is c.why_not_ready is None


@pytest.mark.parametrize("complete", [True, False])
async def test_a_member_that_brings_news_without_end_is_slowed_down(
    cluster: Cluster, *, complete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = cluster.nodes
    monkeypatch.setattr("ha_session_mw.backends.peers.pacing.NEWS_PER_S", 64)
    monkeypatch.setattr("ha_session_mw.backends.peers.pacing.NEWS_AT_ONCE", 128)
    for node in (b, c):
        await restarted(node)
    await cluster.ready()
    log, ids = node_of(a.manager).log, count()

    async def flood(body: bytes) -> bytes:
        entries = tuple(Deny(f"flood {next(ids)}", log.unknown_end_ms()) for _ in range(4))
        return encode(msgspec.structs.replace(decode_answer(await on_poll(body)), entries=entries, complete=complete))

    on_poll = quorum_log_of(a.manager).answering.on_poll
    log.quorum.holds.limit_s = 0  # type: ignore[attr-defined]
    peering_of(a.manager).handle("poll", flood)
    await cluster.advance(10)
    counted = faults(b)["member 1"]
    assert counted["slowed"] > 5
    told = len(node_of(b.manager).view.denied)
    assert 0.7 < told / (2 * (128 + 64 * 10) / (1 if complete else 8)) < 1.3  # half of it by way of the third
    browser = await logged_in(cluster, b)
    captured = Browser(cluster, browser.token)
    begun_s = cluster.passed_s
    assert (await browser.visit(b, log_out)).header("session-revocation") == "fenced"
    assert cluster.passed_s - begun_s < 6
    assert (await captured.visit(c, why)).result == "session_revoked"


async def test_members_that_have_lost_each_other_find_each_other_again_during_a_flood(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each catches up with what the other one passes on of the flood, and is slowed by the other's pages less than by the flooder's."""
    a, b, c = cluster.nodes
    monkeypatch.setattr("ha_session_mw.backends.peers.pacing.NEWS_PER_S", 64)
    monkeypatch.setattr("ha_session_mw.backends.peers.pacing.NEWS_AT_ONCE", 128)
    monkeypatch.setattr("ha_session_mw.backends.peers.pacing.CATCH_UP_AT_ONCE", 256)
    monkeypatch.setattr("ha_session_mw.backends.peers.pushing.PUSH_ENTRIES", 8)
    for node in (b, c):
        await restarted(node)
        quorum_log_of(node.manager).quorum.page_entries = 8
    await cluster.ready()
    log, ids = node_of(a.manager).log, count()

    async def flood(body: bytes) -> bytes:
        entries = tuple(Deny(f"flood {next(ids)}", log.unknown_end_ms()) for _ in range(8))
        answer = decode_answer(await on_poll(body))
        return encode(msgspec.structs.replace(answer, entries=entries, upto=answer.since, complete=False))

    on_poll = quorum_log_of(a.manager).answering.on_poll
    log.quorum.holds.limit_s = 0  # type: ignore[attr-defined]
    cluster.cut(b, c)
    peering_of(a.manager).handle("poll", flood)
    await cluster.advance(10)
    assert b.why_not_ready
    assert c.why_not_ready

    cluster.heal(b, c)
    await cluster.wait_until(lambda: not b.why_not_ready and not c.why_not_ready, within_s=120)
    browser = await logged_in(cluster, b)
    assert (await browser.visit(b, log_out)).header("session-revocation") == "fenced"


async def test_members_that_join_over_and_over_do_not_fill_the_log(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    _, _, c = cluster.nodes
    caplog.clear()
    with caplog.at_level(logging.INFO):
        for _ in range(40):
            await restarted(c)
            await cluster.advance(1)
        told = [record.getMessage() for record in caplog.records if "member c has joined" in record.getMessage()]
        assert 2 * 4 <= len(told) <= 2 * 6
        await cluster.advance(60)
        caplog.clear()
        await restarted(c)
        await cluster.advance(1)
    assert re.search("member c has joined, and 3[4-7] times more since the last such line", caplog.text)
