"""A denial lives until the absolute end, and a repeated log-out everywhere is an entry again: less revives sessions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..thinning import thinned
from .entry_life_schedules import (
    NOT_REPEATED,
    NOT_REPEATED_IF_ALL_AGREE,
    REVIVED,
    SHORT_LIVED,
    a_log_in_elsewhere,
    a_node_that_has_started_anew,
    a_node_that_was_away_for_longer,
    an_open_connection_ends,
)
from .quorum_node import QuorumWorld
from .quorum_variants import RIGHT, QuorumVariant

pytestmark = pytest.mark.long


@pytest.mark.parametrize("schedule", thinned(REVIVED, REVIVED[1:]), ids=lambda schedule: schedule.__name__)
def test_a_denial_that_ends_after_the_idle_timeout_lets_a_session_back_in(schedule: Callable[[QuorumVariant], QuorumWorld]) -> None:
    assert schedule(RIGHT).findings.faults == 0
    assert schedule(SHORT_LIVED).findings.accepted_after_fence > 0


@pytest.mark.prove
def test_a_denial_that_ends_after_the_idle_timeout_leaves_a_connection_open() -> None:
    assert an_open_connection_ends(a_node_that_was_away_for_longer(RIGHT))
    assert not an_open_connection_ends(a_node_that_was_away_for_longer(SHORT_LIVED))


def test_a_repeated_log_out_everywhere_that_is_dropped_misses_a_log_in_elsewhere() -> None:
    assert a_log_in_elsewhere(RIGHT).findings.faults == 0
    assert a_log_in_elsewhere(NOT_REPEATED).findings.accepted_after_fence > 0
    assert a_log_in_elsewhere(NOT_REPEATED_IF_ALL_AGREE).findings.faults == 0


def test_no_answer_of_all_nodes_makes_it_safe_to_drop_one() -> None:
    assert a_node_that_has_started_anew(RIGHT).findings.faults == 0
    assert a_node_that_has_started_anew(NOT_REPEATED_IF_ALL_AGREE).findings.accepted_after_fence > 0
