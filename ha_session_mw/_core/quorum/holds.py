"""The polls of other members that this node holds until it has news."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..cluster.freshness import Moment
from ..cluster.invariants import ensure
from .fence import Fence
from .messages import Answer, Poll
from .peer import Peer
from .quiet_time import LONG_QUIET_HEARTBEATS
from .ready import Hold

STARTING_HOLD_S = 0.05
"""How long a node holds the poll of a recovering member. That member learns in rounds, and the cluster waits for it."""

SECOND_HAND_S = 0.1
"""How long a poll is held although there is news, if all of it came from another member. The sender mostly has it from there by then.
One that is behind has it from nowhere, and is answered at once."""


TOGETHER_S = 0.1
"""How long a poll that acknowledges an entry waits for the acknowledgements of the others. In a healthy cluster they come within that."""


class Holds:
    """Holds polls, and releases each when its answer is due.

    Args:
        peers: the other members, by their URL.
        limit_s: longest time for which a poll is held: a heartbeat, or several if its sender allows that.
    """

    def __init__(self, peers: Mapping[str, Peer], limit_s: float) -> None:
        self._peers = peers
        self.limit_s = limit_s
        self._held: list[Hold] = []
        self._refused: list[tuple[Hold, Answer]] = []
        self._hurries = False
        self._is_stopping = False

    @property
    def held(self) -> tuple[Hold, ...]:
        """The polls that wait for their answer."""
        return tuple(self._held)

    def are_none(self) -> bool:
        """Return whether no poll waits, as mostly in a storm of log-outs."""
        return not self._held

    def hold(self, poll: Poll, now: Moment, *, recovering: bool) -> Hold:
        """Hold a peer's poll until :meth:`release`.

        Args:
            poll: the poll.
            now: the moment of its arrival.
            recovering: whether this node is recovering.
        """
        hold = self._new(poll, now, recovering=recovering)
        if poll.hold_s != 0:  # the answer to a question is no reason to stop waiting for news
            self._peers[poll.sender].newest_hold = hold
        self._held.append(hold)
        return hold

    def refuse(self, poll: Poll, answer: Answer, now: Moment, *, recovering: bool) -> Hold:
        """Keep a poll and its answer until :meth:`take_refused`, because the sender is no peer that this node can work with."""
        hold = self._new(poll, now, recovering=recovering)
        self._refused.append((hold, answer))
        return hold

    def _new(self, poll: Poll, now: Moment, *, recovering: bool) -> Hold:
        limit_s = min(STARTING_HOLD_S, self.limit_s) if poll.recovering else self._allowed_s(poll)
        until_s = now.boot_s + limit_s
        return Hold(
            poll.sender,
            until_s,
            poll.incarnation,
            poll.callee,
            poll.position,
            recovering,
            poll.heartbeat.life,
            now.boot_s,
            poll.read,
            poll.applied or 0,
            by_column=bool(poll.by_column),
        )

    def _allowed_s(self, poll: Poll) -> float:
        if poll.hold_s is None:
            return self.limit_s
        return max(0.0, min(poll.hold_s, self.limit_s * (1 if self._is_stopping else LONG_QUIET_HEARTBEATS)))

    def hurry(self) -> None:
        """Have all polls answered by the next :meth:`release`: this node has something to say about itself."""
        self._hurries = True

    def stop(self) -> None:
        """Hold no poll for longer than a heartbeat from now on: this node stops, and its server waits for their answers."""
        self._is_stopping = True
        self.hurry()

    def drop(self, hold: Hold) -> None:
        """Forget a held poll whose sender waits no longer."""
        if hold in self._held:
            self._held.remove(hold)

    def take_refused(self) -> list[tuple[Hold, Answer]]:
        """Return the refused polls with their answers, each once."""
        refused, self._refused = self._refused, []
        return refused

    def release(
        self,
        now: Moment,
        fence: Fence,
        *,
        incarnation: str,
        position: int,
        first_hand: int,
        awaited: int,
        recovering: bool,
        last: int = 0,
        hears_few: bool = False,
        expected: Collection[str] = (),
    ) -> list[Hold]:
        """Return the polls whose answer is due, each once.

        Args:
            now: the present moment.
            fence: knows the peers whose acknowledgement, or sign of contact, something waits for.
            incarnation: the incarnation of this node.
            position: the newest durable position of its sequence.
            first_hand: the newest of them whose entry this node has made.
            awaited: the newest of them that somebody waits for.
            recovering: whether this node is recovering.
            last: the newest position. While some are not durable here, polls are held for a heartbeat: they show who is in contact.
            hears_few: whether no majority has polled this node lately. Then polls are held for a heartbeat, too.
            expected: the peers that will acknowledge ``awaited`` soon, if they have not yet.
        """
        heartbeat_only = last > position or hears_few
        due = [
            hold
            for hold in self._held
            if hold.callee != incarnation  # the sender must learn this node's incarnation
            or (first_hand if self._may_hear_others(hold, now) else position) > self._known(hold, fence, awaited)  # news
            or now.boot_s >= hold.until_s
            or self._hurries
            or (heartbeat_only and now.boot_s >= hold.since_s + self.limit_s)
            or self._was_superseded(hold)
            or hold.recovering != recovering
            or (not self._is_gone(hold) and self._proves(hold, now, fence, awaited, expected))
        ]
        self._hurries = False
        if due:
            self._held = [hold for hold in self._held if hold not in due]
        return due

    def _may_hear_others(self, hold: Hold, now: Moment) -> bool:
        """Return whether a sender may still have the entries of other members from those. One that is behind says what it has."""
        return hold.read is None and now.boot_s < hold.since_s + SECOND_HAND_S

    def _known(self, hold: Hold, fence: Fence, awaited: int) -> int:
        """Return up to where a sender has what this node has. While a log-out waits, its next poll may prove that it has applied it."""
        return hold.since if fence.fenced < awaited else max(hold.since, hold.applied)

    def _proves(self, hold: Hold, now: Moment, fence: Fence, awaited: int, expected: Collection[str]) -> bool:
        """Return whether to answer a poll because the sender's next one can prove a position, or a contact.

        An answer that comes before an acknowledgement cannot prove that the two senders hold the entry at one instant.
        So it waits until all have acknowledged: one more round trip then proves them all.
        """
        if fence.seeks(hold.peer):
            return True
        is_late = now.boot_s >= hold.since_s + TOGETHER_S
        return fence.is_waiting_for(hold.peer, awaited) and (is_late or fence.have_acknowledged(expected, awaited))

    def _is_gone(self, hold: Hold) -> bool:
        """Return whether the sender has said good-bye since, or before: no log-out waits for its poll."""
        return self._peers[hold.peer].has_gone(hold.life)

    def _was_superseded(self, hold: Hold) -> bool:
        """Return whether the sender has polled again. Two processes with one URL do not count: each would end the other's hold."""
        newest = self._peers[hold.peer].newest_hold
        return newest is not None and newest is not hold and newest.incarnation == hold.incarnation

    def check(self, now: Moment) -> None:
        """Check the invariants that hold after each call.

        Raises:
            InvariantBroken: an invariant does not hold.
        """
        for hold in self._held:
            longest_s = LONG_QUIET_HEARTBEATS * self.limit_s
            ensure(hold.until_s <= now.boot_s + longest_s, "no poll is held for longer than in a quiet time")
