"""A node loads a long log from etcd in pieces: other tasks run in between, and no request is served before the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import anyio
import pytest
from anyio.lowlevel import checkpoint

from ha_session_mw._core.cluster.view import View
from ha_session_mw._core.ordered.keys import LogId, encode_log
from ha_session_mw._core.ordered.loading import PIECE
from ha_session_mw.backends.etcd.api import Header, KeyValue, Page
from ha_session_mw.backends.etcd.gateway import EtcdGateway
from ha_session_mw.backends.etcd.keys import Keys
from ha_session_mw.backends.etcd.log import EtcdLog
from ha_session_mw.models import Deny, Entry
from ha_session_mw.testing import ManualClock

from ...core.ordered.test_log import own

pytestmark = pytest.mark.anyio

MADE_BY = LogId("made by somebody", 1_700_000_000_000)
HOUR_MS = 3_600_000


class AtOnce(EtcdGateway):
    """Returns the whole log in one page, and never suspends its caller."""

    pairs: Sequence[KeyValue] = ()

    async def page(
        self, start: bytes, end: bytes, *, revision: int = 0, limit: int = 0, least_s: float = 0, names_only: bool = False
    ) -> Page:
        return Page(Header(10 + len(self.pairs)), tuple(self.pairs))


def log_with(clock: ManualClock, entries: Sequence[Entry]) -> EtcdLog:
    """A node that has not read anything yet of a log with these entries."""
    keys, gateway = Keys("shop"), AtOnce(["http://none"], clock)
    pairs = [(keys.log, encode_log(MADE_BY)), *keys.records(entries).items()]
    gateway.pairs = [KeyValue(key, value, number, number) for number, (key, value) in enumerate(pairs, 2)]
    return EtcdLog(View(), clock, own("a"), gateway, "shop", heartbeat_s=0.5)


async def test_others_have_their_turns_while_a_long_log_is_taken_in_and_nothing_is_served_before_its_end(clock: ManualClock) -> None:
    entries = [Deny(f"session {number}", int(clock.wall_s() * 1000) + HOUR_MS) for number in range(20 * PIECE)]
    log = log_with(clock, entries)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while log.ordered.needs_load:
            assert log.is_starting()
            assert log.why_not_ready() == "still loading the log from etcd"
            assert log.ordered.view.fresh_at == -math.inf
            assert log.ordered.due_s == math.inf
            turns += 1
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await checkpoint()
        await log.follower.load()
    assert turns >= 20
    assert log.ordered.position == 10 + len(entries) + 1
    assert all(log.ordered.view.knows(entry) for entry in entries)
    assert log.ordered.view.fresh_at == -math.inf  # until its own heartbeat has come back
