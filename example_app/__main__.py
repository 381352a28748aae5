"""``python -m example_app``: serve the app and tell a drill against it. ``KEEP=1`` leaves it up until Ctrl-C.

``CLUSTER=peers``, the default: on three nodes. ``CLUSTER=etcd``: on three nodes and three etcd members. ``CLUSTER=sqlite``: on
one node, with four workers.
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

from . import drill, etcd, on_etcd, one_machine, three_nodes, users
from .processes import Process, ServerError, running
from .proxy import Proxy
from .servers import Server, cluster, cluster_on_etcd, new_secret
from .story import StepError, Story
from .three_nodes import FRESHNESS_LIMIT_S, Nodes


def main() -> int:
    """Returns the exit code: 0 when every step went as told."""
    signal.signal(signal.SIGTERM, _leave)
    story = Story()
    drills = {"": _three_nodes, "peers": _three_nodes, "etcd": _on_etcd, "sqlite": _one_machine}
    chosen = os.environ.get("CLUSTER", "").removesuffix("://")
    if chosen not in drills:
        story.say(f"CLUSTER={chosen}: there is no such drill; there are peers, etcd and sqlite", "bad")
        return 2
    if chosen == "etcd" and not etcd.is_installed():
        story.say(f"CLUSTER=etcd needs etcd, and there is none here. Install it: {etcd.HOW_TO_INSTALL}", "bad")
        return 2
    with tempfile.TemporaryDirectory(prefix="ha-session-demo-") as directory:
        return drills[chosen](story, Path(directory))


def _one_machine(story: Story, directory: Path) -> int:
    settings = {"SECRET_KEY": new_secret(), "CLUSTER": f"sqlite://{directory}/sessions.db", "TRACK": "on", "DEVICES": "on"}
    node = Server("node", directory, settings, workers=one_machine.WORKERS)
    return _run(
        story,
        f"on one node with {one_machine.WORKERS} workers, which share a file",
        f"HA_SESSION_CLUSTER=sqlite:///… and uvicorn --workers {one_machine.WORKERS}",
        [node],
        [],
        lambda: one_machine.tell(story, node),
    )


def _three_nodes(story: Story, directory: Path) -> int:
    nodes, hasty = Nodes(*cluster("abc", directory, _common())), _hasty(directory)

    def tell() -> None:
        _one_node(story, nodes, hasty)
        three_nodes.tell(story, nodes)

    return _run(story, "on three nodes, without a server beside them", "HA_SESSION_CLUSTER=peers://", nodes, [hasty], tell)


def _on_etcd(story: Story, directory: Path) -> int:
    members, hasty = etcd.members(directory), _hasty(directory)
    with Proxy(*(member.port for member in members)) as way_of_c:
        straight = [member.port for member in members]
        nodes = Nodes(*cluster_on_etcd({"a": straight, "b": straight, "c": way_of_c.ports}, directory, _common()))

        def tell() -> None:
            _one_node(story, nodes, hasty)
            on_etcd.tell(story, nodes, members, way_of_c)

        where = "on three nodes, beside an etcd of three members"
        return _run(story, where, "HA_SESSION_CLUSTER=etcd://…", nodes, [hasty], tell, engine=members)


def _common() -> dict[str, str]:
    return {"SECRET_KEY": new_secret(), "FRESHNESS_LIMIT": f"{FRESHNESS_LIMIT_S}s"}


def _hasty(directory: Path) -> Server:
    lives = {"IDLE_TIMEOUT": f"{drill.IDLE_S}s", "ABSOLUTE_TIMEOUT": f"{drill.ABSOLUTE_S}s"}
    return Server("hasty", directory, {"SECRET_KEY": new_secret()} | lives)


def _one_node(story: Story, nodes: Nodes, hasty: Server) -> None:
    story.say(
        f"  HA_SESSION_FRESHNESS_LIMIT={FRESHNESS_LIMIT_S}s, and not the 5 s it is by default, so that there is less to wait for", "soft"
    )
    drill.tell(story, nodes.a, hasty)
    hasty.end()


def _run(
    story: Story,
    where: str,
    how: str,
    nodes: Sequence[Server],
    aside: Sequence[Server],
    tell: Callable[[], None],
    engine: Sequence[Process] = (),
) -> int:
    """Start all, tell the drill, and end all; returns the exit code.

    Args:
        where: what the example app is served on, in words.
        how: with which settings.
        nodes: what is left up, if that is asked for.
        aside: nodes that are needed for the drill only.
        tell: the drill.
        engine: what has to be there before the nodes, and after them.
    """
    began = time.perf_counter()

    def run() -> None:
        story.say(f"ha_session_mw: the example app {where}, and a drill against it", "title")
        with running(*engine), running(*nodes, *aside):
            urls = ", ".join(f"{node.name} {node.url}" if len(nodes) > 1 else node.url for node in nodes)
            story.say(f"  up in {time.perf_counter() - began:.1f} s, with {how}: {urls}", "soft")
            tell()
            story.say()
            story.say(f"All {story.steps} steps went as told, in {time.perf_counter() - began:.1f} s.", "good")
            if os.environ.get("KEEP", "") not in ("", "0"):
                _stay(story, nodes, engine)

    return _guarded(story, [*engine, *nodes, *aside], run)


def _guarded(story: Story, processes: Sequence[Process], run: Callable[[], None]) -> int:
    """Tell a drill, and what the processes printed if it went wrong."""
    try:
        run()
    except ServerError as exc:
        story.say(str(exc), "bad")
    except StepError:
        for process in processes:
            if output := process.output():
                story.say(f"\nWhat {process.name} printed:\n{output}", "soft")
    except KeyboardInterrupt:
        story.say("\nStopped.")
    else:
        return 0
    return 1


def _stay(story: Story, nodes: Sequence[Server], engine: Sequence[Process]) -> None:
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
        name = f"node {node.name}" if len(nodes) > 1 else "the node"
        story.say(f"  {name}, process {node.pid}: {node.url}/-/session/livez   {node.url}/-/session/readyz")
    for member in engine:
        story.say(f"  etcd member {member.name}, process {member.pid}")
    try:
        while any(node.pid is not None for node in nodes):
            time.sleep(0.5)
    except KeyboardInterrupt:
        story.say("\nEnded.")


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
