"""Session data as it travels: MessagePack, and only what comes back as it went in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from ..exceptions import SessionNotSerializable

EMPTY = b"\x80"

_encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(dict[str, object]).decode
"""The data of a token or a record, as a new dictionary each time."""


def encode(data: Mapping[str, object]) -> bytes:
    """The data's bytes, the same for equal data in the same order.

    Raises:
        SessionNotSerializable: a value would not come back as what it is; the message names where it is, not what.
    """
    try:
        raw = _encode(data)
        if decode(raw) == data:
            return raw
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        raw = b""
    culprit = _lossy(data, "session", depth=0)
    if culprit is None and raw:  # it was but a tuple, which comes back as a list, as with Starlette, or a NaN
        return raw
    raise SessionNotSerializable(
        f"{culprit or 'the session'} cannot travel: a session holds None, bool, int (64 bits), float, str, bytes, "
        "datetime with a time zone, and lists and dicts of these, with str as the keys of the session itself"
    )


def fingerprint(data: Mapping[str, object]) -> bytes | None:
    """The data's bytes to compare with others; None where it holds something that cannot travel. Much faster than ``encode``."""
    try:
        return _encode(data)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def is_nested(data: Mapping[str, object]) -> bool:
    """Whether a value is a container, which an app may change in place."""
    return any(isinstance(value, (dict, list)) for value in data.values())


def _lossy(value: object, where: str, depth: int) -> str | None:
    """Where the first value is that would not come back as it is."""
    if value is None or type(value) in (bool, float, str, bytes):
        return None
    if type(value) is int:
        return None if -(2**63) <= value < 2**64 else where
    if type(value) is datetime:
        return where if value.tzinfo is None else None
    if depth > 100:
        return where
    if isinstance(value, dict):
        items = [(key, item, f"{where}[{key!r}]") for key, item in value.items()]
        if any(type(key) is not str for key, _, _ in items):
            return where
    elif isinstance(value, (list, tuple)):
        items = [(None, item, f"{where}[{index}]") for index, item in enumerate(value)]
    else:
        return where
    return next((found for _, item, place in items if (found := _lossy(item, place, depth + 1))), None)
