"""Nodes on a real etcd. Each of its faults gives one clear message and a problem code, and loses nothing."""

from __future__ import annotations

import gc
import re
import secrets
import shutil
import subprocess
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx2
import pytest

from example_app.proxy import Proxy
from ha_session_mw import (
    EntryRejected,
    KeyNotReached,
    QuorumLost,
    SessionManager,
    SessionMiddleware,
    SessionRevoked,
    Settings,
    StateRollback,
)
from ha_session_mw._core.accept_rule import CannotTell
from ha_session_mw._core.cluster.view import new_cut_id
from ha_session_mw._node.admin_messages import REVOKE, SESSIONS, STATUS, Nothing, Revoke, SessionsOf
from ha_session_mw.backends.etcd.gateway import EtcdGateway
from ha_session_mw.backends.etcd.log import EtcdLog
from ha_session_mw.cli.checkup.of_etcd import check_etcd
from ha_session_mw.clocks import SystemClock
from ha_session_mw.manager import node_of
from ha_session_mw.models import Cut, Deny
from ha_session_mw.testing import SECRET, mint_session, who_is_there

from ..engines import Etcd, etcd, patient
from ..operators import Wiretap, ask
from ..waiting import LIMIT_S, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.one_library, pytest.mark.real]

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])
"""Tests that take seconds run on one event loop only."""

OTHER_SECRET = "Xy7Kd2LmQ9vRtB4nWpZ8sHcJ6gFe3UaT"
HEARTBEAT_S = 0.1
FRESHNESS_LIMIT_S = 3.0
GARBAGE = b64encode(b"garbage").decode()
FENCE_WAIT_S = FRESHNESS_LIMIT_S * 1.02 + 0.05


class Clock(SystemClock):
    """The machine's clocks, which a test may set forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def boot_s(self) -> float:
        return SystemClock.boot_s() + self.ahead_s

    def wall_s(self) -> float:
        return SystemClock.wall_s() + self.ahead_s


def node(cluster: str, *, clock: Clock | None = None, **settings: Any) -> SessionManager:
    given = {"secret_key": SECRET, "heartbeat": HEARTBEAT_S, "freshness_limit": FRESHNESS_LIMIT_S, **settings}
    return SessionManager(Settings(cluster=cluster, **given), clock=clock)


def log_of(manager: SessionManager) -> EtcdLog:
    log = node_of(manager).log
    assert isinstance(log, EtcdLog)
    return log


def judged(manager: SessionManager, token: str) -> str:
    """Return the answer to a request with a token: ``ok``, or the code of the refusal."""
    try:
        outcome = node_of(manager).validator.validate(token.encode())
    except SessionRevoked as revoked:
        return revoked.code
    return outcome.problem.code if isinstance(outcome, CannotTell) else "ok"


async def ready(*managers: SessionManager) -> None:
    def all_are() -> bool:
        others = len(managers) - 1
        return all(one.why_not_ready() is None and len(node_of(one).log.members()) >= others for one in managers)

    await eventually(all_are)


@asynccontextmanager
async def running(*managers: SessionManager) -> AsyncIterator[None]:
    async with AsyncExitStack() as held:
        for manager in managers:
            await held.enter_async_context(manager.running())
        yield


@pytest.fixture
def cluster(one_etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> str:
    """A log of this test's own, on an etcd that does not fail."""
    patient(monkeypatch)
    return one_etcd.cluster(f"t{secrets.token_hex(4)}")


def prefix_of(cluster: str) -> str:
    return cluster.rpartition("/")[2]


def keys(server: Etcd, cluster: str, below: str = "") -> list[str]:
    prefix = f"{prefix_of(cluster)}/"
    first = (prefix + below).encode()
    end = first[:-1] + bytes([first[-1] + 1])
    answer = server.post("/v3/kv/range", {"key": b64encode(first).decode(), "range_end": b64encode(end).decode(), "keys_only": True})
    return [b64decode(found["key"]).decode().removeprefix(prefix) for found in answer.get("kvs", [])]


def store(server: Etcd, key: str, value: bytes) -> None:
    """Write any value."""
    server.post("/v3/kv/put", {"key": b64encode(key.encode()).decode(), "value": b64encode(value).decode()})


def remove(server: Etcd, key: str) -> None:
    """Delete a key. A new process for each would keep the nodes in this one from their work."""
    server.post("/v3/kv/deleterange", {"key": b64encode(key.encode()).decode()})


# Several nodes.


async def test_a_session_of_one_node_is_good_on_all_and_a_log_out_on_one_counts_on_all(cluster: str) -> None:
    a, b, c = nodes = [node(cluster) for _ in range(3)]
    async with running(*nodes):
        await ready(*nodes)
        token = mint_session(a, "ada")
        assert [judged(one, token) for one in nodes] == ["ok"] * 3
        acknowledged = await b.revoke_subject("ada")
        assert [judged(one, token) for one in nodes] == ["session_revoked"] * 3
        assert acknowledged.mode == "fenced"
        assert acknowledged.waited_s < FENCE_WAIT_S
        assert judged(c, mint_session(c, "ada")) == "ok"
        assert node_of(a).log.engine_ahead_s() == 0.0  # one machine has one clock


async def test_a_node_with_another_secret_is_told_everywhere_and_ends_no_session(cluster: str, caplog: pytest.LogCaptureFixture) -> None:
    a, b, odd = node(cluster), node(cluster), node(cluster, secret_key=OTHER_SECRET)
    async with running(a, b, odd):
        await eventually(lambda: all(len(node_of(one).log.members()) == 2 for one in (a, b, odd)))
        await eventually(lambda: "HA_SESSION_SECRET_KEY" in str(odd.why_not_ready()))
        await eventually(lambda: (a.why_not_ready(), b.why_not_ready()) == (None, None))
        token = mint_session(a, "ada")
        assert [judged(one, token) for one in (a, b, odd)] == ["ok", "ok", "key_not_reached"]
        with pytest.raises(KeyNotReached):
            mint_session(odd, "ada")
        assert [str(odd.node_id) in warning for one in (a, b) for warning in node_of(one).warnings()] == [True, True]
        await eventually(lambda: caplog.text.count(f"member {odd.node_id} and this node cannot validate each other's tokens") == 2)


async def test_a_log_out_by_a_script_counts_on_all(cluster: str) -> None:
    a, b = node(cluster, track="on"), node(cluster, track="on")
    async with running(a, b):
        await ready(a, b)
        token = mint_session(a, "ada")
        assert judged(b, token) == "ok"
        wire = Wiretap(SessionMiddleware(who_is_there, manager=a))
        assert {row["member"] for row in (await ask(wire, STATUS, Nothing()))["members"]} == {a.node_id, b.node_id}
        assert await ask(wire, SESSIONS, SessionsOf("ada")) == []  # it never logged in by a request
        assert (await ask(wire, REVOKE, Revoke(session=token.split(".")[1])))["mode"] == "fenced"
        assert judged(b, token) == "session_revoked"


async def test_the_doctor_reads_a_real_etcd_and_writes_nothing(one_etcd: Etcd, cluster: str) -> None:
    findings = [*check_etcd(Settings(secret_key=SECRET, cluster=cluster))]
    assert {one.level for one in findings} == {"advice"}
    assert [one.text.partition(":")[0] for one in findings] == ["etcd asks for no user", "etcd has one member"]
    assert keys(one_etcd, cluster) == []


async def test_log_outs_survive_a_restart_of_all_nodes(cluster: str) -> None:
    first = node(cluster)
    async with running(first):
        await ready(first)
        token, other = mint_session(first), mint_session(first)
        await first.revoke_session(node_of(first).validator.validate(token.encode()).claims.family)  # type: ignore[union-attr]
    second = node(cluster)
    async with running(second):
        assert judged(second, token) in ("node_starting", "session_revoked")
        assert judged(second, other) == "node_starting"
        await ready(second)
        assert (judged(second, token), judged(second, other)) == ("session_revoked", "ok")


async def test_an_orderly_end_is_announced_and_no_log_out_waits_for_that_process(one_etcd: Etcd, cluster: str) -> None:
    a, b = node(cluster), node(cluster)
    async with running(a):
        async with running(b):
            await ready(a, b)
            assert len(keys(one_etcd, cluster, "node/")) == 2
        assert node_of(b).view.fresh_at == -float("inf")
        assert len(keys(one_etcd, cluster, "node/")) == 1
        await eventually(lambda: not node_of(a).log.members())
        assert (await a.revoke_subject("ada")).waited_s < FENCE_WAIT_S / 2
        async with running(b):  # and it may come back
            await ready(a, b)
            assert (await a.revoke_subject("ada")).waited_s < FENCE_WAIT_S / 2


@on_asyncio
async def test_a_process_that_dies_costs_its_wait_once(cluster: str) -> None:
    a, b, c = (node(cluster) for _ in range(3))
    async with running(a, c):
        async with cut_off(b):
            await ready(a, b, c)
        waited_s = [(await a.revoke_subject("ada")).waited_s for _ in range(3)]
        assert FENCE_WAIT_S / 2 < waited_s[0] < LIMIT_S  # less than a fence after its last word, which was a moment ago on an idle machine
        assert min(waited_s[1:]) < FENCE_WAIT_S / 2


@asynccontextmanager
async def cut_off(manager: SessionManager) -> AsyncIterator[None]:
    """Runs it, and ends it as a power cut would: without a last word."""
    log = log_of(manager)
    log._leave = anyio.lowlevel.checkpoint  # type: ignore[method-assign]
    async with running(manager):
        yield


@pytest.fixture
def _time_for_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ha_session_mw._node.resolving.IN_FLIGHT_S", LIMIT_S)


@pytest.mark.usefixtures("_time_for_news")
async def test_a_token_that_knows_a_cut_is_waited_for_and_an_index_reached(cluster: str) -> None:
    a, b = node(cluster), node(cluster)
    async with running(a, b):
        await ready(a, b)
        await a.revoke_subject("ada")
        index = node_of(a).log.index()
        assert index is not None
        await node_of(b).resolver.catch_up(index)
        assert judged(b, mint_session(a, "ada")) == "ok"


@pytest.mark.usefixtures("_time_for_news")
async def test_news_that_are_on_their_way_are_waited_for_without_anybody_to_ask(cluster: str) -> None:
    a, b = node(cluster), node(cluster)
    async with running(a, b):
        await ready(a, b)
        end_ms = node_of(a).log.unknown_end_ms()
        node_of(a).log.apply([Cut(new_cut_id("cut", end_ms), "ada", end_ms)])
        token = mint_session(a, "ada").encode()
        undecided = node_of(b).validator.validate(token)
        assert isinstance(undecided, CannotTell)
        assert undecided.problem.code == "state_not_reached"
        assert (await node_of(b).resolver.resolve(token, undecided)).claims.subject == "ada"


async def test_workers_that_were_forked_are_members_of_their_own(cluster: str) -> None:
    """As after ``gunicorn --preload``: the app was made before the fork."""
    a, b = node(cluster, node_id="web"), node(cluster, node_id="web")
    before = (b.node_id, log_of(b).ordered.slot)
    node_of(b).after_fork(in_child=True)
    async with running(a, b):
        assert b.node_id != before[0]
        assert log_of(b).ordered.slot not in (before[1], log_of(a).ordered.slot)
        await ready(a, b)
        assert {member.member for member in node_of(a).log.members()} == {b.node_id}


async def test_members_are_asked_at_the_url_they_announce_and_those_without_one_are_not(cluster: str) -> None:
    urls = ("http://a:1", "http://b:1", None, "http://a:1")
    nodes = [node(cluster, advertise_url=url) for url in urls]
    async with running(*nodes):
        await ready(*nodes)
        token = mint_session(nodes[1]).encode()
        await eventually(lambda: node_of(nodes[0]).resolver._whom_to_ask(token, StateRollback()) == ["http://b:1"])


# Writing.


@pytest.mark.parametrize("length", [30_000, 300_000], ids=["for etcd", "for anybody"])
async def test_one_entry_that_is_too_long_fails_no_other_and_only_its_caller_gets_an_error(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    patient(monkeypatch)

    async def append(log: EtcdLog, entry: Deny) -> None:
        try:
            await log.append([entry])
        except EntryRejected:
            told.append(entry.id)

    with etcd(1, "--max-request-bytes", "20000") as server:
        a, b = node(server.cluster()), node(server.cluster())
        async with running(a, b):
            await ready(a, b)
            end_ms = int(a.clock.wall_s() * 1000) + 3_600_000
            good = [Deny(f"good{number}", end_ms) for number in range(60)]
            bad = Deny("x" * length, end_ms)
            async with anyio.create_task_group() as tasks:
                for entry in [*good[:30], bad, *good[30:]]:
                    tasks.start_soon(append, log_of(a), entry)
            assert told == [bad.id]
            assert node_of(a).view.knows(bad)
            await eventually(lambda: all(node_of(b).view.knows(entry) for entry in good))
            assert not node_of(b).view.knows(bad)


async def test_a_job_of_many_goes_through_and_a_single_log_out_goes_ahead_of_it(cluster: str) -> None:
    a, b = node(cluster), node(cluster)
    end_ms = int(a.clock.wall_s() * 1000) + 3_600_000
    done: list[str] = []

    async def append(name: str, count: int) -> None:
        await node_of(a).log.append([Deny(f"{name}{number}", end_ms) for number in range(count)])
        done.append(name)

    async with running(a, b):
        await ready(a, b)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(append, "job", 5_000)
            await anyio.sleep(0.02)
            tasks.start_soon(append, "single", 1)
        assert done == ["single", "job"]
        await eventually(lambda: len(node_of(b).view) == 5_001)
        assert log_of(a).ordered.rolled_back is None
        assert a.why_not_ready() is None


async def test_ended_entries_are_deleted_with_the_floor_and_a_floor_never_falls(one_etcd: Etcd, cluster: str) -> None:
    def floor() -> int:
        return int(one_etcd.ctl("get", "--print-value-only", f"{prefix_of(cluster)}/log/floor"))

    clock = Clock()
    a = node(cluster, clock=clock, absolute_timeout="1h")
    async with running(a):
        await ready(a)
        await node_of(a).log.append([Deny(f"soon{number}", int(clock.wall_s() * 1000) + 60_000) for number in range(2_500)])
        await node_of(a).log.append([Deny("late", int(clock.wall_s() * 1000) + 3_600_000)])
        clock.ahead_s = 300
        await eventually(lambda: len(keys(one_etcd, cluster, "deny/")) == 1)
        await eventually(lambda: floor() == node_of(a).view.floor_ms > 0)  # at each full minute the view is ahead for a moment
    clock.ahead_s = 0
    b = node(cluster, clock=clock)
    async with running(b):
        await ready(b)
        assert node_of(b).view.floor_ms == floor()
        assert [*node_of(b).view.denied] == ["late"]


# Faults.


@on_asyncio
async def test_without_etcd_the_start_completes_at_once_and_the_node_serves_when_it_is_there() -> None:
    with etcd() as server:
        [member] = server.members
        member.kill()
        a = node(server.cluster())
        token = mint_session(node("memory://"), "ada")
        begun_s = anyio.current_time()
        async with running(a):
            assert anyio.current_time() - begun_s < 5  # an attempt to connect is not waited for; a busy machine may be slow
            await eventually(lambda: a.why_not_ready() == "etcd cannot be reached (ConnectError)")
            assert judged(a, token) == "node_starting"
            with pytest.raises(QuorumLost):
                await a.revoke_subject("ada")
            server.start()
            await ready(a)
            assert judged(a, mint_session(a)) == "ok"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("guessed")
    return file


@on_trio
async def test_a_wrong_password_is_reported_and_its_correction_noticed(password_file: Path) -> None:
    with etcd() as server:
        server.require_users("the password")
        a = node(server.cluster(), cluster_user="root", cluster_password_file=password_file)
        nobody = node(server.cluster())
        async with running(a, nobody):
            await eventually(lambda: a.why_not_ready() == "etcd does not accept HA_SESSION_CLUSTER_USER with HA_SESSION_CLUSTER_PASSWORD")
            await eventually(lambda: "asks for a user" in str(nobody.why_not_ready()))
            assert judged(a, mint_session(node("memory://"))) == "node_starting"
            await anyio.Path(password_file).write_text("the password")
            await ready(a)
            assert (await a.revoke_subject("ada")).mode == "fenced"


# httpcore2 2.16 does not close a connection whose TLS handshake is cancelled: its `start_tls` closes on `Exception` only. A node that
# ends during one, or gives it up after TRY_S, leaves the connection to the garbage collector, on asyncio and trio alike.
UNCLOSED = r"Exception ignored in. <(socket\.socket|function _SelectorTransport)"


@pytest.fixture
def garbage() -> Iterator[None]:
    """Collects it when the test is over, lest the next one be blamed for it."""
    yield
    gc.collect()


@on_asyncio
@pytest.mark.usefixtures("garbage")
@pytest.mark.filterwarnings(f"ignore:{UNCLOSED}:pytest.PytestUnraisableExceptionWarning")
async def test_over_tls_with_certificates_and_a_user() -> None:
    with etcd(1, "--client-cert-auth", tls=True) as server:
        server.require_users("the password")
        tls = server.certificates
        assert tls is not None
        files: dict[str, Any] = {"cluster_ca_file": tls.ca, "cluster_cert_file": tls.cert, "cluster_key_file": tls.key}
        a = node(server.cluster("shop"), **files, cluster_user="root", cluster_password="the password")
        stranger = node(server.cluster("shop"), cluster_ca_file=tls.ca)
        async with running(a, stranger):
            await ready(a)
            assert (await a.revoke_subject("ada")).mode == "fenced"
            await eventually(lambda: "cannot be reached" in str(stranger.why_not_ready()))


@on_trio
async def test_another_service_at_the_endpoint_is_reported() -> None:
    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            page = b"<html>It works!</html>"
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(page)
            await stream.send(head + page)

    async def forgiving(stream: anyio.abc.SocketStream) -> None:
        try:
            await answer(stream)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, forgiving)
        a = node(f"etcd://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}")
        async with running(a):
            await eventually(lambda: "is not what answers at an endpoint of HA_SESSION_CLUSTER" in str(a.why_not_ready()))
        tasks.cancel_scope.cancel()


async def test_a_dead_endpoint_among_several_does_no_harm(one_etcd: Etcd, cluster: str) -> None:
    several = cluster.replace("etcd://", "etcd://127.0.0.1:9,")
    a, b = node(several), node(several)
    async with running(a, b):
        await ready(a, b)
        assert (await a.revoke_subject("ada")).waited_s < FENCE_WAIT_S


@on_asyncio
async def test_history_that_was_compacted_while_a_node_was_away_is_loaded_anew(caplog: pytest.LogCaptureFixture) -> None:
    with etcd() as server, Proxy(server.members[0].client_port) as way:
        a, b = node(server.cluster()), node(f"etcd://127.0.0.1:{way.ports[0]}")
        async with running(a, b):
            await ready(a, b)
            token = mint_session(b, "ada")
            way.stall()
            assert (await a.revoke_subject("ada")).mode == "fenced"
            await eventually(lambda: judged(b, token) == "state_stale" and "following" in log_of(b).trouble)
            server.post("/v3/kv/compaction", {"revision": server.revision()})
            way.mend()
            await ready(a, b)
            assert judged(b, token) == "session_revoked"
            assert "etcd has compacted what this node has not read yet" in caplog.text


@on_trio
async def test_a_full_etcd_refuses_log_outs_alone_and_they_are_written_when_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    with etcd(1, "--quota-backend-bytes", "400000") as server:
        nodes = a, b, _ = [node(server.cluster()) for _ in range(3)]
        async with running(*nodes):
            await ready(*nodes)
            token, other = mint_session(b, "ada"), mint_session(b, "bob")
            await eventually(lambda: "space exceeded" in str(server.post("/v3/kv/put", {"key": "eA==", "value": "x" * 80_000})))
            await eventually(lambda: all("taking beats" in log_of(one).trouble for one in nodes))
            with pytest.raises(QuorumLost, match="no space left"):
                await a.revoke_subject("ada")
            full_s = anyio.current_time()
            while anyio.current_time() < full_s + 1.5 * FRESHNESS_LIMIT_S:  # longer than any lease, and than a watch may be silent
                assert [judged(one, other) for one in nodes] == ["ok"] * 3
                assert [judged(one, token) for one in nodes] == ["session_revoked", "ok", "ok"]
                await anyio.sleep(0.02)
            assert [one.why_not_ready() for one in nodes] == [None] * 3
            assert judged(a, mint_session(b, "cleo")) == "ok"
            server.post("/v3/kv/compaction", {"revision": server.revision(), "physical": True})
            server.ctl("defrag")
            assert [judged(one, other) for one in nodes] == ["ok"] * 3
            server.ctl("alarm", "disarm")
            await eventually(lambda: all(judged(one, token) == "session_revoked" for one in nodes))
            await ready(*nodes)
            assert (await b.revoke_subject("bob")).mode == "fenced"
        assert "has fallen silent" not in caplog.text


@on_asyncio
async def test_a_full_etcd_in_which_others_delete_is_read_all_the_same() -> None:
    with etcd(1, "--quota-backend-bytes", "400000") as server:
        a, b = node(server.cluster()), node(server.cluster())
        for number in range(100):
            store(server, f"other/{number:02}", b"x")
        async with running(a, b):
            await ready(a, b)
            token = mint_session(b, "ada")
            await eventually(lambda: "space exceeded" in str(server.post("/v3/kv/put", {"key": "eA==", "value": "x" * 80_000})))
            await eventually(lambda: log_of(a).ordered.stands_still and log_of(b).ordered.stands_still)
            for number in range(100):
                remove(server, f"other/{number:02}")
                assert [judged(one, token) for one in (a, b)] == ["ok"] * 2
                await anyio.sleep(1.5 * FRESHNESS_LIMIT_S / 100)
            server.post("/v3/kv/compaction", {"revision": server.revision()})  # beyond what either node has applied
            for _ in range(40):
                assert [judged(one, token) for one in (a, b)] == ["ok"] * 2
                await anyio.sleep(0.1)


@pytest.fixture
def own() -> Iterator[Etcd]:
    with etcd() as server:
        yield server


def restore(server: Etcd, snapshot: Path | None) -> None:
    """Put an older state in the place of the newer one; none at all where there is no snapshot."""
    [member] = server.members
    member.kill()
    shutil.rmtree(member.data)
    if snapshot is not None:
        command = ["etcdctl", "snapshot", "restore", str(snapshot), "--name", member.name, "--data-dir", str(member.data)]
        command += ["--initial-cluster", f"{member.name}={member.peer_url}", "--initial-advertise-peer-urls", member.peer_url]
        subprocess.run(command, env={"ETCDCTL_API": "3"}, check=True, capture_output=True, timeout=LIMIT_S)
    server.start()


async def test_an_etcd_that_comes_back_empty_is_a_rollback(own: Etcd) -> None:
    a = node(own.cluster())
    async with running(a):
        await ready(a)
        token, stays = mint_session(a, "ada"), mint_session(a)
        await a.revoke_subject("ada")
        restore(own, None)
        await eventually(lambda: judged(a, stays) == "state_rollback")
        assert judged(a, token) == "session_revoked"
        assert "the log in etcd is older than what this node has applied" in str(a.why_not_ready())
        with pytest.raises(QuorumLost, match="set back"):
            await a.revoke_subject("bob")
        with pytest.raises(StateRollback):
            node_of(a).validator.ensure_fresh()


async def test_an_older_backup_is_a_rollback_even_when_it_has_grown_beyond(own: Etcd, tmp_path: Path) -> None:
    with Proxy(own.members[0].client_port) as way:
        a = node(f"etcd://127.0.0.1:{way.ports[0]}")
        async with running(a):
            await ready(a)
            stays = mint_session(a)
            own.ctl("snapshot", "save", str(tmp_path / "backup"))
            await a.revoke_subject("ada")
            way.stall()
            await anyio.sleep(0.1)
            position = log_of(a).ordered.position
            restore(own, tmp_path / "backup")
            for _ in range(position):
                own.post("/v3/kv/put", {"key": "eA==", "value": "eA=="})
            assert own.revision() > position
            way.mend()
            await eventually(lambda: judged(a, stays) == "state_rollback")
            assert log_of(a).ordered.rolled_back == "entries"


@on_trio
async def test_after_a_rollback_that_was_accepted_nodes_that_start_go_on_and_tell_it_until_everybody_is_logged_out(
    own: Etcd, tmp_path: Path
) -> None:
    a = node(own.cluster("shop"), state_dir=tmp_path)
    async with running(a):
        await ready(a)
        own.ctl("snapshot", "save", str(tmp_path / "backup"))
        await a.revoke_subject("ada")
        knows = mint_session(a, "ada")
        restore(own, tmp_path / "backup")
        await eventually(lambda: judged(a, knows) == "state_rollback")
    remove(own, "shop/log/id")
    b = node(own.cluster("shop"), state_dir=tmp_path)
    async with running(b):
        await ready(b)
        assert judged(b, mint_session(b, "ada")) == "ok"
        assert "the log in etcd is older than an earlier process knew it" in str(log_of(b).exposure())
        await b.revoke_everybody()
        assert log_of(b).exposure() is None
    c = node(own.cluster("shop"), state_dir=tmp_path)
    async with running(c):
        await ready(c)
        assert log_of(c).exposure() is None


async def test_an_entry_of_an_unknown_version_is_refused_loudly_and_not_skipped(one_etcd: Etcd, cluster: str) -> None:
    a = node(cluster)
    key = f"{prefix_of(cluster)}/deny/{int(a.clock.wall_s() / 60) + 60:010x}/later"
    async with running(a):
        await ready(a)
        token = mint_session(a)
        store(one_etcd, key, b"\x92\x02\x90")
        await eventually(lambda: judged(a, token) == "state_stale")
        assert re.search(r"holds a key \(deny, \d+ bytes long, of mod revision \d+\) of an unknown version 2", str(a.why_not_ready()))
        b = node(cluster)
        async with running(b):
            await eventually(lambda: "unknown version 2" in str(b.why_not_ready()))
            assert judged(b, token) == "node_starting"
            remove(one_etcd, key)
            await ready(a, b)
            assert (judged(a, token), judged(b, token)) == ("ok", "ok")


async def test_keys_of_others_below_the_prefix_are_no_concern_of_the_log_but_those_in_its_place_are(one_etcd: Etcd, cluster: str) -> None:
    a = node(cluster)
    async with running(a):
        await ready(a)
        store(one_etcd, f"{prefix_of(cluster)}/lock/x", b"\x00")
        remove(one_etcd, f"{prefix_of(cluster)}/lock/x")
        token = mint_session(a)
        assert (await a.revoke_subject("ada")).mode == "fenced"
        store(one_etcd, f"{prefix_of(cluster)}/deny/junk", b"junk")
        await eventually(lambda: "somebody else writes below the prefix" in str(a.why_not_ready()))
        assert judged(a, token) == "state_stale"
        remove(one_etcd, f"{prefix_of(cluster)}/deny/junk")
        await ready(a)


async def test_log_outs_that_were_deleted_by_hand_are_written_again_so_that_nodes_that_start_know_them(
    one_etcd: Etcd, cluster: str, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = node(cluster), node(cluster)
    async with running(a, b):
        await ready(a, b)
        tokens = [mint_session(a), mint_session(a, "ada"), mint_session(a, "eve")]
        await a.revoke_session(node_of(a).validator.validate(tokens[0].encode()).claims.family)  # type: ignore[union-attr]
        for subject in ("ada", "eve"):
            await a.revoke_subject(subject)
        entries = [f"{prefix_of(cluster)}/{kind}/" for kind in ("deny", "cut")]
        kept = [one_etcd.ctl("get", "--prefix", "--keys-only", start) for start in entries]
        for start in entries:
            one_etcd.ctl("del", "--prefix", start)
        await eventually(lambda: [one_etcd.ctl("get", "--prefix", "--keys-only", start) for start in entries] == kept)
        assert "somebody has deleted or overwritten 3 log-outs in etcd that have not ended" in caplog.text
    c = node(cluster)
    async with running(c):
        await ready(c)
        assert [judged(c, token) for token in tokens] == ["session_revoked"] * 3


async def test_a_log_out_that_was_overwritten_by_hand_is_written_again(one_etcd: Etcd, cluster: str) -> None:
    a = node(cluster)
    async with running(a):
        await ready(a)
        token = mint_session(a)
        await a.revoke_session(node_of(a).validator.validate(token.encode()).claims.family)  # type: ignore[union-attr]
        key = one_etcd.ctl("get", "--prefix", "--keys-only", f"{prefix_of(cluster)}/deny/").strip()
        for is_deleted in (False, False, True):
            one_etcd.ctl("put", key, "garbage")
            if is_deleted:  # as the message about an unreadable key advises
                one_etcd.ctl("del", key)
            await eventually(lambda: '"kvs"' in (found := one_etcd.ctl("get", key, "-w", "json")) and GARBAGE not in found)
            await ready(a)
    b = node(cluster)
    async with running(b):
        await ready(b)
        assert judged(b, token) == "session_revoked"


# Members of etcd that fail.


@on_asyncio
async def test_a_killed_leader_delays_log_outs_and_nothing_else() -> None:
    with etcd(3) as server:
        nodes = [node(server.cluster(), freshness_limit="30s") for _ in range(3)]
        async with running(*nodes):
            await ready(*nodes)
            stays = mint_session(nodes[0])
            token = mint_session(nodes[0], "ada")
            server.leader().kill()
            acknowledged = await nodes[1].revoke_subject("ada")
            assert acknowledged.mode == "fenced"
            assert [judged(one, token) for one in nodes] == ["session_revoked"] * 3
            assert [judged(one, stays) for one in nodes] == ["ok"] * 3


@on_trio
async def test_a_frozen_member_of_etcd_is_left_for_another() -> None:
    with etcd(3) as server:
        nodes = [node(server.cluster(), freshness_limit="30s") for _ in range(3)]
        async with running(*nodes):
            await ready(*nodes)
            stays = mint_session(nodes[0])
            for member in server.members:
                member.freeze()
                token = mint_session(nodes[0], "ada")
                for one in nodes:
                    assert (await one.revoke_subject("ada")).mode == "fenced"
                assert {judged(one, token) for one in nodes} == {"session_revoked"}
                member.thaw()
                assert {judged(one, stays) for one in nodes} == {"ok"}
                await ready(*nodes)


@on_asyncio
async def test_probes_metrics_and_status_wait_for_nothing_while_etcd_stands_still() -> None:
    """They answer within 100 ms on a machine that is not busy. The least of several tries says what they wait for."""
    with etcd() as server:
        [member] = server.members
        one = node(server.cluster(), metrics="on")
        app = SessionMiddleware(who_is_there, manager=one)
        transport = httpx2.ASGITransport(app=app)
        async with running(one), httpx2.AsyncClient(transport=transport, base_url="http://node") as client:
            await ready(one)
            member.freeze()
            try:
                await eventually(lambda: one.why_not_ready() is not None)
                for path in ("livez", "readyz", "startupz", "health", "metrics"):
                    assert await _fastest(lambda path=path: client.get(f"/-/session/{path}")) < 0.1, path  # type: ignore[misc]
                assert await _fastest(one.status) < 0.1
                assert await _fastest(lambda: ask(Wiretap(app), STATUS, Nothing())) < 0.1
            finally:
                member.thaw()


async def _fastest(ask: Callable[[], Awaitable[object]]) -> float:
    took_s = []
    for _ in range(10):
        begun_s = anyio.current_time()
        await ask()
        took_s.append(anyio.current_time() - begun_s)
    return min(took_s)


class DeafAtFirst(EtcdGateway):
    """The first watch is at a member that stands still."""

    watched = 0

    async def watch(self, *args: Any, **kwargs: Any) -> None:
        self.watched += 1
        if self.watched == 1:
            await anyio.sleep_forever()
        await super().watch(*args, **kwargs)


async def test_a_watch_that_omits_writes_is_replaced_by_another(cluster: str, caplog: pytest.LogCaptureFixture) -> None:
    a = node(cluster)
    log_of(a)._gateway.__class__ = DeafAtFirst
    async with running(a):
        await ready(a)
        assert (await a.revoke_subject("ada")).mode == "fenced"
        assert log_of(a)._gateway.watched == 2  # type: ignore[attr-defined]
        assert log_of(a)._gateway._watch_turn == 1
        assert "etcd has fallen behind (following)" in caplog.text


class SlowToDeliver(EtcdGateway):
    """A watch whose next change is so large that etcd needs some time for it."""

    async def watch(self, *args: Any, **kwargs: Any) -> None:
        await anyio.sleep(1.5)
        await super().watch(*args, **kwargs)


@on_asyncio
async def test_a_change_that_takes_longer_than_any_before_is_waited_for_in_the_end(cluster: str) -> None:
    a = node(cluster)
    log_of(a)._gateway.__class__ = SlowToDeliver
    async with running(a):
        await ready(a)


@on_asyncio
async def test_a_lost_quorum_makes_nodes_stale_and_healed_they_go_on_with_nothing_lost(tmp_path: Path) -> None:
    with etcd(3) as server:
        a, b = node(server.cluster(), state_dir=tmp_path), node(server.cluster())
        async with running(a, b):
            await ready(a, b)
            stays, ada, bob = mint_session(a), mint_session(a, "ada"), mint_session(a, "bob")
            for member in server.members[1:]:
                member.kill()
            acknowledged = await a.revoke_subject("ada")
            assert acknowledged.mode == "provisional"
            with pytest.raises(QuorumLost):
                await b.revoke_subject("bob")
            await eventually(lambda: judged(a, stays) == judged(b, stays) == "state_stale")
            assert (judged(a, ada), judged(b, bob)) == ("session_revoked", "session_revoked")
            server.start()
            await ready(a, b)
            assert judged(a, stays) == judged(b, stays) == "ok"
            await eventually(lambda: (judged(b, ada), judged(a, bob)) == ("session_revoked", "session_revoked"))


async def test_a_node_that_is_cut_off_judges_nothing_after_the_limit_and_learns_before_it_judges_again(
    cluster: str, one_etcd: Etcd
) -> None:
    with Proxy(one_etcd.members[0].client_port) as way:
        a, b = node(cluster), node(f"etcd://127.0.0.1:{way.ports[0]}/{prefix_of(cluster)}")
        async with running(a, b):
            await ready(a, b)
            token, stays = mint_session(a, "ada"), mint_session(a)
            way.stall()
            acknowledged = await a.revoke_subject("ada")
            assert acknowledged.mode == "fenced"
            assert judged(b, token) == "state_stale"
            way.mend()
            answers: list[str] = []

            def asked() -> bool:
                answers.append(judged(b, token))
                return judged(b, stays) == "ok"

            await eventually(asked)
            assert set(answers) <= {"state_stale", "session_revoked"}


async def test_a_node_ends_in_bounded_time_though_etcd_does_not_answer(cluster: str, one_etcd: Etcd) -> None:
    with Proxy(one_etcd.members[0].client_port) as way:
        a = node(f"etcd://127.0.0.1:{way.ports[0]}/{prefix_of(cluster)}")
        with anyio.fail_after(LIMIT_S):
            async with running(a):
                await ready(a)
                token = mint_session(a)
                way.stall()
                await eventually(lambda: judged(a, token) == "state_stale")
