"""The common part of the logs that know the other members by their heartbeats."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import anyio
import msgspec

from ..._core.cluster.freshness import Moment
from ..._core.cluster.members import Heartbeat, MemberEvent, Members, Sighting
from ..._core.cluster.view import View
from ...abc import Clock, ClusterLog, OnEvent
from ...events import LimitAgrees, LimitDiffers, MemberDraining, MemberJoined, MemberLeft
from ...models import KeyId

DRAINING = "draining: it leaves the cluster"


def moment_of(clock: Clock) -> Moment:
    """Return the present moment on both clocks."""
    return Moment(clock.boot_s(), clock.wall_s() * 1000)


class MemberedLog(ClusterLog):
    """A log among members.

    Args:
        view: the entries that this node knows.
        clock: the two clocks.
        logger: takes the lines about members.
        on_event: takes each event of the cluster.
    """

    def __init__(self, view: View, clock: Clock, logger: logging.Logger, on_event: OnEvent) -> None:
        self._view = view
        self._clock = clock
        self._logger = logger
        self._on_event = on_event
        self._change: anyio.Event | None = None
        self._told_fault: str | None = None
        self._lets_time_pass = False
        self._limits_differed = False
        self.trusted_ahead_ms = math.nan

    @property
    @abstractmethod
    def _members(self) -> Members:
        """The other members, by their heartbeats."""

    def _now(self) -> Moment:
        return moment_of(self._clock)

    async def _sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    async def wait_changed(self) -> None:
        if self._change is None:
            self._change = anyio.Event()
        await self._change.wait()

    def _wake(self) -> None:
        """Let requests that wait for news look again."""
        if self._change is not None:  # in a storm of log-outs most news wake nobody
            self._change.set()
            self._change = None

    def _heed_members(self) -> None:
        """Follow news of the members, which may have changed the limit and the verdict on the clock."""
        self.freshness_limit_s = self._members.acceptance_limit_s
        self.trusted_ahead_ms = math.nan
        if (differ := self._members.limits_differ) != self._limits_differed:
            self._limits_differed = differ
            self._on_event(LimitDiffers() if differ else LimitAgrees())

    def trusts_clock(self) -> bool:
        now = self._now()
        trusted = self._members.clock_trusted(now)
        self.trusted_ahead_ms = now.wall_ms - now.boot_s * 1000 if trusted else math.nan
        return trusted

    def ahead_ms(self) -> float:
        return max(0.0, self._members.skew_ms(self._now()))

    def members(self) -> Sequence[Heartbeat]:
        return self._members.live(self._clock.boot_s())

    def sightings(self) -> Sequence[Sighting]:
        return self._members.sightings(self._now())

    def unknown_end_ms(self) -> int:
        return self._members.unknown_end_ms(self._now())

    def announce(self, kids: tuple[KeyId, ...]) -> None:
        self._members.own = msgspec.structs.replace(self._members.own, kids=kids)

    def _is_fresh(self, now: Moment) -> bool:
        return now.boot_s - self._view.fresh_at <= self.freshness_limit_s

    # Time.

    def tick(self) -> None:
        if not self._lets_time_pass:  # the running log does so by itself
            self._pass_time()

    @abstractmethod
    def _pass_time(self) -> None:
        """Bring the view and the floor up to date without waiting."""

    async def _pass_time_for_ever(self, until_next_s: Callable[[], float]) -> None:
        """Let time pass again and again.

        Args:
            until_next_s: returns the seconds until the next time.
        """
        self._lets_time_pass = True
        try:
            while True:
                self._pass_time()
                self._tell_own_fault()
                await self._sleep(until_next_s())
        finally:
            self._lets_time_pass = False

    # Texts for operators.

    def _own_fault(self, now: Moment) -> str | None:
        """Return this node's fault in comparison with the others; None if there is none."""
        if self._members.limits_differ:
            return "HA_SESSION_FRESHNESS_LIMIT differs from another node's"
        if not self.is_starting() and not self._members.clock_trusted(now):
            return (
                "its clock differs from the other nodes' by more than 30 s, all clocks were set forward, "
                "or too few nodes can be heard to tell"
            )
        return None

    def mismatches(self) -> Sequence[str]:
        own = self._members.own
        strange = (one for one in self.members() if one.protocol.common(own.protocol) is None)
        return tuple(why_skipped(f"member {one.member}", one, own) for one in strange)

    def _tell_own_fault(self) -> None:
        fault = self._own_fault(self._now())
        if fault is not None and fault != self._told_fault:
            self._logger.error("this node is not ready: %s", fault)
        self._told_fault = fault


def why_skipped(name: str, its: Heartbeat, own: Heartbeat) -> str:
    """Return which step of an upgrade was skipped, because two nodes read no version of the protocol in common, and the remedy.

    Args:
        name: of the other node.
        its: its heartbeat.
        own: this node's.
    """
    newer, older = ("that member", own) if its.protocol.lowest > own.protocol.highest else ("this node", its)
    mine, theirs = (f"(release {one.release or 'unknown'}) reads {one.protocol} of the protocol" for one in (own, its))
    return (
        f"{name} {theirs}, this node {mine}: the upgrade has skipped a release; "
        f"take {newer} back to one that reads version {older.protocol.highest}, too"
    )


def tell_member(logger: logging.Logger, event: MemberEvent) -> None:
    """Log that a member has joined, has left, or is leaving."""
    match event:
        case MemberJoined(member):
            logger.info("member %s has joined", member)
        case MemberLeft(member):
            logger.warning("member %s has left, or is silent and counts as gone", member)
        case MemberDraining(member):
            logger.info("member %s is leaving", member)


def parse_index(index: str) -> tuple[str, int] | None:
    """Return the log that an index names, and a position in it; None for text that is no index."""
    name, _, position = index.rpartition("-")
    if not name or not position.isascii() or not position.isdigit() or len(position) > 18:
        return None
    return name, int(position)
