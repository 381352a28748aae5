"""Copies of a record on other nodes: asks for them, and answers such questions by this node's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from .._core.records.session_data import Stored, UnreadableError
from ..abc import Clock, PeerCalls
from ..version import PROTOCOL
from .record_copies import RecordCopies

if TYPE_CHECKING:
    from .._peering.asking import Asking


class Question(msgspec.Struct, frozen=True, array_like=True):
    """Does the peer have a copy of this record, in this version or a later one?"""

    version: int
    id: str
    needed: int


class Copy(msgspec.Struct, frozen=True, array_like=True):
    """A node's answer. ``record`` (the version) and ``content`` come with ``yes``."""

    version: int
    says: Literal["yes", "unknown"]
    record: int = 0
    content: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode_question = msgspec.msgpack.Decoder(Question).decode
decode_copy = msgspec.msgpack.Decoder(Copy).decode


def asking(peering: PeerCalls, clock: Clock, *, timeout_s: float, version_for: Callable[[str], int]) -> Asking[Copy]:
    """Return the object that asks peers for their copies of a record."""
    from .._peering.asking import Asking  # a node alone asks nobody

    return Asking(peering.call, clock, peering.faults, timeout_s=timeout_s, name="record", version_for=version_for, decode=decode_copy)


class PeerCopies:
    """The copies that other nodes have, and what they may have of this one's.

    Args:
        copies: this node's copies.
        asking: asks peers; None without peers.
    """

    def __init__(self, copies: RecordCopies, asking: Asking[Copy] | None) -> None:
        self._copies = copies
        self._asking = asking

    async def ask(self, id: str, needed: int, peers: Sequence[str]) -> Stored | None:
        """Return a peer's copy of a record, in a version or a later one; None if none of them has one.

        Args:
            id: of the record.
            needed: the version.
            peers: the URLs of the peers to ask, in order.
        """
        if self._asking is None or not peers:
            return None
        copy = await self._asking.ask(lambda version: _encode(Question(version, id, needed)), peers)
        if copy is None:
            return None
        try:
            found = Stored.decode(copy.record, copy.content)
        except UnreadableError:
            return None
        return found if found.reaches(needed) else None

    async def on_question(self, body: bytes) -> bytes:
        """Answer a peer's question by this node's own copies. Questions are not passed on.

        Raises:
            ValueError: the body is no question.
        """
        try:
            question = _decode_question(body)
        except RecursionError as exc:
            raise ValueError("no question") from exc
        if question.version not in PROTOCOL:
            return _encode(Copy(PROTOCOL.lowest, "unknown"))
        known = self._copies.get(question.id)
        if known is None or not known.reaches(question.needed):
            return _encode(Copy(question.version, "unknown"))
        return _encode(Copy(question.version, "yes", known.version, known.encode()))
