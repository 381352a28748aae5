"""Look-ups among peers: one flight a question, hedged and bounded; a peer that stalls or lies costs a wait and is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, NoReturn

import anyio
import msgspec
import pytest

from ha_session_mw._core.calls.breaker import FAILURES, PAUSE_S
from ha_session_mw._core.calls.faults import PeerFaults
from ha_session_mw._node import single_flight as flights
from ha_session_mw._node.lookups import Answer, LookUps, Question, answering, decode_answer, decode_question, encode
from ha_session_mw._node.single_flight import MOST_FLIGHTS
from ha_session_mw._peering.asking import MOST_AT_ONCE
from ha_session_mw.abc import PeerFailure, PeerHandler
from ha_session_mw.exceptions import ClientFault, SessionExpired, SessionRevoked, SessionSuperseded
from ha_session_mw.models import Claims, KeyId
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves
from ha_session_mw.version import PROTOCOL

from ..core import builders
from ..waiting import LIMIT_S

pytestmark = pytest.mark.anyio

YES, REVOKED, UNKNOWN = (encode(Answer(PROTOCOL.highest, says)) for says in ("yes", "revoked", "unknown"))
TIMEOUT_S = 0.25


class Peers:
    """Peers with a planned answer each: bytes at once, a number of seconds late, or a failure."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.behaves: dict[str, Any] = {}
        self.asked: Counter[str] = Counter()
        self.questions: list[bytes] = []
        self.versions: list[int] = []
        self.under_way: Counter[str] = Counter()
        self.most_under_way: Counter[str] = Counter()
        self.faults = PeerFaults(("issuer", "owner"))

    async def call(self, peer: str, name: str, body: bytes, timeout_s: float) -> bytes:
        assert name == "lookup"
        self.asked[peer] += 1
        question = decode_question(body)
        self.questions.append(question.token)
        self.versions.append(question.version)
        self.under_way[peer] += 1
        self.most_under_way[peer] = max(self.most_under_way[peer], self.under_way[peer])
        try:
            late_s, answer = self.behaves.get(peer, (0, YES))
            with self.clock.move_on_after(late_s):
                await anyio.sleep_forever()
            if answer is None:
                raise PeerFailure("as told")
            return bytes(answer)
        finally:
            self.under_way[peer] -= 1


@pytest.fixture
def peers(clock: ManualClock) -> Peers:
    return Peers(clock)


Running = tuple[LookUps, anyio.abc.TaskGroup]


@asynccontextmanager
async def running(peers: Peers, version_for: Callable[[str], int] = lambda _: PROTOCOL.highest) -> AsyncIterator[Running]:
    look_ups = LookUps(peers.call, peers.clock, peers.faults, timeout_s=TIMEOUT_S, version_for=version_for)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look_ups.run)
        await until_nothing_moves()
        yield look_ups, tasks
        tasks.cancel_scope.cancel()


class Asker:
    """A request that asks, and its answer."""

    def __init__(self) -> None:
        self.answers: list[str | None] = []

    async def ask(self, look_ups: LookUps, peers: list[str], token: bytes = b"token") -> None:
        answer = await look_ups.ask(token, peers)
        self.answers.append(answer.says if answer else None)


async def rest(clock: ManualClock, seconds: float = 0.0, step_s: float = 0.01) -> None:
    await until_nothing_moves()
    for _ in range(round(seconds / step_s)):
        clock.advance(step_s)
        await until_nothing_moves()


class EarlierAnswer(msgspec.Struct, frozen=True, array_like=True):
    """An answer as the release before replacements defined it."""

    version: int
    says: Literal["yes", "revoked", "unknown"]
    claims: Claims | None = None
    kid: KeyId | None = None


def refusing(problem: ClientFault) -> PeerHandler:
    def validate(token: bytes) -> NoReturn:
        raise problem

    return answering(validate)


@pytest.mark.parametrize(
    ("problem", "says", "superseded"),
    [(SessionRevoked(), "revoked", False), (SessionSuperseded(), "revoked", True), (SessionExpired(), "unknown", False)],
    ids=lambda value: type(value).__name__,
)
async def test_a_session_that_took_a_new_id_is_answered_as_one_that_an_earlier_release_takes_for_revoked(
    problem: ClientFault, says: str, superseded: bool
) -> None:
    told = await refusing(problem)(encode(Question(PROTOCOL.highest, b"token")))
    assert decode_answer(told) == Answer(PROTOCOL.highest, says, superseded=superseded)  # type: ignore[arg-type]
    assert msgspec.msgpack.decode(told, type=EarlierAnswer) == EarlierAnswer(PROTOCOL.highest, says)  # type: ignore[arg-type]
    assert decode_answer(encode(EarlierAnswer(PROTOCOL.highest, says))) == Answer(PROTOCOL.highest, says)  # type: ignore[arg-type]


async def test_the_first_is_asked_first_and_its_answer_is_enough(peers: Peers) -> None:
    async with running(peers) as (look_ups, _):
        answer = await look_ups.ask(b"token", ["issuer", "owner", "third"])
    assert answer is not None
    assert answer.says == "yes"
    assert peers.asked == {"issuer": 1}


@pytest.mark.parametrize("useless", [UNKNOWN, None, b"", b"\xc1", b"\x92\x01\xa1\xff", b"\x95\x01\xa3yes\xc0\xc0" + b"\x91" * 100_000])
async def test_a_peer_that_cannot_answer_costs_no_wait(peers: Peers, useless: bytes | None) -> None:
    peers.behaves = {"issuer": (0, useless), "owner": (0, REVOKED)}
    async with running(peers) as (look_ups, _):
        answer = await look_ups.ask(b"token", ["issuer", "owner"])
    assert answer is not None
    assert answer.says == "revoked"
    assert peers.asked == {"issuer": 1, "owner": 1}


async def test_a_silent_peer_costs_its_turn_only(peers: Peers, clock: ManualClock) -> None:
    peers.behaves = {"issuer": (99, YES)}
    asker = Asker()
    async with running(peers) as (look_ups, tasks):
        tasks.start_soon(asker.ask, look_ups, ["issuer", "owner"])
        await rest(clock, 0.08)
        assert asker.answers == []
        await rest(clock, 0.01)
        assert asker.answers == ["yes"]


async def test_an_answer_that_comes_late_still_counts_if_it_comes_before_the_others(peers: Peers, clock: ManualClock) -> None:
    peers.behaves = {"issuer": (0.1, REVOKED), "owner": (99, YES)}
    asker = Asker()
    async with running(peers) as (look_ups, tasks):
        tasks.start_soon(asker.ask, look_ups, ["issuer", "owner"])
        await rest(clock, 0.11)
        assert asker.answers == ["revoked"]


async def test_silence_of_all_is_no_answer_and_is_bounded(peers: Peers, clock: ManualClock) -> None:
    peers.behaves = dict.fromkeys("abcdefgh", (99, YES))
    asker, begun_s = Asker(), clock.boot_s()
    async with running(peers) as (look_ups, tasks):
        tasks.start_soon(asker.ask, look_ups, list("abcdefgh"))
        while not asker.answers:
            await rest(clock, 0.01)
    assert asker.answers == [None]
    assert clock.boot_s() - begun_s == pytest.approx(TIMEOUT_S, abs=0.02)
    assert not +peers.under_way


async def test_without_a_peer_or_a_running_task_there_is_no_answer(peers: Peers, clock: ManualClock) -> None:
    async with running(peers) as (look_ups, _):
        assert await look_ups.ask(b"token", []) is None
    assert await look_ups.ask(b"token", ["issuer"]) is None


async def test_requests_that_wait_for_the_same_question_share_a_flight(peers: Peers, clock: ManualClock) -> None:
    askers = [Asker() for _ in range(5)]
    async with running(peers) as (look_ups, tasks):
        for asker in askers:
            tasks.start_soon(asker.ask, look_ups, ["issuer"])
        await rest(clock)
    # Those that came before the question was sent share the first flight, the others the next one.
    assert [asker.answers for asker in askers] == [["yes"]] * 5
    assert peers.asked["issuer"] <= 2


async def test_a_request_that_comes_after_the_question_was_sent_starts_the_next_flight(peers: Peers, clock: ManualClock) -> None:
    peers.behaves = {"issuer": (0.05, YES)}
    first, second, third = Asker(), Asker(), Asker()
    async with running(peers) as (look_ups, tasks):
        tasks.start_soon(first.ask, look_ups, ["issuer"])
        await rest(clock, 0.02)
        peers.behaves = {"issuer": (0.05, REVOKED)}  # too late for the flight under way
        tasks.start_soon(second.ask, look_ups, ["issuer"])
        tasks.start_soon(third.ask, look_ups, ["issuer"])
        await rest(clock, 0.02)
        assert peers.asked["issuer"] == 1
        await rest(clock, 0.2)
    assert (first.answers, second.answers, third.answers) == (["yes"], ["revoked"], ["revoked"])
    assert peers.asked["issuer"] == 2


async def test_no_answer_is_kept(peers: Peers) -> None:
    async with running(peers) as (look_ups, _):
        for _ in range(3):
            await look_ups.ask(b"token", ["issuer"])
        assert peers.asked["issuer"] == 3
        assert not len(look_ups._flights)


async def test_a_cancelled_caller_does_not_cancel_the_others(peers: Peers, clock: ManualClock) -> None:
    peers.behaves = {"issuer": (0.05, YES)}
    asker, scope = Asker(), anyio.CancelScope()
    async with running(peers) as (look_ups, tasks):

        async def gives_up() -> None:
            with scope:
                await look_ups.ask(b"token", ["issuer"])

        tasks.start_soon(gives_up)
        tasks.start_soon(asker.ask, look_ups, ["issuer"])
        await rest(clock, 0.01)
        scope.cancel()
        await rest(clock, 0.2)
    assert scope.cancelled_caught
    assert asker.answers == ["yes"]


async def test_a_peer_that_fails_again_and_again_is_left_alone_for_a_while(peers: Peers, clock: ManualClock) -> None:
    peers.behaves = {"issuer": (0, None)}
    async with running(peers) as (look_ups, _):
        for _ in range(FAILURES + 5):
            assert await look_ups.ask(b"token", ["issuer", "owner"]) is not None
        assert peers.asked["issuer"] == FAILURES
        assert look_ups.results["breaker_open"] == 5

        peers.behaves = {}
        clock.advance(PAUSE_S)
        for _ in range(5):
            await look_ups.ask(b"token", ["issuer", "owner"])
        assert peers.asked["issuer"] == FAILURES + 5


async def test_a_healthy_peer_that_is_outrun_is_not_taken_for_a_stalling_one(peers: Peers, clock: ManualClock) -> None:
    """A slow issuer answers just after the owner was asked, each time."""
    peers.behaves = {"issuer": (0.09, YES), "owner": (0.05, YES)}
    asker = Asker()
    async with running(peers) as (look_ups, tasks):
        for _ in range(FAILURES + 1):
            tasks.start_soon(asker.ask, look_ups, ["issuer", "owner"])
            await rest(clock, 0.2)
    assert asker.answers == ["yes"] * (FAILURES + 1)
    assert peers.asked["owner"] == FAILURES + 1
    assert look_ups.results["breaker_open"] == 0


async def test_a_stalling_peer_holds_up_no_question_to_the_others(peers: Peers, clock: ManualClock) -> None:
    peers.behaves = {"issuer": (99, YES)}
    askers = [Asker() for _ in range(200)]
    async with running(peers) as (look_ups, tasks):
        for number, asker in enumerate(askers):
            tasks.start_soon(asker.ask, look_ups, ["issuer", "owner"], b"token-%d" % number)
        await rest(clock, 0.1)
        assert [asker.answers for asker in askers] == [["yes"]] * 200
    assert peers.most_under_way["issuer"] <= MOST_AT_ONCE
    assert peers.most_under_way["owner"] <= MOST_AT_ONCE


async def test_questions_are_bounded(peers: Peers, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "MOST_FLIGHTS", 10)
    peers.behaves = {"issuer": (99, YES)}
    askers = [Asker() for _ in range(30)]
    async with running(peers) as (look_ups, tasks):
        for number, asker in enumerate(askers):
            tasks.start_soon(asker.ask, look_ups, ["issuer"], b"token-%d" % number)
            await until_nothing_moves()
        assert sum(asker.answers == [None] for asker in askers) == 20
        assert len(look_ups._flights) == 10
        await rest(clock, 0.3)
        assert all(asker.answers for asker in askers)
        assert not len(look_ups._flights)
    assert MOST_FLIGHTS > 10


async def test_a_waiter_gets_an_answer_when_the_node_stops(peers: Peers, clock: ManualClock) -> None:
    peers.behaves = {"issuer": (99, YES)}
    asker = Asker()
    look_ups = LookUps(peers.call, clock, peers.faults, timeout_s=TIMEOUT_S, version_for=lambda _: PROTOCOL.highest)
    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def run() -> None:
            with scope:
                await look_ups.run()

        tasks.start_soon(run)
        await until_nothing_moves()
        tasks.start_soon(asker.ask, look_ups, ["issuer"])
        await until_nothing_moves()
        tasks.start_soon(asker.ask, look_ups, ["issuer"])
        await until_nothing_moves()
        scope.cancel()
        with anyio.fail_after(LIMIT_S):
            while len(asker.answers) < 2:
                await anyio.lowlevel.checkpoint()
    assert asker.answers == [None, None]


async def test_answers_of_a_later_release_are_none(peers: Peers) -> None:
    peers.behaves = {"issuer": (0, encode(Answer(PROTOCOL.highest + 1, "yes"))), "owner": (0, YES)}
    async with running(peers) as (look_ups, _):
        assert await look_ups.ask(b"token", ["issuer"]) is None
        assert look_ups.results == {"garbage": 1}
        assert await look_ups.ask(b"token", ["issuer", "owner"]) is not None


async def test_each_peer_is_asked_in_the_version_that_it_reads_and_answers_in_that_one(peers: Peers) -> None:
    peers.behaves = {"issuer": (0, encode(Answer(2, "unknown"))), "owner": (0, encode(Answer(1, "yes")))}
    async with running(peers, {"issuer": 2, "owner": 1}.__getitem__) as (look_ups, _):
        assert await look_ups.ask(b"token", ["issuer", "owner"]) == Answer(1, "yes")
        assert peers.versions == [2, 1]
        assert look_ups.results == {"unknown": 1, "yes": 1}


async def test_a_peer_that_came_back_with_an_earlier_release_says_unknown_and_that_is_no_fault(peers: Peers) -> None:
    peers.behaves = {"issuer": (0, encode(Answer(1, "unknown")))}
    async with running(peers, lambda _: 2) as (look_ups, _):
        assert await look_ups.ask(b"token", ["issuer"]) is None
        assert look_ups.results == {"unknown": 1}
    assert not peers.faults.told()


async def test_a_question_of_a_version_that_is_not_read_is_answered_with_unknown() -> None:
    def validate(token: bytes) -> NoReturn:
        raise AssertionError(token)

    answer = decode_answer(await answering(validate)(encode(Question(PROTOCOL.highest + 1, b"token"))))
    assert answer == Answer(PROTOCOL.lowest, "unknown")


async def test_an_answer_about_another_session_is_a_lie_and_is_counted(peers: Peers) -> None:
    claims = builders.claims()
    foreign = encode(Answer(PROTOCOL.highest, "yes", claims, KeyId("key")))
    peers.behaves = {"issuer": (0, foreign), "owner": (0, b"\xc1")}
    async with running(peers) as (look_ups, _):
        assert await look_ups.ask(b"hs1.another.key.payload.signature", ["issuer", "owner"]) is None
        assert await look_ups.ask(b"a-cookie-of.starlettes.middleware", ["issuer"]) is not None
        answer = await look_ups.ask(f"hs1.{claims.sid}.key.payload.signature".encode(), ["issuer"])
    assert answer is not None
    assert answer.claims == claims
    assert look_ups.results == {"lied": 1, "garbage": 1, "yes": 2}
    assert peers.faults.told() == {"member 1": {"lied": 1}, "member 2": {"garbage": 1}}


async def test_a_peer_that_stalls_is_counted(peers: Peers) -> None:
    peers.behaves = {"issuer": (99, YES)}
    async with running(peers) as (look_ups, tasks):
        asker = Asker()
        tasks.start_soon(asker.ask, look_ups, ["issuer"])
        await rest(peers.clock, 2 * TIMEOUT_S)
    assert asker.answers == [None]
    assert peers.faults.told() == {"member 1": {"stalled": 1}}
