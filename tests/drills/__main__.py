"""``python -m tests.drills``: users of five ways at three nodes on etcd, while nodes are killed, etcd's leader is, and one node is cut off.

Fails if a user of this package's client saw an error, had to log in again, or if a log-out did not hold; and if plain requests behind
the balancer failed for longer than a second after a kill.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import anyio

from example_app.balancer import Balancer, program
from example_app.etcd import Member, members
from example_app.processes import running
from example_app.proxy import Proxy
from example_app.servers import Server, cluster_on_etcd, new_secret
from ha_session_mw import Settings

from ..engines import memory_folder
from .trouble import Trouble
from .users import Copies, Result, User, tries_noted
from .ways import BALANCED, OURS, WAYS

MOST_SENT = 1.2
"""The most requests that a client may send for each that its user wanted."""
MOST_FAILING_S = 1.0
"""How long plain requests may fail behind the balancer after a kill."""
MENDED_WITHIN_S = 30.0


@dataclass(frozen=True)
class Scene:
    """What the users meet."""

    nodes: Sequence[Server]
    members: Sequence[Member]
    way_of_last: Proxy
    balancer: Balancer | None


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """Three nodes on an etcd of three members, behind HAProxy if that is installed."""
    with memory_folder() as disk:
        engine = members(disk)
        straight = [member.port for member in engine]
        with Proxy(*straight) as way_of_c:
            settings = {"SECRET_KEY": new_secret(), "START_WAIT": "10s", "LOGINS_PER_SUBJECT": "off", "LOGINS_PER_ADDRESS": "off"}
            nodes = cluster_on_etcd({"a": straight, "b": straight, "c": way_of_c.ports}, folder, settings)
            with running(*engine), running(*nodes):
                if program("haproxy") is None:
                    yield Scene(nodes, engine, way_of_c, None)
                    return
                front = Balancer("haproxy", Settings(secret_key=new_secret()), [node.url for node in nodes], folder)
                with running(front):
                    yield Scene(nodes, engine, way_of_c, front)


async def drill(
    at: Scene, trouble: Trouble, *, users: int, others: int = 0, seconds: float, thinks_s: float, ways: Iterable[str] = WAYS
) -> dict[str, Result]:
    """Let users of each way work at the nodes while there is trouble; return the results by way.

    Args:
        at: the nodes.
        trouble: their trouble.
        users: of this package's client, and of the balancer.
        others: of each other way.
        seconds: how long.
        thinks_s: how long a user waits between two requests, on average.
        ways: their names.
    """
    results = {name: Result() for name in ways if at.balancer is not None or not WAYS[name].is_balanced}
    nodes = [node.url for node in at.nodes]
    is_over = anyio.Event()
    async with Copies() as copies:
        async with anyio.create_task_group() as tasks:
            for name, result in results.items():
                urls = [at.balancer.url] if WAYS[name].is_balanced and at.balancer is not None else nodes
                for number in range(users if name in (OURS, BALANCED) else others):
                    dice = random.Random(f"{name} {number}")
                    user = User(urls, WAYS[name], nodes, result, dice, thinks_s=thinks_s, copies=copies)
                    tasks.start_soon(user.live, is_over)
            await trouble.make(seconds)
            is_over.set()
        for result in results.values():
            await copies.look_again(result, nodes, MENDED_WITHIN_S)
    return results


class Lag:
    """Measures how long this process was not served by its machine, or was busy itself: no node is to blame for that.

    Attributes:
        longest_s: the longest time by which a short sleep was late.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def measure(self) -> None:
        while True:
            begun_s = anyio.current_time()
            await anyio.sleep(0.1)
            self.longest_s = max(self.longest_s, anyio.current_time() - begun_s - 0.1)


async def measured(at: Scene, trouble: Trouble, lag: Lag, **how: Any) -> dict[str, Result]:
    """Do as :func:`drill`, and measure the lag meanwhile."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lag.measure)
        results = await drill(at, trouble, **how)
        tasks.cancel_scope.cancel()
    return results


def faults(results: dict[str, Result], trouble: Trouble) -> list[str]:
    """Return what is wrong; empty if all is well."""
    ours = results[OURS]
    found = [f"{name}: a log-out does not hold" for name, result in results.items() if result.let_in]
    found += [f"{name}: a session was lost" for name, result in results.items() if result.log_ins]
    if ours.errors:
        found.append("this package's client let an error through")
    if ours.sent > MOST_SENT * ours.wanted + 3:
        found.append("this package's client sent too much")
    if BALANCED in results and trouble.longest_s(results[BALANCED].failed_at_s) > MOST_FAILING_S:
        found.append("plain requests behind the balancer failed for too long after a kill")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills")
    parser.add_argument("--users", type=int, default=200, help="of this package's client, and as many behind the balancer")
    parser.add_argument("--others", type=int, default=20, help="of each client that it is compared with; all users share one process")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two kills")
    parser.add_argument("--thinks", type=float, default=3.0, help="average seconds between two requests of a user")
    given = parser.parse_args()
    logging.getLogger("ha_session_mw").setLevel(logging.ERROR)  # each try that failed is a warning
    with tempfile.TemporaryDirectory() as folder, scene(Path(folder)) as at, tries_noted():
        half = given.seconds / 2
        trouble = Trouble(at.nodes, at.members, at.way_of_last, given.every, leader_at_s=half - 7.5, cut_at_s=half + 7.5)
        lag = Lag()
        how = {"users": given.users, "others": given.others, "seconds": given.seconds, "thinks_s": given.thinks}
        results = anyio.run(lambda: measured(at, trouble, lag, **how))
    print(f"{given.users} users of the client, as many behind the balancer, {given.others} of each other way")
    print(f"{len(trouble.kills)} kills, etcd's leader killed once, a node cut off for {trouble.cut_for_s:g} s")
    print(f"A node that was killed was ready again after {median(trouble.away_s):.1f} s (median).")
    for name, result in results.items():
        print(f"{result.told(name)}\n{'':<22} failures up to {trouble.longest_s(result.failed_at_s):.2f} s after a kill", flush=True)
    print(f"The users themselves stood still for up to {lag.longest_s:.2f} s, because the machine was busy.")
    moments = [*((at_s, "kill") for at_s in trouble.kills), *((at_s, "cut off, or mended") for at_s in trouble.stalls)]
    print(*(f"{at_s:.3f} {what}" for at_s, what in sorted(moments)), *results[OURS].stories, sep="\n")
    wrong = faults(results, trouble)
    print("WRONG: " + "; ".join(wrong) if wrong else "well")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
