"""The table of settings: name, default, rule and meaning of each. One message lists all faults.

Precedence, from strong to weak: the middleware's argument, a ``Settings`` passed in, the environment, the default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ._settings import clusters, environment, secrets, values
from ._settings.checks import RULES, faults
from ._settings.cluster_urls import ClusterUrl, cluster_url
from ._settings.setting import Setting, Table, variable
from .exceptions import ConfigurationError

STARLETTE_MAX_AGE_S = 14 * 24 * 60 * 60
"""The default of Starlette's ``max_age``."""

SameSite = Literal["lax", "strict", "none"]
Data = Literal["auto", "token", "store"]
Switch = Literal["off", "on"]
Routing = Literal["serve", "redirect", "forward"]
Secrets = str | bytes | Sequence[str] | Sequence[bytes]

# Each alias names the type that readers get, and the type that constructors accept.
Text = Setting[str, str]
OptionalText = Setting[str | None, str | None]
Texts = Setting[tuple[str, ...], str | Sequence[str]]
File = Setting[Path | None, str | Path | None]
Keys = Setting[tuple[bytes, ...], Secrets]
Duration = Setting[float, float | str]
Moment = Setting[datetime | None, datetime | str | None]
Count = Setting[int, int | str]
Flag = Setting[bool, bool | str]


class Settings(Table):
    """The settings of a node. Frozen, and parsed when constructed: a duration given as ``"30m"`` reads as 1800.0 seconds.

    Raises:
        ConfigurationError: with *all* faults found.

    Example:
        >>> Settings(secret_key="2JxQ8vZ6nT4wLmYp0RkHcVbNsDfGqXeA", idle_timeout="30m").idle_timeout
        1800.0
    """

    secret_key: Keys = Setting(values.secrets, (), "Signs the tokens. One key, or several, the newest first.", is_secret=True)
    secret_key_file: File = Setting(values.path, None, "A file of signing keys, one a line. Read again when it changes.")
    secret_key_fallbacks: Keys = Setting(
        values.fallback_secrets, (), "Keys that only verify: old keys being retired, and new keys being staged.", is_secret=True
    )
    secret_key_fallbacks_file: File = Setting(values.path, None, "A file of such keys, one a line. Read again when it changes.")
    audience: OptionalText = Setting(
        values.optional_text(r"[!-~]{1,128}", "1 to 128 ASCII characters without spaces"),
        None,
        "The name of this app, as part of each signature. Other apps with the same secret then refuse its tokens, and its calls as a peer.",
    )
    cluster: Setting[ClusterUrl, str] = Setting(
        cluster_url,
        "memory://",
        "Where log-outs are kept and shared. `memory://`: in this one process. `sqlite:///path`: in a file that all workers of this "
        "machine share. `peers://`: by the nodes of `PEERS` themselves. `peers:///path`: likewise, and each node keeps them in a file. "
        "`etcd://host:2379,…/prefix`, or `etcds://…` over TLS: in etcd. Other packages may add backends.",
    )
    cluster_ca_file: File = Setting(values.path, None, "The authorities (PEM) that must have signed the cluster server's certificate.")
    cluster_cert_file: File = Setting(values.path, None, "This node's certificate (PEM), for a cluster server that demands one (mTLS).")
    cluster_key_file: File = Setting(values.path, None, "The key (PEM) of that certificate.")
    cluster_user: OptionalText = Setting(
        values.optional_text(r"[!-~]{1,128}", "a name of ASCII characters without spaces"),
        None,
        "The user that logs in to the cluster server. Leave it unset if the server has no users.",
    )
    cluster_password: OptionalText = Setting(values.password, None, "That user's password.", is_secret=True)
    cluster_password_file: File = Setting(values.path, None, "A file with that password. Read again at each log-in.")
    advertise_url: OptionalText = Setting(
        values.url, None, "The URL at which the peers reach this node. One of `PEERS`. Optional with `etcd://`: enables look-ups at peers."
    )
    peers: Texts = Setting(values.urls, (), "The URLs of all members, including this node. The same list on all nodes.")
    peers_next: Texts = Setting(
        values.next_urls,
        (),
        "While the list of members changes: the URLs of all members of the next list. A log-out then needs a majority of both lists.",
    )
    state_dir: File = Setting(
        values.path,
        None,
        "A folder of this node alone. It keeps log-outs that were made without a majority, and on `etcd://` how far the log went.",
    )
    no_quorum: Setting[Literal["provisional", "refuse"], str] = Setting(
        values.one_of("provisional", "refuse"),
        "provisional",
        "A log-out without a majority. `provisional` enforces it on this node, records it in `STATE_DIR` and completes it later. "
        "`refuse`, or no `STATE_DIR`: 503 `quorum_lost`. Likewise for the old id that `login()` or `cycle()` leaves behind; "
        "that 503 changes nothing.",
    )
    heartbeat: Duration = Setting(
        values.duration,
        "500ms",
        "`peers://`: the longest time a peer holds a poll open, or three times as long while all members are well and there is no news. "
        "`etcd://`: the interval at which a node writes its heartbeat.",
    )
    peer_timeout: Duration = Setting(values.duration, "250ms", "The time limit of one look-up at the peers.")
    peer_ca_file: File = Setting(values.path, None, "The authorities (PEM) that must have signed the peers' https certificates.")
    peer_cert_file: File = Setting(values.path, None, "This node's certificate (PEM), for peers that demand one (mTLS).")
    peer_key_file: File = Setting(values.path, None, "The key (PEM) of that certificate.")
    node_id: OptionalText = Setting(
        values.optional_text(r"[A-Za-z0-9._-]{1,64}", "1 to 64 letters, digits, dots, dashes or underscores"),
        None,
        "This node's name in tokens and answers. Drawn at start if unset.",
    )
    weight: Count = Setting(
        values.weight, 1, "How many sessions this node owns, relative to the other nodes: with 2, twice as many as a node with 1."
    )
    transports: Texts = Setting(
        values.transports, ("cookie", "bearer"), "Where a token may come from. Called Starlette's way: `cookie` only."
    )
    cookie_name: Text = Setting(
        values.text(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", "a cookie name (RFC 6265 token)"), "session", "The cookie's name."
    )
    cookie_path: Text = Setting(
        values.text(r"/[!-+\--:<-~]*", "a path that begins with /, in ASCII without ; and ,"), "/", "The cookie's path."
    )
    cookie_domain: OptionalText = Setting(
        values.optional_text(r"[A-Za-z0-9.-]+", "a host name"), None, "The cookie's domain. If unset, the cookie is for this host only."
    )
    cookie_same_site: Setting[SameSite, str] = Setting(values.one_of("lax", "strict", "none"), "lax", "The cookie's SameSite attribute.")
    cookie_partitioned: Flag = Setting(values.flag, default=False, help="Whether the cookie is partitioned by top-level site (CHIPS).")
    cookie_https_only: Setting[bool | Literal["auto"], bool | str] = Setting(
        values.https_only,
        "auto",
        "The Secure attribute. `auto`: set if the request came by https, or a forwarding header says so. Called Starlette's way: `false`.",
    )
    idle_timeout: Duration = Setting(
        values.duration, "30m", "The time after which an unused session expires. Called Starlette's way: `max_age`, by default 14 days."
    )
    absolute_timeout: Duration = Setting(
        values.duration,
        "12h",
        "The time after the log-in at which every session expires. A token from before it was "
        "[shortened](../explanation/accept-rule.md#why-a-token-counts-for-the-absolute-timeout-of-now) ends so long after its own issue. "
        "Called Starlette's way: as `IDLE_TIMEOUT`.",
    )
    legacy_cookies: Setting[Literal["off", "starlette"], str] = Setting(
        values.one_of("off", "starlette"),
        "off",
        "`starlette` takes over valid cookies of Starlette's own middleware under the same secret, signed before this node started.",
    )
    legacy_until: Moment = Setting(
        values.moment,
        None,
        "The end of the take-over. Set it to the time of the roll-out plus `max_age`. Needs `LEGACY_COOKIES=starlette`.",
    )
    protect: Texts = Setting(values.patterns, (), "Paths that need a session. A request without one is refused.")
    public: Texts = Setting(
        values.patterns, (), "Exceptions from `PROTECT`: paths that are open to visitors, such as the log-in page. Sessions work there."
    )
    exempt: Texts = Setting(
        values.patterns,
        (),
        "Paths on which tokens are ignored, such as static files. The session is empty there, and cannot be written. "
        "A pattern inside one of `PROTECT` is an exception from it.",
    )
    step_up: Texts = Setting(
        values.patterns, (), "Paths that need a recent log-in, such as a change of the password. Other requests get 401, RFC 9470."
    )
    step_up_max_age: Duration = Setting(values.duration, "5m", "How long ago the log-in may be on paths in `STEP_UP`.")
    login_url: OptionalText = Setting(
        values.optional_text(r"/(?![/\\])[A-Za-z0-9._~/-]*(\?[!\"$-~]*)?", "a path of this app such as /login, perhaps with a query"),
        None,
        "The log-in page, which is always public. A browser that needs a log-in is redirected there (303), with the way back in `next`.",
    )
    passive: Texts = Setting(
        values.patterns,
        (),
        "Paths of requests that nobody made by hand, such as polls. They do not keep an idle session alive, and how long they take is no "
        "sign of an overload.",
    )
    relaxed: Texts = Setting(
        values.patterns, (), "Paths that a node out of contact may serve for 60 s, to safe methods. The answers are marked."
    )
    data: Setting[Data, str] = Setting(
        values.one_of("auto", "token", "store"),
        "auto",
        "Where session data is kept. `token`: with the client. `store`: on the nodes, under `CLUSTER`. "
        "`auto`: in the token while it fits, otherwise in the store. `peers://` has no store, so `auto` means `token` there.",
    )
    when_lost: Setting[Literal["continue", "end"], str] = Setting(
        values.one_of("continue", "end"),
        "continue",
        "A session whose data the store has certainly lost. `continue`: it goes on with empty data, and the answer is marked "
        "`Session-Data-Lost`. `end`: it is logged out, with 401 `session_data_lost`.",
    )
    track: Setting[Switch, str] = Setting(
        values.one_of("off", "on"),
        "off",
        "Whether each log-in is recorded, so that a subject can list its devices and log one out. Needs a store; `peers://` has none.",
    )
    track_address: Flag = Setting(values.flag, default=False, help="Whether a log-in's record contains the client's address.")
    max_sessions: Setting[int | None, int | str | None] = Setting(
        values.limit, None, "The largest number of sessions that a subject may have at a time. Needs `TRACK=on`."
    )
    when_full: Setting[Literal["end_oldest", "refuse"], str] = Setting(
        values.one_of("end_oldest", "refuse"),
        "end_oldest",
        "A log-in beyond `MAX_SESSIONS`. `end_oldest` logs the oldest session out; `refuse` answers 403 `session_limit_reached`.",
    )
    logins_per_subject: Setting[int | None, int | str | None] = Setting(
        values.pace,
        300,
        "How often a subject may log in and out within five minutes, on one node. A log-in beyond that gets 429 `too_many_log_ins`.",
    )
    logins_per_address: Setting[int | None, int | str | None] = Setting(
        values.pace,
        30_000,
        "How many sessions may begin from one address within five minutes, on one node, visitors' sessions included. See "
        "[Behind a proxy](../how-to/behind-a-proxy.md): all its clients may have one address.",
    )
    devices: Setting[Switch, str] = Setting(
        values.one_of("off", "on"), "off", "Whether `devices` below `ENDPOINTS` serves a subject its devices, as JSON. Needs `TRACK=on`."
    )
    cache_size: Count = Setting(
        values.count, 100_000, "How many verified tokens a node caches at most. Also the number of sessions whose records it caches."
    )
    cache_ttl: Duration = Setting(
        values.duration, "5m", "How long a verified token stays cached. Revocations are checked on every request regardless."
    )
    cache_bytes: Count = Setting(values.count, 64 << 20, "How many bytes of memory each of these two caches may take, roughly.")
    freshness_limit: Duration = Setting(
        values.duration,
        "5s",
        "How long a node that lost contact may still validate sessions. Nodes of other clusters than `peers://` and `etcd://` never do.",
    )
    drain_delay: Duration = Setting(
        values.delay,
        "0s",
        "How long a node that drains serves on before its server stops, so that each balancer notices by `readyz`. Covers SIGTERM under "
        "uvicorn, and `manager.drain()`.",
    )
    drain_refuse: Setting[Literal["off", "safe"], str] = Setting(
        values.one_of("off", "safe"),
        "off",
        "`safe`: a node that drains answers safe requests with 503 `node_draining`, for balancers that do not ask `readyz`.",
    )
    start_wait: Duration = Setting(
        values.delay, "0s", "How long a request waits for a node that is starting, before it gets 503 `node_starting`."
    )
    owned: Texts = Setting(
        values.patterns,
        (),
        "Paths whose handlers keep something in the memory of a node. There, `ROUTING` leads a session to the node that owns it.",
    )
    routing: Setting[Routing, str] = Setting(
        values.one_of("serve", "redirect", "forward"),
        "serve",
        "A request for a path in `OWNED` whose session another node owns. `serve`: this node answers it. `redirect`: the balancer, or "
        "our client, sends it there. `forward`: this node sends it there and passes the answer on.",
    )
    overload: Setting[Literal["off", "refuse"], str] = Setting(
        values.one_of("off", "refuse"),
        "off",
        "A node that gets more requests than it can answer. `refuse` answers some of them with 503 `overloaded`, those without a session "
        "first; see [Overload](../how-to/overload.md).",
    )
    endpoints: Text = Setting(
        values.text(r"(/[A-Za-z0-9._~-]+)+", "a path such as /-/session, without a / at its end"),
        "/-/session",
        "The prefix of probes and error pages.",
    )
    metrics: Setting[Switch, str] = Setting(
        values.one_of("off", "on"),
        "off",
        "Whether `metrics` below `ENDPOINTS` serves metrics for Prometheus. Needs the extra `prometheus`. Anybody who reaches the app "
        "can read them.",
    )
    ui: Setting[Switch, str] = Setting(
        values.one_of("off", "on"),
        "off",
        "Whether `ui` below `ENDPOINTS` serves a page that shows the cluster at work. Needs `UI_PASSWORD`. "
        "See [A page that shows the cluster](../how-to/see-the-cluster.md).",
    )
    ui_password: OptionalText = Setting(values.password, None, "The password of that page.", is_secret=True)
    ui_password_file: File = Setting(values.path, None, "A file with that password. Read again when it is needed.")
    error_detail: Setting[Literal["safe", "full"], str] = Setting(
        values.one_of("safe", "full"), "safe", "`full` adds the reason and the checks made to each refusal. For development."
    )
    etcd_ca_file: File = cluster_ca_file.renamed()
    etcd_cert_file: File = cluster_cert_file.renamed()
    etcd_key_file: File = cluster_key_file.renamed()
    etcd_user: OptionalText = cluster_user.renamed()
    etcd_password: OptionalText = cluster_password.renamed()
    etcd_password_file: File = cluster_password_file.renamed()
    allow_weak_secret: bool = False
    """Whether a weak secret on ``memory://`` is only logged: Starlette's callers pass ``secret_key="example"``. Has no variable."""
    loses_late_changes: bool = False
    """Whether a change that comes too late to be saved is only logged, as Starlette's callers may rely on. Has no variable."""
    cookie_max_age: bool = True
    """Whether the cookie carries Max-Age; see :meth:`with_max_age`. Has no variable."""

    def __post_init__(self) -> None:
        untold = self._parse()
        found = [*untold.values(), *self._replace_deprecated()]
        wrong = {DEPRECATED.get(name, name) for name in untold}
        found += faults(RULES, self, wrong)
        if "cluster" not in wrong:
            found += clusters.cluster_faults(self.cluster, self, wrong)
        if wrong.isdisjoint(("cluster_password", "cluster_password_file")):
            found += secrets.password_faults(self.cluster_password, self.cluster_password_file)
        if wrong.isdisjoint(("ui", "ui_password", "ui_password_file")):
            found += secrets.ui_password_faults(self.ui_password, self.ui_password_file, is_on=self.ui == "on")
        if "secret_key" not in wrong:
            found += self._key_faults()
        if found:
            raise ConfigurationError(found)

    def _parse(self) -> dict[str, str]:
        """The fault of each field that has one. Such a field gets its default, for the checks that follow."""
        wrong = {}
        for name, setting in {**SETTINGS, **_DEPRECATED}.items():
            value = getattr(self, name)
            try:
                parsed = setting.parse(value)
            except ValueError as exc:
                shown = "(a secret)" if setting.is_secret or isinstance(exc, values.Unshown) else repr(value)
                shown = shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}… ({len(shown)} characters)"
                wrong[name] = f"{variable(name)}={shown}: {exc}"
                parsed = setting.parse(setting.default)
            setting.__set__(self, parsed)
        return wrong

    def _replace_deprecated(self) -> Iterator[str]:
        for old, new in DEPRECATED.items():
            given, value = getattr(self, old), getattr(self, new)
            if given is not None and value is not None and given != value:
                yield f"{variable(old)}: {variable(new)} is set too; set only the latter"
            elif given is not None:
                SETTINGS[new].__set__(self, given)

    def _key_faults(self) -> tuple[str, ...]:
        try:
            self.read_keys()
        except ConfigurationError as exc:
            return exc.faults
        return ()

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in vars(self).items() if name not in _NEVER_SHOWN)
        return f"{type(self).__name__}({', '.join(shown)})"

    def read_keys(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """The signing keys and the verify-only keys, from the settings and from the files as they are now.

        Raises:
            ConfigurationError: a file cannot be read, there is no key, or one is weak.
        """
        return secrets.read_keys(
            secrets.Keys("secret_key", self.secret_key, self.secret_key_file),
            secrets.Keys("secret_key_fallbacks", self.secret_key_fallbacks, self.secret_key_fallbacks_file),
            may_be_weak=self.allow_weak_secret and self.cluster == "memory://",
            cookie_name=self.cookie_name,
        )

    def read_cluster_password(self) -> str:
        """The password of ``cluster_user``, from the settings or from the file as it is now.

        Raises:
            OSError: the file cannot be read.
        """
        return secrets.read_password(self.cluster_password, self.cluster_password_file)

    def read_ui_password(self) -> str:
        """The password of the page ``ui``, from the settings or from the file as it is now.

        Raises:
            OSError, UnicodeDecodeError: the file cannot be read.
        """
        return secrets.read_password(self.ui_password, self.ui_password_file)

    def weak_keys(self) -> list[str]:
        """A fault for each weak key that is used all the same, because Starlette's callers may do so."""
        keys, fallbacks = self.read_keys()
        return [*secrets.weaknesses("secret_key", keys), *secrets.weaknesses("secret_key_fallbacks", fallbacks)]

    def advice(self, environ: Mapping[str, str]) -> list[str]:
        """Warnings for an operator: settings that work, though hardly as intended, and deprecated names."""
        found = [*clusters.workers_advice(self.cluster, environ.get("WEB_CONCURRENCY", "1").strip())]
        for old, new in DEPRECATED.items():
            if getattr(self, old) is not None:
                found.append(f"{variable(old)} is deprecated and will be removed; set {variable(new)} instead")
        if self.owned and self.routing == "serve":
            found.append(f"{variable('owned')} has no effect while {variable('routing')}=serve; set redirect or forward")
        urls = [url for url in (*self.peers, *self.peers_next, self.advertise_url) if url is not None]
        if not any(url.startswith("https:") for url in urls):
            unused = (name for name in ("peer_ca_file", "peer_cert_file") if getattr(self, name) is not None)
            told = "has no effect: nodes speak TLS with each other where their URLs begin with https://"
            found.extend(f"{variable(name)} {told}" for name in unused)
        return found

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str] = os.environ, *, defaults: Mapping[str, Any] | None = None, **overrides: Any
    ) -> Settings:
        """The settings that the environment gives, with ``overrides`` above it and ``defaults`` below it.

        Raises:
            ConfigurationError: with all faults, unknown ``HA_SESSION_*`` names among them.
        """
        read, found = environment.read(environ, SETTINGS, DEPRECATED, _AS_IN_A_FILE)
        given = {**(defaults or {}), **read}
        for old, new in DEPRECATED.items():
            if old in overrides or new in overrides:
                given = {name: value for name, value in given.items() if name not in (old, new)}
        try:
            settings = cls(**{**given, **overrides})
        except ConfigurationError as exc:
            raise ConfigurationError([*found, *exc.faults]) from None
        if found:
            raise ConfigurationError(found)
        return settings

    def with_max_age(self, max_age_s: int | None) -> Settings:
        """The same settings with Starlette's ``max_age`` as both timeouts. 0 and less are legal: every session has expired.

        None: the cookie carries no Max-Age, and both timeouts are the absolute one.
        """
        other = copy(self)
        life_s = self.absolute_timeout if max_age_s is None else float(max_age_s)
        changed = {"cookie_max_age": max_age_s is not None, "idle_timeout": life_s, "absolute_timeout": life_s}
        vars(other).update(changed)
        return other


_AS_IN_A_FILE: Mapping[str, Callable[[str], object]] = {
    "secret_key": secrets.keys_in,
    "secret_key_fallbacks": partial(secrets.keys_in, separator=","),
    "cluster_password": secrets.trimmed,
    "ui_password": secrets.trimmed,
    "etcd_password": secrets.trimmed,
}
"""How the variable of a secret is read, so that the same text is the same secret in a variable and in a file."""

_ROWS: dict[str, Setting[Any, Any]] = {name: row for name, row in vars(Settings).items() if isinstance(row, Setting)}
SETTINGS: Mapping[str, Setting[Any, Any]] = {name: row for name, row in _ROWS.items() if row.replaced_by is None}
"""Each setting that has a variable."""
_DEPRECATED = {name: row for name, row in _ROWS.items() if row.replaced_by is not None}
DEPRECATED: Mapping[str, str] = {name: row.replaced_by.name for name, row in _ROWS.items() if row.replaced_by is not None}
"""Old names that still work, each with its new name."""
LONGEST_SHOWN = 500
"""How much of a faulty value a message shows, in characters."""
_NEVER_SHOWN = {name for name, row in _ROWS.items() if row.is_secret}
