"""The rules between settings, and the parts of ``HA_SESSION_CLUSTER``."""

from __future__ import annotations

import pickle
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ha_session_mw import Settings
from ha_session_mw._settings import checks, clusters
from ha_session_mw._settings.checks import Rule, faults
from ha_session_mw._settings.cluster_urls import ClusterUrl
from ha_session_mw.config import SETTINGS
from ha_session_mw.testing import SECRET

RULES = [*checks.RULES, *(rule for rules in clusters.RULES.values() for rule in rules)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(rule.concerns))
def test_a_rule_concerns_settings_that_exist_and_holds_for_the_defaults_of_its_cluster(rule: Rule) -> None:
    settings = Settings(secret_key=SECRET)
    told = rule.fault.format_map({name: getattr(settings, name) for name in rule.concerns})

    assert set(rule.concerns) <= SETTINGS.keys()
    assert told.startswith("HA_SESSION_")
    assert "{" not in told


def test_a_rule_is_reported_only_if_each_setting_that_it_concerns_is_valid() -> None:
    rule = Rule(("low", "high"), lambda low, high: low > high, "{low} is above {high}")
    settings = SimpleNamespace(low=2, high=1)

    assert [*faults([rule], settings, wrong=())] == ["2 is above 1"]
    assert [*faults([rule], settings, wrong={"high"})] == []
    assert [*faults([rule], settings, wrong={"another"})] == ["2 is above 1"]


@pytest.mark.parametrize("text", ["memory://", "sqlite:///var/s.db", "peers:///var/log", "etcds://a,b:1/shop"])
def test_a_cluster_is_its_text_with_parts(text: str) -> None:
    peers: dict[str, Any] = {"peers": "http://a", "advertise_url": "http://a"} if text.startswith("peers") else {}
    cluster = Settings(secret_key=SECRET, cluster=text, **peers).cluster

    assert cluster == text
    assert str(cluster) == text
    assert hash(cluster) == hash(text)
    assert repr(cluster) == repr(text)
    for other in (copy(cluster), deepcopy(cluster), pickle.loads(pickle.dumps(cluster))):
        assert isinstance(other, ClusterUrl)
        assert (other, other.scheme, other.file) == (cluster, cluster.scheme, cluster.file)
        assert (other.endpoints, other.prefix) == (cluster.endpoints, cluster.prefix)


@pytest.mark.parametrize(
    ("text", "scheme", "file"),
    [
        ("memory://", "memory", None),
        ("sqlite:///var/s.db", "sqlite", Path("/var/s.db")),
        ("peers://", "peers", None),
        ("peers:///var/log", "peers", Path("/var/log")),
        ("etcds://a", "etcds", None),
    ],
)
def test_a_cluster_names_its_scheme_and_its_file(text: str, scheme: str, file: Path | None) -> None:
    peers: dict[str, Any] = {"peers": "http://a", "advertise_url": "http://a"} if scheme == "peers" else {}
    cluster = Settings(secret_key=SECRET, cluster=text, **peers).cluster

    assert (cluster.scheme, cluster.file) == (scheme, file)


def test_a_relative_file_stays_where_it_was_when_settings_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(secret_key=SECRET, cluster="sqlite://./s.db")
    monkeypatch.chdir("/")

    assert replace(settings, cookie_name="sid").cluster.file == tmp_path / "s.db"


def test_an_app_may_give_its_settings_a_class_of_their_own() -> None:
    class ShopSettings(Settings):
        """With a method of the shop's."""

        def greeting(self) -> str:
            return f"{self.cookie_name}, {self.idle_timeout:g}"

    assert ShopSettings(secret_key=SECRET, idle_timeout="15m").greeting() == "session, 900"


def test_settings_that_were_parsed_are_parsed_again_to_the_same() -> None:
    settings = Settings(secret_key=SECRET, cluster="sqlite:///s.db", idle_timeout="15m", protect="/a, /b", max_sessions="3", track="on")

    assert replace(settings) == settings
    assert hash(replace(settings)) == hash(settings)
