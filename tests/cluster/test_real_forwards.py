"""Requests that get to the owner of their session over real connections: each server on the way, and certificates between the nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from example_app.ports import reserve_port, url_of

from ..thinning import thinned
from ..waiting import until
from .test_real import APP, Served
from .test_real_tls import Authority, SecurelyServed

pytestmark = pytest.mark.real

SETTINGS = {"CLUSTER": "peers://", "OWNED": "/private*", "ROUTING": "forward", "PROTECT": "/private*", "HEARTBEAT": "300ms"}

SESSIONS = 24
"""That one of two nodes owns all of them happens once in eight million times."""


def ends_of(nodes: Sequence[Served], method: str) -> list[set[str]]:
    """Return which nodes have answered each session, whose requests came to all of them."""
    tokens = [nodes[number % len(nodes)].log_in(f"user-{number}") for number in range(SESSIONS)]
    answers = [[node.request(method, "/private", token) for node in nodes] for token in tokens]
    return [{_end_of(answer) for answer in of_one} for of_one in answers]


def _end_of(answer: httpx2.Response) -> str:
    return answer.headers["session-node"].strip('"') if answer.status_code == 200 else f"{answer.status_code} {answer.text}"


def all_ready(nodes: Sequence[Served]) -> None:
    for node in nodes:
        until(lambda node=node: not node.readiness(), "ready")  # type: ignore[misc]


@contextmanager
def mixed(tmp_path: Path, more: Mapping[str, str]) -> Iterator[list[Served]]:
    """Three nodes, each on another server."""
    (tmp_path / "served.py").write_text(APP)
    ports = [reserve_port() for _ in range(3)]
    settings = SETTINGS | {"PEERS": ",".join(map(url_of, ports))} | {**more}
    nodes = [Served(name, port, tmp_path, settings) for name, port in zip("abc", ports, strict=True)]
    try:
        nodes[0].start()
        nodes[1].start(server="hypercorn", options=("--bind", f"127.0.0.1:{ports[1]}"))
        nodes[2].start(server="granian", options=("--interface", "asgi", "--port", str(ports[2])))
        all_ready(nodes)
        yield nodes
    finally:
        for node in nodes:
            node.kill()


@contextmanager
def secure(tmp_path: Path, *servers: str) -> Iterator[list[SecurelyServed]]:
    """Nodes that show each other certificates, each on the server that is named."""
    (tmp_path / "served.py").write_text(APP)
    ports, authority = [reserve_port() for _ in servers], Authority(tmp_path, "ours")
    settings = SETTINGS | {"PEERS": ",".join(f"https://127.0.0.1:{port}" for port in ports)}
    nodes = [SecurelyServed(name, port, tmp_path, settings, authority) for name, port in zip("abc", ports, strict=False)]
    try:
        for node, server in zip(nodes, servers, strict=True):
            node.serve(server)
        all_ready(nodes)
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def each_session_has_one_end(nodes: Sequence[Served]) -> None:
    until(lambda: all(len(one) == 1 for one in ends_of(nodes, "GET")), "all have heard each other")
    ends = ends_of(nodes, "POST")
    assert all(len(one) == 1 for one in ends), ends
    # With etcd://, each process appends a random part.
    assert {end.partition("-")[0] for end in set().union(*ends)} <= {node.name for node in nodes}
    assert len(set().union(*ends)) > 1


@pytest.mark.prove
@pytest.mark.parametrize("cluster", ["peers://", "etcd://"])
def test_each_server_sends_on_and_takes_what_another_one_sends_on(cluster: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    more = {} if cluster == "peers://" else {"CLUSTER": request.getfixturevalue("one_etcd").cluster("forwards"), "PEERS": ""}
    with mixed(tmp_path, more) as nodes:
        each_session_has_one_end(nodes)


@pytest.mark.parametrize("servers", thinned([("uvicorn", "uvicorn"), ("uvicorn", "hypercorn", "granian")], kept=[("uvicorn", "uvicorn")]))
def test_between_nodes_with_certificates(servers: Sequence[str], tmp_path: Path) -> None:
    with secure(tmp_path, *servers) as nodes:
        each_session_has_one_end(nodes)
