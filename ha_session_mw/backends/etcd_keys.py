"""What the keys and values of etcd are in the words of the state machine, and the other way round."""

from __future__ import annotations

from collections.abc import Iterable

from .._core.ordered import BeatDeleted, BeatPut, EntryDeleted, EntryPut, FloorRaised, Item, Snapshot, StoredBeat
from .._core.records import (
    BEATS,
    ENTRIES,
    FLOOR,
    LOG,
    LogId,
    UnknownVersion,
    decode_beat,
    decode_entry,
    decode_floor,
    decode_log,
    encode_entry,
    ended_ranges,
    entry_key,
    key_end_ms,
)
from ..etcd_gateway import Event, KeyValue, end_of
from ..models import Entry


class UnreadableKey(Exception):
    """A key holds what this release cannot read. It may be a log-out, so nothing goes on without it. ``str()`` names no id."""


class Keys:
    """The keys below one prefix.

    Args:
        prefix: without a slash at its end.
    """

    def __init__(self, prefix: str) -> None:
        self.start = f"{prefix}/".encode()
        self.end = end_of(self.start)
        self.log = self._of(LOG)
        self._entries = tuple(self._of(f"{kind}/") for kind in ENTRIES)
        self.floor = self._of(FLOOR)

    def _of(self, name: str) -> bytes:
        return self.start + name.encode()

    def seat(self, seat: str) -> bytes:
        """Where a process puts its beat."""
        return self._of(f"{BEATS}/{seat}")

    def records(self, entries: Iterable[Entry]) -> dict[bytes, bytes]:
        """What is to be written for entries.

        Raises:
            UnicodeEncodeError: an id or a subject is no text that can be written anywhere.
        """
        return {self._of(entry_key(entry)): encode_entry(entry) for entry in entries}

    def is_entry(self, key: bytes) -> bool:
        """Whether an entry stands there."""
        return key.startswith(self._entries)

    def ended(self, floor_ms: int) -> list[tuple[bytes, bytes]]:
        """The ranges of what ends at or below a floor."""
        return [(self._of(start), self._of(end)) for start, end in ended_ranges(floor_ms)]

    def item(self, event: Event) -> Item | None:
        """What an event says; None where it is of no concern to the log.

        Raises:
            UnreadableKey: it cannot be understood.
        """
        kind, name = self._split(event.kv)
        try:
            return _deleted(kind, name) if event.is_deletion else _written(kind, name, event.kv)
        except ValueError as exc:
            raise _unreadable(kind, exc) from exc

    def _split(self, pair: KeyValue) -> tuple[str, str]:
        name = pair.key[len(self.start) :].decode(errors="replace")
        return name.partition("/")[0], name

    def snapshot(self, pairs: Iterable[KeyValue], position: int) -> Snapshot | None:
        """All that is in the log; None where there is no log yet.

        Raises:
            UnreadableKey: some of it cannot be understood.
        """
        log: LogId | None = None
        entries: list[Entry] = []
        beats: list[StoredBeat] = []
        floor_ms = 0
        for pair in pairs:
            kind, name = self._split(pair)
            try:
                match _written(kind, name, pair):
                    case EntryPut(entry, _):
                        entries.append(entry)
                    case BeatPut(seat, beat):
                        beats.append(StoredBeat(seat, beat, pair.mod_revision))
                    case FloorRaised(floor_ms):
                        pass
                    case _ if name == LOG:
                        log = decode_log(pair.value)
            except ValueError as exc:
                raise _unreadable(kind, exc) from exc
        return None if log is None else Snapshot(position, log, entries, beats, floor_ms)


def _written(kind: str, name: str, pair: KeyValue) -> Item | None:
    if kind in ENTRIES:
        return EntryPut(decode_entry(name, pair.value), pair.create_revision == pair.mod_revision)
    if kind == BEATS:
        return BeatPut(_seat(name), decode_beat(pair.value))
    return FloorRaised(decode_floor(pair.value)) if name == FLOOR else None


def _deleted(kind: str, name: str) -> Item | None:
    if kind in ENTRIES:
        key_end_ms(name)  # else it is none of ours
        return EntryDeleted(name)
    return BeatDeleted(_seat(name)) if kind == BEATS else None


def _seat(name: str) -> str:
    return name.removeprefix(f"{BEATS}/")


def _unreadable(kind: str, exc: ValueError) -> UnreadableKey:
    if isinstance(exc, UnknownVersion):
        return UnreadableKey(f"holds an entry ({kind}) of an unknown {exc}: finish the roll-out, or go back to the release that wrote it")
    return UnreadableKey(f"holds an entry ({kind}) that cannot be read: somebody else writes below the prefix of HA_SESSION_CLUSTER")
