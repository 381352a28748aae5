"""Names of the keys of an ordered log, and their values as MessagePack.

A key determines its entry, except the details of a cut, whose id is random, and the reason of a denial. Writing an entry again therefore
writes the same value, and a retry changes nothing. The key begins with the entry's end, so that ended entries are a range of keys.

A log-out has the key of a replacement of the same id, and outranks it. So a log-out is written over a replacement, and a replacement over
nothing.

Values are ``[version, body]``. Fields are only ever added at the end; a change of meaning takes another version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ...models import Cut, Deny, DenyKey, Entry
from ...version import ENTRY
from ..cluster.entries import as_written
from ..cluster.entries import decode_entry as entry_of
from ..cluster.members import Heartbeat, packed
from ..cluster.view import END_STEP_MS, NO_SESSION, entry_end_ms

_LOWEST, _HIGHEST = ENTRY.reads.lowest, ENTRY.reads.highest  # a load reads a million entries

ENTRIES: Final = ("deny", "cut", "key")
"""Prefixes of entries. A key is ``prefix/end/id``, with the end in hexadecimal minutes."""
BEATS: Final = "node"
"""Prefix of heartbeats. A key is ``node/member/life``, so a new process never overwrites the heartbeat of an earlier one."""
LOG: Final = "log/id"
FLOOR: Final = "log/floor"


class UnknownVersion(ValueError):
    """A value has a version that this release cannot read. It may be a log-out, so it must not be ignored."""


class LogHeartbeat(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The heartbeat of a process, as it stands in the log.

    Attributes:
        heartbeat: the state that the process announces. The pair ``life``, ``sequence`` is unique, and identifies one try of a write.
        log: the id of the log to which the position belongs.
        applied: up to which position the process has applied the log.
        digest: the digest of the log at that position.
    """

    heartbeat: Heartbeat
    log: str
    applied: int
    digest: bytes


class LogId(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The identity of a log, written once by the first process that found the log empty.

    Attributes:
        id: random bits.
        made_ms: the wall time at which the log was created.
    """

    id: str
    made_ms: int


class _Record(msgspec.Struct, array_like=True):
    version: int
    body: msgspec.Raw


class _Denial(msgspec.Struct, array_like=True, gc=False):
    version: int
    body: Deny


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Record).decode
_denials_of = msgspec.msgpack.Decoder(list[_Denial]).decode
_beat_of = msgspec.msgpack.Decoder(LogHeartbeat).decode
_log_of = msgspec.msgpack.Decoder(LogId).decode


def entry_key(entry: Entry) -> str:
    """Return the key of an entry."""
    end = entry_end_ms(entry.until_ms) // END_STEP_MS
    match entry:
        case Deny(id=name):
            return f"deny/{end:010x}/{name}"
        case Cut(id=name):
            return f"cut/{end:010x}/{name}"
        case DenyKey(kid=name):
            return f"key/{end:010x}/{name}"


def key_end_ms(key: str) -> int:
    """Return when the entry of a key ends, in milliseconds since the epoch.

    Raises:
        ValueError: this is not the key of an entry.
    """
    return int(key.split("/", 2)[1], 16) * END_STEP_MS


def ended_ranges(floor_ms: int) -> list[tuple[str, str]]:
    """Return the key ranges of all entries that end at or below a floor. A range includes its first key and excludes its second."""
    beyond = max(0, floor_ms // END_STEP_MS + 1)
    return [(f"{kind}/", f"{kind}/{beyond:010x}") for kind in ENTRIES]


def slot_of(own: Heartbeat) -> str:
    """Return the key of a process below ``node/``."""
    return f"{own.member}/{own.life}"


def encode_entry(entry: Entry) -> bytes:
    """Return the value of an entry."""
    return _pack((ENTRY.writes, as_written(entry)))


def gives_way(body: bytes) -> bool:
    """Return whether the value of an entry must not be written over another value of its key.

    A note under a name that no session has is never logged out, so one may be written over another one. That takes half of etcd's time.
    """
    entry = entry_of(_body(body))
    return isinstance(entry, Deny) and entry.replaced_ms != 0 and not entry.id.startswith(NO_SESSION)


def decode_entry(key: str, body: bytes) -> Entry:
    """Return the entry of a key and its value.

    Raises:
        UnknownVersion: another release wrote the value.
        ValueError: the value is damaged, or belongs to another key.
    """
    entry = entry_of(_body(body))
    if entry_key(entry) != key:
        raise ValueError("an entry stands under the key of another one")
    return entry


def decode_denials(keys: Sequence[str], bodies: Sequence[bytes]) -> list[Deny]:
    """Return the denials of many keys and their values, in a fraction of the time that :func:`decode_entry` takes.

    Raises:
        ValueError, msgspec.MsgspecError: one of them is no denial that :func:`decode_entry` returns.
    """
    denials: list[Deny] = []
    prefixes: dict[int, str] = {}
    for key, found in zip(keys, _denials_of(b"\xdd" + len(bodies).to_bytes(4) + b"".join(bodies)), strict=True):
        denial = found.body
        end = -(-denial.until_ms // END_STEP_MS)
        prefix = prefixes.get(end) or prefixes.setdefault(end, f"deny/{end:010x}/")
        if key != prefix + denial.id or not _LOWEST <= found.version <= _HIGHEST:
            raise ValueError("a key has another entry, or one of another release")
        denials.append(denial)
    return denials


def encode_beat(beat: LogHeartbeat) -> bytes:
    """Return the value of a heartbeat."""
    return _pack((ENTRY.writes, (packed(beat.heartbeat), beat.log, beat.applied, beat.digest)))


def decode_beat(body: bytes) -> LogHeartbeat:
    """Return the heartbeat of a value. Raises as :func:`decode_entry` does."""
    return _beat_of(_body(body))


def encode_log(log: LogId) -> bytes:
    """Return the value of a log's identity."""
    return _pack((ENTRY.writes, log))


def decode_log(body: bytes) -> LogId:
    """Return the log's identity. Raises as :func:`decode_entry` does."""
    return _log_of(_body(body))


def encode_floor(floor_ms: int) -> bytes:
    """Return the value of a floor. A higher floor has a greater value, byte by byte, so that an engine can compare them."""
    return b"%020d" % floor_ms


def decode_floor(body: bytes) -> int:
    """Return the floor of a value. Raises ValueError if the value is not a floor."""
    return int(body)


def _body(record: bytes) -> msgspec.Raw:
    found = _unpack(record)
    if not _LOWEST <= found.version <= _HIGHEST:
        raise UnknownVersion(f"version {found.version}, where this release reads {ENTRY.reads}")
    return found.body
