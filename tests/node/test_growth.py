"""How many log-outs a node remembers is a figure, and an operator hears of it before it hurts."""

from __future__ import annotations

import pytest

from ha_session_mw import SessionManager, Settings
from ha_session_mw._core.cluster.view import View
from ha_session_mw._node.growth import MANY, MANY_A_MINUTE, Growth
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny
from ha_session_mw.testing import SECRET, ManualClock

pytestmark = pytest.mark.anyio

END_MS = 1_900_000_000_000


def grown(clock: ManualClock) -> tuple[View, Growth]:
    view = View()
    growth = Growth(view, clock)
    view.on_news = growth.on_news
    return view, growth


def add(view: View, first: int, count: int) -> None:
    for number in range(first, first + count):
        view.merge(Deny(f"{number}", END_MS))


def test_a_large_number_is_told_once_and_again_when_it_has_doubled(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    view, growth = grown(clock)
    add(view, 0, MANY - 1)
    growth.look()
    assert caplog.messages == []
    add(view, MANY - 1, 1)
    for _ in range(3):
        growth.look()
    assert [message.split(";")[0] for message in caplog.messages] == ["this node holds 100000 revocations, about 3 MB"]
    add(view, MANY, MANY)
    growth.look()
    assert len(caplog.messages) == 2
    assert growth.bytes == 200_000 * 40


def test_fast_growth_is_told_when_it_begins(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    view, growth = grown(clock)
    for minute in range(3):
        add(view, minute * MANY_A_MINUTE, MANY_A_MINUTE)
        add(view, 0, 10)  # no news
        clock.advance(60)
        growth.look()
        assert growth.per_minute == MANY_A_MINUTE
    assert [message.split(";")[0] for message in caplog.messages] == ["6000 revocations came within a minute"]
    clock.advance(60)
    growth.look()
    assert growth.per_minute == 0
    add(view, 10 * MANY_A_MINUTE, MANY_A_MINUTE)
    clock.advance(60)
    growth.look()
    assert len(caplog.messages) == 2


async def test_the_figures_are_in_the_status(clock: ManualClock) -> None:
    manager = SessionManager(Settings(secret_key=SECRET), clock=clock)
    await manager.revoke_subject("ada")
    clock.advance(61)
    node_of(manager).refresh()
    status = await manager.status()
    assert (status["revocation_entries"], status["revocation_bytes"], status["revocations_per_minute"]) == (1, 40, 1)
