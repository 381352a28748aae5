"""Nobody is said to have left while etcd is what is gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ha_session_mw.backends.etcd.departures import Departures
from ha_session_mw.events import MemberDraining, MemberJoined, MemberLeft
from ha_session_mw.models import NodeId

A, B = NodeId("a"), NodeId("b")


class Reader:
    """A process that reads the log until a moment, and again from another one on."""

    def __init__(self, *, until_s: float, from_s: float) -> None:
        self._until_s, self._from_s = until_s, from_s
        self._beats = SimpleNamespace(fresh_s=0.0)
        ordered: Any = SimpleNamespace(own_beats=self._beats, members=SimpleNamespace(acceptance_limit_s=5.0, fence_wait_s=5.15))
        self._departures = Departures(ordered)

    def at(self, now_s: float, *events: Any) -> list[Any]:
        self._beats.fresh_s = now_s if now_s >= self._from_s else min(now_s, self._until_s)
        return [*self._departures.sifted(events, now_s)]


def test_a_member_that_falls_silent_while_the_log_is_read_has_left() -> None:
    reader = Reader(until_s=100, from_s=100)
    assert reader.at(10, MemberDraining(A), MemberLeft(A)) == [MemberDraining(A), MemberLeft(A)]


def test_when_etcd_is_gone_nobody_has_left_and_nobody_joins_when_it_is_back() -> None:
    reader = Reader(until_s=10, from_s=60)
    assert reader.at(15, MemberLeft(A), MemberLeft(B)) == []
    assert reader.at(40) == []
    assert reader.at(61, MemberJoined(A), MemberJoined(B)) == []
    assert reader.at(70) == []
    assert reader.at(71, MemberJoined(A)) == [MemberJoined(A)]


def test_a_member_that_does_not_come_back_with_etcd_has_left_after_a_while() -> None:
    reader = Reader(until_s=10, from_s=60)
    assert reader.at(15, MemberLeft(A), MemberLeft(B)) == []
    assert reader.at(59.9) == []
    assert reader.at(61, MemberJoined(A)) == []
    assert reader.at(64) == []
    assert reader.at(65.1) == [MemberLeft(B)]
    assert reader.at(66) == []
