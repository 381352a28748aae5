"""What a session's record holds, and how the changes of two requests come together in it.

Two requests that began with the same data changed some keys each. What the later one commits is what the earlier one left,
with the later one's changes: a key that both changed has the later one's value, as a whole, and one that either removed and
the other did not touch is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from ..token.data import decode

FORMAT = 1
"""Of the record's content. What is of another is neither read nor overwritten."""
OVERHEAD_BYTES = 32
"""What a record has besides its data, at the most."""
ELSEWHERE = b"\xc0"
"""In the place of the data of a token: only the record has it (MessagePack's nil)."""
_ORIGIN_BYTES = 8

_encode = msgspec.msgpack.Encoder().encode


class _Content(msgspec.Struct, frozen=True, array_like=True):
    format: int
    origin: bytes
    data: msgspec.Raw


_decode_content = msgspec.msgpack.Decoder(_Content).decode


class UnreadableError(ValueError):
    """The content was written by another release, or is damaged. It must be left as it is."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A session's data as it stood in some version of its record.

    Attributes:
        version: 0 where there is no record yet.
        data: as MessagePack.
        origin: names the data that was in the token from which the record was made; see :func:`merge`.
    """

    version: int
    data: bytes
    origin: bytes

    def __repr__(self) -> str:
        return f"<Stored {self.version}: {len(self.data)} bytes>"

    @classmethod
    def in_token(cls, data: bytes) -> Stored:
        """What a session without a record begins with."""
        return cls(0, data, blake2b(data, digest_size=_ORIGIN_BYTES).digest())

    @classmethod
    def decode(cls, version: int, content: bytes) -> Stored:
        """What a record holds.

        Raises:
            UnreadableError: this release cannot read it.
        """
        try:
            found = _decode_content(content)
            if found.format != FORMAT:
                raise UnreadableError(f"of format {found.format}")
            decode(found.data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            raise UnreadableError("a record that this release cannot read") from exc
        return cls(version, bytes(found.data), found.origin)

    def encode(self) -> bytes:
        """The record's content."""
        return _encode(_Content(FORMAT, self.origin, msgspec.Raw(self.data)))


def merge(base: Stored, mine: Mapping[str, object], theirs: Stored) -> dict[str, object]:
    """What is to be committed of a session that was changed meanwhile.

    Args:
        base: what this request began with.
        mine: what it made of it.
        theirs: what others made of it.
    """
    merged = decode(theirs.data)
    # Who began with a token that is not the one the record was made from has gone on without it: all that it has is news there.
    began = decode(base.data) if base.version or base.origin == theirs.origin else {}
    for key, value in mine.items():
        if key not in began or _encode(began[key]) != _encode(value):
            merged[key] = value
    for key in began.keys() - mine.keys():
        merged.pop(key, None)
    return merged
