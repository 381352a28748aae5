"""The calls of operators: whoever cannot sign finds nothing there, and a log-out from a script holds on every backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw import SessionManager, SessionMiddleware, Settings
from ha_session_mw._core.calls.faults import PeerFaults
from ha_session_mw._core.token.keys import KeyRing
from ha_session_mw._node.admin_call import Operator, Refused
from ha_session_mw._node.admin_messages import DRAIN, KEYS, REVOKE, SESSIONS, STATUS, Drain, Nothing, Revoke, SessionsOf, encode
from ha_session_mw._peering.client import PeerClient
from ha_session_mw._peering.server import MAX_CALL_BYTES
from ha_session_mw._peering.signatures import HEADER
from ha_session_mw.abc import PeerFailure
from ha_session_mw.clocks import SystemClock
from ha_session_mw.testing import SECRET, Cluster, mint_session, who_is_there
from ha_session_mw.testing.network import Door

from ..asgi.driver import OTHER_SECRET, Answer, Header
from ..operators import Wiretap, ask

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


def middleware(**values: Any) -> SessionMiddleware:
    return SessionMiddleware(who_is_there, manager=SessionManager(Settings(secret_key=SECRET, **values)))


def seen(answer: Answer) -> tuple[int, list[Header], bytes]:
    return answer.status, answer.start["headers"], answer.body


# Strangers


async def test_a_stranger_gets_the_answer_of_a_path_that_does_not_exist() -> None:
    wire = Wiretap(middleware())
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        for field in (None, b"nonsense", b"1 a b c d e 1 f g"):
            headers: list[Header] = [] if field is None else [(HEADER.encode(), field)]
            unknown = await wire.deliver("/-/session/no-such-page", headers, b"x", method=method)
            assert unknown.status == 404
            for path in ("/admin/revoke", "/admin/status", "/admin/", "/admin", "/admin/nonsense"):
                assert seen(await wire.deliver("/-/session" + path, headers, b"x", method=method)) == seen(unknown)
    assert (await wire.deliver("/-/session/livez", [], b"", method="POST")).status == 405  # a path that exists says which methods it has


@given(field=st.binary(max_size=300), body=st.binary(max_size=300), name=st.sampled_from([STATUS, REVOKE, DRAIN]))
async def test_nothing_that_is_not_signed_is_answered(field: bytes, body: bytes, name: str) -> None:
    wire = Wiretap(middleware())
    assert (await wire.deliver(f"/-/session/admin/{name}", [(HEADER.encode(), field)], body)).status == 404


async def test_another_secret_another_audience_and_a_signature_of_a_node_are_strangers() -> None:
    app = middleware(audience="shop", cluster="peers://", peers=("http://a.test",), advertise_url="http://a.test")
    wire = Wiretap(app)
    for settings in ({"secret_key": OTHER_SECRET, "audience": "shop"}, {"audience": "other"}, {}):
        with pytest.raises(PeerFailure, match="knows none of our keys"):
            await ask(wire, STATUS, Nothing(), **settings)
    ring = KeyRing([SECRET.encode()], audience="shop")
    node = PeerClient(
        "http://a.test", "life", lambda: ring, prefix="/-/session", clock=SystemClock(), faults=PeerFaults(), http=lambda: wire
    )
    node._path = "/-/session/admin/"
    with pytest.raises(PeerFailure, match="knows none of our keys"):
        await node.call("http://a.test", STATUS, encode(Nothing()), timeout_s=5)
    assert (await ask(wire, STATUS, Nothing(), audience="shop"))["cluster"] == "peers"


async def test_a_call_that_was_seen_is_good_for_one_use_at_one_process() -> None:
    app, other = middleware(), middleware()
    wire = Wiretap(app)
    await ask(wire, DRAIN, Drain())
    assert app.manager.why_not_ready()
    missing = seen(await wire.deliver("/-/session/nothing", [], b""))
    last = wire.sent[-1]
    assert seen(await wire.deliver(*last)) == missing
    assert (await Wiretap(other).deliver(*last)).status == 409  # it was for another process, which is told the nonce to use
    assert other.manager.why_not_ready() is None
    path, headers, _ = last
    assert seen(await wire.deliver(path, headers, encode(Drain(wait=True)))) == missing
    assert seen(await wire.deliver(path.replace(DRAIN, REVOKE), headers, last[2])) == missing


async def test_the_body_of_a_call_is_bounded() -> None:
    wire = Wiretap(middleware())
    with pytest.raises(PeerFailure):
        await ask(wire, SESSIONS, SessionsOf("a" * MAX_CALL_BYTES))
    with pytest.raises(Refused, match="1 to 512 characters"):
        await ask(wire, SESSIONS, SessionsOf("a" * 513))


async def test_a_request_of_a_later_release_is_refused_and_not_carried_out_in_part() -> None:
    class RevokeAtNight(Revoke, omit_defaults=True):
        at_night: bool = False

    app = middleware()
    token = mint_session(app.manager, "ada")
    wire = Wiretap(app)
    with pytest.raises(PeerFailure, match="another release"):
        await ask(wire, REVOKE, RevokeAtNight(everybody=True, at_night=True))
    with pytest.raises(PeerFailure, match="another release"):
        await ask(wire, REVOKE, Nothing())
    assert b'"ada"' in (await wire.deliver("/", [(b"authorization", b"Bearer " + token.encode())], b"", method="GET")).body


# What an operator can do


@pytest.fixture(params=["memory", "sqlite"])
async def app(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SessionMiddleware]:
    app = middleware(cluster="memory://" if request.param == "memory" else f"sqlite://{tmp_path}/sessions.db", track="on")
    async with app.manager.running():
        yield app


async def subject_of(app: SessionMiddleware, token: str) -> Any:
    answer = await Wiretap(app).deliver("/", [(b"authorization", b"Bearer " + token.encode())], b"", method="GET")
    return msgspec.json.decode(answer.body)["subject"]


@pytest.mark.parametrize("what", ["session", "family", "subject", "everybody", "key"])
async def test_each_log_out_is_enforced_once_it_is_acknowledged(app: SessionMiddleware, what: str) -> None:
    token = mint_session(app.manager, "ada")
    _, sid, kid, *_ = token.split(".")
    assert await subject_of(app, token) == "ada"
    requests = {
        "session": Revoke(session=sid),
        "family": Revoke(session=sid),
        "subject": Revoke(subject="ada"),
        "everybody": Revoke(everybody=True),
        "key": Revoke(key=kid),
    }
    done = await ask(Wiretap(app), REVOKE, requests[what])
    assert done["mode"] == "fenced"
    assert await subject_of(app, token) is None


async def test_the_key_that_is_revoked_signs_no_call() -> None:
    app = middleware(secret_key_fallbacks=OTHER_SECRET)
    ours = Settings(secret_key=SECRET, secret_key_fallbacks=OTHER_SECRET)
    leaked = mint_session(app.manager, "ada").split(".")[2]
    operator = Operator(ours, Wiretap(app), but=leaked)
    assert (await operator.ask("http://anywhere.test", REVOKE, Revoke(key=leaked)))["mode"] == "fenced"
    rows = {row["kid"]: row for row in (await operator.ask("http://anywhere.test", KEYS, Nothing()))["keys"]}
    assert (rows[leaked]["revoked"], rows[leaked]["signing_at"]) == (True, [])
    assert [len(row["signing_at"]) for kid, row in rows.items() if kid != leaked] == [1]


async def test_the_devices_of_a_subject_are_listed_and_one_is_logged_out(app: SessionMiddleware) -> None:
    wire = Wiretap(app)
    logged_in = await wire.deliver("/login/ada", [(b"user-agent", b"Mozilla/5.0 (X11; Linux) Firefox/140.0")], b"")
    token = logged_in.token or ""
    [device] = await ask(wire, SESSIONS, SessionsOf("ada"))
    assert "Firefox" in device["label"]
    assert (await ask(wire, REVOKE, Revoke(session=device["id"])))["mode"] == "fenced"
    assert await subject_of(app, token) is None
    assert await ask(wire, SESSIONS, SessionsOf("bob")) == []


async def test_what_a_node_cannot_do_is_said_in_words() -> None:
    wire = Wiretap(middleware())
    with pytest.raises(Refused, match="HA_SESSION_TRACK=on"):
        await ask(wire, SESSIONS, SessionsOf("ada"))
    with pytest.raises(Refused, match="no live member has a key 'nonsense'"):
        await ask(wire, REVOKE, Revoke(key="nonsense"))


async def test_the_state_of_a_node_names_its_members() -> None:
    async with Cluster() as cluster:
        await cluster.ready()
        a, b, c = cluster.nodes
        async with Operating(cluster, a) as operate:
            found = await operate(STATUS, Nothing())
            assert [row["member"] for row in found["members"]] == ["a", "b", "c"]
            assert {row["state"] for row in found["members"]} == {"ready"}
            assert all(abs(row["ahead_s"]) < 0.1 and row["heard_ago_s"] < 1 for row in found["members"])
            await b.kill()
            c.clock.step_wall(20)
            await cluster.advance(8)
            rows = {row["member"]: row for row in (await operate(STATUS, Nothing()))["members"]}
            assert "b" not in rows or rows["b"]["state"] == "gone"
            assert 19 < rows["c"]["ahead_s"] < 21


class Operating:
    """An operator of a cluster in one process, who calls one of its nodes."""

    def __init__(self, cluster: Cluster, node: Any) -> None:
        self._cluster = cluster
        self._door = Door(node)

    async def __aenter__(self) -> Any:
        operator = Operator(Settings(secret_key=self._cluster.nodes[0].settings["secret_key"]), self._door)

        async def operate(name: str, request: msgspec.Struct) -> Any:
            return await self._cluster.run(operator.ask, "http://anywhere.test", name, request)

        return operate

    async def __aexit__(self, *_: object) -> None:
        await self._door.aclose()


async def test_a_log_out_of_an_operator_holds_on_every_node() -> None:
    async with Cluster() as cluster:
        await cluster.ready()
        a, b, c = cluster.nodes
        token = mint_session(a.manager, "ada")
        async with Operating(cluster, b) as operate:
            assert (await operate(REVOKE, Revoke(subject="ada")))["mode"] == "fenced"
        assert [(await node.get("/", token=token)).json()["subject"] for node in (a, b, c)] == [None] * 3


@pytest.mark.parametrize("writes_down", [True, False])
async def test_a_log_out_without_a_quorum_is_provisional_or_says_why_not(tmp_path: Path, *, writes_down: bool) -> None:
    cluster = Cluster()
    a, b, c = cluster.nodes
    if writes_down:
        a.settings["state_dir"] = tmp_path
    async with cluster, Operating(cluster, a) as operate:
        await cluster.ready()
        await b.kill()
        await c.kill()
        if writes_down:
            assert (await operate(REVOKE, Revoke(subject="ada")))["mode"] == "provisional"
            return
        with pytest.raises(Refused) as refused:
            await operate(REVOKE, Revoke(subject="ada"))
        assert refused.value.failure.code == "quorum_lost"
