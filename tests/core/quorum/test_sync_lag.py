"""How long an entry took from where it was made: two intervals, each on one clock."""

from __future__ import annotations

import pytest

from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.quorum.ages import Ages, lag_s
from ha_session_mw._core.quorum.ready import Hold

from .test_log import A, B, C, at, deny, exchange, member, started, talk


def test_an_entry_that_waited_for_its_reader_is_as_old_as_it_is() -> None:
    one, other, _ = started(A, B, C)
    one.append([deny("x")], at(1))
    exchange(other, one, at(11))  # the link was cut for ten seconds
    assert other.sync_lag.total == 1
    assert other.sync_lag.sum == pytest.approx(10)


def test_the_time_for_which_a_poll_was_held_is_no_lag() -> None:
    one, other, _ = started(A, B, C)
    sent = other.poll(one.me, at(1))
    hold = one.arrived(sent.poll, at(1))
    assert isinstance(hold, Hold)
    one.append([deny("x")], at(1.4))
    answer = one.answers.pop(hold, None) or one.release(hold, at(1.4))
    assert answer is not None
    other.answered(sent, answer, at(1.43))
    assert other.sync_lag.sum == pytest.approx(0.03)


def test_the_clocks_of_the_members_are_not_compared() -> None:
    one, other, _ = started(A, B, C)
    one.append([deny("x")], Moment(777_777.0, 5.0))
    sent = other.poll(one.me, at(2))
    result = one.arrived(sent.poll, Moment(777_777.25, 6.0))
    assert not isinstance(result, Hold)
    other.answered(sent, result, at(2.25))
    assert other.sync_lag.sum == pytest.approx(0.5)


def test_a_member_that_passes_an_entry_on_passes_its_age_on() -> None:
    one, other, third = started(A, B, C)
    one.append([deny("x")], at(1))
    exchange(other, one, at(2))
    exchange(third, other, at(5))  # held until the heartbeat is over
    assert third.sync_lag.sum == pytest.approx(4.5)


def test_an_entry_that_is_known_already_is_not_counted_again() -> None:
    one, other, third = started(A, B, C)
    one.append([deny("x")], at(1))
    talk(at(2), one, other, third)
    assert (one.sync_lag.total, other.sync_lag.total, third.sync_lag.total) == (0, 1, 1)


def test_a_node_that_learns_everything_anew_does_not_lag() -> None:
    one, other, third = started(A, B, C)
    one.append([deny("x")], at(1))
    talk(at(2), one, other, third)
    again = member(C, A, B, C, life="another process of C", now=at(3600))
    talk(at(3600), one, other, again)
    assert "x" in again.view.denied
    assert again.sync_lag.total == 0


def test_the_age_of_an_entry_from_a_file_is_unknown() -> None:
    ages = Ages(10)
    ages.note(12, 100.0)
    assert ages.oldest_s(9, 101.0) < 0
    assert ages.oldest_s(10, 101.0) == pytest.approx(1)
    assert ages.oldest_s(12, 101.0) == 0
    assert lag_s(ages.oldest_s(9, 101.0), sent_s=0, now_s=1, held_s=0) is None


def test_only_the_newest_ages_are_remembered() -> None:
    ages = Ages(0)
    for position in range(1, 5001):
        ages.note(position, float(position))
    assert ages.oldest_s(0, 6000.0) < 0
    assert ages.oldest_s(4000, 6000.0) == pytest.approx(1999)
