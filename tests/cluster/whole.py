"""The world of the directed schedules with real nodes in it: manager, quorum log, look-ups and the calls between nodes.

The schedules were written for the simulation (``tests/simulation``) and know no difference: so each rule, and each broken
variant of one, is shown to be what it is there for in the code that runs in production, too.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from ha_session_mw import SessionManager
from ha_session_mw._core.accept_rule import ACCEPT, CannotTell, Decision, Refuse, decide
from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.cluster.view import View, new_cut_id
from ha_session_mw._core.quorum.log import Quorum
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw._node import revocation
from ha_session_mw._node.lookups import Answer, LookUps
from ha_session_mw._node.validation import TokenValidator
from ha_session_mw.backends.peers.log import QuorumLog
from ha_session_mw.exceptions import ClientFault, InfrastructureFault, QuorumLost, StateStale
from ha_session_mw.manager import node_of
from ha_session_mw.models import Acknowledgement
from ha_session_mw.testing import Cluster, Node

from ..inside import quorum_log_of
from ..simulation.node import HEARTBEAT_S, LIMIT_S, LONGEST_MS
from ..simulation.quorum_variants import QuorumVariant
from ..simulation.variants import KeepsGeneration
from ..simulation.world import Judge, Session, SubjectCut, Way
from .steps import SteppedClock, check_with_pauses

Act = Callable[..., Coroutine[Any, Any, None]]

LEAST_S = 0.001
"""How long a message takes, as in the simulation."""
RETRY_S = 0.1
"""How long after a log-out for which there was no quorum it is tried again."""


class WholeNode:
    """A node of the cluster, as the schedules speak to it."""

    def __init__(self, world: Whole, number: int, node: Node) -> None:
        self.world = world
        self.number = number
        self.node = node
        self.session_ms = LONGEST_MS
        self._stepped_s = 0.0

    @property
    def manager(self) -> SessionManager:
        return self.node.manager

    @property
    def log(self) -> QuorumLog:
        return quorum_log_of(self.manager)

    @property
    def quorum(self) -> Quorum:
        return self.log.quorum

    @property
    def view(self) -> View:
        return node_of(self.manager).view

    def start(self) -> None:
        self.world.portal.call(self.node.start)

    def crash(self) -> None:
        self.world.portal.call(self.node.kill)

    def leave(self) -> None:
        self.world.begin(self.log.leave)

    def step_wall(self, step_ms: float) -> None:
        self._stepped_s += step_ms / 1000
        self.node.clock.step_wall(step_ms / 1000)

    def set_clock(self) -> None:
        self.step_wall(-self._stepped_s * 1000)

    def holds_poll_of(self, other: int) -> bool:
        return any(hold.peer == self.world.nodes[other].node.url for hold in self.quorum.held)

    def log_in(self) -> Session | None:
        return self.world.portal.call(self._log_in)

    def _log_in(self) -> Session | None:
        manager = self.manager
        try:
            node_of(manager).validator.ensure_fresh()
        except InfrastructureFault:
            return None
        claims = node_of(manager).issuer.issue("somebody")
        end_ms = claims.issued_ms + self.session_ms
        token = node_of(manager).sign(msgspec.structs.replace(claims, idle_end_ms=end_ms, absolute_end_ms=end_ms))
        verified = node_of(manager).validator.verify(token)
        assert verified is not None
        session = self.world.add_session(verified)
        self.world.tokens[session] = token
        return session

    def revoke(self, session: Session) -> None:
        self.world.begin(self.log_out, [session], node_of(self.manager).revoker.revoke_session, session.claims)

    async def log_out(self, hit: Sequence[Session | SubjectCut], revoke: Callable[..., Awaitable[Acknowledgement]], *args: Any) -> None:
        """Log out, and retry while there is no quorum, as the refusal tells a client to do."""
        process = self.manager
        for one in hit:
            one.revoked = True
        while self.node.running and process is self.manager:
            try:
                await revoke(*args)
            except QuorumLost:
                await self.world.cluster.sleep(RETRY_S)
                continue
            for one in hit:
                one.fenced_at = min(one.fenced_at, self.world.time)
            return

    def request(self, session: Session, pauses: tuple[float, float] = (0.0, 0.0)) -> None:
        self.world.begin(self._request, session, pauses)

    async def _request(self, session: Session, pauses: tuple[float, float]) -> None:
        began, process, life = self.world.time, self.manager, self.node._starts
        decision = await self._decide(process, self.world.tokens[session], pauses)
        if self.node.running and process is self.manager:  # otherwise the process that would answer has ended
            walls_ms = [other.node.clock.wall_s() * 1000 for other in self.world.nodes]
            self.world.judge((self.number, life), session, began, decision, walls_ms)

    async def _decide(self, process: SessionManager, token: bytes, pauses: tuple[float, float]) -> Decision:
        node_of(process).validator._missed.begin()  # the first one would be measured, and read a clock once more than others
        try:
            outcome = await check_with_pauses(process, token, pauses, self.world.cluster.sleep)
            if isinstance(outcome, CannotTell):
                await node_of(process).resolver.resolve(token, outcome)
        except ClientFault as problem:
            return Refuse(problem)
        except InfrastructureFault as problem:
            return CannotTell(problem)
        return ACCEPT


class Whole(Judge):
    """Real nodes on clocks that stand still but in :meth:`run`."""

    least_pause_s = 0.04

    def __init__(self, portal: BlockingPortal, cluster: Cluster, *, slow_clock: int | None) -> None:
        super().__init__()
        self.portal = portal
        self.cluster = cluster
        self.tokens: dict[Session, bytes] = {}
        self.nodes = [WholeNode(self, number, node) for number, node in enumerate(cluster.nodes)]
        for node in self.nodes:
            node.node.clock = SteppedClock()
            if slow_clock is not None:
                node.node.clock.rate = 0.99 if node.number == slow_clock else 1.01
        self.slow(*((one, other) for one in range(len(self.nodes)) for other in range(len(self.nodes))), by_s=0.0)

    @property
    def time(self) -> float:  # type: ignore[override]
        return self.cluster.passed_s

    def run(self, seconds: float) -> None:
        self.portal.call(self.cluster.advance, seconds)
        for node in self.nodes:
            if node.node.running and type(node.quorum) is Quorum:  # a broken rule is to be caught by its schedule
                node.quorum.check(Moment(node.node.clock.boot_s(), node.node.clock.wall_s() * 1000))

    def begin(self, act: Act, *args: Any) -> None:
        """Have something happen by itself, up to where it waits for something."""
        self.portal.call(self._begin, act, *args)

    async def _begin(self, act: Act, *args: Any) -> None:
        self.cluster._network.tasks.start_soon(act, *args)
        await self.cluster.settle()

    def cut(self, *ways: Way) -> None:
        self._set_cut(ways, cut=True)

    def mend(self, *ways: Way) -> None:
        self._set_cut(ways, cut=False)

    def _set_cut(self, ways: Sequence[Way], *, cut: bool) -> None:
        for one, other in ways:
            self.cluster.link(self.nodes[one].node, self.nodes[other].node).cut = cut

    def slow(self, *ways: Way, by_s: float) -> None:
        for one, other in ways:
            self.cluster.link(self.nodes[one].node, self.nodes[other].node).delay_s = LEAST_S + by_s

    def cut_subject(self, node: WholeNode, subject: str) -> None:
        cut = SubjectCut(subject, self.time)
        self.cuts.append(cut)
        self.begin(node.log_out, [*self.hit_by(subject, but=None), cut], node.manager.revoke_subject, subject)


@contextmanager
def whole(nodes: int, *, slow_clock: int | None = None) -> Iterator[Whole]:
    """A cluster of real nodes that has just become ready."""
    with start_blocking_portal("asyncio") as portal:
        cluster = portal.call(partial(Cluster, "abcdefghi"[:nodes], freshness_limit=LIMIT_S, heartbeat=HEARTBEAT_S))
        world = Whole(portal, cluster, slow_clock=slow_clock)
        with portal.wrap_async_context_manager(cluster):
            portal.call(cluster.ready)
            world.run(1)
            yield world


def follow(variant: QuorumVariant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all nodes go by other rules."""
    monkeypatch.setattr("ha_session_mw.backends.peers.log.Quorum", variant.quorum)
    if dated_ms := variant.cut_dated_ms:
        monkeypatch.setattr(revocation, "new_cut_id", lambda text, until_ms, made_ms: new_cut_id(text, until_ms, made_ms + dated_ms))
    if variant.keeps_generation:
        monkeypatch.setattr("ha_session_mw._node.wiring.View", KeepsGeneration)
    if variant.reads_late:
        monkeypatch.setattr(TokenValidator, "_decide", decides_late)
    if variant.keeps_yes:
        monkeypatch.setattr(LookUps, "ask", KeepsYes(LookUps.ask))


_decide = TokenValidator._decide


def decides_late(validator: TokenValidator, verified: Verified, fresh_at: float, wall_ms: float) -> Verified | CannotTell:
    """The broken order: the look-up first, then a clock and ``fresh_at``."""
    if decide(verified, validator._view, math.inf, 0.0, wall_ms, math.inf) is not ACCEPT:
        return _decide(validator, verified, fresh_at, wall_ms)
    boot_s = validator._boot_s()
    is_fresh = boot_s - validator._view.fresh_at <= validator._log.freshness_limit_s
    return verified if is_fresh else CannotTell(StateStale())


class KeepsYes:
    """Takes a peer's yes for an answer for as long as a lease lasts, which may have begun a moment ago."""

    def __init__(self, ask: Callable[..., Awaitable[Answer | None]]) -> None:
        self._ask = ask
        self._kept: dict[tuple[LookUps, bytes], tuple[Answer, float]] = {}

    def __get__(self, look_ups: LookUps, _: object) -> Callable[..., Awaitable[Answer | None]]:
        async def ask(token: bytes, peers: Sequence[str]) -> Answer | None:
            answer, until_s = self._kept.get((look_ups, token), (None, 0.0))
            if answer is None or until_s < look_ups._asking._clock.boot_s():
                answer = await self._ask(look_ups, token, peers)
                if answer is not None and answer.says == "yes":
                    self._kept[look_ups, token] = answer, look_ups._asking._clock.boot_s() + LIMIT_S
            return answer

        return ask
