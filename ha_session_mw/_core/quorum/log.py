"""The log without a server: one member's part in it, as a state machine. Performs no I/O and reads no clock.

Every node keeps all entries it knows in a sequence of its own, and every node polls every other one for news since a
position. Denials and cuts only accumulate, so no order has to be agreed upon: it is enough that any two majorities share a
node. What this file leaves out: how polls travel, who retries them and when, and how batches get to the disk.

The caller holds one outstanding poll to each peer, hands every poll that arrives to :meth:`Quorum.arrived`, keeps the
holds it is given, and after *any* call here asks :meth:`Quorum.release` for each of them whether its answer is due.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ...events import FoundQuorum, LostQuorum, PossibleLoss
from ...models import Entry
from ..cluster.freshness import Moment
from ..cluster.members import UNKNOWN_END_MARGIN_MS, Heartbeat, MemberEvent, Members
from ..cluster.speaker import Speaker
from ..cluster.view import CUT_TRAVELS_MS, FLOOR_MARGIN_MS, View, last_end_ms
from .durability import DurablePrefix
from .fence import Fence
from .messages import VERSION, Answer, Batch, Poll, list_digest
from .peer import Peer
from .recovery import Memory, Recovery
from .sequence import Sequence

PAGE_ENTRIES = 4096
"""Entries in one answer or batch: some 200 kB, which a slow link moves well within a poll's time limit. An answer with more
is refused by whoever asked, in releases to come too."""

STARTING_HOLD_S = 0.05
"""How long a poll of a recovering member is held: it learns in rounds, and everybody waits for it."""

Standing = Literal["applied", "durable", "fenced"]


@dataclass(frozen=True, slots=True)
class Sent:
    """A poll on its way. To be handed back with its answer."""

    peer: str
    poll: Poll
    sent_s: float
    step: int


@dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """A poll that is kept waiting for news, until ``until_s`` (boot-time clock) at the latest."""

    peer: str
    until_s: float
    incarnation: str
    callee: str
    since: int
    recovering: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """Stands for everything that was appended up to one position of this node's sequence."""

    position: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """The node has learned what it may have forgotten, and serves."""


@dataclass(frozen=True, slots=True)
class OldFile:
    """A peer knows more of this node's sequence than its file does. The node starts anew, as if it had no file."""

    peer: str


@dataclass(frozen=True, slots=True)
class PeerMismatch:
    """A peer cannot be worked with: another member list, another version, or not who it is taken for."""

    peer: str
    why: Literal["list", "version", "identity"]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A peer claims to know more of this very process's sequence than there has ever been."""

    peer: str


QuorumEvent = Contradiction | MemberEvent | LostQuorum | FoundQuorum | PossibleLoss | Recovered | OldFile | PeerMismatch


class Quorum:
    """One process of a cluster with a fixed list of members.

    Args:
        view: what this node knows; changed by this object only.
        own: the heartbeat's constant parts. ``life`` must be random bits, new for each process.
        urls: all members, this one included.
        now: the moment of the start.
        heartbeat_s: how long a poll is held at the most.
        stored: the batches that were kept before; empty for a file that is new; None where nothing is kept.

    Raises:
        ValueError: the list does not name this member, or names one twice.
    """

    def __init__(
        self, view: View, own: Heartbeat, urls: Iterable[str], *, now: Moment, heartbeat_s: float, stored: Iterable[Batch] | None = None
    ) -> None:
        listed = list(urls)
        if own.url not in listed or len(set(listed)) < len(listed):
            raise ValueError(f"the list of members must name each of them once, {own.url!r} included, got {listed!r}")
        self.view = view
        self.me = own.url
        self.life = own.life
        self._majority = len(listed) // 2 + 1
        self.speaker: Speaker[QuorumEvent] = Speaker(view, own, majority=self._majority)
        self._digest = list_digest(listed)
        self._heartbeat_s = heartbeat_s
        self._peers = {url: Peer(url, now.boot_s) for url in listed if url != own.url}
        self._sequence = Sequence(view)
        self._stamp = 0
        """The running number of the newest answer."""
        self._fence = Fence(self._peers, self._majority)
        self._keeping = DurablePrefix(self._sequence, view, own.life, stored)
        self._recovery: Recovery | None = self._new_recovery()
        self._serving = False
        self._had_quorum = False
        self._majority_forgot = False
        """Whether so many had forgotten at once, as at a first start, that nobody may know what had been acknowledged."""
        self._settle(now)

    @property
    def members(self) -> Members:
        """The other members, by their heartbeats."""
        return self.speaker.members

    # What has to be kept on disk, and when.

    def unkept(self) -> Batch | None:
        """What is to be written and synced next; None if all is kept. Until it is, nothing of it is acknowledged or served."""
        return self._keeping.unkept(PAGE_ENTRIES, recovered=self._recovery is None)

    def everything(self) -> Batch:
        """All that must be kept, as one batch: what a file that has grown may be replaced with."""
        return self._keeping.everything(recovered=self._recovery is None)

    def kept(self, batch: Batch, now: Moment) -> None:
        """The batch has been written and synced."""
        self._keeping.kept(batch)
        self._settle(now)

    # Entries.

    def append(self, entries: Iterable[Entry], now: Moment) -> Receipt:
        """Apply entries here, and have the others told. Ask :meth:`standing` how far they have got."""
        for entry in entries:
            self._merge(entry)
        self._settle(now)
        # An entry that was known before lies somewhere up to the end. To wait for all of it is enough.
        return Receipt(self._sequence.last)

    def _merge(self, entry: Entry) -> None:
        if self.view.merge(entry):
            self._sequence.append(entry)

    def standing(self, receipt: Receipt) -> Standing:
        """``applied`` on this node; ``durable`` on a majority; ``fenced``: no request that starts now is accepted anywhere."""
        if receipt.position <= self._fence.fenced:
            return "fenced"
        return "durable" if receipt.position <= self._fence.durable else "applied"

    def fenced_by(self, receipt: Receipt) -> float | None:
        """The boot time at which waiting alone will have fenced it; None while it is not durable, for then no wait helps."""
        return self._fence.fenced_by(receipt.position, self.members.fence_wait_s)

    @property
    def position(self) -> int:
        """How far this node's own sequence reaches."""
        return self._sequence.last

    def has_reached(self, incarnation: str, position: int) -> bool:
        """Whether the sequence of that incarnation has been applied here up to there. One that nobody is any more counts as reached."""
        if incarnation == self.incarnation:
            return position <= self._sequence.last
        return all(position <= peer.read for peer in self._peers.values() if peer.callee == incarnation)

    # Polls of ours.

    def poll(self, peer: str, now: Moment) -> Sent:
        """The poll to send to a peer now."""
        to = self._peers[peer]
        message = Poll(
            version=VERSION,
            digest=self._digest,
            sender=self.me,
            heartbeat=self._heartbeat(now),
            incarnation=self.incarnation,
            sequence=self._keeping.position,
            recovering=self.recovering,
            callee=to.callee,
            position=to.position,
            callee_life=to.echo_life,
            echo=to.echo,
            silent=self._silent(now),
        )
        return Sent(peer, message, now.boot_s, self._recovery.begin() if self._recovery is not None else 0)

    def answered(self, sent: Sent, answer: Answer, now: Moment) -> None:
        """An answer came to a poll of ours."""
        peer = self._peers[sent.peer]
        if not self._belongs(peer, answer):
            return
        self.speaker.hear(peer.url, answer.heartbeat, now)
        peer.speaks_as(answer.incarnation)
        peer.sequence = max(peer.sequence, answer.upto)
        # The floor first. Entries that the peer has dropped are missing from its answer, and nobody else may tell us.
        self._raise_floor(answer.floor_ms)
        for entry in answer.entries:
            self._merge(entry)
        self._read(peer, sent, answer)
        if sent.poll.incarnation == self.incarnation:
            if answer.known > self._keeping.position:
                self._forget(peer, now)
            elif answer.complete:
                self._count(peer, sent, answer)
        self._settle(now)

    def _read(self, peer: Peer, sent: Sent, answer: Answer) -> None:
        """Note how far the peer's sequence has been read. Answers may overtake each other; the latest poll's decides."""
        if sent.sent_s < peer.read_sent_s:
            return
        peer.read_sent_s = sent.sent_s
        if answer.incarnation != peer.callee:
            peer.callee, peer.position = answer.incarnation, 0
            peer.unkept.clear()
        peer.unkept.append((self._sequence.last, answer.upto))
        if answer.heartbeat.life != peer.echo_life:
            peer.echo_life, peer.echo = answer.heartbeat.life, 0
        peer.echo = max(peer.echo, answer.stamp)

    def _count(self, peer: Peer, sent: Sent, answer: Answer) -> None:
        """A complete answer: all that the peer knew when it answered is known here, so all that it knew when asked."""
        if answer.memory == "whole":
            # The time of sending: what was acknowledged while the poll was under way may be missing from the answer.
            peer.fresh_s = max(peer.fresh_s, sent.sent_s)
            self._majority_forgot |= answer.majority_forgot
        if self._recovery is not None:
            self._recovery.learned(peer.url, answer.incarnation, sent.step, answer.memory, known_before=answer.known_before)

    # Polls of others.

    def arrived(self, poll: Poll, now: Moment) -> Answer | Hold:
        """A poll came in: the answer, if one is due, else the poll is to be held."""
        peer = self._peers.get(poll.sender)
        if peer is None or not self._belongs(peer, poll):
            return self._refusal(now)
        self.speaker.hear(peer.url, poll.heartbeat, now)
        peer.speaks_as(poll.incarnation)
        mine = poll.callee == self.incarnation
        if mine and poll.position > self._keeping.position:
            self._forget(peer, now)
        elif not self._is_older_file(peer, poll):
            peer.life, peer.sequence = poll.heartbeat.life, max(peer.sequence, poll.sequence)
            peer.polled_s = now.boot_s
            self._acknowledge(poll, mine=mine)
        self._settle(now)
        limit_s = min(STARTING_HOLD_S, self._heartbeat_s) if poll.recovering else self._heartbeat_s
        hold = Hold(peer.url, now.boot_s + limit_s, poll.incarnation, poll.callee, poll.position, self.recovering)
        peer.hold = hold
        return self.release(hold, now) or hold

    def _is_older_file(self, peer: Peer, poll: Poll) -> bool:
        """Whether the peer, started anew, has less than it once had: its acknowledgements prove nothing until it says so too."""
        return poll.heartbeat.life != peer.life and poll.sequence < peer.sequence

    def _acknowledge(self, poll: Poll, *, mine: bool) -> None:
        self._fence.heard(poll.sender, poll.incarnation, poll.echo if poll.callee_life == self.life else 0)
        if mine:
            self._fence.acknowledged(poll.sender, poll.position, poll.silent, self._stamp)

    def release(self, hold: Hold, now: Moment) -> Answer | None:
        """The answer to a held poll, if it is due by now."""
        peer = self._peers[hold.peer]
        due = (
            hold.callee != self.incarnation  # it has to learn who we are
            or self._keeping.position > hold.since  # news
            or now.boot_s >= hold.until_s
            or self._has_asked_again(peer, hold)
            or hold.recovering != self.recovering
            or self._fence.is_waiting_for(peer.url, self._keeping.position)
        )
        return self._answer(peer, hold, now) if due else None

    def _has_asked_again(self, peer: Peer, hold: Hold) -> bool:
        """Whether nobody waits for this hold. Of two processes with one URL both do: each would end the other's, over and over."""
        newest = peer.hold
        return isinstance(newest, Hold) and newest is not hold and newest.incarnation == hold.incarnation

    def _answer(self, peer: Peer, hold: Hold, now: Moment) -> Answer:
        self._stamp += 1
        peer.answered_s = now.boot_s
        # Its position means something in the sequence that it was given in, and in no other.
        since = hold.since if hold.callee == self.incarnation else 0
        entries, reached = self._sequence.page(since, self._keeping.position, PAGE_ENTRIES)
        return Answer(
            version=VERSION,
            digest=self._digest,
            sender=self.me,
            heartbeat=self._heartbeat(now),
            incarnation=self.incarnation,
            memory=self.memory,
            stamp=self._stamp,
            since=since,
            upto=reached,
            complete=reached == self._keeping.position,
            entries=tuple(entry for _, entry in entries),
            floor_ms=self.view.floor_ms,
            known=peer.sequence if hold.incarnation == peer.incarnation else 0,
            known_before=peer.changed,
            majority_forgot=self._majority_forgot,
        )

    def _refusal(self, now: Moment) -> Answer:
        """What somebody is told whose polls never count: who we are, so that its operator is told as well."""
        return Answer(
            version=VERSION,
            digest=self._digest,
            sender=self.me,
            heartbeat=self._heartbeat(now),
            incarnation=self.incarnation,
            memory=self.memory,
        )

    # Time, and what follows from all of the above.

    def tick(self, now: Moment) -> None:
        """Time has passed. To be called every heartbeat at the least, and at the moment that :meth:`fenced_by` names."""
        floor = self.speaker.tick(now)
        if floor is not None and not self.recovering:
            self._raise_floor(last_end_ms(floor))
            if self._majority_forgot:
                # Tokens from before the loss may list lost cuts, and must not wait for those for ever. A cut ends no earlier than
                # a whole life after it was made, so one that ends before was made minutes ago. No cut travels for that long.
                self.speaker.give_up_cuts(floor + FLOOR_MARGIN_MS + UNKNOWN_END_MARGIN_MS - CUT_TRAVELS_MS)
        self._settle(now)

    def _raise_floor(self, floor_ms: int) -> None:
        if self.speaker.raise_floor(floor_ms):
            self._sequence.forget_ended()

    def _settle(self, now: Moment) -> None:
        self._keeping.follow()
        for peer in self._peers.values():
            peer.keep(self._keeping.position)
        self._finish_recovery()
        self._fence.prove(self._keeping.position, self._silent(now), now_s=now.boot_s, wait_s=self.members.fence_wait_s)
        self.view.fresh_at = self._fresh_at()
        self._notice_turn(now)

    def _notice_turn(self, now: Moment) -> None:
        if (has_quorum := self.has_quorum(now)) != self._had_quorum:
            self._had_quorum = has_quorum
            self.speaker.note(FoundQuorum() if has_quorum else LostQuorum())

    def _finish_recovery(self) -> None:
        recovery = self._recovery
        if recovery is not None and recovery.complete:
            self._recovery = None
            self._majority_forgot |= recovery.majority_forgot
            # At a first start nobody has known us before, and there is nothing that anybody could have forgotten.
            if recovery.majority_forgot and (recovery.known_before or len(self.view)):
                self.speaker.note(PossibleLoss())
            self._keeping.confirm()
        if not self._serving and not self.recovering:
            self._serving = True
            self.speaker.note(Recovered())

    def _fresh_at(self) -> float:
        if self.recovering:
            return -math.inf
        if self._majority == 1:
            return math.inf
        return sorted(peer.fresh_s for peer in self._peers.values())[1 - self._majority]

    def _silent(self, now: Moment) -> tuple[str, ...]:
        """Whom we have not answered for so long that no lease can rest on us any more."""
        since = now.boot_s - self.members.fence_wait_s
        return tuple(peer.url for peer in self._peers.values() if peer.answered_s < since)

    # Amnesia.

    def _new_recovery(self) -> Recovery:
        return Recovery(others=len(self._peers), majority=self._majority, memory="unchecked" if self._keeping.unchecked else "lost")

    def _forget(self, peer: Peer, now: Moment) -> None:
        """The peer knows of entries that this node has acknowledged and lost: whatever it acknowledged is void."""
        if self.incarnation == self.life:
            # This very process gave all of its positions: it is the peer that errs.
            self.speaker.note(Contradiction(peer.url))
            return
        self.speaker.note(OldFile(peer.url))
        self._keeping.start_anew()
        self._serving = False
        self._recovery = self._new_recovery()
        self._fence.start_anew()
        for other in self._peers.values():
            other.fresh_s = -math.inf
            other.answered_s = now.boot_s

    # Who speaks.

    def _heartbeat(self, now: Moment) -> Heartbeat:
        return self.speaker.heartbeat(now, starting=self.recovering)

    def _belongs(self, peer: Peer, message: Poll | Answer) -> bool:
        """Whether a message comes from the peer, of our cluster, and can be read. A fault is told once, when it begins."""
        fault: Literal["list", "version", "identity"] | None = None
        if message.version != VERSION:
            fault = "version"
        elif message.digest != self._digest:
            fault = "list"
        elif message.sender != peer.url or message.heartbeat.url != peer.url:
            fault = "identity"
        if fault is not None and fault != peer.mismatch:
            self.speaker.note(PeerMismatch(peer.url, fault))
        peer.mismatch = fault
        return fault is None

    # What the caller may want to know.

    @property
    def incarnation(self) -> str:
        """What this node's acknowledgements and positions belong to."""
        return self._keeping.incarnation

    @property
    def recovering(self) -> bool:
        """Whether this node may have forgotten entries and not learned them again yet. It neither serves nor counts."""
        return self._recovery is not None or not self._keeping.learned

    @property
    def memory(self) -> Memory:
        """What this node knows of all that it ever acknowledged."""
        if not self.recovering:
            return "whole"
        return "unchecked" if self._keeping.unchecked else "lost"

    @property
    def mismatched(self) -> dict[str, str]:
        """The peers that cannot be worked with, and why."""
        return {url: peer.mismatch for url, peer in self._peers.items() if peer.mismatch is not None}

    def is_ready(self, now: Moment) -> bool:
        """Whether this node can judge sessions: it has learned enough, is fresh, and its clock and limits are the cluster's."""
        return self.speaker.is_ready(now)

    def has_quorum(self, now: Moment) -> bool:
        """Whether a majority has polled this node lately, so that an entry appended now will soon be durable."""
        limit_s = self.members.acceptance_limit_s
        polled = sum(now.boot_s - peer.polled_s <= limit_s for peer in self._peers.values())
        return polled + 1 >= self._majority

    def drain(self) -> None:
        """Say ``draining`` from the next message on."""
        self.speaker.draining = True

    def take_events(self) -> list[QuorumEvent]:
        """What has happened since this was last called."""
        return self.speaker.take_events()
