"""``peers://``: the log without a server. Obeys the state machine of ``_core/quorum.py``: carries its polls, keeps its file.

What counts, and what is proven by what, stands there; here are only tasks, time limits and the disk.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from ..._core.calls.faults import PeerFaults
from ..._core.calls.rate_limit import RateLimiter
from ..._core.cluster.members import Heartbeat, Members
from ..._core.cluster.view import View
from ..._core.quorum.log import PAGE_ENTRIES, Contradiction, Hold, OldFile, PeerMismatch, Quorum, QuorumEvent, Recovered
from ..._core.quorum.log import Receipt as Appended
from ..._core.quorum.messages import VERSION, Answer, Batch, decode_answer, decode_batch, decode_poll, encode
from ..._machine.journal import StateFile
from ..._machine.sqlite_file import FileTrouble
from ...abc import HELLO, Backend, Clock, ClusterLog, OnEvent, PeerCalls, PeerFailure, Receipt
from ...config import Settings
from ...events import FoundQuorum, LostQuorum, MemberDraining, MemberJoined, MemberLeft, MemberMismatched, PossibleLoss, StartedAnew
from ...exceptions import ConfigurationError, QuorumLost
from ...models import Entry
from ..common.membered import MemberedLog, parse_index

logger = logging.getLogger("ha_session_mw.quorum")

Call = Callable[[str, str, bytes, float], Awaitable[bytes]]
"""(peer, name, body, time limit in seconds) → its answer; raises PeerFailure."""

POLL_SLACK_S = 0.5
"""How much longer than the peer may hold a poll the poll may take: a slow link's round trip."""

DURABLE_LIMIT_S = 1.0
"""How long to wait for a majority that polls us. It takes milliseconds where the majority is well."""
DURABLE_LIMIT_ALONE_S = 0.25
"""How long where no majority has polled us lately: it will hardly come back now."""

RETRY_S = 0.1
MAX_RETRY_S = 1.0
"""How often a peer that does not answer is tried. It must be found soon after it comes back, for freshness hangs on it."""

LEAST_ROUND_S = 0.001
"""A peer that answers faster, again and again, is not allowed to keep this node busy."""

LEAST_ENTRY_S = 1 / 80_000
"""Nor one that has much to tell, whether or not it is known here."""

LEAST_PAGE_S = 0.05
LEAST_PAGE_WHILE_SERVING_S = 0.25
"""Nor one that has page after page to tell. While this node serves, what one peer tells is to leave time for the others."""

NEWS_PER_S = 16_384
NEWS_AT_ONCE = 131_072
"""What one peer may bring of news, in the long run and at once, while this node serves. More than anybody logs out."""
INCOMPLETE_COUNTS = 8
"""How many times over news count that come in an answer after which there is more. Whoever floods all others with such
pages fills them slower than they can tell each other of it, and so they stay fresh by each other."""

JOINS_AT_ONCE = 5
JOINS_EVERY_S = 60.0
"""How often it is told that a member has joined: of two processes with one URL each joins anew whenever the other was heard."""

OWN_URL_EVERY_S = 5.0
OWN_URL_CALLS = 4
"""How often, and how many times over, this node looks who answers at its own URL."""
OWN_URL_ROUNDS = 4
"""How often in a row it alone must answer until that counts: of two processes, one answers them all by chance 1 time in 65,536."""

COMPACT_FACTOR = 4
COMPACT_BYTES = 1024 * 1024
"""When the file is rewritten: once it is larger than a megabyte, and than four times what it was rewritten with the last time."""


@dataclass(eq=False)
class _Held:
    """A poll of somebody that waits here for its answer."""

    hold: Hold
    answer: Answer | None = None
    answered: anyio.Event = field(default_factory=anyio.Event)


class _Joins:
    """How often a member has joined, and may be said to have."""

    def __init__(self) -> None:
        self.pace = RateLimiter(1 / JOINS_EVERY_S, JOINS_AT_ONCE)
        self.untold = 0


class PeersBackend(Backend):
    """A log among the nodes themselves, and no more."""

    scheme = "peers"
    takes_workers = False
    hears_others = True

    def __init__(self, settings: Settings) -> None:
        self._file = settings.cluster.file
        self._members = settings.peers
        self._heartbeat_s = settings.heartbeat

    def open_log(self, view: View, clock: Clock, own: Heartbeat, peering: PeerCalls | None, *, on_event: OnEvent) -> ClusterLog:
        assert peering is not None  # noqa: S101 - the settings have seen to that
        log = QuorumLog(
            view,
            clock,
            own,
            self._members,
            heartbeat_s=self._heartbeat_s,
            call=peering.call,
            faults=peering.faults,
            file=StateFile(self._file) if self._file is not None else None,
            on_event=on_event,
        )
        peering.handle("poll", log.on_poll)
        peering.handle(HELLO, log.on_hello)
        return log


class QuorumLog(MemberedLog):
    """One member's driver.

    Args:
        view: what this node knows.
        clock: the two clocks.
        own: the heartbeat's constant parts.
        urls: all members, this one included, in the order of ``HA_SESSION_PEERS``.
        heartbeat_s: how long a poll is held.
        call: calls another member.
        faults: counts what the others do wrong, beside what the calls themselves count.
        file: where entries are kept; None where they are kept in memory only.
        on_event: told what happens to the cluster.

    Raises:
        ConfigurationError: the list does not name this node once, or the file cannot be used.
    """

    def __init__(
        self,
        view: View,
        clock: Clock,
        own: Heartbeat,
        urls: Sequence[str],
        *,
        heartbeat_s: float,
        call: Call,
        faults: PeerFaults,
        file: StateFile | None,
        on_event: OnEvent,
    ) -> None:
        super().__init__(view, clock, logger, on_event)
        self._urls = list(urls)
        self._heartbeat_s = heartbeat_s
        self._call = call
        self._faults = faults
        self._file = file
        self._file_bytes = 0
        self._compact_at_bytes = COMPACT_BYTES
        try:
            self.quorum = Quorum(view, own, urls, now=self._now(), heartbeat_s=heartbeat_s, stored=self._load())
        except ValueError as exc:
            raise ConfigurationError([f"HA_SESSION_PEERS: {exc}"]) from exc
        self._heed_members()
        self._holds: list[_Held] = []
        self._heard: dict[str, anyio.Event] = {}
        self._unwritten = anyio.Event()
        self._rounds_alone = 0
        self._joins: defaultdict[str, _Joins] = defaultdict(_Joins)
        self.shared_url = False
        """Whether another process answers at this node's own URL."""
        self.failing: dict[str, str] = {}
        """The peers that do not answer, and why, by their URL."""

    @property
    def _members(self) -> Members:
        return self.quorum.members

    def _load(self) -> list[Batch] | None:
        if self._file is None:
            return None
        try:
            records = self._file.load()
            self._file_bytes = sum(map(len, records))
            batches = [decode_batch(record) for record in records]
        except FileTrouble as trouble:
            raise ConfigurationError([f"HA_SESSION_CLUSTER: the file cannot be used: it {trouble}"]) from trouble
        except (ValueError, RecursionError) as exc:
            raise ConfigurationError([f"HA_SESSION_CLUSTER: the file cannot be used: a record in it is damaged: {exc}"]) from exc
        if any(batch.version != VERSION for batch in batches):
            # To go on without what cannot be read would be to forget log-outs.
            raise ConfigurationError(["HA_SESSION_CLUSTER: the file was written by another release, in a form that this one cannot read"])
        return batches

    # What others ask of this log.

    def apply(self, entries: Sequence[Entry]) -> None:
        self._apply(entries)

    def _apply(self, entries: Sequence[Entry]) -> Appended:
        appended = self.quorum.append(entries, self._now())
        self._settle()
        return appended

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        appended = self._apply(entries)
        limit_s = DURABLE_LIMIT_S if self.quorum.has_quorum(self._now()) else DURABLE_LIMIT_ALONE_S
        with self._clock.move_on_after(limit_s):
            while self.quorum.standing(appended) == "applied":
                await self.wait_changed()
        if self.quorum.standing(appended) == "applied":
            raise QuorumLost("no majority holds the entry yet")
        return Receipt(appended.position, self._clock.boot_s())

    async def fence(self, receipt: Receipt) -> None:
        appended = Appended(receipt.position)
        give_up_s = self._clock.boot_s() + 2 * self.quorum.members.fence_wait_s + DURABLE_LIMIT_S
        while self.quorum.standing(appended) != "fenced":
            now_s = self._clock.boot_s()
            due_s = self.quorum.fenced_by(appended)
            if now_s >= give_up_s:
                # Only a node that found itself to have forgotten comes here: what it knew to be durable, it knows no more.
                raise QuorumLost("this node has forgotten what it knew to be durable")
            with self._clock.move_on_after(min(give_up_s if due_s is None else due_s, give_up_s) - now_s) as wait:
                await self.wait_changed()
            if wait.cancelled_caught:
                self.tick()

    def tick(self) -> None:
        # Wakes nobody who waits for a change: time alone brings no news, and those whom it wakes would wake each other.
        self.quorum.tick(self._now())
        self._release()

    def is_starting(self) -> bool:
        return self.quorum.recovering

    def why_not_ready(self) -> str | None:
        quorum, now = self.quorum, self._now()
        if self.shared_url:
            return "another process answers at HA_SESSION_ADVERTISE_URL; give each process a URL of its own"
        if quorum.is_ready(now):
            return None
        # One odd member is its own trouble, and no reason to take those out of service who are a majority without it.
        if quorum.mismatched and (quorum.recovering or not self._is_fresh(now)):
            faults = ", ".join(f"{self._name(url)} ({why})" for url, why in quorum.mismatched.items())
            return f"cannot work with {faults}; HA_SESSION_PEERS and the release must be the same on all nodes"
        if quorum.recovering:
            return "still learning from the other members what it may have forgotten"
        return self._own_fault(now) or "out of contact with a majority of the members"

    def index(self) -> str | None:
        return f"{self.quorum.incarnation}-{self.quorum.position}"

    def has_reached(self, index: str) -> bool:
        named = parse_index(index)
        return named is None or self.quorum.has_reached(*named)

    # The tasks.

    async def run(self) -> None:
        if len(self._urls) == 2:
            logger.warning("two members cannot lose one: while either is gone the other cannot judge sessions; a third would mend that")
        if self._file is not None:
            self._file.hold()
        try:
            await self._run()
        finally:
            if self._file is not None:
                self._file.close()

    async def _run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for url in self._urls:
                if url != self.quorum.me:
                    tasks.start_soon(self._poll_for_ever, url)
            tasks.start_soon(self._watch_own_url)
            if self._file is not None:
                tasks.start_soon(self._write_for_ever, self._file)
            while True:
                self.tick()
                self._tell_own_fault()
                await self._sleep(self._heartbeat_s)

    async def _watch_own_url(self) -> None:
        """Ask at this node's own URL who answers there. Its peers could not tell two processes apart."""
        await self._sleep(self._heartbeat_s)  # servers listen when the app has started, and not before
        while True:
            lives: list[bytes] = []
            async with anyio.create_task_group() as tasks:
                for _ in range(OWN_URL_CALLS):  # at once, so that each goes over a connection of its own
                    tasks.start_soon(self._look_at_own_url, lives)
            for life in lives:
                self._note_process(life)
            if len(lives) == OWN_URL_CALLS:
                self._rounds_alone += 1
                if self._rounds_alone >= OWN_URL_ROUNDS:
                    self.shared_url = False  # it was a predecessor of ours, about to go
            await self._sleep(OWN_URL_EVERY_S)

    async def _look_at_own_url(self, lives: list[bytes]) -> None:
        try:
            lives.append(await self._call(self.quorum.me, HELLO, self.quorum.life.encode(), OWN_URL_EVERY_S))
        except PeerFailure as failure:
            self._note(self.quorum.me, f"HA_SESSION_ADVERTISE_URL, where peers are to reach this node: {failure}")
        else:
            self._note(self.quorum.me, None)

    async def on_hello(self, body: bytes) -> bytes:
        """Tell which process this is to one that takes this node's URL for its own. It is this one, or there are two."""
        self._note_process(body)
        return self.quorum.life.encode()

    def _note_process(self, life: bytes) -> None:
        """A process has this node's URL."""
        if life == self.quorum.life.encode():
            return
        self._rounds_alone = -1  # the round that goes on does not count
        if not self.shared_url:
            self.shared_url = True
            logger.error(
                "another process answers at HA_SESSION_ADVERTISE_URL: give each process a URL of its own, or start one worker only"
            )

    async def _poll_for_ever(self, peer: str) -> None:
        retry_s = RETRY_S
        allowance = RateLimiter(NEWS_PER_S, NEWS_AT_ONCE)
        while True:
            begun_s = self._clock.boot_s()
            failure, round_s = await self._poll(peer, allowance)
            self._note(peer, failure)
            if failure is None and peer not in self.quorum.mismatched:
                retry_s = RETRY_S
                left_s = round_s - (self._clock.boot_s() - begun_s)
                if left_s > 0:
                    await self._sleep(left_s)
            else:
                await self._pause(peer, retry_s)
                retry_s = min(retry_s * 2, MAX_RETRY_S)

    async def _pause(self, peer: str, seconds: float) -> None:
        """Wait before the next try; not for long once the peer polls us, for it is back, and has log-outs that wait for our poll."""
        heard = self._heard[peer] = anyio.Event()
        await self._sleep(RETRY_S)
        with self._clock.move_on_after(max(0.0, seconds - RETRY_S)):
            await heard.wait()

    async def _poll(self, peer: str, allowance: RateLimiter) -> tuple[str | None, float]:
        """One poll; returns why it failed, None if it did not, and how long the round is to take at the least."""
        sent = self.quorum.poll(peer, self._now())
        try:
            answer = decode_answer(await self._call(peer, "poll", encode(sent.poll), self._heartbeat_s + POLL_SLACK_S))
        except PeerFailure as failure:
            return str(failure), LEAST_ROUND_S
        except (ValueError, RecursionError):
            self._faults.note(peer, "garbage")
            return "answers in a form that this release cannot read", LEAST_ROUND_S
        if len(answer.entries) > PAGE_ENTRIES:
            self._faults.note(peer, "garbage")
            return "answers with more than a page", LEAST_ROUND_S
        known = self.quorum.position
        self.quorum.answered(sent, answer, self._now())
        self._settle()
        return None, self._least_round_s(peer, answer, self.quorum.position - known, allowance)

    def _least_round_s(self, peer: str, answer: Answer, news: int, allowance: RateLimiter) -> float:
        """How long a poll and the pause after it take at the least, so that no peer keeps this node busy."""
        if not answer.complete:
            self._faults.note(peer, "pages")
        page_s = LEAST_PAGE_S if self.quorum.recovering else LEAST_PAGE_WHILE_SERVING_S
        round_s = max(LEAST_ROUND_S if answer.complete else page_s, len(answer.entries) * LEAST_ENTRY_S)
        if not self._is_fresh(self._now()):
            return round_s  # it serves nobody before it has learned all there is
        owed_s = allowance.spend(news if answer.complete else news * INCOMPLETE_COUNTS, self._clock.boot_s()) or 0.0
        if owed_s > round_s:
            self._faults.note(peer, "slowed")
        return max(round_s, owed_s)

    async def on_poll(self, body: bytes) -> bytes:
        """Answer a poll of another member, when there is something to answer."""
        try:
            poll = decode_poll(body)
        except (ValueError, RecursionError) as exc:
            raise ValueError("no poll") from exc
        result = self.quorum.arrived(poll, self._now())
        self._settle()
        if poll.sender in self._heard and poll.sender not in self.quorum.mismatched:
            self._heard[poll.sender].set()
        return encode(await self._wait_for_news(result) if isinstance(result, Hold) else result)

    async def _wait_for_news(self, hold: Hold) -> Answer:
        held = _Held(hold)
        self._holds.append(held)
        try:
            while held.answer is None:
                with self._clock.move_on_after(max(0.0, hold.until_s - self._clock.boot_s())):
                    await held.answered.wait()
                self._settle()
            return held.answer
        finally:
            if held in self._holds:
                self._holds.remove(held)

    async def _write_for_ever(self, file: StateFile) -> None:
        while True:
            batch = self.quorum.unkept()
            if batch is None:
                await self._unwritten.wait()
                continue
            record = encode(batch)
            try:
                if self._file_bytes > self._compact_at_bytes:
                    batch = self.quorum.everything()
                    record = encode(batch)
                    await anyio.to_thread.run_sync(file.replace, [record])
                    self._file_bytes = 0
                    self._compact_at_bytes = max(COMPACT_BYTES, COMPACT_FACTOR * len(record))
                else:
                    await anyio.to_thread.run_sync(file.append, [record])
            except FileTrouble as trouble:
                # Nothing is acknowledged or served until it is kept, so this node falls behind, and says so.
                logger.error("nothing was written to the file of HA_SESSION_CLUSTER: it %s", trouble)
                await self._sleep(MAX_RETRY_S)
                continue
            self._file_bytes += len(record)
            self.quorum.kept(batch, self._now())
            self._settle()

    def _settle(self) -> None:
        """What is due when the state machine has learned something."""
        self._release()
        self._unwritten.set()
        self._unwritten = anyio.Event()
        self._wake()

    def _release(self) -> None:
        """What is due after each call of the state machine."""
        now = self._now()
        for held in [*self._holds]:
            held.answer = self.quorum.release(held.hold, now)
            if held.answer is not None:
                self._holds.remove(held)
                held.answered.set()
        self._heed_members()
        for event in self.quorum.take_events():
            self._write_to_log(event)
            self._pass_on(event)

    # What operators are told.

    def _name(self, url: str) -> str:
        """A peer without its address."""
        return f"member {self._urls.index(url) + 1} of HA_SESSION_PEERS"

    def _note(self, peer: str, failure: str | None) -> None:
        if failure is None:
            if self.failing.pop(peer, None) is not None:
                logger.info("%s answers again", self._name(peer))
        elif self.failing.get(peer) != failure:
            self.failing[peer] = failure
            logger.warning("%s: %s", self._name(peer), failure)

    def _tell_join(self, member: str) -> None:
        joins = self._joins[member]
        if joins.pace.spend(1, self._clock.boot_s(), patience_s=0.0) is None:
            joins.untold += 1
        elif joins.untold:
            logger.warning(
                "member %s has joined, and %d times more since that was last told; two processes may have its HA_SESSION_ADVERTISE_URL",
                member,
                joins.untold,
            )
            joins.untold = 0
        else:
            logger.info("member %s has joined", member)

    def _pass_on(self, event: QuorumEvent) -> None:
        match event:
            case PeerMismatch(peer, why):
                self._on_event(MemberMismatched(self._urls.index(peer) + 1, why))
            case OldFile():
                self._on_event(StartedAnew())
            case Recovered() | Contradiction():
                pass  # who listens is told when this node is fresh, too; and a peer that errs is counted (``status()``)
            case _:
                self._on_event(event)

    def _write_to_log(self, event: QuorumEvent) -> None:
        match event:
            case PossibleLoss():
                logger.error("a majority of the members forgot their entries at once; acknowledged log-outs may be lost")
            case OldFile(peer):
                logger.error("the file of HA_SESSION_CLUSTER is older than what %s remembers of it; learning anew", self._name(peer))
            case PeerMismatch(peer, "list"):
                logger.error("%s has another HA_SESSION_PEERS; they must name the same members everywhere", self._name(peer))
            case PeerMismatch(peer, "version"):
                logger.error("%s speaks another version of the protocol; finish the roll-out", self._name(peer))
            case Contradiction(peer):
                self._faults.note(peer, "lied")
            case PeerMismatch(peer, "identity"):
                self._faults.note(peer, "lied")
                logger.error("%s takes itself for somebody else; each node's HA_SESSION_ADVERTISE_URL must be its own", self._name(peer))
            case Recovered():
                logger.info("learned what there is to know; this node judges sessions now")
            case MemberJoined(member):
                self._tell_join(member)
            case MemberLeft() | MemberDraining():
                self._tell_member(event)
            case FoundQuorum():
                logger.info("a majority of the members hears this node")
            case LostQuorum():
                logger.warning("no majority of the members hears this node; log-outs are provisional or refused until one does")
