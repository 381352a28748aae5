"""Keys in etcd: each entry survives a round trip, and an unreadable entry is never skipped."""

from __future__ import annotations

import pytest

from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.ordered.keys import LogHeartbeat, LogId, encode_beat, encode_floor, encode_log, entry_key
from ha_session_mw._core.ordered.ready import BeatDeleted, BeatPut, EntryDeleted, EntryPut, FloorRaised
from ha_session_mw.backends.etcd.api import Event, KeyValue
from ha_session_mw.backends.etcd.keys import Keys, Reading, UnreadableKey
from ha_session_mw.models import Cut, CutId, Deny, DenyKey, Entry, KeyId, NodeId

END_MS = 1_800_000_000_000
ENTRIES: list[Entry] = [Deny("a/b", END_MS), Cut(CutId("c~6b49d200"), "ada", END_MS), DenyKey(KeyId("k"), END_MS)]
BEAT = LogHeartbeat(Heartbeat(NodeId("web"), "ab12", "", "ready", 7, END_MS, (KeyId("k"),), 5.0, 1), "log", 3, b"digest")


@pytest.fixture
def keys() -> Keys:
    return Keys("shop")


def written(key: bytes, value: bytes, *, created: int = 5, modified: int = 5) -> Event:
    return Event(KeyValue(key, value, create_revision=created, mod_revision=modified))


def deleted(key: bytes) -> Event:
    return Event(KeyValue(key, mod_revision=6), "DELETE")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_an_entry_is_read_as_it_was_written_and_known_when_it_is_deleted(keys: Keys, entry: Entry) -> None:
    [(key, value)] = keys.records([entry]).items()
    assert key.startswith(b"shop/")
    assert keys.item(written(key, value)) == EntryPut(entry, created=True)
    assert keys.item(written(key, value, modified=6)) == EntryPut(entry, created=False)
    assert keys.item(deleted(key)) == EntryDeleted(key.removeprefix(b"shop/").decode())


def test_a_beat_and_the_floor_are_read_as_they_were_written(keys: Keys) -> None:
    slot = keys.slot("web/ab12")
    assert keys.item(written(slot, encode_beat(BEAT))) == BeatPut("web/ab12", BEAT)
    assert keys.item(deleted(slot)) == BeatDeleted("web/ab12")
    assert keys.item(written(keys.floor, encode_floor(60_000))) == FloorRaised(60_000)


@pytest.mark.parametrize("name", [b"log/id", b"lock/x", b"anything", b"", b"\xff"])
def test_other_keys_are_of_no_concern(keys: Keys, name: bytes) -> None:
    assert keys.item(written(b"shop/" + name, b"\x00")) is None
    assert keys.item(deleted(b"shop/" + name)) is None


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (b"deny/001/secret", b"\x92\x02\x90", "of an unknown version 2"),
        (b"node/web/ab", b"\x92\x02\x90", "of an unknown version 2"),
        (b"deny/001/secret", b"junk", "cannot be read"),
        (b"deny/001/secret", b"", "cannot be read"),
        (b"cut/secret", b"\x92\x01\x90", "cannot be read"),
        (b"log/floor", b"high", "cannot be read"),
    ],
)
def test_an_unreadable_entry_is_reported_without_an_id(keys: Keys, name: bytes, value: bytes, told: str) -> None:
    event = written(b"shop/" + name, value)
    with pytest.raises(UnreadableKey) as followed:
        keys.item(event)
    with pytest.raises(UnreadableKey) as loaded:
        Reading(keys, lambda _: None).take([event.kv])
    for unreadable in (followed, loaded):
        assert told in str(unreadable.value)
        assert f"of mod revision {event.kv.mod_revision})" in str(unreadable.value)
        assert "secret" not in str(unreadable.value)
    if name.startswith(b"cut"):
        with pytest.raises(UnreadableKey):
            keys.item(deleted(b"shop/" + name))


def test_many_log_outs_in_one_change_are_read_as_each_alone(keys: Keys) -> None:
    records = keys.records([Deny(f"{number}", END_MS + number * 60_000) for number in range(5)])
    events = [written(key, value, created=created) for created, (key, value) in enumerate(records.items(), 1)]
    assert keys.items(events) == [keys.item(event) for event in events]
    # With a deletion, a key of no concern or an entry of another kind among them, too.
    for other in (deleted(events[0].kv.key), written(b"shop/lock/x", b""), *(written(*one) for one in keys.records(ENTRIES).items())):
        together = [*events, other]
        assert keys.items(together) == [item for event in together if (item := keys.item(event)) is not None]
    unreadable = written(events[3].kv.key, b"junk", modified=9)
    with pytest.raises(UnreadableKey, match="of mod revision 9") as named:
        keys.items([*events[:3], unreadable, *events[4:]])
    assert named.value.entry == unreadable.kv.key.removeprefix(b"shop/").decode()


def test_an_entry_under_the_key_of_another_is_not_believed(keys: Keys) -> None:
    [key, _, _] = keys.records(ENTRIES)
    [_, value, _] = keys.records(ENTRIES).values()
    with pytest.raises(UnreadableKey):
        keys.item(written(key, value))


def test_a_piece_of_denials_is_read_as_each_of_them_is_and_one_that_cannot_be_read_is_found_among_them(keys: Keys) -> None:
    denials: list[Entry] = [Deny(f"session {number}", END_MS + number * 7, number % 3) for number in range(30)]
    pairs = [KeyValue(key, value, 4, 40 - number) for number, (key, value) in enumerate(keys.records(denials).items())]
    read: list[tuple[str, Entry]] = []
    reading = Reading(keys, read.extend)
    reading.take(pairs)
    assert read == [(entry_key(denial), denial) for denial in denials]
    assert (reading.newest, reading.last) == (40, pairs[0])

    for damaged in (
        KeyValue(pairs[7].key, b"junk", 4, 7),
        KeyValue(pairs[7].key, pairs[8].value, 4, 7),
        KeyValue(b"shop/deny/\xff", b"", 4, 7),
    ):
        with pytest.raises(UnreadableKey, match="of mod revision 7"):
            reading.take([*pairs[:7], damaged, *pairs[8:]])


def test_a_reading_collects_the_content_of_all_pages(keys: Keys) -> None:
    read: list[tuple[str, Entry]] = []
    reading = Reading(keys, read.extend)
    records = [KeyValue(key, value, 4 + number, 4 + number) for number, (key, value) in enumerate(keys.records(ENTRIES).items())]
    reading.take(records[:2])
    assert reading.snapshot(9) is None
    log = LogId("made", END_MS)
    beat = KeyValue(keys.slot("web/ab12"), encode_beat(BEAT), 7, 8)
    reading.take([*records[2:], KeyValue(keys.log, encode_log(log), 1, 1), KeyValue(keys.floor, encode_floor(60_000), 2, 3), beat])
    snapshot = reading.snapshot(9)
    assert snapshot is not None
    assert (snapshot.position, snapshot.log, snapshot.floor_ms, [*snapshot.entries]) == (9, log, 60_000, [])
    assert read == [(entry_key(entry), entry) for entry in ENTRIES]
    assert [(stored.slot, stored.beat, stored.position) for stored in snapshot.beats] == [("web/ab12", BEAT, 8)]
    assert (reading.newest, reading.last) == (6, beat)


def test_ended_entries_are_a_range_of_keys(keys: Keys) -> None:
    [soon], [late] = (keys.records([Deny("x", end_ms)]) for end_ms in (60_000, 120_000))
    start, end = keys.ended(60_000)[0]
    assert start <= soon < end <= late
