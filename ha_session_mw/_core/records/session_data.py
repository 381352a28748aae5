"""Encode the record of a session's data, and merge the changes of concurrent requests.

Two requests that began with the same data each changed some keys. The later commit keeps the earlier one's changes and adds
its own. A key that both changed has the later value as a whole. A key that one removed and the other left alone is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from ..token.data import decode

FORMAT = 1
"""The format of a record's content. A record of another format is neither read nor overwritten."""
OVERHEAD_BYTES = 32
"""The most bytes that a record has besides its data."""
ELSEWHERE = b"\xc0"
"""Stands for the data of a token whose data is in the record only: MessagePack's nil."""
_ORIGIN_BYTES = 8

_encode = msgspec.msgpack.Encoder().encode


class _Content(msgspec.Struct, frozen=True, array_like=True):
    format: int
    origin: bytes
    data: msgspec.Raw


_decode_content = msgspec.msgpack.Decoder(_Content).decode


class UnreadableError(ValueError):
    """The content was written by another release, or is damaged. It must not be overwritten."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A session's data in one version of its record.

    Attributes:
        version: the version; 0 if there is no record yet.
        data: the data in MessagePack.
        origin: a digest of the data in the token from which the record was made; see :func:`merge`.
    """

    version: int
    data: bytes
    origin: bytes

    def __repr__(self) -> str:
        return f"<Stored {self.version}: {len(self.data)} bytes>"

    @classmethod
    def in_token(cls, data: bytes) -> Stored:
        """Return the data of a session without a record."""
        return cls(0, data, blake2b(data, digest_size=_ORIGIN_BYTES).digest())

    @classmethod
    def decode(cls, version: int, content: bytes) -> Stored:
        """Return the data in a record's content.

        Raises:
            UnreadableError: this release cannot read it.
        """
        try:
            found = _decode_content(content)
            if found.format != FORMAT:
                raise UnreadableError(f"has format {found.format}")
            decode(found.data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            raise UnreadableError("a record that this release cannot read") from exc
        return cls(version, bytes(found.data), found.origin)

    def encode(self) -> bytes:
        """Return the content of the record."""
        return _encode(_Content(FORMAT, self.origin, msgspec.Raw(self.data)))


def merge(base: Stored, mine: Mapping[str, object], theirs: Stored) -> dict[str, object]:
    """Return the data to commit for a session that another request changed in the meantime.

    Args:
        base: the data with which this request began.
        mine: the data after this request.
        theirs: the data that other requests committed.
    """
    merged = decode(theirs.data)
    # A request that began with another token than the record's origin has diverged: all its keys count as changed.
    began = decode(base.data) if base.version or base.origin == theirs.origin else {}
    for key, value in mine.items():
        if key not in began or _encode(began[key]) != _encode(value):
            merged[key] = value
    for key in began.keys() - mine.keys():
        merged.pop(key, None)
    return merged
