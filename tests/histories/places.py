"""The places of histories: three nodes as processes, and the engine that they share."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from example_app.ports import reserve_port
from example_app.proxy import Proxy

from ..cluster.test_real import Served
from ..engines import Etcd, etcd
from ..waiting import until

APP = """
from ha_session_mw import SessionMiddleware
from tests.histories.app import app as inner

app = SessionMiddleware(inner)
"""

WITHOUT_THE_FENCE = """
from ha_session_mw.backends.peers.log import QuorumLog

async def no_fence(log, receipt): ...

QuorumLog.fence = no_fence
"""
"""Added to the app: a log-out is acknowledged as soon as a majority has it, whatever the others may still accept."""


@dataclass
class Place:
    """Three nodes that are up.

    Attributes:
        kind: the scheme of ``HA_SESSION_CLUSTER``.
        limit_s: their ``HA_SESSION_FRESHNESS_LIMIT``.
        engine: the etcd that they share, if that is how they do it.
        way_of_c: through which the last one reaches it.
    """

    kind: str
    nodes: list[Served]
    limit_s: float
    engine: Etcd | None = None
    way_of_c: Proxy | None = None


@contextmanager
def peers(folder: Path, limit_s: float, app: str = APP) -> Iterator[Place]:
    """Three nodes without a server beside them."""
    nodes = served(folder, limit_s, app)
    for node in nodes:
        node.settings.update(CLUSTER="peers://", PEERS=",".join(node.url for node in nodes))
    with running(nodes):
        yield Place("peers", nodes, limit_s)


@contextmanager
def with_files(folder: Path, limit_s: float, app: str = APP) -> Iterator[Place]:
    """Three nodes without a server beside them. Each keeps its log in a file."""
    nodes = served(folder, limit_s, app)
    for node in nodes:
        node.settings.update(CLUSTER=f"peers://{folder}/{node.name}.log", PEERS=",".join(node.url for node in nodes))
    with running(nodes):
        yield Place("files", nodes, limit_s)


@contextmanager
def on_etcd(folder: Path, limit_s: float, app: str = APP) -> Iterator[Place]:
    """Three nodes and an etcd of three members, which c reaches through a proxy only."""
    nodes = served(folder, limit_s, app)
    with etcd(3) as engine, Proxy(*(member.client_port for member in engine.members)) as way_of_c:
        for node in nodes:
            node.settings["CLUSTER"] = engine.cluster("histories")
        nodes[2].settings["CLUSTER"] = "etcd://" + ",".join(f"127.0.0.1:{port}" for port in way_of_c.ports) + "/histories"
        with running(nodes):
            yield Place("etcd", nodes, limit_s, engine, way_of_c)


PLACES = {"peers": peers, "files": with_files, "etcd": on_etcd}


def served(folder: Path, limit_s: float, app: str) -> list[Served]:
    (folder / "served.py").write_text(app)
    settings = {"PROTECT": "/private*", "TRANSPORTS": "bearer", "FRESHNESS_LIMIT": f"{limit_s}s"}
    nodes = [Served(name, reserve_port(), folder, settings) for name in "abc"]
    for node in nodes:
        node.settings["STATE_DIR"] = str(folder / node.name)
    return nodes


@contextmanager
def running(nodes: list[Served]) -> Iterator[None]:
    try:
        for node in nodes:
            node.start()
        for node in nodes:
            until(lambda node=node: not node.readiness(), f"{node.name} is ready")  # type: ignore[misc]
        yield
    finally:
        for node in nodes:
            node.signal(signal.SIGCONT)
            node.kill()


def libfaketime() -> Path | None:
    """The library that sets a process's clocks off; None where it is not installed."""
    command = shutil.which("faketime")
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")) if command else []
    return found[0] if found else None


def wrong_wall_clock(offset_s: float) -> dict[str, str]:
    """Return the environment that sets a process's wall clock off, and no other clock."""
    return {"LD_PRELOAD": str(libfaketime()), "FAKETIME": f"{offset_s:+.0f}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
