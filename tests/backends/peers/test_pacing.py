"""The pace of polls: a few follow on each other at once, and in a storm each brings what came meanwhile."""

from __future__ import annotations

from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.quorum.messages import VERSION, Answer
from ha_session_mw.backends.peers.pacing import LEAST_ROUND_S, ROUNDS_AT_ONCE, ROUNDS_PER_S, PeerPace
from ha_session_mw.models import NodeId

OTHER = Heartbeat(NodeId("b"), "life", "http://b.example", "ready", 1, 0, (), 5.0, 0)
ANSWER = Answer(version=VERSION, digest="", sender=OTHER.url, heartbeat=OTHER, incarnation="life", memory="whole", complete=True)


def polled(pace: PeerPace, count: int, begun_s: float) -> float:
    """The time after so many polls, each of which is answered at once."""
    now_s = begun_s
    for _ in range(count):
        now_s += pace.least_round_s(ANSWER, 0, now_s, recovering=False, fresh=True)
    return now_s


def test_the_polls_of_a_few_log_outs_wait_for_no_turn() -> None:
    assert polled(PeerPace(lambda _: None), ROUNDS_AT_ONCE // 2, 0.0) < ROUNDS_AT_ONCE * LEAST_ROUND_S


def test_in_a_storm_polls_are_made_at_an_even_pace() -> None:
    pace = PeerPace(lambda _: None)
    begun_s = polled(pace, 2 * ROUNDS_AT_ONCE, 0.0)
    assert polled(pace, ROUNDS_PER_S, begun_s) - begun_s > 0.99
