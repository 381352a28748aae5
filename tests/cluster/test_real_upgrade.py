"""Two releases side by side: nodes of both validate each other's sessions and log-outs, while all are restarted one after another."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from ..engines import etcd
from ..waiting import until
from .test_real import APP, ROOT, Served, served

pytestmark = [pytest.mark.real, pytest.mark.prove]

BEFORE_A_RELEASE = "938fc80"
"""The build to compare with until there is a tag: the last one that was finished before this one. ``PREVIOUS`` names another."""


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the last release."""
    try:
        tags = git("tag", "--list", "v*", "--sort=-version:refname", "--merged", "HEAD").decode().split()
        commit = os.environ.get("PREVIOUS") or (tags[0] if tags else BEFORE_A_RELEASE)
        archive = git("archive", "--format=tar", commit, "ha_session_mw")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this copy of the repository has no history")
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
        tree.extractall(folder, filter="data")
    return folder


def test_the_tree_of_the_last_release_is_really_imported(previous: Path) -> None:
    command = [sys.executable, "-c", "import ha_session_mw; print(ha_session_mw.__file__)"]
    told = subprocess.run(command, env={"PYTHONPATH": str(previous)}, cwd=previous, check=True, capture_output=True, text=True)
    assert Path(told.stdout.strip()).is_relative_to(previous)


def all_agree(nodes: list[Served]) -> None:
    """Each node's sessions are good on all, and a log-out at each is in force on all."""
    for place, issuer in enumerate(nodes):
        token, stays = issuer.log_in("ada"), issuer.log_in("bob")
        assert [node.status(token) for node in nodes] == [200] * 3, issuer.name
        answer = nodes[place - 1].request("POST", "/logout", token)
        assert (answer.status_code, answer.headers["session-revocation"]) == (200, "fenced"), answer.text
        assert [node.status(token) for node in nodes] == [401] * 3, issuer.name
        assert [node.status(stays) for node in nodes] == [200] * 3, issuer.name


@pytest.mark.parametrize("cluster", ["peers", "peers with files", "etcd"])
def test_two_releases_serve_side_by_side_in_both_directions(cluster: str, previous: Path, tmp_path: Path) -> None:
    with ExitStack() as held:
        more = {"CLUSTER": "peers://"}
        if cluster == "etcd":
            more = {"CLUSTER": held.enter_context(etcd()).cluster("shop"), "PEERS": ""}
        elif cluster == "peers with files":
            more = {"CLUSTER": f"peers://{tmp_path}/{{name}}.db"}
        running = served(tmp_path, APP, more)
        nodes = next(running)
        held.callback(running.close)  # type: ignore[attr-defined]
        token, ended = nodes[0].log_in("carol"), nodes[0].log_in("dan")
        assert nodes[1].request("POST", "/logout", ended).headers["session-revocation"] == "fenced"
        for tree in (previous, ROOT):
            for node in nodes:
                node.end(signal.SIGTERM)
                node.tree = tree
                node.start()
                until(lambda node=node: not node.readiness(), "ready again")  # type: ignore[misc]
                all_agree(nodes)
                assert [one.status(token) for one in nodes] == [200] * 3
                assert [one.status(ended) for one in nodes] == [401] * 3
