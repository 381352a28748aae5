"""How long a log-out took to each node, from intervals on each node's own clock."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw.ops.propagation import KEPT, Propagation, ToldLogOut


def told(key: str, ago_s: float, *, mode: str | None = None, at_start: bool = False) -> ToldLogOut:
    return ToldLogOut(key, "session", key, ago_s, at_start, mode, 0.02 if mode else None)


def only(found: list[dict[str, Any]]) -> dict[str, Any]:
    [row] = found
    return row


seconds = st.floats(0, 2)


@given(st.floats(0, 60), seconds, seconds, seconds, seconds)
def test_the_true_time_lies_within_the_stated_error(made_s: float, took_s: float, before_s: float, way_s: float, back_s: float) -> None:
    """Whatever the ways there and back take."""
    propagation, sent_s = Propagation(), made_s + took_s + before_s
    answered_s = sent_s + way_s
    propagation.learn("b", [told("x", answered_s - (made_s + took_s))], sent_s=sent_s, received_s=answered_s + back_s)
    propagation.learn("a", [told("x", 100 - made_s, mode="fenced")], sent_s=100, received_s=100)
    node = only(propagation.told(100))["nodes"]["b"]
    assert abs(node["after_s"] - took_s) <= node["error_s"] + 1e-9


def test_the_answer_with_the_shortest_way_counts() -> None:
    propagation = Propagation()
    propagation.learn("a", [told("x", 5.0, mode="fenced")], sent_s=10, received_s=10)
    propagation.learn("b", [told("x", 4.9)], sent_s=9, received_s=11)
    propagation.learn("b", [told("x", 5.99)], sent_s=11, received_s=11.002)
    propagation.learn("b", [told("x", 9.0)], sent_s=12, received_s=14)
    assert round(only(propagation.told(14))["nodes"]["b"]["after_s"], 3) == 0.011


def test_what_a_node_learned_at_its_start_has_no_time() -> None:
    propagation = Propagation()
    propagation.learn("c", [told("x", 1.0, at_start=True)], sent_s=20, received_s=20)
    assert only(propagation.told(20))["nodes"]["c"]["after_s"] is None
    propagation.learn("b", [told("x", 9.0)], sent_s=20, received_s=20)
    row = only(propagation.told(20))
    assert (row["by"], row["ago_s"], row["nodes"]["b"]["after_s"], row["nodes"]["c"]["after_s"]) == (None, 9.0, 0.0, None)


def test_the_newest_are_kept() -> None:
    propagation = Propagation()
    for number in range(3 * KEPT):
        propagation.learn("a", [told(f"{number}", 0.0)], sent_s=number, received_s=number)
    assert [row["key"] for row in propagation.told(200)] == [f"{number}" for number in reversed(range(2 * KEPT, 3 * KEPT))]
