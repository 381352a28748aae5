"""The time and memory that a new node needs to learn all log-outs: on etcd, where it loads the whole log."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from ha_session_mw import SessionManager, Settings
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny

from .cluster import MAX_WAIT_S
from .contenders import KEY, NotReadError

JOB = 5_000
"""Log-outs in one call."""


def new_node(cluster: str, denials: int) -> tuple[float, int]:
    """Log out so many sessions, and start a process; the seconds until it is ready, and by how many bytes it grew."""
    anyio.run(_fill, cluster, denials)
    command = [sys.executable, "-m", __name__, cluster, str(denials)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=10 * MAX_WAIT_S)
    ready_s, taken = json.loads(done.stdout)
    return ready_s, taken


def _manager(cluster: str) -> SessionManager:
    return SessionManager(Settings(secret_key=KEY, cluster=cluster))


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(MAX_WAIT_S):
        while not condition():  # noqa: ASYNC110 - the measured condition has no event
            await anyio.sleep(0.001)


async def _fill(cluster: str, denials: int) -> None:
    manager = _manager(cluster)
    async with manager.running():
        await _until(lambda: manager.why_not_ready() is None)
        end_ms = node_of(manager).log.unknown_end_ms()
        for begun in range(0, denials, JOB):
            await node_of(manager).log.append(
                [Deny(node_of(manager).issuer.new_id(), end_ms) for _ in range(begun, min(begun + JOB, denials))]
            )


async def _learn(cluster: str, denials: int) -> tuple[float, int]:
    manager = _manager(cluster)
    before, begun_s = resident_bytes(), time.perf_counter()
    async with manager.running():
        await _until(lambda: manager.why_not_ready() is None)
        ready_s = time.perf_counter() - begun_s
        if len(node_of(manager).view) != denials:
            raise NotReadError(f"{len(node_of(manager).view)} of {denials} denials are known to the new node")
        return ready_s, resident_bytes() - before


def resident_bytes() -> int:
    """The memory that this process has at the moment."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


if __name__ == "__main__":
    print(json.dumps(anyio.run(_learn, sys.argv[1], int(sys.argv[2]))))
