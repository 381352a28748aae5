"""Settings of ``etcd://``: how endpoints are named, and which faults stop the start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ha_session_mw import ConfigurationError, SessionManager, Settings
from ha_session_mw._settings.cluster_urls import etcd_endpoints
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
    assert etcd_endpoints(settings.cluster) == (endpoints, prefix)
    SessionManager(settings)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"cluster": "etcd://"}, "must be etcd://host:2379,host:2379/prefix"),
        ({"cluster": "etcd:///shop"}, "must be etcd://host:2379,host:2379/prefix"),
        ({"cluster": "etcd://a:1,,b:1/shop"}, "must be etcd://host:2379,host:2379/prefix"),
        ({"cluster": "etcd://a:port/shop"}, "must be etcd://host:2379,host:2379/prefix"),
        ({"cluster": "etcd://a:1/sh op"}, "must be etcd://host:2379,host:2379/prefix"),
        ({"cluster": "etcd://http://a:1"}, "must be etcd://host:2379,host:2379/prefix"),
        ({"cluster": f"etcd://root:{PASSWORD}@a:1/shop"}, "HA_SESSION_CLUSTER=(a secret): holds a user or a password; these belong into"),
        ({"peers": "http://a:1"}, "HA_SESSION_PEERS: must not be set with etcd://"),
        ({"heartbeat": "1100ms"}, "HA_SESSION_HEARTBEAT: must be 1 s at the most with etcd://"),
        ({"freshness_limit": "1s"}, "HA_SESSION_FRESHNESS_LIMIT: must be three times HA_SESSION_HEARTBEAT or more"),
        ({"etcd_password": PASSWORD}, "HA_SESSION_ETCD_USER: goes with HA_SESSION_ETCD_PASSWORD; set both or none"),
        ({"etcd_user": "root"}, "HA_SESSION_ETCD_USER: goes with HA_SESSION_ETCD_PASSWORD; set both or none"),
        ({"etcd_user": "ro ot", "etcd_password": PASSWORD}, "HA_SESSION_ETCD_USER='ro ot': must be a name"),
        ({"etcd_user": "root", "etcd_password": [PASSWORD]}, "HA_SESSION_ETCD_PASSWORD=(a secret): must be text, got list"),
        ({"etcd_user": "root", "etcd_password_file": "/no/such/file"}, "HA_SESSION_ETCD_PASSWORD_FILE: cannot be read"),
        ({"etcd_ca_file": "/ca.pem"}, "HA_SESSION_ETCD_CA_FILE, HA_SESSION_ETCD_CERT_FILE: are for TLS; write HA_SESSION_CLUSTER=etcds://"),
        ({"cluster": "etcds://a", "etcd_cert_file": "/c"}, "HA_SESSION_ETCD_CERT_FILE: goes with HA_SESSION_ETCD_KEY_FILE"),
        (
            {"cluster": "etcds://a", "etcd_ca_file": "/no/such/file"},
            "HA_SESSION_ETCD_CERT_FILE, HA_SESSION_ETCD_KEY_FILE: ",
        ),
        ({"cluster": "memory://", "etcd_user": "root"}, "HA_SESSION_ETCD_USER: is for etcd://, and HA_SESSION_CLUSTER is another"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_fault_names_the_setting_and_the_rule(settings: dict[str, Any], fault: str) -> None:
    [told] = faults(**settings)
    assert fault in told


def test_a_password_and_its_file_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    [told] = faults(etcd_user="root", etcd_password=PASSWORD, etcd_password_file=tmp_path / "password")
    assert "HA_SESSION_ETCD_PASSWORD is set too; set one of them" in told


def test_a_password_is_read_from_its_file_each_time_and_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    settings = Settings(**GOOD, etcd_user="root", etcd_password_file=tmp_path / "password")
    assert settings.read_etcd_password() == PASSWORD
    (tmp_path / "password").write_text("another")
    assert settings.read_etcd_password() == "another"
    given = Settings(**GOOD, etcd_user="root", etcd_password=PASSWORD)
    assert given.read_etcd_password() == PASSWORD
    assert PASSWORD not in repr(settings) + repr(given)


def test_a_url_of_the_node_is_optional_and_opens_look_ups() -> None:
    assert SessionManager(Settings(**GOOD)).peering is None
    assert SessionManager(Settings(**GOOD, advertise_url="http://a:1")).peering is not None


def test_each_process_adds_something_of_its_own_to_the_name_it_was_given() -> None:
    """Workers share their settings."""
    names = {SessionManager(Settings(**GOOD, node_id="web")).node_id for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("web-") for name in names)


def test_several_workers_are_nothing_to_warn_of() -> None:
    assert Settings(**GOOD).advice({"WEB_CONCURRENCY": "4"}) is None
