"""Parse the value of one setting. Each function accepts text from the environment or an argument, and returns the precise value.

A function raises ValueError with the rule if the value breaks the rule. The function's docstring is the rule in short: it is
printed in the reference of the settings. Parsing a parsed value returns that value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from starlette.datastructures import Secret

LONGEST_S = 100 * 365 * 24 * 60 * 60.0
"""The longest duration: 100 years. The end of a session stays a valid date, and fits into 64 bits of milliseconds."""

MOST_PEERS = 9
"""The largest cluster of ``peers://``: every member polls every other one, so the traffic grows with the square."""

Text = TypeVar("Text", bound=str)

_UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Unshown(ValueError):
    """The value breaks a rule and may contain a password, so no message may show the value."""


def duration(value: object) -> float:
    """seconds, or a number with a unit: ``"500ms"``, ``"30s"``, ``"30m"``, ``"12h"``, ``"14d"``"""
    seconds = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|)\s*", value)):
        seconds = float(match[1]) * _UNITS_S[match[2]]
    if not 0 < seconds <= LONGEST_S:
        rule = 'must be a duration above zero, up to 100 years: seconds, or a number with a unit such as "500ms", "30m" or "12h"'
        raise ValueError(rule)
    return seconds


def delay(value: object) -> float:
    """seconds, 0 for none, or a number with a unit: ``"500ms"``, ``"5s"``, ``"1m"``"""
    if (value == 0 and not isinstance(value, bool)) or (
        isinstance(value, str) and re.fullmatch(r"\s*0+(?:\.0+)?\s*(ms|s|m|h|d|)\s*", value)
    ):
        return 0.0
    try:
        return duration(value)
    except ValueError as exc:
        raise ValueError(
            'must be a delay of 0, or more, up to 100 years: seconds, or a number with a unit such as "500ms" or "5s"'
        ) from exc


def moment(value: object) -> datetime | None:
    """a date, or a date and a time (RFC 3339), such as ``2026-12-31`` or ``2026-12-31T18:00:00Z``; UTC if it names no offset"""
    if value is None or value == "":
        return None
    found = value
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value.strip())
        except ValueError:
            found = None
    if not isinstance(found, datetime) or not 1970 < found.year < 9999:
        raise ValueError("must be a date such as 2026-12-31, or a time such as 2026-12-31T18:00:00Z")
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def count(value: object) -> int:
    """a whole number above zero"""
    number = int(value) if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", value) else value
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError("must be a whole number above zero")
    return number


def limit(value: object) -> int | None:
    """a whole number from 1 to 1000"""
    if value is None or value == "":
        return None
    return weight(value)


def weight(value: object) -> int:
    """a whole number from 1 to 1000"""
    number = count(value)
    if number > 1000:
        raise ValueError("must be 1000 or less")
    return number


def pace(value: object) -> int | None:
    """a whole number above zero, or ``off``"""
    return None if value is None or (isinstance(value, str) and value.strip().lower() == "off") else count(value)


def flag(value: object) -> bool:
    """``true`` or ``false``"""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        raise ValueError("must be true or false")
    return text in ("true", "1", "yes", "on")


def one_of(*allowed: Text) -> Callable[[object], Text]:
    def parse(value: object) -> Text:
        text = value.strip().lower() if isinstance(value, str) else ""
        for one in allowed:
            if text == one:
                return one
        raise ValueError(f"must be one of {', '.join(allowed)}")

    parse.__doc__ = "one of " + ", ".join(f"``{value}``" for value in allowed)
    return parse


def text(pattern: str, rule: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"must be {rule}")
        return value

    parse.__doc__ = rule
    return parse


def optional_text(pattern: str, rule: str) -> Callable[[object], str | None]:
    required = text(pattern, rule)

    def parse(value: object) -> str | None:
        return None if value is None or value == "" else required(value)

    parse.__doc__ = rule
    return parse


def _items(value: object) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be text, or a list of text")
    return [part.strip() for part in parts if part.strip()]


def patterns(value: object) -> tuple[str, ...]:
    """a comma list of path patterns, each beginning with ``/`` or ``*``; ``*`` matches any characters"""
    found = tuple(_items(value))
    for pattern in found:
        if pattern[0] not in "/*":
            raise ValueError(f"each pattern must begin with / or *, and {pattern!r} does not")
        if re.search(r"\s/", pattern):
            raise ValueError(f"separate the patterns by commas; {pattern!r} is a single pattern")
    return found


def transports(value: object) -> tuple[str, ...]:
    """a comma list of ``cookie`` and ``bearer``"""
    found = tuple(dict.fromkeys(_items(value)))
    if not found or not set(found) <= {"cookie", "bearer"}:
        raise ValueError("must be a comma list of cookie and bearer, at least one of them")
    return found


def https_only(value: object) -> bool | Literal["auto"]:
    """``auto``, ``true`` or ``false``"""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return flag(value)
    except ValueError:
        raise ValueError("must be auto, true or false") from None


def secrets(value: object) -> tuple[bytes, ...]:
    """a secret of at least 32 bytes"""
    if not isinstance(value, (list, tuple)):
        value = [] if value is None or value in ("", b"") else [value]
    return tuple(_secret(secret) for secret in value)


def _secret(value: object) -> bytes:
    # Every other object has a text, too, but not the secret: a generator's text is an address, pydantic's is ten stars.
    if isinstance(value, (str, Secret)):
        value = str(value).encode()
    if not isinstance(value, bytes):
        raise ValueError(f"must be str, bytes or a list of these, got {type(value).__name__}")  # noqa: TRY004 - a fault of a setting
    if not value:
        raise ValueError("one of several secrets is empty")
    return value


def fallback_secrets(value: object) -> tuple[bytes, ...]:
    """a comma list of secrets of at least 32 bytes"""
    return secrets(_items(value) if isinstance(value, str) else value)


def path(value: object) -> Path | None:
    """a file's path"""
    if value is None or value == "":
        return None
    if not isinstance(value, (str, Path)) or "\0" in str(value):
        raise ValueError("must be a file's path")
    return Path(value)


def url(value: object) -> str | None:
    """an http or https URL such as ``http://10.0.0.1:8000``, without a path"""
    return None if value is None or value == "" else _url(str(value))


def urls(value: object) -> tuple[str, ...]:
    """a comma list of the URLs of all members, including this one"""
    found = tuple(_url(item) for item in _items(value))
    if len(set(found)) < len(found):
        raise ValueError("names a member twice")
    if len(found) > MOST_PEERS:
        raise ValueError(f"names {len(found)} members, and {MOST_PEERS} is the most: every node polls every other node")
    return found


def next_urls(value: object) -> tuple[str, ...]:
    """a comma list of URLs"""
    return urls(value)


def _url(value: str) -> str:
    text = value.strip().rstrip("/")
    found = re.fullmatch(r"https?://(?:\[[^\s/?#@,\[\]]+\]|[^\s/?#@,:\[\]]+)(?::([0-9]+))?", text)
    if found is None:
        kind = Unshown if "@" in text else ValueError
        raise kind("must be an http or https URL such as http://10.0.0.1:8000, without a path or a password")
    check_port(found[1])
    return text


def check_port(digits: str | None) -> None:
    """Raise ValueError where a URL names a port that no machine has. None stands for a URL that names none."""
    if digits is not None and not (len(digits) <= 5 and 0 < int(digits) < 65536):
        raise ValueError("must have a port from 1 to 65535")


def password(value: object) -> str | None:
    """a password"""
    if value is None or value == "":
        return None
    if not isinstance(value, (str, Secret)):
        raise ValueError(f"must be text, got {type(value).__name__}")  # noqa: TRY004 - a fault of a setting
    return str(value)
