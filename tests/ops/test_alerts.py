"""The alert rules, by the real promtool: each fires in one case and is quiet in another, and each has a section in the runbook."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ha_session_mw.ops.figures import FIGURES

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations"
RULES: list[dict[str, Any]] = yaml.safe_load((OPERATIONS / "alerts.yml").read_text())["groups"][0]["rules"]
RUNBOOK = (OPERATIONS / "runbook.md").read_text("utf-8")
BOARD: dict[str, Any] = json.loads((OPERATIONS / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = BOARD["panels"]
NAMES = {figure.name for figure in FIGURES}
QUERIES = [*(rule["expr"] for rule in RULES), *(target["expr"] for panel in PANELS for target in panel["targets"])]


@pytest.mark.parametrize("command", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")], ids=" ".join)
def test_promtool_is_content(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], cwd=OPERATIONS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_quiet() -> None:
    cases = yaml.safe_load((OPERATIONS / "alerts.test.yml").read_text())["tests"]
    tried = {(test["alertname"], bool(test["exp_alerts"])) for case in cases for test in case["alert_rule_test"]}
    assert tried == {(rule["alert"], fires) for rule in RULES for fires in (True, False)}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_has_a_section_in_the_runbook(rule: dict[str, Any]) -> None:
    assert f"\n## {rule['alert']}\n" in RUNBOOK
    assert rule["annotations"]["runbook_url"] == f"docs/operations/runbook.md#{rule['alert'].lower()}"


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_asks_for_metrics_that_exist(query: str) -> None:
    named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"ha_session_\w+", query)}
    assert named
    assert named <= NAMES


COLUMNS = 24
"""The width of Grafana's grid."""


def test_grafana_can_lay_the_dashboard_out_and_asks_which_prometheus_it_is() -> None:
    """The types of @grafana/schema 13.2 accept it too. They say nothing of what must be unique."""
    assert len(BOARD["uid"]) <= 40
    assert [(one["name"], one["type"], one["query"]) for one in BOARD["templating"]["list"]] == [("datasource", "datasource", "prometheus")]
    assert all(panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for panel in PANELS)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        ids = [target["refId"] for target in panel["targets"]]
        assert len({*ids}) == len(ids) > 0
    places = [panel["gridPos"] for panel in PANELS]
    cells = [(x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
    assert len({*cells}) == len(cells)
    assert all(0 <= x < COLUMNS for x, _ in cells)
