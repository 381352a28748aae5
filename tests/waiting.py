"""Waits for real servers and processes, which do not report progress: the condition is polled up to a limit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from .warm import Running

LIMIT_S = 100.0
"""Time limit for steps that take a second on an idle machine. Only a test that fails waits for so long."""


def until(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Return when a condition holds."""
    end_s, pause_s = time.monotonic() + limit_s, 0.01
    while not condition():
        assert time.monotonic() < end_s, f"not within {limit_s:g} s: {what}"
        time.sleep(pause_s)
        pause_s = min(1.3 * pause_s, 0.1)  # a server that is asked all the time starts the later


async def eventually(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Return when a condition holds; others run meanwhile."""
    with anyio.fail_after(limit_s):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await anyio.sleep(0.01)


def end(process: Running, within_s: float = 10.0, *, with_group: bool = False) -> None:
    """End a process in good order. Kill one that does not end in time, with its process group if the caller says so, and raise."""
    process.terminate()
    try:
        process.wait(within_s)
    finally:
        if process.poll() is None:
            if with_group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait(within_s)


def stands_still(pid: int) -> bool:
    """Whether a process that was sent SIGSTOP has stopped: each of its threads does so when it gets its turn."""
    return all(thread.read_text().rpartition(")")[2].split()[0] in "Tt" for thread in Path(f"/proc/{pid}/task").glob("*/stat"))
