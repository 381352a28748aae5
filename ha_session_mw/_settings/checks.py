"""The rules between settings, one per row. A rule is checked only if each setting that it concerns is valid by itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import msgspec

from .._core.paths import covers
from .._core.token.cookies import HOST_PREFIX


class Rule(msgspec.Struct, frozen=True):
    """Several settings that must agree.

    Attributes:
        concerns: the names of the settings.
        is_broken: called with their values, in that order.
        fault: the text of the fault; a format string that may name the same settings.
    """

    concerns: tuple[str, ...]
    is_broken: Callable[..., object]
    fault: str


def faults(rules: Collection[Rule], settings: object, wrong: Collection[str]) -> Iterator[str]:
    """Return the texts of the broken rules.

    Args:
        settings: has an attribute for each setting.
        wrong: the names of settings whose own value is invalid. Rules that concern them are skipped.
    """
    for rule in rules:
        if not set(rule.concerns).intersection(wrong):
            values = {name: getattr(settings, name) for name in rule.concerns}
            if rule.is_broken(*values.values()):
                yield rule.fault.format_map(values)


def _needs_tracking(name: str, is_set: Callable[[object], bool], shown: str) -> Rule:
    fault = f"HA_SESSION_{name.upper()}={shown}: log-ins are not recorded; set HA_SESSION_TRACK=on, too"
    return Rule(("track", name), lambda track, value: track == "off" and is_set(value), fault)


def _needs_https(name: str, is_set: Callable[[str], bool], why: str) -> Rule:
    fault = f"HA_SESSION_{name.upper()}={{{name}!r}}: {why} HA_SESSION_COOKIE_HTTPS_ONLY=true"
    return Rule((name, "cookie_https_only"), lambda value, https_only: https_only is not True and is_set(value), fault)


def _opens_all_of_one(public: Collection[str], protect: Collection[str]) -> bool:
    return any(pattern == other or covers(pattern, other) for pattern in public for other in protect)


def _lacks_prometheus(metrics: str) -> bool:
    if metrics == "off":
        return False
    from importlib.util import find_spec

    return find_spec("prometheus_client") is None


RULES = (
    Rule(("metrics",), _lacks_prometheus, "HA_SESSION_METRICS=on: needs prometheus_client: pip install 'ha-session-mw[prometheus]'"),
    Rule(
        ("idle_timeout", "absolute_timeout"),
        lambda idle_s, absolute_s: idle_s > absolute_s,
        "HA_SESSION_IDLE_TIMEOUT={idle_timeout:g}s: must not be longer than HA_SESSION_ABSOLUTE_TIMEOUT={absolute_timeout:g}s",
    ),
    Rule(
        ("public", "protect"),
        _opens_all_of_one,
        "HA_SESSION_PUBLIC={public}: opens everything that a pattern of HA_SESSION_PROTECT={protect} protects; "
        "name only the exceptions in HA_SESSION_PUBLIC",
    ),
    _needs_tracking("devices", lambda devices: devices == "on", "'on'"),
    _needs_tracking("max_sessions", lambda most: most is not None, "{max_sessions}"),
    _needs_tracking("track_address", lambda is_tracked: is_tracked is True, "True"),
    Rule(
        ("when_full", "max_sessions"),
        lambda when_full, most: when_full == "refuse" and most is None,
        "HA_SESSION_WHEN_FULL='refuse': there is no limit; set HA_SESSION_MAX_SESSIONS, too",
    ),
    Rule(
        ("legacy_until", "legacy_cookies"),
        lambda until, legacy: until is not None and legacy == "off",
        "HA_SESSION_LEGACY_UNTIL: there is no take-over that could end; set HA_SESSION_LEGACY_COOKIES=starlette, too",
    ),
    _needs_https("cookie_same_site", lambda same_site: same_site == "none", "browsers accept this only with"),
    _needs_https("cookie_partitioned", bool, "browsers accept this only with"),
    _needs_https("cookie_name", lambda name: name.lower().startswith((HOST_PREFIX, "__secure-", "__http-")), "this prefix needs"),
    Rule(
        ("cookie_name", "cookie_domain"),
        lambda name, domain: name.lower().startswith(HOST_PREFIX) and domain is not None,
        "HA_SESSION_COOKIE_DOMAIN={cookie_domain!r}: must not be set with a __Host- cookie",
    ),
    Rule(
        ("cookie_name", "cookie_path"),
        lambda name, path: name.lower().startswith(HOST_PREFIX) and path != "/",
        "HA_SESSION_COOKIE_PATH={cookie_path!r}: must be / with a __Host- cookie",
    ),
    Rule(
        ("routing", "owned"),
        lambda routing, owned: routing != "serve" and not owned,
        "HA_SESSION_ROUTING={routing!r}: there is no path to route; name those whose handlers keep something on a node in HA_SESSION_OWNED",
    ),
    Rule(
        ("peer_cert_file", "peer_key_file"),
        lambda cert, key: (cert is None) != (key is None),
        "HA_SESSION_PEER_CERT_FILE: goes with HA_SESSION_PEER_KEY_FILE; set both or neither",
    ),
)
"""The rules that hold for every cluster. :mod:`clusters` has those of each scheme."""
