"""A node's order of its entries: a reader that comes back after any position misses nothing, whatever has ended meanwhile."""

from __future__ import annotations

import tracemalloc
from random import Random

import pytest

from ha_session_mw._core.cluster.view import View
from ha_session_mw._core.quorum.sequence import BLOCK, LOOKED_AT_ONCE, Sequence
from ha_session_mw.models import Cut, CutId, Deny, DenyKey, Entry, KeyId

from ..builders import HOUR_MS, MINUTE_MS, NOW_MS, random_id


def add(view: View, sequence: Sequence, *entries: Entry) -> None:
    if len(entries) % 2:  # as a page, and else one by one
        sequence.append_all(view.merge_all(entries))
        return
    for entry in entries:
        if view.merge(entry):
            sequence.append(entry)


def read(sequence: Sequence, since: int, limit: int) -> list[Entry]:
    found: list[Entry] = []
    while since < sequence.last:
        page, reached = sequence.page(since, sequence.last, limit)
        assert since < reached
        assert all(since < position <= reached for position, _ in page)
        found += [entry for _, entry in page]
        since = reached
    return found


def some_entry(random: Random) -> Entry:
    end_ms = NOW_MS + random.choice([1, 5, 60]) * MINUTE_MS
    entries: list[Entry] = [
        *[Deny(random_id(random), end_ms)] * 6,
        Deny(f"alike{random.choice('abc') * 17}", end_ms),
        Deny(random.choice("xyz"), end_ms, random.choice([0, NOW_MS + HOUR_MS])),
        Cut(CutId(f"{random.random()}~{end_ms // 1000:x}"), None, end_ms),
        DenyKey(KeyId(random.choice("kl")), end_ms),
    ]
    return random.choice(entries)


@pytest.mark.parametrize("seed", range(20))
def test_each_reader_learns_what_is_in_force_whenever_it_read_last(seed: int) -> None:
    random, view = Random(seed), View()
    sequence = Sequence(view)
    readers = [(0, View())]
    for step in range(40):
        add(view, sequence, *(some_entry(random) for _ in range(random.randrange(30))))
        if random.random() < 0.3:
            view.raise_floor(NOW_MS + step * MINUTE_MS // 2)
        sequence.forget_some()
        sequence.check()
        view.check()
        since, reader = random.choice(readers)
        for entry in read(sequence, since, random.choice([1, 7, 4096])):
            reader.merge(entry)
        assert [entry for entry in view.entries() if not reader.knows(entry)] == []
        readers.append((sequence.last, reader))


def test_a_new_id_that_begins_like_an_ended_one_stands_at_its_own_position_alone() -> None:
    view = View()
    sequence = Sequence(view)
    for number in range(LOOKED_AT_ONCE + BLOCK):  # so many that the ended one is not worth a look
        add(view, sequence, Deny(f"{number:05d}".ljust(22, "-"), NOW_MS + HOUR_MS))
    add(view, sequence, Deny("alike".ljust(22, "a"), NOW_MS))
    ended_at = sequence.last
    view.raise_floor(NOW_MS + MINUTE_MS)
    sequence.forget_some()
    new = Deny("alike".ljust(22, "b"), NOW_MS + HOUR_MS)
    add(view, sequence, new)
    assert new not in [entry for _, entry in sequence.page(ended_at - 1, ended_at, 10)[0]]
    assert sequence.page(ended_at, sequence.last, 10)[0] == [(ended_at + 1, new)]
    sequence.check()
    view.check()


def test_a_log_out_among_many_takes_four_bytes() -> None:
    random, view = Random(1), View()
    sequence = Sequence(view)
    entries = [Deny(random_id(random), NOW_MS + HOUR_MS) for _ in range(100 * BLOCK)]
    news = view.merge_all(entries)
    tracemalloc.start()
    sequence.append_all(news)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 4.5 * len(entries)
    assert read(sequence, 0, 1000) == news
    sequence.check()


def test_a_long_sequence_is_looked_at_in_steps_and_then_the_view_drops_what_has_ended() -> None:
    random, view = Random(1), View()
    sequence = Sequence(view)
    many = 3 * LOOKED_AT_ONCE
    add(view, sequence, *(Deny(random_id(random), NOW_MS + number % 2 * HOUR_MS) for number in range(many)))
    view.raise_floor(NOW_MS + MINUTE_MS)
    assert len(view) == many
    lengths = [len(sequence)]
    while lengths[-1] > many // 2:
        sequence.forget_some()
        lengths.append(len(sequence))
        assert lengths[-2] - lengths[-1] <= LOOKED_AT_ONCE
    assert len(lengths) >= 3
    for _ in range(5):
        view.drop_ended()
    assert len(view) == many // 2
    view.check()
    sequence.check()
