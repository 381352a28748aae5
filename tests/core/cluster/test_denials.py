"""Packed denials behave as a dict, give each id room of some 30 bytes, and never lose one that another thread looks for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, repeat
from random import Random
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.cluster import denials
from ha_session_mw._core.cluster.denials import FILL, ID_LENGTH, LEAST_WAITING, REFERENCE_LENGTH, SETTLED_A_PAGE, SHARDS, Denials, _shard_of
from ha_session_mw.models import Deny

from ...asgi.meter import metered
from ..builders import MINUTE_MS, NOW_MS, random_id

END_MS = NOW_MS - NOW_MS % MINUTE_MS
MANY = 40 * FILL

IDS = [
    *(f"{number}".ljust(ID_LENGTH, "-") for number in range(40)),
    *(f"alike{number}".ljust(ID_LENGTH, "_") for number in range(3)),
    *("", "x", "~mark", "é" * ID_LENGTH, "a" * (ID_LENGTH - 1), "a" * (ID_LENGTH + 1), "\0" * ID_LENGTH, "-" * (ID_LENGTH - 5) + "\0" * 5),
]
FIRST_MS, LAST_MS = 1_577_836_800_000, 1_577_836_800_000 + (64**4 - 1) * MINUTE_MS
"""The first and the last end that are packed: in 2020 and 2051."""
ENDS_MS = [*(END_MS + minutes * MINUTE_MS for minutes in (-1, 0, 1, 90_000)), 0, 1, END_MS + 1, 10**18, -MINUTE_MS]
ENDS_MS += [FIRST_MS - MINUTE_MS, FIRST_MS, LAST_MS, LAST_MS + MINUTE_MS]


@given(st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(ENDS_MS) | st.none()), max_size=200))
def test_they_behave_as_a_dict(steps: list[tuple[str, int | None]]) -> None:
    expected: dict[str, int] = {}
    denied = Denials()
    for id, end_ms in steps:
        if end_ms is not None:
            expected[id] = denied[id] = end_ms
        elif id in expected:
            del expected[id], denied[id]
    denied.check()
    assert denied == expected
    assert len(denied) == len(expected)
    for id in IDS:
        assert (id in denied, denied.get(id), denied.has_any("another", id)) == (id in expected, expected.get(id), id in expected)
        if id in denied and (reference := denied.reference(id)) is not None:
            assert denied.referred(reference) == (id, expected[id])


@given(st.dictionaries(st.sampled_from(IDS), st.sampled_from(ENDS_MS)), st.integers(1, 50))
def test_a_sweep_drops_the_packed_ids_that_have_ended_and_nothing_else(expected: dict[str, int], most: int) -> None:
    denied = Denials()
    denied.update(expected)
    denied.begin_sweep(END_MS + 1)
    dropped: list[str] = []
    while denied.is_sweeping:
        dropped += denied.sweep(most)
        denied.check()
    assert not any(denied.reference(id) for id in denied if denied[id] <= END_MS)
    assert {**denied, **{id: expected[id] for id in dropped}} == expected
    assert all(expected[id] <= END_MS for id in dropped)


def test_ends_are_packed_until_2051_and_a_later_floor_drops_them_all() -> None:
    denied = Denials()
    denied.update(zip((random_id(Random(number)) for number in count()), ENDS_MS, strict=False))
    assert denied.packed == sum(FIRST_MS <= end_ms <= LAST_MS and end_ms % MINUTE_MS == 0 for end_ms in ENDS_MS)
    denied.begin_sweep(LAST_MS + 2 * MINUTE_MS)
    while denied.is_sweeping:
        denied.sweep(10)
    assert denied.packed == 0
    denied.check()


def test_text_that_is_no_id_is_not_found_in_the_middle_of_others() -> None:
    denied = Denials()
    for number in range(5):
        denied[f"{number}".ljust(ID_LENGTH, "-")] = END_MS
    assert denied.others == {}
    text = "".join(denied._buckets)
    assert not any(text[at : at + length] in denied for at in range(1, 20) for length in (5, ID_LENGTH, ID_LENGTH + 5))


def packed(many: int, seed: int = 1) -> Denials:
    random, denied = Random(seed), Denials()
    while len(denied) < many:
        denied[random_id(random)] = END_MS
    assert len(denied.others) < many / 100
    return denied


def test_one_more_id_costs_the_same_after_few_and_after_many_a_new_bucket_included() -> None:
    most = []
    for many in (MANY, 10 * MANY):
        denied, random, lines = packed(many), Random(2), []
        for _ in range(2 * FILL):
            with metered() as cost:
                denied[random_id(random)] = END_MS
            lines.append(cost.lines)
        most.append(max(lines))
    assert most[1] <= 2 * most[0]


def interrupted(denied: Denials, id: str, step: int, extra: str) -> bool:
    """Look an id up, and add another one before the line of this number is run, as another thread may."""
    lines = count()

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line" and next(lines) == step:
            sys.settrace(None)
            frame.f_trace = None
            denied[extra] = END_MS
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return denied.has_any("another", id)
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("step", range(30))
def test_an_id_is_found_while_another_thread_adds_a_bucket(step: int) -> None:
    for buckets in (1, 2, 3, 7, 8):
        ids = [*packed(buckets * FILL)]
        for id in ids[::5]:
            denied = Denials()
            for other in ids:
                denied[other] = END_MS
            assert interrupted(denied, id, step, "another-one-that-comes")
            assert id in denied


@contextmanager
def before_each_line(look: Callable[[], bool], least: int) -> Iterator[None]:
    """Look before each line of the file that is run in the block, as another thread may. There are more lines than ``least``."""
    looked = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal looked
        if event == "line" and frame.f_code.co_filename == denials.__file__:
            sys.settrace(None)
            looked += 1
            assert look()
            sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
    assert looked > least


@pytest.mark.parametrize("buckets", [1, 2, 3, 7, 8])
def test_each_id_is_found_at_each_moment_in_which_another_one_is_added_or_dropped(buckets: int) -> None:
    denied = packed(buckets * FILL)
    *ids, extra = [*denied, "another-one-that-comes"]
    with before_each_line(lambda: all(denied.has_any("another", id) for id in ids), FILL):
        denied[extra] = END_MS
        del denied[extra]
    denied.check()


class Counted(Denials):
    """Counts its searches."""

    searches = 0

    def _bucket_with(self, id: str) -> str:
        self.searches += 1
        return super()._bucket_with(id)


def test_few_ids_that_are_not_there_are_searched_for_also_after_many_have_left() -> None:
    random, denied = Random(1), Counted()
    for number in range(2 * MANY):
        denied[random_id(random)] = END_MS + number % 2 * MINUTE_MS
    denied.begin_sweep(END_MS)
    while denied.is_sweeping:
        denied.sweep(FILL)
    assert len(denied) == MANY
    denied.searches = 0
    assert not any(denied.has_any(random_id(random), random_id(random)) for _ in range(1000))
    assert 0 < denied.searches < 100


def test_ids_that_begin_alike_are_held_and_only_one_of_them_is_referred_to() -> None:
    denied = Denials()
    one, other = ("alike" + letter * (ID_LENGTH - REFERENCE_LENGTH) for letter in "ab")
    denied[one] = denied[other] = END_MS
    assert (one in denied, other in denied, len(denied)) == (True, True, 2)
    assert (denied.reference(one), denied.reference(other)) == ("alike", None)
    del denied[one]
    assert (one in denied, other in denied, denied.referred("alike")) == (False, True, None)


@given(st.lists(st.lists(st.builds(Deny, st.sampled_from(IDS), st.sampled_from(ENDS_MS)), max_size=60), max_size=4))
def test_many_at_once_are_added_or_handed_back(pages: list[list[Deny]]) -> None:
    denied, expected, counts = Denials(), dict[str, int](), dict[int, int]()
    for page in pages:
        added, left = denied.add_all([denial.id for denial in page], [denial.until_ms for denial in page], counts)
        for denial in map(page.__getitem__, added):
            assert denial.id not in expected
            expected[denial.id] = -(-denial.until_ms // MINUTE_MS) * MINUTE_MS
        for denial in map(page.__getitem__, left):
            denied.extend(denial.id, denial.until_ms)
            expected[denial.id] = max(denial.until_ms, expected.get(denial.id, denial.until_ms))
        denied.check()
        assert denied == expected
    assert sum(counts.values()) <= len(expected)


RANDOM = Random(2)
FIRST, WAITING, OTHERS = ([random_id(RANDOM) for _ in range(many)] for many in (SHARDS, LEAST_WAITING, 3))


def waiting() -> tuple[Denials, list[str]]:
    """Return denials of which many wait for their buckets, and the ids of those."""
    denied = Denials()
    denied.expect(SHARDS * FILL)
    denied.add_all(FIRST, [END_MS] * len(FIRST), {})  # for which the buckets are made
    ends = [END_MS + number % 2 * MINUTE_MS for number in range(len(WAITING))]
    assert denied.add_all(WAITING, ends, {}) == (range(len(WAITING)), [])
    return denied, WAITING


def test_many_ids_that_were_expected_wait_for_their_buckets_and_are_denied_meanwhile() -> None:
    denied, ids = waiting()
    assert len(denied) == SHARDS + LEAST_WAITING
    assert all(id in denied for id in ids)
    assert denied[ids[1]] == END_MS + MINUTE_MS
    denied.check()
    for _ in range(4):
        denied.settle(SHARDS // 3)
        assert all(id in denied for id in ids)
        denied.check()
    assert dict(denied.ends()).keys() >= {*ids}


@given(st.data())
def test_ids_that_wait_behave_as_a_dict(data: st.DataObject) -> None:
    denied, ids = waiting()
    expected = {id: denied[id] for id in ids}
    some, other = ids[:4], OTHERS
    alike = [some[0][:REFERENCE_LENGTH].ljust(ID_LENGTH, letter) for letter in "ab"]
    for id in data.draw(st.lists(st.sampled_from([*some, *other, *alike]), max_size=8)):
        match data.draw(st.integers(0, 3)):
            case 0:
                assert denied.extend(id, END_MS + 2 * MINUTE_MS) == expected.get(id, 0)
                expected[id] = END_MS + 2 * MINUTE_MS
            case 1 if id in expected:
                del denied[id], expected[id]
            case 2:
                again = [*ids, *other]
                added, left = denied.add_all(again, [END_MS] * len(again), {})
                assert {again[number] for number in added} == {*again} - expected.keys()
                assert all(expected[again[number]] != END_MS for number in left)
                expected |= dict.fromkeys((again[number] for number in added), END_MS)
            case _:
                reference = denied.reference(id)
                assert reference is None or id not in expected or denied.referred(reference) == (id, expected[id])
        assert all((denied.get(id), id in denied) == (expected.get(id), id in expected) for id in [*some, *other, *alike])
    denied.check()
    assert expected.items() <= dict(denied.ends()).items()


def test_ids_that_wait_are_swept() -> None:
    denied, ids = waiting()
    denied.begin_sweep(END_MS)
    dropped: list[str] = []
    while denied.is_sweeping:
        dropped += denied.sweep(FILL)
    assert {*ids[::2]} <= {*dropped}
    assert {*denied} == {*ids[1::2]}
    denied.check()


@pytest.mark.parametrize("change", ["settle", "add"])
def test_each_id_that_waits_is_found_at_each_moment_in_which_it_is_moved(change: str) -> None:
    denied, ids = waiting()
    first = max(range(SHARDS), key=lambda shard: len(denied._waiting[shard]))
    here = [id for id in ids if _shard_of(hash(id[:REFERENCE_LENGTH])) == first]
    more = [id for id in map(random_id, repeat(Random(3), 20_000)) if _shard_of(hash(id[:REFERENCE_LENGTH])) == first]
    with before_each_line(lambda: all(denied.has_any("another", id) for id in here), len(here)):
        if change == "settle":
            denied._settle(first)
        else:
            denied._let_wait(more, [f"{id}{denials._end_text(END_MS)}" for id in more], [hash(id[:REFERENCE_LENGTH]) for id in more])
    denied.check()


def test_a_few_ids_that_come_while_many_wait_move_none_of_them() -> None:
    denied, _ = waiting()
    before = [[*texts] for texts in denied._waiting]
    assert any(before)
    assert denied.add_all(OTHERS, [END_MS] * len(OTHERS), {}) == ((), range(len(OTHERS)))
    assert denied._waiting == before


def test_many_that_come_again_are_known_and_move_a_part_of_those_that_wait() -> None:
    denied, ids = waiting()
    before = sum(map(bool, denied._waiting))
    assert denied.add_all(ids, [denied[id] for id in ids], {}) == ([], [])
    assert sum(map(bool, denied._waiting)) == before - SETTLED_A_PAGE
    denied.check()


def test_whoever_expects_too_many_ids_gets_no_more_buckets_than_ids() -> None:
    denied = Denials()
    denied.expect(10**15)
    denied.add_all(FIRST, [END_MS] * len(FIRST), {})
    assert len(denied._buckets) == len(FIRST) + 1
    denied.check()
