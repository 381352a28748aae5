"""A node brings itself up to date when it is used, but never from a thread beside its event loop."""

from __future__ import annotations

from threading import Thread, current_thread
from typing import Any

import anyio
import pytest

from ha_session_mw import SessionManager, Settings
from ha_session_mw.manager import node_of
from ha_session_mw.testing import ManualClock, mint_session

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

SECRET = "2JxQ8vZ6nT4wLmYp0RkHcVbNsDfGqXeA"


class Watched:
    """A node that notes which thread brings its log up to date."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        self.manager = SessionManager(Settings(secret_key=SECRET), clock=self.clock)
        self.ticked_by: list[Thread] = []
        monkeypatch.setattr(node_of(self.manager).log, "tick", lambda: self.ticked_by.append(current_thread()))

    async def run(self) -> None:
        async with self.manager.running():
            pass
        self.ticked_by.clear()

    def validate(self) -> None:
        """Validate a token that the node has not seen, some time later."""
        self.clock.advance(2)
        node_of(self.manager).validator.validate(mint_session(self.manager, "ada").encode())


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_a_node_that_never_ran_is_brought_up_to_date_by_any_thread(watched: Watched) -> None:
    threads: list[Any] = [Thread(target=watched.validate) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    watched.validate()
    assert watched.ticked_by == [*threads, current_thread()]


async def test_a_thread_leaves_the_log_to_the_event_loop_while_that_may_have_requests_that_wait_for_it(watched: Watched) -> None:
    """Their events belong to the loop: trio raises an error in any other thread, and asyncio may not notice."""
    await watched.run()
    await anyio.to_thread.run_sync(watched.validate)
    assert watched.ticked_by == []
    watched.validate()
    assert watched.ticked_by == [current_thread()]


def test_any_thread_brings_a_node_up_to_date_once_the_thread_of_its_event_loop_has_ended(watched: Watched) -> None:
    thread = Thread(target=anyio.run, args=[watched.run])
    thread.start()
    thread.join()
    watched.validate()
    assert watched.ticked_by == [current_thread()]
