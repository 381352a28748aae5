"""The world of the nodes: true time, a network with every fault, and an observer that knows the truth."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar

import msgspec

from ha_session_mw._core.accept_rule import Accept, CannotTell, Decision, Refuse
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.exceptions import SessionExpired, SessionIdleTimeout, SessionSuperseded, StateNotReached
from ha_session_mw.models import Claims, CutId, FamilyId, KeyId, NodeId, SessionId

from .node import Node, Place
from .variants import Variant

N = TypeVar("N", bound=Node)

CERTAINLY_AFTER_S = 121.0
"""Time after which a session certainly began after a log-out, for every node: the tolerance, two clocks 30 s wrong, and whole seconds."""
EPOCH_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


@dataclass(eq=False)
class Session:
    """A session and the truth about it, independent of the nodes' views."""

    verified: Verified
    began: float
    revoked: bool = False
    """Somebody asked for its revocation: to refuse it is right from then on."""
    fenced_at: float = math.inf
    """When its revocation was acknowledged: to accept a request that starts later is wrong."""
    replacing: int = 0
    """How many clients wait for a new id of it, or have got one: to refuse the old one is right then."""
    asked: bool = False
    """A client has asked for a new id of it, and may wait until a majority can be reached."""
    maybe_cut: bool = False
    """It began while a log-out of its subject was under way: to refuse it may be right or not."""
    refused_by: set[tuple[int, int]] = field(default_factory=set)
    """The processes that have called it revoked or superseded."""
    logged_out_by: set[tuple[int, int]] = field(default_factory=set)
    """The processes that know of its log-out under this id or with all its ids. No replacement may hide that from then on."""

    @property
    def untouched(self) -> bool:
        return (
            not self.revoked and not self.replacing and not self.maybe_cut and self.claims.absolute_end_ms - self.claims.issued_ms > HOUR_MS
        )

    @property
    def claims(self) -> Claims:
        return self.verified.claims


@dataclass(eq=False)
class SubjectCut:
    """A log-out everywhere, when it was made, and when it was acknowledged."""

    subject: str
    made_at: float
    revoked: bool = False
    fenced_at: float = math.inf


@dataclass
class Findings:
    """Counts of observations. The first five must stay zero."""

    accepted_after_fence: int = 0
    refused_without_cause: int = 0
    flipped: int = 0
    never_healed: int = 0
    turned_back: int = 0
    accepted: int = 0
    accepted_revoked: int = 0
    refused: int = 0
    superseded: int = 0
    unanswered: int = 0
    revocations: int = 0
    fenced: int = 0
    losses: int = 0
    new_ids: int = 0

    @property
    def faults(self) -> int:
        return self.accepted_after_fence + self.refused_without_cause + self.flipped + self.never_healed + self.turned_back

    def add(self, other: Findings) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Links:
    """The faults of messages from one node to another."""

    cut: set[tuple[int, int]] = field(default_factory=set)
    slow_s: dict[tuple[int, int], float] = field(default_factory=dict)
    loss: float = 0.0
    duplication: float = 0.0
    least_s: float = 0.001
    jitter_s: float = 0.0
    tail: float = 0.0
    """How often a message is late by up to a hundred times the jitter, and so overtaken by others."""


Way = tuple[int, int]
"""From one node to another, by their numbers."""


class Judge:
    """An observer that compares the nodes' decisions with the truth.

    Attributes:
        findings: the counts so far.
        sessions, cuts: all that there ever were.
        revoked_families: those that somebody has logged out.
    """

    time: float

    def __init__(self) -> None:
        self.findings = Findings()
        self.sessions: list[Session] = []
        self.cuts: list[SubjectCut] = []
        self.revoked_families: set[str] = set()

    def add_session(self, verified: Verified) -> Session:
        session = Session(verified, self.time)
        session.maybe_cut = any(
            cut.subject == session.claims.subject and self.time <= min(cut.fenced_at, cut.made_at + CERTAINLY_AFTER_S) for cut in self.cuts
        )
        self.sessions.append(session)
        return session

    def hit_by(self, subject: str, *, but: Session | None) -> list[Session]:
        """The sessions that a log-out of this subject ends. The one that it excepts may have another id by now, or another token."""
        spared = None if but is None else but.claims.family
        return [session for session in self.sessions if session.claims.subject == subject and session.claims.family != spared]

    def judge(self, process: tuple[int, int], session: Session, began: float, decision: Decision, walls_ms: Iterable[float]) -> None:
        """Compare a process's decision with the truth."""
        seen = self.findings
        if isinstance(decision, Accept):
            seen.accepted += 1
            seen.accepted_revoked += session.revoked
            seen.accepted_after_fence += session.fenced_at < began
            seen.flipped += process in session.refused_by and not session.replacing
        elif isinstance(decision, Refuse):
            seen.refused += 1
            if isinstance(decision.problem, SessionExpired | SessionIdleTimeout):
                seen.refused_without_cause += not (session.revoked or may_have_ended(session, walls_ms))
            else:
                seen.refused_without_cause += not (session.revoked or session.replacing or session.maybe_cut)
                session.refused_by.add(process)
                seen.superseded += isinstance(decision.problem, SessionSuperseded)
                seen.turned_back += isinstance(decision.problem, SessionSuperseded) and process in session.logged_out_by
                if decision.problem.check == "denied":
                    session.logged_out_by.add(process)
        else:
            seen.unanswered += 1


def may_have_ended(session: Session, walls_ms: Iterable[float]) -> bool:
    walls = sorted(walls_ms)
    return session.claims.absolute_end_ms <= walls[len(walls) // 2] + 61_000


def around(number: int, nodes: int) -> list[Way]:
    """All ways from and to one of so many nodes."""
    others = [other for other in range(nodes) if other != number]
    return [(number, other) for other in others] + [(other, number) for other in others]


def between(ones: set[int], others: set[int]) -> list[Way]:
    return [(a, b) for a in ones for b in others if a != b] + [(b, a) for a in ones for b in others if a != b]


class World(Judge, Generic[N]):
    """The nodes, the network between them, and the order of all events.

    Args:
        seed: where all chance comes from. The same seed replays exactly.
        variant: the rules that the nodes follow; broken ones are to be caught.
    """

    least_pause_s = 0.01

    def __init__(self, seed: int, variant: Variant) -> None:
        super().__init__()
        self.random = Random(seed)
        self.time = 0.0
        self.variant = variant
        self.links = Links()
        self.trace: list[tuple[object, ...]] | None = None
        self.nodes: list[N] = []
        self._events: list[tuple[float, int, Place | None, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0

    # Time.

    def at(self, time: float, node: Place | None, act: Callable[..., None], *args: object) -> None:
        """Have something happen; on a node, only while the process that runs there now still does, and once it is not paused."""
        self._count += 1
        heapq.heappush(self._events, (time, self._count, node, node.life if node is not None else 0, act, args))

    def after(self, delay_s: float, node: Place | None, act: Callable[..., None], *args: object) -> None:
        self.at(self.time + delay_s, node, act, *args)

    def run(self, seconds: float) -> None:
        """Let this many seconds pass."""
        end = self.time + seconds
        events = self._events
        while events and events[0][0] <= end:
            time, count, node, life, act, args = heapq.heappop(events)
            self.time = time
            if node is None:
                act(*args)
            elif node.life == life and node.up:
                if node.paused_until > time:
                    heapq.heappush(events, (node.paused_until, count, node, life, act, args))
                else:
                    if self.trace is not None:
                        self.trace.append((round(time, 9), node.number, act.__name__))
                    act(*args)
        self.time = end

    # The network.

    def send(self, source: Place, target: Place, act: Callable[..., None], *args: object) -> None:
        """Carry a message, perhaps, and perhaps twice, and let ``act`` happen on the target."""
        link = (source.number, target.number)
        if link in self.links.cut or self.random.random() < self.links.loss:
            return
        for _ in range(1 + (self.random.random() < self.links.duplication)):
            self.after(self.delay_s(link), None, self._arrive, link, target, target.life, act, args)

    def delay_s(self, link: tuple[int, int]) -> float:
        links = self.links
        delay = links.least_s + links.slow_s.get(link, 0.0)
        if links.jitter_s:
            delay += self.random.expovariate(1 / links.jitter_s)
            if self.random.random() < links.tail:
                delay += self.random.uniform(0, 100 * links.jitter_s)
        return delay

    def _arrive(self, link: tuple[int, int], target: Place, life: int, act: Callable[..., None], args: tuple[object, ...]) -> None:
        if link not in self.links.cut:
            # A process that started since answers at the same address: whether it minds is for the protocol to say.
            self.at(self.time, target, act, *args)

    def cut(self, *links: tuple[int, int]) -> None:
        self.links.cut.update(links)

    def mend(self, *links: tuple[int, int]) -> None:
        self.links.cut.difference_update(links)

    def slow(self, *ways: Way, by_s: float) -> None:
        for way in ways:
            self.links.slow_s[way] = by_s

    # The truth.

    def new_session(
        self, node: Node, *, subject: str, cuts: tuple[CutId, ...], now_ms: int, life_ms: int, idle_ms: int | None = None
    ) -> Session:
        sid = self._next_sid()
        claims = Claims(
            sid=sid,
            subject=subject,
            family=FamilyId("f" + sid[1:]),
            cuts=cuts,
            issued_ms=now_ms,
            authenticated_ms=now_ms,
            idle_end_ms=now_ms + min(life_ms, life_ms if idle_ms is None else idle_ms),
            absolute_end_ms=now_ms + life_ms,
            issuer=NodeId(node.url),
        )
        return self.add_session(Verified.of(claims, KeyId("key"), renew_at_ms=math.inf))

    def renewed(self, session: Session, **times_ms: int) -> Session:
        """Hand out another token of a session, under the same id. What has become of the session counts for it, too."""
        successor = self.add_session(Verified.of(msgspec.structs.replace(session.claims, **times_ms), KeyId("key"), renew_at_ms=math.inf))
        successor.began, successor.revoked, successor.fenced_at = session.began, session.revoked, session.fenced_at
        successor.maybe_cut = session.maybe_cut
        return successor

    def _next_sid(self) -> SessionId:
        """Return an id of 22 characters. Its first ones differ from those of all others, as those of random ids do."""
        return SessionId(f"s{len(self.sessions):04d}".ljust(22, "0"))

    def new_id(self, session: Session, *, cuts: tuple[CutId, ...]) -> Session:
        """Hand out the token of a session under a new id."""
        claims = msgspec.structs.replace(session.claims, sid=self._next_sid(), cuts=cuts)
        successor = self.add_session(Verified.of(claims, KeyId("key"), renew_at_ms=math.inf))
        successor.revoked, successor.began = claims.family in self.revoked_families, session.began
        successor.maybe_cut |= session.maybe_cut or session.revoked
        self.findings.new_ids += 1
        return successor

    def useless_tokens(self) -> int:
        """How many tokens some node cannot tell about, although all is well: they list a log-out that was lost."""

        def waits(node: Node, session: Session) -> bool:
            decision = node.verdict(session, node.view.fresh_at, node.now())
            return isinstance(decision, CannotTell) and isinstance(decision.problem, StateNotReached)

        return sum(any(waits(node, session) for node in self.nodes) for session in self.sessions)

    def cut_subject(self, node: Node, subject: str, *, but: Session | None = None) -> None:
        """Log a subject out everywhere, but for one session."""
        cut = SubjectCut(subject, self.time)
        self.cuts.append(cut)
        node.revoke_subject(cut, but=but)
