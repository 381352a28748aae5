"""What the log tells an operator of a node that refuses everybody, and of a clock that is wrong."""

from __future__ import annotations

import pytest

from ha_session_mw._core.cluster.key_use import KeyFit
from ha_session_mw._node.standing import StandingLog
from ha_session_mw.testing import Cluster, ManualClock


class Told:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = ManualClock()
        self.why: str | None = None
        self.skew_s = 0.0
        self.fit = KeyFit()
        self.lacked: tuple[str, ...] = ()
        self.names: tuple[str, ...] = ()
        self._caplog = caplog
        self._log = StandingLog(
            self.clock,
            why_not=lambda: self.why,
            skew_s=lambda: self.skew_s,
            key_fit=lambda: self.fit,
            lacked_keys=lambda: self.lacked,
            shared_names=lambda: self.names,
        )

    def after(self, seconds: float) -> list[str]:
        """The lines of so many seconds."""
        self._caplog.clear()
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self._log.look()
        return [record.getMessage() for record in self._caplog.records]


def test_one_line_at_the_begin_one_each_minute_and_one_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    told = Told(caplog)
    assert told.after(100) == []
    told.why = "out of contact"
    assert told.after(59) == ["this node validates no sessions and answers 503: out of contact"]
    assert told.after(60) == ["this node has validated no sessions for 60 s and answers 503: out of contact"]
    told.why = None
    assert told.after(100) == ["this node validates sessions again, after 119 s"]


def test_a_clock_that_is_off_by_more_than_two_seconds_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    told = Told(caplog)
    told.skew_s = 1.9
    assert told.after(10) == []
    told.skew_s = -2.1
    assert len(told.after(10)) == 1
    told.skew_s = -1.5
    assert told.after(10) == []
    told.skew_s = 0.1
    assert told.after(10) == ["this node's clock and the others agree again"]


def test_a_message_that_the_network_held_back_does_not_pass_for_a_wrong_clock(caplog: pytest.LogCaptureFixture) -> None:
    told = Told(caplog)
    for held_back_s in (8.0, 40.0):
        told.skew_s = held_back_s
        assert told.after(4) == []
        told.skew_s = 0.0
        assert told.after(10) == []


def test_keys_that_do_not_go_together_are_told_with_whose_each_minute_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    told = Told(caplog)
    assert told.after(100) == []
    told.fit = KeyFit(("c",))
    line = "member c and this node cannot validate each other's tokens; give all nodes the same HA_SESSION_SECRET_KEY"
    assert told.after(60) == [line]
    assert told.after(60) == [line]
    told.fit = KeyFit(("b", "c"), is_odd=True)
    assert [("member b, c" in line, "not ready" in line) for line in told.after(10)] == [(True, True)]
    told.fit = KeyFit()
    assert told.after(100) == ["the keys of all members go together again"]


def test_a_key_that_is_lacked_is_told_each_minute_while_it_is(caplog: pytest.LogCaptureFixture) -> None:
    told = Told(caplog)
    told.lacked = ("key one is lacked",)
    assert told.after(60) == ["key one is lacked"]
    assert told.after(60) == ["key one is lacked"]
    told.lacked = ("key two is lacked",)
    assert told.after(10) == ["key two is lacked"]
    told.lacked = ()
    assert told.after(100) == []


def test_a_name_that_several_members_have_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    told = Told(caplog)
    told.names = ("a",)
    assert told.after(100) == ["several members are named a; give each node a HA_SESSION_NODE_ID of its own"]
    told.names = ()
    assert told.after(100) == []


@pytest.mark.anyio
async def test_a_node_that_is_cut_off_tells_it_and_neither_a_start_nor_a_drain_does(caplog: pytest.LogCaptureFixture) -> None:
    async with Cluster() as cluster:
        await cluster.ready()
        await cluster.advance(5)
        assert "answers 503" not in caplog.text
        one, other, third = cluster.nodes
        cluster.cut(one, other, third)
        await cluster.advance(10)
        assert caplog.text.count("this node validates no sessions and answers 503") == 1
        cluster.heal(one, other, third)
        await cluster.advance(5)
        assert caplog.text.count("this node validates sessions again") == 1
        await one.stop()
        assert caplog.text.count("answers 503") == 1
