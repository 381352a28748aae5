"""A node of ``peers://``: the driver that obeys the quorum log, and its file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from ha_session_mw._core.cluster.invariants import ensure
from ha_session_mw._core.cluster.members import Heartbeat, Members
from ha_session_mw._core.quorum.holds import SECOND_HAND_S, TOGETHER_S
from ha_session_mw._core.quorum.log import PAGE_ENTRIES, OtherList, Quorum
from ha_session_mw._core.quorum.membership import APART
from ha_session_mw._core.quorum.messages import Answer, Batch, Poll, Push
from ha_session_mw._core.quorum.ready import Hold, Ready, Receipt, Sent
from ha_session_mw.events import PossibleLoss
from ha_session_mw.models import Cut, Entry, NodeId
from ha_session_mw.version import PROTOCOL

from .node import HEARTBEAT_S, LIMIT_S, LONGEST_MS, Node
from .quorum_variants import RIGHT, QuorumVariant
from .world import EPOCH_MS, Session, SubjectCut, World

PUSH_EVERY_S = 0.1
"""How often a node that leaves tells those again that did not answer its good-bye."""
SEEK_EVERY = 7
"""After how many ticks a request waits for what the others know at that moment."""
POLL_SLACK_S = 0.5
"""How much longer than a heartbeat a poll may take before it is sent anew."""


def entries_upto(quorum: Quorum, position: int) -> list[Entry]:
    """The living entries of a sequence up to a position, as they were there: with a later end or reason, they stand at a later one, too."""
    placed = [placed for batch in quorum.everything() for placed in batch.entries]
    later = [entry for at, entry in placed if at > position]
    return [entry for at, entry in placed if at <= position and entry not in later]


class QuorumNode(Node):
    """A member's machine, with a file or without."""

    world: QuorumWorld
    receipts: list[tuple[Receipt, list[Session | SubjectCut]]]

    def __init__(self, world: QuorumWorld, number: int, urls: list[str], *, rate: float, wall_off_ms: float, keeps_file: bool) -> None:
        super().__init__(world, number, urls[number], rate=rate, wall_off_ms=wall_off_ms)
        self.urls = urls
        self.current: Sequence[int] = range(len(urls))
        self.coming: Sequence[int] = ()
        self.started_at = 0.0
        self.refused = False
        """Whether the process did not start, because its file belongs to another list."""
        self.file: list[Batch] | None = [] if keeps_file else None
        self.write_s = 0.0
        self.protocol = PROTOCOL
        """The versions that its release reads, from its next start on."""

    # The process.

    def start(self) -> None:
        self.up = True
        self.started_at = self.world.time
        self.life += 1
        own = Heartbeat(NodeId(self.url), f"{self.number}.{self.life}", self.url, "starting", 0, 0, (), LIMIT_S, LONGEST_MS)
        own = replace(own, protocol=self.protocol)
        self.view = self.world.variant.new_view()
        current, coming = ([self.urls[number] for number in numbers] for numbers in (self.current, self.coming))
        try:
            self.quorum: Quorum = self.world.variant.quorum(
                self.view, own, current, now=self.now(), heartbeat_s=HEARTBEAT_S, stored=self.file, coming=coming
            )
        except OtherList:
            self.up, self.refused = False, True
            return
        self.refused = False
        self.quorum.page_entries = self.world.page_entries
        self.world.processes[own.life] = self.quorum
        self.outstanding: dict[int, Sent] = {}
        self.questions: dict[int, Sent] = {}
        self.asked: dict[Hold, tuple[Sent, QuorumNode, int]] = {}
        self.receipts = []
        self.told: dict[int, int] = {}
        self.ticks = 0
        self.yes_until = {}
        for peer in self.world.nodes:
            if peer.url in self.quorum.peers:
                self.ask(peer)
        self.tick()

    def crash(self, *, forget: bool = False) -> None:
        self.up = False
        if forget and self.file is not None:
            self.file = []

    def restart(self, current: Sequence[int], coming: Sequence[int] = ()) -> None:
        """Start a new process with these lists; one that runs is killed."""
        if self.up:
            self.crash()
        self.current, self.coming = current, coming
        self.start()

    @property
    def forgetful(self) -> bool:
        """Whether this node must still relearn entries that it may have forgotten."""
        if self.up and self.quorum.left and self.file is None:
            return True  # it is about to end
        if not self.up:
            return not self.file or not any(batch.learned for batch in self.file)
        return self.quorum.recovering and self.quorum.memory != "unchecked"

    def tick(self) -> None:
        self.obey(self.quorum.tick(self.now()))
        self.ticks += 1
        due = self.quorum.quiet_time.due(self.now())
        for peer in self.world.nodes:
            if peer.url in due or (self.ticks % SEEK_EVERY == 0 and peer.url in self.quorum.peers):
                self.question(peer)
        self.wait(0.5, self.tick)

    def question(self, peer: QuorumNode) -> None:
        """Ask for an answer at once. If none comes, the poll that waits for news will not be answered either."""
        sent, held = self.quorum.poll(peer.url, self.now(), at_once=True), self.outstanding[peer.number]
        self.questions[peer.number] = sent
        self.world.send(self, peer, peer.on_poll, sent, self, self.life)
        self.wait(POLL_SLACK_S, self._question_timed_out, peer, sent, held)

    def _question_timed_out(self, peer: QuorumNode, sent: Sent, held: Sent) -> None:
        if self.questions.get(peer.number) is sent:
            self._timed_out(peer, held)

    def obey(self, ready: Ready) -> None:
        """Do a driver's work after each call: send answers, write the batch, check events and receipts."""
        for hold, answer in ready.answers:
            sent, peer, life = self.asked.pop(hold)
            self.world.send(self, peer, peer.on_answer, life, sent, answer)
        if ready.batch is not None:
            self.wait(self.write_s or self.world.random.uniform(0.0005, 0.003), self._written, ready.batch)
        if self.receipts:
            self._acknowledge()
        for event in ready.events:
            self.world.findings.losses += isinstance(event, PossibleLoss)
        if self.world.variant.checks:
            self.quorum.check(self.now())

    def _written(self, batch: Batch) -> None:
        assert self.file is not None
        self.file.append(batch)
        self.obey(self.quorum.kept(batch, self.now()))

    def _acknowledge(self) -> None:
        left = []
        for receipt, hit in self.receipts:
            if self.quorum.standing(receipt) == "fenced":
                self.acknowledge(hit)
            else:
                left.append((receipt, hit))
                due = self.quorum.fenced_by(receipt)
                if due is not None:
                    self.at_boot(due, self._fence_is_due)
        self.receipts = left

    def _fence_is_due(self) -> None:
        if self.receipts:
            self.obey(self.quorum.tick(self.now()))

    # Polls.

    def ask(self, peer: QuorumNode, *, at_once: bool = False) -> None:
        sent = self.outstanding[peer.number] = self.quorum.poll(peer.url, self.now(), at_once=at_once)
        self.world.send(self, peer, peer.on_poll, sent, self, self.life)
        self.wait(self.quorum.quiet_time.held_s(sent.poll) + POLL_SLACK_S, self._timed_out, peer, sent)

    def _timed_out(self, peer: QuorumNode, sent: Sent) -> None:
        if self.outstanding[peer.number] is sent:
            self.ask(peer, at_once=True)

    def on_poll(self, sent: Sent, peer: QuorumNode, life: int) -> None:
        hold, ready = self.quorum.arrived(sent.poll, self.now())
        self.asked[hold] = sent, peer, life
        self.obey(ready)
        if hold in self.asked:
            for due_s in (hold.since_s + SECOND_HAND_S, hold.since_s + TOGETHER_S, hold.until_s):
                self.at_boot(due_s, self._hold_has_ended)

    def _hold_has_ended(self) -> None:
        self.obey(self.quorum.ready(self.now()))

    def holds_poll_of(self, other: int) -> bool:
        return any(hold.peer == self.urls[other] for hold in self.quorum.held)

    def on_answer(self, life: int, sent: Sent, answer: Answer) -> None:
        if life != self.life:
            return
        self.obey(self.quorum.answered(sent, answer, self.now()))
        if self.world.variant.checks and answer.read:
            self._check_what_it_has()
        peer = self.world.nodes[self.urls.index(sent.peer)]
        if self.questions.get(peer.number) is sent:
            del self.questions[peer.number]
        # A late answer to a poll that was given up counts too; it does not start another poll. A node whose list does not
        # stand waits for the time-out, as the driver does: it would only hear the same at once.
        if self.outstanding[peer.number] is sent and self.quorum.membership.stage != APART:
            self.ask(peer)

    def _check_what_it_has(self) -> None:
        """Check that this node has the entries that it takes itself to have, by the sequences of the processes themselves."""
        has = [*self.quorum.provenance.had, *((peer.echo_life, peer.read) for peer in self.quorum.peers.values() if peer.echo_life)]
        for life, position in has:
            for entry in entries_upto(self.world.processes[life], position):
                ensure(self.view.knows(entry) or entry.until_ms <= self.view.floor_ms, f"this node has all of {life} up to {position}")

    # Pushes and good-byes.

    def leave(self) -> None:
        """It accepts no session any more, tells the others so until they have heard it, and runs on until it is killed."""
        self.obey(self.quorum.leave(self.now()))
        for peer in self.world.nodes:
            if peer is not self:
                self._push(peer)

    def _push(self, peer: QuorumNode) -> None:
        if self.told.get(peer.number) != peer.life:
            self.world.send(self, peer, peer.on_push, self.quorum.push(peer.url, self.now()), self, self.life)
            self.wait(PUSH_EVERY_S, self._push, peer)

    def on_push(self, push: Push, peer: QuorumNode, life: int) -> None:
        self.obey(self.quorum.pushed(push, self.now()))
        poll = self.quorum.poll(peer.url, self.now()).poll
        self.world.send(self, peer, peer.on_push_answered, life, self.number, self.life, poll)

    def on_push_answered(self, life: int, number: int, its_life: int, poll: Poll) -> None:
        if life == self.life:
            self.told[number] = its_life
            self.obey(self.quorum.push_answered(self.urls[number], poll, self.now()))

    def append(self, entries: list[Entry], hit: list[Session | SubjectCut]) -> None:
        self.asked_to_revoke(hit)
        receipt, ready = self.quorum.append(entries, self.now())
        self.receipts.append((receipt, hit))
        self.obey(ready)

    def seek(self) -> Callable[[], bool]:
        quorum = self.quorum
        sought, ready = quorum.seek_contact(self.now())
        self.obey(ready)
        return lambda: quorum.is_found(sought)

    def deny(self, entries: list[Entry]) -> Callable[[], bool]:
        quorum = self.quorum
        receipt, ready = quorum.append(entries, self.now())
        self.obey(ready)
        return lambda: quorum.standing(receipt) != "applied"

    def apply(self, entries: list[Entry]) -> None:
        self.obey(self.quorum.append(entries, self.now())[1])

    def may_lose(self, cut: Cut) -> bool:
        return self.quorum.may_lose(cut)

    @property
    def members(self) -> Members:
        return self.quorum.members

    @property
    def starting(self) -> bool:
        return self.quorum.is_starting

    def is_ready(self) -> bool:
        return self.quorum.is_ready(self.now())


class QuorumWorld(World[QuorumNode]):
    """Some nodes without a server.

    Args:
        nodes: how many.
        seed: where all chance comes from.
        variant: the rules that the nodes follow.
        files: the nodes that keep their entries in a file.
        drift: by how much the nodes' clocks may run fast or slow.
        skew_ms: by how much their wall clocks may differ at first.
    """

    variant: QuorumVariant

    def __init__(
        self,
        nodes: int,
        *,
        seed: int = 0,
        variant: QuorumVariant = RIGHT,
        files: frozenset[int] = frozenset(),
        drift: float = 0.0,
        skew_ms: float = 0.0,
    ) -> None:
        super().__init__(seed, variant)
        urls = [f"http://n{number}" for number in range(nodes)]
        self.nodes = [
            QuorumNode(
                self,
                number,
                urls,
                rate=1 + self.random.uniform(-drift, drift),
                wall_off_ms=EPOCH_MS + self.random.uniform(-skew_ms, skew_ms),
                keeps_file=number in files,
            )
            for number in range(nodes)
        ]
        self.majority = nodes // 2 + 1
        self.page_entries = PAGE_ENTRIES
        """Most entries in one answer."""
        self.processes: dict[str, Quorum] = {}
        """Each process that ever was, by its life."""
