"""A checkpoint: the denials of an ordered log as of one position, packed. A new process that reads it reads no key for each of them.

The keys of the entries remain the log. A checkpoint takes nothing from it, and a process that cannot use one loads the whole log. So
a checkpoint must be refused rather than believed: it names the log, and the newest key at its position, which no other history has.

Values are ``[version, ...]``. Fields are only ever added at the end; a change of meaning takes another version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

import msgspec

from ...models import Deny
from ...version import CHECKPOINT
from ..cluster.denials import ID_LENGTH
from ..cluster.view import END_STEP_MS, entry_end_ms

SEGMENT = 10_000
"""Most denials in one segment: some 230 kB, which an engine takes in one write."""
MOST_SEGMENTS = 400
"""More segments than this are written anew as few large ones."""
LEAST = 20_000
"""A log with fewer denials needs no checkpoint: a process loads it in a second or so."""
MOST_UNCOVERED = 8192
"""Most denials beyond the newest checkpoint that a process remembers, in about a megabyte."""


class Segment(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One part of a checkpoint.

    Attributes:
        name: its key.
        count: how many denials it has.
        end_ms: when the last of them ends.
    """

    name: str
    count: int
    end_ms: int


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """All denials that the log had at a position, but those that end at or below the floor.

    Attributes:
        log: the id of the log.
        position: the position.
        newest: the digest of the key that was written at that position; see :func:`digest_of_key`.
        newest_key: the name of that key.
        digest: the digest of the log at that position.
        floor_ms: the floor.
        segments: its parts.
    """

    version: int = CHECKPOINT.writes
    log: str
    position: int
    newest_key: bytes
    newest: bytes
    digest: bytes
    floor_ms: int
    segments: tuple[Segment, ...]

    @property
    def count(self) -> int:
        """How many denials all segments have."""
        return sum(segment.count for segment in self.segments)


class PackedDenials(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The content of a segment.

    Attributes:
        ids: the ids of log-outs, one after the other, by the minute in which they end.
        others: the denials with an id of another length, or with another reason.
    """

    version: int
    ids: tuple[tuple[int, str], ...]
    others: tuple[Deny, ...]

    def __len__(self) -> int:
        return len(self.others) + sum(len(ids) // ID_LENGTH for _, ids in self.ids)

    def __iter__(self) -> Iterator[Deny]:
        yield from self.others
        for minute, ids in self.ids:
            end_ms = minute * END_STEP_MS
            for at in range(0, len(ids), ID_LENGTH):
                yield Deny(ids[at : at + ID_LENGTH], end_ms)


_pack = msgspec.msgpack.Encoder().encode
_checkpoint_of = msgspec.msgpack.Decoder(Checkpoint).decode
_packed_of = msgspec.msgpack.Decoder(PackedDenials).decode


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return the value of a checkpoint."""
    return _pack(checkpoint)


def decode_checkpoint(value: bytes) -> Checkpoint:
    """Return the checkpoint of a value.

    Raises:
        ValueError: another release wrote it, or it is damaged.
    """
    found = _checkpoint_of(value)
    _check_version(found.version)
    return found


def encode_segment(denials: Iterable[Deny]) -> bytes:
    """Return the value of a segment with these denials."""
    ids: dict[int, list[str]] = {}
    others: list[Deny] = []
    for denial in denials:
        if denial.replaced_ms or len(denial.id) != ID_LENGTH:
            others.append(denial)
        else:
            ids.setdefault(entry_end_ms(denial.until_ms) // END_STEP_MS, []).append(denial.id)
    return _pack(PackedDenials(CHECKPOINT.writes, tuple((minute, "".join(some)) for minute, some in ids.items()), tuple(others)))


def decode_segment(value: bytes) -> PackedDenials:
    """Return the content of a segment's value. Raises as :func:`decode_checkpoint` does.

    Its denials are made one after the other: all at once would leave holes in the memory of a node that keeps them packed.
    """
    packed = _packed_of(value)
    _check_version(packed.version)
    if any(len(ids) % ID_LENGTH for _, ids in packed.ids):
        raise ValueError("a part of an id")
    return packed


def _check_version(version: int) -> None:
    if version not in CHECKPOINT.reads:
        raise ValueError(f"version {version}, where this release reads {CHECKPOINT.reads}")


def digest_of_key(key: bytes, value: bytes, created: int, written: int) -> bytes:
    """Return what identifies a key as it stands at one position. A heartbeat has random bits, and a key of an entry has its id."""
    return blake2b(_pack((key, value, created, written)), digest_size=16).digest()


class Uncovered:
    """The newest denials in the log, as one process has followed it: the checkpoint lacks them.

    Attributes:
        since: the position after which all of them are here.
    """

    __slots__ = ("_denials", "_positions", "since")

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._denials: list[Deny] = []
        self.since = 0

    def begin(self, position: int) -> None:
        """Begin after a position: all up to there is covered, or must be read otherwise."""
        self._positions, self._denials, self.since = [], [], position

    def add(self, position: int, denial: Deny) -> None:
        """Add a denial that was written at a position. If there are too many, all up to that position are forgotten."""
        if len(self._denials) >= MOST_UNCOVERED:
            self.begin(position)
            return
        self._positions.append(position)
        self._denials.append(denial)

    def between(self, since: int, upto: int) -> list[Deny]:
        """Return the denials after one position, up to another one."""
        return [denial for position, denial in zip(self._positions, self._denials, strict=True) if since < position <= upto]

    def cover(self, upto: int) -> None:
        """Forget the denials up to a position: a checkpoint has them."""
        kept = [index for index, position in enumerate(self._positions) if position > upto]
        self._denials = [self._denials[index] for index in kept]
        self._positions = [self._positions[index] for index in kept]
        self.since = max(self.since, upto)

    def __len__(self) -> int:
        return len(self._denials)


def continued(
    known: Checkpoint | None, log: str, uncovered: Uncovered, position: int, *, live: int, floor_ms: int
) -> tuple[Sequence[Segment], list[Deny]] | None:
    """Return the segments of a checkpoint that a new one keeps, and the denials that it adds; None if it must be written anew.

    Args:
        known: the present checkpoint; None if there is none.
        log: the id of the log.
        uncovered: what came after it.
        position: of the new checkpoint.
        live: how many denials the process knows.
        floor_ms: the floor of the new one.
    """
    if known is None or known.log != log or not uncovered.since <= known.position <= position:
        return None
    kept = [segment for segment in known.segments if segment.end_ms > floor_ms]
    if len(kept) >= MOST_SEGMENTS or sum(segment.count for segment in kept) > 2 * live + LEAST:
        return None
    return kept, uncovered.between(known.position, position)
