"""Random schedules for ``peers://`` in which each restart may be that of another release. All messages under way come from before."""

from __future__ import annotations

from typing import Any, ClassVar

from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.quorum.log import Quorum
from ha_session_mw._core.quorum.spoken import Spoken
from ha_session_mw.version import Versions

from .quorum_chaos import QuorumChaos
from .quorum_node import QuorumNode
from .quorum_variants import RIGHT, QuorumVariant
from .world import Findings

STEPS = ((Versions(1, 1), Versions(1, 2)), (Versions(1, 2), Versions(2, 3)), (Versions(2, 2), Versions(2, 3)))
"""The versions that two neighbouring releases read: three upgrades, in the order in which releases may make them."""


class Keeps(Spoken):
    """Goes on with the highest version that the member ever read."""

    def hear(self, heartbeat: Heartbeat) -> None:
        highest = self.version
        super().hear(heartbeat)
        self.version = max(highest, self.version)


class Assumes(Spoken):
    """Takes all members for nodes of its own release."""

    def __init__(self, own: Versions) -> None:
        super().__init__(own)
        self.version = own.highest

    def hear(self, heartbeat: Heartbeat) -> None:
        self.heard = heartbeat


class SpeaksOtherwise(Quorum):
    """Chooses the version of its messages by another rule."""

    rule: ClassVar[type[Spoken]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for peer in self.peers.values():
            peer.spoken = self.rule(self.members.own.protocol)


class KeepsTheHighest(SpeaksOtherwise):
    rule = Keeps


class AssumesItsOwn(SpeaksOtherwise):
    rule = Assumes


BROKEN_VERSIONS = {
    variant.name: variant
    for variant in (
        QuorumVariant("a version that never falls", quorum=KeepsTheHighest),
        QuorumVariant("the own version for all", quorum=AssumesItsOwn),
    )
}


def run(seed: int, *, variant: QuorumVariant = RIGHT) -> Findings:
    """Return the findings of one random schedule."""
    return VersionChaos(seed, None, variant, leaving=bool(seed % 2)).run()


class VersionChaos(QuorumChaos):
    """One random schedule; its arguments are those of :class:`.QuorumChaos`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.releases = self.chance.choice(STEPS)
        for node in self.world.nodes:
            node.protocol = self.chance.choice(self.releases)

    def _restart(self, node: QuorumNode) -> None:
        if not node.up:
            node.protocol = self.chance.choice(self.releases)
        super()._restart(node)
