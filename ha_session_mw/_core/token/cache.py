"""The node-local cache of verified tokens, bounded in entries and in time.

It keeps the *verification*, never the decision: whether a session stands is looked up in the view on each request, so
there is nothing here to invalidate, and a stale entry can cost nothing but memory.
"""

from __future__ import annotations

from collections import OrderedDict

from .tokens import Verified


class VerifiedCache:
    """Maps a token, or the header field that carries it alone, to what it was verified to say.

    All entries live equally long, so the oldest is also the one that ends first: first in, first out. It reads no clock, for the
    caller knows the time already. (A plain ``dict`` would take the longer to find its oldest entry the more had gone before it.)
    """

    __slots__ = ("_size", "_ttl_ms", "entries")

    def __init__(self, size: int, ttl_s: float) -> None:
        self.entries: OrderedDict[bytes, tuple[float, Verified]] = OrderedDict()
        """Token or field → (when the entry ends, the verification), the oldest first. Read directly on the warm path."""
        self._size = size
        self._ttl_ms = ttl_s * 1000

    def put(self, key: bytes, verified: Verified, now_ms: float) -> None:
        entries = self.entries
        entries.pop(key, None)  # it is the newest now
        entries[key] = (now_ms + self._ttl_ms, verified)
        if len(entries) > self._size:
            entries.popitem(last=False)

    def clear(self) -> None:
        """Forget all, because the keys changed: what verified yesterday need not verify today."""
        self.entries.clear()

    def __len__(self) -> int:
        return len(self.entries)
