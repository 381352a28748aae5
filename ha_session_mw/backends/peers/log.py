"""The driver of ``peers://``: obeys the state machine of ``_core/quorum/log.py``, carries its polls and keeps its file.

The state machine has the rules. This file has the tasks, the time limits and the texts for operators.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import anyio

from ..._core.calls.faults import PeerFaults
from ..._core.cluster.members import Heartbeat, Members
from ..._core.cluster.view import View
from ..._core.quorum.log import PAGE_ENTRIES, Quorum
from ..._core.quorum.membership import APART
from ..._core.quorum.messages import Answer, Batch, decode_answer, decode_poll, encode
from ..._core.quorum.ready import Contradiction, Hold, ListsChanged, OldFile, PeerMismatch, QuorumEvent, Ready, Recovered
from ..._core.quorum.ready import Receipt as Appended
from ..._core.tally import Tally
from ..._machine.sqlite_file import FileTrouble
from ...abc import Clock, OnEvent, PeerFailure, Receipt
from ...events import FoundQuorum, LostQuorum, MemberDraining, MemberJoined, MemberLeft, MemberMismatched, PossibleLoss, StartedAnew
from ...exceptions import ConfigurationError, QuorumLost
from ...models import Cut, Entry
from ..common.membered import DRAINING, MemberedLog, parse_index
from ..common.trouble import Troubles
from .batch_file import BatchFile
from .list_texts import TOLD, why_not_serving
from .own_url import Call, OwnUrl
from .pacing import LEAST_ROUND_S, JoinReports, PeerPace
from .pushing import GOOD_BYE_S, HAND_OVER_S, Pushing

logger = logging.getLogger("ha_session_mw.quorum")

POLL_SLACK_S = 0.5
"""How much longer a poll may take than the peer may hold it: a link's round trip, three times."""
MOST_SLACK_S = 2.0
"""The longest such time. A far peer gets three of its round trips, as polls have measured them."""

DURABLE_LIMIT_S = 1.0
"""How long an append waits for a majority that is silent. A majority that is well takes milliseconds."""
DURABLE_LIMIT_BUSY_S = 5.0
"""How long an append waits while a majority goes on polling: disks and machines are busy, and nobody is out of contact."""
DURABLE_LIMIT_ALONE_S = 0.25
"""How long an append waits if no majority has polled this node lately: one will hardly come back within the wait."""

RETRY_S = 0.1
"""First pause before a peer that does not answer is polled again. Most faults of a link are over by then."""
MAX_RETRY_S = 1.0
"""Longest pause before a peer is polled again. Freshness depends on finding the peer soon after it is back."""

WRITE_RETRY_S = 1.0
"""Pause before a write that failed is tried again. A full disk does not empty itself in less."""

EXPOSED = (
    "log-outs are kept in memory only: if a majority of the members restarts at once, acknowledged log-outs are lost; "
    "set HA_SESSION_CLUSTER=peers:///path/of/a/file"
)

_FILE = "the file of HA_SESSION_CLUSTER"


class _Waiting:
    """A request of another member that waits for the answer to its poll."""

    __slots__ = ("answer", "answered")

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.answered = anyio.Event()


class QuorumLog(MemberedLog):
    """One member's log.

    Args:
        view: the entries that this node knows.
        clock: the two clocks.
        own: the heartbeat's constant parts.
        urls: all members, this one included, in the order of ``HA_SESSION_PEERS``.
        heartbeat_s: how long a poll is held.
        call: calls another member.
        faults: counts the faults of the others, in addition to those that the calls count.
        coming: all members of the next list, in the order of ``HA_SESSION_PEERS_NEXT``; empty while no change is under way.
        file: where entries are kept; None where they are kept in memory only.
        on_event: takes each event of the cluster.

    Attributes:
        quorum: the state machine.
        own_url: watches which process answers at this node's URL.
        pushing: carries entries to members that do not fetch them.

    Raises:
        ConfigurationError: the list does not name this node once, or the file cannot be used, or belongs to another list.
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
        file: BatchFile | None,
        on_event: OnEvent,
        coming: Sequence[str] = (),
    ) -> None:
        super().__init__(view, clock, logger, on_event)
        self._urls = list(urls)
        self._coming = list(coming)
        self._heartbeat_s = heartbeat_s
        self._call = call
        self._faults = faults
        self._file = file
        stored = None if file is None else file.load()
        try:
            self.quorum = Quorum(view, own, urls, now=self._now(), heartbeat_s=heartbeat_s, stored=stored, coming=coming)
        except ValueError as exc:
            if file is not None:
                file.close()
            raise ConfigurationError([f"HA_SESSION_PEERS: {exc}"]) from exc
        self._is_unlisted = stored is not None and any(not batch.lists for batch in stored[-1:])
        self._heed_members()
        self._waiting: dict[Hold, _Waiting] = {}
        self._heard: dict[str, anyio.Event] = {}
        self._slack_s: dict[str, float] = {}
        self._batch: Batch | None = None
        self._batch_is_due = anyio.Event()
        self._joins = JoinReports(logger)
        self._has_said_good_bye = False
        self._troubles = Troubles(logger)
        self.pushing = Pushing(
            self.quorum,
            call,
            clock=clock,
            obey=self._obey_news,
            wait_changed=self.wait_changed,
            faults=faults,
        )
        self.own_url = OwnUrl(own.url, own.life, call, sleep=self._sleep, tell=partial(self._tell_peer, own.url), logger=logger)

    @property
    def _members(self) -> Members:
        return self.quorum.members

    # The state machine is obeyed here, and nowhere else.

    def _obey(self, ready: Ready) -> None:
        """Do the work that the state machine asks for after a call."""
        for hold, answer in ready.answers:
            if (waiting := self._waiting.pop(hold, None)) is not None:
                waiting.answer = answer
                waiting.answered.set()
        if ready.batch is not None:
            self._batch = ready.batch
            self._batch_is_due.set()
        self._heed_members()
        for event in ready.events:
            self._report(event)
            self._pass_on(event)

    def _obey_news(self, ready: Ready) -> None:
        """Obey after a call that may have brought news: requests that wait for news look again."""
        self._obey(ready)
        self._wake()

    def tick(self) -> None:
        # Wakes no request that waits for news: time alone brings none, and requests that it woke would wake each other.
        self._obey(self.quorum.tick(self._now()))

    # The interface of the node.

    def apply(self, entries: Sequence[Entry]) -> None:
        self._append(entries)

    def _append(self, entries: Sequence[Entry]) -> Appended:
        appended, ready = self.quorum.append(entries, self._now())
        self._obey_news(ready)
        return appended

    async def confirm(self) -> None:
        """Exchange a message with a majority, the way that an entry goes."""
        sought, ready = self.quorum.seek_contact(self._now())
        self._obey(ready)
        if not await self._is_done_in_time(lambda: self.quorum.is_found(sought)):
            raise QuorumLost("no majority answers, or takes entries")

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        appended = self._append(entries)
        if not await self._is_done_in_time(lambda: self.quorum.standing(appended) != "applied"):
            raise QuorumLost("no majority holds the entry yet")
        return Receipt(appended.position, self._clock.boot_s())

    async def _is_done_in_time(self, is_done: Callable[[], bool]) -> bool:
        """Wait for a majority; return whether it has done its part within the limit."""
        now = self._now()
        give_up_s = now.boot_s + DURABLE_LIMIT_BUSY_S
        look_s = now.boot_s + (DURABLE_LIMIT_S if self.quorum.has_quorum(now) else DURABLE_LIMIT_ALONE_S)
        silent_s = max(DURABLE_LIMIT_S, self._heartbeat_s + self._slack_of_majority_s())  # a poll is held for a heartbeat
        with self.pushing.needed():
            while not is_done():
                now = self._now()
                if now.boot_s >= look_s:
                    if now.boot_s >= give_up_s or not self.quorum.has_quorum(now, within_s=silent_s):
                        return False
                    look_s = min(now.boot_s + DURABLE_LIMIT_S, give_up_s)
                with self._clock.move_on_after(look_s - now.boot_s):
                    await self.wait_changed()
        return True

    def _slack_of_majority_s(self) -> float:
        nearest = sorted(self._slack_s.get(peer, POLL_SLACK_S) for peer in self.quorum.peers)
        return nearest[min(self.quorum.majority, len(nearest)) - 1] if nearest else POLL_SLACK_S

    def may_lose(self, cut: Cut) -> bool:
        return self.quorum.may_lose(cut)

    async def fence(self, receipt: Receipt) -> None:
        with self.pushing.needed():
            await self._fence(receipt)

    async def _fence(self, receipt: Receipt) -> None:
        appended = Appended(receipt.position)
        give_up_s = self._clock.boot_s() + 2 * self.quorum.members.fence_wait_s + DURABLE_LIMIT_S
        while self.quorum.standing(appended) != "fenced":
            now_s = self._clock.boot_s()
            due_s = self.quorum.fenced_by(appended)
            if now_s >= give_up_s:
                # This happens only if the node finds that it has forgotten entries: its account of durable entries began anew.
                raise QuorumLost("this node has forgotten which entries are durable")
            with self._clock.move_on_after(min(give_up_s if due_s is None else due_s, give_up_s) - now_s) as wait:
                await self.wait_changed()
            if wait.cancelled_caught:
                self.tick()

    def is_starting(self) -> bool:
        return self.quorum.is_starting

    def has_left(self) -> bool:
        return self.quorum.left

    def drain(self) -> None:
        self.quorum.drain()

    async def hand_over(self) -> None:
        with self._clock.move_on_after(HAND_OVER_S):
            await self.pushing.hand_over()

    async def leave(self) -> None:
        await self.hand_over()
        if self._has_said_good_bye:
            return
        # From here on this node accepts nothing: only then may the others stop waiting for it.
        self._obey_news(self.quorum.leave(self._now()))
        with self._clock.move_on_after(GOOD_BYE_S):
            await self.pushing.say_good_bye()
        self._has_said_good_bye = True  # not before: a cancelled good-bye is said again

    def is_draining(self) -> bool:
        return self.quorum.left or self.quorum.speaker.draining

    def why_not_ready(self) -> str | None:
        quorum, now = self.quorum, self._now()
        if self.own_url.shared:
            return "another process answers at HA_SESSION_ADVERTISE_URL; give each process a URL of its own"
        if (unlisted := why_not_serving(quorum)) is not None:
            return unlisted
        if quorum.is_ready(now):
            return None
        if self.is_draining():
            return DRAINING
        # A single mismatched member is no reason to take the majority without it out of service.
        if quorum.mismatched and (quorum.recovering or not self._is_fresh(now)):
            faults = ", ".join(f"{self._name(url)} ({why})" for url, why in quorum.mismatched.items())
            return f"cannot work with {faults}; HA_SESSION_PEERS and the release must be the same on all nodes"
        if quorum.recovering:
            return f"still learning the entries that it may have forgotten from the other members{self._peer_troubles()}"
        return self._own_fault(now) or f"out of contact with a majority of the members{self._peer_troubles()}"

    def index(self) -> str | None:
        return f"{self.quorum.incarnation}-{self.quorum.position}"

    def has_reached(self, index: str) -> bool:
        named = parse_index(index)
        return named is None or self.quorum.has_reached(*named)

    def sync_lag(self) -> Tally:
        return self.quorum.sync_lag

    def position(self) -> int:
        return self.quorum.position

    def quorum_size(self) -> int:
        return self.quorum.majority

    def has_quorum(self) -> bool:
        return self.quorum.has_quorum(self._now())

    def member_lists(self) -> Mapping[str, str | None]:
        membership = self.quorum.membership
        current, coming = (*membership.digests, None)[:2]
        return {"current": current, "next": coming, "phase": membership.phase}

    def exposure(self) -> str | None:
        return EXPOSED if self._file is None else None

    # The tasks.

    async def run(self) -> None:
        if self._file is not None:
            self._file.hold()
        if (exposed := self.exposure()) is not None:
            logger.warning("%s", exposed)
        if self._is_unlisted:
            logger.info("%s was written by a release that did not note the list of members; from now on it belongs to this list", _FILE)
        if 2 in (len(self._urls), len(self._coming)):
            logger.warning("two members cannot lose one: while either is gone the other cannot validate sessions; add a third member")
        try:
            await self._run()
        finally:
            if self._file is not None:
                self._file.close()

    async def _run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for url in self.quorum.peers:
                tasks.start_soon(self._poll_for_ever, url)
                tasks.start_soon(self.pushing.push_for_ever, url)
            tasks.start_soon(self.own_url.watch, self._heartbeat_s)
            if self._file is not None:
                tasks.start_soon(self._write_for_ever, self._file)
            while True:
                self.tick()
                self._tell_own_fault()
                await self._sleep(self._heartbeat_s)

    async def _poll_for_ever(self, peer: str) -> None:
        retry_s = RETRY_S
        pace = PeerPace(partial(self._faults.note, peer))
        while True:
            begun_s = self._clock.boot_s()
            failure, round_s = await self._poll(peer, pace)
            self._tell_peer(peer, failure)
            if failure is None and peer not in self.quorum.mismatched:
                retry_s = RETRY_S
                left_s = round_s - (self._clock.boot_s() - begun_s)
                if left_s > 0:
                    await self._sleep(left_s)
            else:
                await self._pause(peer, retry_s)
                retry_s = min(retry_s * 2, MAX_RETRY_S)

    async def _pause(self, peer: str, seconds: float) -> None:
        """Wait before the next try. A poll of the peer cuts the wait short: it is back, and its log-outs wait for this node's poll."""
        heard = self._heard[peer] = anyio.Event()
        await self._sleep(RETRY_S)
        with self._clock.move_on_after(max(0.0, seconds - RETRY_S)):
            await heard.wait()

    async def _poll(self, peer: str, pace: PeerPace) -> tuple[str | None, float]:
        """Poll once; return why it failed, None if it did not, and the shortest time of the round."""
        sent, slack_s = self.quorum.poll(peer, self._now()), self._slack_s.get(peer, POLL_SLACK_S)
        try:
            answer = decode_answer(await self._call(peer, "poll", encode(sent.poll), self._heartbeat_s + slack_s))
        except PeerFailure as failure:
            if failure.fault == "stalled":  # it may be far away, so the next poll has more time
                self._slack_s[peer] = min(2 * slack_s, MOST_SLACK_S)
            return str(failure), LEAST_ROUND_S
        except (ValueError, RecursionError):
            self._faults.note(peer, "garbage")
            return "answers in a form that this release cannot read", LEAST_ROUND_S
        round_trip_s = self._clock.boot_s() - sent.sent_s - self._heartbeat_s
        if round_trip_s > 0:  # the peer has held the poll for as long as it may
            self._slack_s[peer] = min(max(POLL_SLACK_S, 3 * round_trip_s), MOST_SLACK_S)
        if len(answer.entries) > PAGE_ENTRIES:
            self._faults.note(peer, "garbage")
            return "answers with more than a page", LEAST_ROUND_S
        known = self.quorum.position
        self._obey_news(self.quorum.answered(sent, answer, self._now()))
        now, news = self._now(), self.quorum.position - known
        round_s = pace.least_round_s(answer, news, now.boot_s, recovering=self.quorum.recovering, fresh=self._is_fresh(now))
        # A node whose list does not stand waits for an operator, or for the others.
        return None, max(round_s, self._heartbeat_s) if self.quorum.membership.stage == APART else round_s

    async def on_poll(self, body: bytes) -> bytes:
        """Answer a poll of another member once there is something to answer."""
        try:
            poll = decode_poll(body)
        except (ValueError, RecursionError) as exc:
            raise ValueError("no poll") from exc
        hold, ready = self.quorum.arrived(poll, self._now())
        waiting = self._waiting[hold] = _Waiting()
        self._obey_news(ready)
        if poll.sender in self._heard and poll.sender not in self.quorum.mismatched:
            self._heard[poll.sender].set()
        return encode(await self._answer(hold, waiting))

    async def _answer(self, hold: Hold, waiting: _Waiting) -> Answer:
        try:
            while waiting.answer is None:
                with self._clock.move_on_after(max(0.0, hold.until_s - self._clock.boot_s())):
                    await waiting.answered.wait()
                self._obey(self.quorum.ready(self._now()))
            return waiting.answer
        finally:
            if self._waiting.pop(hold, None) is not None:
                self.quorum.drop(hold)

    async def _write_for_ever(self, file: BatchFile) -> None:
        while True:
            if self._batch is None:
                self._batch_is_due = anyio.Event()
                await self._batch_is_due.wait()
                continue
            try:
                written = await file.write(self._batch, self.quorum.everything)
            except FileTrouble as trouble:
                # A node neither acknowledges nor serves an entry that it does not keep, so it falls behind and is not ready.
                self._troubles.begin("file", str(trouble), "nothing was written to %s: it %s", _FILE, trouble, level=logging.ERROR)
                await self._sleep(WRITE_RETRY_S)
                self._batch = None
                self._obey(self.quorum.not_kept(self._now()))
            else:
                self._troubles.end("file", "%s can be written again", _FILE)
                self._batch = None  # not before: if this task ends within a write, the batch must not be lost
                self._obey_news(self.quorum.kept(written, self._now()))

    # Texts for operators.

    def _name(self, url: str) -> str:
        """Return a name for a peer that does not show its address."""
        if url in self._urls:
            return f"member {self._urls.index(url) + 1} of HA_SESSION_PEERS"
        return f"member {self._coming.index(url) + 1} of HA_SESSION_PEERS_NEXT"

    def _peer_troubles(self) -> str:
        told = [f"{self._name(url)} {self._troubles.current[url]}" for url in self.quorum.peers if url in self._troubles.current]
        return ": " + "; ".join(told) if told else ""

    def _tell_peer(self, peer: str, failure: str | None) -> None:
        if failure is None:
            self._troubles.end(peer, "%s answers again", self._name(peer))
        else:
            self._troubles.begin(peer, failure, "%s: %s", self._name(peer), failure)

    def _pass_on(self, event: QuorumEvent) -> None:
        match event:
            case PeerMismatch(peer, why):
                if why != "change":
                    self._on_event(MemberMismatched(self.quorum.membership.everybody.index(peer) + 1, why))
            case OldFile():
                self._on_event(StartedAnew())
            case Recovered() | Contradiction() | ListsChanged():
                pass  # the node reports that it is fresh, and ``status()`` counts the peer's faults
            case _:
                self._on_event(event)

    def _report(self, event: QuorumEvent) -> None:
        match event:
            case PossibleLoss():
                logger.error("a majority of the members forgot their entries at once; acknowledged log-outs may be lost")
            case OldFile(peer):
                logger.error("%s is older than what %s remembers of it; learning anew", _FILE, self._name(peer))
            case PeerMismatch(peer, "list"):
                logger.error("%s has another HA_SESSION_PEERS; they must name the same members everywhere", self._name(peer))
            case PeerMismatch(peer, "change"):
                logger.info("%s is ahead or behind in the change of the list of members, and does not count for now", self._name(peer))
            case ListsChanged(phase):
                logger.log(logging.ERROR if phase == "retired" else logging.WARNING, "%s", TOLD[phase])
            case PeerMismatch(peer, "version"):
                logger.error("%s speaks another version of the protocol; finish the roll-out", self._name(peer))
            case Contradiction(peer):
                self._faults.note(peer, "lied")
            case PeerMismatch(peer, "identity"):
                self._faults.note(peer, "lied")
                logger.error("%s claims to be another member; each node's HA_SESSION_ADVERTISE_URL must be its own", self._name(peer))
            case Recovered():
                logger.info("this node has learned all that it may have forgotten, and validates sessions now")
            case MemberJoined(member):
                self._joins.report(member, self._clock.boot_s())
            case MemberLeft() | MemberDraining():
                self._tell_member(event)
            case FoundQuorum():
                logger.info("a majority of the members hears this node")
            case LostQuorum():
                logger.warning("no majority of the members hears this node; log-outs are provisional or refused until one does")
