"""The rules by which the member list of ``peers://`` changes, each broken in turn."""

from __future__ import annotations

from typing import Any, ClassVar

from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.quorum.log import Quorum
from ha_session_mw._core.quorum.majorities import Majorities
from ha_session_mw._core.quorum.membership import Membership
from ha_session_mw._core.quorum.messages import Poll
from ha_session_mw._core.quorum.peer import Peer

from .quorum_variants import QuorumVariant


class Relisted(Quorum):
    """Has other rules of membership."""

    rules: ClassVar[type[Membership]]

    def _continue_lists(self, kept: tuple[str, ...]) -> None:
        self.membership.__class__ = self.rules
        self.membership._conclude()
        super()._continue_lists(kept)


class NewOnly(Membership):
    def _conclude(self) -> None:
        super()._conclude()
        self.majorities = Majorities(self.me, self.lists[-1:])


class NewMajorityOnly(Relisted):
    """Needs a majority of the new list only, while it has both."""

    rules = NewOnly


class AnyFile(Membership):
    def follows(self, kept: tuple[str, ...]) -> bool:
        return True


class UnderAnyList(Relisted):
    """Continues its file under any list, as releases did that did not know a list could change."""

    rules = AnyFile


class Unwaiting(Membership):
    def follows(self, kept: tuple[str, ...]) -> bool:
        followed = super().follows(kept)
        self.awaits_move = False
        self._conclude()
        return followed


class NewBeforeTheMove(Relisted):
    """Goes by the new list alone as soon as it is started so, and has been started with both before."""

    rules = Unwaiting


class Everywhere(Membership):
    @property
    def serves(self) -> bool:
        return True


class NewcomersServe(Relisted):
    """Lets a member serve that the old list does not name, while nodes of the old list still serve."""

    rules = Everywhere


class FirstStartAmongOthers(Quorum):
    """Assumes a first start although nodes of another list take it for a member."""

    def arrived(self, poll: Poll, now: Moment) -> Any:
        arrived = super().arrived(poll, now)
        self.neighbours._outsiders.clear()
        return arrived


class CountsEarly(Quorum):
    """Counts together with nodes of the old list and of the new list at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.neighbours.counts = self._counts  # type: ignore[method-assign]

    def _counts(self, peer: Peer, message: Any) -> bool:
        return peer.url in self.peers


BROKEN_LISTS = {
    variant.name: variant
    for variant in (
        QuorumVariant("a majority of the new list only", quorum=NewMajorityOnly),
        QuorumVariant("a file under any list", quorum=UnderAnyList),
        QuorumVariant("the new list before the move", quorum=NewBeforeTheMove),
        QuorumVariant("newcomers serve", quorum=NewcomersServe),
        QuorumVariant("a first start among others", quorum=FirstStartAmongOthers),
        QuorumVariant("counts with old and new at once", quorum=CountsEarly),
    )
}
