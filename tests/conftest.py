"""Shared by all tests: a clean environment, clocks moved by hand, reproducible properties, and groups for parallel runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from ha_session_mw.testing import ManualClock

from .asgi.driver import Node
from .engines import Etcd, etcd

# Seeded, so that a failure in CI can be repeated at the desk. No deadline: on a shared machine the time of one example proves
# nothing. `--hypothesis-profile=explore` looks for new failures.
_STEADY = settings(derandomize=True, deadline=None, database=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", _STEADY)
settings.register_profile("few", _STEADY, max_examples=5)
settings.register_profile("fast", _STEADY, max_examples=20)  # of make test-fast; make test has all of them
settings.register_profile("explore", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the real servers of one file together: with ``--dist loadgroup`` one worker runs them, one after the other.

    They share the file's processes, and do not compete with each other for the cores.
    """
    for item in items:
        if item.get_closest_marker("real") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.name))


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
