"""The log without a server: one member's part in it, as a state machine. Performs no I/O and reads no clock.

Every node keeps all entries it knows in a sequence of its own, and polls every other node for news since a position. Denials
and cuts only accumulate, so the nodes need not agree on an order: it is enough that any two majorities share a node. This file
leaves out how polls travel, when the driver retries them, and how batches get to the disk.

The driver keeps one poll to each peer outstanding and hands every poll that arrives to :meth:`Quorum.arrived`. Each call that
may change anything returns a :class:`Ready`: the driver sends its answers, writes its batch and reports its events. When the
time of a hold ends, the driver asks for :meth:`Quorum.ready`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from ...events import FoundQuorum, LostQuorum, PossibleLoss
from ...models import Cut, Deny, Entry
from ..cluster.freshness import Moment
from ..cluster.invariants import ensure
from ..cluster.members import UNKNOWN_END_MARGIN_MS, Heartbeat, Members, version_for
from ..cluster.speaker import Speaker
from ..cluster.view import CUT_TRAVELS_MS, FLOOR_MARGIN_MS, View, last_end_ms
from ..tally import SPREAD_S, Tally
from .ages import lag_s
from .amnesia import Amnesia
from .changing import Changing
from .composing import Composer
from .durability import DurablePrefix
from .fence import Fence
from .holds import Holds
from .membership import MARK, Membership
from .messages import Answer, Batch, Mismatch, Poll, Push
from .neighbours import Neighbours
from .peer import Peer, forget_freshness, majority_fresh_s, mismatched, not_answered_since, polled_since
from .provenance import Provenance
from .quiet_time import QuietTime
from .ready import Contradiction, Hold, ListsChanged, OldFile, QuorumEvent, Ready, Receipt, Recovered, Sent, Sought, Standing
from .recovery import Memory
from .sequence import Sequence

PAGE_ENTRIES = 4096
"""Most entries in one answer or batch: some 200 kB, which a slow link moves well within a poll's time limit. A node refuses an
answer with more, so later releases must not raise the number."""


PAGE_LIMIT_S = 1.0
"""How long a node that learns waits for the next page of one member before it reads another one. A page takes some milliseconds."""

PUSH_ENTRIES = 256
"""Most entries in one push. A call has 256 kB at most, and an entry with a long subject and list of cuts has about one."""


class OtherList(ValueError):
    """The file was written under another list than this node's. The text says what to do."""


class Quorum:
    """One process of a cluster with a list of members, which a new list may replace.

    Args:
        view: what this node knows. Only this object changes it.
        own: the heartbeat's constant parts. ``life`` must be random bits, new for each process.
        urls: all members, this one included; also those of the next list, while the list changes.
        now: the moment of the start.
        heartbeat_s: longest time for which a poll is held.
        stored: the batches of the file; empty if the file is new; None if the node has no file.
        coming: the members of the next list; empty while no change of the list is under way.

    Raises:
        ValueError: no list names this member, or one names a member twice.
        OtherList: the file was written under another list.
    """

    def __init__(
        self,
        view: View,
        own: Heartbeat,
        urls: Iterable[str],
        *,
        now: Moment,
        heartbeat_s: float,
        stored: Iterable[Batch] | None = None,
        coming: Iterable[str] = (),
    ) -> None:
        self.view = view
        self.me = own.url
        self.life = own.life
        self.membership = Membership(own.url, urls, coming)
        self._changing = Changing(self.membership, now.boot_s)
        self._sequence = Sequence(view)
        self.durable = DurablePrefix(self._sequence, view, own.life, stored)
        self.sync_lag = Tally(SPREAD_S)
        """For each entry that came from another member: the seconds since it was made."""
        self._continue_lists(self.durable.lists)
        self.speaker: Speaker[QuorumEvent] = Speaker(view, own, majority=self.majority)
        self.neighbours = Neighbours(self.membership, self.speaker, now)
        self.peers = self.neighbours.members
        self.holds = Holds(self.neighbours.all, heartbeat_s)
        self.quiet_time = QuietTime(self.me, self.speaker, self.peers, heartbeat_s)
        self.fence = Fence(self.membership.majorities)
        self.amnesia = Amnesia(self.durable, self.membership)
        self.provenance = Provenance(own.life, self._sequence)
        self.composer = Composer(self.membership, view, self._sequence, self.durable, self.amnesia, self.provenance, self.neighbours.all)
        self.page_entries = PAGE_ENTRIES
        """Most entries in one answer of this node."""
        self.serving = False
        self.left = False
        """Whether this process has left: it accepts no session from then on, whatever it learns."""
        self._first_hand = self._sequence.last
        """The newest position that this node tells the others at once. Later entries came from another member, which tells them, too."""
        self._awaited = 0
        """The newest position that somebody waits for."""
        self._had_quorum = False
        self._draw_conclusions(now)

    @property
    def members(self) -> Members:
        """The other members, by their heartbeats."""
        return self.speaker.members

    def _continue_lists(self, kept: tuple[str, ...]) -> None:
        for id in [id for id in self.view.denied.others if id.startswith(MARK)]:
            self._changing.note(id, self._sequence.last)
        if not self.membership.follows(kept):
            raise OtherList(self.membership.why_not_after(kept))
        # Until this node has learned enough to be sure of its lists, its file stays what it was.
        self.durable.lists = kept or self.membership.digests

    # Work for the driver.

    def ready(self, now: Moment) -> Ready:
        """Return what is due by now."""
        answers = (*self.holds.take_refused(), *self._release_holds(now))
        return Ready(answers, self._next_batch(), tuple(self.speaker.take_events()))

    def _next_batch(self) -> Batch | None:
        return self.durable.next_batch(PAGE_ENTRIES, recovered=self.amnesia.recovery is None)

    def kept(self, batch: Batch, now: Moment) -> Ready:
        """Count the batch as written and synced."""
        self.durable.kept(batch)
        return self._conclude(now)

    def not_kept(self, now: Moment) -> Ready:
        """Hand out the entries of the batch again, because the driver could not write it."""
        self.durable.take_back()
        return self._conclude(now)

    def everything(self) -> Iterator[Batch]:
        """Yield all that must be kept, in batches: the new content of a file that has grown. Entries may come in between."""
        return self.durable.everything(PAGE_ENTRIES, recovered=lambda: self.amnesia.recovery is None)

    # Entries.

    def append(self, entries: Iterable[Entry], now: Moment, *, awaited: bool = True) -> tuple[Receipt, Ready]:
        """Apply entries here and tell the others. :meth:`standing` of the receipt says how far they have got.

        Args:
            entries: the entries.
            now: the present moment.
            awaited: whether somebody waits until they are durable, or fenced. Otherwise they get there with the next messages.
        """
        self._merge_all(entries)
        self._first_hand = self._sequence.last
        if awaited:
            self._awaited = self._sequence.last
        self.composer.ages.note(self._sequence.last, now.boot_s)
        # An own entry proves nothing that was not proven before, unless there is nobody else.
        self.durable.follow()
        ready = self.ready(now) if self.peers else self._conclude(now)
        # An entry that was known before has an earlier position. The receipt of the newest position covers all of them.
        return Receipt(self._sequence.last), ready

    def seek_contact(self, now: Moment) -> tuple[Sought, Ready]:
        """Exchange a message with each peer soon; :meth:`is_found` of the first value says what that has shown."""
        self._awaited = self._sequence.last
        return self.fence.seek_contact(self._sequence.last, self.composer.stamp), self.ready(now)

    def is_found(self, sought: Sought) -> bool:
        """Return whether a majority has been in contact since then, and holds all entries from before."""
        return self.fence.is_found(sought)

    def _merge_all(self, entries: Iterable[Entry]) -> None:
        entries = [*entries]
        if len(entries) == 1:  # as each log-out of this node, at half the cost
            self._merge(entries[0])
            return
        facts = [entry for entry in entries if isinstance(entry, Deny) and entry.id.startswith(MARK)]
        others = [entry for entry in entries if not (isinstance(entry, Deny) and entry.id.startswith(MARK))] if facts else entries
        self._sequence.append_all(self.view.merge_all(others))
        for fact in facts:
            self._merge(fact)

    def _merge_columns(self, answer: Answer) -> None:
        self.view.denied.expect(answer.count)
        packed, others = self.view.merge_log_outs(answer.log_outs)
        self._sequence.append_packed(packed)
        self._sequence.append_all(others)

    def _merge(self, entry: Entry) -> None:
        if self.view.merge(entry):
            position = self._sequence.append(entry)
            if isinstance(entry, Deny) and entry.id.startswith(MARK) and self._changing.note(entry.id, position):
                self._change_lists()
                self._first_hand = self._awaited = position  # each node waits until it is fenced, whoever has made it

    def _change_lists(self) -> None:
        """Go by the majorities that are needed from now on."""
        majorities = self.membership.majorities
        self.fence.go_by(majorities)
        self.speaker.members.majority = majorities.least
        self.amnesia.go_by_lists()
        self.speaker.note(ListsChanged(self.membership.phase))

    def standing(self, receipt: Receipt) -> Standing:
        """Return ``applied`` (on this node), ``durable`` (on a majority) or ``fenced`` (no later request is accepted anywhere)."""
        if receipt.position <= self.fence.fenced:
            return "fenced"
        return "durable" if receipt.position <= self.fence.durable else "applied"

    def may_lose(self, cut: Cut) -> bool:
        """Return whether a cut that this node knows may be lost: it is not known that a majority holds it, wherever it came from."""
        return self._sequence.cuts.get(cut.id, 0) > self.fence.durable

    def fenced_by(self, receipt: Receipt) -> float | None:
        """Return the boot time at which waiting alone fences it; None while it is not durable: waiting does not help then."""
        return self.fence.fenced_by(receipt.position, self.members.fence_wait_s)

    @property
    def position(self) -> int:
        """The newest position of this node's own sequence."""
        return self._sequence.last

    @property
    def first_hand(self) -> int:
        """The position of the newest entry that this node has made. The node tells the others of it, and of all before, at once."""
        return self._first_hand

    def has_reached(self, incarnation: str, position: int) -> bool:
        """Return whether this node has applied that sequence up to there. The sequence of a past incarnation counts as reached."""
        if incarnation == self.incarnation:
            return position <= self._sequence.last
        return all(position <= peer.read for peer in self.peers.values() if peer.callee == incarnation)

    # Polls of this node.

    def poll(self, peer: str, now: Moment, *, at_once: bool = False) -> Sent:
        """Return the poll to send to a peer now.

        Args:
            peer: its URL.
            now: the present moment.
            at_once: whether the peer is to answer at once, because something waits for what it knows now.
        """
        hold_s = self._hold_s(self.peers[peer], now, at_once=at_once)
        message = self.composer.poll(self.peers[peer], self.heartbeat(now), self._silent(now), hold_s)
        return Sent(peer, message, now.boot_s, self.amnesia.begin_poll())

    def _hold_s(self, peer: Peer, now: Moment, *, at_once: bool) -> float | None:
        # A peer that was silent for longer than a lease is back, or this node is: it serves again by the first answer.
        lease_s = now.boot_s - self.members.acceptance_limit_s
        if at_once or (peer.fresh_s < lease_s and min(peer.heard_s, majority_fresh_s(self.peers, self.membership.majorities)) < lease_s):
            return 0.0
        # The next poll acknowledges entries that this node has yet to keep.
        return self.quiet_time.hold_now_s(self.position, now) if self._is_settled() and not peer.unkept else None

    def _is_settled(self) -> bool:
        """Return whether nothing but news is to be expected of this node itself."""
        return not (self.is_starting or self.left or self.speaker.draining or self.membership.is_joint or self.neighbours.guests)

    def reads_another_first(self, peer: str, now: Moment) -> bool:
        """Return whether the next poll to a peer is to wait, because this node learns from another one what the two have in common."""
        if not (self.recovering and self.peers[peer].is_behind):
            return False
        lives = {other.echo_life for other in self.peers.values()}
        since_s = now.boot_s - PAGE_LIMIT_S
        teachers = {
            url: sum(life in lives for life, _ in other.told)
            for url, other in self.peers.items()
            if other.is_behind and other.paged_s >= since_s
        }
        return bool(teachers) and peer != max(teachers, key=lambda url: (teachers[url], url))

    def answered(self, sent: Sent, answer: Answer, now: Moment) -> Ready:
        """Take in the answer to a poll of this node."""
        peer = self.peers[sent.peer]
        if self.neighbours.is_understood(peer, answer, now):
            self._learn(peer, sent, answer, now)
        return self._conclude(now)

    def _learn(self, peer: Peer, sent: Sent, answer: Answer, now: Moment) -> None:
        peer.delay_s = now.boot_s - sent.sent_s - self.quiet_time.held_s(sent.poll)
        asked = sent.poll.position if sent.poll.callee == answer.incarnation else 0
        lag = lag_s(answer.age_s, sent_s=sent.sent_s, now_s=now.boot_s, held_s=answer.held_s)
        self._merge_answer(peer, answer, now, lag, asked=asked)
        peer.note_read(answer, sent.sent_s, own_position=self._sequence.last)
        if not answer.complete:
            peer.paged_s = now.boot_s
        if sent.poll.incarnation == self.incarnation:
            if answer.known > self.durable.position:
                self._start_anew(peer, now)
            elif answer.complete and self.neighbours.counts(peer, answer):
                self._credit(peer, sent, answer)

    def _merge_answer(self, peer: Peer, answer: Answer, now: Moment, lag_s: float | None, *, asked: int) -> None:
        self.speaker.hear(peer.url, answer.heartbeat, now)
        peer.speaks_as(answer.incarnation)
        peer.sequence = max(peer.sequence, answer.upto)
        # The floor first. Entries that the peer has dropped are missing from its answer, and no other message may carry them.
        self._raise_floor(answer.floor_ms)
        before = self._sequence.last
        if answer.ends:
            self._merge_columns(answer)
        self._merge_all(answer.entries)
        self.provenance.merged(answer, before, asked=asked)
        if (news := self._sequence.last - before) > 0:
            # Another member that reads it here learns its whole age. A node that learns all anew does not lag.
            self.composer.ages.note(self._sequence.last, now.boot_s - (lag_s or 0.0))
            if lag_s is not None and not self.recovering:
                self.sync_lag.observe(lag_s, news)

    def _credit(self, peer: Peer, sent: Sent, answer: Answer) -> None:
        """Count a complete answer: this node now knows all entries that the peer knew when this node polled it."""
        if answer.memory == "whole":
            # The time of sending: what was acknowledged while the poll was under way may be missing from the answer.
            peer.fresh_s = max(peer.fresh_s, sent.sent_s)
        self.amnesia.learned(peer.url, answer, sent.step)

    # Polls of others.

    def arrived(self, poll: Poll, now: Moment) -> tuple[Hold, Ready]:
        """Take in a poll of another member, and hold it. If its answer is due at once, the returned :class:`Ready` has it."""
        peer = self.neighbours.asks(poll, now)
        if peer is not None:
            # A process that has said good-bye polls for its open streams alone. A guest counts for nothing.
            if peer.url in self.peers and not peer.has_gone(poll.heartbeat.life):
                self._hear_poll(peer, poll, now)
            self._draw_conclusions(now)
            hold = self.holds.hold(poll, now, recovering=self.recovering)
        else:
            version = version_for(self.members.own.protocol, poll.heartbeat)
            refusal = self.composer.refusal(self.heartbeat(now), version)
            hold = self.holds.refuse(poll, refusal, now, recovering=self.recovering)
        return hold, self.ready(now)

    def _hear_poll(self, peer: Peer, poll: Poll, now: Moment) -> None:
        self.speaker.hear(peer.url, poll.heartbeat, now)
        if not self.neighbours.counts(peer, poll):
            return
        peer.speaks_as(poll.incarnation)
        mine = poll.callee == self.incarnation
        if mine and poll.position > self.durable.position:
            self._start_anew(peer, now)
        elif not peer.has_older_file(poll):
            peer.life, peer.sequence = poll.heartbeat.life, max(peer.sequence, poll.sequence)
            peer.polled_s = now.boot_s
            peer.fetched = poll.position if mine else 0
            self.fence.heard(poll.sender, poll.incarnation, poll.echo if poll.callee_life == self.life else 0)
            if mine:
                self.fence.acknowledged(poll.sender, poll.position, poll.silent, self.composer.stamp)
                if poll.applied is not None and poll.callee_life == self.life:
                    self.fence.applied(poll.sender, poll.applied, poll.echo)

    @property
    def held(self) -> tuple[Hold, ...]:
        """The polls of others that wait for their answer."""
        return self.holds.held

    def drop(self, hold: Hold) -> None:
        """Forget a held poll whose sender waits no longer."""
        self.holds.drop(hold)

    def _release_holds(self, now: Moment) -> list[tuple[Hold, Answer]]:
        if self.holds.are_none():
            return []
        due = self.holds.release(
            now,
            self.fence,
            incarnation=self.incarnation,
            position=(kept := self.durable.position),
            first_hand=min(kept, self._first_hand),
            awaited=min(kept, self._awaited),
            recovering=self.recovering,
            last=self._sequence.last,
            hears_few=not self.has_quorum(now, within_s=self.quiet_time.ageing_s),
            expected=polled_since(self.peers, now.boot_s - self.members.acceptance_limit_s),
        )
        return [(hold, self._answer(hold, now)) for hold in due]

    def _answer(self, hold: Hold, now: Moment) -> Answer:
        self.neighbours.all[hold.peer].has_answered(hold.life, now.boot_s, asked_s=hold.since_s)
        return self.composer.answer(hold, self.heartbeat(now), now, limit=self.page_entries)

    # Pushes: answers without a poll, from a node that the others do not poll, or that leaves.

    def wants_push(self, peer: str, now: Moment, *, after_s: float) -> bool:
        """Return whether entries of this node wait for a peer that has not polled for so long.

        The peer lacks some, or has yet to be heard again, as :meth:`.Fence.is_waiting_for` says.
        """
        to, kept = self.peers[peer], self.durable.position
        silent_s = now.boot_s - max(to.polled_s, to.answered_s)
        if peer not in self.fence.members or silent_s < after_s or any(hold.peer == peer for hold in self.held):
            return False
        return to.fetched < kept > self.fence.fenced or self.fence.is_waiting_for(peer, kept)

    def has_kept(self, peer: str) -> bool:
        """Return whether this node keeps all that it has read of a peer, so that its next poll acknowledges it."""
        return not self.peers[peer].unkept

    def leave(self, now: Moment) -> Ready:
        """Accept no session from now on. Only after that may a good-bye be sent, because no log-out waits for this node any more."""
        self.left = True
        self.holds.stop()
        return self._conclude(now)

    def push(self, peer: str, now: Moment) -> Push:
        """Return what to send to a peer that does not fetch it; a good-bye if this node has left."""
        to = self.peers[peer]
        asked = Hold(peer, now.boot_s, to.incarnation, self.incarnation, to.fetched, self.recovering, to.life)
        answer = self.composer.answer(asked, self.heartbeat(now), now, limit=PUSH_ENTRIES)
        return Push(answer=answer, callee_life=to.echo_life, leaves=self.left)

    def pushed(self, push: Push, now: Moment) -> Ready:
        """Take in what a peer has pushed. :meth:`poll` then acknowledges it, once it is kept."""
        answer = push.answer
        peer = self.peers.get(answer.sender)
        if peer is None or not self.neighbours.is_understood(peer, answer, now):
            return self.ready(now)
        lag = lag_s(answer.age_s, sent_s=now.boot_s, now_s=now.boot_s, held_s=0.0)
        self._merge_answer(peer, answer, now, lag, asked=answer.since)
        # It makes this node no fresher: this node sent nothing before which the peer must have known all this.
        peer.note_pushed(answer, now.boot_s, own_position=self._sequence.last)
        if push.leaves:
            peer.said_good_bye(answer.heartbeat.life, to_me=push.callee_life == self.life)
            self.speaker.take_leave(peer.url, answer.heartbeat.life)
        return self._conclude(now)

    def push_answered(self, peer: str, poll: Poll, now: Moment) -> Ready:
        """Take in the poll by which a peer acknowledges a push. Nothing is held for it."""
        if self.neighbours.is_understood(self.peers[peer], poll, now):
            self._hear_poll(self.peers[peer], poll, now)
        return self._conclude(now)

    # Time and conclusions.

    def tick(self, now: Moment) -> Ready:
        """Let time pass. The driver calls it every heartbeat at least, and at the moment that :meth:`fenced_by` names."""
        self._sequence.forget_some()
        floor = self.speaker.tick(now)
        if floor is not None and not self.recovering:
            self._raise_floor(last_end_ms(floor))
            if self.amnesia.majority_forgot:
                # Tokens from before the loss may list lost cuts, and must not wait for these for ever. A cut ends a whole life after
                # it was made, or later. So a cut that ends earlier than this was made minutes ago, and no cut travels that long.
                self.speaker.give_up_cuts(floor + FLOOR_MARGIN_MS + UNKNOWN_END_MARGIN_MS - CUT_TRAVELS_MS)
        return self._conclude(now)

    def _raise_floor(self, floor_ms: int) -> None:
        if self.speaker.raise_floor(floor_ms):
            self._sequence.forget_some()

    def _conclude(self, now: Moment) -> Ready:
        self._draw_conclusions(now)
        return self.ready(now)

    def _draw_conclusions(self, now: Moment) -> None:
        self._advance_change(now)
        self.durable.follow()
        for peer in self.peers.values():
            peer.acknowledge_kept(self.durable.position)
        self._finish_learning(now)
        self.fence.prove(
            self.durable.position, self._silent(now), stamp=self.composer.stamp, now_s=now.boot_s, wait_s=self.members.fence_wait_s
        )
        self._sequence.forget_cuts(self.fence.durable)
        self.view.fresh_at = self._fresh_at()
        if (has_quorum := self.has_quorum(now)) != self._had_quorum:
            self._had_quorum = has_quorum
            self.speaker.note(FoundQuorum() if has_quorum else LostQuorum())

    def _advance_change(self, now: Moment) -> None:
        if self.membership.is_joint and not self.recovering:
            members, fresh_s = self.members, majority_fresh_s(self.peers, self.membership.majorities)
            act = self._changing.next_act(
                self.peers, self.fence, fresh_s, now, wait_s=members.fence_wait_s, limit_s=members.acceptance_limit_s
            )
            if act is not None:
                self._merge(act)
                self._first_hand = self._awaited = self._sequence.last  # the next act waits until it is fenced

    def _finish_learning(self, now: Moment) -> None:
        is_claimed = self.neighbours.is_claimed(now.boot_s - self.members.fence_wait_s)
        if self.amnesia.conclude(is_claimed=is_claimed, knows_entries=bool(len(self.view))):
            self.speaker.note(PossibleLoss())
        if not self.serving and not self.is_starting:
            self.serving = True
            self.speaker.note(Recovered())

    def _fresh_at(self) -> float:
        if self.recovering or self.left or not self.membership.serves:
            return -math.inf
        return majority_fresh_s(self.peers, self.membership.majorities)

    def _silent(self, now: Moment) -> tuple[str, ...]:
        """Return the members that this node has not answered for so long that no lease can rest on its answers any more."""
        return not_answered_since(self.peers, now.boot_s - self.members.fence_wait_s)

    # Amnesia.

    def _start_anew(self, peer: Peer, now: Moment) -> None:
        """Void all acknowledgements of this node: the peer knows of entries that this node has acknowledged and lost."""
        if self.incarnation == self.life:
            # This very process gave all of its positions, so the peer is wrong.
            self.speaker.note(Contradiction(peer.url))
            return
        self.speaker.note(OldFile(peer.url))
        self.amnesia.begin()
        self.serving = False
        self.fence.start_anew()
        forget_freshness(self.peers, now.boot_s)

    # Messages of this cluster, and others.

    def heartbeat(self, now: Moment) -> Heartbeat:
        """Return the next heartbeat of this node."""
        return self.speaker.heartbeat(now, starting=self.is_starting)

    # State, for the driver.

    @property
    def incarnation(self) -> str:
        """The name under which this node acknowledges and gives positions. A node that has forgotten takes a new one."""
        return self.durable.incarnation

    @property
    def recovering(self) -> bool:
        """Whether this node may have forgotten entries and not learned them again yet. It neither serves nor counts."""
        return self.amnesia.lasts

    @property
    def is_starting(self) -> bool:
        """Whether this node may not validate sessions yet, or not any more: it learns, or the lists in force do not name it."""
        return self.recovering or not self.membership.serves

    @property
    def majority(self) -> int:
        """How many members make a quorum; of two lists in force, of the smaller one."""
        return self.membership.majorities.least

    @property
    def memory(self) -> Memory:
        """How much this node knows of all that it ever acknowledged."""
        return self.amnesia.memory

    @property
    def mismatched(self) -> dict[str, Mismatch]:
        """The peers that this node cannot work with, and why."""
        return mismatched(self.peers)

    def is_ready(self, now: Moment) -> bool:
        """Return whether this node can validate sessions: it has learned enough, is fresh, and its clock and limits are the cluster's."""
        return self.speaker.is_ready(now)

    def has_quorum(self, now: Moment, *, within_s: float | None = None) -> bool:
        """Return whether a majority has polled this node lately, so that an entry appended now will soon be durable.

        Args:
            now: the time.
            within_s: how lately; by default within the lease of a node.
        """
        since_s = now.boot_s - (self.members.acceptance_limit_s if within_s is None else within_s)
        return self.membership.majorities.reached(polled_since(self.peers, since_s))

    def drain(self) -> None:
        """Say ``draining`` from the next message on, and send one soon."""
        self.speaker.draining = True
        self.holds.stop()

    def check(self, now: Moment) -> None:
        """Check the invariants that hold after each call.

        Raises:
            InvariantBroken: an invariant does not hold.
        """
        self.view.check()
        self.members.check()
        self._sequence.check()
        self.durable.check()
        self.amnesia.check()
        self.fence.check(self._sequence.last, self.composer.stamp)
        fresh_s = self.view.fresh_at
        ensure(not (self.recovering or self.left) or fresh_s == -math.inf, "a node that is recovering, or has left, is not fresh")
        ensure(fresh_s == math.inf or fresh_s <= now.boot_s, "no node is fresh as of a time to come")
        ensure(self.membership.serves or fresh_s == -math.inf, "a node that the lists in force do not name is not fresh")
        ensure(self.incarnation == self.life or self.durable.stores, "only a node with a file continues an earlier incarnation")
        self.holds.check(now)
