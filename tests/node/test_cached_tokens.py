"""The cache of verified tokens on a running node: its memory is bounded, and a quiet node frees it."""

from __future__ import annotations

from typing import Any

import pytest

from ha_session_mw import Session
from ha_session_mw.manager import node_of
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

from ..asgi.driver import Node

pytestmark = pytest.mark.anyio


def _change(session: Session) -> None:
    session["number"] = session.get("number", 0) + 1
    session["text"] = "x" * 2000


async def test_one_visitor_with_much_data_takes_a_few_entries_and_no_more(clock: ManualClock) -> None:
    node = Node(clock=clock)
    visitor = node.visitor()
    for _ in range(40):
        await visitor.visit(_change)
        await visitor.visit()
    assert len(node_of(node.manager).cache) <= 4


async def test_many_visitors_take_no_more_than_the_bytes_that_are_set(clock: ManualClock) -> None:
    node = Node(clock=clock, cache_bytes=100_000)
    for _ in range(50):
        visitor = node.visitor()
        await visitor.visit(lambda s: s.update(text="x" * 2500))
        await visitor.visit()
    status = await node.manager.status()
    assert isinstance(status["cached_token_bytes"], int)
    assert 50_000 < status["cached_token_bytes"] <= 100_000


async def test_a_quiet_node_frees_its_ended_tokens(clock: ManualClock) -> None:
    node = Node(clock=clock, cache_ttl="1m", cluster="memory://")
    inner: Any = node_of(node.manager)
    visitor = await node.logged_in("ada")
    await visitor.visit()
    async with inner.running():
        await until_nothing_moves()
        assert len(inner.cache) == 1
        clock.advance(61)
        await until_nothing_moves()
        assert (len(inner.cache), inner.cache.bytes) == (0, 0)
