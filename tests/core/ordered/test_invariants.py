"""Each invariant of an ordered log's parts is shown to fire on a part that breaks it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from ha_session_mw._core.cluster.invariants import InvariantBroken
from ha_session_mw._core.ordered.digest import Digest
from ha_session_mw._core.ordered.leases import Leases

from .test_log import Log, Member, at, deny


def leases() -> Leases:
    found = Leases()
    found.heard("b/1", 3, 5, first=2, now_s=10, alive_s=1, limit_s=5)
    return found


@pytest.mark.parametrize(
    ("broken", "position", "now_s"),
    [({}, 4, 10), ({}, 5, 9), ({"applied": 5}, 5, 10), ({"first": 6}, 5, 10)],
    ids=["not read", "heard later", "confirms itself", "began later"],
)
def test_the_leases_of_others(broken: dict[str, int], position: int, now_s: float) -> None:
    good = leases()
    good.check(5, 10)
    [known] = good.known.values()
    for name, value in broken.items():
        setattr(known, name, value)
    with pytest.raises(InvariantBroken):
        good.check(position, now_s)


def test_a_digest_with_a_change_that_is_not_marked() -> None:
    digest = Digest()
    digest.begin(3, 7)
    digest.check(3)
    with pytest.raises(InvariantBroken, match="no position is marked that was not applied"):
        digest.check(2)
    digest.add("deny/1/x")
    with pytest.raises(InvariantBroken, match="every change is marked"):
        digest.check(4)
    digest.mark(4)
    digest.check(4)


SPOILERS: dict[str, Callable[[Member], object]] = {
    "fresh as of a time to come": lambda one: setattr(one.view, "fresh_at", at(2).boot_s),
    "doubts its view": lambda one: setattr(one, "is_doubtful", True),
    "was not loaded": lambda one: setattr(one, "log", None),
    "before the lease": lambda one: one.own_beats.tries.update({99: -math.inf}),
    "below the floor": lambda one: one.entries.deleted.add("deny/0000000000/x"),
}


@pytest.mark.parametrize("what", SPOILERS)
def test_a_member_of_an_ordered_log(what: str) -> None:
    log = Log()
    one = log.ready("a", "b")[0]
    log.put(deny("x"))
    log.deliver(at(1), one)
    one.check(at(1))
    SPOILERS[what](one)
    with pytest.raises(InvariantBroken, match=what):
        one.check(at(1))
