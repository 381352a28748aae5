"""``python -m example_app``: serve the app with uvicorn and tell a drill against it. ``KEEP=1`` leaves it up until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from . import drill, users
from .servers import Server, ServerError, new_secret, running
from .story import StepError, Story


def main() -> int:
    """Returns the exit code: 0 when every step went as told."""
    signal.signal(signal.SIGTERM, _leave)
    story = Story()
    with tempfile.TemporaryDirectory(prefix="ha-session-demo-") as directory:
        node = Server("a", Path(directory), {"SECRET_KEY": new_secret()})
        lives = {"IDLE_TIMEOUT": f"{drill.IDLE_S}s", "ABSOLUTE_TIMEOUT": f"{drill.ABSOLUTE_S}s"}
        hasty = Server("hasty", Path(directory), {"SECRET_KEY": new_secret()} | lives)
        try:
            return _run(story, node, hasty)
        except ServerError as exc:
            story.say(str(exc), "bad")
        except StepError:
            for server in (node, hasty):
                if output := server.output():
                    story.say(f"\nWhat node {server.name} printed:\n{output}", "soft")
        except KeyboardInterrupt:
            story.say("\nStopped.")
    return 1


def _run(story: Story, node: Server, hasty: Server) -> int:
    began = time.perf_counter()
    story.say("ha_session_mw: the example app under uvicorn, and a drill against it", "title")
    with running(node, hasty):
        story.say(f"  up in {time.perf_counter() - began:.1f} s: node a at {node.url}, and a hasty one at {hasty.url}", "soft")
        drill.tell(story, node, hasty)
        story.say()
        story.say(f"All {story.steps} steps went as told, in {time.perf_counter() - began:.1f} s.", "good")
        if os.environ.get("KEEP", "") not in ("", "0"):
            _stay(story, node)
    return 0


def _stay(story: Story, node: Server) -> None:
    password = users.USERS["ada"].password
    story.chapter("Left up for you, until Ctrl-C")
    story.say(f"  in a browser     {node.url}/   as ada, password {password}")
    story.say(f"  from a terminal  curl -c jar -d username=ada -d password={password} {node.url}/login")
    story.say(f"                   curl -b jar {node.url}/private/session")
    story.say(f"  probes           {node.url}/-/session/livez   {node.url}/-/session/readyz")
    try:
        while node.pid is not None:
            time.sleep(0.5)
    except KeyboardInterrupt:
        story.say("\nEnded.")


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
