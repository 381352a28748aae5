"""What the nodes of ``peers://`` send to each other and keep on disk, as MessagePack arrays.

Fields are only ever added at the end; a reader ignores what it does not know, and a change of meaning raises ``VERSION``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from ...models import Entry
from ..cluster.members import Heartbeat
from .recovery import Memory

VERSION = 1


def list_digest(urls: Iterable[str]) -> str:
    """A short name for a member list, the same in whatever order it was written."""
    return hashlib.sha256("\n".join(sorted(urls)).encode()).hexdigest()[:16]


class Poll(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """The question for news since a position; by that position also the acknowledgement of what came before it.

    Attributes:
        digest: of the sender's member list; polls of another list never count.
        sender: its place in that list.
        incarnation: what the acknowledgement belongs to; a sender that forgot its entries comes back as another one.
        sequence: up to where the sender's own sequence reaches (and is stored, where it stores).
        recovering: whether the sender still learns what it may have forgotten, or has its file confirmed.
        callee: the incarnation of the callee that ``position`` belongs to; empty before the first answer.
        position: up to where the sender holds the callee's sequence.
        callee_life: the process of the callee that ``echo`` belongs to.
        echo: the newest stamp of the callee that the sender has seen.
        silent: the members that the sender has not answered for as long as a lease may last.
    """

    version: int
    digest: str
    sender: str
    heartbeat: Heartbeat
    incarnation: str
    sequence: int
    recovering: bool
    callee: str
    position: int
    callee_life: str
    echo: int
    silent: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """The entries after a position. Without them, all that somebody is told whose polls never count: whom it has asked.

    Attributes:
        digest, sender, incarnation: as in :class:`Poll`.
        memory: ``whole`` unless the sender is recovering.
        stamp: counts the answers of this process; the next poll echoes it, which proves that it was sent after this answer.
        since: the position from which this answer goes on; 0 where the poll named another incarnation.
        upto: the position that it reaches.
        complete: whether that was all there was when the answer was made. One that is not never counts for freshness.
        floor_ms: entries that ended at or before it were dropped; whoever relies on the answer takes the floor over.
        known: up to where the sender knows the asker's own sequence to reach, in the incarnation that asked.
        known_before: whether the sender has known an earlier incarnation of the asker.
        majority_forgot: whether tokens may be out that list cuts which nobody can tell of any more.
    """

    version: int
    digest: str
    sender: str
    heartbeat: Heartbeat
    incarnation: str
    memory: Memory
    stamp: int = 0
    since: int = 0
    upto: int = 0
    complete: bool = False
    entries: tuple[Entry, ...] = ()
    floor_ms: int = 0
    known: int = 0
    known_before: bool = False
    majority_forgot: bool = False


class Batch(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """What a node with a file keeps: the file is a series of these, and what they say adds up.

    Attributes:
        incarnation: the node's; one that differs from the batch before begins anew.
        learned: whether the incarnation has ever learned all that it may have forgotten. Until then a restart learns again.
        floor_ms: to be known again before entries below it are missing.
        upto: up to where the sequence is kept once this is.
        entries: the living entries with their positions.
    """

    version: int
    incarnation: str
    learned: bool
    floor_ms: int
    upto: int
    entries: tuple[tuple[int, Entry], ...]


encode = msgspec.msgpack.Encoder().encode
decode_poll = msgspec.msgpack.Decoder(Poll).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
decode_batch = msgspec.msgpack.Decoder(Batch).decode
