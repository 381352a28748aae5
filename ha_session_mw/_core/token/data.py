"""Session data as it travels: MessagePack, and only what comes back as it went in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

import msgspec

from ...exceptions import SessionNotSerializable

_encode = msgspec.msgpack.Encoder().encode
_decode_any = msgspec.msgpack.Decoder().decode
_CANNOT_TRAVEL = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)
MAX_DEPTH = 100
"""How deep lists and dicts may lie in each other. Pythons differ in what they bear, and nodes may run different ones."""
_OPENING = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
"""With one of these a list or a dict begins in MessagePack. They may stand in what it holds, too."""
_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
decode = msgspec.msgpack.Decoder(dict[str, object]).decode
"""The data of a token or a record, as a new dictionary each time."""


def encode(data: Mapping[str, object]) -> bytes:
    """The data's bytes, the same for equal data in the same order.

    Raises:
        SessionNotSerializable: a value would not come back as what it is; the message names where it is, not what.
    """
    try:
        raw = _encode(data)
        if decode(raw) == data and not _is_too_deep(data, raw):
            return raw
    except _CANNOT_TRAVEL:
        raw = b""
    culprit = _lossy(data, "session", depth=0)
    if culprit is None and raw:  # it was but a tuple, which comes back as a list, as with Starlette, or a NaN
        return raw
    raise SessionNotSerializable(
        f"{culprit or 'the session'} cannot travel: a session holds None, bool, int (64 bits), float, str, bytes, "
        f"datetime with a time zone, and lists and dicts of these, up to {MAX_DEPTH} deep, with str as the keys of the session itself"
    )


def fingerprint(data: Mapping[str, object]) -> bytes | None:
    """The data's bytes to compare with others; None where it holds something that cannot travel. Much faster than ``encode``."""
    try:
        return _encode(data)
    except _CANNOT_TRAVEL:
        return None


def is_nested(data: Mapping[str, object]) -> bool:
    """Whether a value is a container, which an app may change in place."""
    for value in data.values():  # noqa: SIM110 - a generator costs more than all the rest
        if isinstance(value, (dict, list)):
            return True
    return False


def _is_too_deep(data: Mapping[str, object], raw: bytes) -> bool:
    if len(raw) - len(raw.translate(None, _OPENING)) <= MAX_DEPTH:
        return False  # there are not even so many lists and dicts in it
    level: Iterable[object] = data.values()
    for _ in range(MAX_DEPTH + 1):
        inner = [item for item in level if type(item) not in _PLAIN]
        if not inner:
            return False
        level = chain.from_iterable(
            [one.values() if isinstance(one, dict) else one for one in inner if isinstance(one, (dict, list, tuple))]
        )
    return True


def _lossy(value: object, where: str, depth: int) -> str | None:
    """Where the first value is that would not come back as it is."""
    if isinstance(value, (dict, list, tuple)) and depth > MAX_DEPTH:
        return where
    if isinstance(value, dict):
        if not all(type(key) is str or (depth and _comes_back(key)) for key in value):
            return where
        items = [(item, f"{where}[{key!r}]") for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(item, f"{where}[{index}]") for index, item in enumerate(value)]
    else:
        return None if _comes_back(value) else where
    return next((found for item, place in items if (found := _lossy(item, place, depth + 1))), None)


def _comes_back(value: object) -> bool:
    try:
        return bool(_decode_any(_encode(value)) == value) or value != value  # a NaN
    except _CANNOT_TRAVEL:
        return False
