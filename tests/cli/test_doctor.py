"""Each finding of ``ha-session doctor`` with its cause, and the silence without it."""

from __future__ import annotations

import json
import sqlite3
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ha_session_mw import Settings
from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.ordered.keys import LogHeartbeat, encode_beat
from ha_session_mw._core.quorum.messages import list_digest
from ha_session_mw._core.token.keys import SigningKey
from ha_session_mw.abc import PeerFailure
from ha_session_mw.cli.checkup.alone import check_alone, check_drain
from ha_session_mw.cli.checkup.among_nodes import check_nodes
from ha_session_mw.cli.checkup.findings import Finding
from ha_session_mw.cli.checkup.of_etcd import check_etcd
from ha_session_mw.models import KeyId, NodeId
from ha_session_mw.testing import SECRET

from ..operators import run

URLS = ("http://a.test", "http://b.test", "http://c.test")
PEERS: Mapping[str, Any] = {"cluster": "peers://", "peers": URLS, "advertise_url": URLS[0]}
NOW_S = 1_800_000_000.0


def settings(**values: Any) -> Settings:
    return Settings(**{"secret_key": SECRET, **values})


def found(findings: Any, text: str) -> Finding:
    """The one finding with this text."""
    [one] = [finding for finding in findings if text in finding.text]
    assert isinstance(one, Finding)
    assert one.remedy
    return one


# The environment


def test_all_faults_of_the_settings_are_told_and_no_secret_is() -> None:
    result = run("doctor", "-o", "json", secret_key="hunter2-hunter2", idle_timeout="soon", cookie_nme="x")
    told = json.loads(result.stdout)
    assert result.exit_code == 1
    assert {one["level"] for one in told} == {"error"}
    for name in ("SECRET_KEY", "IDLE_TIMEOUT", "COOKIE_NME"):
        assert any(name in one["text"] for one in told)
    assert "hunter2" not in result.output


@pytest.mark.parametrize(("mode", "text"), [(0o644, "every user"), (0o660, "others may write"), (0o602, "others may write")])
def test_a_secret_in_a_file_of_everybody_is_found(tmp_path: Path, mode: int, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    file.chmod(mode)
    assert found(check_alone(Settings(secret_key_file=file), {}), text).level == "error"
    file.chmod(0o600)
    assert not [one for one in check_alone(Settings(secret_key_file=file), {}) if one.check == "secret"]


def test_a_secret_in_a_file_of_another_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    file.chmod(0o600)
    mine = settings(secret_key=(), secret_key_file=file)
    monkeypatch.setattr("os.geteuid", lambda: file.stat().st_uid + 1)
    others = [one for one in check_alone(mine, {}) if "another user" in one.text]
    assert len(others) == (file.stat().st_uid != 0)


@pytest.mark.parametrize(
    ("values", "text", "level"),
    [
        (PEERS, "forgotten", "error"),
        ({**PEERS, "peers": URLS[:2]}, "two members cannot lose one", "error"),
        ({**PEERS, "peers": (*URLS, "http://d.test")}, "4 members survive no more", "advice"),
        (PEERS, "no HA_SESSION_STATE_DIR", "advice"),
        ({}, "plant a cookie named session", "advice"),
        ({}, "nginx turns headers", "advice"),
        ({"etcd_user": "shop", "etcd_password": "x", "cluster": "etcd://h/shop"}, "is deprecated", "advice"),
    ],
)
def test_a_setting_that_harms_is_found(values: Mapping[str, Any], text: str, level: str) -> None:
    assert found([one for one in check_alone(settings(**values), {}) if "ETCD_PASSWORD" not in one.text], text).level == level


def test_workers_that_do_not_know_each_other_are_found() -> None:
    assert found(check_alone(settings(), {"WEB_CONCURRENCY": "4"}), "WEB_CONCURRENCY=4").level == "error"


def test_a_file_in_the_place_of_a_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert found(check_alone(settings(**PEERS, state_dir=tmp_path / "file" / "state"), {}), "file is no folder").level == "error"
    assert found(check_alone(settings(cluster=f"sqlite://{tmp_path}/file/sessions.db"), {}), "file is no folder").level == "error"


def test_a_folder_that_cannot_be_written_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    assert found(check_alone(settings(**PEERS, state_dir=tmp_path / "state"), {}), "cannot write in").level == "error"


def test_a_file_that_is_no_database_is_found_before_a_node_meets_it(tmp_path: Path) -> None:
    file = tmp_path / "sessions.db"

    def findings() -> list[str]:
        return [one.text for one in check_alone(settings(cluster=f"sqlite://{file}"), {}) if one.check == "files"]

    assert findings() == []  # the node makes it
    file.write_bytes(b"no database")
    assert "is damaged, or is no database" in findings()[0]
    file.write_bytes(b"")
    assert findings() == []
    file.unlink()
    sqlite3.connect(file).execute("CREATE TABLE one (two)").connection.close()
    assert findings() == []
    file.unlink()
    file.mkdir()
    assert "cannot be read" in findings()[0]


def test_good_settings_give_no_finding(tmp_path: Path) -> None:
    good = settings(
        **{**PEERS, "cluster": f"peers://{tmp_path}/peers.db"},
        state_dir=tmp_path,
        cookie_name="__Host-session",
        cookie_https_only=True,
        drain_delay=2,
    )
    assert [one.check for one in check_alone(good, {})] == ["proxy"]
    assert [*check_drain(good, "haproxy", None, None, 60.0)] == []


def test_a_drain_that_is_too_short_for_the_balancer_is_found() -> None:
    assert found(check_drain(settings(drain_delay=1), "haproxy", 1.0, 3, None), "too short").level == "error"
    assert "HA_SESSION_DRAIN_DELAY=4s" in found(check_drain(settings(drain_delay=1), None, 1.0, 3, None), "too short").remedy
    assert found(check_drain(settings(drain_delay=4), None, 1.0, 3, 5.0), "SIGKILL").level == "error"
    assert found(check_drain(settings(**PEERS), None, None, None, None), "too short").level == "advice"
    assert [*check_drain(settings(), None, None, None, None)] == []


# The nodes


def answer(url: str, *, name: str = "", limit_s: float = 5.0, ahead_s: float = 0.0, why: str | None = None) -> dict[str, Any]:
    here = {"here": True, "url": url, "freshness_limit_s": limit_s}
    name = name or url.removeprefix("http://").partition(".")[0]
    return {"node": name, "wall_ms": int((NOW_S + ahead_s) * 1000), "not_ready_because": why, "members": [here]}


class Nodes:
    """Answers for the nodes, and remembers how often each was asked."""

    def __init__(self, **differences: Any) -> None:
        self.answers: dict[str, Any] = {url: answer(url) for url in URLS} | differences
        self.asked: list[str] = []

    def __call__(self, urls: Sequence[str]) -> Mapping[str, Any]:
        self.asked += urls
        told = {url: self.answers[url] for url in urls}
        return {url: one.pop(0) if isinstance(one, list) else one for url, one in told.items()}


def among(nodes: Nodes) -> list[Finding]:
    return [*check_nodes(settings(**PEERS), nodes, lambda: NOW_S)]


def test_nodes_that_are_well_give_no_finding() -> None:
    nodes = Nodes()
    assert among(nodes) == []
    assert nodes.asked.count(URLS[0]) == 4
    assert [*check_nodes(settings(), nodes)] == []


@pytest.mark.parametrize(
    ("differing", "text", "level"),
    [
        (PeerFailure("cannot be reached (ConnectError)"), "cannot be reached", "error"),
        (PeerFailure("answers, but knows none of our keys: …"), "none of our keys", "error"),
        (answer(URLS[2]), "answers the node whose HA_SESSION_ADVERTISE_URL is http://c.test", "error"),
        (answer(URLS[1], ahead_s=3), "3.0 s ahead of", "advice"),
        (answer(URLS[1], ahead_s=-31), "31.0 s behind", "error"),
        (answer(URLS[1], limit_s=9), "HA_SESSION_FRESHNESS_LIMIT is 5 s here and 9 s", "error"),
        (answer(URLS[1], why="no majority"), "not ready: no majority", "error"),
    ],
)
def test_a_node_that_differs_is_found(differing: Any, text: str, level: str) -> None:
    assert found(among(Nodes(**{URLS[1]: differing})), text).level == level


def test_another_list_of_members_than_the_nodes_have_is_found() -> None:
    def listed(current: Sequence[str], coming: Sequence[str] = ()) -> Nodes:
        lists = {"current": list_digest(current), "next": list_digest(coming) if coming else None, "phase": "steady"}
        return Nodes(**{URLS[1]: {**answer(URLS[1]), "member_lists": lists}})

    assert found(among(listed(URLS[:2])), "HA_SESSION_PEERS names other members here than at http://b.test").level == "error"
    for nodes in (listed(URLS), listed(URLS[::-1]), listed(URLS[:2], URLS), listed(URLS, URLS[:2])):
        assert among(nodes) == []


def test_log_outs_that_may_be_lost_are_found(tmp_path: Path) -> None:
    nodes = Nodes(**{URLS[1]: {**answer(URLS[1]), "exposed_because": "the file is older"}})
    on_disk = settings(**{**PEERS, "cluster": f"peers://{tmp_path}/peers.db"})
    assert found(check_nodes(on_disk, nodes, lambda: NOW_S), "http://b.test: the file is older").level == "error"
    assert among(nodes) == []  # that all is in memory is said of this environment


def test_two_nodes_with_one_name_are_found() -> None:
    assert found(among(Nodes(**{URLS[2]: answer(URLS[2], name="b")})), "http://b.test and http://c.test are both named b").level == "error"


def test_a_member_with_other_keys_is_found_whoever_tells_of_it() -> None:
    mine = SigningKey(SECRET.encode()).kid
    told = {**answer(URLS[1]), "kids_of_members": {"a": [mine], "b": ["odd", mine], "c": ["odd"]}}
    assert found(among(Nodes(**{URLS[1]: told})), "member c and a node with this environment cannot").check == "keys"
    rotating = {**answer(URLS[1]), "kids_of_members": {"a": ["new", mine], "b": ["new", mine]}}
    assert among(Nodes(**{URLS[1]: rotating})) == []


def test_other_processes_at_this_nodes_url_are_found() -> None:
    behind_a_balancer = [answer(URLS[0], name=name) for name in "abab"]
    assert found(among(Nodes(**{URLS[0]: behind_a_balancer})), "2 processes take turns").level == "error"
    nobody = PeerFailure("cannot be reached (ConnectError)")
    assert found(among(Nodes(**{URLS[0]: nobody})), "nothing answers at HA_SESSION_ADVERTISE_URL").level == "advice"


# etcd


class FakeEtcd:
    """Three members of etcd with users, as the gateway answers; each answer can be another one."""

    def __init__(self, **differences: Any) -> None:
        self.paths: dict[str, Any] = {
            "/version": {"etcdserver": "3.5.17"},
            "/v3/auth/authenticate": {"token": "t"},
            "/v3/kv/range": {"header": {}},
            "/v3/maintenance/alarm": {},
            "/v3/maintenance/status": {"dbSize": "1000"},
            "/v3/cluster/member/list": {"members": [{}, {}, {}]},
        } | differences

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        found = self.paths[request.url.path]
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, httpx2.Response) else httpx2.Response(200, json=found)


def at_etcd(etcd: FakeEtcd, **values: Any) -> list[Finding]:
    given = {"cluster": "etcd://one,two,three/shop", "cluster_user": "shop", "cluster_password": "guess me", **values}
    return [*check_etcd(settings(**given), lambda: httpx2.Client(transport=httpx2.MockTransport(etcd)))]


def test_an_etcd_that_is_well_gives_no_finding() -> None:
    assert at_etcd(FakeEtcd()) == []
    assert [*check_etcd(settings())] == []


@pytest.mark.parametrize(
    ("path", "differing", "text", "level"),
    [
        ("/version", {"etcdserver": "3.5.5"}, "may damage its data", "error"),
        ("/version", {"etcdserver": "3.3.27"}, "may damage its data", "error"),
        ("/version", {"something": "else"}, "does not answer as etcd does", "error"),
        ("/version", httpx2.Response(200, text="<html>"), "does not answer as etcd does", "error"),
        ("/version", httpx2.ConnectError("refused"), "cannot be reached", "error"),
        (
            "/version",
            httpx2.Response(200, json={"etcdserver": "3.5.17"}, headers={"date": "Thu, 01 Jan 2015 00:00:00 GMT"}),
            "the clock of http://one:2379 differs",
            "error",
        ),
        ("/v3/auth/authenticate", {"error": "authentication failed", "code": 3}, "refuses HA_SESSION_CLUSTER_USER", "error"),
        ("/v3/auth/authenticate", {"error": "etcdserver: authentication is not enabled"}, "asks for no user", "advice"),
        ("/v3/kv/range", {"error": "etcdserver: permission denied"}, "may not read below shop/", "error"),
        ("/v3/kv/range", {"error": "etcdserver: no leader"}, "does not answer a read", "error"),
        ("/v3/maintenance/alarm", {"alarms": [{"alarm": "NOSPACE"}]}, "NOSPACE", "error"),
        ("/v3/maintenance/alarm", {"alarms": [{"alarm": "CORRUPT"}]}, "CORRUPT", "error"),
        ("/v3/maintenance/status", {"dbSize": "90", "dbSizeQuota": "100"}, "90 % of its quota", "error"),
        ("/v3/maintenance/status", {"dbSize": str(2 * 1024**3)}, "100 % of its quota", "error"),
        ("/v3/cluster/member/list", {"members": [{}]}, "etcd has one member", "advice"),
        ("/v3/cluster/member/list", {"members": [{}] * 2}, "two members of etcd", "advice"),
        ("/v3/cluster/member/list", {"members": [{}] * 5}, "names 3 of etcd's 5 members", "advice"),
    ],
)
def test_a_fault_of_etcd_is_found(path: str, differing: Any, text: str, level: str) -> None:
    findings = at_etcd(FakeEtcd(**{path: differing}))
    assert any(text in one.text for one in findings), findings
    assert {one.level for one in findings if text in one.text} == {level}
    assert "guess me" not in str(findings)


def test_an_etcd_that_asks_for_users_is_told_from_one_that_does_not() -> None:
    etcd = FakeEtcd(**{"/v3/kv/range": {"error": "etcdserver: user name is empty"}})
    assert found(at_etcd(etcd, cluster_user=None, cluster_password=None), "one:2379 asks for a user").level == "error"
    assert found(at_etcd(FakeEtcd(), cluster_user=None, cluster_password=None), "asks for no user").level == "advice"


def test_a_member_with_other_keys_is_found_in_etcd() -> None:
    def heartbeat(member: str, kid: str) -> dict[str, str]:
        own = Heartbeat(NodeId(member), "life", "", "ready", 1, 0, (KeyId(kid),), 5.0, 0)
        return {"value": b64encode(encode_beat(LogHeartbeat(own, "log", 1, b""))).decode()}

    good, unreadable = heartbeat("a", SigningKey(SECRET.encode()).kid), {"value": b64encode(b"?").decode()}
    assert at_etcd(FakeEtcd(**{"/v3/kv/range": {"kvs": [good, unreadable]}})) == []
    odd = at_etcd(FakeEtcd(**{"/v3/kv/range": {"kvs": [good, unreadable, heartbeat("b", "odd")]}}))
    assert found(odd, "member b and a node with this environment cannot").level == "error"


# The command


def test_the_command_exits_with_one_for_an_error_and_with_zero_for_advice_alone() -> None:
    advice = run("doctor")
    assert advice.exit_code == 0
    assert "→" in advice.output
    assert run("doctor", environ={"WEB_CONCURRENCY": "4"}).exit_code == 1
    quiet = run("doctor", data="store", cookie_name="__Host-session", cookie_https_only="true")
    assert (quiet.exit_code, quiet.output) == (0, "no findings\n")
