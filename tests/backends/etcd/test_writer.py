"""The writer's pace: a single log-out is written at once, and in a storm each transaction takes what came meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from ha_session_mw._core.ordered.own_beats import OwnBeats
from ha_session_mw.backends.etcd.keys import Keys
from ha_session_mw.backends.etcd.process import EtcdTroubles
from ha_session_mw.backends.etcd.writer import BATCH, WRITES_AT_ONCE, WRITES_PER_S, Outboxes, Writer
from ha_session_mw.models import Deny
from ha_session_mw.testing import ManualClock

from ...core.builders import HOUR_MS

pytestmark = pytest.mark.anyio


class QuickEtcd:
    """Writes each transaction at once, and counts them."""

    def __init__(self) -> None:
        self.transactions: list[int] = []

    async def transact(self, puts: Sequence[object]) -> Any:
        self.transactions.append(len(puts))
        return SimpleNamespace(header=SimpleNamespace(revision=len(self.transactions)))


def log_outs(first: int, count: int = 1) -> dict[bytes, bytes]:
    return Keys("test").records(Deny(f"id {number}", HOUR_MS) for number in range(first, first + count))


async def settle() -> None:
    await anyio.wait_all_tasks_blocked()


async def test_a_storm_of_log_outs_takes_transactions_at_an_even_pace_and_a_full_one_waits_for_nothing() -> None:
    clock, etcd, outboxes = ManualClock(), QuickEtcd(), Outboxes()
    ordered = SimpleNamespace(own_beats=OwnBeats(0.5))
    process: Any = SimpleNamespace(clock=clock, gateway=etcd, is_set_back=False, troubles=EtcdTroubles(lambda: None), ordered=ordered)
    writer = Writer(process, outboxes, lambda _: None, anyio.Lock())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.write_for_ever, outboxes.singles)
        tasks.start_soon(writer.write_for_ever, outboxes.jobs)
        for number in range(WRITES_AT_ONCE):
            outboxes.put(log_outs(number))
            await settle()
        assert etcd.transactions == [1] * WRITES_AT_ONCE
        for number in range(1000):  # a second of a storm
            outboxes.put(log_outs(number))
            clock.advance(0.001)
            await settle()
        assert len(etcd.transactions) <= WRITES_AT_ONCE + WRITES_PER_S + 1
        before = len(etcd.transactions)
        outboxes.put(log_outs(0, 50 * BATCH))
        await settle()
        assert len(etcd.transactions) >= before + 49
        tasks.cancel_scope.cancel()
