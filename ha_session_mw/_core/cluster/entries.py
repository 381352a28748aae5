"""Entries of the cluster log as MessagePack, as every log and journal keeps them.

A release adds fields at the end only, and a reader ignores fields that it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...models import Cut, Deny, DenyKey, Entry


class _LogOut(msgspec.Struct, frozen=True, array_like=True, tag="d", gc=False):
    """A :class:`Deny` without the fields that only a replacement has: the form that every release writes for a log-out."""

    id: str
    until_ms: int


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Deny | Cut | DenyKey).decode
_unpack_all = msgspec.msgpack.Decoder(list[Deny | Cut | DenyKey]).decode


def as_written(entry: Entry) -> msgspec.Struct:
    """Return the object that stands for an entry in a message, a file or a key."""
    return _LogOut(entry.id, entry.until_ms) if isinstance(entry, Deny) and not entry.replaced_ms else entry


def encode_entry(entry: Entry) -> bytes:
    """Return an entry as bytes."""
    return _pack(as_written(entry))


def decode_entry(body: bytes | msgspec.Raw) -> Entry:
    """Return the entry that these bytes stand for.

    Raises:
        msgspec.MsgspecError, ValueError, RecursionError: they stand for none.
    """
    entry: Entry = _unpack(body)
    return entry


def decode_entries(bodies: Sequence[bytes]) -> list[Entry]:
    """Return the entries that these bytes stand for; raises as :func:`decode_entry` does. It takes a fraction of the time."""
    found: list[Entry] = _unpack_all(b"\xdd" + len(bodies).to_bytes(4) + b"".join(bodies))
    return found
