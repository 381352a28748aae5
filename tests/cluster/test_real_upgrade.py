"""Two releases side by side: nodes of both validate each other's sessions and log-outs, while all are restarted one after another."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ..engines import etcd
from ..operators import run
from ..waiting import until
from .releases import AFTER_NEXT, FIRST, NEXT, ROOT, former, last_release, later
from .test_real import Served, served

pytestmark = [pytest.mark.real, pytest.mark.prove]

APP = """
from pathlib import Path

import ha_session_mw
from ha_session_mw import SessionMiddleware
from ha_session_mw.testing import who_is_there

print("imported from", Path(ha_session_mw.__file__).parents[1], flush=True)
app = SessionMiddleware(who_is_there)
"""
FORWARDED = {"ROUTING": "forward", "OWNED": "/private*"}
"""Settings of a cluster in which each node answers for its own sessions, and the others send their requests to it."""
CLUSTERS = ("peers", "peers with files", "etcd", "sqlite")


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the last release."""
    try:
        return former(tmp_path_factory.mktemp("previous"), last_release())
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this copy of the repository has no history")


@pytest.fixture(scope="module")
def next_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the next release."""
    return later(tmp_path_factory.mktemp("next"), protocol=NEXT[0], stored=NEXT[1])


@pytest.fixture(scope="module")
def after_next(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the release after the next one."""
    return later(tmp_path_factory.mktemp("after_next"), protocol=AFTER_NEXT[0], stored=AFTER_NEXT[1])


def all_agree(nodes: list[Served]) -> None:
    """Each node's sessions are good on all, and a log-out at each is in force on all."""
    for place, issuer in enumerate(nodes):
        token, stays = issuer.log_in("ada"), issuer.log_in("bob")
        assert [node.status(token) for node in nodes] == [200] * 3, issuer.name
        answer = nodes[place - 1].request("POST", "/logout", token)
        assert (answer.status_code, answer.headers["session-revocation"]) == (200, "fenced"), answer.text
        assert [node.status(token) for node in nodes] == [401] * 3, issuer.name
        assert [node.status(stays) for node in nodes] == [200] * 3, issuer.name


@contextmanager
def three_nodes(cluster: str, folder: Path, tree: Path = ROOT, **more: str) -> Iterator[list[Served]]:
    with ExitStack() as held:
        more["CLUSTER"] = "peers://"
        if cluster == "etcd":
            more |= {"CLUSTER": held.enter_context(etcd()).cluster("shop"), "PEERS": "", "DATA": "store"}
        elif cluster == "sqlite":
            more |= {"CLUSTER": f"sqlite:///{folder}/log.db", "PEERS": "", "ADVERTISE_URL": ""}
        elif cluster == "peers with files":
            more |= {"CLUSTER": f"peers://{folder}/{{name}}.db"}
        running = served(folder, APP, more, tree=tree)
        nodes = next(running)
        held.callback(running.close)  # type: ignore[attr-defined]
        yield nodes


def restarted(node: Served, tree: Path) -> None:
    node.end(signal.SIGTERM)
    node.tree = tree
    node.start()
    until(lambda: not node.readiness(), "ready again")
    assert [line for line in node.told.splitlines() if "imported from" in line][-1] == f"imported from {tree}"


def there_and_back(cluster: str, folder: Path, before: Path, after: Path, **more: str) -> None:
    """Roll three nodes from one release to another, and back again: no session and no log-out is lost, at no moment."""
    with three_nodes(cluster, folder, before, **more) as nodes:
        token, ended = nodes[0].log_in("carol"), nodes[0].log_in("dan")
        assert nodes[1].request("POST", "/logout", ended).headers["session-revocation"] == "fenced"
        for tree in (after, before):
            for node in nodes:
                restarted(node, tree)
                all_agree(nodes)
                assert [one.status(token) for one in nodes] == [200] * 3
                assert [one.status(ended) for one in nodes] == [401] * 3
        assert not [line for node in nodes for line in node.told.splitlines() if "of the protocol" in line or "another release" in line]


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_last_release_and_this_one_serve_side_by_side_in_both_directions(cluster: str, previous: Path, tmp_path: Path) -> None:
    there_and_back(cluster, tmp_path, ROOT, previous)


@pytest.mark.parametrize("cluster", ["peers", "etcd"])
def test_the_last_release_reads_the_heartbeats_of_one_that_says_which_versions_it_reads(
    cluster: str, previous: Path, next_one: Path, tmp_path: Path
) -> None:
    there_and_back(cluster, tmp_path, next_one, previous)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_this_release_and_one_with_another_version_of_the_protocol_serve_side_by_side(cluster: str, next_one: Path, tmp_path: Path) -> None:
    there_and_back(cluster, tmp_path, ROOT, next_one, **(FORWARDED if cluster == "peers" else {}))


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_release_that_writes_what_the_one_before_it_reads_can_be_left_again(
    cluster: str, next_one: Path, after_next: Path, tmp_path: Path
) -> None:
    there_and_back(cluster, tmp_path, next_one, after_next)


def test_on_etcd_a_version_that_the_questions_between_nodes_lack_is_told_and_all_else_goes_on(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    told = "the upgrade has skipped a release"
    with three_nodes("etcd", tmp_path) as nodes:
        restarted(nodes[2], later(tmp_path_factory.mktemp("skipped"), protocol=AFTER_NEXT[0], stored=FIRST))
        all_agree(nodes)
        for node in nodes:
            assert told in node.told
        assert told in run("status", "--node", nodes[0].url).output


@pytest.mark.parametrize("cluster", ["etcd", "sqlite"])
def test_nodes_that_cannot_read_an_entry_accept_no_session_and_say_so(cluster: str, after_next: Path, tmp_path: Path) -> None:
    with three_nodes(cluster, tmp_path) as nodes:
        token = nodes[0].log_in("carol")
        restarted(nodes[2], after_next)
        nodes[2].request("POST", "/logout", nodes[2].log_in("dan"))
        for node in nodes[:2]:
            until(lambda node=node: "finish the roll-out" in node.readiness(), "told by readyz")  # type: ignore[misc]
            assert node.status(token) == 503
            assert "finish the roll-out" in node.told


def test_a_skipped_release_is_told_and_no_session_is_accepted_there(after_next: Path, tmp_path: Path) -> None:
    with three_nodes("peers", tmp_path) as nodes:
        token = nodes[0].log_in("carol")
        skipped = nodes[2]
        skipped.end(signal.SIGTERM)
        skipped.tree = after_next
        skipped.start()
        told = "the upgrade has skipped a release"
        until(lambda: told in skipped.readiness(), "told by readyz")
        assert "take this node back to one that reads version 1, too" in skipped.readiness()
        assert skipped.status(token) == 503
        for node in nodes[:2]:
            assert node.status(token) == 200
            assert not node.readiness()
            assert told in node.told
        assert told in skipped.told
        assert told in run("status", "--node", nodes[0].url).output
        assert told in run("doctor", peers=nodes[0].settings["PEERS"], cluster="peers://", advertise_url=nodes[0].url).output
