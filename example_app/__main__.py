"""``python -m example_app``: serve the app and run a drill against it. ``KEEP=1`` leaves the nodes up until Ctrl-C.

``CLUSTER=peers``, the default, has three nodes. ``CLUSTER=etcd`` has three nodes and three etcd members. ``CLUSTER=sqlite``
has one node with four workers.
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

from . import balancer, drill, etcd, on_etcd, one_machine, rolling, three_nodes, users
from .control import controlling
from .processes import Process, ServerError, running
from .proxy import Proxy
from .servers import Server, cluster, cluster_on_etcd, new_secret
from .story import StepError, Story
from .three_nodes import FRESHNESS_LIMIT_S, Nodes


def main() -> int:
    """Return the exit code: 0 if every step succeeded, 1 if one failed, 2 if ``CLUSTER`` cannot be served."""
    signal.signal(signal.SIGTERM, _leave)
    story = Story()
    drills = {"": _three_nodes, "peers": _three_nodes, "etcd": _on_etcd, "sqlite": _one_machine}
    chosen = os.environ.get("CLUSTER", "").removesuffix("://")
    if chosen not in drills:
        story.say(f"CLUSTER={chosen} is not known. Choose peers, etcd or sqlite.", "bad")
        return 2
    if chosen == "etcd" and not etcd.is_installed():
        story.say(f"CLUSTER=etcd needs etcd, which is not installed. Install it: {etcd.HOW_TO_INSTALL}", "bad")
        return 2
    with tempfile.TemporaryDirectory(prefix="ha-session-demo-") as directory:
        return drills[chosen](story, Path(directory))


def _one_machine(story: Story, directory: Path) -> int:
    settings = {**_page(), "SECRET_KEY": new_secret(), "CLUSTER": f"sqlite://{directory}/sessions.db", "TRACK": "on", "DEVICES": "on"}
    node = Server("node", directory, settings, workers=one_machine.WORKERS)
    return _run(
        story,
        f"on one node with {one_machine.WORKERS} workers",
        f"HA_SESSION_CLUSTER=sqlite:///… and uvicorn --workers {one_machine.WORKERS}",
        [node],
        [],
        lambda: one_machine.tell(story, node),
    )


def _three_nodes(story: Story, directory: Path) -> int:
    nodes, hasty = Nodes(*cluster("abc", directory, _common() | balancer.drain_settings())), _hasty(directory)

    def tell() -> None:
        _one_node(story, nodes, hasty)
        three_nodes.tell(story, nodes)
        rolling.tell(story, nodes)

    return _run(story, "on three nodes", "HA_SESSION_CLUSTER=peers://", nodes, [hasty], tell)


def _on_etcd(story: Story, directory: Path) -> int:
    members, hasty = etcd.members(directory), _hasty(directory)
    with Proxy(*(member.port for member in members)) as way_of_c:
        straight = [member.port for member in members]
        nodes = Nodes(*cluster_on_etcd({"a": straight, "b": straight, "c": way_of_c.ports}, directory, _common()))

        def tell() -> None:
            _one_node(story, nodes, hasty)
            on_etcd.tell(story, nodes, members, way_of_c)

        where = "on three nodes and three etcd members"
        return _run(story, where, "HA_SESSION_CLUSTER=etcd://…", nodes, [hasty], tell, engine=members)


def _common() -> dict[str, str]:
    return {**_page(), "SECRET_KEY": new_secret(), "FRESHNESS_LIMIT": f"{FRESHNESS_LIMIT_S}s"}


def _page() -> dict[str, str]:
    return {"UI": "on", "UI_PASSWORD": new_secret()}


def _hasty(directory: Path) -> Server:
    lives = {"IDLE_TIMEOUT": f"{drill.IDLE_S}s", "ABSOLUTE_TIMEOUT": f"{drill.ABSOLUTE_S}s"}
    return Server("hasty", directory, {"SECRET_KEY": new_secret()} | lives)


def _one_node(story: Story, nodes: Nodes, hasty: Server) -> None:
    story.say(f"  HA_SESSION_FRESHNESS_LIMIT={FRESHNESS_LIMIT_S}s shortens the waits; the default is 5s", "soft")
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
    """Start all processes, run the drill, and end all processes; return the exit code.

    Args:
        where: where the example app is served, in words.
        how: the settings, in words.
        nodes: the nodes that ``KEEP=1`` leaves up.
        aside: nodes that only the drill needs.
        tell: the drill.
        engine: processes that start before the nodes and end after them.
    """
    began = time.perf_counter()

    def run() -> None:
        story.say(f"ha_session_mw: a drill against the example app {where}", "title")
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
    """Run a drill; print the output of all processes if a step fails."""
    try:
        run()
    except ServerError as exc:
        story.say(str(exc), "bad")
    except StepError:
        for process in processes:
            if output := process.output():
                story.say(f"\nOutput of {process.name}:\n{output}", "soft")
    except KeyboardInterrupt:
        story.say("\nStopped.")
    else:
        return 0
    return 1


def _stay(story: Story, nodes: Sequence[Server], engine: Sequence[Process]) -> None:
    a, b, c = nodes[0].url, (nodes[1:] or nodes)[0].url, nodes[-1].url
    password = users.USERS["ada"].password
    story.chapter("The nodes stay up until Ctrl-C")
    story.say(f"  in a browser     {a}/   as ada, password {password}")
    if len(nodes) > 1:
        story.say(f"                   {b}/   and {c}/ accept the same cookie")
    story.say(f"  from a terminal  curl -c jar -d username=ada -d password={password} {a}/login")
    story.say(f"                   curl -b jar {b}/private/session")
    story.say(f"                   curl -b jar -d '' -i {b}/logout")
    story.say(f"                   curl -b jar {c}/private/session")
    for node in nodes:
        name = f"node {node.name}" if len(nodes) > 1 else "the node"
        story.say(f"  {name}, process {node.pid}: {node.url}/-/session/livez   {node.url}/-/session/readyz")
    for member in engine:
        story.say(f"  etcd member {member.name}, process {member.pid}")
    page_password = nodes[0].ui_password or ""
    story.say(f"  the cluster      {a}/-/session/ui   password {page_password}")
    try:
        with controlling(nodes, page_password) as url:
            story.say(f"                   {url}/   the same with buttons: kill, freeze, heal, drain", "title")
            while True:
                time.sleep(0.5)
    except KeyboardInterrupt:
        story.say("\nEnded.")


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
