"""The rules as they are, and each with one rule broken. The broken ones exist to be caught: they are nowhere in the product."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ha_session_mw._core.freshness import Moment
from ha_session_mw._core.holders import Holder
from ha_session_mw._core.messages import Answer, Poll
from ha_session_mw._core.quorum import Quorum, Sent, _Peer
from ha_session_mw._core.recovery import Recovery


@dataclass(frozen=True)
class Variant:
    """One set of rules.

    Attributes:
        quorum: the state machine.
        reads_late: ``fresh_at`` is read after the look-up.
        keeps_yes: a peer's yes is kept for as long as the peer's lease lasts.
    """

    name: str
    quorum: type[Quorum] = Quorum
    reads_late: bool = False
    keeps_yes: bool = False


class StampedOnReply(Quorum):
    """Fresh as of the arrival of an answer, not of the sending of the poll."""

    def answered(self, sent: Sent, answer: Answer, now: Moment) -> None:
        super().answered(replace(sent, sent_s=now.boot_s), answer, now)


class ShortFence(Quorum):
    """Waits nine tenths of what it should."""

    def _settle(self, now: Moment) -> None:
        self.members._compare_limits()
        self.members.fence_wait_s *= 0.9
        super()._settle(now)


class NoFence(Quorum):
    """Acknowledges what is durable."""

    def _wait(self, durable: int, now: Moment) -> None:
        super()._wait(durable, now)
        self.fenced = self.durable


class FreshAfterAnyPoll(Quorum):
    def _fresh_at(self) -> float:
        right = super()._fresh_at()
        return max(right, *(peer.fresh_s for peer in self._peers.values())) if not self.recovering else right


class BackAfterMajority(Quorum):
    """Comes back from amnesia after it has learned from a mere majority, itself included."""

    def _new_recovery(self) -> Recovery:
        recovery = super()._new_recovery()
        recovery._needed = self.majority - 1
        return recovery


class SummedOverIncarnations(Quorum):
    """Counts whoever has ever acknowledged, whatever it has forgotten since."""

    def _acknowledge(self, holder: Holder, poll: Poll, *, mine: bool) -> None:
        super()._acknowledge(holder, poll, mine=mine)
        if mine:
            ever = self.__dict__.setdefault("ever", {})
            ever[poll.sender] = max(ever.get(poll.sender, 0), poll.position)

    def _prove(self, now: Moment) -> None:
        super()._prove(now)
        held = sorted([*self.__dict__.get("ever", {}).values(), *[0] * len(self._peers)], reverse=True)
        self._wait(max(self.durable, held[self.majority - 2]), now)


class NotHeardAgain(Quorum):
    """Acknowledgements of the present incarnations count at once, as if each were still what it was when it acknowledged."""

    def _prove(self, now: Moment) -> None:
        super()._prove(now)
        held = sorted((peer.holder.position for peer in self._peers.values()), reverse=True)
        self._wait(max(self.durable, held[self.majority - 2]), now)


class WitnessesWithoutTheEntry(Quorum):
    """Takes the word of members that a node is out of contact, whether or not they hold what it must not miss."""

    def _is_ruled_out(self, peer: _Peer, confirmed: list[Holder], position: int, now: Moment) -> bool:
        everybody = [other.holder for other in self._peers.values()]
        witnesses = self._is_silent(peer, now) + sum(peer.url in holder._silent for holder in everybody)
        return witnesses >= self._amnesia_quorum


class OneByOne(Recovery):
    """Has heard all others, each at its own time."""

    @property
    def _everybody_has_been_heard(self) -> bool:
        return len(self._teachers) + len(self._fellows) >= self._others


class FirstStartOneByOne(Quorum):
    """Takes it for a first start when each of the others has been recovering at some time."""

    def _new_recovery(self) -> Recovery:
        return OneByOne(others=len(self._peers), majority=self.majority, memory="unchecked" if self._checks_its_file else "lost")


class PurgedByTheClock(Quorum):
    """Drops entries when the own clock says that they ended, without raising a floor first."""

    def tick(self, now: Moment) -> None:
        super().tick(now)
        for id in [id for id, end in self.view.denied.items() if end <= now.wall_ms]:
            del self.view.denied[id]


RIGHT = Variant("right")
BROKEN = {
    variant.name: variant
    for variant in (
        Variant("stamped on reply", StampedOnReply),
        Variant("read after the look-up", reads_late=True),
        Variant("fence 10 % short", ShortFence),
        Variant("no fence", NoFence),
        Variant("fresh after any one poll", FreshAfterAnyPoll),
        Variant("back after a mere majority", BackAfterMajority),
        Variant("summed over incarnations", SummedOverIncarnations),
        Variant("not heard again", NotHeardAgain),
        Variant("a peer's yes kept", keeps_yes=True),
        Variant("purged by the clock", PurgedByTheClock),
        Variant("witnesses without the entry", WitnessesWithoutTheEntry),
        Variant("first start one by one", FirstStartOneByOne),
    )
}
