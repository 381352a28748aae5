"""Keys in a cluster: staged before they sign, and asked for where they are lacking."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ha_session_mw import NodeStarting
from ha_session_mw._core.token import tokens
from ha_session_mw._core.token.keys import KeyRing, SigningKey
from ha_session_mw._node.lookups import Answer, encode
from ha_session_mw._node.node import LACKED_KEY
from ha_session_mw._peering.signatures import HEADER, Envelope, Signatures, digest_of
from ha_session_mw.manager import node_of
from ha_session_mw.models import Claims, Deny, KeyId
from ha_session_mw.testing import SECRET, Cluster, Node, mint_session
from ha_session_mw.version import PROTOCOL

from ..inside import look_ups_of, peering_of
from .visits import Browser, logged_in, obliging, refused_for_infrastructure, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

NEW = "bT9xKw3VnQ7pLzR5YhD1sXjG8fCmUe4A"
STRAY = "Xy7Kd2LmQ9vRtB4nWpZ8sHcJ6gFe3UaT"


def kid_of(token: str) -> str:
    return token.split(".")[2]


def kid(secret: str) -> str:
    return SigningKey(secret.encode()).kid


async def restart(cluster: Cluster, node: Node, **settings: object) -> None:
    await node.stop()
    node.settings.update(settings)
    await node.start()
    await cluster.ready()
    await cluster.advance(1)


async def test_a_node_signs_only_with_a_key_that_every_live_member_has(cluster: Cluster) -> None:
    a, b, c = cluster.nodes

    signed_with = []
    for node in (a, b, c):
        await restart(cluster, node, secret_key=(NEW, SECRET))
        signed_with.append(kid_of(mint_session(a.manager, "ada")))

    assert signed_with == [kid(SECRET), kid(SECRET), kid(NEW)]


async def test_a_member_that_has_left_does_not_hold_a_new_key_up(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    await restart(cluster, a, secret_key=(NEW, SECRET))
    await restart(cluster, b, secret_key=(NEW, SECRET))
    await c.kill()
    await cluster.advance(3)
    assert kid_of(mint_session(a.manager, "ada")) == kid(SECRET)  # it may come back
    await cluster.advance(3)
    assert kid_of(mint_session(a.manager, "ada")) == kid(NEW)


async def test_rolling_a_new_key_out_logs_no_user_out(cluster: Cluster) -> None:
    browser = await logged_in(cluster, cluster["a"])
    for settings in ({"secret_key": (NEW, SECRET)}, {"secret_key": NEW, "secret_key_fallbacks": SECRET}):
        for node in cluster.nodes:
            await restart(cluster, node, **settings)
            for other in cluster.nodes:
                assert (await browser.visit(other)).result == "ada"
                assert (await (await logged_in(cluster, node)).visit(other)).result == "ada"


def signed(node: Node, secret: str, subject: str = "ada") -> tuple[str, Claims]:
    claims = node_of(node.manager).issuer.change(node_of(node.manager).issuer.issue(subject), b"\x80")
    return tokens.sign(claims, SigningKey(secret.encode())).decode(), claims


async def test_rolling_a_key_out_and_the_old_one_away_blames_no_peer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The nodes hold each other's polls all the time, and see the files change at different moments."""
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_text(SECRET)
    async with Cluster() as cluster:
        await cluster.ready()
        for node, file in zip(cluster.nodes, files, strict=True):
            await restart(cluster, node, secret_key=(), secret_key_file=str(file))
        before = [{**peering_of(node.manager).faults.told()} for node in cluster.nodes]
        caplog.clear()
        for keys in (f"{SECRET}\n{NEW}", f"{NEW}\n{SECRET}", NEW):
            for file in files:
                file.write_text(keys + "\n")
                await cluster.advance(1.3)
            await cluster.advance(3)
        token = mint_session(cluster.nodes[0].manager, "ada")
        assert kid_of(token) == kid(NEW)
        assert [{**peering_of(node.manager).faults.told()} for node in cluster.nodes] == before
        trouble = [one for one in caplog.records if one.levelno >= logging.WARNING and one.name != "ha_session_mw.security"]
        assert [record.getMessage() for record in trouble] == []  # the security log tells that the keys changed


async def test_a_key_that_another_member_has_is_asked_for(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await restart(cluster, a, secret_key_fallbacks=NEW)
    token, _claims = signed(a, NEW)

    browser = Browser(cluster, token)
    assert (await browser.visit(b)).result == "ada"
    assert look_ups_of(b.manager).results["yes"] == 1

    # No yes is kept.
    assert (await Browser(cluster, token).visit(b)).result == "ada"
    assert look_ups_of(b.manager).results["yes"] == 2


async def test_a_key_that_another_member_has_does_not_revive_a_revoked_session(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    await restart(cluster, a, secret_key_fallbacks=NEW)
    token, claims = signed(a, NEW)
    await cluster.run(c.manager.revoke_session, claims.family)

    assert (await Browser(cluster, token).visit(b, why)).result == "session_revoked"
    # Final: it does not have to be asked for again.
    assert claims.sid in node_of(b.manager).view.denied


async def test_a_key_that_another_member_has_does_not_make_a_replaced_session_a_revoked_one(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    await restart(cluster, a, secret_key_fallbacks=NEW)
    token, claims = signed(a, NEW)
    node_of(a.manager).log.apply([Deny(claims.family, claims.absolute_end_ms, int(a.clock.wall_s() * 1000))])
    await cluster.advance(1)

    assert (await Browser(cluster, token).visit(b, why)).result == "session_superseded"
    assert (await Browser(cluster, token).visit(c, why)).result == "session_superseded"
    assert {claims.sid, claims.family} <= node_of(b.manager).view.superseded.keys()


async def test_a_session_that_this_node_denies_stays_denied_despite_a_peers_yes(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await restart(cluster, a, secret_key_fallbacks=NEW)
    token, claims = signed(a, NEW)

    async def has_not_heard(*_: object) -> bytes:
        return encode(Answer(PROTOCOL.highest, "yes", claims, KeyId(kid(NEW))))

    look_ups_of(b.manager)._asking._call = has_not_heard
    assert (await Browser(cluster, token).visit(b)).result == "ada"

    node_of(b.manager).log.apply([Deny(claims.family, claims.absolute_end_ms)])

    assert (await Browser(cluster, token).visit(b, why)).result == "session_revoked"
    assert look_ups_of(b.manager).results["yes"] == 2


async def test_a_key_that_no_member_has_is_invalid_on_fresh_nodes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _ = cluster.nodes
    token, _ = signed(a, STRAY)

    assert (await Browser(cluster, token).visit(b, why)).result == "token_invalid"
    refused = await Browser(cluster, token).visit(b, path="/private")
    assert (refused.status, refused.code) == (401, "token_invalid")
    assert not look_ups_of(b.manager).results  # garbage causes no traffic

    cluster.cut(b)
    await cluster.advance(6)
    sought: list[None] = []
    monkeypatch.setattr(node_of(b.manager).log, "seek_news", lambda: sought.append(None))
    for path in ("/", "/private"):
        assert refused_for_infrastructure(await Browser(cluster, token).visit(b, path=path), "key_not_reached", "other_node")
    assert not look_ups_of(b.manager).results
    assert not sought


async def test_a_node_with_another_secret_names_those_that_do_not_know_its_key(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    a, b, c = cluster.nodes
    token = mint_session(a.manager, "ada")
    await c.stop()
    c.settings["secret_key"] = STRAY
    await c.start()
    await cluster.advance(3)
    assert "member 1 of HA_SESSION_PEERS answers, but knows none of our keys" in str(c.why_not_ready)
    assert "member 3 of HA_SESSION_PEERS: answers, but knows none of our keys" in caplog.text
    with pytest.raises(NodeStarting):
        mint_session(c.manager, "ada")
    assert [(await Browser(cluster, token).visit(node, why)).result for node in (a, b)] == [None, None]
    answer = await Browser(cluster, token).visit(c, path="/private")
    assert answer.status == 503


async def test_members_whose_signing_keys_differ_are_told_apart_though_they_can_call_each_other(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, c = cluster.nodes
    for node in (a, b):
        await restart(cluster, node, secret_key=(SECRET, NEW))
    await c.stop()
    c.settings["secret_key"] = NEW
    await c.start()
    await cluster.advance(3)
    assert [node.why_not_ready for node in cluster.nodes] == [None] * 3  # all sign with the key that they share
    assert kid_of(mint_session(a.manager, "ada")) == kid(NEW)
    await c.stop()
    c.settings["secret_key"] = (STRAY, NEW)
    c.settings["secret_key_fallbacks"] = ()
    await c.start()
    await cluster.advance(3)
    assert kid_of(mint_session(c.manager, "ada")) == kid(NEW)
    assert "cannot validate each other's tokens" not in caplog.text


async def test_a_node_that_lost_a_key_too_early_names_it_and_who_has_it_while_tokens_of_it_come(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, c = cluster.nodes
    for node in (b, c):
        await restart(cluster, node, secret_key=(NEW, SECRET))
    browser = await logged_in(cluster, a)
    assert kid_of(browser.token or "") == kid(SECRET)
    await restart(cluster, a, secret_key=NEW)
    assert not any(kid(SECRET) in warning for warning in node_of(a.manager).warnings())

    assert (await browser.visit(a)).result == "ada"  # by asking a peer each time
    told = LACKED_KEY.format(kid(SECRET), "b, c")
    assert told in node_of(a.manager).warnings()
    await cluster.advance(2)
    assert [record.getMessage() for record in caplog.records].count(told) == 1
    assert [told in node_of(node.manager).warnings() for node in (b, c)] == [False, False]
    await restart(cluster, b)
    assert (await browser.visit(a)).result == "ada"
    assert [warning for warning in node_of(a.manager).warnings() if kid(SECRET) in warning] == [told]  # whichever came last

    await cluster.advance(61)  # nobody brings such a token any more
    assert told not in node_of(a.manager).warnings()


async def test_a_token_of_a_made_up_key_names_no_key(cluster: Cluster) -> None:
    a, *_ = cluster.nodes
    token, _ = signed(a, STRAY)
    await Browser(cluster, token).visit(a)
    assert not any(kid(STRAY) in warning for warning in node_of(a.manager).warnings())


async def test_garbage_is_refused_without_asking_anybody() -> None:
    async with Cluster(app=obliging, protect="/private*") as cluster:
        await cluster.ready()
        a, b, _ = cluster.nodes
        good = mint_session(a.manager, "ada")
        cluster.cut(b)
        await cluster.advance(5.5)
        for token in ("hs1.x", "x", good[:-1], good[:-2] + ("AA" if not good.endswith("AA") else "BB"), "hs1." + "a" * 5000):
            answer = await Browser(cluster, token).visit(b, path="/private")
            assert answer.status in (400, 401)
        assert not look_ups_of(b.manager).results


async def status_of_call(cluster: Cluster, caller: Node, callee: Node, secret: str) -> int:
    """The status of a call that a holder of this secret makes in the name of a member."""
    ring = KeyRing([secret.encode()])
    envelope = Envelope(callee.url, "-", caller.url, "life-of-a-thief", 1, digest_of(b""))
    signature = Signatures(lambda: ring).sign(ring.kids[0], envelope.text("poll"))
    async with callee.client() as client:
        answer = await cluster.run(client.post, "/-/session/peer/poll", headers={HEADER: envelope.field(ring.kids[0], signature)})
    return int(answer.status_code)


async def test_a_revoked_key_no_longer_makes_its_holder_a_node(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    for node in cluster.nodes:
        await restart(cluster, node, secret_key=(NEW, SECRET))
    assert await status_of_call(cluster, c, b, SECRET) == 409  # signed well, and made for an earlier process
    assert (await cluster.run(a.manager.revoke_key, kid(SECRET))).mode == "fenced"
    await cluster.advance(1)

    assert await status_of_call(cluster, c, b, SECRET) == 404
    assert await status_of_call(cluster, c, b, NEW) == 409
    browser = await logged_in(cluster, a)  # the members talk on, under the other key
    for node in cluster.nodes:
        assert (await browser.visit(node)).result == "ada"


async def test_a_node_with_the_name_of_another_hides_nobodys_keys_and_is_told(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    a, b, c = cluster.nodes
    await restart(cluster, c, node_id="b", secret_key=STRAY, secret_key_fallbacks=SECRET)
    assert [*node_of(a.manager).kids_of_members()] == ["a", "b", "b (2)"]
    assert kid_of(mint_session(c.manager, "ada")) == kid(SECRET)  # it knows that a and b lack its newest key
    for node in (a, b, c):
        assert "several members are named b; give each node a HA_SESSION_NODE_ID of its own" in node_of(node.manager).warnings()
    await cluster.advance(5)
    assert caplog.text.count("several members are named b") == 3  # a line of each node
