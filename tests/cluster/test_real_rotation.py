"""The day's list of a key rotation, by its commands alone, on three real nodes: no user is logged out."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ha_session_mw.testing import SECRET

from ..operators import run
from ..waiting import until
from .test_real import APP, Served, served

pytestmark = [pytest.mark.real, pytest.mark.prove]

LIFE_S = 45.0


def keys(*arguments: str, nodes: list[Served], variables: Mapping[str, str]) -> Result:
    """Run ``ha-session keys`` with these variables of the nodes, at the one whose start is the longest ago."""
    lives: dict[str, Any] = {"absolute_timeout": LIFE_S, "idle_timeout": LIFE_S}
    return run("keys", *arguments, "-o", "json", "--node", nodes[0].url, environ=variables, **lives)


def told(*arguments: str, nodes: list[Served], variables: Mapping[str, str]) -> Any:
    found = keys(*arguments, nodes=nodes, variables=variables)
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def give(nodes: list[Served], variables: Mapping[str, str], tokens: list[str]) -> None:
    """Restart one node after another with these variables."""
    for node in nodes:
        node.end(signal.SIGTERM)
        node.settings["SECRET_KEY_FALLBACKS"] = variables["HA_SESSION_SECRET_KEY_FALLBACKS"]
        node.start(secret=variables["HA_SESSION_SECRET_KEY"])
        until(lambda node=node: not node.readiness(), "ready again")  # type: ignore[misc]
        tokens.append(node.log_in("ada"))
        assert {one.status(token) for one in nodes for token in tokens} == {200}


def test_a_key_is_staged_promoted_and_retired_in_three_rounds(tmp_path: Path) -> None:
    lives = {"ABSOLUTE_TIMEOUT": str(LIFE_S), "IDLE_TIMEOUT": str(LIFE_S)}
    running = served(tmp_path, APP, lives)
    nodes = next(running)
    try:
        first = {"HA_SESSION_SECRET_KEY": SECRET, "HA_SESSION_SECRET_KEY_FALLBACKS": ""}
        [old] = [key["kid"] for key in told("list", nodes=nodes, variables=first)["keys"]]
        staged = told("stage", nodes=nodes, variables=first)
        give(nodes, staged, [])
        [new] = [key["kid"] for key in told("list", nodes=nodes, variables=staged)["keys"] if key["kid"] != old]
        promoted = told("promote", new, nodes=nodes, variables=staged)
        give(nodes, promoted, [])
        assert "is still needed" in keys("retire", old, nodes=nodes, variables=promoted).output
        until(lambda: keys("retire", old, nodes=nodes, variables=promoted).exit_code == 0, "safe", limit_s=4 * LIFE_S)
        retired = told("retire", old, nodes=nodes, variables=promoted)
        assert SECRET not in retired.values()
        give(nodes, retired, [nodes[0].log_in("bob")])
    finally:
        running.close()  # type: ignore[attr-defined]
