"""The cache of verified tokens: bounded in entries and in time, and never in the way of a decision."""

from __future__ import annotations

from ha_session_mw._core.token.cache import VerifiedCache

from ..builders import NOW_MS, claims, seen

VERIFIED = seen(claims())


def test_an_entry_carries_the_moment_at_which_it_ends() -> None:
    cache = VerifiedCache(10, ttl_s=2.5)
    cache.put(b"token", VERIFIED, NOW_MS)

    assert cache.entries[b"token"] == (NOW_MS + 2_500, VERIFIED)


def test_when_it_is_full_the_oldest_goes() -> None:
    cache = VerifiedCache(3, ttl_s=60)
    for number in range(5):
        cache.put(b"%d" % number, VERIFIED, NOW_MS)

    assert [key for key in (b"0", b"1", b"2", b"3", b"4") if key in cache.entries] == [b"2", b"3", b"4"]
    assert len(cache) == 3


def test_a_token_that_is_verified_again_counts_once() -> None:
    cache = VerifiedCache(3, ttl_s=60)
    for now_ms in (NOW_MS, NOW_MS + 1):
        cache.put(b"token", VERIFIED, now_ms)

    assert len(cache) == 1
    assert cache.entries[b"token"] == (NOW_MS + 60_001, VERIFIED)


def test_a_token_that_is_verified_again_is_the_newest_again() -> None:
    cache = VerifiedCache(2, ttl_s=60)
    for key in (b"one", b"two", b"one", b"three"):
        cache.put(key, VERIFIED, NOW_MS)

    assert [*cache.entries] == [b"one", b"three"]


def test_all_is_forgotten_when_the_keys_change() -> None:
    cache = VerifiedCache(3, ttl_s=60)
    cache.put(b"token", VERIFIED, NOW_MS)
    cache.clear()

    assert len(cache) == 0
    assert b"token" not in cache.entries
