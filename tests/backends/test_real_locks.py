"""Locks of real processes that are killed and paused, on one machine and on etcd."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

import anyio
import anyio.to_thread
import pytest

from ha_session_mw import SessionLocked, SessionManager, Settings
from ha_session_mw.testing import SECRET

from ..engines import Etcd
from ..waiting import LIMIT_S

pytestmark = [pytest.mark.anyio, pytest.mark.one_library, pytest.mark.real]

ROOT = Path(__file__).parents[2]
LEASE_S = 3.0
"""Longer than a process on a busy machine waits for its turn to renew it."""

CHILD = """
import sys
import anyio
from ha_session_mw import LockLost, SessionManager, Settings
from ha_session_mw.abc import Record, ignore
from ha_session_mw.backends import open_backend
from ha_session_mw.manager import node_of

async def main(how):
    manager = SessionManager(Settings.from_environ())
    if how == "work":
        async with manager.running(), manager.lock("x", lease=3.0) as grant:
            print("held", grant.fence, flush=True)
            await anyio.sleep_forever()
    service = node_of(manager).locks.require()
    store = open_backend(manager.settings).open_store("session", manager.clock, service, on_newer=ignore, on_gap=ignore)
    grant = await service.acquire("app/x", within_s=0, lease_s=1.0)
    print("held", grant.fence, flush=True)
    sys.stdin.readline()
    try:
        await store.put(Record("report", b"by one that was paused", 1 << 50), guard=grant)
    except LockLost:
        print("LockLost", flush=True)
    else:
        print("written", flush=True)

anyio.run(main, sys.argv[1])
"""


class Child:
    """A process that holds the lock ``x``."""

    def __init__(self, cluster: str, how: str) -> None:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
        ours = {"HA_SESSION_SECRET_KEY": SECRET, "HA_SESSION_CLUSTER": cluster, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, how], env={**outside, **ours}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def says(self) -> list[str]:
        assert self._process.stdout is not None
        return self._process.stdout.readline().split()

    def tell(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=LIMIT_S)


@contextmanager
def child(cluster: str, how: str) -> Iterator[Child]:
    process = Child(cluster, how)
    try:
        yield process
    finally:
        process.end()


@pytest.fixture(params=["sqlite", "etcd"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/sessions.db"
    server: Etcd = request.getfixturevalue("one_etcd")
    return server.cluster(f"killed/{token_hex(4)}")


async def test_the_lock_of_a_process_that_is_killed_is_free_after_its_lease_and_not_before(cluster: str) -> None:
    manager = SessionManager(Settings(secret_key=SECRET, cluster=cluster))
    async with manager.running():
        await the_holder_is_killed(manager, cluster)


async def the_holder_is_killed(manager: SessionManager, cluster: str) -> None:
    with child(cluster, "work") as holder:
        [held, fence] = await anyio.to_thread.run_sync(holder.says)
        assert held == "held"
        held_s = manager.clock.boot_s() + LEASE_S + 0.5
        while manager.clock.boot_s() < held_s:  # it renews its lease for as long as it lives
            with pytest.raises(SessionLocked):
                async with manager.lock("x", timeout=0.2):
                    pytest.fail("two have it")
        holder.signal(signal.SIGKILL)
        begun_s = manager.clock.boot_s()
        async with manager.lock("x", timeout=LIMIT_S) as grant:
            waited_s = manager.clock.boot_s() - begun_s
            assert grant.fence > int(fence)
    assert waited_s > 0.3  # renewed at a third of the lease, so more than half of it was left, or a little less on a busy machine


async def test_a_process_that_was_paused_beyond_its_lease_cannot_write_when_it_goes_on(tmp_path: Path) -> None:
    cluster = f"sqlite://{tmp_path}/sessions.db"
    manager = SessionManager(Settings(secret_key=SECRET, cluster=cluster))
    with child(cluster, "write") as paused:
        await anyio.to_thread.run_sync(paused.says)
        paused.signal(signal.SIGSTOP)
        async with manager.lock("x", timeout=LIMIT_S):
            paused.signal(signal.SIGCONT)
            paused.tell()
            assert await anyio.to_thread.run_sync(paused.says) == ["LockLost"]
