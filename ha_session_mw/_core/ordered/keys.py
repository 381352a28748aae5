"""What stands in an ordered log: the names of its keys, and their values as MessagePack.

A key says all that its entry says, but for the details of a cut, and the cut's id is random. So to write an entry again is to write
the same again: a careless retry changes nothing. Its end comes first, so that what has ended is a range of keys.

Values are ``[version, what it is]``. Fields are only ever added at the end; a change of meaning raises ``VERSION``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ...models import Cut, Deny, DenyKey, Entry
from ..cluster.members import Heartbeat
from ..cluster.view import END_STEP_MS, entry_end_ms

VERSION = 1

ENTRIES: Final = ("deny", "cut", "key")
"""Below these names the entries stand, each as ``name/end/id``, the end in hexadecimal minutes."""
BEATS: Final = "node"
"""Below it the processes stand, each as ``node/member/life``: whoever comes after another one never writes over what that one said."""
LOG: Final = "log/id"
FLOOR: Final = "log/floor"


class UnknownVersion(ValueError):
    """Written by another release, in a form that this one cannot read. It may be a log-out, so it must not be passed over."""


class LogHeartbeat(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a process puts into the log, over and over, about itself.

    Attributes:
        heartbeat: its ``life`` and ``sequence`` together are used once only, so whoever meets them again knows which try came back.
        log: the id of the log that the positions are of.
        applied: up to which position the process has applied the log.
        digest: of the entries that lived in the log at that position.
    """

    heartbeat: Heartbeat
    log: str
    applied: int
    digest: bytes


class LogId(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Names a log for good; put there once, by whoever found it empty.

    Attributes:
        id: random bits.
        made_ms: the wall time at which it was made.
    """

    id: str
    made_ms: int


class _Record(msgspec.Struct, array_like=True):
    version: int
    body: msgspec.Raw


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Record).decode
_entry_of = msgspec.msgpack.Decoder(Deny | Cut | DenyKey).decode
_beat_of = msgspec.msgpack.Decoder(LogHeartbeat).decode
_log_of = msgspec.msgpack.Decoder(LogId).decode


def entry_key(entry: Entry) -> str:
    """Where an entry stands in the log."""
    end = entry_end_ms(entry.until_ms) // END_STEP_MS
    match entry:
        case Deny(id=name):
            return f"deny/{end:010x}/{name}"
        case Cut(id=name):
            return f"cut/{end:010x}/{name}"
        case DenyKey(kid=name):
            return f"key/{end:010x}/{name}"


def key_end_ms(key: str) -> int:
    """When the entry of that key ends.

    Raises:
        ValueError: no entry has such a key.
    """
    return int(key.split("/", 2)[1], 16) * END_STEP_MS


def ended_ranges(floor_ms: int) -> list[tuple[str, str]]:
    """The keys of all entries that end at or below the floor: from the first name on, and before the second."""
    beyond = max(0, floor_ms // END_STEP_MS + 1)
    return [(f"{kind}/", f"{kind}/{beyond:010x}") for kind in ENTRIES]


def seat_of(own: Heartbeat) -> str:
    """The key below ``node/`` of a process."""
    return f"{own.member}/{own.life}"


def encode_entry(entry: Entry) -> bytes:
    """The value that stands under :func:`entry_key`."""
    return _pack((VERSION, entry))


def decode_entry(key: str, body: bytes) -> Entry:
    """The entry that stands under a key.

    Raises:
        UnknownVersion: another release wrote it.
        ValueError: it is damaged, or does not belong there.
    """
    entry: Entry = _entry_of(_body(body))
    if entry_key(entry) != key:
        raise ValueError("an entry stands under the key of another one")
    return entry


def encode_beat(beat: LogHeartbeat) -> bytes:
    """The value that stands under ``node/`` and the slot."""
    return _pack((VERSION, beat))


def decode_beat(body: bytes) -> LogHeartbeat:
    """The beat of a process. Raises as :func:`decode_entry` does."""
    return _beat_of(_body(body))


def encode_log(log: LogId) -> bytes:
    """The value that stands under ``log/id``."""
    return _pack((VERSION, log))


def decode_log(body: bytes) -> LogId:
    """The log's name. Raises as :func:`decode_entry` does."""
    return _log_of(_body(body))


def encode_floor(floor_ms: int) -> bytes:
    """The value that stands under ``log/floor``. A higher floor is a greater value, byte by byte, so an engine can compare the two."""
    return b"%020d" % floor_ms


def decode_floor(body: bytes) -> int:
    """The floor. Raises ValueError for what is none."""
    return int(body)


def _body(record: bytes) -> msgspec.Raw:
    found = _unpack(record)
    if found.version != VERSION:
        raise UnknownVersion(f"version {found.version}, where this release reads {VERSION}")
    return found.body
