"""One process that shares an ordered log, in the model: the real state machine, without the state that no question depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ha_session_mw._core.cluster.members import Heartbeat, Members
from ha_session_mw._core.cluster.view import View
from ha_session_mw._core.ordered.keys import LogId
from ha_session_mw._core.ordered.log import Ordered
from ha_session_mw._core.ordered.ready import BeatPut, EntryPut, Item, Sent, Snapshot, StoredBeat
from ha_session_mw._core.tally import Tally
from ha_session_mw.models import NodeId

from .terms import DURABLE, ENDS_MS, ENTRIES, FENCED, LIMIT_S, MADE, NOW, RATES, UNIT_S, accepts, aged, is_fresh, knows, units_since

LOG = LogId("log", 0)


@dataclass(frozen=True, slots=True)
class OrderedQuestion:
    """A question about an ordered log, with its bounds.

    Attributes:
        members: how many processes.
        kind: the rules that they follow.
        nodes: on which node each process runs.
        log_outs: for each log-out, which member makes it.
        beats: how many beats may be put after the first ones.
        in_flight: how many messages between members and the log may be under way at once.
        doubles: whether a message that has arrived may arrive again, as a put that is tried again by somebody on the way does.
        restarts: how many times a process may be killed and another one be started in its place.
        units: how many units of time may pass; a lease lasts two of them.
        requests: whether a request may be under way while other things happen.
        reads_late: whether a request is looked up before it is seen whether the process is fresh.
        skips: whether a follower that reconnects resumes where the log is, and not where it has been delivered to.
    """

    members: int = 3
    kind: type[Ordered] = Ordered
    log_outs: tuple[int, ...] = (0,)
    beats: int = 1
    in_flight: int = 1
    doubles: bool = False
    restarts: int = 0
    units: int = 4
    requests: bool = False
    reads_late: bool = False
    skips: bool = False
    nodes: tuple[str, ...] = ("a", "b", "b")


@dataclass(frozen=True, slots=True)
class Put:
    """A process's write to the log: a beat, or the entry of a log-out."""

    member: int
    life: str
    what: Sent | int


@dataclass(frozen=True, slots=True)
class Taken:
    """The log's answer: the accepted item and its position."""

    put: Put
    position: int


class OrderedLooks(NamedTuple):
    """The facts about a process that are visible from outside.

    Attributes:
        life: names it.
        accepts: which of the sessions it would accept now.
        knows: of which log-outs it knows.
        fresh_age: how old its freshness is, in units of time.
        fresh_at: the same, by its clock.
        standings: of the log-outs that it has made, how far each has got.
        position: up to where it has applied the log.
        needs_load: whether it must load it first.
    """

    life: str
    accepts: tuple[bool, ...]
    knows: tuple[bool, ...]
    fresh_age: int
    fresh_at: float
    standings: tuple[tuple[int, int], ...]
    position: int
    needs_load: bool


class OrderedMember:
    """A place for a process, and the process on it."""

    ordered: Ordered

    def __init__(self, number: int, question: OrderedQuestion) -> None:
        self.number = number
        self.question = question
        self.life = 0
        self.restart()

    def restart(self) -> None:
        self.life += 1
        self.made: set[int] = set()
        self.taken: dict[int, tuple[int, float]] = {}
        """Of the log-outs made here, at which position, and when that was known."""
        self.ordered = self.question.kind(View(), self.own, heartbeat_s=UNIT_S)

    @property
    def own(self) -> Heartbeat:
        return Heartbeat(
            NodeId(f"{self.question.nodes[self.number]}.{self.number}"), f"{self.life}", "", "starting", 0, 0, (), LIMIT_S, ENDS_MS
        )

    # Its steps.

    def log_out(self, number: int) -> Put:
        self.made.add(number)
        self.ordered.append([ENTRIES[number]])
        return Put(self.number, f"{self.life}", number)

    def beat(self) -> Put:
        return Put(self.number, f"{self.life}", self.ordered.beat(NOW))

    def answered(self, taken: Taken) -> None:
        what = taken.put.what
        if isinstance(what, Sent):
            self.ordered.answered(what, taken.position)
        elif what not in self.taken:
            self.taken[what] = taken.position, NOW.boot_s

    def load(self, log: tuple[Put, ...]) -> None:
        beats = {
            put.what.slot: StoredBeat(put.what.slot, put.what.beat, place) for place, put in enumerate(log, 1) if isinstance(put.what, Sent)
        }
        entries = {put.what: ENTRIES[put.what] for put in log if isinstance(put.what, int)}
        for _ in self.ordered.load(Snapshot(len(log), LOG, tuple(entries.values()), tuple(beats.values()), 0), lambda: NOW):
            pass

    def deliver(self, put: Put, *, created: bool) -> None:
        what = put.what
        item: Item = BeatPut(what.slot, what.beat) if isinstance(what, Sent) else EntryPut(ENTRIES[what], created)
        self.ordered.delivered(self.ordered.position + 1, [item], NOW)

    def skip(self, position: int) -> None:
        self.ordered.position = position

    def reads(self) -> float:
        """Begin a request; return its first reading."""
        view = self.ordered.view
        return accepts(0, view, math.inf) if self.question.reads_late else view.fresh_at

    def answers(self, read: float) -> bool:
        """Whether it is accepted."""
        view = self.ordered.view
        return bool(read) and is_fresh(view.fresh_at) if self.question.reads_late else accepts(0, view, read)

    def let_time_pass(self) -> None:
        by_s = RATES[self.number]
        ordered = self.ordered
        beats = ordered.own_beats
        ordered.view.fresh_at, beats.fresh_s = aged(ordered.view.fresh_at, by_s), aged(beats.fresh_s, by_s)
        beats.tries = {number: aged(sent_s, by_s) for number, sent_s in beats.tries.items()}
        still = ordered.standstill
        still.beaten_s, still.lapsed_s = aged(still.beaten_s, by_s), aged(still.lapsed_s, by_s)
        for process in ordered.leases.known.values():
            process.heard_s = aged(process.heard_s, by_s)
        self.taken = {number: (position, aged(durable_s, by_s)) for number, (position, durable_s) in self.taken.items()}

    # State without effect.

    def wake(self) -> None:
        """Restore the state that the frozen process left out: the others' wall clocks and limits, on which no lease depends."""
        self.ordered.speaker.members = Members(self.own, majority=1)

    def rest(self) -> None:
        """Leave out state that reaches no other process, votes on clocks, and the next beat's time, as a beat may come at any time."""
        ordered = self.ordered
        del ordered.speaker.members
        beats = ordered.own_beats
        beats.sent_s, beats.hurried, beats.alive_s, beats.returned_s = -math.inf, False, 0.0, math.inf
        beats.sync_lag, beats.news = Tally(()), 0
        ordered.speaker.take_events()
        ordered.view.forgotten_cuts_end_ms = 0.0
        for process in ordered.leases.known.values():
            process.heard_alive_s = 0.0
        if all(knows(number, ordered.view) for number in range(len(self.question.log_outs))) and not self.question.requests:
            self._stop_the_clock()

    def _stop_the_clock(self) -> None:
        """How fresh it is matters no more, once it knows all that there ever is to know."""
        ordered = self.ordered
        beats = ordered.own_beats
        beats.fresh_s = ordered.view.fresh_at = 0 if ordered.view.fresh_at > -math.inf else -math.inf
        beats.tries = dict.fromkeys(beats.tries, 0)
        if not self.made:
            ordered.standstill.beaten_s = ordered.standstill.lapsed_s = 0
            for process in ordered.leases.known.values():
                process.heard_s = 0

    def looks(self) -> OrderedLooks:
        ordered, log_outs = self.ordered, range(len(self.question.log_outs))
        view = ordered.view
        return OrderedLooks(
            life=f"{self.life}",
            accepts=tuple(accepts(number, view, view.fresh_at) for number in log_outs),
            knows=tuple(knows(number, view) for number in log_outs),
            fresh_age=units_since(view.fresh_at, RATES[self.number]),
            fresh_at=view.fresh_at,
            standings=tuple((number, self._standing(number)) for number in sorted(self.made)),
            position=ordered.position,
            needs_load=ordered.needs_load,
        )

    def _standing(self, number: int) -> int:
        if number not in self.taken:
            return MADE
        position, durable_s = self.taken[number]
        return FENCED if NOW.boot_s >= self.ordered.fenced_by(position, durable_s) else DURABLE
