"""Random histories of whole nodes on etcd: etcd, the ways to it, processes and clocks fail while people log in and out.

The simulation does that with the state machine alone; here are the real managers, drivers, gateways and middlewares, on an etcd in
memory whose members freeze, end, lag and elect each other, on clocks that drift by 1 % and step by an hour.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from ha_session_mw.abc import Receipt
from ha_session_mw.backends.etcd.log import EtcdLog
from ha_session_mw.testing import Link, Node

from ..backends.etcd.fake_cluster import EtcdCluster
from ..histories.app import app
from .history import IDLE_S, History, comes_to_light, history, replay, seeds

pytestmark = [pytest.mark.anyio, pytest.mark.one_library, pytest.mark.long, pytest.mark.usefixtures("one_order_for_a_seed")]

TROUBLE_S = 20.0
HEALED_WITHIN_S = 12.0
"""A watch that is silent is given up after 3 s, a log-out waits for processes that were killed for as long as a lease, 5.15 s, and
failed writes are retried at once."""
EVENTS = (
    *("cut from etcd", "cut from etcd", "cut one way", "cut from half", "slow", "cut from peers", "heal", "heal", "heal all"),
    *("kill", "stop", "kill several", "freeze", "freeze", "clock"),
    *("elect", "elect", "freeze a member", "kill a member", "part a member", "lag", "compact", "compact", "silent"),
    *("heal etcd", "heal etcd"),
)
NEEDS_THE_FENCE = 4
"""A history in which a session is used elsewhere right after a log-out of it was acknowledged, while nodes are cut off."""


class EtcdHistory(History):
    """One random history of three or four nodes, some of which may be workers of one machine for all that etcd can tell."""

    trouble_s = TROUBLE_S
    healed_within_s = HEALED_WITHIN_S

    def __init__(self, seed: int, folder: Path) -> None:
        dice = Random(f"etcd {seed}")
        names = "abcd"[: dice.choice((3, 3, 4))]
        cluster = EtcdCluster(names, app=app, seed=seed, protect="/private*", idle_timeout=IDLE_S)
        self.nodes_on_etcd, self.etcd = cluster, cluster.etcd
        self.fills = Random(f"full {seed}")
        for node in cluster.nodes:
            node.settings.update(state_dir=str(folder / node.name))
        super().__init__(dice, cluster)
        self.loss = dice.choice((0.0, 0.0, 0.01, 0.05))
        self.duplication = dice.choice((0.0, 0.05))
        self.jitter_s = dice.choice((0.0, 0.0, 0.003, 0.05))

    def _begin_trouble(self) -> None:
        for node in self.cluster.nodes:
            for link in self.etcd.links_of(node):
                link.loss, link.duplication, link.jitter_s = self.loss, self.duplication, self.jitter_s

    async def _something_happens(self) -> None:
        dice, etcd = self.dice, self.etcd
        if self.fills.random() < 0.15:
            etcd.state.is_full = not etcd.state.is_full
            self.trace.append((round(self.cluster.passed_s, 6), "full" if etcd.state.is_full else "room"))
        node, member = dice.choice(self.cluster.nodes), dice.choice(etcd.members)
        links = etcd.links_of(node)
        what = dice.choice(EVENTS)
        self.trace.append((round(self.cluster.passed_s, 6), what, node.name, member.name))
        match what:
            case "cut from etcd":
                _cut(links)
            case "cut one way":
                _cut(links[dice.randrange(2) :: 2])
            case "cut from half":
                _cut(dice.sample(links, len(links) // 2))
            case "cut from peers":
                self.cluster.cut(node)
            case "slow":
                dice.choice(links).delay_s = dice.choice((0.01, 0.2, 0.7))
            case "heal":
                _heal(links)
                self.cluster.heal(node)
            case "heal all":
                for each in self.cluster.nodes:
                    _heal(etcd.links_of(each))
            case "clock" if node.running and node.why_not_ready is None:  # else it may never have heard anybody, and must believe itself
                self._set_clock_wrong(node)
            case "freeze":
                node.freeze() if node.running and not node.frozen else node.thaw()
            case "kill several":
                for each in dice.sample(self.cluster.nodes, dice.randrange(2, len(self.cluster.nodes) + 1)):
                    await self._end_or_start(each, "kill")
            case "kill" | "stop":
                await self._end_or_start(node, what)
            case _:
                self._something_happens_to_etcd(what, member.name)

    def _something_happens_to_etcd(self, what: str, name: str) -> None:
        etcd = self.etcd
        member = next(member for member in etcd.members if member.name == name)
        match what:
            case "elect":
                etcd.elect(self.dice.uniform(0.5, 3))
            case "freeze a member":
                member.freeze()
            case "kill a member":
                member.kill()
            case "part a member":
                member.part()
            case "lag":
                member.lag_s = self.dice.choice((0.05, 0.5, 3.0)) * self.dice.random()
            case "compact":
                etcd.compact()
            case "silent":
                member.silent = True
            case "heal etcd":
                for each in etcd.members:
                    each.heal()

    async def _end_or_start(self, node: Node, how: str) -> None:
        if node.running:
            self.trace.append((how, node.name))
            await (self.nodes_on_etcd.kill(node) if how == "kill" else self.nodes_on_etcd.stop(node))
            return
        if node in self._wrong_clocks:  # a node that starts alone with a wrong clock cannot notice that
            node.clock.step_wall(-self._wrong_clocks[node])
            self._wrong_clocks[node] = 0.0
        await node.start()

    async def _mend(self) -> None:
        self.etcd.heal()
        for node in self.cluster.nodes:
            self.cluster.heal(node)
        await super()._mend()


def _cut(links: list[Link]) -> None:
    for link in links:
        link.cut = True


def _heal(links: list[Link]) -> None:
    """End the faults of single links. They lose and double as before."""
    for link in links:
        link.cut, link.delay_s = False, 0.0


class ShortEtcdHistory(EtcdHistory):
    """Long enough to tell two apart."""

    trouble_s = 10.0


@pytest.mark.parametrize("seed", seeds(2))
async def test_under_random_faults_every_answer_is_right(seed: int, tmp_path: Path) -> None:
    found = await history(EtcdHistory, seed, tmp_path)
    assert found.faults == []
    assert found.seen["served"] > 20


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
def test_a_seed_replays(tmp_path: Path) -> None:
    first, second = replay(ShortEtcdHistory, 0, tmp_path)
    assert len(first) > 100
    assert first == second


async def no_fence(log: EtcdLog, receipt: Receipt) -> None: ...


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_the_fence_it_comes_to_light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EtcdLog, "fence", no_fence)
    assert await comes_to_light("accepted after a fenced acknowledgement", EtcdHistory, NEEDS_THE_FENCE, tmp_path)
