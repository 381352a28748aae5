"""What a planned restart behind a balancer needs of an operator, and the findings when it is not there."""

from __future__ import annotations

from typing import Any

import pytest

from ha_session_mw import Settings
from ha_session_mw.backends.peers import pushing
from ha_session_mw.cli.leaving import GOOD_BYE_S, leaving
from ha_session_mw.testing import SECRET


def test_the_good_bye_has_its_time() -> None:
    assert GOOD_BYE_S >= 2 * pushing.HAND_OVER_S + pushing.GOOD_BYE_S


def settings(**values: Any) -> Settings:
    return Settings(secret_key=SECRET, **values)


@pytest.mark.parametrize(("every_s", "fall", "least_s"), [(0.5, 2, 2.0), (1.0, 2, 3.0), (10.0, 3, 31.0)])
def test_the_delay_covers_the_checks_and_a_second(every_s: float, fall: int, least_s: float) -> None:
    short = leaving(settings(drain_delay=least_s - 0.1), check_every_s=every_s, fall=fall)
    assert short.delay_s == least_s
    [lack] = short.lacks
    assert f"needs {every_s * fall:g} s" in lack.fact
    assert f"set HA_SESSION_DRAIN_DELAY={least_s:g}s" in lack.remedy
    assert leaving(settings(drain_delay=least_s), check_every_s=every_s, fall=fall).lacks == ()


def test_the_default_delay_suits_no_balancer() -> None:
    assert "HA_SESSION_DRAIN_DELAY=0s is too short" in leaving(settings()).lacks[0].fact


def test_nginx_asks_no_node_and_learns_of_a_drain_by_refusals() -> None:
    told = [lack.remedy for lack in leaving(settings(drain_delay="3s"), kind="nginx").lacks]
    assert told == ["set HA_SESSION_DRAIN_REFUSE=safe", "set HA_SESSION_START_WAIT=10s"]
    assert leaving(settings(drain_delay="3s", drain_refuse="safe", start_wait="10s"), kind="nginx").lacks == ()
    assert leaving(settings(drain_delay="3s"), kind="haproxy").lacks == ()


@pytest.mark.parametrize(("delay_s", "longest_s", "least_s"), [(2.0, 0.0, 11.0), (20.0, 0.0, 28.0), (20.0, 60.0, 85.0)])
def test_sigkill_comes_after_the_drain_the_last_requests_and_the_good_bye(delay_s: float, longest_s: float, least_s: float) -> None:
    well = leaving(settings(drain_delay=delay_s), grace_s=least_s, longest_request_s=longest_s)
    assert (well.grace_s, well.lacks) == (least_s, ())
    [lack] = leaving(settings(drain_delay=delay_s), grace_s=least_s - 1, longest_request_s=longest_s).lacks
    assert f"to {least_s:g} or more" in lack.remedy
