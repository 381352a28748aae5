"""No log-out and no request costs more because there are many log-outs. Counted in executed lines, which no machine changes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from ha_session_mw._core.accept_rule import ACCEPT
from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.cluster.view import View
from ha_session_mw._core.ordered.keys import LogId
from ha_session_mw._core.ordered.loading import PIECE
from ha_session_mw._core.ordered.log import Ordered
from ha_session_mw._core.ordered.ready import EntryPut, Snapshot
from ha_session_mw._core.quorum.log import Quorum
from ha_session_mw.models import Cut, Deny, Entry, NodeId

from ..asgi.meter import metered
from .builders import HOUR_MS, NOW_MS, claims, cut, judge

FEW, MANY = 300, 6000
NOW = Moment(1000.0, float(NOW_MS))
OWN = Heartbeat(NodeId("a"), "life-of-a", "https://a.example", "starting", 0, 0, (), 5.0, 12 * HOUR_MS)


def denials(count: int) -> list[Entry]:
    return [Deny(f"session-{number}", NOW_MS + HOUR_MS + number * 1000) for number in range(count)]


def cuts(count: int) -> list[Entry]:
    """One user who logs all others out, again and again."""
    made: list[Cut] = []
    for number in range(count):
        made.append(cut(f"cut-{number}", spare="the-family-of-the-one", replaces=tuple(made[-1:])))
    return [*made]


def a_view(entries: list[Entry]) -> Callable[[Entry], object]:
    view = View(fresh_at=math.inf)
    for entry in entries:
        view.merge(entry)
    return view.merge


def quorum(entries: list[Entry]) -> Callable[[Entry], object]:
    log = Quorum(View(), OWN, [f"https://{name}.example" for name in "abc"], now=NOW, heartbeat_s=0.5)
    log.append(entries, NOW)
    log.tick(NOW)
    return lambda entry: (log.append([entry], NOW), log.tick(NOW))


def ordered(entries: list[Entry]) -> Callable[[Entry], object]:
    log = Ordered(View(), OWN, heartbeat_s=0.5)
    for _ in log.load(Snapshot(10, LogId("log", NOW_MS), entries, [], 0), lambda: NOW):
        pass

    def step(entry: Entry) -> None:
        log.append([entry])
        log.delivered(log.position + 1, [EntryPut(entry, True)], NOW)
        log.tick(NOW)

    return step


@pytest.mark.parametrize("log", [a_view, quorum, ordered], ids=lambda log: log.__name__)
@pytest.mark.parametrize("entries", [denials, cuts], ids=lambda entries: entries.__name__)
def test_one_more_log_out_costs_the_same_after_few_and_after_many(
    entries: Callable[[int], list[Entry]], log: Callable[[list[Entry]], Callable[[Entry], object]]
) -> None:
    lines = []
    for count in (FEW, MANY):
        *known, last = entries(count + 1)
        step = log(known)
        with metered() as cost:
            step(last)
        lines.append(cost.lines)
    assert lines[0] == lines[1] > 0


@pytest.mark.parametrize("entries", [denials, cuts], ids=lambda entries: entries.__name__)
def test_no_step_of_a_second_load_looks_at_more_than_a_piece_of_the_log(entries: Callable[[int], list[Entry]]) -> None:
    known = entries(MANY)
    log = Ordered(View(), OWN, heartbeat_s=0.5)
    for _ in log.load(Snapshot(10, LogId("log", NOW_MS), known, [], 0), lambda: NOW):
        pass
    log.quarantine()
    looked = 0
    for _ in log.load(Snapshot(11, LogId("log", NOW_MS), known, [], 0), lambda: NOW):
        looked += 1
        log.append([Deny(f"meanwhile-{looked}", NOW_MS + HOUR_MS)])  # known here, and not in the log yet
    assert looked >= 2 * MANY / PIECE
    assert log.rolled_back is None
    assert not log.needs_load


@pytest.mark.parametrize("entries", [denials, cuts], ids=lambda entries: entries.__name__)
def test_a_request_and_a_new_token_cost_the_same(entries: Callable[[int], list[Entry]]) -> None:
    lines = []
    for count in (FEW, FEW, MANY):  # the very first request of a process does some things once
        view = View(fresh_at=math.inf)
        for entry in entries(count):
            view.merge(entry)
        session = claims(cuts=view.live_cuts("ada"))
        with metered() as cost:
            view.live_cuts("ada")
            view.withstood_cuts(session, lambda _: True)
            assert judge(session, view) is ACCEPT
        lines.append(cost.lines)
    assert lines[1] == lines[2] > 0
