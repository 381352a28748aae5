"""Trouble for the nodes of a drill: nodes are killed one after the other, the leader of etcd once, and one node is cut off for a while."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
from anyio import to_thread

from example_app.etcd import Member, leader
from example_app.proxy import Proxy
from example_app.servers import Server


@dataclass
class Trouble:
    """The trouble of one drill.

    Attributes:
        nodes: the nodes.
        members: the members of etcd.
        way_of_last: how the last node reaches etcd.
        every_s: seconds between two kills.
        leader_at_s, cut_at_s: when the leader is killed, and the last node is cut off; None for never.
        cut_for_s: how long.
        kills: when a node was killed.
        away_s: how long each was away: until it was ready again.
        stalls: when the last node was cut off, and when it was no longer.
    """

    nodes: Sequence[Server]
    members: Sequence[Member]
    way_of_last: Proxy
    every_s: float
    leader_at_s: float | None = None
    cut_at_s: float | None = None
    cut_for_s: float = 10.0
    kills: list[float] = field(default_factory=list)
    away_s: list[float] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)

    async def make(self, seconds: float) -> None:
        """Make trouble for a time; return once all is mended."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._kill_nodes, seconds)
            if self.leader_at_s is not None:
                tasks.start_soon(self._kill_leader, self.leader_at_s)
            if self.cut_at_s is not None:
                tasks.start_soon(self._cut_off, self.cut_at_s)
        for node in self.nodes:
            await to_thread.run_sync(node.wait_until_ready)

    @property
    def _is_cut_off(self) -> bool:
        return len(self.stalls) == 1

    async def _kill_nodes(self, seconds: float) -> None:
        begun_s = time.monotonic()
        turn = 0
        for number in range(1, int(seconds / self.every_s)):
            await anyio.sleep(max(0.0, begun_s + number * self.every_s - time.monotonic()))
            if self._is_cut_off and turn % len(self.nodes) == len(self.nodes) - 1:
                turn += 1  # the last one is in trouble already
            await to_thread.run_sync(self._kill_and_start, self.nodes[turn % len(self.nodes)])
            turn += 1
        await anyio.sleep(max(0.0, begun_s + seconds - time.monotonic()))

    def _kill_and_start(self, node: Server) -> None:
        self.kills.append(time.monotonic())  # before: users notice at once
        node.kill()
        node.start()
        node.wait_until_ready()  # the next one is killed only then: a cluster whose nodes are all down serves nobody
        self.away_s.append(time.monotonic() - self.kills[-1])

    async def _kill_leader(self, at_s: float) -> None:
        await anyio.sleep(at_s)
        await to_thread.run_sync(self._kill_and_start_leader)

    def _kill_and_start_leader(self) -> None:
        first = leader(self.members)
        first.kill()
        time.sleep(1)  # an election takes about as long
        first.start()
        first.wait_until_ready()

    async def _cut_off(self, at_s: float) -> None:
        await anyio.sleep(at_s)
        await to_thread.run_sync(self.way_of_last.stall)
        self.stalls.append(time.monotonic())
        try:
            await anyio.sleep(self.cut_for_s)
        finally:
            await to_thread.run_sync(self.way_of_last.mend)
            self.stalls.append(time.monotonic())

    def longest_s(self, failed_at_s: Sequence[tuple[float, str]]) -> float:
        """Return how long after a kill failures were seen, at most. A stale node says so by itself, and its failures do not count."""
        seen = [at_s for at_s, kind in failed_at_s if "state_stale" not in kind]
        after = [[at_s - killed_s for killed_s in self.kills if killed_s <= at_s] for at_s in seen]
        return max((min(each) for each in after if each), default=0.0)
