"""Encode the record of a session's data, and merge the changes of concurrent requests.

Two requests that began with the same data each changed some keys. The later commit keeps the earlier one's changes and adds
its own. A key that both changed has the later value as a whole. A key that one removed and the other left alone is gone.

A record that the store has lost is replaced. A store that was set back gives lower versions than before, so the new record says which
version it stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from ...version import RECORD
from ..token.data import decode

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
    # Only in a record that replaced a lost one. An earlier release reads such a record, and ignores this.
    instead_of: int = 0


_decode_content = msgspec.msgpack.Decoder(_Content).decode


class UnreadableError(ValueError):
    """The content was written by another release. It must not be overwritten."""


class DamagedError(UnreadableError):
    """No release has written this content, so its data is lost."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A session's data in one version of its record.

    Attributes:
        version: the version; 0 if there is no record yet.
        data: the data in MessagePack.
        origin: a digest of the data in the token from which the record was made; see :func:`merge`.
        instead_of: the version of the lost record that this one replaced; 0 if it replaced none.
    """

    version: int
    data: bytes
    origin: bytes
    instead_of: int = 0

    def __repr__(self) -> str:
        return f"<Stored {self.version}: {len(self.data)} bytes>"

    @classmethod
    def in_token(cls, data: bytes) -> Stored:
        """Return the data of a session without a record."""
        return cls(0, data, blake2b(data, digest_size=_ORIGIN_BYTES).digest())

    def reaches(self, needed: int) -> bool:
        """Whether this is the record in a version, or in a later one, or what replaced it when it was lost."""
        return max(self.version, self.instead_of) >= needed

    def in_place_of(self, lost: int, *, version: int) -> Stored:
        """Return this data as it is written in place of a lost record.

        Args:
            lost: the version that was lost.
            version: of the record that the store has instead; 0 if it has none.
        """
        return msgspec.structs.replace(self, version=version, instead_of=max(self.version, self.instead_of, lost))

    @classmethod
    def decode(cls, version: int, content: bytes) -> Stored:
        """Return the data in a record's content.

        Raises:
            UnreadableError: another release has written it.
            DamagedError: no release has.
        """
        try:
            found = _decode_content(content)
            decode(found.data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            if _is_of_another_format(content):
                raise UnreadableError("a record that another release has written") from exc
            raise DamagedError("a damaged record") from exc
        if found.format not in RECORD.reads:  # neither read nor overwritten
            raise UnreadableError(f"has format {found.format}")
        return cls(version, bytes(found.data), found.origin, found.instead_of)

    def encode(self) -> bytes:
        """Return the content of the record."""
        fields = (RECORD.writes, self.origin, msgspec.Raw(self.data))
        return _encode((*fields, self.instead_of) if self.instead_of else fields)


def _is_of_another_format(content: bytes) -> bool:
    """Whether content begins as that of every format does, with an array whose first item is the format's number, but another number."""
    return (
        content[:1] > b"\x90"
        and content[:1] < b"\xa0"
        and content[1:2] < b"\x80"
        and content[1:2] != b""
        and content[1] not in RECORD.reads
    )


def merge(base: Stored, mine: Mapping[str, object], theirs: Stored) -> dict[str, object]:
    """Return the data to commit for a session that another request changed in the meantime.

    Args:
        base: the data with which this request began.
        mine: the data after this request.
        theirs: the data that other requests committed.
    """
    merged = decode(theirs.data)
    # All keys of a request count as changed if it began with another token than the record's origin, or with the data that was lost.
    same = theirs.instead_of == base.instead_of if base.version else base.origin == theirs.origin
    began = decode(base.data) if same else {}
    for key, value in mine.items():
        if key not in began or _encode(began[key]) != _encode(value):
            merged[key] = value
    for key in began.keys() - mine.keys():
        merged.pop(key, None)
    return merged
