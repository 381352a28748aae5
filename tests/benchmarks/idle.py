"""How much processor time the nodes of a cluster take while nobody uses them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from . import cluster
from .cluster import Client

SETTLED_S = 25.0
"""After this time, members of ``peers://`` have gone over to their longest waits."""


def percent_of_a_core(members: int, seconds: float, settled_s: float = SETTLED_S) -> float:
    """The processor time of a node while nobody uses the cluster, its server included, in percent of one core: the mean of all nodes."""
    with cluster.running(cluster.PEERS, members) as ports, _clients(ports) as nodes:
        time.sleep(settled_s)
        before, begun_s = [_processor_s(node) for node in nodes], time.perf_counter()
        time.sleep(seconds)
        after, passed_s = [_processor_s(node) for node in nodes], time.perf_counter() - begun_s
    return 100 * (sum(after) - sum(before)) / passed_s / members


@contextmanager
def _clients(ports: list[int]) -> Iterator[list[Client]]:
    with ExitStack() as opened:
        yield [opened.enter_context(closing(Client(port))) for port in ports]


def _processor_s(node: Client) -> float:
    node.ask("GET", "/report")
    return float(json.loads(node.answer)[0])
