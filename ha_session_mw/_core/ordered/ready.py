"""The values that an ordered log's state machine and its driver hand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...events import Diverged, RolledBack
from ...models import Entry
from ..cluster.members import MemberEvent
from .keys import LogHeartbeat, LogId


@dataclass(frozen=True, slots=True)
class EntryPut:
    """An entry was written. ``created`` tells whether its key is new."""

    entry: Entry
    created: bool


@dataclass(frozen=True, slots=True)
class EntryDeleted:
    """The key of an entry was deleted."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BeatPut:
    """A process has written its heartbeat."""

    slot: str
    beat: LogHeartbeat


@dataclass(frozen=True, slots=True)
class BeatDeleted:
    """A heartbeat was deleted: by its own process before that ended, or by another one after a long silence."""

    slot: str


@dataclass(frozen=True, slots=True)
class FloorRaised:
    """The stored floor was raised. Entries that end at or below it may be missing from now on."""

    floor_ms: int


Item = EntryPut | EntryDeleted | BeatPut | BeatDeleted | FloorRaised


@dataclass(frozen=True, slots=True)
class StoredBeat:
    """A heartbeat in a snapshot, and the position at which it was written."""

    slot: str
    beat: LogHeartbeat
    position: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole log at one position. A driver may read it in pages, but all of them as of that position.

    Attributes:
        newest: the position that the log had when the driver asked for it, if that was a later one. Changes that are
            delivered up to there may be old by then.
    """

    position: int
    log: LogId
    entries: Sequence[Entry]
    beats: Sequence[StoredBeat]
    floor_ms: int
    newest: int = 0


@dataclass(frozen=True, slots=True)
class Sent:
    """A heartbeat to write under ``node/`` and the slot, in one try."""

    slot: str
    beat: LogHeartbeat
    sent_s: float


@dataclass(frozen=True, slots=True)
class Look:
    """A read of the current log, in place of a heartbeat that the engine does not take.

    Attributes:
        slot: the slot of the process. The read counts only if it exists.
        position: the read must show that nothing in the log was written after it.
        sent_s: when the process asked, by the boot-time clock.
    """

    slot: str
    position: int
    sent_s: float


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The node has read back its own heartbeat for the first time, has heard enough of the other members, and validates sessions now."""


OrderedEvent = MemberEvent | CaughtUp | Diverged | RolledBack


@dataclass(frozen=True, slots=True)
class Ready:
    """The work that the driver must do now.

    Attributes:
        events: what has happened, in this order. Each event is handed out once.
        floor_ms: the floor to store, in a transaction that never lowers the stored one; None if nothing is due. Any process may delete
            entries that end at or below the floor (:func:`.keys.ended_ranges`), in the same transaction or later.
        remove: slots that have been silent for very long, each with the position of its last heartbeat. A slot may be deleted only while
            that heartbeat is its newest one.
        restore: the keys of entries that somebody else deleted or overwrote before they ended. A process that starts would not know these
            entries, so those that the view still has must be written again.
    """

    events: tuple[OrderedEvent, ...] = ()
    floor_ms: int | None = None
    remove: tuple[tuple[str, int], ...] = ()
    restore: frozenset[str] = frozenset()
