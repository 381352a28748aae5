"""The right rules of an ordered log, and variants with one rule broken each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.ordered.fence import Fence
from ha_session_mw._core.ordered.leases import Leases
from ha_session_mw._core.ordered.loading import Loading
from ha_session_mw._core.ordered.log import Ordered
from ha_session_mw._core.ordered.ready import Look, Ready, Sent, Snapshot
from ha_session_mw._core.ordered.standstill import Standstill

from .variants import Variant


@dataclass(frozen=True)
class OrderedVariant(Variant):
    """One set of rules.

    Attributes:
        ordered: the state machine.
        resumes_undelivered: the driver follows on from the newest position it has heard of, not from the last that was delivered.
    """

    ordered: type[Ordered] = Ordered
    resumes_undelivered: bool = False


class StampedOnReply(Ordered):
    """Fresh as of the moment at which the beat was read, not of its sending."""

    def _returned(self, sent_s: float, now: Moment) -> None:
        super()._returned(now.boot_s if sent_s > -math.inf else sent_s, now)


class FreshWhenAcknowledged(Ordered):
    """Takes the engine's word that a beat was put for having read it."""

    def answered(self, sent: Sent, position: int) -> Ready:
        ready = super().answered(sent, position)
        if not self.catching_up:
            self.own_beats.read_back(sent.sent_s)
            self._stamp()
        return ready


class ShortFence(Ordered):
    """Waits nine tenths of the required time."""

    def fenced_by(self, position: int, durable_s: float) -> float:
        return min(super().fenced_by(position, durable_s), durable_s + 0.9 * self.members.fence_wait_s)


class NoFence(Ordered):
    """Acknowledges as fenced as soon as the entry is durable."""

    def fenced_by(self, position: int, durable_s: float) -> float:
        return -math.inf


class ByNode(Leases):
    """Keeps one account for all workers of a node."""

    def heard(
        self, slot: str, applied: int, position: int, *, first: int, now_s: float, alive_s: float, limit_s: float, found: bool = False
    ) -> None:
        super().heard(slot.partition(".")[0], applied, position, first=first, now_s=now_s, alive_s=alive_s, limit_s=limit_s, found=found)

    def is_news(self, slot: str, position: int) -> bool:
        return super().is_news(slot.partition(".")[0], position)


class WithBrokenPart(Ordered):
    """Has a broken part in the place of a right one."""

    leases_kind: type[Leases] = Leases
    standstill_kind: type[Standstill] = Standstill

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.leases, self.standstill = self.leases_kind(), self.standstill_kind()
        self.fence = Fence(self.members, self.leases, self.standstill)


class OneForAll(WithBrokenPart):
    """One worker confirms for all workers of its node."""

    leases_kind = ByNode


class WithoutTheFloor(Ordered):
    """Loads the entries, and not the floor below which some are missing."""

    def load(self, snapshot: Snapshot, moment: Callable[[], Moment], loading: Loading | None = None) -> Iterator[None]:
        return super().load(replace(snapshot, floor_ms=0), moment, loading)


class SilenceEndsLeases(Leases):
    """Takes each silent process for gone, although nobody could write for a while."""

    def lack_until(self, position: int, wait_s: float, lapsed_s: float) -> float:
        return super().lack_until(position, wait_s, -math.inf)


class SilenceIsAbsence(WithBrokenPart):
    """Knows nothing of leases that began while the log stood still."""

    leases_kind = SilenceEndsLeases


class ReadsAlwaysCount(Standstill):
    """Counts a read whether or not others can write."""

    def looked(self, sent_s: float, now_s: float, own_limit_s: float) -> bool:
        return super().looked(sent_s, now_s, own_limit_s) or True


class ReadsAtOnce(WithBrokenPart):
    """Fresh by a read whenever its own heartbeat is refused."""

    standstill_kind = ReadsAlwaysCount


class ReadsWithoutLooking(Ordered):
    """Takes any answer of the engine for the news that there is none."""

    def looked(self, look: Look, revision: int, *, is_quiet: bool, now: Moment) -> Ready:
        return super().looked(look, revision, is_quiet=True, now=now)


RIGHT = OrderedVariant("right")
DENIED_FIRST = OrderedVariant("a new id denied before it is confirmed", denies_first=True)
"""Accepts no session wrongly, but ends sessions whose clients were told that nothing has changed."""
LISTS_ANYTHING = OrderedVariant("a token may list what can be lost", lists_what_may_be_lost=True)
"""Accepts no session wrongly, but hands out tokens of which no node can ever tell whether they are valid."""
BROKEN = {
    variant.name: variant
    for variant in (
        OrderedVariant("stamped on reply", ordered=StampedOnReply),
        OrderedVariant("fresh when acknowledged", ordered=FreshWhenAcknowledged),
        OrderedVariant("read after the look-up", reads_late=True),
        OrderedVariant("an entry that raises no generation", keeps_generation=True),
        OrderedVariant("fence 10 % short", ordered=ShortFence),
        OrderedVariant("no fence", ordered=NoFence),
        OrderedVariant("one worker for four", ordered=OneForAll),
        OrderedVariant("resumed after what was not delivered", resumes_undelivered=True),
        OrderedVariant("snapshot without the floor", ordered=WithoutTheFloor),
        OrderedVariant("a peer's yes kept", keeps_yes=True),
        OrderedVariant("silence in a standstill ends leases", ordered=SilenceIsAbsence),
        OrderedVariant("reads count at once", ordered=ReadsAtOnce),
        OrderedVariant("reads that look at nothing", ordered=ReadsWithoutLooking),
    )
}
