"""The cache of verified tokens: bounded in entries, in bytes, in time and for each session, and never in the way of a decision."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Generator
from itertools import chain, islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.token.cache import RECENT_SESSIONS, TOKENS_OF_A_SESSION, UNIT_BYTES, VerifiedCache, units_of
from ha_session_mw._core.token.keys import KeyRing
from ha_session_mw._core.token.tokens import Verified, sign, verify

from ...thinning import thinned
from ..builders import KEY, NOW_MS, claims, seen

MB = 1 << 20
NOW_S = NOW_MS / 1000


def session(number: int, *, content: Any = None, issued_ms: int = NOW_MS) -> Verified:
    return seen(claims(f"sid-of-a-session-{number:05}", family=f"family-{number}", content=content, issued_ms=issued_ms))


def new_cache(size: int = 100, *, max_bytes: int = 64 * MB, ttl_s: float = 60) -> VerifiedCache:
    return VerifiedCache(size, max_bytes, ttl_s)


def kept(cache: VerifiedCache, key: bytes, verified: Verified, now_s: float = NOW_S) -> Verified:
    cache.put(key, verified, now_s)
    return cache.entries[key]


@pytest.mark.parametrize("before", [b"session=", b"Bearer ", b"", b"a.b=", b"hs1.=", b"....="])
def test_a_token_has_the_same_claims_in_the_field_under_which_it_is_kept(before: bytes) -> None:
    cache, given = new_cache(), claims(cuts=("a-cut",), content={"number": 1})
    verified = seen(given)
    field = before + verified.text

    assert kept(cache, field, verified) is verified
    assert verified.text is field
    assert (verified.claims, verified.sid) == (given, given.sid)
    assert cache.bytes == units_of(verified, given.subject) * UNIT_BYTES


def test_a_token_is_good_until_the_cache_forgets_it_or_it_ends() -> None:
    one = session(0)
    ends_s = one.until_s
    assert kept(new_cache(ttl_s=10**6), b"token", one).until_s == ends_s
    assert kept(new_cache(ttl_s=2.5), b"token", session(0)).until_s == NOW_S + 2.5


def test_no_token_is_kept_for_longer_than_is_set_and_none_for_a_second_less() -> None:
    cache, ends_s = new_cache(ttl_s=2.5), []
    for number in range(40):
        now_s = NOW_S + number / 16
        ends_s.append(kept(cache, b"%d" % number, session(number), now_s).until_s)
        assert now_s + 1.5 < ends_s[-1] <= now_s + 2.5
    assert len({id(end_s) for end_s in ends_s}) <= 4  # these share few objects
    assert kept(cache, b"set back", session(41), NOW_S - 0.25).until_s == NOW_S + 2.25


def test_when_it_is_full_the_oldest_goes() -> None:
    cache = new_cache(3)
    for number in range(5):
        cache.put(b"%d" % number, session(number), NOW_S)

    assert [key for key in (b"0", b"1", b"2", b"3", b"4") if key in cache.entries] == [b"2", b"3", b"4"]
    assert len(cache) == 3


def test_a_token_that_is_verified_again_counts_once() -> None:
    cache = new_cache(3)
    for now_s in (NOW_S, NOW_S + 2):
        cache.put(b"token", session(0), now_s)

    assert len(cache) == 1
    assert cache.entries[b"token"].until_s == NOW_S + 62
    assert cache.bytes == cache.entries[b"token"].units * UNIT_BYTES


def test_a_token_that_is_verified_again_is_the_newest_again() -> None:
    cache = new_cache(2)
    for key in (b"one", b"two", b"one", b"three"):
        cache.put(key, session(0), NOW_S)

    assert [*cache.entries] == [b"one", b"three"]


def test_all_is_forgotten_when_the_keys_change() -> None:
    cache = new_cache(3)
    cache.put(b"token", session(0), NOW_S)
    cache.clear()

    assert len(cache) == cache.bytes == 0
    assert b"token" not in cache.entries
    cache.put(b"token", session(0), NOW_S)
    assert len(cache) == 1


def test_a_session_that_changes_all_the_time_keeps_its_newest_tokens_only() -> None:
    cache = new_cache()
    cache.put(b"of another", session(1), NOW_S)
    for number in range(50):
        cache.put(b"token-%d" % number, session(0, issued_ms=NOW_MS + number), NOW_S)

    assert [*cache.entries] == [b"of another", *(b"token-%d" % number for number in range(50 - TOKENS_OF_A_SESSION, 50))]


def test_a_session_that_changes_among_many_others_takes_little() -> None:
    cache, others = new_cache(10**5), iter(range(1, 10**5))
    for number in range(20):
        cache.put(b"token-%d" % number, session(0, issued_ms=NOW_MS + number), NOW_S)
        for other in islice(others, RECENT_SESSIONS // 3):
            cache.put(b"%d" % other, session(other), NOW_S)

    assert sum(key.startswith(b"token-") for key in cache.entries) <= TOKENS_OF_A_SESSION
    assert len(cache._recent) + len(cache._before) <= 3 * RECENT_SESSIONS


def test_ended_entries_are_dropped_as_new_ones_come_and_on_request() -> None:
    cache = new_cache()
    for number in range(10):
        cache.put(b"%d" % number, session(number), NOW_S)
    cache.put(b"new", session(10), NOW_S + 60)
    assert len(cache) == 9

    cache.drop_ended(NOW_S + 60, most=5)
    assert len(cache) == 4
    cache.drop_ended(NOW_S + 60, most=100)
    assert [*cache.entries] == [b"new"]
    cache.drop_ended(NOW_S + 120, most=100)
    assert (len(cache), cache.bytes) == (0, 0)


def test_an_entry_of_a_clock_that_was_ahead_holds_up_no_other() -> None:
    cache = new_cache()
    cache.put(b"ahead", session(1), NOW_S + 24 * 3600)
    cache.put(b"right", session(2), NOW_S)
    cache.drop_ended(NOW_S + 60, most=100)

    assert len(cache) == 0


SHAPES: dict[str, Any] = {
    "nothing": {},
    "little": {"user": "ada", "visits": 3, "csrf": "x" * 32},
    "few numbers": {f"{n}": n for n in range(60)},
    "short words": {f"é{n}": f"ü{n}" for n in range(25)},
    "few short words": {f"é{n}": f"ü{n}" for n in range(12)},
    "numbers": {f"key-{n}": n for n in range(250)},
    "text": {"a": "x" * 2500},
    "wide text": {"a": "x" * 2500 + "\U0001f600"},
    "empty containers": {"a": [{} for _ in range(2400)]},
    "lists": {"a": [[n] for n in range(700)]},
    "half": {f"{n}": n + 0.5 for n in range(180)},
}


def tokens_of(content: Any) -> Generator[bytes]:
    for number in range(400):
        yield sign(claims(f"sid-of-a-session-{number:05}", subject=f"u{number}", family=f"family-{number}", content=content), KEY)


@pytest.mark.long
@pytest.mark.parametrize("shape", thinned(SHAPES, [*SHAPES][::4]))
def test_the_bound_on_bytes_bounds_memory_for_any_tokens(shape: str) -> None:
    cache = new_cache(10**6, max_bytes=MB // 2)
    ring, tokens = KeyRing([KEY.secret]), tokens_of(SHAPES[shape])
    gc.collect()
    tracemalloc.start()
    try:
        for number, token in enumerate(tokens, 1):
            cache.put(b"session=" + token, verify(token, ring), NOW_S)
            if number > 2 * len(cache) + 10:
                break  # it is full: it has dropped more than it has
        tokens.close()
        del token
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert taken <= 1.1 * MB // 2
    assert taken >= 0.25 * cache.bytes, "the bound wastes too much"


def test_a_token_that_is_larger_than_the_whole_cache_is_not_kept() -> None:
    cache = new_cache(max_bytes=100)
    cache.put(b"token", session(0), NOW_S)

    assert (len(cache), cache.bytes) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3), st.integers(0, 90)), max_size=60), st.integers(1, 8))
def test_all_bounds_hold_and_the_newest_entry_is_there(puts: list[tuple[int, int, int]], size: int) -> None:
    cache = new_cache(size, max_bytes=8000)
    now_s = NOW_S
    for key, whose, passed_s in puts:
        now_s += passed_s
        cache.put(b"%d/%d" % (whose, key), session(whose, content={"a": "x" * whose * 100}), now_s)

        assert b"%d/%d" % (whose, key) in cache.entries
        assert len(cache) <= size
        assert cache.bytes == sum(verified.units for verified in cache.entries.values()) * UNIT_BYTES <= 8000
        noted = [keys if isinstance(keys, tuple) else (keys,) for keys in cache._recent.values()]
        assert sorted(chain(*noted)) == sorted(cache.entries) == sorted(cache._families)
        of_session = [key for key in cache.entries if key.startswith(b"%d/" % whose)]
        assert len(of_session) <= TOKENS_OF_A_SESSION
