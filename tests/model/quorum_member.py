"""One process of ``peers://`` in the model: the real state machine, and the parts of its state that have no effect here.

Those parts are wiped out, so that states which differ in nothing else become one. That is where a model could begin to lie:
``test_model.py`` walks with and without it, and compares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ha_session_mw._core.cluster.members import Heartbeat, Members
from ha_session_mw._core.cluster.view import View
from ha_session_mw._core.quorum.ages import Ages
from ha_session_mw._core.quorum.log import Quorum
from ha_session_mw._core.quorum.messages import Answer, Batch
from ha_session_mw._core.quorum.peer import Peer
from ha_session_mw._core.quorum.ready import Receipt, Sent
from ha_session_mw._core.quorum.recovery import Memory
from ha_session_mw._core.tally import Tally
from ha_session_mw.models import NodeId

from .terms import DURABLE, ENDS_MS, ENTRIES, FENCED, LIMIT_S, LONG, MADE, NOW, RATES, accepts, aged, is_fresh, knows, units_since

_STANDINGS = {"applied": MADE, "durable": DURABLE, "fenced": FENCED}


def url(number: int) -> str:
    return f"n{number}"


def number(url: str) -> int:
    return int(url[1:])


@dataclass(frozen=True, slots=True)
class QuorumQuestion:
    """A search of a quorum log, and its bounds.

    Attributes:
        members: how many.
        kind: the rules that they follow.
        log_outs: for each log-out, which member appends it.
        in_flight: how many messages may be under way at once. None: a poll is heard and answered in one step, or its answer is lost.
        doubles: whether a message that has arrived may arrive again.
        links: pairs of poller and polled; by default all.
        restarts: how many times a member may crash and be started again.
        mortal: which members may; by default all.
        ways: how; see :meth:`QuorumMember.restart`.
        files: whether the members keep their logs in files.
        units: how many units of time may pass once there is a log-out; a lease lasts two of them. One unit: only once it is durable.
        silence: whether members tell whom they have not answered for long.
        requests: whether a request may be under way while other things happen.
        reads_late: whether it is looked up before it is seen whether the member is fresh.
        reduced: whether state without effect is removed.
    """

    members: int = 3
    kind: type[Quorum] = Quorum
    log_outs: tuple[int, ...] = (0,)
    in_flight: int | None = 1
    doubles: bool = False
    links: tuple[tuple[int, int], ...] = ()
    restarts: int = 0
    mortal: tuple[int, ...] = ()
    ways: tuple[str, ...] = ("forgets",)
    files: bool = False
    units: int = 4
    silence: bool = False
    requests: bool = False
    reads_late: bool = False
    reduced: bool = True


@dataclass(frozen=True, slots=True)
class Message:
    """A poll on its way; with an answer: the answer on its way back."""

    asker: int
    askee: int
    sent: Sent
    answer: Answer | None = None


class QuorumLooks(NamedTuple):
    """All that is visible of a member from outside.

    Attributes:
        life: names the process.
        memory: whether it knows all that it ever acknowledged.
        accepts: which of the sessions it would accept now.
        knows: of which log-outs it knows.
        fresh_age: how old its freshness is, in units of time.
        standings: of the log-outs that this very process has appended, how far each has got.
        stamps: all numbers of its own answers that it remembers.
        echoes: for each other member, the process of it that was read, and the newest number of that process' answers.
        steps: all steps of its recovery that it remembers; none where there is no recovery.
        read: for each other member, when the poll was sent by which it was read last.
        must_write: whether there is something to be written to the file.
    """

    life: str
    memory: Memory
    accepts: tuple[bool, ...]
    knows: tuple[bool, ...]
    fresh_age: int
    standings: tuple[tuple[int, int], ...]
    stamps: frozenset[int]
    echoes: tuple[tuple[int, str, int], ...]
    steps: frozenset[int]
    read: tuple[tuple[int, float], ...]
    must_write: bool


class Say(NamedTuple):
    """The parts of one member's state that may still have an effect.

    Attributes:
        awaited: for each member, whether a log-out that it appended is still waited for. No client waits for the others' fence.
        silence: the members that somebody may still be told have not been answered for long.
        freshness: whether it matters how fresh this member is: not once it knows all that there ever is to know.
        stamps, steps: the numbers that are remembered, renumbered in their order; None where they are as they should be.
        echoes: of other members' numbers, those that are renumbered.
        read: the members of which an older poll's answer may still come.
    """

    awaited: tuple[bool, ...]
    silence: frozenset[int]
    freshness: bool
    stamps: tuple[tuple[int, int], ...] | None
    steps: tuple[tuple[int, int], ...] | None
    echoes: tuple[tuple[int, int], ...]
    read: tuple[int, ...]


class QuorumMember:
    """A machine, the process on it, and its file."""

    quorum: Quorum

    def __init__(self, number: int, question: QuorumQuestion) -> None:
        self.number = number
        self.question = question
        self.file: list[Batch] | None = [] if question.files else None
        self.life = 0
        self.receipts: dict[int, Receipt] = {}
        self.start()

    def start(self) -> None:
        self.life += 1
        self.receipts = {}
        urls = map(url, range(self.question.members))
        self.quorum = self.question.kind(View(), self.own, urls, now=NOW, heartbeat_s=0, stored=self.file)

    @property
    def own(self) -> Heartbeat:
        me = url(self.number)
        return Heartbeat(NodeId(me), f"{me}, process {self.life}", me, "starting", 0, 0, (), LIMIT_S, ENDS_MS)

    @property
    def peers(self) -> dict[int, Peer]:
        return {number(peer.url): peer for peer in self.quorum.peers.values()}

    # Its steps.

    def append(self, log_out: int) -> None:
        self.receipts[log_out], _ = self.quorum.append([ENTRIES[log_out]], NOW)

    def ask(self, peer: int) -> Message:
        return Message(self.number, peer, self.quorum.poll(url(peer), NOW))

    def hear(self, message: Message) -> Message:
        # A poll that is held and answered later is one that arrives twice, and whose first answer is lost.
        hold, ready = self.quorum.arrived(message.sent.poll, NOW)
        return Message(message.asker, message.askee, message.sent, dict(ready.answers)[hold])

    def learn(self, message: Message) -> None:
        assert message.answer is not None
        self.quorum.answered(message.sent, message.answer, NOW)

    def look(self) -> None:
        self.quorum.tick(NOW)

    def write(self) -> None:
        batch = self._batch()
        if batch is not None and self.file is not None:
            self.file = [*self.file, batch]
            self.quorum.kept(batch, NOW)

    def _batch(self) -> Batch | None:
        """Return the batch that a write would keep now: one that was handed out before, and not written yet, has grown since."""
        self.quorum.durable.take_back()
        return self.quorum.ready(NOW).batch

    def restart(self, how: str) -> None:
        """Crash and start at once: a process that is down behaves like one that no message reaches.

        Args:
            how: ``forgets``: without its file; ``keeps``: with the written entries; ``wrote``: with the write in progress, too.
        """
        if self.file is not None:
            batch = self._batch() if how == "wrote" else None
            self.file = [] if how == "forgets" else [*self.file, *([] if batch is None else [batch])]
        self.start()

    def let_time_pass(self) -> None:
        by_s = RATES[self.number]
        view, fence = self.quorum.view, self.quorum.fence
        view.fresh_at = aged(view.fresh_at, by_s)
        for peer in self.peers.values():
            peer.fresh_s, peer.asked_s, peer.unheard_s = (aged(s, by_s) for s in (peer.fresh_s, peer.asked_s, peer.unheard_s))
            peer.read_sent_s, peer.polled_s = aged(peer.read_sent_s, by_s), aged(peer.polled_s, by_s)
        fence.waits = type(fence.waits)((position, aged(known_s, by_s)) for position, known_s in fence.waits)

    def reads(self) -> float:
        """Begin a request; return its first reading."""
        view = self.quorum.view
        return accepts(0, view, math.inf) if self.question.reads_late else view.fresh_at

    def answers(self, read: float) -> bool:
        """Return whether the request is accepted."""
        view = self.quorum.view
        right = bool(read) and is_fresh(view.fresh_at) if self.question.reads_late else accepts(0, view, read)
        return right and not self.quorum.recovering

    # State without effect.

    def wake(self) -> None:
        """Restore the state that the frozen member left out: the others' wall clocks and limits, on which no lease depends."""
        self.quorum.speaker.members = Members(self.own, majority=self.quorum.majority)

    def rest(self) -> None:
        """Leave out the state that no other member learns: events, readiness, counts of heartbeats; and everything about cuts."""
        quorum = self.quorum
        quorum.durable.take_back()
        del quorum.speaker.members
        quorum.speaker.spoken, quorum.serving, quorum.amnesia.majority_forgot = 0, True, False
        quorum.speaker.take_events()
        quorum.composer.ages, quorum.sync_lag = Ages(0), Tally(())
        quorum.view.forgotten_cuts_end_ms = 0.0
        if quorum.amnesia.recovery is not None:
            quorum.amnesia.recovery.known_before = False
        for peer in self.peers.values():
            peer.newest_hold, peer.polled_s, peer.changed, peer.delay_s = None, -math.inf, False, 0.0
            # No member says good-bye here, so it does not matter which of its processes was answered.
            peer.asked_s = peer.may_rely_since_s if self.question.silence else NOW.boot_s
            peer.answered_s, peer.answered_life, peer.answered_before_s, peer.unheard_s = -math.inf, "", -math.inf, -math.inf
            peer.standing, peer.heard_s = None, -math.inf

    def wipe(self, say: Say) -> None:
        """Remove state that can have no effect any more."""
        quorum = self.quorum
        if say.stamps is not None:
            self._renumber(dict(say.stamps))
        if not say.awaited[self.number]:
            quorum.fence = type(quorum.fence)(quorum.membership.majorities)
            quorum.composer.stamp = 0
            self.receipts = {}
        if say.steps is not None:
            self._renumber_steps(dict(say.steps))
        for peer, echo in say.echoes:
            self.peers[peer].echo = echo
        for other, its in self.peers.items():
            self._wipe_peer(its, other, say)
        self._wipe_freshness(say)

    def _renumber(self, stamps: Mapping[int, int]) -> None:
        quorum = self.quorum
        quorum.composer.stamp = stamps[quorum.composer.stamp]
        quorum.fence.awaited = stamps[quorum.fence.awaited]
        for known in quorum.fence.members.values():
            known.echo = stamps[known.echo]
            known.marks = [(stamps[stamp], position) for stamp, position in known.marks]

    def _renumber_steps(self, steps: Mapping[int, int]) -> None:
        recovery = self.quorum.amnesia.recovery
        assert recovery is not None
        recovery.step = steps[recovery.step]
        for fellow in recovery.fellows.values():
            fellow.since, fellow.until = steps[fellow.since], steps[fellow.until]

    def _wipe_peer(self, peer: Peer, number: int, say: Say) -> None:
        if not say.awaited[number]:
            # Acknowledgements tell it how far it has been read, and save repeated sending of known entries.
            peer.callee, peer.position, peer.echo_life, peer.echo = "", 0, "", 0
            peer.unkept.clear()
        if number not in say.read or not say.awaited[number]:
            peer.read_sent_s = -math.inf
        if not self.question.files:
            peer.incarnation, peer.life, peer.sequence = "", "", 0
        if self.question.silence and number not in say.silence:
            peer.asked_s = peer.unheard_s = -math.inf

    def _wipe_freshness(self, say: Say) -> None:
        """Keep the newer of two answers that each make a majority. Freshness older than a lease equals none."""
        quorum = self.quorum
        peers = self.peers.values()
        newest = max(peer.fresh_s for peer in peers)
        for peer in peers:
            fresh_s = newest if quorum.majority == 2 else peer.fresh_s
            peer.fresh_s = 0 if not say.freshness else fresh_s if fresh_s >= -LIMIT_S else -math.inf
        view = quorum.view
        if not say.freshness and not quorum.recovering:
            view.fresh_at = 0
        elif view.fresh_at < -LIMIT_S:
            view.fresh_at = -math.inf

    def looks(self) -> QuorumLooks:
        quorum = self.quorum
        view, log_outs = quorum.view, range(len(self.question.log_outs))
        return QuorumLooks(
            life=quorum.life,
            memory=quorum.memory,
            accepts=tuple(not quorum.recovering and accepts(log_out, view, view.fresh_at) for log_out in log_outs),
            knows=tuple(knows(log_out, view) for log_out in log_outs),
            fresh_age=LONG if quorum.recovering else units_since(view.fresh_at, RATES[self.number]),
            standings=tuple((log_out, _STANDINGS[quorum.standing(receipt)]) for log_out, receipt in sorted(self.receipts.items())),
            stamps=self._stamps,
            echoes=tuple((number, peer.echo_life, peer.echo) for number, peer in self.peers.items()),
            steps=self._steps,
            read=tuple((number, peer.read_sent_s) for number, peer in self.peers.items()),
            must_write=self._batch() is not None,
        )

    @property
    def _stamps(self) -> frozenset[int]:
        fence = self.quorum.fence
        echoes = {known.echo for known in fence.members.values()}
        marks = {stamp for known in fence.members.values() for stamp, _ in known.marks}
        return frozenset({0, self.quorum.composer.stamp, fence.awaited, *echoes, *marks})

    @property
    def _steps(self) -> frozenset[int]:
        recovery = self.quorum.amnesia.recovery
        if recovery is None:
            return frozenset()
        return frozenset({recovery.step, *(step for fellow in recovery.fellows.values() for step in (fellow.since, fellow.until))})
