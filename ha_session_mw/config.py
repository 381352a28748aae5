"""The settings: what may be set, by which variable, and by which rule. All faults are found and told at once.

Precedence, from strong to weak: the middleware's argument, a ``Settings`` passed in, the environment, the default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast

from ._core.token.keys import weakness
from ._settings import values as values
from ._settings.cluster_urls import ETCD, SQLITE, cluster_url
from .exceptions import ConfigurationError

ENV_PREFIX = "HA_SESSION_"
STARLETTE_MAX_AGE_S = 14 * 24 * 60 * 60
"""The default of Starlette's ``max_age``."""

SameSite = Literal["lax", "strict", "none"]
Secrets = str | bytes | Sequence[str] | Sequence[bytes]

# A service of Kubernetes called ``ha-session…`` injects such names into every pod of its namespace.
_INJECTED = re.compile(r"_(PORT|PORT_.*|SERVICE_(HOST|PORT.*))$")

_CLUSTER_SETTINGS = {
    *("cluster", "state_dir", "advertise_url", "peers", "data", "heartbeat", "freshness_limit"),
    *("peer_cert_file", "peer_key_file"),
    *("etcd_ca_file", "etcd_cert_file", "etcd_key_file", "etcd_user", "etcd_password", "etcd_password_file"),
}
MOST_ETCD_HEARTBEAT_S = 1.0
"""A watch of etcd that says nothing for three times as long is taken for a dead one."""


def _setting(parse: Callable[[object], Any], default: Any, help: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"parse": parse, "help": help, "secret": secret})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the middleware is told. Frozen; durations are seconds, or text such as ``"30m"``.

    Raises:
        ConfigurationError: on construction, with *all* faults found.

    Example:
        >>> Settings(secret_key="2JxQ8vZ6nT4wLmYp0RkHcVbNsDfGqXeA", idle_timeout="30m").idle_timeout
        1800.0
    """

    secret_key: Secrets = _setting(values.secrets, (), "Signs the tokens. One key, or several, the newest first.", secret=True)
    secret_key_file: str | Path | None = _setting(values.path, None, "A file with the same, a key a line. Read again when it changes.")
    secret_key_fallbacks: Secrets = _setting(
        values.fallback_secrets, (), "Keys that only verify: old ones being retired, new ones being staged.", secret=True
    )
    secret_key_fallbacks_file: str | Path | None = _setting(
        values.path, None, "A file with the same, a key a line. Read again when it changes."
    )
    cluster: str = _setting(
        cluster_url,
        "memory://",
        "Where log-outs are kept and shared. `memory://`: in this one process. `sqlite:///path`: in a file that all workers of this "
        "machine share. `peers://`: by the nodes of `PEERS` themselves. "
        "`peers:///path`: the same, and a file of this node's own keeps them. "
        "`etcd://host:2379,…/prefix`, or `etcds://…` over TLS: in etcd. Other packages may bring more.",
    )
    advertise_url: str | None = _setting(
        values.url, None, "Where the peers reach this node. One of `PEERS`. With `etcd://` optional: look-ups at peers need it."
    )
    peers: str | Sequence[str] = _setting(values.urls, (), "The URLs of all members, this node included, the same on all nodes.")
    state_dir: str | Path | None = _setting(values.path, None, "A folder of this node's own, for log-outs made without a majority.")
    no_quorum: Literal["provisional", "refuse"] = _setting(
        values.one_of("provisional", "refuse"),
        "provisional",
        "A log-out without a majority: `provisional` enforces it here, writes it down in `STATE_DIR` and makes it good later; "
        "`refuse`, or no `STATE_DIR`: 503 `quorum_lost`.",
    )
    heartbeat: float | str = _setting(
        values.duration, "500ms", "How long a poll between peers is held at the most; with `etcd://`: how often a node says that it lives."
    )
    peer_timeout: float | str = _setting(values.duration, "250ms", "The time limit of one look-up at the peers.")
    peer_ca_file: str | Path | None = _setting(
        values.path, None, "The authorities (PEM) that the peers' https certificates are checked against."
    )
    peer_cert_file: str | Path | None = _setting(
        values.path, None, "This node's certificate (PEM) for calls to peers that ask for one (mTLS)."
    )
    peer_key_file: str | Path | None = _setting(values.path, None, "The key (PEM) of that certificate.")
    etcd_ca_file: str | Path | None = _setting(values.path, None, "The authorities (PEM) that etcd's certificates are checked against.")
    etcd_cert_file: str | Path | None = _setting(values.path, None, "This node's certificate (PEM) for an etcd that asks for one (mTLS).")
    etcd_key_file: str | Path | None = _setting(values.path, None, "The key (PEM) of that certificate.")
    etcd_user: str | None = _setting(
        values.text(r"[!-~]{1,128}", "a name of ASCII characters without spaces", optional=True),
        None,
        "Who logs in to an etcd that has users. One that has none is not told.",
    )
    etcd_password: str | None = _setting(values.password, None, "That user's password.", secret=True)
    etcd_password_file: str | Path | None = _setting(values.path, None, "A file with the same. Read again at each log-in.")
    node_id: str | None = _setting(
        values.text(r"[A-Za-z0-9._-]{1,64}", "1 to 64 letters, digits, dots, dashes or underscores", optional=True),
        None,
        "This node's name in tokens and answers. Made up at start where it is not set.",
    )
    transports: str | Sequence[str] = _setting(
        values.transports, ("cookie", "bearer"), "Where a token may come from. Called Starlette's way: `cookie` only."
    )
    cookie_name: str = _setting(
        values.text(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", "a cookie name (RFC 6265 token)"), "session", "The cookie's name."
    )
    cookie_path: str = _setting(
        values.text(r"/[!-+\--:<-~]*", "a path that begins with /, in ASCII without ; and ,"), "/", "The cookie's path."
    )
    cookie_domain: str | None = _setting(
        values.text(r"[A-Za-z0-9.-]+", "a host name", optional=True), None, "The cookie's domain; this host only if unset."
    )
    cookie_same_site: SameSite = _setting(values.one_of("lax", "strict", "none"), "lax", "The cookie's SameSite attribute.")
    cookie_partitioned: bool | str = _setting(
        values.flag, default=False, help="Whether the cookie is partitioned by top-level site (CHIPS)."
    )
    cookie_https_only: bool | str = _setting(
        values.https_only,
        "auto",
        "The Secure attribute. `auto`: when the request came by https, or a forwarding header says so. Called Starlette's way: `false`.",
    )
    idle_timeout: float | str = _setting(
        values.duration, "30m", "A session that is not used for so long is over. Called Starlette's way: `max_age`, by default 14 days."
    )
    absolute_timeout: float | str = _setting(
        values.duration,
        "12h",
        "A session is over so long after the log-in, however much it is used. Called Starlette's way: as `IDLE_TIMEOUT`.",
    )
    legacy_cookies: Literal["off", "starlette"] = _setting(
        values.one_of("off", "starlette"), "off", "Take over valid cookies of Starlette's own middleware under the same secret."
    )
    protect: str | Sequence[str] = _setting(values.patterns, (), "Paths that need a session; a request without one is refused.")
    exempt: str | Sequence[str] = _setting(
        values.patterns, (), "Paths where tokens are never looked at: an empty session, which cannot be written."
    )
    relaxed: str | Sequence[str] = _setting(
        values.patterns, (), "Paths that a node out of contact may go on serving, for 60 s, to safe methods; the answers are marked."
    )
    data: Literal["auto", "token", "store"] = _setting(
        values.one_of("auto", "token", "store"),
        "auto",
        "Where session data is kept. `token`: it travels with the client. `store`: on the nodes, under `CLUSTER`. `auto`: in the token "
        "while it fits, and in the store where it outgrows that; `peers://` has no store, and there it is `token`.",
    )
    track: Literal["off", "on"] = _setting(
        values.one_of("off", "on"),
        "off",
        "Whether each log-in is recorded, so that a subject can see its devices and end one. Needs a store, which `peers://` has not.",
    )
    track_address: bool | str = _setting(values.flag, default=False, help="Whether the address that a log-in comes from is recorded too.")
    max_sessions: int | str | None = _setting(values.limit, None, "How many sessions a subject may have at a time. Needs `TRACK=on`.")
    when_full: Literal["end_oldest", "refuse"] = _setting(
        values.one_of("end_oldest", "refuse"),
        "end_oldest",
        "A log-in beyond `MAX_SESSIONS`: `end_oldest` logs the oldest session out; `refuse`: 403 `session_limit_reached`.",
    )
    devices: Literal["off", "on"] = _setting(
        values.one_of("off", "on"), "off", "Whether `devices` below `ENDPOINTS` serves a subject its devices, as JSON. Needs `TRACK=on`."
    )
    cache_size: int | str = _setting(
        values.count, 100_000, "How many verified tokens the node keeps, and of how many sessions the records."
    )
    cache_ttl: float | str = _setting(
        values.duration, "5m", "How long it keeps one. Has no influence on log-outs, which are looked up each time."
    )
    cache_bytes: int | str = _setting(values.count, 64 << 20, "How many bytes of session records the node keeps.")
    freshness_limit: float | str = _setting(
        values.duration,
        "5s",
        "How long a node that lost contact may go on judging sessions. For `peers://`: the others have nobody to lose.",
    )
    endpoints: str = _setting(
        values.text(r"(/[A-Za-z0-9._~-]+)+", "a path such as /-/session, without a / at its end"),
        "/-/session",
        "Prefix of probes and error pages.",
    )
    error_detail: Literal["safe", "full"] = _setting(
        values.one_of("safe", "full"), "safe", "`full` adds the reason and the checks walked through to each refusal. For development."
    )
    allow_weak_secret: bool = False
    """On ``memory://`` a weak secret is then only logged: Starlette's callers pass ``secret_key="example"``. Has no variable."""
    cookie_max_age: bool = field(default=True, init=False)
    """Whether the cookie says when it ends; see :meth:`with_max_age`."""

    def __post_init__(self) -> None:
        wrong = self._parse_fields()
        faults = [*wrong.values(), *(fault for names, fault in self._contradictions() if wrong.keys().isdisjoint(names))]
        if wrong.keys().isdisjoint(_CLUSTER_SETTINGS):
            faults += self._cluster_faults()
        if "secret_key" not in wrong:
            faults += self._key_faults()
        if faults:
            raise ConfigurationError(faults)

    def _parse_fields(self) -> dict[str, str]:
        """The fault of each field that has one; it is left with its default, for the checks that follow."""
        wrong = {}
        for name, setting in SETTINGS.items():
            value = getattr(self, name)
            try:
                parsed = setting["parse"](value)
            except ValueError as exc:
                shown = "(a secret)" if setting["secret"] or isinstance(exc, values.Unshown) else repr(value)
                wrong[name] = f"{variable(name)}={shown}: {exc}"
                parsed = setting["parse"](setting["default"])
            object.__setattr__(self, name, parsed)
        return wrong

    def _contradictions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Which settings contradict each other, and how that is told."""
        if self.idle_s > self.absolute_s:
            text = f"HA_SESSION_IDLE_TIMEOUT={self.idle_s:g}s: must not be longer than HA_SESSION_ABSOLUTE_TIMEOUT={self.absolute_s:g}s"
            yield ("idle_timeout", "absolute_timeout"), text
        if self.track == "on" and self.cluster.startswith("peers://"):
            yield ("track", "cluster"), "HA_SESSION_TRACK='on': HA_SESSION_CLUSTER=peers:// has no store to record log-ins in"
        if self.track == "off":
            if self.devices == "on":
                yield ("track", "devices"), "HA_SESSION_DEVICES='on': log-ins are not recorded; set HA_SESSION_TRACK=on, too"
            if self.max_sessions is not None:
                text = f"HA_SESSION_MAX_SESSIONS={self.max_sessions}: log-ins are not recorded; set HA_SESSION_TRACK=on, too"
                yield ("track", "max_sessions"), text
            if self.track_address:
                text = "HA_SESSION_TRACK_ADDRESS=True: log-ins are not recorded; set HA_SESSION_TRACK=on, too"
                yield ("track", "track_address"), text
        if self.when_full == "refuse" and self.max_sessions is None:
            text = "HA_SESSION_WHEN_FULL='refuse': there is no limit; set HA_SESSION_MAX_SESSIONS, too"
            yield ("when_full", "max_sessions"), text
        if self.cookie_https_only is not True:
            needs = "HA_SESSION_COOKIE_HTTPS_ONLY=true"
            if self.cookie_same_site == "none":
                names = "cookie_same_site", "cookie_https_only"
                yield names, f"HA_SESSION_COOKIE_SAME_SITE='none': browsers take it only with {needs}"
            if self.cookie_partitioned:
                names = "cookie_partitioned", "cookie_https_only"
                yield names, f"HA_SESSION_COOKIE_PARTITIONED=True: browsers take it only with {needs}"
            if self.cookie_name.startswith(("__Host-", "__Secure-")):
                yield ("cookie_name", "cookie_https_only"), f"HA_SESSION_COOKIE_NAME={self.cookie_name!r}: this prefix needs {needs}"
        if self.cookie_name.startswith("__Host-"):
            if self.cookie_domain is not None:
                names = "cookie_name", "cookie_domain"
                yield names, f"HA_SESSION_COOKIE_DOMAIN={self.cookie_domain!r}: must not be set with a __Host- cookie"
            if self.cookie_path != "/":
                yield ("cookie_name", "cookie_path"), f"HA_SESSION_COOKIE_PATH={self.cookie_path!r}: must be / with a __Host- cookie"

    def _cluster_faults(self) -> list[str]:
        faults: list[str] = []
        if self.cluster.startswith("peers://"):
            faults += self._peers_faults()
        elif self.cluster.startswith(ETCD):
            faults += self._etcd_faults()
        elif self.peers or (self.advertise_url is not None and self.cluster.startswith(("memory://", SQLITE))):
            faults.append(
                f"HA_SESSION_CLUSTER={self.cluster!r}: has no peers; with HA_SESSION_PEERS and HA_SESSION_ADVERTISE_URL use peers://"
            )
        if not self.cluster.startswith(ETCD):
            given = ("etcd_ca_file", "etcd_cert_file", "etcd_key_file", "etcd_user", "etcd_password", "etcd_password_file")
            faults += [f"{variable(name)}: is for etcd://, and HA_SESSION_CLUSTER is another" for name in given if getattr(self, name)]
        if self.cluster.startswith(SQLITE) and self.state_dir is not None:
            faults.append("HA_SESSION_STATE_DIR: is for peers:// and etcd://; with sqlite:// the one file is all there is")
        if (self.peer_cert_file is None) != (self.peer_key_file is None):
            faults.append("HA_SESSION_PEER_CERT_FILE: goes with HA_SESSION_PEER_KEY_FILE; set both or none")
        return faults

    def _peers_faults(self) -> Iterator[str]:
        if not self.peers:
            yield "HA_SESSION_PEERS: is not set, and HA_SESSION_CLUSTER=peers:// needs the URLs of all members"
        if self.advertise_url is None:
            yield "HA_SESSION_ADVERTISE_URL: is not set, and HA_SESSION_CLUSTER=peers:// needs this node's own"
        elif self.peers and self.advertise_url not in self.peers:
            yield f"HA_SESSION_ADVERTISE_URL={self.advertise_url!r}: is not one of HA_SESSION_PEERS, which names this node too"
        if self.data == "store":
            yield "HA_SESSION_DATA='store': HA_SESSION_CLUSTER=peers:// has no store; use sqlite:///path or etcd://, or DATA=auto"
        if float(self.freshness_limit) < 3 * float(self.heartbeat):
            yield "HA_SESSION_FRESHNESS_LIMIT: must be three times HA_SESSION_HEARTBEAT or more, for one lost poll is no fault"

    def _etcd_faults(self) -> Iterator[str]:
        if self.peers:
            yield "HA_SESSION_PEERS: must not be set with etcd://, where the members find each other by themselves"
        if float(self.heartbeat) > MOST_ETCD_HEARTBEAT_S:
            yield f"HA_SESSION_HEARTBEAT: must be {MOST_ETCD_HEARTBEAT_S:g} s at the most with etcd://, or silence would tell nothing"
        if float(self.freshness_limit) < 3 * float(self.heartbeat):
            yield "HA_SESSION_FRESHNESS_LIMIT: must be three times HA_SESSION_HEARTBEAT or more, for one lost heartbeat is no fault"
        if (self.etcd_cert_file is None) != (self.etcd_key_file is None):
            yield "HA_SESSION_ETCD_CERT_FILE: goes with HA_SESSION_ETCD_KEY_FILE; set both or none"
        if not self.cluster.startswith("etcds://") and (self.etcd_ca_file or self.etcd_cert_file):
            yield "HA_SESSION_ETCD_CA_FILE, HA_SESSION_ETCD_CERT_FILE: are for TLS; write HA_SESSION_CLUSTER=etcds://…"
        yield from self._etcd_user_faults()

    def _etcd_user_faults(self) -> Iterator[str]:
        if self.etcd_password and self.etcd_password_file is not None:
            yield "HA_SESSION_ETCD_PASSWORD_FILE: HA_SESSION_ETCD_PASSWORD is set too; set one of them"
        if (self.etcd_user is None) != (self.etcd_password is None and self.etcd_password_file is None):
            yield "HA_SESSION_ETCD_USER: goes with HA_SESSION_ETCD_PASSWORD; set both or none"
        try:
            self.read_etcd_password()
        except OSError as exc:
            yield f"HA_SESSION_ETCD_PASSWORD_FILE: cannot be read: {exc.strerror}"

    def read_etcd_password(self) -> str:
        """The password of ``etcd_user``, from the settings or from the file as it is now.

        Raises:
            OSError: the file cannot be read.
        """
        if self.etcd_password_file is None:
            return self.etcd_password or ""
        return Path(self.etcd_password_file).read_text().strip()

    def _key_faults(self) -> list[str]:
        try:
            self.read_keys()
        except ConfigurationError as exc:
            return list(exc.faults)
        return []

    @property
    def idle_s(self) -> float:
        return cast(float, self.idle_timeout)

    @property
    def absolute_s(self) -> float:
        return cast(float, self.absolute_timeout)

    def read_keys(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """The signing keys and the verify-only keys, from the settings and from the files as they are now.

        Raises:
            ConfigurationError: a file cannot be read, there is no key, or one is weak.
        """
        faults: list[str] = []
        keys = _read("secret_key", self.secret_key, self.secret_key_file, faults)
        fallbacks = _read("secret_key_fallbacks", self.secret_key_fallbacks, self.secret_key_fallbacks_file, faults)
        if not keys and not faults:
            faults.append(f"{variable('secret_key')}: is not set, and tokens cannot be signed without. {MAKE_ONE}")
        if not (self.allow_weak_secret and self.cluster == "memory://"):
            faults += _weaknesses(keys, fallbacks)
        if self.cookie_name.encode() in keys:
            faults.append(f"{variable('cookie_name')}: holds the secret key, and a cookie's name is public")
        if faults:
            raise ConfigurationError(faults)
        return keys, fallbacks

    def advice(self, environ: Mapping[str, str]) -> str | None:
        """What an operator should know of settings that can be used, but hardly as meant; None if there is nothing to say."""
        workers = environ.get("WEB_CONCURRENCY", "1").strip()
        if not workers.isdecimal() or int(workers) < 2:
            return None
        if self.cluster == "memory://":
            return (
                f"WEB_CONCURRENCY={workers} with HA_SESSION_CLUSTER=memory://: each worker knows its own log-outs and its own store only. "
                "A session that was logged out lives on at the others, and one whose data outgrew its token has none there; "
                "share those of one machine with sqlite:///path, or start one worker"
            )
        if not self.cluster.startswith("peers://"):
            return None
        return f"WEB_CONCURRENCY={workers} with HA_SESSION_CLUSTER=peers://: workers share a URL and cannot be peers; start one a node"

    def weak_keys(self) -> list[str]:
        """What is wrong with keys that are used all the same, because Starlette's callers may."""
        return _weaknesses(*self.read_keys())

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str] = os.environ, *, defaults: Mapping[str, Any] | None = None, **overrides: Any
    ) -> Settings:
        """The settings that the environment gives, ``overrides`` over them and ``defaults`` under them.

        Raises:
            ConfigurationError: with all faults, unknown ``HA_SESSION_*`` names among them.
        """
        values: dict[str, Any] = dict(defaults or {})
        faults = []
        for key, value in environ.items():
            if not key.startswith(ENV_PREFIX):
                continue
            name = key.removeprefix(ENV_PREFIX).lower()
            if name in SETTINGS and key == variable(name):
                values[name] = value
            elif not _INJECTED.search(key):
                faults.append(f"{key}: is not a setting of this release{_did_you_mean(name)}")
        try:
            settings = cls(**{**values, **overrides})
        except ConfigurationError as exc:
            raise ConfigurationError([*faults, *exc.faults]) from None
        if faults:
            raise ConfigurationError(faults)
        return settings

    def with_max_age(self, max_age_s: int | None) -> Settings:
        """The same with Starlette's ``max_age`` for both lives. 0 and less are legal: already over.

        None: the cookie names no end (Max-Age), and both lives are the absolute one.
        """
        other = copy(self)
        life_s = self.absolute_s if max_age_s is None else float(max_age_s)
        object.__setattr__(other, "cookie_max_age", max_age_s is not None)
        object.__setattr__(other, "idle_timeout", life_s)
        object.__setattr__(other, "absolute_timeout", life_s)
        return other


MAKE_ONE = 'Make one with: python -c "import secrets; print(secrets.token_urlsafe(48))"'

SETTINGS: Mapping[str, Mapping[str, Any]] = {f.name: {**f.metadata, "default": f.default} for f in fields(Settings) if f.metadata}
"""Each setting that has a variable: its ``parse`` function (whose docstring is the rule), ``default``, ``help`` and ``secret``."""


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def _weaknesses(keys: tuple[bytes, ...], fallbacks: tuple[bytes, ...]) -> list[str]:
    return [
        f"{variable(name)}: {why}. {MAKE_ONE}"
        for name, secrets in (("secret_key", keys), ("secret_key_fallbacks", fallbacks))
        for secret in secrets
        if (why := weakness(secret))
    ]


def _did_you_mean(name: str) -> str:
    close = get_close_matches(name, SETTINGS, n=1)
    return f". Did you mean {variable(close[0])}?" if close else ""


def _read(name: str, given: Secrets, file: str | Path | None, faults: list[str]) -> tuple[bytes, ...]:
    """The secrets of one setting, from itself or from its file."""
    if file is None:
        return cast("tuple[bytes, ...]", given)
    # A secret that was put there by mistake has no folder in it, most likely, and is not to be shown.
    source = f"{variable(name)}_FILE={str(file)!r}" if os.sep in str(file) else f"{variable(name)}_FILE"
    if given:
        faults.append(f"{source}: {variable(name)} is set too; set one of them")
        return ()
    try:
        lines = Path(file).read_bytes().splitlines()
    except OSError as exc:
        faults.append(f"{source}: cannot be read: {exc.strerror}")
        return ()
    found = tuple(line.strip() for line in lines if line.strip())
    if not found and name == "secret_key":
        faults.append(f"{source}: is empty. {MAKE_ONE}")
    return found
