"""Random histories of whole nodes that are peers: links, processes and clocks fail while people log in and out.

The simulation does that with the state machines alone; here are the real managers, drivers, look-ups and middlewares, on
asyncio and trio: on links that lose, double, reorder and delay, on clocks that drift by 1 % and step by an hour, with nodes
that freeze, crash and come back, several at once, and requests that are paused between the steps of the accept rule.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._node.validation import TokenValidator
from ha_session_mw.abc import Receipt
from ha_session_mw.backends.peers.log import QuorumLog
from ha_session_mw.manager import node_of
from ha_session_mw.testing import Cluster, Link, Node

from ..histories.app import app
from ..inside import quorum_log_of
from .history import IDLE_S, History, comes_to_light, guesses, history, replay, seeds
from .whole import decides_late

pytestmark = [pytest.mark.anyio, pytest.mark.one_library, pytest.mark.long, pytest.mark.usefixtures("one_order_for_a_seed")]

HEALED_WITHIN_S = 10.0
"""A poll on a dead link is given up after 1 s and tried again within another, a restarted node learns in two rounds of polls,
every log-out's wait ends within a fence, and provisional log-outs are retried each second."""
EVENTS = (
    *("cut", "cut one way", "cut off", "part", "heal", "heal", "heal all", "slow", "garbled"),
    *("kill", "stop", "kill several", "freeze", "freeze", "clock"),
)
NEEDS_THE_FENCE = 1
"""A history in which a session is used elsewhere right after a log-out of it was acknowledged, while links are cut."""
NEEDS_AN_HONEST_NODE = 1
"""A history in which a session is used on a node that is out of contact."""
NEEDS_THE_RIGHT_ORDER = 17
"""A history in which a node is back in contact while a request is paused between the steps of the accept rule."""


class PeersHistory(History):
    """One random history of peers."""

    healed_within_s = HEALED_WITHIN_S

    def __init__(self, seed: int, folder: Path) -> None:
        dice = Random(f"history {seed}")
        names = "abcde"[: dice.choice((3, 3, 3, 4, 5))]
        cluster = Cluster(names, app=app, seed=seed, protect="/private*", idle_timeout=IDLE_S)
        self.files = dice.choice((0, 0, 1, len(names)))
        for node in cluster.nodes[: self.files]:
            node.settings.update(cluster=f"peers://{folder}/{node.name}.log")
        for node in cluster.nodes:
            node.settings.update(state_dir=str(folder / node.name))
        super().__init__(dice, cluster)
        self.loss = dice.choice((0.0, 0.0, 0.02, 0.1))
        self.duplication = dice.choice((0.0, 0.1))
        self.jitter_s = dice.choice((0.0, 0.003, 0.03, 0.3))

    def _begin_trouble(self) -> None:
        for link in self._links():
            link.loss, link.duplication, link.jitter_s = self.loss, self.duplication, self.jitter_s

    def _check_invariants(self) -> None:
        for node in self.cluster.nodes:
            if node.running:
                quorum_log_of(node.manager).quorum.check(Moment(node.clock.boot_s(), node.clock.wall_s() * 1000))

    # Faults

    async def _something_happens(self) -> None:
        one, other = self.dice.sample(self.cluster.nodes, 2)
        link = self.cluster.link(one, other)
        match self.dice.choice(EVENTS):
            case "cut":
                self.cluster.cut(one, other)
            case "cut one way":
                link.cut = True
            case "cut off":
                self.cluster.cut(one)
            case "part":
                self._part()
            case "heal":
                self.cluster.heal(one)
            case "heal all":
                self._heal_links()
            case "slow":
                link.delay_s = self.dice.choice((0.01, 0.2, 0.7))
            case "garbled":
                link.garbles, link.replays = self.dice.choice(((True, False), (False, True)))
            case "clock":
                self._set_clock_wrong(one)
            case "freeze":
                one.freeze() if one.running and not one.frozen else one.thaw()
            case "kill several":
                for node in self.dice.sample(self.cluster.nodes, self.dice.randrange(2, len(self.cluster.nodes) + 1)):
                    await self._end_or_start(node, "kill")
            case "kill" | "stop" as how:
                await self._end_or_start(one, how)

    def _part(self) -> None:
        """The nodes fall apart into two sides that do not hear each other."""
        nodes = self.cluster.nodes
        side = self.dice.sample(nodes, self.dice.randrange(1, len(nodes)))
        for node in side:
            if others := [other for other in nodes if other not in side]:
                self.cluster.cut(node, *others)

    async def _end_or_start(self, node: Node, how: str) -> None:
        if not node.running:
            await node.start()
        elif self._may_forget(node):
            await self._end(node, how)

    def _may_forget(self, node: Node) -> bool:
        """Return whether this node may end: no promise covers a majority that forgets at once."""
        nodes = self.cluster.nodes
        if nodes.index(node) < self.files:
            return True
        forgetful = sum(not other.running or node_of(other.manager).log.is_starting() for other in nodes[self.files :] if other is not node)
        return forgetful + 1 < len(nodes) // 2 + 1

    def _links(self) -> list[Link]:
        return [self.cluster.link(one, other) for one in self.cluster.nodes for other in self.cluster.nodes]

    def _heal_links(self) -> None:
        """End the faults of single links. They lose, double and reorder as before."""
        for link in self._links():
            link.cut = link.garbles = link.replays = False
            link.delay_s = 0.0

    async def _mend(self) -> None:
        for link in self._links():
            link.mend()
        await super()._mend()


class ShortPeersHistory(PeersHistory):
    """Long enough to tell two apart."""

    trouble_s = 10.0


@pytest.mark.parametrize("seed", seeds(2))
async def test_under_random_faults_every_answer_is_right(seed: int, tmp_path: Path) -> None:
    found = await history(PeersHistory, seed, tmp_path)
    assert found.faults == []
    assert found.seen["served"] > 20


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
def test_a_seed_replays(tmp_path: Path) -> None:
    first, second = replay(ShortPeersHistory, 0, tmp_path)
    assert len(first) > 100
    assert first == second


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_the_fence_it_comes_to_light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_fence(log: QuorumLog, receipt: Receipt) -> None: ...

    monkeypatch.setattr(QuorumLog, "fence", no_fence)
    assert await comes_to_light("accepted after a fenced acknowledgement", PeersHistory, NEEDS_THE_FENCE, tmp_path)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_node_that_guesses_comes_to_light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a node that cannot tell said that the session is over."""
    monkeypatch.setattr("ha_session_mw._node.validation.decide", guesses)
    assert await comes_to_light("refused without a cause", PeersHistory, NEEDS_AN_HONEST_NODE, tmp_path)


@pytest.mark.prove  # in make test a directed schedule catches this, on the same nodes
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_freshness_that_is_read_after_the_look_up_comes_to_light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenValidator, "_decide", decides_late)
    assert await comes_to_light("accepted after a fenced acknowledgement", PeersHistory, NEEDS_THE_RIGHT_ORDER, tmp_path)
