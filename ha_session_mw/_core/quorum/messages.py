"""The messages and the stored batches of ``peers://``, as MessagePack arrays.

A release adds fields at the end only, and a reader ignores fields that it does not know. A change of meaning takes another version, in
which the release writes to the nodes that read it. The messages of every version begin as :class:`Opening` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Literal, assert_never

import msgspec

from ...models import Entry
from ...version import PROTOCOL
from ..cluster.denials import ID_LENGTH, is_of_ids
from ..cluster.entries import as_written
from ..cluster.log_outs import LogOuts
from ..cluster.members import Heartbeat, packed
from ..cluster.view import END_STEP_MS
from .recovery import Memory

Read = tuple[tuple[str, int], ...]
"""Processes, each with a position: all of its sequence up to there. See :mod:`.provenance`."""

UNKNOWN_AGE_S = -1.0
"""Stands for an age that is unknown, as in the answers of a release that does not measure it."""


def list_digest(urls: Iterable[str]) -> str:
    """Return a short name for a member list. The order of the list does not matter."""
    return hashlib.sha256("\n".join(sorted(urls)).encode()).hexdigest()[:16]


class Opening(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The first fields of each poll and each answer, in every version: who speaks, in which version, and which ones it reads."""

    version: int
    digest: str
    sender: str
    heartbeat: Heartbeat


class Poll(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """A request for news since a position. The position also acknowledges everything before it.

    Attributes:
        digest: of the sender's member list; of both lists while they change, with how far the sender knows the change to have come. See
            :class:`.Standing`. Polls of a list with which the receiver does not count never count.
        sender: its URL in that list.
        incarnation: the incarnation to which the acknowledgement belongs. A sender that forgot its entries comes back as another one.
        sequence: the newest position of the sender's own sequence that it keeps.
        recovering: whether the sender may still lack entries that it forgot, or has a file that no member has confirmed.
        callee: the incarnation of the callee that ``position`` belongs to; empty before the first answer.
        position: up to where the sender holds the callee's sequence.
        callee_life: the process of the callee that ``echo`` belongs to.
        echo: the newest stamp of the callee that the sender has seen.
        silent: the members that the sender has not answered for a lease's length.
        hold_s: for how long the sender lets its poll be held while there is no news; None for a heartbeat, as in an earlier release.
        applied: up to where the sender's process has applied the callee's sequence, if it could not keep all of that yet; None otherwise.
        read: the processes whose sequences the sender has, if it still has to read much; None otherwise.
        by_column: whether the answer may have log-outs by column. True of a sender that still has to read much.
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
    hold_s: float | None = None
    applied: int | None = None
    read: Read | None = None
    by_column: bool | None = None


class Answer(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """The entries after a position. A node whose polls never count gets one without entries: it names the member that answered.

    Attributes:
        digest, sender, incarnation: as in :class:`Poll`.
        memory: ``whole`` unless the sender is recovering.
        stamp: the running number of this process's answers. The next poll echoes it, which proves that the poll was sent later.
        since: the position after which this answer begins; 0 if the poll named another incarnation.
        upto: the position that it reaches.
        complete: whether nothing more was known when the answer was made. Only a complete answer counts for freshness.
        floor_ms: the sender dropped entries that ended at or before it. A node that relies on the answer adopts the floor.
        known: the newest position of the asker's own sequence that the sender has heard of, in the incarnation that asked.
        known_before: whether the sender has known an earlier incarnation of the asker.
        majority_forgot: whether tokens may exist that list cuts which no member knows any more.
        age_s: how many seconds ago the oldest of the entries was made; negative if that is unknown, or there are none.
        held_s: for how many seconds the sender held the poll.
        read: the sender's process with its newest position, and after it the processes whose sequences are in the sender's up to there.
            Empty unless the poll says what its sender has read.
        ids: log-outs by column, besides the entries: ids of 22 characters, one behind the other. Empty unless the poll asks for that.
        ends: for each of those ids, the minute since the epoch at whose beginning the log-out ends.
        count: how many entries the sender has in all; 0 unless the poll asks for columns.
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
    age_s: float = UNKNOWN_AGE_S
    held_s: float = 0.0
    read: Read = ()
    ids: str = ""
    ends: tuple[int, ...] = ()
    count: int = 0

    @property
    def size(self) -> int:
        """How many entries it has, those by column included."""
        return len(self.entries) + len(self.ends)

    @property
    def log_outs(self) -> LogOuts:
        """The log-outs by column."""
        ids = [self.ids[at : at + ID_LENGTH] for at in range(0, len(self.ids), ID_LENGTH)]
        return LogOuts(ids, [minute * END_STEP_MS for minute in self.ends])


class Push(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """An answer for which nobody polled: a node whose entries are not fetched, or that leaves, sends it. A poll answers it.

    It renews no lease of the callee, because the callee did not ask.

    Attributes:
        answer: what the sender would answer to a poll of the callee.
        callee_life: the process of the callee that the sender has heard of.
        leaves: whether the sender's process accepts no session from now on.
    """

    answer: Answer
    callee_life: str
    leaves: bool


class Batch(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """A part of a node's file. The file is a series of batches, whose contents add up.

    Attributes:
        incarnation: the node's. Another one than in the batch before begins a new account.
        learned: whether the incarnation has ever learned all that it may have forgotten. Until then a restart learns again.
        floor_ms: the node's floor, to be restored together with the entries above it.
        upto: the position up to which the sequence is kept with this batch.
        entries: the living entries with their positions.
        lists: the digests of the member lists under which the node kept it. Empty in the batches of a release that did not write them.
    """

    version: int
    incarnation: str
    learned: bool
    floor_ms: int
    upto: int
    entries: tuple[tuple[int, Entry], ...]
    lists: tuple[str, ...] = ()


Mismatch = Literal["list", "version", "identity", "change"]
"""Why two nodes cannot work together: their member lists differ, or their releases, or one has the other's URL. ``change``: their lists
belong to one change, and one node is too far ahead."""


class _PushOpening(msgspec.Struct, frozen=True, array_like=True, gc=False):
    answer: Opening


_pack = msgspec.msgpack.Encoder().encode
_poll_of = msgspec.msgpack.Decoder(Poll).decode
_answer_of = msgspec.msgpack.Decoder(Answer).decode
_push_of = msgspec.msgpack.Decoder(Push).decode
_opening_of = msgspec.msgpack.Decoder(Opening).decode
_push_opening_of = msgspec.msgpack.Decoder(_PushOpening).decode
decode_batch = msgspec.msgpack.Decoder(Batch).decode


def decode_poll(body: bytes) -> Poll:
    """Return a poll. Of a poll in the form of another version, only the opening is read.

    Raises:
        msgspec.MsgspecError, ValueError, RecursionError: this is no poll.
    """
    try:
        return _poll_of(body)
    except msgspec.ValidationError as exc:
        nothing: dict[str, Any] = {"sequence": 0, "recovering": True, "callee": "", "position": 0, "callee_life": "", "echo": 0}
        return Poll(**_foreign(_opening_of(body), exc), **nothing, incarnation="", silent=())


def decode_answer(body: bytes) -> Answer:
    """Return an answer, as :func:`decode_poll` does a poll."""
    try:
        return _checked(_answer_of(body))
    except msgspec.ValidationError as exc:
        return Answer(**_foreign(_opening_of(body), exc), incarnation="", memory="lost")


def decode_push(body: bytes) -> Push:
    """Return a push, as :func:`decode_poll` does a poll."""
    try:
        push = _push_of(body)
    except msgspec.ValidationError as exc:
        answer = Answer(**_foreign(_push_opening_of(body).answer, exc), incarnation="", memory="lost")
        return Push(answer=answer, callee_life="", leaves=False)
    _checked(push.answer)
    return push


def _checked(answer: Answer) -> Answer:
    if len(answer.ids) != ID_LENGTH * len(answer.ends) or (answer.ids and not is_of_ids(answer.ids)):
        raise ValueError("columns that are no log-outs")
    return answer


def _foreign(opening: Opening, exc: msgspec.ValidationError) -> dict[str, Any]:
    """Return the fields of an opening of another version. One of this release's versions with other fields than it has is damaged."""
    if opening.version in PROTOCOL:
        raise exc
    return msgspec.structs.asdict(opening)


def encode(message: Poll | Answer | Push | Batch) -> bytes:
    """Return a message or a batch as it is sent or stored."""
    match message:
        case Push(answer=answer):
            return _pack(msgspec.structs.replace(message, answer=_as_sent(answer)))
        case Batch(entries=placed):
            return _pack(msgspec.structs.replace(message, entries=tuple((position, as_written(entry)) for position, entry in placed)))
        case Answer():
            return bytes(_as_sent(message))
        case Poll(heartbeat=heartbeat):
            values = msgspec.structs.astuple(msgspec.structs.replace(message, heartbeat=packed(heartbeat)))
            untold = next((count for count, value in enumerate(reversed(values[-4:])) if value is not None), 4)
            return _pack(values[: len(values) - untold])
        case _:
            assert_never(message)


def _as_sent(answer: Answer) -> msgspec.Raw:
    """Return an answer as it is sent: without the last fields, as long as these say what a reader assumes of their absence."""
    entries = tuple(map(as_written, answer.entries))
    values = msgspec.structs.astuple(msgspec.structs.replace(answer, entries=entries, heartbeat=packed(answer.heartbeat)))
    untold = 0 if answer.count else 3 if answer.read else 4 if answer.age_s >= 0 else 6
    return msgspec.Raw(_pack(values[: len(values) - untold]))
