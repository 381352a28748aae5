"""Validate a token of which this node alone cannot tell: wait for news in flight, then ask peers. How far a peer's answer counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .._core.accept_rule import CannotTell, Refuse
from .._core.cluster.routing import nearest
from .._core.token.tokens import Verified
from ..abc import Clock, ClusterLog
from ..config import Settings
from ..exceptions import (
    ClockUntrusted,
    KeyNotReached,
    NodeDraining,
    NodeStarting,
    ProblemError,
    SessionRevoked,
    SessionSuperseded,
    StateNotReached,
    StateRollback,
)
from ..models import Deny
from .validation import TokenValidator

if TYPE_CHECKING:
    from ..events import RecoveredFrom
    from .lookups import Answer, LookUps

IN_FLIGHT_S = 0.075
"""How long a request waits for news in flight before peers are asked: some round trips, and less than a person notices."""
LEARN_HEARTBEATS = 3
"""How many heartbeats a request waits until this node knows all log-outs of a moment. A round trip or the next heartbeat proves that."""


class Resolver:
    """Learns what a node needs to validate a token. Call :meth:`follow` first.

    Args:
        validator: validates by what this node knows.
        settings: at which URL peers reach this node, and how often heartbeats come.
        clock: ends the waiting.
        recover: receives the family of each session that was validated by others' knowledge, and whose.
    """

    def __init__(
        self, validator: TokenValidator, settings: Settings, clock: Clock, *, recover: Callable[[str, RecoveredFrom], None]
    ) -> None:
        self._validator = validator
        self._clock = clock
        self._boot_s, self._wall_s = clock.boot_s, clock.wall_s
        self._own_url = settings.advertise_url or ""
        self._learn_limit_s = LEARN_HEARTBEATS * settings.heartbeat
        self._recover = recover

    def follow(self, log: ClusterLog, *, hears_others: bool, look_ups: LookUps | None) -> None:
        """Learn from this log from now on.

        Args:
            log: brings the view up to date.
            hears_others: whether a request that waits may learn from other nodes.
            look_ups: asks peers; None without peers.
        """
        self._log = log
        self._hears_others = hears_others
        self._look_ups = look_ups

    async def resolve(self, token: bytes, undecided: CannotTell) -> Verified:
        """Validate a token that this node could not validate at first: wait for news in flight, then ask peers.

        Args:
            token: the token.
            undecided: the first outcome.

        Raises:
            ProblemError: the session is not valid, or its validity still cannot be known.
        """
        problem = undecided.problem
        if not self._hears_others or isinstance(problem, NodeStarting | NodeDraining | StateRollback | ClockUntrusted):
            raise problem
        if not isinstance(problem, KeyNotReached):  # such a token is not verified, and a made-up one must cause no calls
            self._log.seek_news()
        with self._clock.move_on_after(IN_FLIGHT_S):
            while True:
                await self._log.wait_changed()
                outcome = self._validator.validate(token)
                if isinstance(outcome, Verified):
                    self._recover(outcome.family, "log")
                    return outcome
        if self._look_ups is None:
            raise problem
        begun_s = self._boot_s()
        answer = await self._look_ups.ask(token, self._whom_to_ask(token, problem))
        self._validator.durations["peer"].observe(self._boot_s() - begun_s)
        # News that came while the question was under way outweigh a yes.
        outcome = self._validator.validate(token)
        if isinstance(outcome, Verified):
            self._recover(outcome.family, "log")
            return outcome
        if answer is None:
            raise outcome.problem
        return self._apply_answer(token, answer, outcome.problem)

    def _whom_to_ask(self, token: bytes, problem: ProblemError) -> list[str]:
        """Return the URLs of the issuing node and then of the session's owners; if the key is missing here, of those that announce it."""
        _, sid, kid, *_ = token.decode("ascii").split(".")
        verified = self._validator.verify(token)
        members = self._log.members()
        if isinstance(problem, KeyNotReached):
            members = [member for member in members if kid in member.kids]
        return nearest(sid, members, issuer=verified.issuer if verified else None, but=self._own_url)

    def _apply_answer(self, token: bytes, answer: Answer, problem: ProblemError) -> Verified:
        verified = self._validator.verify(token)
        if answer.says == "revoked":
            # Final, so the view takes it: the next peer asked may not have heard of the log-out, and say yes.
            replaced_ms = int(self._wall_s() * 1000) if answer.superseded else 0
            if verified is not None:
                denied = Deny(verified.sid, verified.claims.absolute_end_ms, replaced_ms)
            else:
                denied = Deny(token.split(b".")[1].decode(), self._log.unknown_end_ms(), replaced_ms)
            self._log.apply([denied])
            if answer.superseded:
                raise SessionSuperseded("a peer says so", check="superseded")
            raise SessionRevoked("a peer says so", check="denied")
        if verified is None and answer.claims is not None and answer.kid is not None:
            verified = Verified.of(answer.claims, answer.kid)
        if answer.says != "yes" or verified is None:
            raise problem
        # A token that could not be verified here has not been checked against this node's view, either.
        decision = self._validator.revalidate(verified)
        if isinstance(decision, Refuse):
            raise decision.problem
        self._validator.by_peers += 1
        self._recover(verified.family, "peer")
        return verified

    async def learn_all(self) -> None:
        """Return once this node knows each log-out that was durable before the call.

        Raises:
            StateNotReached: it does not learn of them in time.
        """
        begun_s = self._boot_s()
        with self._clock.move_on_after(self._learn_limit_s):
            while self._validator.fresh_at() < begun_s:
                self._log.seek_news()
                await self._log.wait_changed()
        if self._validator.fresh_at() < begun_s:
            raise StateNotReached("the store has lost a record, and a log-out may be on its way that has deleted it", check="fresh")

    async def catch_up(self, index: str) -> None:
        """Return once this node knows everything that the node of an index knew.

        Raises:
            StateNotReached: this node does not know it within the time that a client should wait.
        """
        with self._clock.move_on_after(IN_FLIGHT_S):
            while not self._log.has_reached(index):
                await self._log.wait_changed()
        if not self._log.has_reached(index):
            raise StateNotReached("the client has seen a later state than this node", check="cuts_known")
