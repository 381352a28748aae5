"""The short drill: users of the client see nothing of a node that is killed, and plain requests behind a balancer little."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio
import pytest

from .__main__ import MOST_SENT, drill, faults, scene
from .trouble import Trouble
from .users import Result
from .ways import BALANCED, OURS


@pytest.mark.real
@pytest.mark.skipif(shutil.which("etcd") is None, reason="needs etcd")
def test_users_of_the_client_see_no_error_and_no_log_in_when_a_node_is_killed(tmp_path: Path) -> None:
    with scene(tmp_path) as at:
        trouble = Trouble(at.nodes, at.members, at.way_of_last, every_s=1.5)
        found = anyio.run(lambda: drill(at, trouble, users=8, seconds=5.0, thinks_s=0.4, ways=(OURS, BALANCED)))
    ours = found[OURS]
    assert ours.wanted > 20
    assert not ours.errors, ours.told("client")
    assert [result.log_ins for result in found.values()] == [0] * len(found)
    assert not [result.let_in for result in found.values() if result.let_in]
    assert ours.sent <= MOST_SENT * ours.wanted + 3


def test_a_drill_that_went_wrong_is_told() -> None:
    trouble = Trouble([], [], None, 5.0, kills=[100.0, 105.0])  # type: ignore[arg-type]
    ours, balanced = Result(wanted=100, sent=130, log_ins=1), Result()
    ours.errors["GET ConnectError"] += 1
    ours.let_in["http://a"] += 1
    balanced.failed_at_s += [
        (99.0, "before"),
        (100.5, "POST ReadError"),
        (106.5, "POST ReadError"),
        (109.0, "POST state_stale, not_executed"),
    ]
    assert trouble.longest_s(balanced.failed_at_s) == 1.5
    assert len(faults({OURS: ours, BALANCED: balanced}, trouble)) == 5
    assert faults({OURS: Result(wanted=100, sent=110), BALANCED: Result()}, trouble) == []
