"""``peers://`` with two releases side by side: no rule breaks, and the cluster heals as if there were one."""

from __future__ import annotations

import pytest

from ..thinning import thinned
from . import version_chaos
from .version_chaos import BROKEN_VERSIONS, VersionChaos
from .world import Findings

pytestmark = pytest.mark.long

PARTS, SEEDS_A_PART = 5, 6


@pytest.mark.parametrize("part", thinned(range(PARTS), range(1)))
def test_no_random_schedule_of_two_releases_breaks_a_rule(part: int) -> None:
    total = Findings()
    for seed in range(part * SEEDS_A_PART, (part + 1) * SEEDS_A_PART):
        found = version_chaos.run(seed)
        assert found.faults == 0, seed
        total.add(found)
    assert total.fenced > 10


def test_the_schedules_really_mix_the_releases_and_their_versions() -> None:
    spoken = set()
    for seed in range(6):
        run = VersionChaos(seed)
        run.run()
        spoken |= {peer.spoken.version for node in run.world.nodes for peer in node.quorum.peers.values()}
    assert spoken == {1, 2, 3}


@pytest.mark.parametrize("name", BROKEN_VERSIONS)
def test_another_rule_for_the_version_is_caught(name: str) -> None:
    assert any(version_chaos.run(seed, variant=BROKEN_VERSIONS[name]).never_healed for seed in range(6))
