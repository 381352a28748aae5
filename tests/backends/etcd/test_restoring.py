"""Log-outs that somebody has deleted in etcd: the processes share the work of writing them again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from ha_session_mw._core.cluster.view import View
from ha_session_mw._core.ordered.entries import LogEntries
from ha_session_mw._core.ordered.keys import entry_key
from ha_session_mw.backends.etcd.keys import Keys
from ha_session_mw.backends.etcd.restoring import GATHER_S, Restorer
from ha_session_mw.backends.etcd.writer import BATCH, Outboxes
from ha_session_mw.models import Deny
from ha_session_mw.testing import ManualClock

from ...core.builders import HOUR_MS

pytestmark = pytest.mark.anyio

MANY = [Deny(f"id {number}", HOUR_MS) for number in range(20 * BATCH)]
KEYS = Keys("test")
BY_KEY = dict(zip(KEYS.records(MANY), MANY, strict=True))


class One:
    """A process that has read all of these log-outs in etcd, and then that somebody has deleted them."""

    def __init__(self, slot: str, clock: ManualClock) -> None:
        self.outboxes, self.lacks = Outboxes(), LogEntries()
        view = View()
        view.merge_all(MANY)
        for entry in MANY:
            self.lacks.put(entry, created=True)
            self.lacks.delete(entry_key(entry), 0)
        ordered = SimpleNamespace(slot=slot, view=view, entries=self.lacks)
        process: Any = SimpleNamespace(ordered=ordered, keys=KEYS, clock=clock)
        self.restorer = Restorer(process, self.outboxes)
        self.restorer.add(self.lacks.take_to_restore())

    def hear(self, written: dict[bytes, bytes]) -> None:
        """Read in the log what some process has written."""
        for key in written:
            self.lacks.put(BY_KEY[key], created=True)


async def test_processes_share_the_work_of_writing_deleted_log_outs_again_and_tell_how_many_are_missing() -> None:
    clock = ManualClock()
    everybody = [One(slot, clock) for slot in "abc"]
    written: list[bytes] = []
    async with anyio.create_task_group() as tasks:
        for one in everybody:
            tasks.start_soon(one.restorer.restore_for_ever)
        await anyio.wait_all_tasks_blocked()
        clock.advance(GATHER_S)
        await anyio.wait_all_tasks_blocked()
        assert str(len(MANY)) in str(everybody[0].restorer.exposure())
        while any(one.lacks.deleted for one in everybody):
            for one in everybody:
                batch = one.outboxes.jobs.batch(BATCH) or one.outboxes.singles.batch(BATCH)
                assert len(one.outboxes) <= BATCH
                written += batch
                for other in everybody:
                    other.hear(batch)
                one.outboxes.jobs.written(batch, 1)
                one.outboxes.singles.written(batch, 1)
                await anyio.wait_all_tasks_blocked()
        assert everybody[0].restorer.exposure() is None
        tasks.cancel_scope.cancel()
    assert {*written} == KEYS.records(MANY).keys()
    assert len(written) < 1.5 * len(MANY)


async def test_a_process_that_ends_has_the_rest_written_at_once() -> None:
    clock = ManualClock()
    one = One("a", clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.restorer.restore_for_ever)
        await anyio.wait_all_tasks_blocked()
        clock.advance(GATHER_S)
        await anyio.wait_all_tasks_blocked()
        assert len(one.outboxes) == BATCH
        one.restorer.hand_over()
        assert len(one.outboxes) == len(MANY)
        tasks.cancel_scope.cancel()
