"""The content of an ordered log: self-contained keys, and values that every later release can read."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.cluster.view import NO_SESSION, View, new_cut_id
from ha_session_mw._core.ordered.keys import (
    LogHeartbeat,
    LogId,
    UnknownVersion,
    decode_beat,
    decode_entry,
    decode_floor,
    decode_log,
    encode_beat,
    encode_entry,
    encode_floor,
    encode_log,
    ended_ranges,
    entry_key,
    gives_way,
    key_end_ms,
    slot_of,
)
from ha_session_mw.models import Cut, CutId, Deny, DenyKey, Entry, FamilyId, KeyId, NodeId

from ..builders import IDS, NOW_MS

ENDS = st.integers(0, 2**48)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Deny, st.text(max_size=30), ENDS),
    st.builds(lambda name, end: Cut(new_cut_id(name, end), None, end), IDS, ENDS),
    st.builds(DenyKey, IDS.map(KeyId), ENDS),
)
BEAT = LogHeartbeat(
    Heartbeat(NodeId("a"), "life", "https://a.example", "ready", 7, NOW_MS, (KeyId("k"),), 5.0, 3_600_000), "log", 41, b"\x01" * 16
)


@given(ENTRIES)
def test_written_values_are_read_back(entry: Entry) -> None:
    assert decode_entry(entry_key(entry), encode_entry(entry)) == entry


def test_a_beat_and_a_log_are_read_as_written() -> None:
    assert decode_beat(encode_beat(BEAT)) == BEAT
    assert decode_log(encode_log(LogId("id", NOW_MS))) == LogId("id", NOW_MS)
    assert slot_of(BEAT.heartbeat) == "a/life"


def test_a_replacement_gives_way_to_a_log_out_and_a_note_to_nothing() -> None:
    assert gives_way(encode_entry(Deny("id", NOW_MS, NOW_MS)))
    assert not gives_way(encode_entry(Deny("id", NOW_MS)))
    assert not gives_way(encode_entry(Deny(f"{NO_SESSION}note", NOW_MS, NOW_MS)))


@given(ENTRIES, ENTRIES)
def test_one_key_is_one_entry_as_far_as_a_view_can_tell(one: Entry, other: Entry) -> None:
    if entry_key(one) == entry_key(other):
        first, second = View(), View()
        first.merge(one)
        second.merge(other)
        assert list(map(entry_key, first.entries())) == list(map(entry_key, second.entries()))


@given(ENTRIES, ENDS)
def test_ended_entries_are_a_range_of_keys(entry: Entry, floor_ms: int) -> None:
    view = View()
    view.merge(entry)
    view.raise_floor(floor_ms)
    key = entry_key(entry)
    ended = any(first <= key < beyond for first, beyond in ended_ranges(floor_ms))
    assert ended == (not list(view.entries()))
    assert ended == (key_end_ms(key) <= floor_ms)


@given(ENDS, ENDS)
def test_a_higher_floor_is_a_greater_value(one: int, other: int) -> None:
    assert decode_floor(encode_floor(one)) == one
    assert (encode_floor(one) < encode_floor(other)) == (one < other)


@pytest.mark.parametrize("value", [b"", b"\xff", b"\x90", b"\x92\x01\xa3abc", encode_beat(BEAT), b"plain text", b"\x91\x01"])
def test_a_damaged_entry_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever its words
        decode_entry("deny/0000000001/x", value)


def test_an_entry_under_the_key_of_another_is_refused() -> None:
    with pytest.raises(ValueError, match="under the key of another"):
        decode_entry("deny/0000000001/x", encode_entry(Deny("y", 60_000)))


def test_another_version_is_refused_loudly_with_any_content() -> None:
    later = msgspec.msgpack.encode((2, {"of": "another shape"}, "and more"))
    for decode in (decode_beat, decode_log, lambda body: decode_entry("deny/0000000001/x", body)):
        with pytest.raises(UnknownVersion, match="version 2"):
            decode(later)


def test_a_field_that_a_later_release_adds_is_passed_over() -> None:
    assert decode_log(msgspec.msgpack.encode((1, ("id", NOW_MS, "more")))) == LogId("id", NOW_MS)


# The format of this release, which every later release reads.

VECTORS: list[tuple[Entry, str, str]] = [
    (Deny("x", NOW_MS), "deny/0001c9c380/x", "920193a164a178cf000001a3185c5000"),
    (
        Cut(CutId("c~6b49d200"), "ada", NOW_MS, FamilyId("f"), (CutId("b~6b49d200"),)),
        "cut/0001c9c380/c~6b49d200",
        "920196a163aa637e3662343964323030a3616461cf000001a3185c5000a16691aa627e3662343964323030",
    ),
    (DenyKey(KeyId("k"), NOW_MS + 1), "key/0001c9c381/k", "920193a16ba16bcf000001a3185c5001"),
]

BEAT_WRITTEN = (
    "9201949aa161a46c696665b168747470733a2f2f612e6578616d706c65a5726561647907cf000001a3185c500091a16bcb4014000000000000"
    "ce0036ee80a0a36c6f6729c41001010101010101010101010101010101"
)


@pytest.mark.parametrize(("entry", "key", "value"), VECTORS, ids=lambda value: type(value).__name__)
def test_vectors_of_entries(entry: Entry, key: str, value: str) -> None:
    assert entry_key(entry) == key
    assert encode_entry(entry).hex() == value
    assert decode_entry(key, bytes.fromhex(value)) == entry


def test_vectors_of_beats_and_logs() -> None:
    assert encode_beat(BEAT).hex() == BEAT_WRITTEN
    assert decode_beat(bytes.fromhex(BEAT_WRITTEN)) == BEAT
    assert encode_log(LogId("id", NOW_MS)).hex() == "920192a26964cf000001a3185c5000"
