"""The node-local cache of verified tokens, bounded in entries and in time.

It caches the *verification*, never the decision. Each request checks the view for revocations, so the cache needs no
invalidation, and a stale entry costs only memory.
"""

from __future__ import annotations

from collections import OrderedDict

from .tokens import Verified


class VerifiedCache:
    """Maps a token, or a header field that carries only that token, to the verified token.

    All entries live equally long, so the oldest entry ends first, and the cache is a queue. The caller passes the time. An
    ``OrderedDict``, because a plain ``dict`` finds its oldest entry more slowly the more entries were deleted before it.
    """

    __slots__ = ("_size", "_ttl_ms", "entries")

    def __init__(self, size: int, ttl_s: float) -> None:
        self.entries: OrderedDict[bytes, tuple[float, Verified]] = OrderedDict()
        """Token or field → (when the entry ends, the verification), the oldest first. Read directly on the warm path."""
        self._size = size
        self._ttl_ms = ttl_s * 1000

    def put(self, key: bytes, verified: Verified, now_ms: float) -> None:
        entries = self.entries
        entries.pop(key, None)  # so that the entry becomes the newest
        entries[key] = (now_ms + self._ttl_ms, verified)
        if len(entries) > self._size:
            entries.popitem(last=False)

    def clear(self) -> None:
        """Drop all entries, because the keys changed: a token that verified before may not verify now."""
        self.entries.clear()

    def __len__(self) -> int:
        return len(self.entries)
