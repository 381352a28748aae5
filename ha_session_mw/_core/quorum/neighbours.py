"""The nodes that this one exchanges messages with: the members of its lists, and guests that only the lists of others name."""

from __future__ import annotations

from collections import ChainMap

from ..cluster.freshness import Moment
from ..cluster.speaker import Speaker
from .membership import Membership, Standing
from .messages import Answer, Mismatch, Poll
from .peer import Peer, Peers
from .ready import PeerMismatch, QuorumEvent

MOST_GUESTS = 16
"""How many nodes that no list here names may read along: more than a change of the list adds or takes."""
MOST_OUTSIDERS = 64
"""How many nodes of other lists are remembered: many times the members of a cluster."""


class Neighbours:
    """The other members and the guests, and whether their messages count.

    Args:
        membership: the lists of this node.
        speaker: takes the events.
        now: the moment of the start.

    Attributes:
        members: the other members of this node's lists.
        guests: nodes of a list that this node's list is changing into, or has changed from. They learn here, and count for nothing.
        all: both.
    """

    def __init__(self, membership: Membership, speaker: Speaker[QuorumEvent], now: Moment) -> None:
        self._membership = membership
        self._speaker = speaker
        self._protocol = speaker.members.own.protocol
        self._readable = range(self._protocol.lowest, self._protocol.highest + 1)
        self.members: Peers = {url: Peer(url, now.boot_s, self._protocol) for url in membership.everybody if url != membership.me}
        self.guests: Peers = {}
        self.all: ChainMap[str, Peer] = ChainMap(self.members, self.guests)
        self._outsiders: dict[str, tuple[float, str]] = {}

    def is_understood(self, peer: Peer, message: Poll | Answer, now: Moment) -> bool:
        """Return whether a message is the peer's, of this cluster, and readable. An event tells of a fault once, when it begins.

        Entries are facts, so this node learns them from members with which it does not count, as long as they share a list.
        """
        if message.sender == message.heartbeat.url == peer.url:
            peer.spoken.hear(message.heartbeat)
        if message.version not in self._readable and self._is_premature(message):
            return False
        fault = self._fault(message, peer.url)
        if fault is not None and fault != peer.mismatch and peer.url in self.members:
            self._speaker.note(PeerMismatch(peer.url, fault))
        peer.mismatch = fault
        if fault in ("version", "identity"):
            return False
        peer.standing, peer.heard_s = Standing.parse(message.digest), now.boot_s
        return fault != "list"

    def _is_premature(self, message: Poll | Answer) -> bool:
        """Return whether a message is in a version that this node does not read, although its sender knows one that both read.

        The sender has not heard this process yet, but perhaps an earlier one. It writes in the common version from then on.
        """
        its = message.heartbeat.protocol
        return message.version not in self._readable and message.version in its and self._protocol.common(its) is not None

    def _fault(self, message: Poll | Answer, url: str) -> Mismatch | None:
        if message.version not in self._readable:
            return "version"
        mine, its = self._membership.standing, Standing.parse(message.digest)
        if not mine.is_related(its):
            return "list"
        if not message.sender == message.heartbeat.url == url:
            return "identity"
        return None if mine.counts_with(its) else "change"

    def counts(self, peer: Peer, message: Poll | Answer) -> bool:
        """Return whether an understood message counts, by all that this node knows of the lists now."""
        its = Standing.parse(message.digest)
        return peer.url in self.members and self._membership.standing.counts_with(its)

    def asks(self, poll: Poll, now: Moment) -> Peer | None:
        """Return the member or the guest that has polled this node; None if it gets no entries."""
        peer = self.members.get(poll.sender) or self._guest(poll, now)
        understood = peer is not None and self.is_understood(peer, poll, now)
        if understood:
            self._outsiders.pop(poll.sender, None)
        elif not (poll.recovering or self._is_premature(poll)) and (
            len(self._outsiders) < MOST_OUTSIDERS or poll.sender in self._outsiders
        ):
            self._outsiders[poll.sender] = now.boot_s, poll.digest
        return peer if understood else None

    def _guest(self, poll: Poll, now: Moment) -> Peer | None:
        guest = self.guests.get(poll.sender)
        if guest is None and self._fault(poll, poll.sender) in (None, "change") and len(self.guests) < MOST_GUESTS:
            guest = self.guests[poll.sender] = Peer(poll.sender, now.boot_s, self._protocol)
        return guest

    def is_claimed(self, since_s: float) -> bool:
        """Return whether nodes of another list have polled this one since then: they take it for a member.

        One such node is no majority of any list that names this node, too.
        """
        lists = [digest for polled_s, digest in self._outsiders.values() if polled_s >= since_s]
        return len(lists) > len(set(lists))
