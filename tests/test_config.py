"""The settings: the default, the variable and the rule of each; one message with all faults, and never a secret."""

from __future__ import annotations

import pickle
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Secret

from ha_session_mw import ConfigurationError, SessionMiddleware, Settings
from ha_session_mw._settings.cluster_urls import ClusterUrl
from ha_session_mw._settings.setting import ENV_PREFIX, variable
from ha_session_mw.config import DEPRECATED, SETTINGS

GOOD = "2JxQ8vZ6nT4wLmYp0RkHcVbNsDfGqXeA"
OTHER = "7hTz3-KqWm9_xPvB1nYcRd5LsGjF8uEoA"
THIRD = "e0MZb4yUq6TfXkPa2sWc8RvHn1LdGj7-Qi"


def from_environ(**variables: str) -> Settings:
    given = {"SECRET_KEY": GOOD} | variables
    return Settings.from_environ({ENV_PREFIX + name: value for name, value in given.items() if value is not ABSENT})


ABSENT: Any = object()


def faults_of(make: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        make(*args, **kwargs)
    for fault in caught.value.faults:
        assert fault in str(caught.value)
        assert GOOD not in fault
    return caught.value.faults


# Each setting: its default and the values of its variable

DEFAULTS = {
    "secret_key": (GOOD.encode(),),
    "secret_key_file": None,
    "secret_key_fallbacks": (),
    "secret_key_fallbacks_file": None,
    "audience": None,
    "drain_delay": 0.0,
    "drain_refuse": "off",
    "owned": (),
    "routing": "serve",
    "start_wait": 0.0,
    "cluster": "memory://",
    "node_id": None,
    "transports": ("cookie", "bearer"),
    "cookie_name": "session",
    "cookie_path": "/",
    "cookie_domain": None,
    "cookie_same_site": "lax",
    "cookie_partitioned": False,
    "cookie_https_only": "auto",
    "idle_timeout": 1800.0,
    "absolute_timeout": 43200.0,
    "legacy_cookies": "off",
    "legacy_until": None,
    "protect": (),
    "public": (),
    "exempt": (),
    "step_up": (),
    "step_up_max_age": 300.0,
    "login_url": None,
    "passive": (),
    "data": "auto",
    "when_lost": "continue",
    "track": "off",
    "track_address": False,
    "max_sessions": None,
    "when_full": "end_oldest",
    "logins_per_subject": 300,
    "logins_per_address": 30_000,
    "devices": "off",
    "weight": 1,
    "cache_size": 100_000,
    "cache_bytes": 64 << 20,
    "cache_ttl": 300.0,
    "freshness_limit": 5.0,
    "overload": "off",
    "endpoints": "/-/session",
    "error_detail": "safe",
    "metrics": "off",
    "ui": "off",
    "ui_password": None,
    "ui_password_file": None,
}


def test_a_setting_that_is_not_given_has_its_default() -> None:
    found = from_environ()

    assert {name: getattr(found, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("SECRET_KEY", OTHER, (OTHER.encode(),)),
        ("SECRET_KEY", "a,comma,is,a,part,of,the,secret,key,Zx81", (b"a,comma,is,a,part,of,the,secret,key,Zx81",)),
        ("SECRET_KEY_FALLBACKS", f"{OTHER}, {THIRD}", (OTHER.encode(), THIRD.encode())),
        ("SECRET_KEY_FALLBACKS", "", ()),
        ("CLUSTER", "memory://", ClusterUrl("memory://")),
        ("AUDIENCE", "https://shop.example/", "https://shop.example/"),
        ("AUDIENCE", "", None),
        ("DRAIN_DELAY", "5s", 5.0),
        ("DRAIN_DELAY", "0", 0.0),
        ("DRAIN_DELAY", "0ms", 0.0),
        ("DRAIN_REFUSE", "safe", "safe"),
        ("OWNED", "/rooms/*, /jobs/*", ("/rooms/*", "/jobs/*")),
        ("ROUTING", "Serve", "serve"),
        ("START_WAIT", "500ms", 0.5),
        ("NODE_ID", "pod-7.a_B", "pod-7.a_B"),
        ("NODE_ID", "", None),
        ("TRANSPORTS", "bearer", ("bearer",)),
        ("TRANSPORTS", " cookie , cookie,", ("cookie",)),
        ("COOKIE_NAME", "id", "id"),
        ("COOKIE_PATH", "/app", "/app"),
        ("COOKIE_DOMAIN", "example.com", "example.com"),
        ("COOKIE_DOMAIN", "", None),
        ("COOKIE_SAME_SITE", "Strict", "strict"),
        ("COOKIE_HTTPS_ONLY", "true", True),
        ("COOKIE_HTTPS_ONLY", "0", False),
        ("COOKIE_HTTPS_ONLY", " Auto ", "auto"),
        ("COOKIE_PARTITIONED", "no", False),
        ("IDLE_TIMEOUT", "90", 90.0),
        ("IDLE_TIMEOUT", "1.5m", 90.0),
        ("IDLE_TIMEOUT", " 90 s ", 90.0),
        ("ABSOLUTE_TIMEOUT", "14d", 14 * 86400.0),
        ("LEGACY_COOKIES", "starlette", "starlette"),
        ("PROTECT", "/private/*, /api/*,", ("/private/*", "/api/*")),
        ("PROTECT", "*", ("*",)),
        ("PUBLIC", "/login, /login/*", ("/login", "/login/*")),
        ("EXEMPT", "/static/*", ("/static/*",)),
        ("STEP_UP", "/password", ("/password",)),
        ("STEP_UP_MAX_AGE", "90s", 90.0),
        ("LOGIN_URL", "/login?a=b", "/login?a=b"),
        ("PASSIVE", "/poll", ("/poll",)),
        ("WEIGHT", "1000", 1000),
        ("LOGINS_PER_SUBJECT", "7", 7),
        ("LOGINS_PER_SUBJECT", " Off ", None),
        ("LOGINS_PER_ADDRESS", "100000", 100_000),
        ("LOGINS_PER_ADDRESS", "off", None),
        ("CACHE_SIZE", "7", 7),
        ("DATA", "Store", "store"),
        ("CACHE_BYTES", "1000000", 1_000_000),
        ("CACHE_TTL", "1h", 3600.0),
        ("FRESHNESS_LIMIT", "500ms", 0.5),
        ("ENDPOINTS", "/_s", "/_s"),
        ("ERROR_DETAIL", "full", "full"),
    ],
)
def test_a_variable_sets_its_setting(name: str, text: str, value: object) -> None:
    found = getattr(from_environ(**{name: text}), name.lower())

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-12-31", datetime(2026, 12, 31, tzinfo=UTC)),
        ("2026-12-31T18:00:00", datetime(2026, 12, 31, 18, tzinfo=UTC)),
        (" 2026-12-31T18:00:00Z ", datetime(2026, 12, 31, 18, tzinfo=UTC)),
        ("2026-12-31 18:00:00+01:00", datetime(2026, 12, 31, 17, tzinfo=UTC)),
    ],
)
def test_a_time_without_an_offset_is_in_utc(text: str, value: datetime) -> None:
    assert from_environ(LEGACY_COOKIES="starlette", LEGACY_UNTIL=text).legacy_until == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("CLUSTER", text) for text in ("redis://h", "memory", "memory:///x")),
        *(("AUDIENCE", text) for text in ("a b", "x" * 129, "é", "a\nb")),
        *(("NODE_ID", text) for text in ("a b", "x" * 65, "a/b", "é", "a\n")),
        *(("TRANSPORTS", text) for text in (",", "header", "cookie,header", "Cookie")),
        *(("COOKIE_NAME", text) for text in ("a b", "a=b", "a;b", "é", "a\r\nx", "x" * 129)),
        *(("COOKIE_PATH", text) for text in ("app", "/a;b", "/a b", "/a\r\nSet-Cookie: x", "/a,b", "/\x00", "/日本", "/ü")),
        *(("COOKIE_DOMAIN", text) for text in ("a b", "a;b", "https://example.com", "exämple.com")),
        *(("COOKIE_SAME_SITE", text) for text in ("loose", "true")),
        *(("COOKIE_HTTPS_ONLY", text) for text in ("maybe", "2")),
        *(("COOKIE_PARTITIONED", text) for text in ("auto",)),
        *(
            ("IDLE_TIMEOUT", text)
            for text in ("0", "-1", "0s", "1w", "١٢", "m", "1 2", "nan", "inf", "1e3", "9" * 400, "101000d", "30 minutes")
        ),
        *(("WEIGHT", text) for text in ("0", "1.5", "1001", "-1", "heavy")),
        *(("CACHE_SIZE", text) for text in ("0", "-1", "1.5", "many", "1_000", "9" * 30)),
        *(("LOGINS_PER_SUBJECT", text) for text in ("0", "-1", "5/m", "on")),
        *(("LOGINS_PER_ADDRESS", text) for text in ("0", "none")),
        *(("PROTECT", text) for text in ("private", "/a,b", "https://x/")),
        *(("ENDPOINTS", text) for text in ("/", "x", "/x/", "/a b", "//x")),
        *(("LEGACY_COOKIES", text) for text in ("on", "flask")),
        *(("LEGACY_UNTIL", text) for text in ("soon", "14d", "2026-13-01", "31.12.2026", "1800000000", "0001-01-01", "9999-12-31")),
        *(("ERROR_DETAIL", text) for text in ("debug",)),
    ],
)
def test_a_bad_value_is_reported_with_its_variable_the_value_and_the_rule(name: str, text: str) -> None:
    (fault,) = faults_of(from_environ, **{name: text})

    assert fault.startswith(f"HA_SESSION_{name}={text!r}: ")
    assert re.search(r": (must|each)\b.{6,}", fault)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CLUSTER", "redis://:hunter2@10.0.0.1/0"),
        ("CLUSTER", "postgres://shop:hunter2@10.0.0.1/shop"),
        ("CLUSTER", "redis://10.0.0.1/0?password=hunter2"),
        ("ADVERTISE_URL", "http://shop:hunter2@10.0.0.1:8000"),
        ("PEERS", "http://10.0.0.1:8000,http://shop:hunter2@10.0.0.2:8000"),
    ],
)
def test_a_url_that_may_hold_a_password_is_not_shown(name: str, text: str) -> None:
    (fault,) = faults_of(from_environ, **{name: text})

    assert fault.startswith(f"HA_SESSION_{name}=(a secret): must be ")
    assert "hunter2" not in fault


def test_patterns_that_a_space_divides_would_match_nothing_and_protect_nothing() -> None:
    (fault,) = faults_of(from_environ, PROTECT="/account /api/*")

    assert fault == "HA_SESSION_PROTECT='/account /api/*': separate the patterns by commas; '/account /api/*' is a single pattern"
    assert from_environ(PROTECT="/my files/*").protect == ("/my files/*",)


@pytest.mark.parametrize(
    "value",
    [object(), 2.5, float("nan"), -1, True, b"x", [1], {"a": 1}, {"x"}, (None,), len, "a\0b"],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_a_strange_type_is_accepted_or_reported_and_never_crashes(value: object) -> None:
    for name in SETTINGS:
        given: dict[str, Any] = {"secret_key": GOOD, name: value}
        try:
            with suppress(ConfigurationError):
                Settings(**given)
        except Exception as crash:
            crash.add_note(name)
            raise


PEERS = {
    *("advertise_url", "peers", "peers_next", "state_dir", "no_quorum", "heartbeat", "peer_timeout"),
    *("peer_ca_file", "peer_cert_file", "peer_key_file"),
}


def test_every_setting_is_tried_here_or_with_the_clusters() -> None:
    connection = {name for name in SETTINGS if name.startswith("cluster_")}
    assert set(SETTINGS) - PEERS - connection - {"relaxed"} == set(DEFAULTS)


def test_every_setting_documents_its_purpose_and_its_rule() -> None:
    assert {name for name, setting in SETTINGS.items() if len(setting.help) <= 15 or not setting.parse.__doc__} == set()
    assert {name for name in SETTINGS if variable(name) != "HA_SESSION_" + name.upper()} == set()


# All faults at once


def test_all_faults_are_in_one_message() -> None:
    faults = faults_of(
        from_environ,
        SECRET_KEY="changeme",
        SECRET_KEY_FALLBACKS="short",
        IDLE_TIMEOUT="soon",
        CACHE_SIZE="none",
        COOKIE_SAME_SITE="none",
        COKIE_NAME="x",
        PROTECT="private",
    )

    told = [re.match(r"[A-Z_]+", fault) for fault in faults]
    assert {match[0] for match in told if match} == {
        ENV_PREFIX + name
        for name in ("SECRET_KEY", "SECRET_KEY_FALLBACKS", "IDLE_TIMEOUT", "CACHE_SIZE", "COOKIE_SAME_SITE", "COKIE_NAME", "PROTECT")
    }
    assert len(faults) == 7


def test_a_value_that_is_wrong_makes_no_contradictions_with_others() -> None:
    (fault,) = faults_of(from_environ, IDLE_TIMEOUT="soon", ABSOLUTE_TIMEOUT="10m")

    assert "soon" in fault


def test_the_message_is_a_list_with_a_headline() -> None:
    with pytest.raises(ConfigurationError, match=r"^ha_session_mw cannot start, 2 setting\(s\) to correct:\n  - HA_.*\n  - HA_"):
        from_environ(IDLE_TIMEOUT="soon", CACHE_SIZE="none")


# Contradictions


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"IDLE_TIMEOUT": "13h"}, "HA_SESSION_IDLE_TIMEOUT"),
        ({"ABSOLUTE_TIMEOUT": "1m"}, "HA_SESSION_IDLE_TIMEOUT"),
        ({"COOKIE_SAME_SITE": "none"}, "HA_SESSION_COOKIE_SAME_SITE"),
        ({"COOKIE_SAME_SITE": "none", "COOKIE_HTTPS_ONLY": "false"}, "HA_SESSION_COOKIE_SAME_SITE"),
        ({"COOKIE_PARTITIONED": "true"}, "HA_SESSION_COOKIE_PARTITIONED"),
        ({"COOKIE_NAME": "__Host-id"}, "HA_SESSION_COOKIE_NAME"),
        *(
            ({"COOKIE_NAME": name}, "HA_SESSION_COOKIE_NAME")
            for name in ("__Secure-id", "__host-id", "__SECURE-id", "__Http-id", "__Host-Http-id")
        ),
        ({"COOKIE_NAME": "__HOST-id", "COOKIE_HTTPS_ONLY": "true", "COOKIE_PATH": "/app"}, "HA_SESSION_COOKIE_PATH"),
        ({"COOKIE_NAME": "__Host-Http-id", "COOKIE_HTTPS_ONLY": "true", "COOKIE_DOMAIN": "a.example"}, "HA_SESSION_COOKIE_DOMAIN"),
        ({"COOKIE_NAME": "__Host-id", "COOKIE_HTTPS_ONLY": "true", "COOKIE_DOMAIN": "a.example"}, "HA_SESSION_COOKIE_DOMAIN"),
        ({"COOKIE_NAME": "__Host-id", "COOKIE_HTTPS_ONLY": "true", "COOKIE_PATH": "/app"}, "HA_SESSION_COOKIE_PATH"),
        ({"COOKIE_NAME": GOOD}, "HA_SESSION_COOKIE_NAME"),
        ({"ROUTING": "redirect", "OWNED": "/rooms/*"}, "HA_SESSION_ROUTING='redirect': with HA_SESSION_CLUSTER='memory://' no node knows"),
        (
            {"ROUTING": "redirect", "OWNED": "/rooms/*", "CLUSTER": "sqlite:///s.db"},
            "HA_SESSION_ROUTING='redirect': with HA_SESSION_CLUSTER='sqlite:///s.db' no node knows",
        ),
        ({"LEGACY_UNTIL": "2027-01-01"}, "HA_SESSION_LEGACY_UNTIL"),
        ({"PROTECT": "/a,/b/*", "PUBLIC": "/b*"}, "HA_SESSION_PUBLIC=('/b*',): opens everything"),
        ({"PROTECT": "/a", "PUBLIC": "/a"}, "HA_SESSION_PUBLIC"),
        ({"WHEN_FULL": "refuse"}, "HA_SESSION_WHEN_FULL='refuse': there is no limit; set HA_SESSION_MAX_SESSIONS, too"),
        ({"WHEN_FULL": "refuse", "TRACK": "on"}, "HA_SESSION_WHEN_FULL='refuse': there is no limit; set HA_SESSION_MAX_SESSIONS, too"),
        ({"TRACK_ADDRESS": "true"}, "HA_SESSION_TRACK_ADDRESS=True: log-ins are not recorded; set HA_SESSION_TRACK=on, too"),
    ],
)
def test_settings_that_contradict_each_other_stop_the_start(variables: dict[str, str], told: str) -> None:
    (fault,) = faults_of(from_environ, **variables)

    assert fault.startswith(told)


@pytest.mark.parametrize(
    "variables",
    [
        {"IDLE_TIMEOUT": "12h"},
        {"LEGACY_UNTIL": "2027-01-01", "LEGACY_COOKIES": "starlette"},
        {"COOKIE_SAME_SITE": "none", "COOKIE_HTTPS_ONLY": "true"},
        {"COOKIE_PARTITIONED": "true", "COOKIE_HTTPS_ONLY": "true"},
        {"COOKIE_NAME": "__Host-id", "COOKIE_HTTPS_ONLY": "true"},
        {"TRACK": "on", "TRACK_ADDRESS": "true", "MAX_SESSIONS": "5", "WHEN_FULL": "refuse"},
        {"WHEN_LOST": "end", "OVERLOAD": "refuse"},
        {"COOKIE_NAME": "__Secure-id", "COOKIE_HTTPS_ONLY": "true", "COOKIE_DOMAIN": "a.example", "COOKIE_PATH": "/app"},
    ],
)
def test_settings_that_agree_do_not(variables: dict[str, str]) -> None:
    from_environ(**variables)


# Names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("COKIE_NAME", "HA_SESSION_COOKIE_NAME"),
        ("SECRET", "HA_SESSION_SECRET_KEY"),
        ("IDLE_TIMOUT", "HA_SESSION_IDLE_TIMEOUT"),
        ("idle_timeout", "HA_SESSION_IDLE_TIMEOUT"),
        ("PROTECTED", "HA_SESSION_PROTECT"),
    ],
)
def test_an_unknown_name_is_reported_with_the_likely_setting(name: str, meant: str) -> None:
    (fault,) = faults_of(from_environ, **{name: "canary"})

    assert fault == f"HA_SESSION_{name}: is not a setting of this release. Did you mean {meant}?"


def test_a_name_like_no_other_is_reported_without_a_guess() -> None:
    assert faults_of(from_environ, ZZZ="1") == ("HA_SESSION_ZZZ: is not a setting of this release",)


def test_settings_without_a_variable_cannot_be_set_by_one() -> None:
    for name in ("ALLOW_WEAK_SECRET", "COOKIE_MAX_AGE"):
        assert len(faults_of(from_environ, **{name: "true"})) == 1


@pytest.mark.parametrize(
    "name",
    [
        *("PORT", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8000_TCP", "PORT_8000_TCP_ADDR"),
        *("MW_PORT", "MW_SERVICE_HOST", "MW_PORT_80_TCP_PROTO", "MW_SERVICE_PORT_HTTPS"),
    ],
)
def test_names_that_kubernetes_injects_for_a_service_of_that_name_are_ignored(name: str) -> None:
    from_environ(**{name: "tcp://10.0.0.1:80"})


def test_other_peoples_variables_are_not_looked_at() -> None:
    Settings.from_environ({"HA_SESSION_SECRET_KEY": GOOD, "HA_SESSIONS": "x", "XHA_SESSION_Y": "z", "PATH": "/bin"})


# Precedence


def test_an_override_goes_before_the_environment_and_that_before_a_default() -> None:
    environ = {"HA_SESSION_SECRET_KEY": GOOD, "HA_SESSION_COOKIE_NAME": "from-environ", "HA_SESSION_COOKIE_PATH": "/environ"}
    found = Settings.from_environ(environ, defaults={"cookie_name": "d", "cookie_path": "/d", "cache_size": 5}, cookie_name="from-argument")

    assert (found.cookie_name, found.cookie_path, found.cache_size, found.endpoints) == ("from-argument", "/environ", 5, "/-/session")


def used_by(middleware: SessionMiddleware) -> Settings:
    return middleware.manager.settings


async def app(scope: Any, receive: Any, send: Any) -> None: ...


def test_the_middlewares_argument_goes_before_settings_and_those_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HA_SESSION_SECRET_KEY", OTHER)
    monkeypatch.setenv("HA_SESSION_COOKIE_NAME", "from-environ")
    monkeypatch.setenv("HA_SESSION_CACHE_SIZE", "9")

    assert used_by(SessionMiddleware(app)).cookie_name == "from-environ"
    assert used_by(SessionMiddleware(app, session_cookie="from-argument")).cookie_name == "from-argument"
    given = Settings(secret_key=GOOD, cookie_name="from-settings")
    assert used_by(SessionMiddleware(app, settings=given)).cookie_name == "from-settings"
    assert used_by(SessionMiddleware(app, settings=given)).cache_size == 100_000
    assert used_by(SessionMiddleware(app, settings=given, session_cookie="from-argument")).cookie_name == "from-argument"
    assert used_by(SessionMiddleware(app, settings=given, secret_key=THIRD)).read_keys()[0] == (THIRD.encode(),)


def test_called_starlettes_way_starlettes_defaults_hold_under_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    found = used_by(SessionMiddleware(app, secret_key=GOOD))
    assert (found.transports, found.cookie_https_only) == (("cookie",), False)
    assert (found.idle_timeout, found.absolute_timeout) == (14 * 86400.0, 14 * 86400.0)

    monkeypatch.setenv("HA_SESSION_TRANSPORTS", "bearer")
    monkeypatch.setenv("HA_SESSION_IDLE_TIMEOUT", "1h")
    found = used_by(SessionMiddleware(app, secret_key=GOOD))
    assert (found.transports, found.idle_timeout, found.absolute_timeout) == (("bearer",), 3600.0, 14 * 86400.0)


@pytest.mark.parametrize("max_age", [60, 0, -5])
def test_starlettes_max_age_stands_for_both_lives_and_may_be_nothing_or_less(max_age: int) -> None:
    found = used_by(SessionMiddleware(app, secret_key=GOOD, max_age=max_age))

    assert (found.idle_timeout, found.absolute_timeout, found.cookie_max_age) == (max_age, max_age, True)


def test_starlettes_max_age_none_is_no_max_age_and_the_absolute_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HA_SESSION_ABSOLUTE_TIMEOUT", "1h")
    found = used_by(SessionMiddleware(app, secret_key=GOOD, max_age=None))

    assert (found.idle_timeout, found.absolute_timeout, found.cookie_max_age) == (3600.0, 3600.0, False)


def test_with_max_age_leaves_the_settings_it_was_made_from() -> None:
    first = Settings(secret_key=GOOD)
    first.with_max_age(5)

    assert first.idle_timeout == 1800.0


def test_wrong_settings_are_kept_for_the_start_and_do_not_raise_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HA_SESSION_COKIE_NAME", "x")
    middleware = SessionMiddleware(app)

    assert middleware._fault is not None
    assert len(middleware._fault.faults) == 2


# Secrets


def test_without_a_secret_nothing_starts() -> None:
    for absent in (ABSENT, ""):
        (fault,) = faults_of(from_environ, SECRET_KEY=absent)
        assert fault.startswith("HA_SESSION_SECRET_KEY: is not set")
        assert "token_urlsafe" in fault


@pytest.mark.parametrize("secret", ["short", "changeme" * 8, "x" * 40, "django-insecure-3k@x!v9q7w_zj2m8r4t6y1u5i0o"])
def test_a_weak_secret_stops_the_start_without_being_shown(secret: str) -> None:
    for name in ("SECRET_KEY", "SECRET_KEY_FALLBACKS"):
        (fault,) = faults_of(from_environ, **{name: secret})
        assert fault.startswith(f"HA_SESSION_{name}: ")
        assert secret not in fault


def test_a_weak_secret_may_be_used_where_starlettes_callers_do_but_none_may_not() -> None:
    assert Settings(secret_key="example", allow_weak_secret=True).weak_keys() != []
    assert Settings(secret_key=GOOD, allow_weak_secret=True).weak_keys() == []
    for nothing in ("", None, [], [""], ["example", ""], b"", [b""]):
        faults_of(Settings, secret_key=nothing, allow_weak_secret=True)


@pytest.mark.parametrize(
    "given", [GOOD, GOOD.encode(), Secret(GOOD), [GOOD], (Secret(GOOD),), [GOOD.encode()]], ids=lambda given: type(given).__name__
)
def test_a_secret_may_be_text_bytes_or_starlettes_secret_or_several(given: Any) -> None:
    assert Settings(secret_key=given).read_keys() == ((GOOD.encode(),), ())


class SecretText:
    """Like pydantic's SecretStr: the text is not the secret."""

    def __str__(self) -> str:
        return "**********"


@pytest.mark.parametrize(
    "given", [SecretText(), [SecretText()], {GOOD}, (part for part in [GOOD]), 12345, bytearray(GOOD.encode()), {GOOD: 1}]
)
def test_a_secret_of_another_type_is_reported_and_its_text_not_used(given: Any) -> None:
    """A generator's text contains an address, so each process would have another secret. Everybody knows ten stars."""
    (fault,) = faults_of(Settings, secret_key=given, allow_weak_secret=True)

    assert fault.startswith("HA_SESSION_SECRET_KEY=(a secret): ")


def test_settings_never_show_a_secret() -> None:
    found = Settings(secret_key=GOOD, secret_key_fallbacks=[OTHER])

    assert GOOD not in f"{found!r} {found}"
    assert OTHER not in f"{found!r} {found}"
    assert pickle.loads(pickle.dumps(found)) == found


def test_settings_are_frozen_and_take_keywords_only() -> None:
    found = Settings(secret_key=GOOD)
    with pytest.raises(AttributeError):
        found.cookie_name = "x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Settings(GOOD)  # type: ignore[call-arg]


# Secrets in files


def test_a_secret_may_stand_in_a_file_a_key_a_line(tmp_path: Path) -> None:
    keys, fallbacks = tmp_path / "keys", tmp_path / "fallbacks"
    keys.write_text(f"{GOOD}\n\n  {OTHER}  \r\n")
    fallbacks.write_text(THIRD)

    found = from_environ(SECRET_KEY=ABSENT, SECRET_KEY_FILE=str(keys), SECRET_KEY_FALLBACKS_FILE=str(fallbacks))

    assert found.read_keys() == ((GOOD.encode(), OTHER.encode()), (THIRD.encode(),))
    assert GOOD not in repr(found)


AROUND = ["{}\n", "\ufeff{}", " {}\t", "\r\n{}\r\n\r\n", "\ufeff {} \n"]


@pytest.mark.parametrize("around", AROUND, ids=ascii)
def test_a_secret_is_the_same_in_a_variable_and_in_a_file(around: str, tmp_path: Path) -> None:
    key, old = tmp_path / "key", tmp_path / "old"
    key.write_bytes(around.format(GOOD).encode())
    old.write_bytes(around.format(OTHER).encode())
    expected = ((GOOD.encode(),), (OTHER.encode(),))

    assert from_environ(SECRET_KEY=around.format(GOOD), SECRET_KEY_FALLBACKS=around.format(OTHER)).read_keys() == expected
    in_files = {"SECRET_KEY_FILE": str(key), "SECRET_KEY_FALLBACKS_FILE": str(old)}
    assert from_environ(SECRET_KEY=ABSENT, **in_files).read_keys() == expected


def test_a_variable_may_hold_several_keys_one_a_line_as_a_file_may() -> None:
    found = from_environ(SECRET_KEY=f"{GOOD}\n{OTHER}\n", SECRET_KEY_FALLBACKS=f"{THIRD},\n")

    assert found.read_keys() == ((GOOD.encode(), OTHER.encode()), (THIRD.encode(),))


@pytest.mark.parametrize("around", AROUND, ids=ascii)
def test_a_password_is_the_same_in_a_variable_and_in_a_file(around: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(around.format("pass word").encode())
    on_etcd = {"CLUSTER": "etcd://h:2379", "CLUSTER_USER": "shop"}

    assert from_environ(**on_etcd, CLUSTER_PASSWORD=around.format("pass word")).read_cluster_password() == "pass word"
    assert from_environ(**on_etcd, CLUSTER_PASSWORD_FILE=str(file)).read_cluster_password() == "pass word"


@pytest.mark.parametrize("mark", ['"', "'"])
def test_quotation_marks_around_a_value_are_a_fault_of_their_own(mark: str) -> None:
    variables = {"SECRET_KEY": GOOD, "IDLE_TIMEOUT": "10m", "PROTECT": "/account,/admin/*", "CLUSTER": "memory://", "NODE_ID": "n1"}
    quoted = {ENV_PREFIX + name: f"{mark}{value}{mark} " for name, value in variables.items()}
    assert faults_of(Settings.from_environ, quoted) == tuple(
        f"{name}: has quotation marks around its value; remove them. docker run --env-file takes them for a part of the value"
        for name in quoted
    )


def test_a_quotation_mark_within_a_value_is_a_part_of_it() -> None:
    assert from_environ(PROTECT='/it\'s,/"a"').protect == ("/it's", '/"a"')


@pytest.mark.parametrize("nothing", ["", " ", "\n"], ids=ascii)
def test_an_empty_variable_is_a_setting_that_is_not_set(nothing: str) -> None:
    """Compose files and Helm charts write one for a value that was left out."""
    unset = from_environ()
    names = {name.upper() for name in (*SETTINGS, *DEPRECATED)} - {"SECRET_KEY"}

    assert {name for name in names if from_environ(**{name: nothing}) != unset} == set()
    (fault,) = faults_of(from_environ, SECRET_KEY=nothing)
    assert fault.startswith("HA_SESSION_SECRET_KEY: is not set")


UI_PASSWORD = "tea-and-7-biscuits"


@pytest.mark.parametrize("around", AROUND, ids=ascii)
def test_the_page_has_a_password_of_its_own(around: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(around.format(UI_PASSWORD).encode())
    given = ({"UI_PASSWORD": around.format(UI_PASSWORD)}, {"UI_PASSWORD_FILE": str(file)})

    assert [from_environ(UI="on", **one).read_ui_password() for one in given] == [UI_PASSWORD] * 2
    assert UI_PASSWORD not in repr(from_environ(UI="on", **given[0]))


@pytest.mark.parametrize(
    ("password", "why"),
    [("short", "is 5 bytes long"), ("changemechangemechangeme", "placeholder"), ("aaaaaaaabbbbbbbb", "few characters")],
)
def test_a_password_that_can_be_guessed_opens_no_page(password: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(password)
    for name, value in (("UI_PASSWORD", password), ("UI_PASSWORD_FILE", str(file))):
        (fault,) = faults_of(from_environ, **{"UI": "on", name: value})
        assert fault.startswith(f"HA_SESSION_{name}: ")
        assert why in fault
        assert password not in fault


def test_a_page_without_its_password_is_reported_with_the_remedy(tmp_path: Path) -> None:
    (fault,) = faults_of(from_environ, UI="on")
    assert "set HA_SESSION_UI_PASSWORD or HA_SESSION_UI_PASSWORD_FILE" in fault
    (fault,) = faults_of(from_environ, UI="on", UI_PASSWORD=UI_PASSWORD, UI_PASSWORD_FILE=str(tmp_path / "x"))
    assert fault.endswith("set one of them")
    (fault,) = faults_of(from_environ, UI="on", UI_PASSWORD_FILE=str(tmp_path / "x"))
    assert "cannot be read" in fault
    (tmp_path / "bytes").write_bytes(b"\xff" * 32)
    (fault,) = faults_of(from_environ, UI="on", UI_PASSWORD_FILE=str(tmp_path / "bytes"))
    assert fault == "HA_SESSION_UI_PASSWORD_FILE: is no text in UTF-8"


def test_a_faulty_file_is_reported_with_the_reason(tmp_path: Path) -> None:
    empty, weak, good = tmp_path / "empty", tmp_path / "weak", tmp_path / "good"
    empty.write_text("\n \n")
    weak.write_text("hunter2\n")
    good.write_text(GOOD)

    for file, rule in ((empty, "is empty"), (weak, "is 7 bytes long"), (tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        (fault,) = faults_of(from_environ, SECRET_KEY=ABSENT, SECRET_KEY_FILE=str(file))
        assert fault.startswith("HA_SESSION_SECRET_KEY")
        assert rule in fault
        assert "hunter2" not in fault
    (fault,) = faults_of(from_environ, SECRET_KEY_FILE=str(good))
    assert "HA_SESSION_SECRET_KEY is set too" in fault


@pytest.mark.parametrize("name", ["SECRET_KEY_FILE", "SECRET_KEY_FALLBACKS_FILE", "UI_PASSWORD_FILE"])
def test_a_device_in_the_place_of_a_file_of_secrets_is_reported_and_not_read_to_its_end(name: str) -> None:
    given = {"SECRET_KEY": ABSENT if name == "SECRET_KEY_FILE" else GOOD, name: "/dev/zero"}
    (fault,) = faults_of(from_environ, **given)
    assert fault.startswith(f"HA_SESSION_{name}")
    assert "cannot be read: it is larger than 65536 bytes" in fault


def test_a_faulty_value_is_shown_as_far_as_it_helps() -> None:
    (fault,) = faults_of(from_environ, COOKIE_SAME_SITE="x" * 10_000)
    assert fault == f"HA_SESSION_COOKIE_SAME_SITE='{'x' * 499}… (10002 characters): must be one of lax, strict, none"


def test_an_empty_file_of_fallbacks_is_no_fallbacks(tmp_path: Path) -> None:
    file = tmp_path / "fallbacks"
    file.write_text("")

    assert from_environ(SECRET_KEY_FALLBACKS_FILE=str(file)).read_keys() == ((GOOD.encode(),), ())


@pytest.mark.parametrize(
    ("cluster", "workers", "said"),
    [
        ("memory://", None, None),
        ("memory://", "1", None),
        ("memory://", "many", None),
        ("memory://", "4", "each worker knows only its own log-outs and its own store"),
        ("sqlite:///tmp/s.db", "4", None),
        ("peers://", "4", "cannot be peers"),
    ],
)
def test_several_workers_where_there_can_be_but_one_are_told(cluster: str, workers: str | None, said: str | None) -> None:
    peers: dict[str, Any] = {"peers": "http://127.0.0.1:1", "advertise_url": "http://127.0.0.1:1"} if cluster == "peers://" else {}
    settings = Settings(secret_key=GOOD, cluster=cluster, **peers)
    advice = settings.advice({} if workers is None else {"WEB_CONCURRENCY": workers})
    assert len(advice) == (said is not None)
    assert (said or "") in "".join(advice)


def test_owned_paths_that_nothing_routes_are_told() -> None:
    [advice] = Settings(secret_key=GOOD, owned="/rooms/*").advice({})
    assert advice == "HA_SESSION_OWNED has no effect while HA_SESSION_ROUTING=serve; set redirect or forward"


@pytest.mark.parametrize(("scheme", "warns"), [("http", True), ("https", False)])
def test_certificates_that_nothing_uses_are_told(scheme: str, warns: bool) -> None:
    url = f"{scheme}://127.0.0.1:1"
    advice = Settings(secret_key=GOOD, cluster="peers://", peers=url, advertise_url=url, peer_ca_file="/etc/ca.pem").advice({})
    assert [one for one in advice if one.startswith("HA_SESSION_PEER_CA_FILE has no effect")] == advice * warns


def test_a_secret_that_was_put_in_the_place_of_its_file_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings(secret_key_file=GOOD)
    assert GOOD not in str(raised.value)
    assert "HA_SESSION_SECRET_KEY_FILE" in str(raised.value)
