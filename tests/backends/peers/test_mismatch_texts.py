"""What an operator reads about a member that this node cannot work with."""

from __future__ import annotations

import pytest

from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw.backends.peers.mismatch_texts import why_apart
from ha_session_mw.models import NodeId
from ha_session_mw.version import Versions


def node(release: str, lowest: int, highest: int) -> Heartbeat:
    return Heartbeat(NodeId("n"), "life", "http://n", "ready", 1, 2, (), 5.0, 3, release, 1, Versions(lowest, highest))


OLD, NEW = node("0.1.0", 1, 1), node("0.3.0", 2, 3)


@pytest.mark.parametrize(
    ("its", "own", "told"),
    [
        (
            NEW,
            OLD,
            "member 3 (release 0.3.0) reads versions 2 to 3 of the protocol, this node (release 0.1.0) reads version 1 of the protocol: "
            "the upgrade has skipped a release; take that member back to one that reads version 1, too",
        ),
        (
            OLD,
            NEW,
            "member 3 (release 0.1.0) reads version 1 of the protocol, this node (release 0.3.0) reads versions 2 to 3 of the protocol: "
            "the upgrade has skipped a release; take this node back to one that reads version 1, too",
        ),
        (None, OLD, "member 3 writes in a version of the protocol that this node does not read; run one release on both"),
        (OLD, OLD, "member 3 writes in a version of the protocol that this node does not read; run one release on both"),
    ],
)
def test_two_releases_without_a_version_in_common_are_named_with_the_step_that_was_skipped(
    its: Heartbeat | None, own: Heartbeat, told: str
) -> None:
    assert why_apart("member 3", "version", its, own) == told
