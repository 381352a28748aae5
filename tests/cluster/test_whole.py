"""The directed schedules on real nodes: the right rules pass, and each broken variant is caught."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ..simulation.quorum_schedules import CAUGHT_BY, EVERY_SCHEDULE, Begin, Schedule
from ..simulation.quorum_variants import BROKEN
from ..thinning import thinned
from .whole import Whole, follow, whole

pytestmark = pytest.mark.long


@pytest.fixture
def begin() -> Iterator[Begin]:
    with ExitStack() as opened:

        def begin(nodes: int, *, slow_clock: int | None = None) -> Whole:
            return opened.enter_context(whole(nodes, slow_clock=slow_clock))

        yield begin


LONGEST = {"taking_turns_before_a_newcomer", "taking_turns_in_forgetting"}


@pytest.mark.parametrize(
    "schedule",
    thinned(EVERY_SCHEDULE, [one for one in EVERY_SCHEDULE if one.__name__ not in LONGEST]),
    ids=lambda schedule: schedule.__name__,
)
def test_a_directed_schedule_breaks_no_rule(schedule: Schedule, begin: Begin) -> None:
    assert schedule(begin).faults == 0


@pytest.mark.parametrize(
    "name", thinned(BROKEN, [*[*BROKEN][::2], "read after the look-up", "an entry that raises no generation"])
)  # all are tried on the rules alone
def test_a_broken_variant_is_caught(name: str, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(BROKEN[name], monkeypatch)
    assert CAUGHT_BY[name](begin).accepted_after_fence > 0
