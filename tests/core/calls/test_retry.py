"""When a client sends a request again, and to which node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import cycle, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.calls.retry import (
    DEADLINE_S,
    LONGEST_RETURN_S,
    LONGEST_WAIT_S,
    PAUSE_S,
    REPEATED_AT_ONCE,
    REPEATED_SHARE,
    RETURN_S,
    TRIES,
    Call,
    Failure,
    GiveUp,
    Nodes,
    TryAgain,
)

REFUSED = Failure("ConnectError", "not_executed", is_closed=True)
STALE = Failure("state_stale", "not_executed", after_s=0.25, was_work=True)
BROKE_OFF = Failure("ReadError", "unknown")
NO_QUORUM = Failure("quorum_lost", "not_executed", where="any", after_s=1.5, was_work=True)


def nodes(count: int = 3, roll: float = 0.0) -> Nodes:
    return Nodes(count, lambda: roll)


def begun(pool: Nodes, now_s: float = 0.0, *, repeatable: bool = True) -> Call:
    return pool.call(now_s, repeatable=repeatable)


def fails(call: Call, failure: Failure, now_s: float = 0.0, *, can_send_again: bool = True) -> TryAgain | GiveUp:
    return call.next(failure, now_s, can_send_again=can_send_again)


def test_a_client_stays_with_the_node_that_answers() -> None:
    pool = nodes()
    for now_s in range(5):
        call = begun(pool, now_s)
        assert call.node == 0
        call.answered()


def test_clients_begin_at_different_nodes() -> None:
    assert {begun(nodes(roll=roll)).node for roll in (0.0, 0.4, 0.9)} == {0, 1, 2}


def test_a_node_that_refuses_the_connection_costs_no_wait_and_is_left_alone_for_a_while() -> None:
    pool = nodes()
    call = begun(pool)
    assert fails(call, REFUSED) == TryAgain(0.0)
    assert call.node == 1
    call.answered()
    assert [begun(pool, now_s).node for now_s in (0.1, PAUSE_S - 0.01, PAUSE_S + 1)] == [1, 1, 1]


def test_a_client_returns_to_the_node_that_it_has_left() -> None:
    pool = nodes()
    call = begun(pool)
    fails(call, REFUSED)
    call.answered()
    assert begun(pool, RETURN_S - 0.01).node == 1
    assert begun(pool, RETURN_S, repeatable=False).node == 1  # nobody knows whether that node hangs
    call = begun(pool, RETURN_S)
    assert call.node == 0
    assert begun(pool, RETURN_S).node == 1  # one request is enough
    call.answered()
    assert [begun(pool, RETURN_S, repeatable=False).node, begun(pool, 1e6).node] == [0, 0]


def test_an_answer_that_was_under_way_does_not_lead_a_client_away_again() -> None:
    pool = nodes()
    call = begun(pool)
    fails(call, REFUSED)
    call.answered()
    long, back = begun(pool, RETURN_S - 1), begun(pool, RETURN_S)
    assert (long.node, back.node) == (1, 0)
    back.answered()
    long.answered()
    assert begun(pool, RETURN_S).node == 0


def test_a_client_leaves_a_node_at_which_an_unsafe_request_broke_off() -> None:
    pool = nodes()
    assert isinstance(fails(begun(pool, repeatable=False), BROKE_OFF), GiveUp)
    call = begun(pool, repeatable=False)
    assert call.node == 1
    call.answered()
    assert begun(pool, PAUSE_S + 1).node == 1


def test_a_node_that_stays_away_is_tried_less_and_less() -> None:
    pool, tried_at_s = nodes(), []
    for now_s in range(400):
        call = begun(pool, now_s)
        if call.node == 0:
            tried_at_s.append(now_s)
            fails(call, REFUSED, now_s)
        call.answered()
    waits_s = [after_s - before_s for before_s, after_s in pairwise(tried_at_s)]
    assert waits_s == [RETURN_S, *(min(2.0**n * RETURN_S, LONGEST_RETURN_S) for n in range(1, len(waits_s)))]


def test_clients_are_spread_over_all_nodes_after_a_rolling_restart() -> None:
    dice = Random(7)
    clients = [Nodes(3, dice.random) for _ in range(300)]
    down = {0: (10, 12), 1: (20, 22), 2: (30, 32)}
    for now_s in range(60):
        for client in clients:
            call = begun(client, now_s)
            while down[call.node][0] <= now_s < down[call.node][1]:
                fails(call, REFUSED, now_s)
            call.answered()
    at = Counter(begun(client, 60.0).node for client in clients)
    assert min(at[node] for node in range(3)) > 70


def test_a_node_that_failed_is_asked_again_if_no_other_is_left() -> None:
    pool = nodes(2)
    call = begun(pool)
    assert [fails(call, REFUSED), call.node] == [TryAgain(0.0), 1]
    step = fails(call, REFUSED)
    assert isinstance(step, TryAgain)
    assert call.node == 0


def test_a_port_that_is_closed_uses_up_no_try_while_the_other_nodes_are_slow() -> None:
    """All three nodes are in trouble at the same moment, and one of them is well again a moment later."""
    call = begun(nodes(3, 0.5))
    asked = [call.node]
    for failure in (REFUSED, STALE, BROKE_OFF):
        assert isinstance(fails(call, failure), TryAgain)
        asked.append(call.node)
    assert sorted(asked[:3]) == [0, 1, 2]
    assert isinstance(fails(call, STALE), GiveUp)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_nodes_that_are_all_gone_are_asked_a_bounded_number_of_times_with_waits(count: int) -> None:
    call, waits_s = begun(nodes(count, 0.5)), []
    while isinstance(step := fails(call, REFUSED), TryAgain):
        waits_s.append(step.wait_s)
    assert len(waits_s) == TRIES - 1 + count
    assert sum(wait_s > 0 for wait_s in waits_s) == TRIES
    assert sum(waits_s) < DEADLINE_S


def test_the_only_node_is_asked_again_after_the_wait_that_it_asks_for() -> None:
    call = begun(nodes(1))
    assert fails(call, STALE) == TryAgain(0.25)
    assert call.node == 0


def test_another_node_is_asked_at_once_where_only_this_one_is_unwell() -> None:
    call = begun(nodes())
    assert fails(call, STALE) == TryAgain(0.0)
    assert call.node == 1


def test_where_all_nodes_may_be_unwell_the_wait_comes_first() -> None:
    call = begun(nodes())
    assert fails(call, NO_QUORUM) == TryAgain(1.5)
    assert call.node == 1


@pytest.mark.parametrize("roll", [0.0, 0.5, 0.99])
def test_clients_that_were_refused_together_do_not_come_back_together(roll: float) -> None:
    call = begun(nodes(1, roll))
    assert fails(call, Failure("overloaded", "not_executed", after_s=0.5)) == TryAgain(0.5 * (1 + roll))


def test_a_server_that_lies_about_the_wait_is_obeyed_up_to_a_limit() -> None:
    call = begun(nodes(1))
    assert fails(call, Failure("quorum_lost", "not_executed", after_s=86_400.0)) == TryAgain(LONGEST_WAIT_S)


@pytest.mark.parametrize("failure", [BROKE_OFF, Failure("quorum_lost", "executed"), Failure("status 502", "unknown")])
def test_a_request_that_may_have_been_executed_is_repeated_only_if_that_does_no_harm(failure: Failure) -> None:
    assert isinstance(fails(begun(nodes(), repeatable=False), failure), GiveUp)
    assert isinstance(fails(begun(nodes(), repeatable=True), failure), TryAgain)


def test_an_unsafe_request_that_was_not_executed_is_repeated() -> None:
    assert isinstance(fails(begun(nodes(), repeatable=False), STALE), TryAgain)
    assert isinstance(fails(begun(nodes(), repeatable=False), REFUSED), TryAgain)


def test_a_body_that_is_consumed_is_not_sent_again() -> None:
    assert isinstance(fails(begun(nodes()), REFUSED, can_send_again=False), GiveUp)


def test_a_failure_that_no_try_mends_is_the_callers() -> None:
    assert isinstance(fails(begun(nodes()), Failure("forward_loop", "not_executed", retryable=False)), GiveUp)


def test_no_try_begins_after_the_deadline() -> None:
    call = begun(nodes(1))
    step = fails(call, Failure("quorum_lost", "not_executed", after_s=2.0), DEADLINE_S - 1)
    assert isinstance(step, GiveUp)


def test_a_cluster_that_refuses_everything_gets_a_fifth_more_requests_and_ten() -> None:
    pool, wanted, sent, now_s = nodes(), 1_000, 0, 0.0
    for _ in range(wanted):
        call, now_s = begun(pool, now_s), now_s + 0.01
        sent += 1
        while isinstance(fails(call, STALE, now_s), TryAgain):
            sent += 1
    assert sent <= wanted * (1 + REPEATED_SHARE) + REPEATED_AT_ONCE
    assert sent >= wanted * (1 + REPEATED_SHARE) - 1


FAILURES = st.builds(
    Failure,
    st.just("any"),
    st.sampled_from(["not_executed", "executed", "unknown"]),
    retryable=st.booleans(),
    where=st.sampled_from(["same_node", "other_node", "any"]),
    after_s=st.none() | st.floats(0, 1e9),
    was_work=st.booleans(),
    is_closed=st.booleans(),
)


@given(
    count=st.integers(1, 5),
    rolls=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5),
    failures=st.lists(FAILURES, max_size=8),
    repeatable=st.booleans(),
)
def test_whatever_the_nodes_answer_the_client_keeps_its_own_limits(
    count: int, rolls: Sequence[float], failures: Sequence[Failure], repeatable: bool
) -> None:
    turn = cycle(rolls)
    pool = Nodes(count, lambda: next(turn))
    call, now_s = begun(pool, repeatable=repeatable), 0.0
    for failure in failures:
        assert 0 <= call.node < count
        asked = call.node
        step = fails(call, failure, now_s)
        if isinstance(step, GiveUp):
            return
        assert failure.retryable
        assert repeatable or failure.outcome == "not_executed"
        assert 0 <= step.wait_s <= LONGEST_WAIT_S
        assert failure.where != "same_node" or call.node == asked
        now_s += step.wait_s
        assert now_s <= DEADLINE_S
        assert call.tries <= TRIES
