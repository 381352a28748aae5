"""A checkpoint holds the denials of a log; what it lacks is known, and no other log's is taken for it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.cluster.view import entry_end_ms
from ha_session_mw._core.ordered import checkpoints
from ha_session_mw._core.ordered.checkpoints import (
    MOST_SEGMENTS,
    MOST_UNCOVERED,
    Checkpoint,
    Segment,
    Uncovered,
    continued,
    decode_checkpoint,
    decode_segment,
    encode_checkpoint,
    encode_segment,
)
from ha_session_mw.models import Deny

END_MS = 1_800_000_000_000
FLOOR_MS = END_MS - 3_600_000
CHECKPOINT = Checkpoint(
    log="log",
    position=10,
    newest_key=b"shop/node/a/1",
    newest=b"n" * 16,
    digest=b"d" * 16,
    floor_ms=FLOOR_MS,
    segments=(Segment("a-0", 2, END_MS), Segment("a-1", 1, FLOOR_MS)),
)

SEGMENT = (
    "93019192ce01c9c380b6696969696969696969696969696969696969696969699294a164a573686f7274cf000001a3185c50000094a164"
    "b672727272727272727272727272727272727272727272cf000001a3185c500007"
)
WRITTEN = (
    "9801a36c6f670ac40d73686f702f6e6f64652f612f31c4106e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6ec41064646464646464646464646464"
    "646464cf000001a3182561809293a3612d3002cf000001a3185c500093a3612d3101cf000001a318256180"
)


@given(
    st.lists(
        st.builds(Deny, st.text(max_size=24) | st.text("ab", min_size=22, max_size=22), st.integers(0, 2**50), st.sampled_from([0, 7]))
    )
)
def test_a_segment_holds_each_denial_at_least_until_its_end_and_with_its_reason(denials: list[Deny]) -> None:
    found = {(denial.id, entry_end_ms(denial.until_ms), denial.replaced_ms) for denial in decode_segment(encode_segment(denials))}
    assert found == {(denial.id, entry_end_ms(denial.until_ms), denial.replaced_ms) for denial in denials}


def test_a_log_out_takes_less_than_23_bytes_in_a_segment_of_a_few_minutes() -> None:
    denials = [Deny(f"{number:022}", END_MS + number % 60 * 60_000) for number in range(3000)]
    assert len(encode_segment(denials)) < 23 * len(denials)


def test_a_checkpoint_is_read_as_it_was_written() -> None:
    assert decode_checkpoint(encode_checkpoint(CHECKPOINT)) == CHECKPOINT
    assert CHECKPOINT.count == 3


@pytest.mark.parametrize("value", [b"", b"junk", b"\x90", b"\x93\x02\x90\x90", b"\x93\x01\x91\x92\x01\xa1x\x90"])
def test_what_this_release_cannot_read_is_refused(value: bytes) -> None:
    for decode in (decode_segment, decode_checkpoint):
        with pytest.raises(ValueError, match=r".+"):
            decode(value)
    with pytest.raises(ValueError, match="version 2, where this release reads version 1"):
        decode_checkpoint(encode_checkpoint(msgspec.structs.replace(CHECKPOINT, version=2)))


def test_values_written_by_this_release_stay_readable() -> None:
    value = bytes.fromhex(SEGMENT)
    assert [*decode_segment(value)] == [Deny("short", END_MS), Deny("r" * 22, END_MS, 7), Deny("i" * 22, END_MS)]
    assert decode_checkpoint(bytes.fromhex(WRITTEN)) == CHECKPOINT


def denial(number: int, end_ms: int = END_MS) -> Deny:
    return Deny(f"{number:022}", end_ms)


def followed(since: int, upto: int) -> Uncovered:
    """A process that has followed the log from one position to another, and has read a denial at each."""
    uncovered = Uncovered()
    uncovered.begin(since)
    for position in range(since + 1, upto + 1):
        uncovered.add(position, denial(position))
    return uncovered


def test_a_checkpoint_goes_on_with_what_came_after_it_and_without_what_has_ended() -> None:
    going_on = continued(CHECKPOINT, "log", followed(5, 20), 18, live=10, floor_ms=FLOOR_MS)
    assert going_on is not None
    kept, news = going_on
    assert [segment.name for segment in kept] == ["a-0"]
    assert news == [denial(number) for number in range(11, 19)]


@pytest.mark.parametrize(
    ("known", "log", "since", "position"),
    [
        (None, "log", 5, 20),
        (CHECKPOINT, "another", 5, 20),
        (CHECKPOINT, "log", 11, 20),  # a process that has not read position 11 itself
        (CHECKPOINT, "log", 5, 9),  # another process has written a later checkpoint
    ],
)
def test_a_checkpoint_is_written_anew_unless_all_that_came_after_it_is_known(
    known: Checkpoint | None, log: str, since: int, position: int
) -> None:
    assert continued(known, log, followed(since, 20), position, live=10, floor_ms=FLOOR_MS) is None


def test_a_checkpoint_is_written_anew_if_most_of_it_has_ended_or_it_has_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "LEAST", 10)
    large = msgspec.structs.replace(CHECKPOINT, segments=(Segment("a-0", 1000, END_MS),))
    assert continued(large, "log", followed(5, 20), 20, live=500, floor_ms=FLOOR_MS) is not None
    assert continued(large, "log", followed(5, 20), 20, live=400, floor_ms=FLOOR_MS) is None
    many = msgspec.structs.replace(CHECKPOINT, segments=tuple(Segment(f"a-{number}", 1, END_MS) for number in range(MOST_SEGMENTS)))
    assert continued(many, "log", followed(5, 20), 20, live=1000, floor_ms=FLOOR_MS) is None


def test_what_was_covered_is_forgotten_and_the_rest_is_kept() -> None:
    uncovered = followed(5, 20)
    uncovered.cover(17)
    assert (uncovered.since, len(uncovered)) == (17, 3)
    assert uncovered.between(17, 20) == [denial(18), denial(19), denial(20)]


def test_too_many_denials_are_forgotten_as_a_whole_position() -> None:
    uncovered = followed(0, MOST_UNCOVERED - 1)
    for number in range(5):  # all of one position, of which some find no room
        uncovered.add(MOST_UNCOVERED, denial(number))
    assert uncovered.since == MOST_UNCOVERED
    uncovered.add(MOST_UNCOVERED + 1, denial(7))
    assert uncovered.between(uncovered.since, MOST_UNCOVERED + 1) == [denial(7)]
