"""The configurations of balancers, as text, and the command that prints them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ha_session_mw import ConfigurationError
from ha_session_mw.cli import KINDS, Kind, lb_config
from ha_session_mw.cli.__main__ import main
from ha_session_mw.cli.commands import ha_session
from ha_session_mw.config import Settings
from ha_session_mw.testing import SECRET

NODES = ("http://10.0.0.1:8000", "http://node-2.internal", "http://[fd00::3]:8000/")
PEERS = {"cluster": "peers://", "peers": "http://10.0.0.7:8000,http://10.0.0.8:8000", "advertise_url": "http://10.0.0.7:8000"}


def settings(**values: Any) -> Settings:
    return Settings(secret_key=SECRET, **values)


@pytest.mark.parametrize("kind", KINDS)
def test_all_nodes_the_address_and_the_paths_are_named(kind: Kind) -> None:
    text = lb_config(kind, settings(endpoints="/-/s"), listen="[::1]:8443", nodes=NODES)

    for port, host in ((8000, "10.0.0.1"), (80, "node-2.internal"), (8000, "fd00::3"), (8443, "::1")):
        assert (f'"address": "{host}",\n' if kind == "envoy" else f"{host}:{port}" if ":" not in host else f"[{host}]:{port}") in text
    assert "/-/s/peer/" in text
    assert "/-/s/admin/" in text
    assert "/-/session" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_nodes_are_the_members_unless_others_are_named(kind: Kind) -> None:
    assert "10.0.0.8" in lb_config(kind, settings(**PEERS))
    assert "10.0.0.8" not in lb_config(kind, settings(**PEERS), nodes=NODES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("transports", "cookie", "bearer"), [("cookie", True, False), ("bearer", False, True), ("cookie,bearer", True, True)]
)
def test_a_transport_that_carries_no_tokens_is_not_read(kind: Kind, transports: str, *, cookie: bool, bearer: bool) -> None:
    text = lb_config(kind, settings(transports=transports, cookie_name="mycookie"), nodes=NODES)

    assert ("mycookie" in text) == cookie
    assert ("authorization" in text) == bearer


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_and_no_place_on_this_machine_gets_into_it(kind: Kind) -> None:
    text = lb_config(kind, settings(state_dir="/var/lib/shop", **PEERS))

    assert SECRET not in text
    assert "/var/lib" not in text


def test_envoy_tries_as_many_requests_elsewhere_as_a_node_that_drains_refuses() -> None:
    document = json.loads("\n".join(line for line in lb_config("envoy", settings(), nodes=NODES).splitlines() if not line.startswith("#")))
    clusters = document["static_resources"]["clusters"]
    assert {cluster["name"]: cluster["circuit_breakers"]["thresholds"][0]["max_retries"] for cluster in clusters} == dict.fromkeys(
        (cluster["name"] for cluster in clusters), 1024
    )
    assert len(clusters) >= 3


def test_envoys_file_is_yaml_in_the_form_of_json() -> None:
    lines = lb_config("envoy", settings(), nodes=NODES).splitlines()

    assert json.loads("\n".join(line for line in lines if not line.startswith("#")))["static_resources"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("node", "told"),
    [
        ("ftp://10.0.0.1:8000", "https://"),
        ("10.0.0.1:8000", "http://"),
        ("http://10.0.0.1:8000/path", "such as"),
        ("http://10.0.0.1:0", "such as"),
        ("http://10.0.0.1:99999", "such as"),
        ("http://a; } daemon off", "such as"),
        ('http://a"b:80', "such as"),
        ("http://a\nbind *:1:80", "such as"),
        ("http://user@a:80", "such as"),
        ("http://:80", "such as"),
    ],
)
def test_what_is_no_node_never_gets_into_a_configuration(kind: Kind, node: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        lb_config(kind, settings(), nodes=[node])


SECURE = ("https://10.0.0.1:8443", "https://node-2.internal")


@pytest.mark.parametrize("kind", KINDS)
def test_nodes_with_https_are_called_over_tls_and_checked(kind: Kind) -> None:
    text = lb_config(kind, settings(), nodes=SECURE, server_name="shop.internal", ca_file="/etc/shop/ca.pem")

    assert "/etc/shop/ca.pem" in text
    assert "shop.internal" in text
    assert ('"port_value": 443' if kind == "envoy" else "node-2.internal:443") in text
    assert "/etc/ssl/certs/ca-certificates.crt" in lb_config(kind, settings(), nodes=SECURE, server_name="shop.internal")
    assert "ssl" not in lb_config(kind, settings(), nodes=NODES).replace("ssl_fc", "")


@pytest.mark.parametrize(
    ("nodes", "facts", "told"),
    [
        (SECURE, {}, "--server-name"),
        ((*SECURE, NODES[0]), {"server_name": "a"}, "all have http:// or all have https://"),
        (NODES, {"server_name": "a"}, "https://"),
        (NODES, {"ca_file": "/a"}, "https://"),
        (SECURE, {"server_name": "a; }"}, "must be a DNS name"),
        (SECURE, {"server_name": "a\n"}, "must be a DNS name"),
        (SECURE, {"server_name": "a", "ca_file": "ca.pem"}, "whole path"),
        (SECURE, {"server_name": "a", "ca_file": "/a b"}, "whole path"),
        (SECURE, {"server_name": "a", "ca_file": "/a;"}, "whole path"),
    ],
)
def test_wrong_facts_about_https_are_refused(nodes: tuple[str, ...], facts: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        lb_config("nginx", settings(), nodes=nodes, **facts)


@pytest.mark.parametrize("listen", ["8080", ":8080", "a:b", "a:0", "a:65536", "a b:80", "a;b:80", "a:٨٠", ""])
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(ConfigurationError, match="must be host:port"):
        lb_config("nginx", settings(), listen=listen, nodes=NODES)


def test_without_nodes_it_says_where_they_come_from() -> None:
    with pytest.raises(ConfigurationError, match="HA_SESSION_PEERS"):
        lb_config("haproxy", settings())


def test_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be one of nginx, haproxy, envoy"):
        lb_config("apache", settings(), nodes=NODES)  # type: ignore[arg-type]


# The command


def run(*arguments: str, **environ: str) -> tuple[int, str, str]:
    ran = CliRunner().invoke(ha_session, arguments, env={f"HA_SESSION_{name}": value for name, value in environ.items()})
    return ran.exit_code, ran.stdout, ran.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_prints_what_the_function_returns(kind: Kind) -> None:
    code, told, _ = run("lb-config", kind, "--listen", "10.0.0.9:80", "--node", NODES[0], "--node", NODES[1], COOKIE_NAME="sid")

    assert code == 0
    assert told == lb_config(kind, settings(cookie_name="sid"), listen="10.0.0.9:80", nodes=NODES[:2])


def test_the_command_takes_the_facts_about_https() -> None:
    code, told, _ = run("lb-config", "haproxy", "--node", SECURE[0], "--server-name", "shop.internal", "--ca-file", "/etc/ca.pem")

    assert code == 0
    assert told == lb_config("haproxy", settings(), nodes=SECURE[:1], server_name="shop.internal", ca_file="/etc/ca.pem")


def test_the_command_needs_no_secret_and_takes_the_members_from_the_environment() -> None:
    environ = {name.upper(): value for name, value in PEERS.items()}
    assert "10.0.0.8:8000" in run("lb-config", "nginx", **environ)[1]
    assert "10.0.0.8:8000" in run("lb-config", "nginx", **environ, SECRET_KEY_FILE="/nowhere")[1]


@pytest.mark.parametrize(
    ("arguments", "environ", "told"),
    [
        (["lb-config", "apache"], {}, "apache"),
        (["lb-config", "nginx"], {}, "HA_SESSION_PEERS"),
        (["lb-config", "nginx", "--node", "ftp://x"], {}, "ftp://x"),
        (["lb-config", "nginx", "--node", NODES[0]], {"COKIE_NAME": "x"}, "HA_SESSION_COKIE_NAME"),
        (["balance"], {}, "balance"),
    ],
)
def test_a_wrong_use_exits_with_2_and_names_the_fault(arguments: list[str], environ: dict[str, str], told: str) -> None:
    code, printed, fault = run(*arguments, **environ)

    assert (code, printed) == (2, "")
    assert told in fault


def test_without_click_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name in ("click", "ha_session_mw.cli.commands")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "click", None)

    with pytest.raises(SystemExit, match=r"ha-session-mw\[cli\]"):
        main()


def test_the_function_needs_no_click() -> None:
    code = "import sys; from ha_session_mw.cli import lb_config; print('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout == "False\n"


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "behind-a-load-balancer.md"


@pytest.mark.parametrize("line", re.findall(r"^\$ ha-session (.+?)(?: >.*)?$", PAGE.read_text("utf-8"), re.MULTILINE))
def test_the_commands_on_the_page_work(line: str) -> None:
    assert run(*shlex.split(line), PEERS=PEERS["peers"], ADVERTISE_URL=PEERS["advertise_url"], CLUSTER="peers://")[0] == 0
