"""Judges a history. Knows only the promises to clients, not how the nodes work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cached_property

from .history import NO_ANSWER, UNKNOWN_PROCESS, Act, History

REFUSED = (401, 403)
ALLOWED = {
    "log in": (200, 503, NO_ANSWER),
    "visit": (200, *REFUSED, 503, NO_ANSWER),
    "log out": (200, *REFUSED, 503, NO_ANSWER),
    "log out everywhere": (200, *REFUSED, 503, NO_ANSWER),
}


def faults(history: History) -> list[str]:
    """Return the faults of a history, one sentence each; empty if every promise was kept."""
    judged = Judged(history)
    return [fault for rule in RULES for fault in rule(judged)]


class Judged:
    """A history, by session."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.of_session: dict[str, list[Act]] = defaultdict(list)
        self.log_ins: dict[str, Act] = {}
        self.log_outs: dict[str, list[Act]] = defaultdict(list)
        self.everywhere: dict[str, list[Act]] = defaultdict(list)
        for act in sorted(history.acts, key=lambda act: act.ended_s):
            match act.what:
                case "log in" if act.status == 200:
                    self.log_ins[act.session] = act
                case "log out":
                    self.log_outs[act.session].append(act)
                case "log out everywhere":
                    self.everywhere[act.subject].append(act)
            if act.what in ("visit", "log out"):
                self.of_session[act.session].append(act)

    def certain(self, session: str) -> list[Act]:
        """The log-outs that end this session if they were acknowledged."""
        log_in = self.log_ins[session]
        everywhere = [out for out in self._everywhere(session) if log_in.ended_s < out.began_s]
        return self.log_outs[session] + everywhere

    def possible(self, session: str) -> list[Act]:
        """The log-outs that may end it: besides, those of all sessions that its log-in cannot be known to have heard of."""
        log_in = self.log_ins[session]
        everywhere = [out for out in self._everywhere(session) if out.mode != "fenced" or log_in.began_s < out.ended_s]
        return self.log_outs[session] + everywhere

    def in_the_end(self, session: str) -> tuple[int, ...]:
        """With which statuses a node that is well may answer to it, after all that was done."""
        if any(out.mode for out in self.certain(session)):
            return (401,)  # acknowledged, be it as provisional
        return (200, 401) if self.possible(session) else (200,)

    def _everywhere(self, session: str) -> list[Act]:
        return [out for out in self.everywhere[self.log_ins[session].subject] if out.session != session]

    @cached_property
    def over_s(self) -> dict[str, float]:
        """When the first log-out of a session was acknowledged as fenced."""
        found = {session: [out.ended_s for out in self.certain(session) if out.mode == "fenced"] for session in self.log_ins}
        return {session: min(times_s) for session, times_s in found.items() if times_s}


def accepted_after_a_fenced_acknowledgement(judged: Judged) -> Iterator[str]:
    for session, over_s in judged.over_s.items():
        for act in judged.of_session[session]:
            if act.status == 200 and act.began_s > over_s:
                yield f"accepted after a fenced acknowledgement at {over_s:.3f}: {act}"


def refused_without_a_cause(judged: Judged) -> Iterator[str]:
    for session in judged.log_ins:
        causes = judged.possible(session)
        for act in judged.of_session[session]:
            if act.status in REFUSED and not any(out.began_s < act.ended_s for out in causes if out is not act):
                yield f"refused without a cause: {act}"


def accepted_where_it_was_refused(judged: Judged) -> Iterator[str]:
    for acts in judged.of_session.values():
        refused_s: dict[tuple[str, int], float] = {}
        for act in acts:
            where = (act.node, act.process)
            if act.process == UNKNOWN_PROCESS:
                continue
            if act.status in REFUSED:
                refused_s.setdefault(where, act.ended_s)
            elif act.status == 200 and act.began_s > refused_s.get(where, act.began_s):
                yield f"accepted after the same process refused it at {refused_s[where]:.3f}: {act}"


def dishonest(judged: Judged) -> Iterator[str]:
    for act in judged.history.acts:
        if act.status not in ALLOWED[act.what]:
            yield f"an answer that is none: {act}"
        if act.what in ("log out", "log out everywhere") and act.status == 200 and not act.mode:
            yield f"acknowledged, and nobody knows how far: {act}"
        if act.status == 503 and not act.hinted:
            yield f"a 503 that does not say what to do: {act}"


def not_well_in_the_end(judged: Judged) -> Iterator[str]:
    """Each session needs a visit on each node after all faults are repaired. The last visit counts, and so do all late ones."""
    history = judged.history
    if history.healed_s is None:
        yield "the history has no end"
        return
    for session in judged.log_ins:
        expected = judged.in_the_end(session)
        looks = [act for act in judged.of_session[session] if act.what == "visit" and act.began_s > history.healed_s]
        for node in history.nodes:
            there = [act for act in looks if act.node == node]
            late = [act for act in there[:-1] if act.began_s > history.healed_s + history.within_s]
            if not there:
                yield f"{session} was not looked at on {node} in the end"
            for act in [*late, *there[-1:]]:
                if act.status not in expected:
                    yield f"not {' or '.join(map(str, expected))} within {history.within_s:g} s of {history.healed_s:.3f}: {act}"


RULES: tuple[Callable[[Judged], Iterator[str]], ...] = (
    accepted_after_a_fenced_acknowledgement,
    refused_without_a_cause,
    accepted_where_it_was_refused,
    dishonest,
    not_well_in_the_end,
)
