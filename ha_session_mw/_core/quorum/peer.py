"""The knowledge that one node of ``peers://`` has of another, and its open duties towards it."""

from __future__ import annotations

import math
from collections import deque

from ...version import Versions
from .majorities import Majorities
from .membership import Standing
from .messages import Answer, Mismatch, Poll, Read
from .ready import Hold
from .spoken import Spoken

MOST_GONE = 16
"""How many processes of a member are remembered that said good-bye: more than restart while a poll is held."""


class Peer:
    """One other member: its identity, its sequence as read here, and its polls."""

    __slots__ = (
        *("answered_before_s", "answered_life", "answered_s", "asked_s", "callee", "changed"),
        *("delay_s", "echo", "echo_life", "fetched", "fresh_s", "_gone"),
        *("heard_s", "incarnation", "is_behind", "life", "paged_s", "standing"),
        *("mismatch", "newest_hold", "polled_s", "position", "read_sent_s", "sequence", "spoken", "told", "unheard_s", "unkept", "url"),
    )

    def __init__(self, url: str, now_s: float, protocol: Versions) -> None:
        self.url = url
        self.spoken = Spoken(protocol)
        self.mismatch: Mismatch | None = None
        self.standing: Standing | None = None
        """Its lists, as its newest message named them."""
        self.heard_s = -math.inf
        """When that message came."""
        # Its identity.
        self.incarnation = ""
        self.life = ""
        self.sequence = 0
        """The newest position of its own sequence that this node has heard of."""
        self.changed = False
        """Whether this node has heard it as another incarnation before."""
        # Its sequence, read by this node.
        self.callee = ""
        self.position = 0
        self.unkept: deque[tuple[int, int]] = deque()
        """Its positions beyond ``position``, each behind the position of the own sequence that must be kept first."""
        self.is_behind = True
        """Whether this node may have much of it to read: the newest answer was not complete, or of a member that learns itself."""
        self.paged_s = -math.inf
        """When the newest answer came that was not complete."""
        self.told: Read = ()
        """Whose sequences are in its own, as its newest answer says."""
        self.read_sent_s = -math.inf
        self.echo = 0
        self.echo_life = ""
        self.delay_s = 0.0
        """How much later its newest answer came than it had to: the round trip, and the waits of two busy nodes."""
        self.fresh_s = -math.inf
        """When this node sent the newest poll that the peer answered completely, and not recovering itself."""
        # The sequence of this node, read by it.
        self.newest_hold: Hold | None = None
        """Its newest poll that was held."""
        self.polled_s = -math.inf
        self.fetched = 0
        """Up to where its newest poll acknowledged the sequence of this node."""
        self.answered_life = ""
        """Its process that this node answered last."""
        self.answered_s = -math.inf
        """When this node last answered that process."""
        self.asked_s = -math.inf
        """When the newest poll came that this node has answered to that process. A lease that rests on the answer began before."""
        self.answered_before_s = -math.inf
        """The same of any other process of it."""
        self.unheard_s = now_s
        """When an earlier process of this node may last have answered it: this process cannot know."""
        self._gone: deque[str] = deque(maxlen=MOST_GONE)
        """Its processes that said good-bye, the last one at the end."""

    def speaks_as(self, incarnation: str) -> None:
        """Note the incarnation of the peer. Facts about one incarnation say nothing about the next."""
        if incarnation != self.incarnation:
            self.changed |= bool(self.incarnation)
            self.incarnation, self.sequence = incarnation, 0

    def has_older_file(self, poll: Poll) -> bool:
        """Return whether it has restarted with less than it once had. Until it says so too, its acknowledgements prove nothing."""
        return poll.heartbeat.life != self.life and poll.sequence < self.sequence

    @property
    def read(self) -> int:
        """The newest position of its sequence that has been applied here, kept or not."""
        return self.unkept[-1][1] if self.unkept else self.position

    def note_read(self, answer: Answer, sent_s: float, *, own_position: int) -> None:
        """Note how far its sequence has been read. Answers may overtake each other: of its processes, the latest poll's answer decides.

        Args:
            answer: its answer, whose entries have been applied.
            sent_s: when the poll was sent.
            own_position: the position of the own sequence that holds all of these entries.
        """
        if sent_s < self.read_sent_s and (answer.incarnation, answer.heartbeat.life) != (self.callee, self.echo_life):
            return
        self.read_sent_s = max(self.read_sent_s, sent_s)
        if answer.incarnation != self.callee:
            self.callee, self.position = answer.incarnation, 0
            self.unkept.clear()
        self.is_behind, self.told = not answer.complete or answer.memory != "whole", answer.read
        if answer.upto > self.read:
            self.unkept.append((own_position, answer.upto))
        if answer.heartbeat.life != self.echo_life:
            self.echo_life, self.echo = answer.heartbeat.life, 0
        self.echo = max(self.echo, answer.stamp)

    def note_pushed(self, answer: Answer, now_s: float, *, own_position: int) -> None:
        """Note how far an answer reaches for which this node did not poll, unless entries before it are missing here, or it is old news.

        Args:
            answer: the answer, whose entries have been applied.
            now_s: the boot-time clock.
            own_position: the position of the own sequence that holds all of these entries.
        """
        read = self.read if answer.incarnation == self.callee else 0
        if answer.since <= read <= answer.upto:
            self.note_read(answer, now_s, own_position=own_position)

    def has_answered(self, life: str, now_s: float, *, asked_s: float) -> None:
        """Note that this node answers a poll of that process. A process that said good-bye holds no lease, whatever it asks.

        Args:
            life: the process.
            now_s: the boot-time clock.
            asked_s: when the poll came.
        """
        if self.has_gone(life):
            return
        if life != self.answered_life:
            self.answered_before_s = max(self.answered_before_s, self.asked_s)
            self.answered_life, self.asked_s = life, -math.inf
        self.answered_s = now_s
        self.asked_s = max(self.asked_s, min(asked_s, now_s))

    @property
    def may_rely_since_s(self) -> float:
        """The time since which no answer of this node can be the ground of a lease that it still has."""
        return max(self.asked_s, self.answered_before_s, self.unheard_s)

    def has_gone(self, life: str) -> bool:
        """Return whether that process has said good-bye. A poll that it left behind may be answered long afterwards."""
        return life in self._gone

    def said_good_bye(self, life: str, *, to_me: bool) -> None:
        """Note that a process of this member accepts no session any more.

        Args:
            life: the process.
            to_me: whether it spoke to this very process of this node, and not to an earlier one.
        """
        self._gone.append(life)
        self.polled_s = -math.inf
        if life == self.answered_life:
            self.answered_s = self.asked_s = -math.inf
        if to_me:
            # An earlier process of this node has answered this process at most, or earlier ones, which had ended. A later process of the
            # member began after this one had spoken to this very process of this node.
            self.unheard_s = -math.inf

    def acknowledge_kept(self, own_position: int) -> None:
        """Acknowledge the entries read so far, because the own sequence is kept up to ``own_position``."""
        while self.unkept and self.unkept[0][0] <= own_position:
            self.position = max(self.position, self.unkept.popleft()[1])


Peers = dict[str, Peer]
"""All other members, by their URL."""


def majority_fresh_s(peers: Peers, majorities: Majorities) -> float:
    """Return when this node had polled enough peers to know, together with them, all that a majority knew then."""
    return majorities.common({url: peer.fresh_s for url, peer in peers.items()})


def not_answered_since(peers: Peers, boot_s: float) -> tuple[str, ...]:
    """Return the peers with no lease that rests on an answer of this node to a poll from since then."""
    return tuple(url for url, peer in peers.items() if peer.may_rely_since_s < boot_s)


def polled_since(peers: Peers, boot_s: float) -> list[str]:
    """Return the peers that have polled this node since then."""
    return [url for url, peer in peers.items() if peer.polled_s >= boot_s]


def lists_heard_since(peers: Peers, boot_s: float) -> dict[str, tuple[str, ...]]:
    """Return the lists of each peer heard since then."""
    return {url: peer.standing.lists for url, peer in peers.items() if peer.standing is not None and peer.heard_s >= boot_s}


def mismatched(peers: Peers) -> dict[str, Mismatch]:
    """Return the peers that this node cannot work with, and why. One that is ahead in a change of the list is none of them."""
    return {url: peer.mismatch for url, peer in peers.items() if peer.mismatch not in (None, "change")}


def forget_freshness(peers: Peers, now_s: float) -> None:
    """Forget how fresh the peers made this node: it has begun a new incarnation, whose answers begin now."""
    for peer in peers.values():
        peer.fresh_s, peer.unheard_s = -math.inf, now_s
