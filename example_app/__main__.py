"""``python -m example_app``: serve the app on three nodes and tell a drill against them. ``KEEP=1`` leaves them up until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from . import drill, three_nodes, users
from .servers import Server, ServerError, cluster, new_secret, running
from .story import StepError, Story
from .three_nodes import Nodes


def main() -> int:
    """Returns the exit code: 0 when every step went as told."""
    signal.signal(signal.SIGTERM, _leave)
    story = Story()
    with tempfile.TemporaryDirectory(prefix="ha-session-demo-") as directory:
        limit = f"{three_nodes.FRESHNESS_LIMIT_S}s"
        nodes = Nodes(*cluster("abc", Path(directory), {"SECRET_KEY": new_secret(), "FRESHNESS_LIMIT": limit}))
        lives = {"IDLE_TIMEOUT": f"{drill.IDLE_S}s", "ABSOLUTE_TIMEOUT": f"{drill.ABSOLUTE_S}s"}
        hasty = Server("hasty", Path(directory), {"SECRET_KEY": new_secret()} | lives)
        try:
            return _run(story, nodes, hasty)
        except ServerError as exc:
            story.say(str(exc), "bad")
        except StepError:
            for server in (*nodes, hasty):
                if output := server.output():
                    story.say(f"\nWhat node {server.name} printed:\n{output}", "soft")
        except KeyboardInterrupt:
            story.say("\nStopped.")
    return 1


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


def _stay(story: Story, nodes: Nodes) -> None:
    a, b, c = (node.url for node in nodes)
    password = users.USERS["ada"].password
    story.chapter("Left up for you, until Ctrl-C")
    story.say(f"  in a browser     {a}/   as ada, password {password}")
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
