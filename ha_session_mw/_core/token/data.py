"""Session data as it travels: the values that a session may hold, in MessagePack."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import chain

import msgspec
from msgspec.msgpack import Ext

from ...exceptions import SessionNotSerializable

encode_again = msgspec.msgpack.Encoder().encode
"""The data's bytes, if it has not changed since ``decode``. Other data may raise one of :data:`CANNOT_TRAVEL`."""
_encode = encode_again
CANNOT_TRAVEL = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)
MAX_DEPTH = 100
"""How deep lists and dicts may be nested. Python releases differ in their recursion limits, and nodes may run different ones."""
_OPENING = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
"""A list or a dict begins with one of these bytes in MessagePack. They may occur inside other values, too."""
_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})

# MessagePack extension types for the values that JSON can hold and MessagePack cannot.
_LARGE_INT = 1
"""An int of more than 64 bits: its two's complement, big-endian."""
_LONE_SURROGATES = 2
"""Text with surrogates, which UTF-8 cannot encode: UTF-8 that lets them pass."""


def from_extension(code: int, raw: memoryview) -> object:
    """Return a value that travels as an extension type."""
    if code == _LARGE_INT:
        return int.from_bytes(raw, "big", signed=True)
    if code == _LONE_SURROGATES:
        return bytes(raw).decode("utf-8", "surrogatepass")
    raise ValueError(f"unknown extension type {code}")


decode = msgspec.msgpack.Decoder(dict[str, object], ext_hook=from_extension).decode
"""The data of a token or a record, as a new dictionary each time."""
decode_again = msgspec.msgpack.Decoder(ext_hook=from_extension).decode
"""The same faster, for bytes that ``decode`` has taken before."""


def encode(data: Mapping[str, object], *, known: bytes | None = None) -> bytes:
    """Return the data's bytes, which are the same for equal data in the same order.

    Values that Starlette's JSON accepts are stored as JSON would read them back. A subclass of str, int, float, list or dict
    becomes the plain value, and a tuple becomes a list. A key that is a number, a bool or None becomes text.

    Args:
        data: of a session.
        known: what this function has returned before. Data that has the same bytes comes back, so nothing else about it is looked at.

    Raises:
        SessionNotSerializable: a value would not come back. The message names its place, never the value.
    """
    try:
        raw = _encode(data)
        if raw == known:
            return raw
        if decode(raw) == data and not _is_too_deep(data, raw):
            return raw
    except CANNOT_TRAVEL:
        raw = b""
    try:
        plain = _plain_session(data)
        culprit = _lossy(plain, "session", depth=0)
        if culprit is None:
            return _encode(plain)
    except CANNOT_TRAVEL:
        culprit = "session"
    raise SessionNotSerializable(
        f"{culprit} cannot travel: a session holds None, bool, int, float, str, bytes, "
        f"datetime with a time zone, and lists and dicts of these, up to {MAX_DEPTH} deep, with str as the keys of the session itself"
    )


def encode_changed(data: Mapping[str, object], change: Mapping[str, object], *, before: Mapping[str, object], known: bytes | None) -> bytes:
    """Return the bytes of data in which some values have changed. Much faster than ``encode``, which raises and returns the same.

    Args:
        data: after the change.
        change: the values that were changed.
        before: the data before the change.
        known: what ``encode`` has returned. If ``before`` does not have these bytes, all of ``data`` is looked at.
    """
    try:
        if _encode(before) == known and encode(change) == _encode(change):
            return _encode(data)
    except CANNOT_TRAVEL:
        pass
    return encode(data)


def fingerprint(data: Mapping[str, object]) -> bytes | None:
    """Return the data's bytes to compare with others; None if it holds something that cannot travel. Much faster than ``encode``."""
    try:
        return _encode(data)
    except CANNOT_TRAVEL:
        pass
    try:
        return encode(data)
    except SessionNotSerializable:
        return None


def is_nested(data: Mapping[str, object]) -> bool:
    """Return whether a value is a container, which an app may change in place."""
    for value in data.values():  # noqa: SIM110 - a generator costs more than all the rest
        if type(value) not in _PLAIN and isinstance(value, (dict, list)):
            return True
    return False


def keep_what_travels(data: Mapping[str, object]) -> bytes:
    """Return the bytes of as much of the data as can travel, without the values that cannot."""
    try:
        return encode(data)
    except SessionNotSerializable:
        return encode({key: value for key, value in data.items() if _travels({key: value})})


def _travels(data: Mapping[str, object]) -> bool:
    try:
        encode(data)
    except SessionNotSerializable:
        return False
    return True


def _is_too_deep(data: Mapping[str, object], raw: bytes) -> bool:
    if len(raw) - len(raw.translate(None, _OPENING)) <= MAX_DEPTH:
        return False  # fewer lists and dicts than that occur in it
    level: Iterable[object] = data.values()
    for _ in range(MAX_DEPTH + 1):
        items = [*level]
        kinds = {*map(type, items)}
        if kinds <= _PLAIN:
            return False
        if kinds == {dict}:
            level = chain.from_iterable(map(dict.values, items))  # type: ignore[arg-type]
        else:
            inner = [item for item in items if type(item) not in _PLAIN]
            level = chain.from_iterable(
                [one.values() if isinstance(one, dict) else one for one in inner if isinstance(one, (dict, list, tuple))]
            )
    return True


def _plain_session(data: Mapping[str, object]) -> dict[object, object]:
    """Return the data with plain values, and with the keys that JSON gives back."""
    return {_json_key(key): _plain(value, ()) for key, value in data.items()}


def _json_key(key: object) -> object:
    plain = _plain_key(key)
    return json.dumps(plain) if isinstance(plain, (int, float, type(None))) else plain


def _plain_key(key: object) -> object:
    """Return a key without its subclass. Text with lone surrogates stays, and is refused: a key has no extension type."""
    if isinstance(key, str):
        return str.__str__(key)
    return _plain(key, ()) if isinstance(key, (int, float)) else key


def _plain(value: object, around: tuple[int, ...]) -> object:
    """Return a value as JSON gives it back, and one that JSON does not know as it is.

    Args:
        value: of a session.
        around: the ids of the lists and dicts that it is in, as long as those end somewhere.
    """
    if isinstance(value, (bool, type(None))):
        return value
    if isinstance(value, str):
        return _plain_text(str.__str__(value))
    if isinstance(value, int):
        number = int(value)
        bits = number.bit_length()
        return number if -(2**63) <= number < 2**64 else Ext(_LARGE_INT, number.to_bytes(bits // 8 + 1, "big", signed=True))
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (dict, list, tuple)):
        if id(value) in around:
            raise RecursionError
        if len(around) > MAX_DEPTH:
            return value
        around = (*around, id(value))
        if isinstance(value, dict):
            return {_plain_key(key): _plain(item, around) for key, item in value.items()}
        return [_plain(item, around) for item in value]
    return value


def _plain_text(text: str) -> object:
    if not _has_surrogates(text):
        return text
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")  # which makes a pair one character, as JSON does
    return Ext(_LONE_SURROGATES, text.encode("utf-8", "surrogatepass")) if _has_surrogates(text) else text


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _lossy(value: object, where: str, depth: int) -> str | None:
    """Return where the first value is that would not come back as it is; None if all would."""
    if isinstance(value, (dict, list)) and depth > MAX_DEPTH:
        return where
    if isinstance(value, dict):
        if not all(type(key) is str or (depth and _comes_back(key)) for key in value):
            return where
        items = [(item, f"{where}[{key!r}]") for key, item in value.items()]
    elif isinstance(value, list):
        items = [(item, f"{where}[{index}]") for index, item in enumerate(value)]
    else:
        return None if _comes_back(value) else where
    return next((found for item, place in items if (found := _lossy(item, place, depth + 1))), None)


def _comes_back(value: object) -> bool:
    if type(value) is Ext:
        return True
    try:
        return bool(decode_again(_encode(value)) == value) or value != value  # a NaN
    except CANNOT_TRAVEL:
        return False
