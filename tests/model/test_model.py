"""Within small bounds every order of things is tried, and each rule is needed. ``make prove`` goes further."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from _pytest.mark import ParameterSet

from ..thinning import thinned
from .frozen import freeze, thaw
from .ordered_member import OrderedMember, OrderedQuestion
from .questions import CASES, TO_THE_FIRST, TURNS, Case, Question, model_of
from .quorum_log import QuorumLog, QuorumState
from .quorum_member import QuorumMember, QuorumQuestion
from .search import search
from .story import told
from .terms import DURABLE

pytestmark = pytest.mark.long

MOST_STATES = 500_000
WALKS = int(os.environ.get("MODEL_WALKS", "2"))
"""Random walks for each question; ``make prove`` takes more."""
SHORT = [case for case in CASES if not case.takes_long]
LARGE = {
    "peers://, answers under way",
    "peers://, a request under way",
    "peers://, five members in two parts",
    "ordered log, a request under way",
}
"""``make prove`` searches these to the end, and ``make test`` the others."""
LEFT_TO_THE_SIMULATION = {"peers://, a request under way", "peers://, five members in two parts", "ordered log, a request under way"}
"""``make prove`` tries the broken rules of these. ``make test`` has the simulation's directed schedules for them."""


def broken() -> Iterator[ParameterSet]:
    for case in SHORT:
        marks = [pytest.mark.prove] if case.name in LEFT_TO_THE_SIMULATION else []
        for name, question in case.broken.items():
            yield pytest.param(question, id=f"{case.name}: {name}", marks=marks)


@pytest.mark.parametrize("case", thinned(SHORT, [case for case in SHORT if case.name not in LARGE]), ids=lambda case: case.name)
def test_no_order_of_things_breaks_a_log_out(case: Case) -> None:
    found = search(model_of(case.right), most_states=MOST_STATES)
    print(f"{case.name}: {found.summary}")
    assert found.fault is None
    assert found.complete
    assert found.states > 300


@pytest.mark.parametrize("question", [*broken()])
def test_a_broken_rule_is_detected_and_told_as_a_story(question: Question) -> None:
    model = model_of(question)
    found = search(model, most_states=MOST_STATES)
    assert found.fault is not None
    story = told(model, found)
    assert story.count("\n") == len(found.path)
    assert "logs out" in story
    assert story.endswith(f"Now {found.fault}.")


def seen(model: QuorumLog, state: QuorumState) -> list[object]:
    """Return the compared part of a state. A member's freshness has no effect once it knows everything."""
    members = [model.workshop.looks(number) for number in state.members]
    ages = [None if all(one.knows) else one.fresh_age for one in members]
    return [state.log_outs, ages, *((one.accepts, one.knows, one.memory) for one in members)]


LIKELY = {
    "logs out": 9.0,
    "hears and answers": 20.0,
    "has an answer from": 20.0,
    "asks, and has an answer from": 3.0,
    "writes": 9.0,
    "restarts, and forgets": 0.2,
    "time passes": 0.4,
}
"""Left to chance alone hardly a message would arrive before another one takes its place, and nothing would ever come of a log-out."""


def walk_both(question: QuorumQuestion, random: Random, steps: int) -> int:
    """Walk one path with and without the dropped state, and compare every step. Return how far the log-out got."""
    whole, wiped = QuorumLog(replace(question, reduced=False)), QuorumLog(question)
    here, there = whole.start(), wiped.start()
    for _ in range(steps):
        ways = dict(wiped.steps(there))
        if not ways:
            break  # everybody knows everything
        those = list(whole.steps(here))
        [(action, here)] = random.choices(those, [LIKELY.get(str(action[0]), 1) for action, _ in those])
        # The reduced model lacks actions without effect, and so they change nothing.
        there = ways.get(action, there)
        assert seen(whole, here) == seen(wiped, there), action
    return here.log_outs[0].standing


QUICK = [
    QuorumQuestion(links=TO_THE_FIRST, restarts=2, mortal=(1,), silence=True, units=6),
    QuorumQuestion(links=TO_THE_FIRST, doubles=True),
    QuorumQuestion(links=TO_THE_FIRST, files=True, restarts=3, mortal=(1,), ways=("keeps", "wrote", "forgets")),
]
SLOW = [
    QuorumQuestion(in_flight=None, restarts=2, mortal=(1,), silence=True, units=6),
    QuorumQuestion(in_flight=None, restarts=2, log_outs=(0, 1)),
    QuorumQuestion(members=4, links=TURNS, in_flight=None, restarts=3, mortal=(1, 2), units=5),
]


@pytest.mark.parametrize("question", thinned(QUICK + SLOW, QUICK))
def test_dropped_state_has_no_effect(question: QuorumQuestion) -> None:
    reached = [walk_both(question, Random(seed), 60) for seed in range(WALKS)]
    assert max(reached) >= DURABLE, reached


def test_a_frozen_object_is_made_again_equal() -> None:
    for member in (QuorumMember(0, QuorumQuestion()), OrderedMember(0, OrderedQuestion())):
        member.rest()
        frozen = freeze(member)
        again = thaw(frozen)
        assert freeze(again) == frozen
        again.wake()
        again.let_time_pass()
        again.rest()
        assert freeze(member) == frozen
