"""The record of a session's data, and the merge of concurrent changes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.records.session_data import OVERHEAD_BYTES, Stored, UnreadableError, merge
from ha_session_mw._core.token import data

KEYS = st.sampled_from("abcdef")
DATA = st.dictionaries(KEYS, st.one_of(st.integers(0, 3), st.booleans(), st.lists(st.integers(0, 3), max_size=2), st.none()))


def stored(content: dict[str, object], version: int = 5, origin: bytes = b"origin") -> Stored:
    return Stored(version, data.encode(content), origin)


@given(DATA, st.integers(1, 1 << 62))
def test_a_record_comes_back_as_it_was(content: dict[str, object], version: int) -> None:
    began = Stored.in_token(data.encode(content))
    written = began.encode()

    assert Stored.decode(version, written) == msgspec.structs.replace(began, version=version)
    assert len(written) <= len(began.data) + OVERHEAD_BYTES


VECTOR = bytes.fromhex("9301c4080123456789abcdef81a46361727492a4626f6f6bc3")


def test_a_record_of_an_earlier_release_is_read() -> None:
    found = Stored.decode(7, VECTOR)

    assert data.decode(found.data) == {"cart": ["book", True]}
    assert found == Stored(7, data.encode({"cart": ["book", True]}), bytes.fromhex("0123456789abcdef"))
    assert found.encode() == VECTOR


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc0",
        b"garbage",
        VECTOR[:-1],
        b"\x93\x02" + VECTOR[2:],  # of a later format
        b"\x94\x02\xc4\x01\x00\x80\x07",  # of a later one that has more
        b"\x93\x02\xa1x\x80",
        b"\x93\x01\xc4\x01\x00\x90",  # a list in the place of the data
        b"\x93\x01\xc4\x01\x00\x81\x01\x01",  # a key that is no text
        b"\x93\x01\xc4\x01\x00" + b"\x91" * 100_000,
    ],
)
def test_an_unreadable_record_is_reported(content: bytes) -> None:
    with pytest.raises(UnreadableError):
        Stored.decode(1, content)


def test_it_shows_no_data() -> None:
    assert "secret" not in repr(stored({"secret": "secret"}))


# Two requests at once


def test_the_changes_of_two_requests_are_both_there() -> None:
    base = stored({"cart": ["book"], "step": 1})
    theirs = stored({"cart": ["book"], "step": 2, "seen": True}, version=6)

    assert merge(base, {"cart": ["book", "pen"], "step": 1}, theirs) == {"cart": ["book", "pen"], "step": 2, "seen": True}


def test_a_key_that_both_changed_is_as_the_later_one_left_it_as_a_whole() -> None:
    base = stored({"cart": {"book": 1}})
    theirs = stored({"cart": {"book": 2, "pen": 1}}, version=6)

    assert merge(base, {"cart": {"book": 1, "ink": 1}}, theirs) == {"cart": {"book": 1, "ink": 1}}


def test_a_key_that_one_removed_is_gone_unless_the_later_one_wrote_it() -> None:
    base = stored({"a": 1, "b": 1, "c": 1})
    theirs = stored({"b": 1, "c": 2}, version=6)  # removed a, changed c

    assert merge(base, {"a": 1, "b": 1}, theirs) == {"b": 1}  # removes c
    assert merge(base, {"a": 2, "b": 1, "c": 1}, theirs) == {"a": 2, "b": 1, "c": 2}


def test_numbers_that_are_equal_and_of_another_type_are_a_change() -> None:
    assert merge(stored({"a": 1}), {"a": True}, stored({"a": 1}, version=6)) == {"a": True}
    assert type(merge(stored({"a": 1}), {"a": 1.0}, stored({"a": 1}, version=6))["a"]) is float


def test_two_records_from_the_same_token_merge_both_changes() -> None:
    token = Stored.in_token(data.encode({"a": 1, "b": 1}))
    theirs = msgspec.structs.replace(token, version=6, data=data.encode({"a": 2, "b": 1, "large": "x"}))

    assert merge(token, {"a": 1, "b": 1, "too": "y"}, theirs) == {"a": 2, "b": 1, "large": "x", "too": "y"}


def test_one_that_went_on_with_its_token_brings_all_that_this_holds() -> None:
    """The record was made from an earlier token, and the client kept the token of another answer."""
    theirs = stored({"a": 1, "large": "x"}, origin=Stored.in_token(data.encode({"a": 0})).origin)
    token = Stored.in_token(data.encode({"a": 2}))

    assert merge(token, {"a": 2, "too": "y"}, theirs) == {"a": 2, "large": "x", "too": "y"}


@given(DATA, DATA, DATA)
def test_all_that_a_request_changed_is_there_and_all_else_is_as_the_others_left_it(
    base: dict[str, object], mine: dict[str, object], theirs: dict[str, object]
) -> None:
    merged = merge(stored(base), mine, stored(theirs, version=6))

    def text(content: dict[str, object], key: str) -> bytes | None:
        return data.encode({"": content[key]}) if key in content else None

    for key in "abcdef":
        changed = text(base, key) != text(mine, key)
        assert text(merged, key) == text(mine if changed else theirs, key)
