"""The members of the cluster, as their heartbeats tell: who lives, who leaves, whose clock is to be believed.

Performs no I/O and reads no clock. Wall times of others are carried forward by this node's boot-time clock, so a member
is compared with what its clock shows *now*, not with what it showed when it was last heard.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import msgspec

from ...events import MemberDraining, MemberJoined, MemberLeft
from ...models import KeyId, NodeId
from .freshness import Moment, acceptance_limit_s, fence_wait_s, fencing_limit_s
from .invariants import ensure
from .view import FLOOR_MARGIN_MS

TRUSTED_SKEW_MS = 30_000
"""A clock further from the median is wrong (DESIGN 5). Half of what the leeway of not-before and the floor's margin forgive."""

UNKNOWN_END_MARGIN_MS = 60_000
"""Added to an end that has to be assumed: a trusted clock ahead of all that were heard is so by 60 s at the most."""

_SLEWED_MS = 50
"""By how much the wall clock may move against the boot-time clock before a verdict on it is looked at again."""

MemberState = Literal["starting", "ready", "draining"]


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a member says about itself.

    Attributes:
        member: its id.
        life: random bits; others after each start of the process.
        url: where peers reach it.
        state: ``starting`` until it has learned enough to judge sessions.
        sequence: counts its heartbeats, so that a late one is told from the newest.
        wall_ms: its wall clock when it said so.
        kids: the keys that it can verify with.
        freshness_limit_s: how old its knowledge may be.
        absolute_ms: the longest absolute life of the tokens it makes.
        release: the version of this package.
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


MemberEvent = MemberJoined | MemberLeft | MemberDraining


class _Seat:
    __slots__ = ("ahead_ms", "heard_s", "heartbeat", "late")

    def __init__(self, heartbeat: Heartbeat, heard_s: float, *, late: bool) -> None:
        self.heartbeat = heartbeat
        self.heard_s = heard_s
        self.late = late
        self.ahead_ms = heartbeat.wall_ms - heard_s * 1000
        """Its wall clock less our boot-time clock: what its clock shows now is this and our boot time, or more where it came late."""


class Members:
    """The fold of the heartbeats that one node receives.

    Args:
        own: this node's own heartbeat; its times are not looked at.
        majority: how many trusted clocks it takes to raise the floor. One that has nobody to agree with raises nothing.
            May be set anew where members come and go.
    """

    __slots__ = (
        "_agreed_ms",
        "_latest_ms",
        "_majority",
        "_seats",
        "_verdict",
        "acceptance_limit_s",
        "fence_wait_s",
        "limits_differ",
        "own",
    )

    def __init__(self, own: Heartbeat, *, majority: int) -> None:
        self.own = own
        self._majority = majority
        self._seats: dict[str, _Seat] = {}
        self._agreed_ms: float | None = None
        """How far the time was ahead of this node's boot-time clock when a majority, and not this node alone, last agreed on it."""
        self._latest_ms = -math.inf
        """How far the last of the trusted clocks was ahead of the boot-time clock when a majority last agreed on anything."""
        self._verdict: tuple[float, bool] | None = None
        self._compare_limits()

    @property
    def majority(self) -> int:
        return self._majority

    @majority.setter
    def majority(self, majority: int) -> None:
        if majority != self._majority:
            self._majority = majority
            self._verdict = None

    def _compare_limits(self) -> None:
        # A member's limit counts until it has departed: until then leases that it gave, or holds, may live.
        limits = [self.own.freshness_limit_s, *(slot.heartbeat.freshness_limit_s for slot in self._seats.values())]
        self.acceptance_limit_s = acceptance_limit_s(limits)
        """How old this node's knowledge may be when it accepts a session."""
        self.fence_wait_s = fence_wait_s(fencing_limit_s(limits))
        """How long to wait until every lease of now is over."""
        self.limits_differ = limits.count(self.own.freshness_limit_s) * 2 < len(limits)
        """Whether most members announce another limit than this node: it is the one to be mended, and the others go on."""

    def heard(self, slot: str, heartbeat: Heartbeat, boot_s: float, *, late: bool = False) -> MemberEvent | None:
        """Take a heartbeat in; returns what it changed for others to know.

        Args:
            slot: which member of the cluster this is, whatever process fills it: its place in a fixed list, else its id.
            heartbeat: what it says.
            boot_s: when it was received.
            late: it may have been said long ago, so that nobody can tell what the member's clock shows now.
        """
        known = self._seats.get(slot)
        if known is not None and known.heartbeat.life == heartbeat.life and heartbeat.sequence <= known.heartbeat.sequence:
            return None
        self._seats[slot] = _Seat(heartbeat, boot_s, late=late)
        self._verdict = None
        if known is None or known.heartbeat.freshness_limit_s != heartbeat.freshness_limit_s:
            self._compare_limits()
        if known is None or known.heartbeat.life != heartbeat.life:
            return MemberJoined(heartbeat.member)
        if heartbeat.state == "draining" != known.heartbeat.state:
            return MemberDraining(heartbeat.member)
        return None

    def left(self, slot: str) -> MemberEvent | None:
        """A member said that it is one no more; returns what that changed for others to know."""
        gone = self._seats.pop(slot, None)
        self._verdict = None
        self._compare_limits()
        return None if gone is None else MemberLeft(gone.heartbeat.member)

    def tick(self, now: Moment) -> list[MemberEvent]:
        """Time has passed; returns who has been silent for so long that every lease it held or gave is over. It is a member no more."""
        gone = [name for name, slot in self._seats.items() if not self._is_live(slot, now.boot_s)]
        left: list[MemberEvent] = [MemberLeft(self._seats.pop(name).heartbeat.member) for name in gone]
        if left:
            self._compare_limits()
        self._verdict = None
        self.clock_trusted(now)  # while there is a majority to ask, so that a step is noticed once there is none
        return left

    def check(self) -> None:
        """Check what must hold after each change.

        Raises:
            InvariantBroken: it does not hold.
        """
        for limit_s in (self.own.freshness_limit_s, *(slot.heartbeat.freshness_limit_s for slot in self._seats.values())):
            ensure(self.acceptance_limit_s <= limit_s, "a node accepts for no longer than any member announces")
            ensure(self.fence_wait_s >= fence_wait_s(limit_s), "a fence waits for every lease that any member may hold")

    def _is_live(self, slot: _Seat, boot_s: float) -> bool:
        return boot_s - slot.heard_s <= self.fence_wait_s

    def live(self, boot_s: float) -> list[Heartbeat]:
        """The last words of each other member that is heard."""
        return [slot.heartbeat for slot in self._seats.values() if self._is_live(slot, boot_s)]

    def announced_kids(self, boot_s: float) -> list[Collection[KeyId]]:
        """For each other live member, the keys it has: what :meth:`~.keys.KeyRing.signing_key` takes."""
        return [heartbeat.kids for heartbeat in self.live(boot_s)]

    # Clocks.

    def skew_ms(self, now: Moment) -> float:
        """How far this node's wall clock is ahead of the median of all live ones."""
        return now.wall_ms - _median(self._walls_ms(now))

    def clock_trusted(self, now: Moment) -> bool:
        """Whether this node may mint and judge: its wall clock agrees with the others'.

        A node that hears too few others to tell asks whether its clock still shows the time that a majority last agreed on.
        """
        ahead_ms = now.wall_ms - now.boot_s * 1000
        if self._verdict is None or abs(ahead_ms - self._verdict[0]) > _SLEWED_MS:
            self._verdict = (ahead_ms, self._judge_clock(ahead_ms, now))
        return self._verdict[1]

    def can_judge_clock(self, now: Moment) -> bool:
        """Whether enough others are heard, or once were, to tell whether this node's wall clock is right."""
        return self._agreed_ms is not None or len(self._walls_ms(now)) >= self.majority

    def _judge_clock(self, ahead_ms: float, now: Moment) -> bool:
        walls_ms = self._walls_ms(now)
        trusted = _trusted(walls_ms)
        if len(trusted) >= self.majority:
            self._latest_ms = max(trusted) - now.boot_s * 1000
        if len(walls_ms) > 1 and len(walls_ms) >= self.majority:
            if len(trusted) >= self.majority:
                self._agreed_ms = _median(trusted) - now.boot_s * 1000
            return now.wall_ms in trusted
        if self._agreed_ms is None:
            return self.majority == 1  # there has never been anybody else to ask
        return abs(ahead_ms - self._agreed_ms) <= TRUSTED_SKEW_MS

    def floor_ms(self, now: Moment) -> int | None:
        """Up to which end tokens have ended on every trusted clock; None where too few clocks agree to tell.

        A majority must agree: one clock that steps, alone or in a pair, neither ends a session nor forgets a log-out.
        """
        trusted = _trusted(self._walls_ms(now))
        if len(trusted) < self.majority or (len(trusted) == 1 and not self.clock_trusted(now)):
            return None
        return int(min(trusted)) - FLOOR_MARGIN_MS

    def unknown_end_ms(self, now: Moment) -> int:
        """By when every token that exists now has ended, whoever made it."""
        longest = max([self.own.absolute_ms, *(slot.heartbeat.absolute_ms for slot in self._seats.values())])
        # Every clock counts here, trusted or not, for too late an end harms nobody. And what a majority once agreed on counts on:
        # a node that is alone with a clock that is slow must not end a log-out before the sessions that it ends.
        ahead_ms = max([self._latest_ms, *(slot.ahead_ms for slot in self._seats.values())])
        return int(max(now.wall_ms, ahead_ms + now.boot_s * 1000)) + longest + UNKNOWN_END_MARGIN_MS

    def _walls_ms(self, now: Moment) -> list[float]:
        others = (slot.ahead_ms for slot in self._seats.values() if not slot.late and self._is_live(slot, now.boot_s))
        return [now.wall_ms, *(ahead + now.boot_s * 1000 for ahead in others)]


def _trusted(walls_ms: list[float]) -> list[float]:
    """The clocks near the median; of an even number, near both of those in the middle.

    Near their mean, two clocks a minute apart would trust each other, and each then with a third one two minutes apart.
    """
    low, high = _middle(walls_ms)
    return [wall for wall in walls_ms if high - TRUSTED_SKEW_MS <= wall <= low + TRUSTED_SKEW_MS]


def _middle(values: list[float]) -> tuple[float, float]:
    """The two values in the middle; of an odd number, the same one twice."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]


def _median(values: list[float]) -> float:
    low, high = _middle(values)
    return (low + high) / 2
