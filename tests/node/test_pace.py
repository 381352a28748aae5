"""The pace of log-ins: generous, by subject and by address, bounded in memory. Log-outs count, and are never refused."""

from __future__ import annotations

import math

import pytest

from ha_session_mw import TooManyLogIns
from ha_session_mw._node import pace as module
from ha_session_mw._node.pace import MOST, WITHIN_S, LogInPace, network_of
from ha_session_mw.testing import ManualClock

MANY = 10


def pace_of(clock: ManualClock, *, per_subject: int | None = MANY, per_address: int | None = 5 * MANY) -> LogInPace:
    return LogInPace(clock, per_subject=per_subject, per_address=per_address)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def wait_s(pace: LogInPace, subject: str | None, address: str | None) -> float:
    """How long the next log-in must wait; 0 if it was counted."""
    try:
        pace.begin(subject, address)
    except TooManyLogIns as problem:
        return problem.retry_after_s or math.nan
    return 0.0


def test_a_subject_may_log_in_so_often_and_then_at_the_pace(clock: ManualClock) -> None:
    pace = pace_of(clock)
    assert [wait_s(pace, "ada", None) for _ in range(MANY)] == [0] * MANY
    assert wait_s(pace, "ada", None) == pytest.approx(WITHIN_S / MANY)
    assert wait_s(pace, "bob", None) == 0
    clock.advance(WITHIN_S / MANY)
    assert wait_s(pace, "ada", None) == 0
    assert wait_s(pace, "ada", None) > 0


def test_an_address_has_a_pace_of_its_own_and_a_refusal_counts_nowhere(clock: ManualClock) -> None:
    pace = pace_of(clock)
    for number in range(5 * MANY):
        pace.begin(None if number % 2 else f"user {number}", "192.0.2.1")
    for _ in range(3 * MANY):
        assert wait_s(pace, "ada", "192.0.2.1") > 0
    assert [wait_s(pace, "ada", "192.0.2.2") for _ in range(MANY)] == [0] * MANY


def test_log_outs_count_and_use_up_no_more_than_one_log_in(clock: ManualClock) -> None:
    pace = pace_of(clock)
    for _ in range(20 * MANY):
        pace.end("ada")
    assert 0 < wait_s(pace, "ada", None) <= 2 * WITHIN_S / MANY
    pace.end(None)
    assert wait_s(pace, None, None) == 0


def test_a_pace_that_is_off_counts_nothing(clock: ManualClock) -> None:
    pace = pace_of(clock, per_subject=None, per_address=None)
    for _ in range(1000):
        pace.begin("ada", "192.0.2.1")
        pace.end("ada")
    assert len(pace) == 0


def test_no_number_of_subjects_takes_more_memory_than_the_table(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST == 20_000
    monkeypatch.setattr(module, "MOST", 50)
    pace = pace_of(clock)
    for number in range(500):
        pace.begin(f"user {number}", f"192.0.2.{number}")
    assert len(pace) == 50


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("testclient", "testclient", True),
        ("\ud800", "x", False),
    ],
)
def test_the_addresses_that_one_client_has_count_as_one(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same
