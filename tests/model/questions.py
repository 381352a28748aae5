"""The searches with their bounds, and the broken rules that each of them finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..simulation import ordered_variants, quorum_variants
from .ordered_log import OrderedLog
from .ordered_member import OrderedQuestion
from .quorum_log import QuorumLog
from .quorum_member import QuorumQuestion

Question = QuorumQuestion | OrderedQuestion


@dataclass(frozen=True)
class Case:
    """One search with the right rules, which finds no fault, and the same search with each rule broken, which finds one.

    Attributes:
        name: its subject.
        right: the question with the right rules.
        broken: the same with one rule broken, by its name.
        wider: the bounds of ``make prove``.
        takes_long: whether all of it is for ``make prove``.
    """

    name: str
    right: Question
    broken: Mapping[str, Question] = field(default_factory=dict)
    wider: tuple[Question, ...] = ()
    takes_long: bool = False


def model_of(question: Question) -> QuorumLog | OrderedLog:
    """The model in which a question is searched."""
    return QuorumLog(question) if isinstance(question, QuorumQuestion) else OrderedLog(question)


def _peers(name: str, right: QuorumQuestion, *broken: str, wider: tuple[QuorumQuestion, ...] = (), takes_long: bool = False) -> Case:
    variants = {name: quorum_variants.BROKEN[name] for name in broken}
    questions = {name: replace(right, kind=variant.quorum, reads_late=variant.reads_late) for name, variant in variants.items()}
    return Case(f"peers://, {name}", right, questions, wider, takes_long)


def _ordered(name: str, right: OrderedQuestion, *broken: str, wider: tuple[OrderedQuestion, ...] = ()) -> Case:
    variants = {name: ordered_variants.BROKEN[name] for name in broken}
    questions = {
        name: replace(right, kind=variant.ordered, reads_late=variant.reads_late, skips=variant.resumes_undelivered)
        for name, variant in variants.items()
    }
    return Case(f"ordered log, {name}", right, questions, wider)


TO_THE_FIRST = ((1, 0), (2, 0))
"""Two members poll the one that logs out, and no other member polls."""
TWO_PARTS = ((1, 0), (2, 0), (3, 4), (4, 3))
"""Five members: three hear of the log-out, two have only each other."""
TURNS = ((1, 0), (1, 2), (1, 3), (2, 0), (2, 1), (2, 3))
"""Four members: two of them may forget, and poll all others."""

ONE_BETWEEN = ((0, 1), (1, 0), (1, 2), (2, 1))
"""The first member and the last know each other only through the one between them."""
ONE_AFTER_THE_OTHER = ((1, 0), (2, 1))
"""A log-out reaches the last member only through the second."""

CASES = (
    _peers(
        "leases and the fence",
        QuorumQuestion(links=TO_THE_FIRST),
        "fence 10 % short",
        "no fence",
        wider=(
            QuorumQuestion(doubles=True),
            QuorumQuestion(links=(*TO_THE_FIRST, (2, 1)), silence=True, log_outs=(0, 0), units=6),
            QuorumQuestion(in_flight=None, log_outs=(0, 1)),
        ),
    ),
    _peers(
        "answers under way",
        QuorumQuestion(links=ONE_AFTER_THE_OTHER, in_flight=2, units=1),
        "stamped on reply",
        wider=(
            QuorumQuestion(links=TO_THE_FIRST, in_flight=2, units=1),
            QuorumQuestion(links=TO_THE_FIRST, in_flight=2),
            QuorumQuestion(links=TO_THE_FIRST, in_flight=3, units=1),
            QuorumQuestion(in_flight=2, units=1),
        ),
    ),
    _peers("a request under way", QuorumQuestion(in_flight=None, units=3, requests=True), "read after the look-up"),
    _peers(
        "amnesia",
        QuorumQuestion(links=ONE_BETWEEN, in_flight=None, units=1, restarts=1),
        "back after a mere majority",
        wider=(
            QuorumQuestion(in_flight=None, units=1, restarts=1),
            QuorumQuestion(units=1, restarts=1),
            QuorumQuestion(in_flight=None, units=1, restarts=2),
            QuorumQuestion(in_flight=None, units=1, restarts=2, files=True, ways=("keeps", "wrote", "forgets"), mortal=(0, 1)),
        ),
    ),
    _peers("five members in two parts", QuorumQuestion(members=5, links=TWO_PARTS, in_flight=None, units=1), "fresh after any one poll"),
    _peers(
        "members that take turns in forgetting",
        QuorumQuestion(members=4, links=TURNS, in_flight=None, units=1, restarts=2, mortal=(1, 2)),
        "summed over incarnations",
        "not heard again",
        takes_long=True,
    ),
    _ordered(
        "leases and the fence",
        OrderedQuestion(),
        "stamped on reply",
        "fresh when acknowledged",
        "fence 10 % short",
        "no fence",
        "one worker for four",
        "resumed after what was not delivered",
        wider=(
            OrderedQuestion(beats=2, units=1),
            OrderedQuestion(restarts=1, units=1),
            OrderedQuestion(beats=2),
            OrderedQuestion(in_flight=2, doubles=True, units=3),
            OrderedQuestion(restarts=1),
            OrderedQuestion(log_outs=(0, 1)),
        ),
    ),
    _ordered("a request under way", OrderedQuestion(units=3, requests=True), "read after the look-up"),
)
