"""Backends that other packages bring: named by ``HA_SESSION_CLUSTER``, found by an entry point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from ha_session_mw import ConfigurationError, SessionManager, Settings
from ha_session_mw.manager import node_of
from ha_session_mw.testing import SECRET

from ..waiting import LIMIT_S
from .board import page

MODULE = """
from tests.backends.board import page

boards = {}

def open_board(settings):
    return page.BoardAndShelves(boards.setdefault(settings.cluster, page.Board()))

def open_picky(settings):
    return page.BoardBackend(page.Board())

def faults(settings):
    if settings.cluster_user is not None and not settings.read_cluster_password():
        yield "HA_SESSION_CLUSTER_PASSWORD: is not set, and HA_SESSION_CLUSTER_USER needs it"

open_picky.faults = faults
"""


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with four backends.

    ``board://`` works, ``picky://`` objects to settings, the module of ``broken://`` has gone, and that of ``faulty://`` raises KeyError.
    """
    (tmp_path / "faulty_sessions.py").write_text("{}['a table of its own']")
    (tmp_path / "board_sessions.py").write_text(MODULE)
    info = tmp_path / "board_sessions-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: board-sessions\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[ha_session_mw.backends]\n"
        "board = board_sessions:open_board\n"
        "picky = board_sessions:open_picky\n"
        "broken = board_sessions_of_old:x\n"
        "faulty = faulty_sessions:x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def manager(cluster: str, **settings: Any) -> SessionManager:
    return SessionManager(Settings.from_environ({"HA_SESSION_CLUSTER": cluster, "HA_SESSION_SECRET_KEY": SECRET}, **settings))


@pytest.mark.anyio
async def test_the_backend_of_another_package_is_named_like_one_of_ours() -> None:
    a, b, elsewhere = manager("board://here"), manager("board://here"), manager("board://there")
    id = node_of(a).issuer.new_id()
    await a.revoke_session(id)
    for one in (b, elsewhere):
        node_of(one).refresh()

    assert (id in node_of(b).view.denied, id in node_of(elsewhere).view.denied) == (True, False)
    assert (await b.status())["cluster"] == "board"


def test_its_nodes_may_say_where_they_are_but_have_no_list_of_peers() -> None:
    with pytest.raises(ConfigurationError, match="has no peers"):
        manager("board://here", peers="http://a.test")


def test_an_unknown_scheme_is_reported_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigurationError, match=r"HA_SESSION_CLUSTER='bord://x': must be memory://, .*; or, of other packages: .*board://"
    ):
        manager("bord://x")


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="must not contain a user or a password") as told:
        manager("board://me:hunter2@here")
    assert "hunter2" not in str(told.value)


def test_a_backend_that_cannot_be_loaded_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="the backend for broken:// cannot be loaded: No module named 'board_sessions_of_old'"):
        manager("broken://here")


def test_a_fault_inside_the_package_of_a_backend_is_no_fault_of_the_settings() -> None:
    with pytest.raises(KeyError, match="a table of its own"):
        manager("faulty://here")


@pytest.mark.parametrize(("setting", "value"), [("data", "store"), ("track", "on")])
def test_a_backend_without_the_store_that_a_setting_needs_stops_the_start(setting: str, value: Any) -> None:
    settings = Settings.from_environ({}, secret_key=SECRET, **{setting: value})
    with pytest.raises(ConfigurationError, match=f"HA_SESSION_{setting.upper()}='{value}': board:// has no store"):
        SessionManager(settings, backend=page.BoardBackend(page.Board()))


@pytest.mark.anyio
async def test_a_task_that_was_added_before_a_fork_runs_in_the_child_too() -> None:
    """The middleware adds one, when the app is made, and servers may fork afterwards."""
    forked, ran = manager("board://here"), anyio.Event()

    async def task() -> None:
        ran.set()

    node_of(forked).add_task("connections", task)
    node_of(forked).after_fork(in_child=True)
    with anyio.fail_after(LIMIT_S):
        async with forked.running():
            await ran.wait()


def test_the_faults_that_a_backend_finds_are_in_one_message_with_all_others() -> None:
    with pytest.raises(ConfigurationError) as told:
        manager("picky://here", cluster_user="root", idle_timeout="soon")

    assert [fault.partition(":")[0] for fault in told.value.faults] == ["HA_SESSION_IDLE_TIMEOUT='soon'", "HA_SESSION_CLUSTER_PASSWORD"]
    manager("picky://here", cluster_user="root", cluster_password="correct horse")
