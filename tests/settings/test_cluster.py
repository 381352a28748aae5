"""Faults of the cluster's settings: one message lists all of them before anything starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ha_session_mw import ConfigurationError, SessionManager, Settings
from ha_session_mw._core.quorum.messages import Batch, encode
from ha_session_mw._machine.journal import JournalFile
from ha_session_mw.version import BATCH

SECRET = "9hQ2vX7mRk4TzLwB8sNpYd3JfGcVuA6E"
URLS = ("http://a:1", "http://b:1", "http://c:1")
GOOD: Mapping[str, Any] = {"secret_key": SECRET, "cluster": "peers://", "peers": ",".join(URLS), "advertise_url": URLS[0]}


def faults(**settings: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as refused:
        Settings(**{**GOOD, **settings})
    return refused.value.faults


def test_the_settings_of_a_cluster_are_read() -> None:
    settings = Settings(**GOOD)
    assert settings.peers == URLS
    assert settings.advertise_url == URLS[0]
    assert (settings.heartbeat, settings.freshness_limit, settings.peer_timeout) == (0.5, 5.0, 0.25)
    assert settings.no_quorum == "provisional"


def test_sqlite_says_at_the_start_that_it_needs_a_posix_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")

    with pytest.raises(ConfigurationError, match=r"HA_SESSION_CLUSTER='sqlite:///s\.db': needs a POSIX system, such as Linux"):
        Settings(secret_key=SECRET, cluster="sqlite:///s.db")


def test_a_slash_at_the_end_of_a_url_does_not_make_another_url() -> None:
    settings = Settings(**{**GOOD, "peers": "http://a:1/, http://b:1 ,http://c:1/", "advertise_url": "http://a:1/"})
    assert settings.peers == URLS
    assert settings.advertise_url == URLS[0]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"cluster": "etcd:/x"}, "HA_SESSION_CLUSTER='etcd:/x': must be memory://, sqlite:///path/of/a/file, peers:// or"),
        ({"cluster": "peers://relative"}, "HA_SESSION_CLUSTER='peers://relative': must be memory://"),
        ({"cluster": "peers"}, "HA_SESSION_CLUSTER='peers': must be memory://"),
        ({"peers": "http://a:1,http://a:1/"}, "HA_SESSION_PEERS='http://a:1,http://a:1/': names a member twice"),
        ({"peers": ",".join(f"http://n{i}:1" for i in range(10))}, "names 10 members, and 9 is the most"),
        ({"peers": "a:1,b:1"}, "HA_SESSION_PEERS='a:1,b:1': must be an http or https URL"),
        ({"peers": "http://a:1/app"}, "must be an http or https URL such as http://10.0.0.1:8000, without a path"),
        ({"advertise_url": "ftp://a:1"}, "HA_SESSION_ADVERTISE_URL='ftp://a:1': must be an http or https URL"),
        ({"advertise_url": "http://a:80O0"}, "HA_SESSION_ADVERTISE_URL='http://a:80O0': must be an http or https URL"),
        ({"advertise_url": "http://:8000"}, "HA_SESSION_ADVERTISE_URL='http://:8000': must be an http or https URL"),
        ({"advertise_url": "http://a:65536"}, "HA_SESSION_ADVERTISE_URL='http://a:65536': must have a port from 1 to 65535"),
        ({"peers": "http://a:1,http://b:0"}, "HA_SESSION_PEERS='http://a:1,http://b:0': must have a port from 1 to 65535"),
        ({"advertise_url": "http://user:word@a:1"}, "without a path or a password"),
        (
            {"advertise_url": "http://d:1"},
            "HA_SESSION_ADVERTISE_URL='http://d:1': is not one of HA_SESSION_PEERS, which must name this node, too",
        ),
        ({"peers_next": "ftp://a:1"}, "HA_SESSION_PEERS_NEXT='ftp://a:1': must be an http or https URL"),
        ({"peers_next": "http://a:1,http://a:1"}, "names a member twice"),
        ({"advertise_url": None}, "HA_SESSION_ADVERTISE_URL: is not set, and HA_SESSION_CLUSTER=peers:// needs this node's own URL"),
        ({"peers": ""}, "HA_SESSION_PEERS: is not set, and HA_SESSION_CLUSTER=peers:// needs the URLs of all members"),
        ({"freshness_limit": "1s"}, "HA_SESSION_FRESHNESS_LIMIT: must be at least three times HA_SESSION_HEARTBEAT"),
        ({"heartbeat": "2s"}, "HA_SESSION_FRESHNESS_LIMIT: must be at least three times HA_SESSION_HEARTBEAT"),
        ({"heartbeat": "0"}, "HA_SESSION_HEARTBEAT='0': must be a duration above zero"),
        ({"routing": "redirect"}, "HA_SESSION_ROUTING='redirect': there is no path to route; name those whose handlers keep something"),
        ({"routing": "on", "owned": "/rooms/*"}, "HA_SESSION_ROUTING='on': must be one of serve, redirect"),
        ({"owned": "rooms"}, "HA_SESSION_OWNED='rooms': each pattern must begin with / or *"),
        ({"peer_timeout": "soon"}, "HA_SESSION_PEER_TIMEOUT='soon': must be a duration above zero"),
        ({"no_quorum": "ignore"}, "HA_SESSION_NO_QUORUM='ignore': must be one of provisional, refuse"),
        ({"state_dir": "a\0b"}, "HA_SESSION_STATE_DIR"),
        ({"peer_cert_file": "/c.pem"}, "HA_SESSION_PEER_CERT_FILE: goes with HA_SESSION_PEER_KEY_FILE; set both or neither"),
        ({"cluster": "memory://"}, "HA_SESSION_CLUSTER='memory://': has no peers; with HA_SESSION_PEERS and"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_fault_names_the_setting_and_the_rule(settings: dict[str, Any], fault: str) -> None:
    [told] = faults(**settings)
    assert fault in told


def test_all_faults_are_reported_at_once() -> None:
    told = "\n".join(faults(peers="", advertise_url=None, freshness_limit="1s", secret_key="short", idle_timeout="soon"))
    for name in ("PEERS", "ADVERTISE_URL", "FRESHNESS_LIMIT", "SECRET_KEY", "IDLE_TIMEOUT"):
        assert f"HA_SESSION_{name}" in told


def test_a_weak_secret_is_never_only_logged_where_there_are_peers() -> None:
    [told] = faults(secret_key="example", allow_weak_secret=True)
    assert "HA_SESSION_SECRET_KEY" in told


def test_certificates_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    urls = [url.replace("http:", "https:") for url in URLS]
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("missing.pem", "ca.pem"):
        settings = Settings(**{**GOOD, "peers": urls, "advertise_url": urls[0], "peer_ca_file": tmp_path / name})
        with pytest.raises(ConfigurationError, match="HA_SESSION_PEER_CA_FILE") as told:
            SessionManager(settings)
        assert (str(tmp_path / name) in str(told.value)) == (name == "missing.pem")


def test_files_that_cannot_be_used_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"no database, but long enough to be looked at as one" * 40)
    with pytest.raises(ConfigurationError, match="HA_SESSION_CLUSTER: the file cannot be used"):
        SessionManager(Settings(**{**GOOD, "cluster": f"peers://{tmp_path}/log"}))
    (tmp_path / "provisional.journal").write_bytes(b"no database, but long enough to be looked at as one" * 40)
    with pytest.raises(
        ConfigurationError,
        match="HA_SESSION_STATE_DIR: the journal in it cannot be used: it is damaged",
    ):
        SessionManager(Settings(**{**GOOD, "state_dir": tmp_path}))
    with pytest.raises(ConfigurationError, match="HA_SESSION_CLUSTER: the file cannot be used"):
        SessionManager(Settings(**{**GOOD, "cluster": "peers:///proc/no/such/folder/log"}))


@pytest.mark.parametrize("given", [{"cluster": "peers:///{}/log"}, {"state_dir": "/{}"}, {"state_dir": "/{}/x/y"}])
def test_a_file_that_cannot_be_made_is_named_with_its_path(tmp_path: Path, given: dict[str, str]) -> None:
    (tmp_path / "file").write_text("")
    below = str(tmp_path / "file" / "below").lstrip("/")
    given = {name: value.format(below) for name, value in given.items()}
    with pytest.raises(ConfigurationError, match=f"cannot be opened: [A-Za-z ]+: '{tmp_path}/file"):
        SessionManager(Settings(**{**GOOD, **given}))


PLACES = {"sqlite": "cluster=sqlite:///{}", "peers": "cluster=peers:///{}", "journal": "state_dir=/{}"}


def told_of(kind: str, place: Path) -> str:
    """Return the message of a start with a file or folder at this place."""
    name, _, value = PLACES[kind].partition("=")
    given = {**GOOD, name: value.format(str(place).lstrip("/"))}
    if kind == "sqlite":
        del given["peers"], given["advertise_url"]
    with pytest.raises(ConfigurationError) as told:
        SessionManager(Settings(**given))
    return str(told.value)


@pytest.fixture
def stranger() -> Iterator[None]:
    """A user who may not write into folders of the tests."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("kind", PLACES)
def test_a_folder_in_the_place_of_a_file_is_named_with_the_remedy(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "provisional.journal"
    place.mkdir()
    told = told_of(kind, tmp_path if kind == "journal" else place)
    assert f"it is a folder: '{place}'; name a file in it" in told
    assert "restore" not in told


@pytest.mark.parametrize("kind", PLACES)
def test_a_file_in_the_place_of_a_folder_is_named_with_the_remedy(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert f"'{tmp_path}/file'; it must be a folder, and is a file" in told_of(kind, tmp_path / "file" / "below")


@pytest.mark.parametrize("below", ["x", "new/x"])
@pytest.mark.parametrize("kind", PLACES)
def test_a_folder_without_the_right_to_write_is_named_with_the_remedy(kind: str, below: str, tmp_path: Path, stranger: None) -> None:
    told = told_of(kind, tmp_path / below)
    assert "cannot be opened: Permission denied: '" in told
    assert "give this user the right to write there" in told
    assert "restore" not in told


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("place", ["/proc/x", "/proc/new/x", "/sys/x", "/dev/null/x"])
def test_a_folder_that_takes_no_files_stops_the_start(kind: str, place: str) -> None:
    if not Path(place).parent.parent.exists():
        pytest.skip(f"this system has no {place.split('/')[1]}")
    told = told_of(kind, Path(place))
    assert "cannot be opened: " in told
    assert "name another place" in told or "it must be a folder" in told


@pytest.mark.parametrize("kind", ["sqlite", "peers"])
@pytest.mark.parametrize("what", ["pipe", "device", "link to a device"])
def test_what_is_no_regular_file_stops_the_start(kind: str, what: str, tmp_path: Path) -> None:
    place = tmp_path / "log"
    if what == "pipe":
        os.mkfifo(place)
    elif what == "device":
        place = Path(os.devnull)
    else:
        place.symlink_to(os.devnull)
    assert f"it is no regular file: '{place}'; name another place" in told_of(kind, place)


@pytest.mark.parametrize("end", ["", "-records", "-wal", "-records-shm", "/.."])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_file_that_this_user_may_only_read_stops_the_start(end: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # those of pytest are closed to others
        place = Path(folder) / "log"
        SessionManager(Settings(secret_key=SECRET, cluster=f"sqlite://{place}"))
        for name in ("log-wal", "log-records-shm"):
            place.with_name(name).touch()
        for path in (Path(folder), *Path(folder).iterdir()):
            path.chmod(0o777)
        closed = Path(os.path.normpath(f"{place}{end}"))
        closed.chmod(0o555)
        os.seteuid(65534)
        try:
            told = told_of("sqlite", place)
        finally:
            os.seteuid(0)
    assert f"cannot be written: it is read-only, or its folder is: '{closed}'; give this user the right to write there" in told


@pytest.mark.parametrize("kind", PLACES)
def test_a_path_that_no_file_system_takes_is_told_like_any_other(kind: str, tmp_path: Path) -> None:
    assert "cannot be opened: File name too long: '" in told_of(kind, tmp_path / ("x" * 300) / "y")


def test_a_file_of_a_later_release_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = JournalFile(path)
    later = Batch(version=BATCH.writes + 1, incarnation="one", learned=True, floor_ms=0, upto=0, entries=())
    file.load()
    file.append([encode(later)])
    file.close()
    with pytest.raises(ConfigurationError, match="written by another release"):
        SessionManager(Settings(**{**GOOD, "cluster": f"peers://{path}"}))


@pytest.mark.parametrize(("limit", "heartbeat"), [("300ms", "100ms"), ("900ms", "300ms"), ("2.1", "700ms")])
def test_three_heartbeats_are_enough_whatever_their_length(limit: str, heartbeat: str) -> None:
    settings = Settings(**{**GOOD, "freshness_limit": limit, "heartbeat": heartbeat})
    assert settings.freshness_limit == pytest.approx(3 * settings.heartbeat)


def test_a_node_may_be_named_by_the_next_list_alone() -> None:
    settings = Settings(**{**GOOD, "advertise_url": "http://d:1", "peers_next": (*URLS, "http://d:1")})
    assert settings.peers_next == (*URLS, "http://d:1")


@pytest.mark.parametrize("cluster", ["memory://", "sqlite:///tmp/s", "etcd://e:1"])
def test_only_a_cluster_with_a_list_has_a_next_one(cluster: str) -> None:
    with pytest.raises(ConfigurationError, match="HA_SESSION_PEERS_NEXT: is for peers://"):
        Settings(secret_key=SECRET, cluster=cluster, peers_next=URLS)
