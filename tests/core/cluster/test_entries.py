"""Entries as bytes: a log-out is written as every release writes it, and an earlier release enforces the replacement of a newer one."""

from __future__ import annotations

import msgspec
import pytest

from ha_session_mw._core.cluster.entries import decode_entry, encode_entry
from ha_session_mw.models import Cut, CutId, Deny, DenyKey, Entry, KeyId

END_MS = 1_800_000_000_000
ENTRIES: list[Entry] = [
    Deny("id", END_MS),
    Deny("id", END_MS, END_MS - 1),
    Cut(CutId("c~6b49d200"), "ada", END_MS),
    DenyKey(KeyId("k"), END_MS),
]


class EarlierDeny(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """A denial as the release before replacements defined it."""

    id: str
    until_ms: int


@pytest.mark.parametrize("entry", ENTRIES, ids=repr)
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert decode_entry(encode_entry(entry)) == entry


def test_a_log_out_is_written_as_an_earlier_release_does() -> None:
    assert encode_entry(Deny("id", END_MS)) == msgspec.msgpack.encode(EarlierDeny("id", END_MS))


def test_an_earlier_release_reads_a_replacement_as_a_log_out() -> None:
    assert msgspec.msgpack.decode(encode_entry(Deny("id", END_MS, 7)), type=EarlierDeny) == EarlierDeny("id", END_MS)


def test_a_replacement_of_a_later_release_is_read_without_its_further_fields() -> None:
    later = msgspec.msgpack.encode(["d", "id", END_MS, 7, "more"])
    assert decode_entry(later) == Deny("id", END_MS, 7)
