"""The client of etcd's JSON gateway: against real servers, and against servers that only a test can have."""

from __future__ import annotations

import math
import secrets
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

import anyio
import httpx2
import pytest

from ha_session_mw.backends.etcd.api import (
    EtcdCompacted,
    EtcdError,
    EtcdForeign,
    EtcdFull,
    EtcdRefused,
    EtcdRejected,
    EtcdUnavailable,
    Event,
    Watched,
    delete,
    end_of,
    put,
    put_if_absent,
    unchanged_since,
)
from ha_session_mw.backends.etcd.authentication import REFUSED_S
from ha_session_mw.backends.etcd.bodies import SILENCE_S
from ha_session_mw.backends.etcd.gateway import CALL_S, TRY_S, EtcdGateway
from ha_session_mw.backends.etcd.tries import ROUND_PAUSE_S
from ha_session_mw.backends.etcd.writer import BATCH
from ha_session_mw.clocks import SystemClock
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

from ...engines import Etcd, etcd
from ...waiting import LIMIT_S, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]
real = pytest.mark.real
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])
"""Tests that take seconds run on one event loop only."""


@pytest.fixture
def prefix() -> bytes:
    """Return the prefix that belongs to this test alone."""
    return f"{secrets.token_hex(6)}/".encode()


@pytest.fixture(autouse=True)
def _time_to_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ha_session_mw.backends.etcd.gateway.LOG_IN_S", LIMIT_S)  # etcd hashes passwords slowly, and a busy machine more so


@asynccontextmanager
async def opened(gateway: EtcdGateway) -> AsyncIterator[EtcdGateway]:
    async with gateway.opened():
        yield gateway


def gateway_to(server: Etcd, *, tls: ssl.SSLContext | None = None, user: str | None = None, password: str = "") -> EtcdGateway:
    return EtcdGateway(server.endpoints, SystemClock(), tls=tls, user=user, password=lambda: password)


async def load(gateway: EtcdGateway, prefix: bytes) -> dict[bytes, bytes]:
    page = await gateway.page(prefix, end_of(prefix))
    return {pair.key.removeprefix(prefix): pair.value for pair in page.kvs}


class Watching:
    """Follows a prefix from a revision on, and keeps the events that it receives."""

    def __init__(self, gateway: EtcdGateway, prefix: bytes, revision: int) -> None:
        self._gateway = gateway
        self._prefix = prefix
        self.revision = revision
        self.events: list[Event] = []
        self.ended: list[EtcdError] = []
        self.created = anyio.Event()

    def _take(self, message: Watched) -> None:
        self.events += message.events
        if message.events:
            self.revision = message.events[-1].kv.mod_revision + 1
        self.created.set()

    async def once(self) -> None:
        try:
            await self._gateway.watch(self._prefix, end_of(self._prefix), self.revision, self._take)
        except EtcdError as exc:
            self.ended.append(exc)

    async def for_ever(self) -> None:
        while True:
            await self.once()
            await anyio.sleep(0.01)


# Against a real etcd.


@real
async def test_a_written_key_is_read_back_with_its_revision(one_etcd: Etcd, prefix: bytes) -> None:
    async with opened(gateway_to(one_etcd)) as gateway:
        done = await gateway.transact([put(prefix + b"a", b"\x00\xff"), put(prefix + b"b", b"")])
        page = await gateway.page(prefix, end_of(prefix))
        assert [(pair.key, pair.value, pair.mod_revision) for pair in page.kvs] == [
            (prefix + b"a", b"\x00\xff", done.header.revision),
            (prefix + b"b", b"", done.header.revision),
        ]
        assert page.header.revision >= done.header.revision > 1


@real
async def test_a_transaction_takes_the_one_branch_or_the_other(one_etcd: Etcd, prefix: bytes) -> None:
    async with opened(gateway_to(one_etcd)) as gateway:
        key = prefix + b"k"
        first = await gateway.transact([put(key, b"1")], compare=[unchanged_since(key, 0)])
        late = await gateway.transact([put(key, b"2")], compare=[unchanged_since(key, 0)], failure=[put(prefix + b"late", b"")])
        third = await gateway.transact([put(key, b"3")], compare=[unchanged_since(key, first.header.revision)])
        assert (first.succeeded, late.succeeded, third.succeeded) == (True, False, True)
        assert await load(gateway, prefix) == {b"k": b"3", b"late": b""}


@real
async def test_a_value_that_gives_way_sets_a_missing_key_and_writes_an_existing_one_once_more(one_etcd: Etcd, prefix: bytes) -> None:
    async with opened(gateway_to(one_etcd)) as gateway:
        await gateway.transact([put(prefix + b"there", b"log-out")])
        done = await gateway.transact([put_if_absent(prefix + name, b"replaced") for name in (b"there", b"missing")])
        page = await gateway.page(prefix, end_of(prefix))
        assert [(pair.key.removeprefix(prefix), pair.value) for pair in page.kvs] == [(b"missing", b"replaced"), (b"there", b"log-out")]
        assert {pair.mod_revision for pair in page.kvs} == {done.header.revision}


@real
async def test_a_full_batch_may_consist_of_values_that_give_way(one_etcd: Etcd, prefix: bytes) -> None:
    async with opened(gateway_to(one_etcd)) as gateway:
        done = await gateway.transact([put_if_absent(prefix + b"%d" % number, b"") for number in range(BATCH)])
        assert done.succeeded
        assert len(await load(gateway, prefix)) == BATCH


@real
async def test_a_range_is_deleted_together_with_a_put(one_etcd: Etcd, prefix: bytes) -> None:
    async with opened(gateway_to(one_etcd)) as gateway:
        await gateway.transact([put(prefix + name, b"") for name in (b"1", b"2", b"3")])
        await gateway.transact([delete(prefix + b"1", prefix + b"3"), put(prefix + b"floor", b"3")])
        assert await load(gateway, prefix) == {b"3": b"", b"floor": b"3"}
        await gateway.transact([delete(prefix + b"3")])
        assert await load(gateway, prefix) == {b"floor": b"3"}


@real
async def test_pages_are_of_one_revision(one_etcd: Etcd, prefix: bytes) -> None:
    async with opened(gateway_to(one_etcd)) as gateway:
        await gateway.transact([put(prefix + b"%02d" % number, b"old") for number in range(5)])
        first = await gateway.page(prefix, end_of(prefix), limit=3)
        await gateway.transact([put(prefix + b"%02d" % number, b"new") for number in range(5)])
        second = await gateway.page(first.kvs[-1].key + b"\0", end_of(prefix), revision=first.header.revision, limit=3)
        assert (len(first.kvs), first.more, len(second.kvs), second.more) == (3, True, 2, False)
        assert {pair.value for pair in first.kvs + second.kvs} == {b"old"}


@real
async def test_a_watch_tells_of_each_change_in_order_from_its_revision_on(one_etcd: Etcd, prefix: bytes) -> None:
    async with opened(gateway_to(one_etcd)) as gateway, anyio.create_task_group() as tasks:
        before = await gateway.transact([put(prefix + b"a", b"1")])
        watching = Watching(gateway, prefix, before.header.revision)
        tasks.start_soon(watching.for_ever)
        await eventually(watching.created.is_set)
        await gateway.transact([put(prefix + b"b", b"2"), put(prefix + b"c", b"3")])
        await gateway.transact([delete(prefix + b"a")])
        await eventually(lambda: len(watching.events) == 4)
        told = [(event.kv.key.removeprefix(prefix), event.kv.value, event.is_deletion) for event in watching.events]
        assert told == [(b"a", b"1", False), (b"b", b"2", False), (b"c", b"3", False), (b"a", b"", True)]
        tasks.cancel_scope.cancel()


@real
async def test_long_messages_of_a_watch_arrive_whole(one_etcd: Etcd, prefix: bytes) -> None:
    async with opened(gateway_to(one_etcd)) as gateway, anyio.create_task_group() as tasks:
        before = await gateway.transact([put(prefix + b"a", b"")])
        for letter, quarter in product(b"xyz", range(4)):
            await gateway.transact([put(prefix + b"%d" % number, bytes([letter]) * 10_000) for number in range(quarter, 100, 4)])
        watching = Watching(gateway, prefix, before.header.revision + 1)
        tasks.start_soon(watching.for_ever)
        await eventually(lambda: len(watching.events) == 300)
        assert {len(event.kv.value) for event in watching.events} == {10_000}
        tasks.cancel_scope.cancel()


@real
@on_trio
async def test_a_watch_on_which_nothing_happens_is_given_up(one_etcd: Etcd, prefix: bytes) -> None:
    async with opened(gateway_to(one_etcd)) as gateway:
        watching = Watching(gateway, prefix, 1)
        begun_s = anyio.current_time()
        await watching.once()
        [ended] = watching.ended
        assert isinstance(ended, EtcdUnavailable)
        assert str(ended) == "has fallen silent"
        assert anyio.current_time() - begun_s >= SILENCE_S


@real
async def test_compacted_history_is_reported_as_such(prefix: bytes) -> None:
    with etcd() as server:
        async with opened(gateway_to(server)) as gateway:
            for _ in range(3):
                done = await gateway.transact([put(prefix + b"a", b"")])
            server.post("/v3/kv/compaction", {"revision": done.header.revision})
            watching = Watching(gateway, prefix, done.header.revision - 1)
            await watching.once()
            assert isinstance(watching.ended[0], EtcdCompacted)
            with pytest.raises(EtcdCompacted):
                await gateway.page(prefix, end_of(prefix), revision=done.header.revision - 1)


@real
async def test_an_impossible_request_is_rejected_and_not_tried_again(
    one_etcd: Etcd, prefix: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[str] = []

    async def counted(self: EtcdGateway, endpoint: str, path: str, *args: Any) -> Any:
        try:
            return await post(self, endpoint, path, *args)
        except EtcdRejected:  # the answer to a long request may be lost: etcd hangs up before it has read all of it
            posted.append(path)
            raise

    post = EtcdGateway._post
    monkeypatch.setattr(EtcdGateway, "_post", counted)
    monkeypatch.setattr("ha_session_mw.backends.etcd.gateway.TRY_S", LIMIT_S)  # a busy machine needs its time for so much content
    monkeypatch.setattr("ha_session_mw.backends.etcd.gateway.CALL_S", LIMIT_S)
    async with opened(gateway_to(one_etcd)) as gateway:
        for operations in ([put(prefix + b"k", b"")] * 2, [put(prefix + b"k", b"x" * 1_600_000)], [put(prefix + b"k", b"x" * 2_200_000)]):
            posted.clear()
            with pytest.raises(EtcdRejected):
                await gateway.transact(operations)
            assert len(posted) == 1
        assert await load(gateway, prefix) == {}


@real
async def test_a_full_etcd_says_so_at_once(prefix: bytes) -> None:
    with etcd(1, "--quota-backend-bytes", "200000") as server:
        async with opened(gateway_to(server)) as gateway:

            async def fill() -> None:
                for number in range(100):
                    await gateway.transact([put(prefix + b"%d" % number, b"x" * 20_000)])

            with pytest.raises(EtcdFull, match="has no space left"):
                await fill()
            await gateway.page(prefix, end_of(prefix))


@real
async def test_a_lease_is_granted_kept_and_ended(one_etcd: Etcd, prefix: bytes) -> None:
    async with opened(gateway_to(one_etcd)) as gateway:
        lease = await gateway.grant_lease(60)
        assert lease.ttl_s == 60
        await gateway.transact([put(prefix + b"leased", b"", lease=lease.id)])
        assert await gateway.keep_lease(lease.id)
        await gateway.revoke_lease(lease.id)
        assert await load(gateway, prefix) == {}
        assert not await gateway.keep_lease(lease.id)
        await gateway.revoke_lease(lease.id)


@real
async def test_another_endpoint_is_asked_where_one_is_dead(one_etcd: Etcd, prefix: bytes) -> None:
    gateway = EtcdGateway(["http://127.0.0.1:9", *one_etcd.endpoints], SystemClock())
    async with opened(gateway), anyio.create_task_group() as tasks:
        done = await gateway.transact([put(prefix + b"a", b"")])
        watching = Watching(gateway, prefix, done.header.revision)
        tasks.start_soon(watching.for_ever)
        await eventually(lambda: len(watching.events) == 1)
        tasks.cancel_scope.cancel()


@real
@on_asyncio
async def test_writes_and_the_watch_survive_a_killed_leader_and_a_frozen_member(prefix: bytes) -> None:
    with etcd(3) as server:
        async with opened(gateway_to(server)) as gateway, anyio.create_task_group() as tasks:
            begun = await gateway.transact([put(prefix + b"begin", b"")])
            watching = Watching(gateway, prefix, begun.header.revision)
            tasks.start_soon(watching.for_ever)
            written = 0

            async def write(count: int) -> None:
                nonlocal written
                for _ in range(count):
                    await gateway.transact([put(prefix + b"%d" % written, b"")])
                    written += 1

            await write(10)
            leader = server.leader()
            leader.kill()
            await write(10)
            server.start_member(leader)
            connected = next(member for member in server.members if member.url == gateway.endpoint)
            connected.freeze()
            await write(10)
            connected.thaw()
            await eventually(lambda: len({event.kv.key for event in watching.events}) == 31)
            revisions = [event.kv.mod_revision for event in watching.events]
            assert revisions == sorted(revisions)
            tasks.cancel_scope.cancel()


@real
@on_trio
async def test_without_a_quorum_a_write_fails_in_bounded_time_and_works_again_with_one(prefix: bytes) -> None:
    with etcd(3) as server:
        async with opened(gateway_to(server)) as gateway:
            await gateway.transact([put(prefix + b"a", b"")])
            for member in server.members[1:]:
                member.kill()
            begun_s = anyio.current_time()
            with pytest.raises(EtcdUnavailable):
                await gateway.transact([put(prefix + b"b", b"")])
            assert anyio.current_time() - begun_s < CALL_S + 10  # of which a busy machine takes some
            server.start()
            await gateway.transact([put(prefix + b"c", b"")])
            assert {b"a", b"c"} <= (await load(gateway, prefix)).keys()


# Users and certificates.


@pytest.fixture(scope="module")
def guarded() -> Iterator[Etcd]:
    """An etcd that asks for a user."""
    with etcd() as server:
        server.require_users("the password")
        server.ctl("--user", "root:the password", "user", "add", "stranger:the password")
        yield server


@real
async def test_a_user_logs_in_and_again_when_the_token_has_ended(guarded: Etcd, prefix: bytes) -> None:
    async with opened(gateway_to(guarded, user="root", password="the password")) as gateway, anyio.create_task_group() as tasks:
        done = await gateway.transact([put(prefix + b"a", b"1")])
        gateway._authentication.token = "no.longer"
        watching = Watching(gateway, prefix, done.header.revision)
        tasks.start_soon(watching.for_ever)
        await eventually(lambda: len(watching.events) == 1)
        gateway._authentication.token = "no.longer"
        assert await load(gateway, prefix) == {b"a": b"1"}
        tasks.cancel_scope.cancel()


@real
@pytest.mark.parametrize(
    ("user", "password", "told"),
    [
        ("root", "guessed", "does not accept HA_SESSION_CLUSTER_USER with HA_SESSION_CLUSTER_PASSWORD"),
        (None, "", "asks for a user: set HA_SESSION_CLUSTER_USER and HA_SESSION_CLUSTER_PASSWORD"),
        ("stranger", "the password", "does not let the user read and write below the prefix of HA_SESSION_CLUSTER"),
    ],
)
async def test_a_rejected_user_gets_the_reason(guarded: Etcd, prefix: bytes, user: str | None, password: str, told: str) -> None:
    async with opened(gateway_to(guarded, user=user, password=password)) as gateway:
        with pytest.raises(EtcdRefused) as refused:
            await gateway.transact([put(prefix + b"a", b"")])
        assert str(refused.value) == told
        watching = Watching(gateway, prefix, 1)
        await watching.once()
        assert isinstance(watching.ended[0], EtcdRefused)
        assert str(watching.ended[0]) == told


@real
async def test_no_user_logs_in_before_etcd_requires_one(one_etcd: Etcd, prefix: bytes) -> None:
    """So operators may configure the user on all nodes first, and then turn authentication on."""
    async with opened(gateway_to(one_etcd, user="root", password="anything")) as gateway:
        await gateway.transact([put(prefix + b"a", b"")])


@real
async def test_certificates_are_checked_and_shown(prefix: bytes) -> None:
    with etcd(1, "--client-cert-auth", tls=True) as server:
        certificates = server.certificates
        assert certificates is not None
        async with opened(gateway_to(server, tls=certificates.context())) as gateway:
            done = await gateway.transact([put(prefix + b"a", b"1")])
            assert done.header.revision > 1
        for tls, why in (
            (ssl.create_default_context(cafile=certificates.ca), "cannot be reached"),
            (ssl.create_default_context(), "shows a certificate that is not accepted"),
        ):
            async with opened(gateway_to(server, tls=tls)) as gateway:
                with pytest.raises(EtcdUnavailable, match=why):
                    await gateway.transact([put(prefix + b"a", b"2")], once=True)


@real
async def test_a_certificate_with_a_name_is_refused_with_the_remedy(prefix: bytes) -> None:
    with etcd(1, "--client-cert-auth", tls=True, name="root") as server:
        server.require_users("pw")
        certificates = server.certificates
        assert certificates is not None
        async with opened(gateway_to(server, tls=certificates.context(), user="root", password="pw")) as gateway:
            with pytest.raises(EtcdRefused, match="carry a name"):
                await gateway.transact([put(prefix + b"a", b"2")])


# Against servers that only a test can have.


class Scripted(httpx2.AsyncBaseTransport):
    """Answers by endpoint: with a status and a body, never, or by failing to connect."""

    def __init__(self, **answers: tuple[int, bytes] | str) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.host)
        answer = self.answers[request.url.host]
        if answer == "never":
            await anyio.sleep_forever()
        if isinstance(answer, str):
            raise httpx2.ConnectError("10.0.0.1: refused, with an address")
        return httpx2.Response(answer[0], stream=httpx2.ByteStream(answer[1]))


GOOD = (200, b'{"header":{"revision":"7"},"succeeded":true}')


def scripted(transport: Scripted, clock: ManualClock) -> EtcdGateway:
    return EtcdGateway([f"http://{name}:1" for name in transport.answers], clock, transport=lambda: transport)


async def passing(clock: ManualClock, call: Callable[[], object], *, step_s: float = 0.05) -> float:
    """Call while time passes; returns how long it took."""
    begun_s = clock.boot_s()
    done = anyio.Event()

    async def run() -> None:
        try:
            await call()  # type: ignore[misc]
        finally:
            done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        while not done.is_set():
            await until_nothing_moves()
            if not done.is_set():
                clock.advance(step_s)
    return clock.boot_s() - begun_s


@pytest.mark.parametrize("bad", ["never", "dead", (503, b"<html>no upstream</html>"), (200, b"<html>It works!</html>")])
async def test_an_endpoint_that_fails_costs_one_try_and_is_not_asked_again(bad: tuple[int, bytes] | str, clock: ManualClock) -> None:
    transport = Scripted(bad=bad, good=GOOD)
    async with opened(scripted(transport, clock)) as gateway:
        for _ in range(3):
            assert await passing(clock, lambda: gateway.transact([])) <= TRY_S + 0.05
    assert transport.asked == ["bad", "good", "good", "good"]


async def test_of_many_calls_that_fail_at_once_the_first_moves_on(clock: ManualClock) -> None:
    transport = Scripted(bad="never", good=GOOD, other=GOOD)

    async with opened(scripted(transport, clock)) as gateway:

        async def many() -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(lambda: gateway.transact([]))

        await passing(clock, many)
    assert transport.asked == ["bad"] * 10 + ["good"] * 10


async def test_a_call_without_an_answer_ends_in_bounded_time(clock: ManualClock) -> None:
    transport = Scripted(a="never", b="never", c="dead")
    failed: list[EtcdError] = []

    async with opened(scripted(transport, clock)) as gateway:

        async def call() -> None:
            try:
                await gateway.transact([])
            except EtcdError as exc:
                failed.append(exc)

        assert await passing(clock, call) <= CALL_S + 0.05
    assert isinstance(failed[0], EtcdUnavailable)


class Electing(httpx2.AsyncBaseTransport):
    """Three members whose leader ``a`` is frozen. Requests to the others are lost on their way to it until a new leader is elected."""

    def __init__(self, clock: ManualClock, elected_s: float) -> None:
        self._clock = clock
        self._elected_s = clock.boot_s() + elected_s
        self.asked: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()
        self.most = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        self.asked[host] += 1
        self.at_once[host] += 1
        self.most = max(self.most, self.at_once[host])
        try:
            if host == "a" or self._clock.boot_s() < self._elected_s:
                await anyio.sleep_forever()
        finally:
            self.at_once[host] -= 1
        return httpx2.Response(GOOD[0], stream=httpx2.ByteStream(GOOD[1]))


@pytest.mark.parametrize("elected_s", [0.1, 0.9, 1.3, 1.7])
@pytest.mark.parametrize("first", [0, 1, 2])
async def test_while_a_leader_is_elected_a_call_is_done_soon_after_and_asks_each_member_once_at_a_time(
    elected_s: float, first: int, clock: ManualClock
) -> None:
    members = Electing(clock, elected_s)
    endpoints = ["http://a:1", "http://b:1", "http://c:1"]
    gateway = EtcdGateway(endpoints[first:] + endpoints[:first], clock, transport=lambda: members)
    async with opened(gateway):
        took_s = await passing(clock, lambda: gateway.transact([]))
        assert took_s <= elected_s + 2 * TRY_S / 3 + ROUND_PAUSE_S + 3 * 0.05
        assert members.most == 1
        assert await passing(clock, lambda: gateway.transact([], once=True)) == 0  # the member that answered is asked next


class Slow(httpx2.AsyncBaseTransport):
    """Each endpoint but the first is frozen, and that one takes its time."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.host)
        with self._clock.move_on_after(TRY_S * 0.9 if request.url.host == "a" else math.inf):
            await anyio.sleep_forever()
        return httpx2.Response(GOOD[0], stream=httpx2.ByteStream(GOOD[1]))


async def test_a_slow_answer_counts_though_others_have_been_asked_meanwhile(clock: ManualClock) -> None:
    transport = Slow(clock)
    gateway = EtcdGateway(["http://a:1", "http://b:1", "http://c:1"], clock, transport=lambda: transport)
    async with opened(gateway):
        assert await passing(clock, lambda: gateway.transact([])) <= TRY_S * 0.9 + 0.05
        assert transport.asked == ["a", "b", "c"]
        await passing(clock, lambda: gateway.transact([]))
    assert transport.asked[3:] == ["a", "b", "c"]  # it has answered, so it is the first to be asked again


@pytest.mark.parametrize(("words", "kind"), [(b"some words", EtcdRejected), (b"etcdserver: mvcc: database space exceeded", EtcdFull)])
async def test_a_definite_no_ends_a_call_at_once_despite_other_open_requests(
    words: bytes, kind: type[EtcdError], clock: ManualClock
) -> None:
    transport = Scripted(a="never", b=(400, b'{"error":"%s","code":3}' % words), c="never")
    told: list[EtcdError] = []

    async def call() -> None:
        try:
            await gateway.transact([])
        except EtcdError as exc:
            told.append(exc)

    gateway = scripted(transport, clock)
    async with opened(gateway):
        assert await passing(clock, call) <= TRY_S / 3 + 0.05
    assert [type(exc) for exc in told] == [kind]
    assert transport.asked == ["a", "b"]


async def test_a_call_that_must_not_be_repeated_is_tried_once_and_the_next_asks_another_member(clock: ManualClock) -> None:
    transport = Scripted(bad="dead", good=GOOD)
    async with opened(scripted(transport, clock)) as gateway:
        with pytest.raises(EtcdUnavailable):
            await gateway.transact([], once=True)
        await gateway.transact([], once=True)
    assert transport.asked == ["bad", "good"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((400, b'{"error":"etcdserver: some words","message":"etcdserver: some words","code":3}'), EtcdRejected),
        ((503, b'{"error":"etcdserver: no leader","message":"etcdserver: no leader","code":14}'), EtcdUnavailable),
        ((500, b'{"error":"context deadline exceeded","code":2}'), EtcdUnavailable),
        ((200, b'{"error":{"grpc_code":14,"http_code":503,"message":"no leader"}}'), EtcdUnavailable),
        ((400, b"CommonName of client sending a request against gateway will be ignored and not used as expected\n"), EtcdRefused),
        ((404, b"404 page not found\n"), EtcdForeign),
        ((200, b"[]"), EtcdForeign),
        ((200, b'{"header":"no header"}'), EtcdForeign),
        ((200, b'{"error":7}'), EtcdUnavailable),
        ((404, b'{"error":"etcdserver: some words","code":5}'), EtcdRejected),
        ((429, b'{"error":"grpc: some words, larger than max (3000000 vs. 2097152)","code":8}'), EtcdRejected),
        ((429, b'{"error":"etcdserver: too many some words","code":8}'), EtcdUnavailable),
        ((400, b'{"error":"etcdserver: mvcc: required revision is a future revision","code":11}'), EtcdRejected),
        ((400, b'{"error":"etcdserver: mvcc: required revision has been compacted","code":11}'), EtcdCompacted),
        ((400, b'{"error":"etcdserver: user name is empty","code":3}'), EtcdRefused),
        ((400, b'{"error":"etcdserver: revision of auth store is old","code":3}'), EtcdRefused),
        ((502, b"<html>page</html>"), EtcdUnavailable),
        ((504, b"<html>page</html>"), EtcdUnavailable),
    ],
)
async def test_each_answer_has_one_meaning_and_shows_no_words_of_the_server(
    answer: tuple[int, bytes], kind: type[EtcdError], clock: ManualClock
) -> None:
    async with opened(scripted(Scripted(one=answer), clock)) as gateway:
        with pytest.raises(EtcdError) as told:
            await gateway.transact([], once=True)
    assert type(told.value) is kind
    for word in ("some words", "leader", "deadline exceeded", "http", "one:", "page"):
        assert word not in str(told.value)


async def test_a_watch_asks_for_an_error_when_its_member_loses_the_leader(clock: ManualClock) -> None:
    headers: list[str | None] = []

    class Listening(httpx2.AsyncBaseTransport):
        """Ends each watch at once."""

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            headers.append(request.headers.get("grpc-metadata-hasleader"))
            return httpx2.Response(200, stream=httpx2.ByteStream(b""))

    gateway = EtcdGateway(["http://one:1"], clock, transport=Listening)
    async with opened(gateway):
        with pytest.raises(EtcdUnavailable, match="has ended the watch"):
            await gateway.watch(b"a", b"b", 1, lambda _: None)
    assert headers == ["true"]


async def test_before_it_runs_and_after_it_is_unavailable_and_says_so(clock: ManualClock) -> None:
    gateway = scripted(Scripted(one=GOOD), clock)
    with pytest.raises(EtcdUnavailable):
        await gateway.transact([], once=True)
    async with opened(gateway):
        await gateway.transact([])
    with pytest.raises(EtcdUnavailable):
        await gateway.transact([], once=True)


class Guarded(httpx2.AsyncBaseTransport):
    """Requires a log-in for every request, and accepts one password."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.log_ins = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v3/auth/authenticate":
            self.log_ins += 1
            good = self.password.encode() in request.content
            status, body = (200, b'{"token":"t"}') if good else (400, b'{"error":"authentication failed, invalid user","code":3}')
        else:
            good = request.headers.get("authorization") == "t"
            status, body = GOOD if good else (401, b'{"error":"etcdserver: invalid auth token","code":16}')
        return httpx2.Response(status, stream=httpx2.ByteStream(body))


def guarded_by(server: Guarded, clock: ManualClock, password: Callable[[], str]) -> EtcdGateway:
    return EtcdGateway(["http://one:1"], clock, user="root", password=password, transport=lambda: server)


async def test_a_password_that_was_refused_is_not_tried_again_at_once_and_then_the_one_of_now_is(clock: ManualClock) -> None:
    server, passwords = Guarded("right"), ["wrong"]
    async with opened(guarded_by(server, clock, lambda: passwords[-1])) as gateway:
        for _ in range(5):
            with pytest.raises(EtcdRefused):
                await gateway.transact([])
        assert server.log_ins == 1
        passwords.append("right")
        clock.advance(REFUSED_S)
        await gateway.transact([])
        assert server.log_ins == 2


async def test_one_of_many_concurrent_calls_logs_in(clock: ManualClock) -> None:
    server = Guarded("right")
    async with opened(guarded_by(server, clock, lambda: "right")) as gateway, anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(lambda: gateway.transact([]))
    assert server.log_ins == 1


async def test_an_unreadable_password_file_is_reported_without_its_name(clock: ManualClock) -> None:
    def missing() -> str:
        raise FileNotFoundError(2, "No such file", "/run/secrets/etcd")

    async with opened(guarded_by(Guarded("right"), clock, missing)) as gateway:
        with pytest.raises(EtcdRefused) as refused:
            await gateway.transact([])
    assert str(refused.value) == "cannot be asked: HA_SESSION_CLUSTER_PASSWORD_FILE cannot be read"
