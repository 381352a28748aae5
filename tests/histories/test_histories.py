"""Real processes in trouble, while people use them: every answer is judged. All waits are polls with a limit."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from _pytest.mark import ParameterSet

from ..waiting import LIMIT_S
from .checker import faults
from .load import SHORT_PAUSE_S
from .places import APP, WITHOUT_THE_FENCE, Place, libfaketime, on_etcd, peers, wrong_wall_clock
from .troubles import SHORT, history_of, summary

pytestmark = pytest.mark.real

FRESHNESS_LIMIT_S = 2.0
LEFT_TO_PROVE = {
    "peers": {"a node is frozen for 1 s"},
    "etcd": {
        *("a node is frozen for 1 s", "the leader is frozen for 1 s", "a node is cut off for 3 s", "a wall clock is 20 s behind"),
        "a node is killed in a storm and started again",
    },
}
"""The simulated histories have these as well, and ``make test`` has others of the real ones."""
needs_faketime = pytest.mark.skipif(libfaketime() is None, reason="needs libfaketime: apt-get install -y faketime")


@needs_faketime
@pytest.mark.parametrize("offset_s", [20, -20, 3600, -3600])
def test_a_wrong_wall_clock_is_wrong_and_no_other_clock_is(offset_s: float) -> None:
    read = "import time; print(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())"
    begun_s = _clocks_s()
    told = subprocess.run([sys.executable, "-c", read], env=wrong_wall_clock(offset_s), capture_output=True, check=True, timeout=LIMIT_S)
    wall_s, boot_s, monotonic_s = map(float, told.stdout.split())
    for before_s, there_s, after_s in zip(begun_s, (wall_s - offset_s, boot_s, monotonic_s), _clocks_s(), strict=True):
        assert before_s - 1 < there_s < after_s + 1


def _clocks_s() -> tuple[float, float, float]:
    return time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic()


@pytest.fixture(scope="module")
def among_peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with peers(tmp_path_factory.mktemp("peers"), FRESHNESS_LIMIT_S) as place:
        yield place


@pytest.fixture(scope="module")
def beside_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with on_etcd(tmp_path_factory.mktemp("etcd"), FRESHNESS_LIMIT_S) as place:
        yield place


def troubles(kind: str) -> list[ParameterSet]:
    def marks(name: str) -> Iterator[pytest.MarkDecorator]:
        if "clock" in name:
            yield needs_faketime
        if name in LEFT_TO_PROVE[kind]:
            yield pytest.mark.prove

    return [pytest.param(name, marks=tuple(marks(name))) for name in SHORT[kind]]


def every_answer_is_right(place: Place, trouble: str) -> None:
    history = anyio.run(history_of, place, SHORT[place.kind][trouble], 0, SHORT_PAUSE_S)
    print(summary(history))
    assert faults(history) == []


@pytest.mark.parametrize("trouble", troubles("peers"))
def test_in_each_trouble_of_peers_every_answer_is_right(among_peers: Place, trouble: str) -> None:
    every_answer_is_right(among_peers, trouble)


@pytest.mark.parametrize("trouble", troubles("etcd"))
def test_in_each_trouble_on_etcd_every_answer_is_right(beside_etcd: Place, trouble: str) -> None:
    every_answer_is_right(beside_etcd, trouble)


@pytest.mark.prove  # the simulated histories have this too
def test_without_the_fence_it_comes_to_light(tmp_path: Path) -> None:
    def is_caught(seed: int) -> bool:
        """Whether the resumed node accepts a session before it reads the news of the pause, as it does most times."""
        history = anyio.run(history_of, unfenced, SHORT["peers"]["a node is frozen for 1 s"], seed)
        return any(fault.startswith("accepted after a fenced acknowledgement") for fault in faults(history))

    with peers(tmp_path, FRESHNESS_LIMIT_S, APP + WITHOUT_THE_FENCE) as unfenced:
        assert any(map(is_caught, range(5)))
