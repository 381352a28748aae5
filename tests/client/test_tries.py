"""Runs the coroutines of a client that blocks."""

from __future__ import annotations

import anyio
import pytest

from ha_session_mw.client.tries import run_blocking


def test_a_way_that_blocks_needs_no_event_loop() -> None:
    async def respond() -> str:
        return "well"

    assert run_blocking(respond()) == "well"


def test_a_way_that_suspends_is_a_mistake_which_is_told_and_not_left_hanging() -> None:
    ended = []

    async def respond() -> None:
        try:
            await anyio.Event().wait()
        finally:
            ended.append(True)

    async def run() -> None:
        with pytest.raises(RuntimeError, match="suspended"):
            run_blocking(respond())

    anyio.run(run)
    assert ended == [True]
