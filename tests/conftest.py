"""What all tests share: a clean environment, clocks moved by hand, and properties that fail the same way twice."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from ha_session_mw.testing import ManualClock

from .engines import Etcd, etcd

# Seeded, so that a failure in CI is one at the desk too; `--hypothesis-profile=explore` looks for new ones. No deadline: how
# long an example takes says nothing on a shared machine.
settings.register_profile(
    "steady", derandomize=True, deadline=None, database=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("HA_SESSION_"):
            monkeypatch.delenv(name)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def one_etcd() -> Iterator[Etcd]:
    """An etcd of one member that all tests share which do it no harm; each under a prefix of its own."""
    with etcd() as server:
        yield server
