"""``memory://``: its log tells one process from several behind one port."""

from __future__ import annotations

import logging

import pytest

from ha_session_mw import QuorumLost
from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.cluster.view import View
from ha_session_mw.backends.memory.log import MemoryLog
from ha_session_mw.models import Deny, NodeId
from ha_session_mw.testing import ManualClock

pytestmark = pytest.mark.anyio

OWN = Heartbeat(NodeId("me"), "life", "", "ready", 1, 0, (), 5.0, 3_600_000)


class Siblings:
    """Other processes on the same port, which come and go."""

    def __init__(self) -> None:
        self.serve = False

    def found(self) -> bool:
        return self.serve


async def test_a_log_out_is_fenced_only_while_no_other_process_serves_the_port(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    others, view = Siblings(), View()
    log = MemoryLog(view, clock, OWN, has_siblings=others.found)
    denial = Deny("a-session", int(clock.wall_s() * 1000) + 3_600_000)
    await log.fence(await log.append([denial]))
    assert log.why_not_ready() is None
    assert caplog.messages == []

    others.serve = True
    for _ in range(2):
        with pytest.raises(QuorumLost):
            await log.fence(await log.append([denial]))
        assert "sqlite://" in str(log.why_not_ready())
    assert view.knows(denial)
    assert [record.levelno for record in caplog.records if "sqlite://" in record.message] == [logging.ERROR]

    others.serve = False
    await log.fence(await log.append([denial]))
    assert log.why_not_ready() is None


async def test_siblings_are_looked_for_without_any_log_out(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    others = Siblings()
    log = MemoryLog(View(), clock, OWN, has_siblings=others.found)
    log.tick()
    others.serve = True
    clock.advance(0.5)
    log.tick()
    assert caplog.messages == []
    clock.advance(0.6)
    log.tick()
    assert len(caplog.messages) == 1


async def test_a_process_among_others_does_not_know_all_keys(clock: ManualClock) -> None:
    others = Siblings()
    log = MemoryLog(View(), clock, OWN, has_siblings=others.found)
    log.tick()
    assert log.hears_all_kids()
    others.serve = True
    clock.advance(2)
    log.tick()
    assert not log.hears_all_kids()
