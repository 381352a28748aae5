"""All keys of a log are read, each once, in ranges that have few more keys than a page."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw.backends.etcd.api import KeyValue, Page
from ha_session_mw.backends.etcd.ranges import Ranges

from ...core.builders import random_id

START, END = b"shop/", b"shop0"


def read(keys: list[bytes], limit: int) -> tuple[list[bytes], list[int]]:
    """The keys in the order in which they were read, and how many lay in each range."""
    ranges, found, lengths = Ranges(START, END), list[bytes](), list[int]()
    while not ranges.done:
        assert ranges.start < ranges.end <= END
        lying = [key for key in keys if ranges.start <= key < ranges.end]
        lengths.append(len(lying))
        page = Page(kvs=tuple(map(KeyValue, lying[:limit])), more=len(lying) > limit)
        found += [pair.key for pair in page.kvs]
        ranges.read(page, limit)
    return found, lengths


@given(st.sets(st.binary(max_size=6) | st.text("-/09AZ_az~", max_size=6).map(str.encode)), st.integers(1, 20))
def test_all_keys_are_read_in_their_order_each_once(names: set[bytes], limit: int) -> None:
    keys = sorted(START + name for name in names)
    assert read(keys, limit)[0] == keys


def test_a_short_log_is_read_at_once() -> None:
    assert read([START + b"log/id", START + b"node/a"], 5) == ([START + b"log/id", START + b"node/a"], [2])


def log_outs(random: Random, many: int, minutes: int) -> list[bytes]:
    ids = [b"deny/%010x/%s" % (30_000_000 + random.randrange(minutes), random_id(random).encode()) for _ in range(many)]
    return sorted(START + name for name in (*ids, b"cut/0001c9c380/x", b"log/floor", b"log/id", b"node/a/1"))


def test_a_long_log_takes_few_requests_and_etcd_looks_at_few_more_keys_than_it_returns() -> None:
    for minutes in (1, 720, 40_000):
        keys = log_outs(Random(minutes), 20_000, minutes)
        found, lengths = read(keys, 200)
        assert found == keys
        assert len(lengths) < 5 * len(keys) / 200
        assert sum(lengths[1:]) < 8 * len(keys)
