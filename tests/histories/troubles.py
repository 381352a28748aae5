"""The faults of nodes in use. Each is over when its function returns: repaired, and all nodes ready again."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

import anyio
import anyio.to_thread

from example_app.proxy import Proxy

from ..cluster.test_real import Served
from ..engines import Etcd, EtcdMember
from .history import History
from .load import PAUSE_S, Load
from .places import Place, wrong_wall_clock

WELL_WITHIN_S = 45.0
"""After everything is mended. It takes a second or two on an idle machine; on etcd, after a crash, as long as a fence."""
STORM = 30
CALM = 5
"""Log-outs that must have been acknowledged before the trouble begins: so many people are there by then."""


@dataclass
class Scene:
    """A place with people in it."""

    place: Place
    load: Load
    dice: Random

    @property
    def node(self) -> Served:
        """One of the nodes."""
        return self.dice.choice(self.place.nodes)

    @property
    def engine(self) -> Etcd:
        assert self.place.engine is not None
        return self.place.engine

    @property
    def way_of_c(self) -> Proxy:
        assert self.place.way_of_c is not None
        return self.place.way_of_c

    @asynccontextmanager
    async def storm(self) -> AsyncIterator[None]:
        """Many sessions are logged out at once, and the context is entered in the midst of it."""
        sessions = await self.load.many(STORM)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.load.log_all_out, sessions)
            await anyio.sleep(self.dice.uniform(0.02, 0.1))  # the first are acknowledged by then, and the last are not
            yield

    async def under_way(self) -> None:
        """Return when some have logged out."""
        end_s = time.monotonic() + WELL_WITHIN_S
        while len(self.load.history.acknowledged_s) < CALM:
            assert time.monotonic() < end_s, "hardly anybody could log out"
            await anyio.sleep(0.05)

    async def ready(self) -> None:
        """Everything is mended: return when all nodes judge sessions."""
        self.load.history.healed_s = time.monotonic()
        end_s = self.load.history.healed_s + WELL_WITHIN_S
        for node in self.place.nodes:
            while not await self.load.is_ready(node):
                assert time.monotonic() < end_s, f"{node.name} is not ready: {node.readiness()}\n{node.told[-4000:]}"
                await anyio.sleep(0.05)


Trouble = Callable[[Scene], Awaitable[None]]


@contextmanager
def frozen(*processes: Served | EtcdMember) -> Iterator[None]:
    for process in processes:
        process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.signal(signal.SIGCONT)


# With peers:// and with etcd://


async def nothing_happens(scene: Scene, seconds: float) -> None:
    await anyio.sleep(seconds)


async def a_node_is_killed_in_a_storm_and_started_again(scene: Scene) -> None:
    await killed_and_started_again(scene, scene.node)


async def all_are_killed_in_storms_and_started_again(scene: Scene) -> None:
    """Restart the nodes one by one: without files, no promise covers two that forget at once."""
    for node in scene.place.nodes:
        await killed_and_started_again(scene, node)


async def killed_and_started_again(scene: Scene, node: Served) -> None:
    async with scene.storm():
        node.kill()
    node.start()
    await scene.ready()


async def a_node_is_frozen(scene: Scene, seconds: float) -> None:
    with frozen(scene.node):
        await anyio.sleep(seconds)
    await scene.ready()


async def a_majority_of_nodes_is_frozen(scene: Scene, seconds: float) -> None:
    with frozen(*scene.dice.sample(scene.place.nodes, 2)):
        await anyio.sleep(seconds)
    await scene.ready()


async def a_wall_clock_is_off(scene: Scene, offset_s: float, seconds: float) -> None:
    """Of one node, which is restarted for it, and again to set it right."""
    node = scene.node
    for environ, lasts_s in ((wrong_wall_clock(offset_s), seconds), ({}, 0)):
        node.kill()
        node.environ = environ
        node.start()
        await anyio.sleep(lasts_s)
    await scene.ready()


# With files, and with etcd://


async def all_nodes_are_killed_at_once_in_a_storm(scene: Scene) -> None:
    async with scene.storm():
        for node in scene.place.nodes:
            node.kill()
    for node in scene.place.nodes:
        node.start()
    await scene.ready()


# With etcd:// only


async def all_members_are_killed_at_once_in_a_storm(scene: Scene) -> None:
    async with scene.storm():
        for member in scene.engine.members:
            member.kill()
    await anyio.to_thread.run_sync(scene.engine.start)
    await scene.ready()


async def the_leader_is_killed_in_a_storm(scene: Scene) -> None:
    async with scene.storm():
        leader = scene.engine.leader()
        leader.kill()
    await anyio.to_thread.run_sync(scene.engine.start_member, leader)
    await scene.ready()


async def the_leader_is_frozen(scene: Scene, seconds: float) -> None:
    with frozen(scene.engine.leader()):
        await anyio.sleep(seconds)
    await scene.ready()


async def a_follower_is_frozen(scene: Scene, seconds: float) -> None:
    leader = scene.engine.leader()
    with frozen(scene.dice.choice([member for member in scene.engine.members if member is not leader])):
        await anyio.sleep(seconds)
    await scene.ready()


async def a_node_is_cut_off(scene: Scene, seconds: float) -> None:
    """Its connections to etcd are broken off, and new ones too."""
    scene.way_of_c.cut()
    await anyio.sleep(seconds)
    scene.way_of_c.mend()
    await scene.ready()


async def a_node_is_stalled(scene: Scene, seconds: float) -> None:
    """Drop a node's traffic to and from etcd silently."""
    scene.way_of_c.stall()
    await anyio.sleep(seconds)
    scene.way_of_c.mend()
    await scene.ready()


async def quorum_is_lost(scene: Scene, seconds: float) -> None:
    lost = scene.dice.sample(scene.engine.members, 2)
    for member in lost:
        member.kill()
    await anyio.sleep(seconds)
    await anyio.to_thread.run_sync(scene.engine.start)
    await scene.ready()


async def history_of(place: Place, trouble: Trouble, seed: int = 0, pause_s: float = PAUSE_S) -> History:
    """Return the history of one trouble under load: from the calm before it to the last visits after it."""
    history = History(tuple(node.name for node in place.nodes), within_s=WELL_WITHIN_S)
    async with Load(place.nodes, history, seed, pause_s=pause_s) as load:
        scene = Scene(place, load, Random(f"trouble {seed}"))
        async with load.going_on():
            await scene.under_way()
            await trouble(scene)
        await load.look_at_all()
    return history


def summary(history: History) -> str:
    """Return the counts of a history's answers, and how long log-outs took."""
    seen = Counter(act.mode or act.code or str(act.status or "no answer") for act in history.acts if act.what != "visit")
    visits = Counter(act.code or str(act.status or "no answer") for act in history.acts if act.what == "visit")
    told = ", ".join(f"{count} {what}" for what, count in visits.most_common())
    return (
        f"{len(history.acts)} requests; visits: {told}; log-ins and log-outs: {dict(seen)}; "
        f"fenced after {spread_ms(history.acknowledged_s)}, still accepted for {spread_ms(history.accepted_for_s)}"
    )


def spread_ms(times_s: list[float]) -> str:
    ordered = sorted(times_s)
    if not ordered:
        return "none"
    p50, p99 = (ordered[int(share * (len(ordered) - 1))] * 1000 for share in (0.5, 0.99))
    return f"{p50:.1f} ms (p50), {p99:.1f} ms (p99) of {len(ordered)}"


SHORT: dict[str, dict[str, Trouble]] = {
    "peers": {
        "a node is killed in a storm and started again": a_node_is_killed_in_a_storm_and_started_again,
        "a node is frozen for 1 s": partial(a_node_is_frozen, seconds=1),
        "a majority of nodes is frozen for 3 s": partial(a_majority_of_nodes_is_frozen, seconds=3),
        "a wall clock is 1 h ahead": partial(a_wall_clock_is_off, offset_s=3600, seconds=2),
    },
    "etcd": {
        "the leader is killed in a storm": the_leader_is_killed_in_a_storm,
        "a node is killed in a storm and started again": a_node_is_killed_in_a_storm_and_started_again,
        "a node is frozen for 1 s": partial(a_node_is_frozen, seconds=1),
        "the leader is frozen for 1 s": partial(the_leader_is_frozen, seconds=1),
        "a node is cut off for 3 s": partial(a_node_is_stalled, seconds=3),
        "quorum is lost for 3 s": partial(quorum_is_lost, seconds=3),
        "a wall clock is 20 s behind": partial(a_wall_clock_is_off, offset_s=-20, seconds=2),
    },
}
"""The troubles of ``make test``, by place."""

ANYWHERE: dict[str, Trouble] = {
    "nothing happens for 20 s": partial(nothing_happens, seconds=20),
    "all nodes are killed in storms and started again, one by one": all_are_killed_in_storms_and_started_again,
    "a node is frozen for 1 s": partial(a_node_is_frozen, seconds=1),
    "a node is frozen for 10 s": partial(a_node_is_frozen, seconds=10),
    "a node is frozen for 60 s": partial(a_node_is_frozen, seconds=60),
    "a majority of nodes is frozen for 30 s": partial(a_majority_of_nodes_is_frozen, seconds=30),
    "a wall clock is 20 s ahead": partial(a_wall_clock_is_off, offset_s=20, seconds=8),
    "a wall clock is 20 s behind": partial(a_wall_clock_is_off, offset_s=-20, seconds=8),
    "a wall clock is 1 h ahead": partial(a_wall_clock_is_off, offset_s=3600, seconds=8),
    "a wall clock is 1 h behind": partial(a_wall_clock_is_off, offset_s=-3600, seconds=8),
}

LONG: dict[str, dict[str, Trouble]] = {
    "peers": ANYWHERE,
    "files": {
        "all nodes are killed at once in a storm": all_nodes_are_killed_at_once_in_a_storm,
        "all nodes are killed in storms and started again, one by one": all_are_killed_in_storms_and_started_again,
        "a majority of nodes is frozen for 10 s": partial(a_majority_of_nodes_is_frozen, seconds=10),
    },
    "etcd": ANYWHERE
    | {
        "all nodes are killed at once in a storm": all_nodes_are_killed_at_once_in_a_storm,
        "all members are killed at once in a storm": all_members_are_killed_at_once_in_a_storm,
        "the leader is killed in a storm": the_leader_is_killed_in_a_storm,
        "the leader is frozen for 1 s": partial(the_leader_is_frozen, seconds=1),
        "the leader is frozen for 10 s": partial(the_leader_is_frozen, seconds=10),
        "a follower is frozen for 60 s": partial(a_follower_is_frozen, seconds=60),
        "a node is cut off for 10 s, and told": partial(a_node_is_cut_off, seconds=10),
        "a node is cut off for 10 s, and not told": partial(a_node_is_stalled, seconds=10),
        "quorum is lost for 30 s": partial(quorum_is_lost, seconds=30),
    },
}
"""The troubles of ``make prove``, by place."""
