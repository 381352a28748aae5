"""Settings of ``etcd://``: how endpoints are named, and which faults stop the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ha_session_mw import ConfigurationError, SessionManager, Settings
from ha_session_mw.config import DEPRECATED
from ha_session_mw.manager import node_of
from ha_session_mw.testing import SECRET

PASSWORD = "correct horse battery staple"
GOOD: Mapping[str, Any] = {"secret_key": SECRET, "cluster": "etcd://a:1,b:2/shop"}


def faults(**settings: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as refused:
        SessionManager(Settings(**{**GOOD, **settings}))
    assert PASSWORD not in str(refused.value)
    return refused.value.faults


@pytest.mark.parametrize(
    ("cluster", "endpoints", "prefix"),
    [
        ("etcd://a:1,b:2/shop", ("http://a:1", "http://b:2"), "shop"),
        ("etcds://a:1/shop/web/", ("https://a:1",), "shop/web"),
        ("etcd://etcd.internal", ("http://etcd.internal:2379",), "ha-session"),
        ("etcd://10.0.0.1,[::1]:4,[fe80::2]/", ("http://10.0.0.1:2379", "http://[::1]:4", "http://[fe80::2]:2379"), "ha-session"),
    ],
)
def test_endpoints_and_a_prefix_are_read(cluster: str, endpoints: tuple[str, ...], prefix: str) -> None:
    settings = Settings(secret_key=SECRET, cluster=cluster)
    assert (settings.cluster.endpoints, settings.cluster.prefix) == (endpoints, prefix)
    SessionManager(settings)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"cluster": "etcd://"}, "must be etcd://host:2379,host:2379/prefix"),
        ({"cluster": "etcd:///shop"}, "must be etcd://host:2379,host:2379/prefix"),
        ({"cluster": "etcd://a:1,,b:1/shop"}, "must be etcd://host:2379,host:2379/prefix"),
        ({"cluster": "etcd://a:1,[::1]:99999/shop"}, "must have a port from 1 to 65535"),
        ({"cluster": "etcd://a:port/shop"}, "must be etcd://host:2379,host:2379/prefix"),
        ({"cluster": "etcd://a:1/sh op"}, "must be etcd://host:2379,host:2379/prefix"),
        ({"cluster": "etcd://http://a:1"}, "must be etcd://host:2379,host:2379/prefix"),
        (
            {"cluster": f"etcd://root:{PASSWORD}@a:1/shop"},
            "HA_SESSION_CLUSTER=(a secret): must not contain a user or a password; set HA_SESSION_CLUSTER_USER and",
        ),
        ({"peers": "http://a:1"}, "HA_SESSION_PEERS: must not be set with etcd://"),
        ({"heartbeat": "1100ms"}, "HA_SESSION_HEARTBEAT: must be at most 1 s with etcd://"),
        ({"freshness_limit": "1s"}, "HA_SESSION_FRESHNESS_LIMIT: must be at least three times HA_SESSION_HEARTBEAT"),
        ({"cluster_password": PASSWORD}, "HA_SESSION_CLUSTER_USER: goes with HA_SESSION_CLUSTER_PASSWORD; set both or neither"),
        (
            {"routing": "redirect", "owned": "/rooms/*"},
            "HA_SESSION_ROUTING='redirect': the other nodes cannot reach this one; set HA_SESSION_ADVERTISE_URL, too",
        ),
        ({"cluster_user": "root"}, "HA_SESSION_CLUSTER_USER: goes with HA_SESSION_CLUSTER_PASSWORD; set both or neither"),
        ({"cluster_user": "ro ot", "cluster_password": PASSWORD}, "HA_SESSION_CLUSTER_USER='ro ot': must be a name"),
        ({"cluster_user": "root", "cluster_password": [PASSWORD]}, "HA_SESSION_CLUSTER_PASSWORD=(a secret): must be text, got list"),
        ({"cluster_user": "root", "cluster_password_file": "/no/such/file"}, "HA_SESSION_CLUSTER_PASSWORD_FILE: cannot be read"),
        (
            {"cluster_ca_file": "/ca.pem"},
            "HA_SESSION_CLUSTER_CA_FILE, HA_SESSION_CLUSTER_CERT_FILE: are for TLS; write HA_SESSION_CLUSTER=etcds://",
        ),
        ({"cluster": "etcds://a", "cluster_cert_file": "/c"}, "HA_SESSION_CLUSTER_CERT_FILE: goes with HA_SESSION_CLUSTER_KEY_FILE"),
        (
            {"cluster": "etcds://a", "cluster_ca_file": "/no/such/file"},
            "HA_SESSION_CLUSTER_CERT_FILE, HA_SESSION_CLUSTER_KEY_FILE: ",
        ),
        (
            {"cluster": "memory://", "cluster_user": "root"},
            "HA_SESSION_CLUSTER_USER: needs a server to connect to; HA_SESSION_CLUSTER=memory:// has none",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_fault_names_the_setting_and_the_rule(settings: dict[str, Any], fault: str) -> None:
    [told] = faults(**settings)
    assert fault in told


def test_a_password_and_its_file_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    [told] = faults(cluster_user="root", cluster_password=PASSWORD, cluster_password_file=tmp_path / "password")
    assert "HA_SESSION_CLUSTER_PASSWORD is set too; set one of them" in told


def test_a_password_is_read_from_its_file_each_time_and_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    settings = Settings(**GOOD, cluster_user="root", cluster_password_file=tmp_path / "password")
    assert settings.read_cluster_password() == PASSWORD
    (tmp_path / "password").write_text("another")
    assert settings.read_cluster_password() == "another"
    given = Settings(**GOOD, cluster_user="root", cluster_password=PASSWORD)
    assert given.read_cluster_password() == PASSWORD
    assert PASSWORD not in repr(settings) + repr(given)


def test_a_url_of_the_node_is_optional_and_opens_look_ups() -> None:
    assert node_of(SessionManager(Settings(**GOOD))).peering is None
    assert node_of(SessionManager(Settings(**GOOD, advertise_url="http://a:1"))).peering is not None


def test_each_process_adds_something_of_its_own_to_the_name_it_was_given() -> None:
    """Workers share their settings."""
    names = {SessionManager(Settings(**GOOD, node_id="web")).node_id for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("web-") for name in names)


def test_several_workers_are_nothing_to_warn_of() -> None:
    assert Settings(**GOOD).advice({"WEB_CONCURRENCY": "4"}) == []


# The names of earlier releases

OLD_NAMES = {
    "etcd_ca_file": "cluster_ca_file",
    "etcd_cert_file": "cluster_cert_file",
    "etcd_key_file": "cluster_key_file",
    "etcd_user": "cluster_user",
    "etcd_password": "cluster_password",
    "etcd_password_file": "cluster_password_file",
}


def test_the_names_of_earlier_releases_are_known() -> None:
    assert DEPRECATED == OLD_NAMES


def test_variables_of_earlier_releases_still_work(tmp_path: Path) -> None:
    environ = {
        "HA_SESSION_SECRET_KEY": SECRET,
        "HA_SESSION_CLUSTER": "etcds://a",
        "HA_SESSION_ETCD_CA_FILE": "/ca.pem",
        "HA_SESSION_ETCD_CERT_FILE": "/cert.pem",
        "HA_SESSION_ETCD_KEY_FILE": "/key.pem",
        "HA_SESSION_ETCD_USER": "root",
        "HA_SESSION_ETCD_PASSWORD": PASSWORD,
    }
    settings = Settings.from_environ(environ)

    assert (settings.cluster_ca_file, settings.cluster_cert_file) == (Path("/ca.pem"), Path("/cert.pem"))
    assert (settings.cluster_key_file, settings.cluster_user) == (Path("/key.pem"), "root")
    assert settings.read_cluster_password() == PASSWORD
    assert PASSWORD not in repr(settings)


def test_arguments_of_earlier_releases_still_work(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    settings = Settings(**GOOD, etcd_user="root", etcd_password_file=tmp_path / "password")

    assert (settings.cluster_user, settings.read_cluster_password()) == ("root", PASSWORD)
    assert replace(settings, cookie_name="sid").read_cluster_password() == PASSWORD


def test_an_old_name_is_reported_to_the_operator_and_a_new_one_is_not() -> None:
    old, new = Settings(**GOOD, etcd_user="root", etcd_password=PASSWORD), Settings(**GOOD, cluster_user="root", cluster_password=PASSWORD)

    assert old.advice({}) == [
        "HA_SESSION_ETCD_USER is deprecated and will be removed; set HA_SESSION_CLUSTER_USER instead",
        "HA_SESSION_ETCD_PASSWORD is deprecated and will be removed; set HA_SESSION_CLUSTER_PASSWORD instead",
    ]
    assert new.advice({}) == []


def test_a_node_logs_once_at_start_that_a_name_is_deprecated(caplog: pytest.LogCaptureFixture) -> None:
    SessionManager(Settings(**GOOD, etcd_user="root", etcd_password=PASSWORD))

    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == ["HA_SESSION_ETCD_USER", "HA_SESSION_ETCD_PASSWORD"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("old", OLD_NAMES)
def test_an_old_and_a_new_name_with_different_values_are_a_fault(old: str) -> None:
    new = OLD_NAMES[old]
    told = faults(**{"cluster": "etcds://a", old: "one", new: "other"})

    assert f"HA_SESSION_{old.upper()}: HA_SESSION_{new.upper()} is set too; set only the latter" in told


def test_a_bad_value_is_reported_with_the_name_that_was_used() -> None:
    [told] = faults(etcd_user="ro ot", etcd_password=PASSWORD)
    assert told.startswith("HA_SESSION_ETCD_USER='ro ot': must be a name")


@pytest.mark.parametrize("name", ["etcd_user", "cluster_user"])
def test_an_argument_goes_before_a_variable_whichever_names_they_have(name: str) -> None:
    given: dict[str, Any] = {name: "root"}
    for variable in ("HA_SESSION_ETCD_USER", "HA_SESSION_CLUSTER_USER"):
        environ = {"HA_SESSION_SECRET_KEY": SECRET, variable: "shop", "HA_SESSION_CLUSTER_PASSWORD": PASSWORD}
        settings = Settings.from_environ(environ, cluster="etcd://a", **given)
        assert settings.cluster_user == "root"
