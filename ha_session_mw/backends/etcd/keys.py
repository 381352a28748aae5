"""Translate keys and values of etcd into items of the ordered log, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

import msgspec

from ..._core.ordered.keys import (
    BEATS,
    ENTRIES,
    FLOOR,
    LOG,
    LogId,
    UnknownVersion,
    decode_beat,
    decode_denials,
    decode_entry,
    decode_floor,
    decode_log,
    encode_entry,
    ended_ranges,
    entry_key,
    key_end_ms,
)
from ..._core.ordered.ready import BeatDeleted, BeatPut, EntryDeleted, EntryPut, FloorRaised, Item, Snapshot, StoredBeat
from ...models import Deny, Entry
from .api import Event, KeyValue, end_of


class UnreadableKey(Exception):
    """This release cannot read the value of a key. It may be a log-out, so the log stops there. ``str()`` names no id.

    Attributes:
        entry: the name of the key, if it is that of an entry, and no release has written the value; otherwise None.
    """

    def __init__(self, what: str, entry: str | None = None) -> None:
        super().__init__(what)
        self.entry = entry


class Keys:
    """The keys below one prefix.

    Args:
        prefix: without a slash at its end.
    """

    def __init__(self, prefix: str) -> None:
        self.start = f"{prefix}/".encode()
        self.end = end_of(self.start)
        self.log = self._of(LOG)
        self.floor = self._of(FLOOR)
        self.denials = self._of("deny/")
        # Outside the prefix of the log, because etcd sends everything below that to those who follow the log.
        self.checkpoint = f"{prefix}.records/denials/checkpoint".encode()
        self.segments = f"{prefix}.records/denials/segment/".encode()

    def _of(self, name: str) -> bytes:
        return self.start + name.encode()

    def slot(self, slot: str) -> bytes:
        """Return the key of a process's heartbeat."""
        return self._of(f"{BEATS}/{slot}")

    def records(self, entries: Iterable[Entry]) -> dict[bytes, bytes]:
        """Return the keys and values of entries.

        Raises:
            UnicodeEncodeError: an id or a subject contains lone surrogates.
        """
        return {self._of(entry_key(entry)): encode_entry(entry) for entry in entries}

    def ended(self, floor_ms: int) -> list[tuple[bytes, bytes]]:
        """Return the ranges of keys of entries that end at or below a floor."""
        return [(self._of(start), self._of(end)) for start, end in ended_ranges(floor_ms)]

    def items(self, events: Sequence[Event]) -> list[Item]:
        """Return the items that events stand for. Events of keys that do not belong to the log stand for none.

        Raises:
            UnreadableKey: this release cannot read one of the values.
        """
        pairs = [event.kv for event in events if not event.is_deletion]
        if len(pairs) == len(events) and (found := self.denials_of(pairs)) is not None:
            return [EntryPut(denial, pair.create_revision == pair.mod_revision) for pair, (_, denial) in zip(pairs, found, strict=True)]
        return [item for event in events if (item := self.item(event)) is not None]

    def denials_of(self, pairs: Sequence[KeyValue]) -> list[tuple[str, Deny]] | None:
        """Return the names and the denials of pairs. None if one of them is of anything else, or is unreadable."""
        if not all(pair.key.startswith(self.denials) for pair in pairs):
            return None
        try:
            names = [pair.key[len(self.start) :].decode() for pair in pairs]
            return [*zip(names, decode_denials(names, [pair.value for pair in pairs]), strict=True)]
        except (msgspec.MsgspecError, ValueError):
            return None  # one by one, it is known which of them cannot be read

    def item(self, event: Event) -> Item | None:
        """Return the item that an event stands for; None if the key does not belong to the log.

        Raises:
            UnreadableKey: this release cannot read the value.
        """
        kind, name = self.split(event.kv)
        try:
            return _deleted(kind, name) if event.is_deletion else _written(kind, name, event.kv)
        except ValueError as exc:
            raise _unreadable(kind, name, event.kv, exc) from exc

    def floor_of(self, pair: KeyValue) -> int:
        """Return the floor that stands under its key.

        Raises:
            UnreadableKey: it cannot be decoded.
        """
        try:
            return decode_floor(pair.value)
        except ValueError as exc:
            raise _unreadable("log", FLOOR, pair, exc) from exc

    def split(self, pair: KeyValue) -> tuple[str, str]:
        """Return the kind of a key, and its name below the prefix."""
        name = pair.key[len(self.start) :].decode(errors="replace")
        return name.partition("/")[0], name


class Reading:
    """The whole log, read page by page.

    Args:
        keys: of the log.
        take_entries: takes in entries with their names, in their order.

    Attributes:
        last: the key with the highest revision.
        newest: the revision of the newest entry.
    """

    def __init__(self, keys: Keys, take_entries: Callable[[Iterable[tuple[str, Entry]]], None]) -> None:
        self._keys = keys
        self._take_entries = take_entries
        self._floor_ms = 0
        self._log: LogId | None = None
        self._beats: list[StoredBeat] = []
        self.last = KeyValue()
        self.newest = 0

    def take(self, pairs: Sequence[KeyValue]) -> None:
        """Take in a part of a page.

        Raises:
            UnreadableKey: this release cannot read one of the values.
        """
        if not self._take_denials(pairs):
            self._take_each(pairs)

    def _take_denials(self, pairs: Sequence[KeyValue]) -> bool:
        """Take in pairs that are all of denials, as nearly all in a long log; return whether they are."""
        if (denials := self._keys.denials_of(pairs)) is None:
            return False
        newest = max(pairs, key=attrgetter("mod_revision"), default=self.last)
        self.newest = max(self.newest, newest.mod_revision)
        self.last = max(self.last, newest, key=attrgetter("mod_revision"))
        self._take_entries(denials)
        return True

    def _take_each(self, pairs: Sequence[KeyValue]) -> None:
        entries: list[tuple[str, Entry]] = []
        for pair in pairs:
            kind, name = self._keys.split(pair)
            try:
                if kind in ENTRIES:
                    entries.append((name, decode_entry(name, pair.value)))
                    self.newest = max(self.newest, pair.mod_revision)
                else:
                    self._add(kind, name, pair)
            except ValueError as exc:
                raise _unreadable(kind, name, pair, exc) from exc
            if pair.mod_revision > self.last.mod_revision:
                self.last = pair
        self._take_entries(entries)

    def _add(self, kind: str, name: str, pair: KeyValue) -> None:
        match _written(kind, name, pair):
            case BeatPut(slot, beat):
                self._beats.append(StoredBeat(slot, beat, pair.mod_revision))
            case FloorRaised(floor_ms):
                self._floor_ms = floor_ms
            case _ if name == LOG:
                self._log = decode_log(pair.value)

    def snapshot(self, position: int) -> Snapshot | None:
        """Return the whole log at a position, without its entries; None if there is no log yet."""
        return None if self._log is None else Snapshot(position, self._log, (), self._beats, self._floor_ms)


def _written(kind: str, name: str, pair: KeyValue) -> Item | None:
    if kind in ENTRIES:
        return EntryPut(decode_entry(name, pair.value), pair.create_revision == pair.mod_revision)
    if kind == BEATS:
        return BeatPut(_slot(name), decode_beat(pair.value))
    return FloorRaised(decode_floor(pair.value)) if name == FLOOR else None


def _deleted(kind: str, name: str) -> Item | None:
    if kind in ENTRIES:
        key_end_ms(name)  # raises if this is not the key of an entry
        return EntryDeleted(name)
    return BeatDeleted(_slot(name)) if kind == BEATS else None


def _slot(name: str) -> str:
    return name.removeprefix(f"{BEATS}/")


def _unreadable(kind: str, name: str, pair: KeyValue, exc: ValueError) -> UnreadableKey:
    # The revision names the key for an operator. The key itself may hold the id of a session, which belongs in no log.
    what = f"holds a key ({kind}, {len(pair.key)} bytes long, of mod revision {pair.mod_revision})"
    if isinstance(exc, UnknownVersion):
        return UnreadableKey(f"{what} of an unknown {exc}: finish the roll-out, or go back to the release that wrote it")
    entry = name if kind in ENTRIES and _is_key_of_entry(name) else None
    return UnreadableKey(f"{what} that cannot be read: somebody else writes below the prefix of HA_SESSION_CLUSTER", entry)


def _is_key_of_entry(name: str) -> bool:
    try:
        key_end_ms(name)
    except (ValueError, IndexError):
        return False
    return True
