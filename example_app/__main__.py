"""``python -m example_app``: serve the app and tell a drill against it. ``KEEP=1`` leaves it up until Ctrl-C.

``CLUSTER=peers``, the default: on three nodes. ``CLUSTER=sqlite``: on one, with four workers.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from . import drill, one_machine, three_nodes, users
from .servers import Server, ServerError, cluster, new_secret, running
from .story import StepError, Story
from .three_nodes import Nodes


def main() -> int:
    """Returns the exit code: 0 when every step went as told."""
    signal.signal(signal.SIGTERM, _leave)
    story = Story()
    drills = {"": _three_nodes, "peers": _three_nodes, "sqlite": _one_machine}
    chosen = os.environ.get("CLUSTER", "").removesuffix("://")
    if chosen not in drills:
        story.say(f"CLUSTER={chosen}: there is no such drill; there are peers and sqlite", "bad")
        return 2
    return drills[chosen](story)


def _one_machine(story: Story) -> int:
    with tempfile.TemporaryDirectory(prefix="ha-session-demo-") as directory:
        cluster = f"sqlite://{directory}/sessions.db"
        settings = {"SECRET_KEY": new_secret(), "CLUSTER": cluster, "TRACK": "on", "DEVICES": "on"}
        node = Server("node", Path(directory), settings, workers=one_machine.WORKERS)
        return _guarded(story, [node], lambda: _run_one_machine(story, node))


def _three_nodes(story: Story) -> int:
    with tempfile.TemporaryDirectory(prefix="ha-session-demo-") as directory:
        limit = f"{three_nodes.FRESHNESS_LIMIT_S}s"
        nodes = Nodes(*cluster("abc", Path(directory), {"SECRET_KEY": new_secret(), "FRESHNESS_LIMIT": limit}))
        lives = {"IDLE_TIMEOUT": f"{drill.IDLE_S}s", "ABSOLUTE_TIMEOUT": f"{drill.ABSOLUTE_S}s"}
        hasty = Server("hasty", Path(directory), {"SECRET_KEY": new_secret()} | lives)
        return _guarded(story, [*nodes, hasty], lambda: _run(story, nodes, hasty))


def _guarded(story: Story, servers: Sequence[Server], run: Callable[[], int]) -> int:
    """Tell a drill, and what the servers printed if it went wrong."""
    try:
        return run()
    except ServerError as exc:
        story.say(str(exc), "bad")
    except StepError:
        for server in servers:
            if output := server.output():
                story.say(f"\nWhat node {server.name} printed:\n{output}", "soft")
    except KeyboardInterrupt:
        story.say("\nStopped.")
    return 1


def _run_one_machine(story: Story, node: Server) -> int:
    began = time.perf_counter()
    story.say(f"ha_session_mw: the example app on one node with {one_machine.WORKERS} workers, which share a file", "title")
    with running(node):
        told_s = time.perf_counter() - began
        story.say(
            f"  up in {told_s:.1f} s, with HA_SESSION_CLUSTER=sqlite:///… and uvicorn --workers {one_machine.WORKERS}: {node.url}", "soft"
        )
        one_machine.tell(story, node)
        story.say()
        story.say(f"All {story.steps} steps went as told, in {time.perf_counter() - began:.1f} s.", "good")
        if os.environ.get("KEEP", "") not in ("", "0"):
            _stay(story, [node])
    return 0


def _run(story: Story, nodes: Nodes, hasty: Server) -> int:
    began = time.perf_counter()
    story.say("ha_session_mw: the example app on three nodes, without a server beside them, and a drill against it", "title")
    with running(*nodes, hasty):
        urls = ", ".join(f"{node.name} {node.url}" for node in nodes)
        story.say(f"  up in {time.perf_counter() - began:.1f} s, with HA_SESSION_CLUSTER=peers://: {urls}", "soft")
        limit_s = three_nodes.FRESHNESS_LIMIT_S
        story.say(f"  HA_SESSION_FRESHNESS_LIMIT={limit_s}s, and not the 5 s it is by default, so that there is less to wait for", "soft")
        drill.tell(story, nodes.a, hasty)
        hasty.end()
        three_nodes.tell(story, nodes)
        story.say()
        story.say(f"All {story.steps} steps went as told, in {time.perf_counter() - began:.1f} s.", "good")
        if os.environ.get("KEEP", "") not in ("", "0"):
            _stay(story, nodes)
    return 0


def _stay(story: Story, nodes: Sequence[Server]) -> None:
    a, b, c = nodes[0].url, (nodes[1:] or nodes)[0].url, nodes[-1].url
    password = users.USERS["ada"].password
    story.chapter("Left up for you, until Ctrl-C")
    story.say(f"  in a browser     {a}/   as ada, password {password}")
    if len(nodes) > 1:
        story.say(f"                   {b}/   and {c}/ know the same cookie")
    story.say(f"  from a terminal  curl -c jar -d username=ada -d password={password} {a}/login")
    story.say(f"                   curl -b jar {b}/private/session")
    story.say(f"                   curl -b jar -d '' -i {b}/logout")
    story.say(f"                   curl -b jar {c}/private/session")
    for node in nodes:
        story.say(f"  node {node.name}, process {node.pid}: {node.url}/-/session/livez   {node.url}/-/session/readyz")
    try:
        while any(node.pid is not None for node in nodes):
            time.sleep(0.5)
    except KeyboardInterrupt:
        story.say("\nEnded.")


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
