"""The demands of each backend on the other settings. The rules of one backend stand together."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..exceptions import ConfigurationError
from .checks import Rule, faults
from .cluster_urls import ClusterUrl, other_backends
from .setting import variable

CONNECTION = ("cluster_ca_file", "cluster_cert_file", "cluster_key_file", "cluster_user", "cluster_password", "cluster_password_file")
"""The settings of a connection to a server outside the cluster."""
ETCD_MOST_HEARTBEAT_S = 1.0
"""A watch of etcd counts as dead after three silent seconds. A node with a longer heartbeat would look dead while it lives."""

_NO_SERVER = tuple(
    Rule(
        ("cluster", name),
        lambda _, value: value,
        f"{variable(name)}: needs a server to connect to; HA_SESSION_CLUSTER={{cluster}} has none",
    )
    for name in CONNECTION
)
_NO_PEERS = "HA_SESSION_CLUSTER={cluster!r}: has no peers; with HA_SESSION_PEERS and HA_SESSION_ADVERTISE_URL use peers://"
_NO_LISTS = Rule(
    ("cluster", "peers_next"),
    lambda _, coming: coming,
    "HA_SESSION_PEERS_NEXT: is for peers://; HA_SESSION_CLUSTER={cluster!r} has no list of members that could change",
)
_NO_ROUTING = Rule(
    ("cluster", "routing"),
    lambda _, routing: routing != "serve",
    "HA_SESSION_ROUTING={routing!r}: with HA_SESSION_CLUSTER={cluster!r} no node knows another one to which a request could go; "
    "use peers:// or etcd://",
)
_ROUTING_NEEDS_URL = Rule(
    ("routing", "advertise_url"),
    lambda routing, url: routing != "serve" and url is None,
    "HA_SESSION_ROUTING={routing!r}: the other nodes cannot reach this one; set HA_SESSION_ADVERTISE_URL, too",
)
_ALONE = Rule(("cluster", "peers", "advertise_url"), lambda _, peers, url: peers or url is not None, _NO_PEERS)
_THREE_HEARTBEATS = Rule(
    ("freshness_limit", "heartbeat"),
    lambda limit_s, heartbeat_s: limit_s / heartbeat_s < 2.999_999,  # three times 100 ms are a little more than 300 ms in floats
    "HA_SESSION_FRESHNESS_LIMIT: must be at least three times HA_SESSION_HEARTBEAT, because one lost heartbeat is no fault",
)
_SERVER = (
    Rule(
        ("cluster_cert_file", "cluster_key_file"),
        lambda cert, key: (cert is None) != (key is None),
        "HA_SESSION_CLUSTER_CERT_FILE: goes with HA_SESSION_CLUSTER_KEY_FILE; set both or neither",
    ),
    Rule(
        ("cluster_password", "cluster_password_file"),
        lambda password, file: password and file is not None,
        "HA_SESSION_CLUSTER_PASSWORD_FILE: HA_SESSION_CLUSTER_PASSWORD is set too; set one of them",
    ),
)

_PEERS = (
    Rule(
        ("peers",), lambda peers: not peers, "HA_SESSION_PEERS: is not set, and HA_SESSION_CLUSTER=peers:// needs the URLs of all members"
    ),
    Rule(
        ("advertise_url",),
        lambda url: url is None,
        "HA_SESSION_ADVERTISE_URL: is not set, and HA_SESSION_CLUSTER=peers:// needs this node's own URL",
    ),
    Rule(
        ("advertise_url", "peers", "peers_next"),
        lambda url, peers, coming: url is not None and peers and url not in (*peers, *coming),
        "HA_SESSION_ADVERTISE_URL={advertise_url!r}: is not one of HA_SESSION_PEERS, which must name this node, too",
    ),
    Rule(
        ("data",),
        lambda data: data == "store",
        "HA_SESSION_DATA='store': HA_SESSION_CLUSTER=peers:// has no store; use sqlite:///path or etcd://, or DATA=auto",
    ),
    Rule(("track",), lambda track: track == "on", "HA_SESSION_TRACK='on': HA_SESSION_CLUSTER=peers:// has no store to record log-ins in"),
    _THREE_HEARTBEATS,
    *_NO_SERVER,
)
_SQLITE = (
    Rule(
        ("cluster",),
        lambda _: sys.platform == "win32",
        "HA_SESSION_CLUSTER={cluster!r}: needs a POSIX system, such as Linux, whose file locks end with their process; "
        "on Windows use memory:// with one worker, peers:// or etcd://",
    ),
    _ALONE,
    _NO_LISTS,
    _NO_ROUTING,
    Rule(
        ("state_dir",),
        lambda folder: folder is not None,
        "HA_SESSION_STATE_DIR: is for peers:// and etcd://; sqlite:// keeps everything in its one file",
    ),
    *_NO_SERVER,
)
_ETCDS = (
    _NO_LISTS,
    _ROUTING_NEEDS_URL,
    Rule(("peers",), bool, "HA_SESSION_PEERS: must not be set with etcd://, where the members find each other"),
    Rule(
        ("heartbeat",),
        lambda heartbeat_s: heartbeat_s > ETCD_MOST_HEARTBEAT_S,
        f"HA_SESSION_HEARTBEAT: must be at most {ETCD_MOST_HEARTBEAT_S:g} s with etcd://, or a silent watch would prove nothing",
    ),
    _THREE_HEARTBEATS,
    *_SERVER,
    Rule(
        ("cluster_user", "cluster_password", "cluster_password_file"),
        lambda user, password, file: (user is None) != (password is None and file is None),
        "HA_SESSION_CLUSTER_USER: goes with HA_SESSION_CLUSTER_PASSWORD; set both or neither",
    ),
)
_ETCD = (
    *_ETCDS,
    Rule(
        ("cluster_ca_file", "cluster_cert_file"),
        lambda ca, cert: ca or cert,
        "HA_SESSION_CLUSTER_CA_FILE, HA_SESSION_CLUSTER_CERT_FILE: are for TLS; write HA_SESSION_CLUSTER=etcds://…",
    ),
)
RULES: Mapping[str, Collection[Rule]] = {
    "memory": (_ALONE, _NO_LISTS, _NO_ROUTING, *_NO_SERVER),
    "sqlite": _SQLITE,
    "peers": _PEERS,
    "etcd": _ETCD,
    "etcds": _ETCDS,
}
"""The rules of each scheme of this package."""
_RULES_OF_OTHERS = (Rule(("cluster", "peers"), lambda _, peers: peers, _NO_PEERS), _NO_LISTS, _ROUTING_NEEDS_URL, *_SERVER)

_WORKERS = {
    "memory": "each worker knows only its own log-outs and its own store. "
    "A session that was logged out at one worker lives on at the others, and data that outgrew its token is missing there. "
    "Share log-outs and data on one machine with sqlite:///path, or start one worker",
    "peers": "workers share a URL and cannot be peers; start one worker per node",
}


def cluster_faults(cluster: ClusterUrl, settings: Any, wrong: Collection[str]) -> Iterator[str]:
    """Return the faults that the backend finds in the other settings.

    Args:
        settings: the ``Settings``; invalid values have been replaced by their defaults.
        wrong: the names of settings whose own value is invalid.
    """
    if cluster.scheme in RULES:
        yield from faults(RULES[cluster.scheme], settings, wrong)
        return
    yield from faults(_RULES_OF_OTHERS, settings, wrong)
    try:
        opener = load_other(cluster.scheme)
    except ConfigurationError as exc:
        yield from exc.faults
        return
    yield from getattr(opener, "faults", _no_faults)(settings)


def _no_faults(_: object) -> tuple[str, ...]:
    return ()


def load_other(scheme: str) -> Any:
    """Return the object that the entry point of another package's backend names. It returns a ``Backend`` for a ``Settings``.

    Raises:
        ConfigurationError: no installed package has this backend, or the object cannot be loaded.
    """
    found = other_backends().get(scheme)
    if found is None:
        raise ConfigurationError([f"HA_SESSION_CLUSTER: no installed package has a backend for {scheme}://"])
    try:
        return found.load()
    except (ImportError, AttributeError) as exc:
        raise ConfigurationError([f"HA_SESSION_CLUSTER: the backend for {scheme}:// cannot be loaded: {exc}"]) from exc


def workers_advice(cluster: ClusterUrl, web_concurrency: str) -> Iterator[str]:
    """Return a warning if several workers are about to start and the cluster does not connect them."""
    if web_concurrency.isdecimal() and int(web_concurrency) > 1 and cluster.scheme in _WORKERS:
        yield f"WEB_CONCURRENCY={web_concurrency} with HA_SESSION_CLUSTER={cluster.scheme}://: {_WORKERS[cluster.scheme]}"
