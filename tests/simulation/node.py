"""One node with any log: its clocks, its process, its users' actions and its requests."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ha_session_mw._core.accept_rule import ACCEPT, Accept, CannotTell, Decision, Refuse, decide, denial
from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.cluster.members import Members
from ha_session_mw._core.cluster.view import View, new_cut_id
from ha_session_mw.exceptions import ClockUntrusted, NodeStarting, SessionRevoked, SessionSuperseded, StateNotReached, StateStale
from ha_session_mw.models import Cut, CutId, Deny, Entry, FamilyId

if TYPE_CHECKING:
    from .world import Session, SubjectCut, World

LIMIT_S = 2.0
HEARTBEAT_S = 0.5
LONGEST_MS = 12 * 3_600_000
LOOK_UP_S = 0.25
DURABLE_S = 1.0
"""How long a client waits for its new id, twice: for the confirmation, and for the entry."""
LOOK_AGAIN_S = 0.005
IN_FLIGHT_S = 0.075

Then = Callable[[Decision], None]


class Place:
    """Where something runs that messages reach: a process that comes and goes; ``life`` counts them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.life = 0
        self.up = False
        self.paused_until = 0.0


class Node(Place, ABC):
    """A member: its clocks, and the process that runs there.

    Attributes:
        view: the process's view.
        receipts: the log-outs that it has not acknowledged yet, whatever stands for them.
    """

    view: View
    receipts: Sequence[object]

    def __init__(self, world: World[Any], number: int, url: str, *, rate: float, wall_off_ms: float) -> None:
        super().__init__(number)
        self.world = world
        self.url = url
        self.rate = rate
        self.boot_off_s = world.random.uniform(0, 1e5)
        self.wall_off_ms = self.true_off_ms = wall_off_ms
        self.session_ms = LONGEST_MS
        self.idle_ms = LONGEST_MS
        self.yes_until: dict[str, float] = {}
        self.accepted_under: dict[str, object] = {}
        """The view's generation under which each session was accepted last."""

    # Clocks.

    def now(self) -> Moment:
        local = self.world.time * self.rate
        return Moment(self.boot_off_s + local, self.wall_off_ms + local * 1000)

    def wall_ms(self) -> float:
        return self.now().wall_ms

    def at_boot(self, boot_s: float, act: Callable[..., None], *args: object) -> None:
        self.world.at(max(self.world.time, (boot_s - self.boot_off_s) / self.rate + 1e-9), self, act, *args)

    def wait(self, seconds: float, act: Callable[..., None], *args: object) -> None:
        self.world.after(seconds / self.rate, self, act, *args)

    def set_clock(self) -> None:
        """The wall clock is put right."""
        self.wall_off_ms = self.true_off_ms

    def step_wall(self, step_ms: float) -> None:
        """The wall clock is set, right or wrong."""
        self.wall_off_ms += step_ms

    # The process, and its log.

    @abstractmethod
    def start(self) -> None:
        """A new process."""

    @abstractmethod
    def crash(self) -> None:
        """It is killed."""

    @property
    @abstractmethod
    def members(self) -> Members:
        """The members of its log."""

    @property
    @abstractmethod
    def starting(self) -> bool:
        """Whether it has not yet learned enough to judge anything."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it can judge sessions."""

    @abstractmethod
    def append(self, entries: list[Entry], hit: list[Session | SubjectCut]) -> None:
        """Write entries that log these out, and acknowledge that when it is due."""

    @abstractmethod
    def apply(self, entries: list[Entry]) -> None:
        """Write entries without a waiter."""

    @abstractmethod
    def seek(self) -> Callable[[], bool]:
        """Ask whether the log takes entries now. Return what tells whether that has been confirmed."""

    @abstractmethod
    def deny(self, entries: list[Entry]) -> Callable[[], bool]:
        """Write entries. Return what tells whether they are durable."""

    @abstractmethod
    def may_lose(self, cut: Cut) -> bool:
        """Whether a cut that it knows may still be lost."""

    def _may_list(self, subject: str | None, cuts: tuple[CutId, ...]) -> bool:
        """Whether a token may list these now. Otherwise its client is refused, or waits."""
        known = self.view.cuts_of(subject)
        return self.world.variant.lists_what_may_be_lost or not any(self.may_lose(known[id]) for id in cuts if id in known)

    def acknowledge(self, hit: list[Session | SubjectCut]) -> None:
        """Acknowledge the log-out of these as fenced."""
        self.world.findings.fenced += 1
        for one in hit:
            one.fenced_at = min(one.fenced_at, self.world.time)

    def asked_to_revoke(self, hit: list[Session | SubjectCut]) -> None:
        """Somebody logs these out."""
        self.world.findings.revocations += 1
        for one in hit:
            one.revoked = True

    @property
    def peers(self) -> list[Node]:
        return [node for node in self.world.nodes if node is not self]

    # Log-outs and log-ins.

    def revoke(self, session: Session, *, family: bool = False, replaced: bool = False) -> None:
        """Log a session out, or replace one of its ids, or all of them: no node may tell the two apart when it accepts."""
        claims = session.claims
        replaced_ms = int(self.wall_ms()) if replaced else 0
        hit = [session]
        if family:
            self.world.revoked_families.add(claims.family)
            hit = [one for one in self.world.sessions if one.claims.family == claims.family]
        denial_ms = self.world.variant.denial_ms
        until_ms = claims.absolute_end_ms if denial_ms is None else min(claims.absolute_end_ms, int(self.wall_ms()) + denial_ms)
        self.append([Deny(claims.family if family else claims.sid, until_ms, replaced_ms)], [*hit])

    def revoke_subject(self, told: SubjectCut, *, but: Session | None = None) -> None:
        subject = told.subject
        now = self.now()
        # A cut replaces those that its writer knew. Were a session excepted that one of those has ended, it would live again.
        if but is not None and not isinstance(self.verdict(but, self.view.fresh_at, now), Accept):
            but = None
        hit: list[Session | SubjectCut] = [*self.world.hit_by(subject, but=but), told]
        if self._changes_nothing(subject):
            self.asked_to_revoke(hit)
            self.acknowledge(hit)
            return
        until = self.members.unknown_end_ms(now)
        dated_ms = self.world.variant.cut_dated_ms
        made_ms = int(now.wall_ms) + dated_ms if dated_ms is not None and self.members.clock_trusted(now) else None
        id = new_cut_id(f"{self.number}-{self.life}-{self.world.time:.9f}", until, made_ms)
        keep = FamilyId(but.claims.family) if but is not None else None
        cut = Cut(id, subject, until, keep, self.view.live_cuts(subject))
        self.append([cut], hit)

    def _changes_nothing(self, subject: str) -> bool:
        """Whether a broken rule says that another log-out of a subject would end no session: no node knows that it has issued one."""
        drops = self.world.variant.drops_repeated_cuts
        asked = {"never": [], "this": [self], "each": self.world.nodes}[drops]
        cuts = self.view.by_subject.get(subject, {}).keys()
        return bool(asked and cuts) and not any(cuts & node.view.listed for node in asked)

    def log_in(self, subject: str = "somebody") -> Session | None:
        """A new session, if this node may mint now."""
        now = self.now()
        fresh = now.boot_s - self.view.fresh_at <= self.members.acceptance_limit_s
        if not fresh or not self.members.clock_trusted(now):
            return None
        cuts = self.view.live_cuts(subject)
        if not self._may_list(subject, cuts):
            return None
        issued_ms = int(now.wall_ms - max(0.0, self.members.skew_ms(now)))
        return self.world.new_session(self, subject=subject, cuts=cuts, now_ms=issued_ms, life_ms=self.session_ms, idle_ms=self.idle_ms)

    def renew(self, session: Session) -> Session:
        """The session's next token, dated now: the request that brought the present one was accepted, however long ago."""
        now_ms = int(self.wall_ms())
        idle_end_ms = min(now_ms + self.idle_ms, session.claims.absolute_end_ms)
        return self.world.renewed(session, issued_ms=now_ms, idle_end_ms=idle_end_ms)

    def cycle(self, session: Session) -> None:
        """Have a session take a new id, as a client asks that follows the hints: a refusal means that its old one is good."""
        session.asked = True
        if self.world.variant.denies_first:
            if self._may_cycle(session):
                self._cycle(session)
        else:
            self._await(self.seek(), self._confirmed, session)

    def _confirmed(self, session: Session, found: bool) -> None:
        if found and self._may_cycle(session):
            self._cycle(session)

    def _may_cycle(self, session: Session) -> bool:
        if not isinstance(self.verdict(session, self.view.fresh_at, self.now()), Accept):
            return False
        return self._may_list(session.claims.subject, self._withstood(session))

    def _withstood(self, session: Session) -> tuple[CutId, ...]:
        return self.view.withstood_cuts(session.claims, self.may_lose)

    def _cycle(self, session: Session) -> None:
        session.replacing += 1
        claims = session.claims
        denial = Deny(claims.sid, claims.absolute_end_ms, int(self.wall_ms()))
        self._await(self.deny([denial]), partial(self._cycled, self._withstood(session)), session)

    def _cycled(self, cuts: tuple[CutId, ...], session: Session, durable: bool) -> None:
        if durable or not self.world.variant.denies_first:
            self.world.new_id(session, cuts=cuts)
        else:
            session.replacing -= 1

    def _await(self, holds: Callable[[], bool], then: Callable[[Session, bool], None], session: Session, waited_s: float = 0.0) -> None:
        """Call ``then`` once something holds, or after the time that a client waits."""
        if holds() or waited_s >= DURABLE_S:
            then(session, holds())
        else:
            self.wait(LOOK_AGAIN_S, self._await, holds, then, session, waited_s + LOOK_AGAIN_S)

    # Requests, step by step, with a pause between any two.

    def request(self, session: Session, pauses: tuple[float, float] = (0.0, 0.0), then: Then | None = None) -> None:
        """Answer a request. The world checks the decision, and ``then`` receives it."""
        began = self.world.time

        def done(decision: Decision) -> None:
            walls_ms = (node.wall_ms() for node in self.world.nodes)
            self.world.judge((self.number, self.life), session, began, decision, walls_ms)
            if then is not None:
                then(decision)

        if self.world.variant.reads_late:
            self._look_first(session, pauses, done)
        else:
            self._step(pauses[0], self._read_clocks, session, self.view.fresh_at, pauses[1], done)

    def _step(self, pause_s: float, act: Callable[..., None], *args: object) -> None:
        if pause_s:
            self.wait(pause_s, act, *args)
        else:
            act(*args)

    def _read_clocks(self, session: Session, fresh_at: float, pause_s: float, done: Then) -> None:
        self._step(pause_s, self._decide, session, fresh_at, self.now(), done)

    def _decide(self, session: Session, fresh_at: float, now: Moment, done: Then) -> None:
        decision = self.verdict(session, fresh_at, now)
        # A node that is starting, or whose clock is wrong, validates nothing, and so asks no peer either.
        if isinstance(decision, CannotTell) and isinstance(decision.problem, StateStale | StateNotReached):
            self.wait(IN_FLIGHT_S, self._ask_peers, session, done)
        else:
            done(decision)

    def _look_first(self, session: Session, pauses: tuple[float, float], done: Then) -> None:
        """The broken order: the look-up, then ``fresh_at`` and the clock."""
        first = self.verdict(session, math.inf, self.now())

        def check() -> None:
            now = self.now()
            stale = now.boot_s - self.view.fresh_at > self.members.acceptance_limit_s
            done(CannotTell(StateStale()) if isinstance(first, Accept) and stale else first)

        self._step(pauses[0] + pauses[1], check)

    def verdict(self, session: Session, fresh_at: float, now: Moment) -> Decision:
        """Apply the accept rule, after the checks that precede it."""
        members = self.members
        if self.starting:
            return CannotTell(NodeStarting())
        if not members.clock_trusted(now):
            return CannotTell(ClockUntrusted())
        generation, verified = self.view.generation, session.verified
        if (  # the short way, as the validator goes it
            self.accepted_under.get(verified.claims.sid) is generation
            and verified.from_s <= now.wall_ms / 1000 < verified.until_s
            and now.wall_ms >= self.view.floor_ms
            and now.boot_s - fresh_at <= members.acceptance_limit_s
        ):
            return ACCEPT
        decision = decide(
            verified,
            self.view,
            fresh_at=fresh_at,
            boot_s=now.boot_s,
            wall_ms=now.wall_ms,
            freshness_limit_s=members.acceptance_limit_s,
        )
        if decision is ACCEPT:
            self.accepted_under[verified.claims.sid] = generation
        return decision

    # Look-ups.

    def _ask_peers(self, session: Session, done: Then) -> None:
        """Retry after entries in flight, then ask a peer: keep only its "revoked", never its yes."""
        decision = self.verdict(session, self.view.fresh_at, self.now())
        if not isinstance(decision, CannotTell) or not isinstance(decision.problem, StateStale | StateNotReached):
            done(decision)
            return
        if isinstance(decision.problem, StateStale) and self.yes_until.get(session.claims.sid, -math.inf) >= self.now().boot_s:
            done(Accept())
            return
        open_ = [True]

        def answered(said: Decision, lease_left_s: float) -> None:
            if not open_[0]:
                return
            open_[0] = False
            if isinstance(said, Accept) and self.world.variant.keeps_yes:
                self.yes_until[session.claims.sid] = self.now().boot_s + lease_left_s
            if isinstance(said, Refuse):
                # Final, so it is taken into the view: the next peer asked may not have heard of it, and say yes.
                replaced_ms = int(self.wall_ms()) if isinstance(said.problem, SessionSuperseded) else 0
                self.apply([Deny(session.claims.sid, session.claims.absolute_end_ms, replaced_ms)])
            own = self.verdict(session, self.view.fresh_at, self.now())
            # Entries learned during the look-up outweigh a yes.
            done(own if isinstance(own, Refuse) else denial(session.verified, self.view) or said)

        def give_up() -> None:
            if open_[0]:
                open_[0] = False
                done(decision)

        for peer in self.peers:
            self.world.send(self, peer, peer._on_question, session, self, answered)
        self.wait(LOOK_UP_S, give_up)

    def _on_question(self, session: Session, asker: Node, answered: Callable[..., None]) -> None:
        fresh_at, now = self.view.fresh_at, self.now()
        decision = self.verdict(session, fresh_at, now)
        lease_left_s = fresh_at + self.members.acceptance_limit_s - now.boot_s
        final = isinstance(decision, Refuse) and isinstance(decision.problem, SessionRevoked | SessionSuperseded)
        if isinstance(decision, Accept) or final:
            self.world.send(self, asker, answered, decision, lease_left_s)
