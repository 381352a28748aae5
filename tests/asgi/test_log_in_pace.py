"""A client that logs in and out in a loop is slowed down: 429, with the time to wait. Log-outs are never refused."""

from __future__ import annotations

import logging

import pytest

from ha_session_mw import Session
from ha_session_mw.testing import ManualClock

from .driver import Node, who

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def log_in(session: Session) -> None:
    session.login("ada")


def log_out(session: Session) -> None:
    session.clear()


async def test_a_loop_of_log_ins_and_log_outs_stops_at_a_log_in(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ha_session_mw.security")
    node = Node(clock=clock, logins_per_subject=10)
    visitor = node.visitor()
    for _ in range(5):
        assert (await visitor.visit(log_in)).status == 200
        assert (await visitor.visit(log_out)).status == 200
    answer = await visitor.visit(log_in)

    assert (answer.status, answer.code) == (429, "too_many_log_ins")
    assert answer.header("retry-after") == "30"
    assert answer.cookies() == []
    assert answer.problem["outcome"] == "executed"
    assert "event=limit_hit" in caplog.text
    entries = (await node.manager.status())["revocation_entries"]
    assert (await visitor.visit(log_in)).status == 429
    assert (await node.manager.status())["revocation_entries"] == entries  # a refused log-in leaves nothing behind
    clock.advance(30)
    assert (await visitor.visit(log_in)).status == 200


async def test_a_log_out_is_never_refused(clock: ManualClock) -> None:
    node = Node(clock=clock, logins_per_subject=3)
    visitors = [await node.logged_in() for _ in range(3)]
    assert (await node.visitor().visit(log_in)).status == 429
    for visitor in visitors:
        assert (await visitor.visit(log_out)).status == 200
        assert (await visitor.visit(who)).result is None


async def test_a_session_whose_new_id_is_refused_goes_on(clock: ManualClock) -> None:
    node = Node(clock=clock, logins_per_subject=2)
    visitor = await node.logged_in()
    assert (await visitor.visit(lambda session: session.cycle())).status == 200
    answer = await visitor.visit(lambda session: session.cycle())
    assert (answer.status, answer.code) == (429, "too_many_log_ins")
    assert (await visitor.visit(who)).result == "ada"
    assert (await visitor.visit(lambda session: session.update(seen=1))).status == 200


async def test_visitors_sessions_from_one_address_have_a_pace(clock: ManualClock) -> None:
    node = Node(clock=clock, logins_per_address=3)
    answers = [await node.visitor().visit(lambda session: session.update(seen=1)) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert (await node.visitor().visit(dict)).status == 200  # requests that begin no session are not counted


async def test_the_default_is_generous(clock: ManualClock) -> None:
    node = Node(clock=clock)
    for _ in range(300):
        assert (await node.visitor().visit(log_in)).status == 200
    assert (await node.visitor().visit(log_in)).status == 429
