"""The node-local cache of verified tokens, bounded in entries and in time.

It keeps the *verification*, never the decision: whether a session stands is looked up in the view on each request, so
there is nothing here to invalidate, and a stale entry can cost nothing but memory.
"""

from __future__ import annotations

from cachetools import FIFOCache

from .tokens import Verified


class _Entries(FIFOCache[bytes, "tuple[float, Verified] | None"]):
    def __missing__(self, key: bytes) -> None:
        """None for a key that is not there: an exception would cost a new token as much as its signature."""


class VerifiedCache:
    """Maps a token, or the header field that carries it alone, to what it was verified to say.

    All entries live equally long, so the oldest is also the one that ends first: first in, first out. cachetools' own
    ``TTLCache`` reads a clock at each look-up, which costs six times as much; the caller knows the time already.
    """

    __slots__ = ("_ttl_ms", "entries")

    def __init__(self, size: int, ttl_s: float) -> None:
        self.entries = _Entries(size)
        """Token or field → (when the entry ends, the verification). Read directly on the warm path."""
        self._ttl_ms = ttl_s * 1000

    def put(self, key: bytes, verified: Verified, now_ms: float) -> None:
        self.entries[key] = (now_ms + self._ttl_ms, verified)

    def clear(self) -> None:
        """Forget all, because the keys changed: what verified yesterday need not verify today."""
        self.entries.clear()

    def __len__(self) -> int:
        return len(self.entries)
