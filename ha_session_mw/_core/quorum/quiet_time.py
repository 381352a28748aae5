"""The quiet time: while all members are well and there is no news, polls are held for longer. They are most of an idle node's cost."""

from __future__ import annotations

import math

from ..cluster.freshness import Moment
from ..cluster.speaker import Speaker
from .majorities import majority_of
from .messages import Poll
from .peer import Peers
from .ready import QuorumEvent

QUIET_HEARTBEATS = 3
"""How many heartbeats a poll is held in a quiet time. The polls alone keep the node fresh."""
LONG_QUIET_HEARTBEATS = 40
"""How many heartbeats a poll is held once the quiet time has lasted. It waits for news, and questions keep the node fresh."""
LONG_QUIET_AFTER_S = 10.0
"""How long a quiet time without news must have lasted before polls are held for so long."""

QUIET_DELAY_S = 0.25
"""How late the answer to a poll may come in a quiet time. A node that is busy, or far away, needs the rest of the lease for delays."""


class QuietTime:
    """Tells for how long the polls of one node may be held, and which members it must ask meanwhile.

    Args:
        me: this node's URL.
        speaker: knows the members' limits, and how fresh the view is.
        peers: the other members.
        heartbeat_s: how long a poll is held in other times.
    """

    __slots__ = ("_heartbeat_s", "_me", "_peers", "_position", "_since_s", "_speaker")

    def __init__(self, me: str, speaker: Speaker[QuorumEvent], peers: Peers, heartbeat_s: float) -> None:
        self._me = me
        self._speaker = speaker
        self._peers = peers
        self._heartbeat_s = heartbeat_s
        self._since_s = math.inf
        """Since when all members are well and the sequence of this node has not grown."""
        self._position = 0

    # How long polls are held.

    @property
    def hold_s(self) -> float:
        """For how long a poll may be held in a quiet time. A lost one leaves time for another before the lease ends."""
        longest_s = min(QUIET_HEARTBEATS * self._heartbeat_s, self._speaker.members.acceptance_limit_s / 3)
        return max(self._heartbeat_s, longest_s)

    def hold_now_s(self, position: int, now: Moment) -> float | None:
        """Return for how long the next poll may be held; None for a heartbeat.

        Args:
            position: the newest position of this node's sequence.
            now: the present moment.
        """
        if not self._all_are_well(now):
            self._since_s = math.inf
            return None
        if position != self._position or self._since_s == math.inf:
            self._position, self._since_s = position, now.boot_s
        return LONG_QUIET_HEARTBEATS * self._heartbeat_s if self._has_lasted(now) else self.hold_s

    def held_s(self, poll: Poll) -> float:
        """Return for how long a poll may have been held."""
        return self._heartbeat_s if poll.hold_s is None else poll.hold_s

    def _all_are_well(self, now: Moment) -> bool:
        """Return whether this node has heard every member lately, and without delay."""
        lately_s = now.boot_s - self.ageing_s - self._heartbeat_s
        return all(peer.heard_s >= lately_s and peer.delay_s <= QUIET_DELAY_S and peer.mismatch is None for peer in self._peers.values())

    def _has_lasted(self, now: Moment) -> bool:
        # A question that is lost must leave time for another before the lease ends.
        leaves_room = self.ageing_s + 2 * self._heartbeat_s < self._speaker.members.acceptance_limit_s
        return leaves_room and now.boot_s >= self._since_s + LONG_QUIET_AFTER_S and self._all_are_well(now)

    # Questions.

    @property
    def ageing_s(self) -> float:
        """The age at which knowledge is older than in a quiet time: a message was lost, or a machine is busy."""
        return 2 * self.hold_s + 1.5 * self._heartbeat_s

    def tick_s(self, now: Moment) -> float:
        """Return how often time is to pass: each heartbeat, or less often once the quiet time has lasted."""
        return self._heartbeat_s * (2 if self._has_lasted(now) else 1)

    def due(self, now: Moment) -> list[str]:
        """Return the members that are to be asked now, and to answer at once.

        Each node asks the members that follow it in the order of their URLs, so many that they and it are a majority. So each pair of
        members exchanges a message, and each node is asked by as many.
        """
        if self._is_between(self.ageing_s, self._speaker.view.fresh_at, now):
            return [*self._peers]
        following = self._following()
        ask_after_s = self.hold_s + self._heartbeat_s / 2 if self._has_lasted(now) else self.ageing_s - self._heartbeat_s
        return [
            url
            for url, peer in self._peers.items()
            if (url in following and self._is_between(ask_after_s, peer.fresh_s, now)) or self._is_between(self.ageing_s, peer.heard_s, now)
        ]

    def _is_between(self, age_s: float, since_s: float, now: Moment) -> bool:
        # A member that was silent for longer than a lease is polled again and again.
        return age_s < now.boot_s - since_s <= self._speaker.members.acceptance_limit_s

    def _following(self) -> list[str]:
        urls = sorted([self._me, *self._peers])
        turned = [*urls[(place := urls.index(self._me) + 1) :], *urls[:place]]
        return turned[: majority_of(urls) - 1]
