"""The quiet time: while all members are well and there is no news, polls are held for longer. They are most of an idle node's cost."""

from __future__ import annotations

from ..cluster.freshness import Moment
from ..cluster.speaker import Speaker
from .messages import Poll
from .peer import Peers
from .ready import QuorumEvent

QUIET_HEARTBEATS = 3
"""How many heartbeats a poll is held in a quiet time."""

QUIET_DELAY_S = 0.25
"""How late the answer to a poll may come in a quiet time. A node that is busy, or far away, needs the rest of the lease for delays."""


class QuietTime:
    """Tells for how long the polls of one node may be held.

    Args:
        speaker: knows the members' limits, and how fresh the view is.
        peers: the other members.
        heartbeat_s: how long a poll is held in other times.
    """

    __slots__ = ("_heartbeat_s", "_peers", "_speaker")

    def __init__(self, speaker: Speaker[QuorumEvent], peers: Peers, heartbeat_s: float) -> None:
        self._speaker = speaker
        self._peers = peers
        self._heartbeat_s = heartbeat_s

    @property
    def hold_s(self) -> float:
        """For how long a poll may be held in a quiet time. A lost one leaves time for another before the lease ends."""
        longest_s = min(QUIET_HEARTBEATS * self._heartbeat_s, self._speaker.members.acceptance_limit_s / 3)
        return max(self._heartbeat_s, longest_s)

    def held_s(self, poll: Poll) -> float:
        """Return for how long a poll may have been held."""
        return self._heartbeat_s if poll.hold_s is None else poll.hold_s

    def all_are_well(self, now: Moment) -> bool:
        """Return whether this node has heard every member lately by its own polls, and without delay."""
        lately_s = now.boot_s - 2 * self.hold_s - self._heartbeat_s
        return all(peer.fresh_s >= lately_s and peer.delay_s <= QUIET_DELAY_S and peer.mismatch is None for peer in self._peers.values())

    def is_ageing(self, now: Moment) -> bool:
        """Return whether the view is older than in a quiet time, and not yet too old: a poll was lost, or a machine is busy."""
        age_s = now.boot_s - self._speaker.view.fresh_at
        return 2 * self.hold_s + self._heartbeat_s / 2 < age_s <= self._speaker.members.acceptance_limit_s
