"""The checker of histories: wrong ones are caught, and right ones are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from .checker import faults
from .history import UNKNOWN_PROCESS, Act, History, What

HEALED_S = 100.0


def act(what: What, began_s: float, ended_s: float | None = None, **more: Any) -> Act:
    ended_s = began_s + 1 if ended_s is None else ended_s
    return Act(**{"what": what, "node": "a", "session": "ada-1", "subject": "ada", "began_s": began_s, "ended_s": ended_s, **more})


LOG_IN = act("log in", 1)
LOG_OUT = act("log out", 10, mode="fenced")
EVERYWHERE = act("log out everywhere", 10, mode="fenced", session="")
REVOKED: dict[str, Any] = {"status": 401, "code": "session_revoked"}
UNREACHABLE: dict[str, Any] = {"status": 503, "code": "state_stale"}


def history(*acts: Act, in_the_end: int | None = 200) -> History:
    """One of two nodes, which ends with a look at the session on both, restarted meanwhile."""
    looks = [] if in_the_end is None else [act("visit", HEALED_S + 1, node=node, status=in_the_end, process=9) for node in "ab"]
    return History(("a", "b"), [LOG_IN, *acts, *looks], HEALED_S, within_s=30)


RIGHT = {
    "a log-out, and refusals from then on": history(LOG_OUT, act("visit", 12, **REVOKED), in_the_end=401),
    "accepted by a request that began before the acknowledgement": history(LOG_OUT, act("visit", 10.9, 15, node="b"), in_the_end=401),
    "refused while the log-out is under way": history(LOG_OUT, act("visit", 9.5, 10.5, node="b", **REVOKED), in_the_end=401),
    "a log-out that was not answered came about": history(act("log out", 10, status=0), in_the_end=401),
    "a log-out that was not answered did not come about": history(act("log out", 10, status=0), act("visit", 20), in_the_end=200),
    "a node that cannot tell": history(act("visit", 5, **UNREACHABLE)),
    "a node that cannot tell for a while after all was mended": history(act("visit", HEALED_S + 0.5, **UNREACHABLE)),
    "a provisional log-out that other nodes have not heard of": history(
        act("log out", 10, mode="provisional"), act("visit", 20, node="b"), in_the_end=401
    ),
    "another subject is logged out everywhere": history(replace(EVERYWHERE, subject="bob")),
    "everywhere but here": history(replace(EVERYWHERE, session="ada-1")),
    "everywhere, before the log-in": history(replace(EVERYWHERE, began_s=0.1, ended_s=0.9)),
    "everywhere, while somebody logs in, who is hit": history(replace(EVERYWHERE, began_s=1.5, ended_s=3), in_the_end=401),
    "everywhere, while somebody logs in, who is not hit": history(replace(EVERYWHERE, began_s=1.5, ended_s=3), in_the_end=200),
    "everywhere, not acknowledged, a log-in later": history(
        replace(EVERYWHERE, began_s=0.1, ended_s=0.9, status=0, mode=""), in_the_end=401
    ),
    "a restarted process has forgotten a log-out that was not acknowledged": history(
        act("log out", 10, status=0), act("visit", 12, node="b", **REVOKED), act("visit", 20, node="b", process=2)
    ),
    "somewhere in a restart": history(
        act("log out", 10, status=0), act("visit", 12, **REVOKED, process=UNKNOWN_PROCESS), act("visit", 20, process=UNKNOWN_PROCESS)
    ),
}

WRONG = {
    "accepted after a fenced acknowledgement": [
        history(LOG_OUT, act("visit", 11.1, node="b"), in_the_end=401),
        history(act("log out", 5, 30, mode="fenced"), LOG_OUT, act("visit", 12), in_the_end=401),
        history(EVERYWHERE, act("visit", 11.1, node="b"), in_the_end=401),
        history(LOG_OUT, act("log out", 11.1, mode="fenced"), in_the_end=401),
        history(LOG_OUT, in_the_end=200),
    ],
    "refused without a cause": [
        history(act("visit", 5, **REVOKED)),
        history(act("visit", 5, status=401, code="session_idle_timeout")),
        history(act("visit", 5, status=403)),
        history(act("visit", 5, **REVOKED), LOG_OUT, in_the_end=401),
        history(act("log out", 5, **REVOKED), in_the_end=401),
        history(replace(EVERYWHERE, subject="bob"), act("visit", 20, **REVOKED)),
        history(replace(EVERYWHERE, session="ada-1"), act("visit", 20, **REVOKED)),
        history(replace(EVERYWHERE, began_s=0.1, ended_s=0.9), act("visit", 20, **REVOKED)),
    ],
    "accepted after the same process refused it": [
        history(act("log out", 10, status=0), act("visit", 12, **REVOKED), act("visit", 20), in_the_end=401),
        history(act("log out", 10, mode="provisional"), act("visit", 12, 13, **REVOKED), act("visit", 13.1), in_the_end=401),
    ],
    "an answer that is none": [history(act("visit", 5, status=500)), history(act("log in", 5, session="", status=401))],
    "acknowledged, and nobody knows how far": [history(act("log out", 10), in_the_end=401)],
    "a 503 that does not say what to do": [history(act("visit", 5, **UNREACHABLE, hinted=False))],
    "not 401 within": [history(act("log out", 10, mode="provisional"), in_the_end=200), history(LOG_OUT, in_the_end=503)],
    "not 200 within": [
        history(in_the_end=503),
        history(act("visit", HEALED_S + 31, **UNREACHABLE), act("visit", HEALED_S + 33)),
    ],
    "not 200 or 401 within": [history(act("log out", 10, status=0), in_the_end=503)],
    "was not looked at on": [history(in_the_end=None), history(act("visit", 50), act("visit", 50, node="b"), in_the_end=None)],
    "the history has no end": [History(("a", "b"), [LOG_IN])],
}


@pytest.mark.parametrize("story", RIGHT)
def test_nothing_is_said_against(story: str) -> None:
    assert faults(RIGHT[story]) == []


@pytest.mark.parametrize(("fault", "history"), [(fault, history) for fault, histories in WRONG.items() for history in histories])
def test_it_is_caught(fault: str, history: History) -> None:
    found = faults(history)
    assert any(each.startswith(fault) or fault in each for each in found), found


def test_only_fenced_log_outs_have_times() -> None:
    while_it_spreads = [act("visit", 10.1, 10.4, node="b"), act("visit", 10.4, 10.5, node="b", **REVOKED)]
    other = {"session": "bob-2", "subject": "bob"}
    found = history(LOG_OUT, *while_it_spreads, act("log out", 20, 29, mode="provisional", **other), in_the_end=401)
    assert found.acknowledged_s == [1.0]
    assert found.accepted_for_s == [pytest.approx(0.4)]
