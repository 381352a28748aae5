"""Why an entry lives as long as it does: the stories of docs/explanation/accept-rule.md, in which a shorter life revives a session.

For the simulation alone. The real nodes have no rule to shorten.
"""

from __future__ import annotations

from collections.abc import Callable

from ha_session_mw._core.cluster.proven_lead import PROVEN_AFTER_S
from ha_session_mw._core.cluster.view import END_STEP_MS, FLOOR_MARGIN_MS

from .directed import ask_for, isolate, log_in
from .quorum_node import QuorumWorld
from .quorum_schedules import cluster
from .quorum_variants import QuorumVariant
from .world import HOUR_MS, Session, around

IDLE_MS = 90_000
MARGIN_MS = 60_000
SHORT_LIVED = QuorumVariant("denials end after the idle timeout", denial_ms=IDLE_MS + MARGIN_MS)
"""What would save memory: no node issues a token of a session that is logged out, so it could be forgotten once its tokens are idle."""
NOT_REPEATED = QuorumVariant("a repeated cut is dropped", drops_repeated_cuts="this")
NOT_REPEATED_IF_ALL_AGREE = QuorumVariant("a repeated cut is dropped if all nodes say so", drops_repeated_cuts="each")

FORGOTTEN_S = (IDLE_MS + MARGIN_MS + END_STEP_MS + FLOOR_MARGIN_MS) / 1000 + 1
"""Seconds after a log-out at which every node has dropped a denial that ends after the idle timeout and the margin."""


def _begin(variant: QuorumVariant) -> tuple[QuorumWorld, Session]:
    world = cluster(3, variant)
    for node in world.nodes:
        node.idle_ms = IDLE_MS
    return world, log_in(world.nodes[0])


def _present(world: QuorumWorld, session: Session) -> None:
    for node in world.nodes:
        ask_for(world, node, session, 0.1)


def a_longer_idle_timeout_before(variant: QuorumVariant) -> QuorumWorld:
    """An operator has shortened the idle timeout from an hour to a minute and a half. The token is from before."""
    world, _ = _begin(variant)
    world.nodes[0].idle_ms = HOUR_MS
    session = log_in(world.nodes[0])
    world.nodes[0].idle_ms = IDLE_MS
    world.nodes[1].revoke(session)
    world.run(FORGOTTEN_S)
    _present(world, session)
    return world


def clocks_that_go_back(variant: QuorumVariant) -> QuorumWorld:
    """All clocks are an hour ahead, for so long that they are trusted, and are set right."""
    world, session = _begin(variant)
    world.nodes[1].revoke(session)
    world.run(1)
    for node in world.nodes:
        node.step_wall(HOUR_MS)
    world.run(5 + PROVEN_AFTER_S)
    for node in world.nodes:
        node.set_clock()
    world.run(5)  # they hear each other's clocks
    _present(world, session)
    return world


def a_request_that_takes_long(variant: QuorumVariant) -> QuorumWorld:
    """Node 2 accepts a request and loses contact. Its answer, minutes later, carries a token that node 2 dates only then.

    A thread that stops between the decision and the date does the same in contact: what dates the token is past the decision.
    """
    world, session = _begin(variant)
    world.nodes[2].request(session)
    assert world.findings.accepted
    isolate(world, 2)
    world.nodes[1].revoke(session)
    world.run(FORGOTTEN_S)
    late = world.nodes[2].renew(session)
    _present(world, late)
    return world


def a_node_that_was_away_for_longer(variant: QuorumVariant) -> QuorumWorld:
    """Node 2 serves an open WebSocket of the session, and is out of contact from before its log-out until after its denial."""
    world, session = _begin(variant)
    world.nodes[2].request(session)
    isolate(world, 2)
    world.nodes[1].revoke(session)
    world.run(FORGOTTEN_S)
    world.mend(*around(2, len(world.nodes)))
    world.run(3)
    assert world.nodes[2].is_ready()
    return world


def an_open_connection_ends(world: QuorumWorld) -> bool:
    """Whether node 2 has heard of the log-out, which is what ends a WebSocket."""
    return world.sessions[0].claims.sid in world.nodes[2].view.denied


REVIVED: tuple[Callable[[QuorumVariant], QuorumWorld], ...] = (
    a_longer_idle_timeout_before,
    clocks_that_go_back,
    a_request_that_takes_long,
)


def a_log_in_elsewhere(variant: QuorumVariant) -> QuorumWorld:
    """After the first log-out everywhere the subject logs in at node 1, and node 0 is to log it out again."""
    world = cluster(3, variant)
    world.cut_subject(world.nodes[0], "somebody")
    world.run(1)
    session = log_in(world.nodes[1])
    world.cut_subject(world.nodes[0], "somebody")
    world.run(1)
    _present(world, session)
    return world


def a_node_that_has_started_anew(variant: QuorumVariant) -> QuorumWorld:
    """The same, and node 1 was restarted in between: it no longer knows that it has issued a session."""
    world = cluster(3, variant)
    world.cut_subject(world.nodes[0], "somebody")
    world.run(1)
    session = log_in(world.nodes[1])
    world.nodes[1].crash()
    world.nodes[1].start()
    world.run(3)
    world.cut_subject(world.nodes[0], "somebody")
    world.run(1)
    _present(world, session)
    return world
