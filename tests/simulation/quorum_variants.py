"""The right rules of ``peers://``, and variants with one rule broken each."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import msgspec

from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.cluster.view import CUT_TOLERANCE_MS
from ha_session_mw._core.quorum.acknowledgements import Acknowledgements
from ha_session_mw._core.quorum.fence import Fence
from ha_session_mw._core.quorum.log import Quorum
from ha_session_mw._core.quorum.majorities import Majorities, majority_of
from ha_session_mw._core.quorum.messages import Answer, Push
from ha_session_mw._core.quorum.peer import Peer, not_answered_since
from ha_session_mw._core.quorum.provenance import Provenance
from ha_session_mw._core.quorum.ready import Ready, Sent
from ha_session_mw._core.quorum.recovery import Recovery
from ha_session_mw.models import Deny, Entry

from .variants import Variant


@dataclass(frozen=True)
class QuorumVariant(Variant):
    """One set of rules.

    Attributes:
        quorum: the state machine.
    """

    quorum: type[Quorum] = Quorum


class StampedOnReply(Quorum):
    """Counts as fresh since the arrival of an answer, not since the sending of the poll."""

    def answered(self, sent: Sent, answer: Answer, now: Moment) -> Ready:
        return super().answered(replace(sent, sent_s=now.boot_s), answer, now)


class ShortFence(Quorum):
    """Waits nine tenths of the time that a fence needs."""

    def _draw_conclusions(self, now: Moment) -> None:
        self.members.compare_limits()
        self.members.fence_wait_s *= 0.9
        super()._draw_conclusions(now)


class FencedOtherwise(Quorum):
    """Uses another account of acknowledgements."""

    account: ClassVar[type[Fence]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fence = self.account(self.membership.majorities)


class NoWait(Fence):
    def _fence_by_time(self, durable: int, now_s: float, wait_s: float) -> None:
        super()._fence_by_time(durable, now_s, -1.0)


class NoFence(FencedOtherwise):
    """Acknowledges a log-out as fenced once it is durable."""

    account = NoWait


class FreshAfterAnyPoll(Quorum):
    def _fresh_at(self) -> float:
        right = super()._fresh_at()
        return max(right, *(peer.fresh_s for peer in self.peers.values())) if not self.recovering else right


class Hasty(Recovery):
    __slots__ = ()

    def needed(self, members: frozenset[str]) -> int:
        return majority_of(members) - 1


class RecoversOtherwise(Quorum):
    """Comes back from amnesia by another rule."""

    rule: ClassVar[type[Recovery]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._follow_rule()

    def _follow_rule(self) -> None:
        if self.amnesia.recovery is not None:
            self.amnesia.recovery.__class__ = self.rule

    def _start_anew(self, peer: Peer, now: Moment) -> None:
        super()._start_anew(peer, now)
        self._follow_rule()


class BackAfterMajority(RecoversOtherwise):
    """Comes back from amnesia after it has learned from a mere majority, itself included."""

    rule = Hasty


class EverAcknowledged(Fence):
    def __init__(self, majorities: Majorities) -> None:
        super().__init__(majorities)
        self.ever = dict.fromkeys(self.members, 0)

    def acknowledged(self, member: str, position: int, silent: tuple[str, ...], stamp: int) -> None:
        super().acknowledged(member, position, silent, stamp)
        self.ever[member] = max(self.ever[member], position)

    def _fence_by_confirmations(self, silent: Collection[str]) -> int:
        return max(super()._fence_by_confirmations(silent), sorted(self.ever.values())[1 - self.majorities.least])


class SummedOverIncarnations(FencedOtherwise):
    """Counts each member that ever acknowledged, even if it has forgotten since."""

    account = EverAcknowledged


class CountedAtOnce(Fence):
    def _fence_by_confirmations(self, silent: Collection[str]) -> int:
        positions = sorted(known.position for known in self.members.values())
        return max(super()._fence_by_confirmations(silent), positions[1 - self.majorities.least])


class NotHeardAgain(FencedOtherwise):
    """Counts acknowledgements at once, as if no incarnation could have ended since it acknowledged."""

    account = CountedAtOnce


class EachSuffices(Fence):
    def _suffices(self, member: str) -> bool:
        return True


class EachForItself(FencedOtherwise):
    """Counts members together that acknowledged each at a time of its own, though no two of the nodes are a majority."""

    account = EachSuffices


class AnyWitness(Fence):
    def _is_ruled_out(self, member: str, confirmed: list[Acknowledgements], position: int, silent: Collection[str]) -> bool:
        witnesses = [known.member for known in self.members.values() if member in known.silent]
        return self.majorities.exclude(member, [*witnesses, *([self.majorities.me] if member in silent else [])])


class WitnessesWithoutTheEntry(FencedOtherwise):
    """Believes that a node is out of contact by the word of members that may lack the entry themselves."""

    account = AnyWitness


class CountsAtOnce(Fence):
    def applied(self, member: str, position: int, echo: int) -> None:
        if (known := self.members.get(member)) is not None:
            known.applied = max(known.applied, position)


class AppliedCountsAtOnce(FencedOtherwise):
    """Believes that a member enforces what it has applied and not kept, though its process may have ended before that was durable."""

    account = CountsAtOnce


class SilentForLess(Quorum):
    """Takes a lease for over as if it had counted from a poll before the one that was answered."""

    def _silent(self, now: Moment) -> tuple[str, ...]:
        return not_answered_since(self.peers, now.boot_s + self.quiet_time.hold_s - self.members.fence_wait_s)


class OneByOne(Recovery):
    """Counts all others as heard, each at a time of its own."""

    __slots__ = ()

    def _all_have_been_heard(self, members: frozenset[str]) -> bool:
        return members <= {self.majorities.me, *self._teachers, *self.fellows}


class FirstStartOneByOne(RecoversOtherwise):
    """Assumes a first start when each of the others has been recovering at some time."""

    rule = OneByOne


class APage(Provenance):
    __slots__ = ()

    def merged(self, answer: Answer, before: int, *, asked: int) -> None:
        told = tuple((life, position if number else answer.upto) for number, (life, position) in enumerate(answer.read))
        super().merged(msgspec.structs.replace(answer, read=told), before, asked=asked)


class APageForTheWhole(Quorum):
    """Takes itself to have what another member has, before it has read that one to the end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.provenance.__class__ = APage


class AcceptsAfterGoodBye(Quorum):
    """Says good-bye, and goes on accepting sessions by the lease that it has."""

    def _fresh_at(self) -> float:
        left, self.left = self.left, False
        fresh_at = super()._fresh_at()
        self.left = left
        return fresh_at


class OneWitness(Fence):
    def _is_ruled_out(self, member: str, confirmed: list[Acknowledgements], position: int, silent: Collection[str]) -> bool:
        return member in silent or super()._is_ruled_out(member, confirmed, position, silent)


class GoneByOneWord(FencedOtherwise):
    """Waits for no member that has said good-bye to this node, though its next process may have a lease by the others' answers."""

    account = OneWitness


class GoneForEver(Quorum):
    """Takes a good-bye for that of the member, not of the process that has said it."""

    def pushed(self, push: Push, now: Moment) -> Ready:
        peer = self.peers[push.answer.sender]
        peer.answered_life = push.answer.heartbeat.life
        peer.answered_before_s = -math.inf
        return super().pushed(push, now)


class PurgedByTheClock(Quorum):
    """Drops entries that ended by the node's own clock, without raising the floor first."""

    def tick(self, now: Moment) -> Ready:
        ready = super().tick(now)
        for id in [id for id, end in self.view.denied.items() if end <= now.wall_ms]:
            del self.view.denied[id]
        return ready


class LastReasonCounts(Quorum):
    """Takes an id that was logged out for one that was replaced, if it hears of that last."""

    def _merge(self, entry: Entry) -> None:
        super()._merge(entry)
        if isinstance(entry, Deny) and entry.replaced_ms:
            self.view.superseded[entry.id] = entry.replaced_ms

    def _merge_all(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._merge(entry)


RIGHT = QuorumVariant("right", checks=True)
APPLIED_AT_ONCE = QuorumVariant("applied counts at once", quorum=AppliedCountsAtOnce)
BROKEN = {
    variant.name: variant
    for variant in (
        QuorumVariant("stamped on reply", quorum=StampedOnReply),
        QuorumVariant("read after the look-up", reads_late=True),
        QuorumVariant("fence 10 % short", quorum=ShortFence),
        QuorumVariant("no fence", quorum=NoFence),
        QuorumVariant("fresh after any one poll", quorum=FreshAfterAnyPoll),
        QuorumVariant("back after a mere majority", quorum=BackAfterMajority),
        QuorumVariant("summed over incarnations", quorum=SummedOverIncarnations),
        QuorumVariant("not heard again", quorum=NotHeardAgain),
        QuorumVariant("each for itself", quorum=EachForItself),
        QuorumVariant("a page for the whole", quorum=APageForTheWhole),
        QuorumVariant("a peer's yes kept", keeps_yes=True),
        QuorumVariant("purged by the clock", quorum=PurgedByTheClock),
        QuorumVariant("witnesses without the entry", quorum=WitnessesWithoutTheEntry),
        QuorumVariant("silent for a hold less", quorum=SilentForLess),
        QuorumVariant("first start one by one", quorum=FirstStartOneByOne),
        QuorumVariant("accepts after its good-bye", quorum=AcceptsAfterGoodBye),
        QuorumVariant("gone by one word", quorum=GoneByOneWord),
        QuorumVariant("gone for ever", quorum=GoneForEver),
        QuorumVariant("an entry that raises no generation", keeps_generation=True),
        QuorumVariant("cuts without the tolerance of clocks", cut_dated_ms=-CUT_TOLERANCE_MS),
    )
}
LAST_REASON = QuorumVariant("the last reason counts", quorum=LastReasonCounts)
"""Accepts no session wrongly, but tells a client that was logged out to try again."""
DENIED_FIRST = QuorumVariant("a new id denied before it is confirmed", denies_first=True)
"""Accepts no session wrongly either, but ends sessions whose clients were told that nothing has changed."""
LISTS_ANYTHING = QuorumVariant("a token may list what can be lost", lists_what_may_be_lost=True)
"""Accepts no session wrongly, but hands out tokens of which no node can ever tell whether they are valid."""
UNDATED_CUTS = QuorumVariant("cuts without a time", cut_dated_ms=None)
"""Accepts no session wrongly, but ends sessions that began after the log-out."""
