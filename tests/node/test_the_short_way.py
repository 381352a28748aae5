"""A token accepted under the present view is accepted again without the rule, exactly as the rule would accept it."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from ha_session_mw import SessionManager, SessionMiddleware, Settings
from ha_session_mw._core.accept_rule import CannotTell, decide
from ha_session_mw._core.cluster.view import View, new_cut_id
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw._node import validation
from ha_session_mw._node.counted_tokens import SAMPLE_EVERY
from ha_session_mw._node.node import Node
from ha_session_mw._node.short_way import ShortWay
from ha_session_mw.exceptions import ProblemError
from ha_session_mw.manager import node_of
from ha_session_mw.models import Cut, Deny, DenyKey, Entry
from ha_session_mw.testing import ManualClock

KEY = "2JxQ8vZ6nT4wLmYp0RkHcVbNsDfGqXeA"
HOUR_MS = 3_600_000


def new_node(clock: ManualClock) -> tuple[Node, bytes, Verified]:
    """A node, and a token of it that was accepted."""
    node = node_of(SessionManager(Settings(secret_key=KEY, idle_timeout=600, absolute_timeout=1200), clock=clock))
    claims = node.issuer.issue("ada")
    token = node.sign(claims)
    verified = node.validator.validate(token)
    assert isinstance(verified, Verified)
    return node, token, verified


def answer(node: Node, token: bytes) -> object:
    """What the node says of a token in its cache: the token, why it is refused, why it cannot tell, or that it has forgotten it."""
    try:
        outcome = node.validator.validate_cached(token)
    except ProblemError as problem:
        return type(problem)
    return type(outcome.problem) if isinstance(outcome, CannotTell) else outcome


def without_short_way(node: Node, token: bytes) -> object:
    entry = node.cache.entries.get(token)
    if entry is None:
        return None
    generation, entry.generation = entry.generation, None
    try:
        return answer(node, token)
    finally:
        entry.generation = generation


Step = tuple[str, float]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("time"), st.floats(0.0, 400.0)),
        st.tuples(st.just("wall"), st.floats(-150.0, 150.0)),
        st.tuples(st.just("floor"), st.floats(-120.0, 700.0)),
        st.tuples(
            st.sampled_from(["deny", "other", "family", "key", "cut", "everybody", "anew", "stale", "fresh", "poll", "forgotten"]),
            st.just(0.0),
        ),
    ),
    max_size=12,
)


def entry_of(kind: str, verified: Verified, now_ms: int) -> Entry:
    claims, until_ms = verified.claims, now_ms + HOUR_MS
    if kind in ("cut", "everybody"):
        return Cut(new_cut_id("x", until_ms, now_ms), claims.subject if kind == "cut" else None, until_ms)
    if kind == "key":
        return DenyKey(verified.kid, until_ms)
    return Deny({"deny": claims.sid, "family": claims.family}.get(kind, "another"), until_ms)


def take(step: Step, node: Node, verified: Verified, clock: ManualClock) -> None:
    kind, amount = step
    view, now_ms = node.view, int(clock.wall_s() * 1000)
    match kind:
        case "time":
            clock.advance(amount)
        case "wall":
            clock.step_wall(amount)
        case "floor":
            view.raise_floor(int(now_ms + amount * 1000))
        case "anew":
            view.start_anew(fresh_at=math.inf)
        case "stale":
            view.fresh_at = -math.inf
        case "fresh":
            view.fresh_at = math.inf
        case "poll":
            view.fresh_at = clock.boot_s()  # as on a cluster, whose lease begins here
        case "forgotten":
            view.forgotten_cuts_end_ms = 0.0
        case _:
            view.merge(entry_of(kind, verified, now_ms))


def agrees(steps: list[Step]) -> bool:
    clock = ManualClock()
    node, token, verified = new_node(clock)
    for step in steps:
        take(step, node, verified, clock)
        if answer(node, token) != without_short_way(node, token):
            return False
    return True


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_the_short_way_answers_as_the_rule_does(steps: list[Step]) -> None:
    assert agrees(steps)


CHANGES: dict[str, list[Step]] = {
    "a log-out": [("deny", 0.0)],
    "a log-out of the family": [("family", 0.0)],
    "a log-out of the subject": [("cut", 0.0)],
    "a log-out of everybody": [("everybody", 0.0)],
    "a revoked key": [("key", 0.0)],
    "the idle end": [("time", 300.0), ("time", 301.0)],
    "a clock that goes back below the floor": [("floor", -1.0), ("wall", -25.0), ("floor", 1300.0)],
    "lost contact": [("stale", 0.0)],
    "a lease that ends": [("poll", 0.0), ("time", 60.0)],
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_accepted_token_outlasts(change: str) -> None:
    clock = ManualClock()
    node, token, verified = new_node(clock)
    assert answer(node, token) is verified
    for step in CHANGES[change]:
        take(step, node, verified, clock)
    assert answer(node, token) is not verified
    assert agrees(CHANGES[change])


def counting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return how often the rule was asked since."""
    asked: list[None] = []

    def counted(*args: object, **kwargs: object) -> object:
        asked.append(None)
        return decide(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(validation, "decide", counted)
    return lambda: len(asked)


@pytest.mark.parametrize("on_cluster", [False, True], ids=["alone", "with a lease"])
def test_the_rule_is_asked_once_for_each_view(monkeypatch: pytest.MonkeyPatch, on_cluster: bool) -> None:
    clock = ManualClock()
    node, token, verified = new_node(clock)
    asked = counting(monkeypatch)
    if on_cluster:
        node.view.fresh_at = clock.boot_s()
        node.log.trusts_clock()
        node.view.fresh_at = clock.boot_s()
    for _ in range(200):
        assert answer(node, token) is verified
    assert asked() == 0
    node.view.merge(Deny("another", verified.claims.absolute_end_ms + HOUR_MS))
    for _ in range(200):
        assert answer(node, token) is verified
    assert asked() == 1


def test_each_accepted_token_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    node, token, _ = new_node(ManualClock())
    samples: list[Verified] = []
    node.validator.on_sample = lambda sample: samples.append(sample[0])
    begun = node.validator.accepted
    for number in range(1, 300):
        answer(node, token)
        assert node.validator.accepted == begun + number
    assert len(samples) == 299 // SAMPLE_EVERY


def test_an_entry_that_cannot_be_merged_whole_is_a_change_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    node, token, verified = new_node(ManualClock())

    def breaks_off(view: View, entry: Entry, *_: object) -> bool:
        view.denied[verified.claims.sid] = verified.claims.absolute_end_ms
        raise MemoryError

    monkeypatch.setattr(View, "_take_in", breaks_off)
    with pytest.raises(MemoryError):
        node.view.merge(Deny(verified.claims.sid, verified.claims.absolute_end_ms))
    assert answer(node, token) is not verified


def steps_of(function: Callable[..., object]) -> str:
    """What a function does with a token that the cache knows."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.If) and "readings" in ast.unparse(node))
    return ast.unparse(found)


def test_the_middleware_goes_the_very_same_way() -> None:
    assert steps_of(SessionMiddleware.__call__) == steps_of(ShortWay.recall)
