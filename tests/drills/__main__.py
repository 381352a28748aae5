"""``python -m tests.drills``: users at three nodes that are killed every few seconds, through this package's client and a plain one.

Fails if a user of this package's client saw an error, had to log in again, or if a log-out did not hold.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import anyio
from anyio import to_thread

from example_app.processes import running
from example_app.servers import Server, cluster, new_secret

from .users import Client, OneNode, Result, User, through_ours

CLIENTS: Mapping[str, Client] = {"this package's": through_ours, "plain httpx2": OneNode}
MOST_SENT = 1.2
"""The most requests that a client may send for each that its user wanted."""


async def drill(nodes: list[Server], *, users: int, seconds: float, every_s: float) -> dict[str, Result]:
    """Let users work at the nodes while these are killed one after the other; return the results by client."""
    results = {name: Result() for name in CLIENTS}
    urls = [node.url for node in nodes]
    is_over = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for name, client in CLIENTS.items():
            for number in range(users):
                user = User(urls, client, results[name], random.Random(f"{name} {number}"))
                tasks.start_soon(user.live, is_over)
        with anyio.move_on_after(seconds):
            for turn in range(10_000):
                await anyio.sleep(every_s)
                await to_thread.run_sync(_kill_and_start, nodes[turn % len(nodes)], abandon_on_cancel=False)
        is_over.set()
    return results


def _kill_and_start(node: Server) -> None:
    node.kill()
    node.start()
    node.wait_until_ready()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills")
    parser.add_argument("--users", type=int, default=30, help="of each client")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two kills")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        nodes = cluster("abc", Path(folder), {"SECRET_KEY": new_secret(), "FRESHNESS_LIMIT": "2s"})
        with running(*nodes):
            found = anyio.run(lambda: drill(nodes, users=given.users, seconds=given.seconds, every_s=given.every))
    for name, result in found.items():
        print(result.told(name), flush=True)
    ours = found["this package's"]
    well = not ours.errors and not ours.log_ins and not ours.let_in and ours.sent <= MOST_SENT * ours.wanted
    print("well" if well else "WRONG")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
