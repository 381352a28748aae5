"""Shared by all tests: a clean environment, clocks moved by hand, reproducible properties, and groups for parallel runs."""

from __future__ import annotations

import fcntl
import gc
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

from ha_session_mw.testing import ManualClock

from .asgi.driver import Node
from .engines import Etcd, etcd

# Seeded, so that a failure in CI can be repeated at the desk. No deadline: on a shared machine the time of one example proves
# nothing. `--hypothesis-profile=explore` looks for new failures.
_STEADY = settings(derandomize=True, deadline=None, database=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", _STEADY)
settings.register_profile("few", _STEADY, max_examples=5)
settings.register_profile("fast", _STEADY, max_examples=20)  # of make test-fast
settings.register_profile("many", _STEADY, max_examples=500)  # of make prove
settings.register_profile("explore", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

GARBAGE = (50_000, 20, 20)
"""The thresholds of the garbage collector. The default of its first, 700, is meant for processes that have little memory."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Group the real servers of each file, and leave to ``make prove`` what it alone runs."""
    _keep_real_servers_together(items)
    _end_what_hangs(items)
    _try_real_servers_again(items)
    if "not trio" not in config.option.keyword:  # else the keyword leaves it, of every test
        _leave_one_library(items)
    if "prove" not in config.option.markexpr:
        left = [item for item in items if item.get_closest_marker("prove")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not item.get_closest_marker("prove")]


def _keep_real_servers_together(items: list[pytest.Item]) -> None:
    """With ``--dist loadgroup`` one worker runs the real servers of a file, one after the other.

    They share the file's processes, and do not compete with each other for the cores.
    """
    for item in items:
        if item.get_closest_marker("real") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.name))


def _end_what_hangs(items: list[pytest.Item]) -> None:
    """End the process when an async test takes too long; pytest-xdist reports the test and starts another process.

    By default the time limit raises an exception in the test. The event loop then waits for ever for a task that cannot be cancelled:
    a log-out, for example.
    """
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and "anyio_backend" in callspec.params:
            item.add_marker(pytest.mark.timeout(method="thread"))


def _try_real_servers_again(items: list[pytest.Item]) -> None:
    """Give a test with real processes a second try: the machine may have kept one of them waiting. The closing lines count it as rerun.

    A test without them has no such excuse.
    """
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(pytest.mark.flaky(reruns=1))


def _leave_one_library(items: list[pytest.Item]) -> None:
    """Leave one of asyncio and trio to ``make prove``, where a test is marked so: it is costly, or one of many that do not wait.

    A test's name decides which, so that each library gets half of a file's tests.
    """
    pairs = defaultdict(list)
    for item in items:
        if item.get_closest_marker("one_library"):
            pairs[item.nodeid.replace("asyncio", "").replace("trio", "")].append(item)
    for name, pair in pairs.items():
        if len(pair) == 2:
            pair[crc32(name.encode()) % 2].add_marker(pytest.mark.prove)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Spare the garbage collector the modules and the thousands of tests: they stay to the end.

    It then looks for cycles less often than by default: that took up to a third of a test's time.
    """
    gc.disable()
    try:
        with _one_compiles_for_all():
            return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        gc.enable()


@contextmanager
def _one_compiles_for_all() -> Iterator[None]:
    """In a fresh clone, let one process compile the tests, which takes as long as all else of their collection.

    The other processes wait for that, and read what it has written.
    """
    this = Path(__file__)
    with this.open("rb") as lock:
        if not sys.dont_write_bytecode and not any(this.parent.glob("__pycache__/test_*.pyc")):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("HA_SESSION_"):
            monkeypatch.delenv(name)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def node(clock: ManualClock) -> Node:
    """A node with default settings, and clocks that stand still."""
    return Node(clock=clock)


@pytest.fixture(scope="session")
def one_etcd() -> Iterator[Etcd]:
    """An etcd of one member that all tests share which do it no harm; each under a prefix of its own."""
    with etcd() as server:
        yield server
