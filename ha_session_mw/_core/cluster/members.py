"""The members of the cluster, by their heartbeats: which are live, which leave, and whose clocks are trusted.

Performs no I/O and reads no clock. This node's boot-time clock carries the others' wall times forward. So this node compares its clock
with the present time of a member's clock, not with the time when the member was last heard.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import msgspec

from ...events import MemberDraining, MemberJoined, MemberLeft
from ...models import KeyId, NodeId
from ...version import UNTOLD, Versions
from .freshness import Moment, acceptance_limit_s, fence_wait_s, fencing_limit_s
from .invariants import ensure
from .proven_lead import TRUSTED_SKEW_MS, ProvenLead
from .view import FLOOR_MARGIN_MS

UNKNOWN_END_MARGIN_MS = 60_000
"""Added to an end that must be assumed: a trusted clock is ahead of all clocks that were heard by 60 s at most."""

_SLEWED_MS = 50
"""How far the wall clock may move against the boot-time clock before the verdict on it is computed again."""

MemberState = Literal["starting", "ready", "draining"]


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The state that a member announces about itself.

    Attributes:
        member: its id.
        life: random bits, new for each process.
        url: its URL for peers.
        state: ``starting`` until it has learned enough to validate sessions.
        sequence: the running number of its heartbeats. A late heartbeat has a lower number than the newest one.
        wall_ms: its wall clock when it sent the heartbeat.
        kids: the keys that it can verify with.
        freshness_limit_s: how old its knowledge may be.
        absolute_ms: the longest absolute life of the tokens it issues.
        release: its version of this package.
        weight: how many sessions it owns, relative to the others.
        protocol: the versions of the protocol that it reads.
    """

    member: NodeId
    life: str
    url: str
    state: MemberState
    sequence: int
    wall_ms: int
    kids: tuple[KeyId, ...]
    freshness_limit_s: float
    absolute_ms: int
    release: str = ""
    weight: int = 1
    protocol: Versions = UNTOLD


_pack = msgspec.msgpack.Encoder().encode


def packed(heartbeat: Heartbeat) -> msgspec.Raw:
    """Return the heartbeat as it is sent: without the last fields, as long as these say what a reader assumes of their absence."""
    values = msgspec.structs.astuple(heartbeat)
    if heartbeat.protocol == UNTOLD:
        values = values[:-2] if heartbeat.weight == 1 else values[:-1]
    return msgspec.Raw(_pack(values))


def version_for(own: Versions, member: Heartbeat) -> int:
    """Return the version of the protocol to write in to a member: the highest that both read.

    If they read none in common, the member can still read in the opening of each message which ones this node reads.
    """
    return own.common(member.protocol) or own.lowest


MemberEvent = MemberJoined | MemberLeft | MemberDraining


class Sighting(msgspec.Struct, frozen=True):
    """Another member as this node sees it.

    Attributes:
        heartbeat: its newest heartbeat.
        heard_ago_s: how long ago that was received.
        ahead_s: how far its wall clock is ahead of this node's; None if the heartbeat was late.
        is_live: whether it counts as a member, and has neither left nor been silent for too long.
    """

    heartbeat: Heartbeat
    heard_ago_s: float
    ahead_s: float | None
    is_live: bool


class _Slot:
    __slots__ = ("ahead_ms", "has_left", "heard_s", "heartbeat", "late")

    def __init__(self, heartbeat: Heartbeat, heard_s: float, *, late: bool) -> None:
        self.heartbeat = heartbeat
        self.heard_s = heard_s
        self.late = late
        self.has_left = False
        """Whether this very process has said good-bye. Its limit counts until the leases that it gave are over."""
        self.ahead_ms = heartbeat.wall_ms - heard_s * 1000
        """Its wall clock minus this node's boot-time clock. Its clock shows the sum of this and the boot time, or more if late."""


class Members:
    """The fold of the heartbeats that one node receives.

    Args:
        own: this node's own heartbeat. Its sequence and wall time are not used.
        majority: how many trusted clocks raise the floor. A clock that has none to agree with raises nothing.
            A log whose members come and go sets it anew.
    """

    __slots__ = (
        "_agreed",
        "_alone",
        "_excused_s",
        "_latest_ms",
        "_majority",
        "_slots",
        "_verdict",
        "acceptance_limit_s",
        "fence_wait_s",
        "limits_differ",
        "own",
    )

    def __init__(self, own: Heartbeat, *, majority: int) -> None:
        self.own = own
        self._majority = majority
        self._slots: dict[str, _Slot] = {}
        self._agreed: ProvenLead | None = None
        """The lead of the time on which a majority, and not this node alone, last agreed."""
        self._alone: ProvenLead | None = None
        """The lead of this node's clock while no other was ever heard."""
        self._latest_ms = -math.inf
        """The latest trusted clock minus the boot-time clock when a majority last agreed on the time."""
        self._verdict: tuple[float, bool] | None = None
        self._excused_s = -math.inf
        self.compare_limits()

    @property
    def majority(self) -> int:
        return self._majority

    @majority.setter
    def majority(self, majority: int) -> None:
        if majority != self._majority:
            self._majority = majority
            self._verdict = None

    def compare_limits(self) -> None:
        """Derive the limits from all members' announcements."""
        # A member's limit counts until the member has left: leases that it gave or holds may last until then.
        limits = [self.own.freshness_limit_s, *(slot.heartbeat.freshness_limit_s for slot in self._slots.values())]
        self.acceptance_limit_s = acceptance_limit_s(limits)
        """How old this node's knowledge may be when it accepts a session."""
        self.fence_wait_s = fence_wait_s(fencing_limit_s(limits))
        """How many seconds to wait until every lease of now is over."""
        self.limits_differ = limits.count(self.own.freshness_limit_s) * 2 < len(limits)
        """Whether most members announce another limit than this node. Then this node's setting is wrong, and the others go on."""

    def heard(self, slot: str, heartbeat: Heartbeat, boot_s: float, *, late: bool = False) -> MemberEvent | None:
        """Take in a heartbeat; return the event that it causes, if any.

        Args:
            slot: the member, even if another process takes its place: its URL in a fixed list, otherwise its id.
            heartbeat: the heartbeat.
            boot_s: when it was received.
            late: whether it may be old, so that it does not show what the member's clock shows now.
        """
        known = self._slots.get(slot)
        is_same = known is not None and known.heartbeat.life == heartbeat.life
        if known is not None and is_same and (known.has_left or heartbeat.sequence <= known.heartbeat.sequence):
            return None
        self._slots[slot] = _Slot(heartbeat, boot_s, late=late)
        self._verdict = None
        if known is None or known.heartbeat.freshness_limit_s != heartbeat.freshness_limit_s:
            self.compare_limits()
        if known is None or known.heartbeat.life != heartbeat.life:
            return MemberJoined(heartbeat.member)
        if heartbeat.state == "draining" != known.heartbeat.state:
            return MemberDraining(heartbeat.member)
        return None

    def said_good_bye(self, slot: str, life: str) -> MemberEvent | None:
        """Count a process as gone that accepts no session any more; return the event that this causes, if any.

        Its limit counts for as long as that of a silent member: another one may have fenced by it.
        """
        known = self._slots.get(slot)
        if known is None or known.has_left or known.heartbeat.life != life:
            return None
        known.has_left = True
        self._verdict = None
        return MemberLeft(known.heartbeat.member)

    def left(self, slot: str) -> MemberEvent | None:
        """Take a member out that has left; return the event that this causes, if any."""
        gone = self._slots.pop(slot, None)
        self._verdict = None
        self.compare_limits()
        return None if gone is None else MemberLeft(gone.heartbeat.member)

    def tick(self, now: Moment) -> list[MemberEvent]:
        """Take out the members that were silent for so long that every lease they held or gave is over; return an event for each."""
        gone = [self._slots.pop(name) for name in [*self._slots] if self._is_silent(self._slots[name], now.boot_s)]
        left: list[MemberEvent] = [MemberLeft(slot.heartbeat.member) for slot in gone if not slot.has_left]
        if gone:
            self.compare_limits()
        self._verdict = None
        self.clock_trusted(now)  # compared while a majority can be heard, so that a later step is noticed without one
        return left

    def check(self) -> None:
        """Check what must hold after each change.

        Raises:
            InvariantBroken: it does not hold.
        """
        for limit_s in (self.own.freshness_limit_s, *(slot.heartbeat.freshness_limit_s for slot in self._slots.values())):
            ensure(self.acceptance_limit_s <= limit_s, "a node accepts for no longer than any member announces")
            ensure(self.fence_wait_s >= fence_wait_s(limit_s), "a fence waits for every lease that any member may hold")

    def excuse(self, boot_s: float) -> None:
        """Take no member for gone because it was silent until now: none of them can be heard at present."""
        self._excused_s = boot_s

    def _is_live(self, slot: _Slot, boot_s: float) -> bool:
        return not slot.has_left and not self._is_silent(slot, boot_s)

    def _is_silent(self, slot: _Slot, boot_s: float) -> bool:
        return boot_s - max(slot.heard_s, self._excused_s) > self.fence_wait_s

    def live(self, boot_s: float) -> list[Heartbeat]:
        """Return the newest heartbeat of each other live member."""
        return [slot.heartbeat for slot in self._slots.values() if self._is_live(slot, boot_s)]

    def sightings(self, now: Moment) -> list[Sighting]:
        """Return every other member that this node has heard and not forgotten, in the order of their names."""
        here_ms = now.wall_ms - now.boot_s * 1000
        found = [
            Sighting(
                slot.heartbeat,
                max(0.0, now.boot_s - slot.heard_s),
                None if slot.late else (slot.ahead_ms - here_ms) / 1000,
                self._is_live(slot, now.boot_s),
            )
            for slot in self._slots.values()
        ]
        return sorted(found, key=lambda one: one.heartbeat.member)

    def announced_kids(self, boot_s: float) -> list[Collection[KeyId]]:
        """Return the key ids of each other live member, as :meth:`~.keys.KeyRing.signing_key` takes them."""
        return [heartbeat.kids for heartbeat in self.live(boot_s)]

    # Clocks.

    def skew_ms(self, now: Moment) -> float:
        """Return how far this node's wall clock is ahead of the median of all live members' clocks."""
        return now.wall_ms - _median(self._walls_ms(now))

    def clock_trusted(self, now: Moment) -> bool:
        """Return whether this node may issue and validate tokens: its wall clock agrees with the others'.

        A node that hears too few others compares its clock with the time that a majority last agreed on.
        """
        ahead_ms = now.wall_ms - now.boot_s * 1000
        if self._verdict is None or abs(ahead_ms - self._verdict[0]) > _SLEWED_MS:
            self._verdict = (ahead_ms, self._judge_clock(ahead_ms, now))
        return self._verdict[1]

    def can_judge_clock(self, now: Moment) -> bool:
        """Return whether enough others are heard, or once were, to compare this node's wall clock with."""
        return self._agreed is not None or len(self._walls_ms(now)) >= self.majority

    def _judge_clock(self, ahead_ms: float, now: Moment) -> bool:
        walls_ms = self._walls_ms(now)
        trusted = self._agreeing(walls_ms, now)
        if len(trusted) >= self.majority:
            self._latest_ms = max(trusted) - now.boot_s * 1000
        if len(walls_ms) > 1 and len(walls_ms) >= self.majority:
            return now.wall_ms in trusted
        if self._agreed is None:  # no other clock was ever heard
            if self._alone is None:
                self._alone = ProvenLead(ahead_ms, now.boot_s)
            return self._alone.is_kept(ahead_ms, now.boot_s) and self.majority == 1
        return abs(ahead_ms - self._agreed.proven_ms) <= TRUSTED_SKEW_MS

    def _agreeing(self, walls_ms: list[float], now: Moment) -> list[float]:
        """Return the clocks that agree; none of them while they were all set forward, and have not proved the new time yet.

        Clocks that were all set back end no session, because the floor and the view's latest time stay.
        """
        trusted = _trusted(walls_ms)
        if len(walls_ms) == 1 or len(trusted) < self.majority:
            return trusted
        lead_ms = _median(trusted) - now.boot_s * 1000
        if self._agreed is None:
            self._agreed = ProvenLead(lead_ms, now.boot_s)
        is_kept = self._agreed.is_kept(lead_ms, now.boot_s)
        return trusted if is_kept or lead_ms < self._agreed.proven_ms else []

    def floor_ms(self, now: Moment) -> int | None:
        """Return the time up to which tokens have ended on every trusted clock; None if too few clocks agree.

        A majority must agree. So a clock that steps, alone or in a pair, neither ends a session nor drops a log-out.
        Nor do clocks that step forward together, until they have kept their new time.
        """
        trusted = self._agreeing(self._walls_ms(now), now)
        if len(trusted) < self.majority or (len(trusted) == 1 and not self.clock_trusted(now)):
            return None
        return int(min(trusted)) - FLOOR_MARGIN_MS

    def unknown_end_ms(self, now: Moment) -> int:
        """Return a time by which every token that exists now has expired, including those issued on other nodes."""
        longest = max([self.own.absolute_ms, *(slot.heartbeat.absolute_ms for slot in self._slots.values())])
        # Every clock counts here, trusted or not, because too late an end does no harm. The time that a majority once agreed on
        # still counts. Otherwise an isolated node with a slow clock would end a log-out before the sessions that it revokes.
        ahead_ms = max([self._latest_ms, *(slot.ahead_ms for slot in self._slots.values())])
        return int(max(now.wall_ms, ahead_ms + now.boot_s * 1000)) + longest + UNKNOWN_END_MARGIN_MS

    def _walls_ms(self, now: Moment) -> list[float]:
        others = (slot.ahead_ms for slot in self._slots.values() if not slot.late and self._is_live(slot, now.boot_s))
        return [now.wall_ms, *(ahead + now.boot_s * 1000 for ahead in others)]


def _trusted(walls_ms: list[float]) -> list[float]:
    """Return the clocks near the median; of an even number, near both clocks in the middle.

    By the mean of the two, clocks a minute apart would trust each other, and each would then trust a third one further away.
    """
    low, high = _middle(walls_ms)
    return [wall for wall in walls_ms if high - TRUSTED_SKEW_MS <= wall <= low + TRUSTED_SKEW_MS]


def _middle(values: list[float]) -> tuple[float, float]:
    """Return the two values in the middle; of an odd number, the same one twice."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]


def _median(values: list[float]) -> float:
    low, high = _middle(values)
    return (low + high) / 2
