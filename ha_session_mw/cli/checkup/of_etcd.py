"""The checks of etcd: whether each member can be reached and has room, its release, its users, its number of members, its clock."""

from __future__ import annotations

import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from ..._core.cluster.key_use import told_apart
from ..._core.ordered.keys import BEATS, decode_beat
from ..._machine.tls import tls_context, unreachable
from .among_nodes import NTP, SKEW_ADVICE_S, SKEW_ERROR_S
from .findings import Finding, Level
from .of_keys import check_keys

if TYPE_CHECKING:
    import httpx2

    from ...config import Settings

LEAST: Mapping[tuple[int, ...], tuple[int, ...]] = {(3, 4): (3, 4, 22), (3, 5): (3, 5, 6)}
"""The first release of each line that keeps its data when it is killed. Lines before 3.4 lack the gateway that is used here."""
ASK_S = 3.0
FULL = 0.8
"""The part of etcd's quota from which a finding tells of it."""
DEFAULT_QUOTA = 2 * 1024**3
"""etcd's ``--quota-backend-bytes`` unless it is given. Releases before 3.6 do not tell theirs."""
DATE_S = 1.0
"""The resolution of a Date field."""


def check_etcd(settings: Settings, client: Callable[[], httpx2.Client] | None = None) -> Iterator[Finding]:
    """Return the findings of all endpoints in ``HA_SESSION_CLUSTER``.

    Args:
        settings: of the node.
        client: makes the client; by default one over the network.
    """
    if settings.cluster.scheme not in ("etcd", "etcds"):
        return
    import httpx2

    try:
        tls = _tls(settings)
    except OSError as exc:
        yield Finding("error", "etcd", f"HA_SESSION_CLUSTER_CA_FILE, …_CERT_FILE, …_KEY_FILE: {exc}", "name files that the node can read")
        return
    found: list[Finding] = []
    with client() if client is not None else httpx2.Client(verify=tls, trust_env=False, timeout=ASK_S) as http:
        for endpoint in settings.cluster.endpoints:
            try:
                found += _Endpoint(settings, http, endpoint).findings()
            except (httpx2.HTTPError, OSError) as exc:
                found.append(Finding("error", "etcd", f"{endpoint} {unreachable(exc)}", "start it, and let this machine reach it"))
            except (ValueError, KeyError, TypeError) as exc:
                remedy = "name the client URLs of etcd"
                found.append(Finding("error", "etcd", f"{endpoint} does not answer as etcd does ({type(exc).__name__})", remedy))
    yield from dict.fromkeys(found)  # what concerns the cluster is found at each member


def _tls(settings: Settings) -> ssl.SSLContext | bool:
    if settings.cluster.scheme != "etcds":
        return False
    return tls_context(settings.cluster_ca_file, settings.cluster_cert_file, settings.cluster_key_file)


class _Endpoint:
    """One member of etcd, asked over its JSON gateway."""

    def __init__(self, settings: Settings, http: httpx2.Client, url: str) -> None:
        self._settings = settings
        self._http = http
        self._url = url
        self._headers: dict[str, str] = {}

    def findings(self) -> list[Finding]:
        begun_s = time.time()
        answer = self._http.get(self._url + "/version")
        version = str(answer.json()["etcdserver"])
        return [
            *self._release(version),
            *self._clock(answer.headers, begun_s, time.time()),
            *self._users(),
            *self._room(),
            *self._members(),
            *self._keys(),
        ]

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._http.post(self._url + path, json=body, headers=self._headers).json()
        return found

    def _release(self, version: str) -> Iterator[Finding]:
        numbers = tuple(int(part) for part in version.split("-")[0].split("."))
        least = LEAST.get(numbers[:2], LEAST[3, 4])
        if numbers < least:
            yield Finding(
                "error",
                "etcd",
                f"{self._url} is etcd {version}, which may damage its data",
                f"run {_text(least)} or later",
            )

    def _clock(self, headers: Mapping[str, str], begun_s: float, ended_s: float) -> Iterator[Finding]:
        if "date" not in headers:
            return
        theirs_s = parsedate_to_datetime(headers["date"]).timestamp()
        off_s = max(begun_s - DATE_S - theirs_s, theirs_s - ended_s, 0.0)
        if off_s > SKEW_ADVICE_S:
            level: Level = "error" if off_s > SKEW_ERROR_S else "advice"
            yield Finding(
                level,
                "clock",
                f"the clock of {self._url} differs from this machine's by {off_s:.0f} s",
                NTP,
            )

    def _users(self) -> Iterator[Finding]:
        settings = self._settings
        if settings.cluster_user is not None:
            body = {"name": settings.cluster_user, "password": settings.read_cluster_password()}
            answer = self._post("/v3/auth/authenticate", body)
            if "token" not in answer and "not enabled" not in str(answer.get("error")):
                yield Finding("error", "etcd", f"{self._url} refuses HA_SESSION_CLUSTER_USER and its password", "correct them")
                return
            self._headers = {"authorization": answer["token"]} if "token" in answer else {}
        # A read tells what releases before 3.5 do not state: whether users are asked for.
        key = _in_base64(f"{settings.cluster.prefix}/")
        refusal = str(self._post("/v3/kv/range", {"key": key, "keys_only": True}).get("error", ""))
        if "permission denied" in refusal:
            remedy = f"etcdctl role grant-permission ROLE --prefix=true readwrite {settings.cluster.prefix}/"
            yield Finding("error", "etcd", f"HA_SESSION_CLUSTER_USER may not read below {settings.cluster.prefix}/", remedy)
        elif refusal and settings.cluster_user is None:
            yield Finding("error", "etcd", f"{self._url} asks for a user", "set HA_SESSION_CLUSTER_USER and HA_SESSION_CLUSTER_PASSWORD")
        elif refusal:
            yield Finding("error", "etcd", f"{self._url} does not answer a read", "look at its log and its health: etcdctl endpoint health")
        elif not self._headers and settings.cluster_cert_file is None:
            yield Finding(
                "advice",
                "etcd",
                "etcd asks for no user: all that reach it can delete log-outs",
                "add users (etcdctl auth enable) or certificates (--client-cert-auth), or keep etcd in a network of its own",
            )

    def _room(self) -> Iterator[Finding]:
        alarms = self._post("/v3/maintenance/alarm", {"action": "GET"}).get("alarms", ())
        for alarm in alarms:
            remedy = (
                "compact, defragment, disarm the alarm, and raise --quota-backend-bytes"
                if alarm.get("alarm") == "NOSPACE"
                else "restore the member"
            )
            yield Finding("error", "etcd", f"etcd has raised the alarm {alarm.get('alarm')}: it takes no log-outs", remedy)
        status = self._post("/v3/maintenance/status", {})
        size, quota = int(status.get("dbSize", 0)), int(status.get("dbSizeQuota", 0)) or DEFAULT_QUOTA
        if size > FULL * quota and not alarms:
            yield Finding(
                "error",
                "etcd",
                f"{self._url} has used {size * 100 // quota} % of its quota; full, it takes no log-outs",
                "set --auto-compaction-mode periodic --auto-compaction-retention 1h, defragment, or raise --quota-backend-bytes",
            )

    def _members(self) -> Iterator[Finding]:
        members = self._post("/v3/cluster/member/list", {}).get("members", ())
        if len(members) in (1, 2):
            text = "etcd has one member: without it nobody logs in or out" if len(members) == 1 else "two members of etcd cannot lose one"
            yield Finding("advice", "etcd", text, "run three members, each on a machine of its own")
        if len(members) > len(self._settings.cluster.endpoints):
            yield Finding(
                "advice",
                "etcd",
                f"HA_SESSION_CLUSTER names {len(self._settings.cluster.endpoints)} of etcd's {len(members)} members",
                "name all of them, so that no single one is needed",
            )

    def _keys(self) -> Iterator[Finding]:
        found: list[tuple[str, Sequence[str]]] = []
        below = f"{self._settings.cluster.prefix}/{BEATS}"
        asked = {"key": _in_base64(f"{below}/"), "range_end": _in_base64(f"{below}0")}  # "0" follows "/"
        for row in self._post("/v3/kv/range", asked).get("kvs", ()):
            with suppress(ValueError):  # a build that cannot read it tells so in its log
                heartbeat = decode_beat(b64decode(row["value"])).heartbeat
                found.append((heartbeat.member, heartbeat.kids))
        yield from check_keys(self._settings, told_apart(found))


def _in_base64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
