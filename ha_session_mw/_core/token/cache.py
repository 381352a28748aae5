"""The node-local cache of verified tokens, bounded in entries, in bytes, in time, and in tokens of one session.

It caches the *verification*, never the decision beyond a change of the view. An entry notes the generation of the view under which
the accept rule accepted the token, and each request compares that. So the cache needs no invalidation, and a stale entry costs only memory.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from ...models import SessionId
from .cookies import Transport
from .tokens import Verified

TOKENS_OF_A_SESSION = 4
"""How many tokens of one session are kept. A browser needs the newest one, and for a moment the one before; each may come two ways."""
OVERHEAD_BYTES = 850
"""Memory that an entry takes besides its key and its data: claims, floats, and the places in the dicts. Measured, rounded up."""
LITTLE_DATA_BYTES = 256
"""Up to this size of the data, its memory is bounded by the number of values alone. Measuring each takes longer than all else here."""
PER_VALUE_BYTES = 180
"""The most memory that a short key and its value take besides their characters, with their place in the dict."""
PER_PUT = 2
"""How many ended entries go with each new one. Then they go at least as fast as new ones come."""


class Entry(msgspec.Struct, eq=False, gc=False):
    """A verified token in the cache.

    Attributes:
        ends_ms: when the entry ends (wall clock).
        verified: the verified token.
        bytes: the memory that the entry takes, roughly.
        until_ms: when the entry or the token ends, whichever is sooner.
        transport: how the token comes if the key is a header field: no field of another name stands for it. None for a bare token.
        generation: the view's generation under which the accept rule last accepted the token; None if it never did. The validator notes it.
    """

    ends_ms: float
    verified: Verified
    bytes: int
    until_ms: float
    transport: Transport | None = None
    generation: object = None


class VerifiedCache:
    """Maps a token, or a header field that carries only that token, to the verified token.

    All entries live equally long, so the oldest entry ends first, and the cache is a queue. The caller passes the time. An
    ``OrderedDict``, because a plain ``dict`` finds its oldest entry more slowly the more entries were deleted before it.

    Args:
        size: the most entries.
        max_bytes: the most memory that all entries together may take, roughly.
        ttl_s: how long an entry lives.

    Attributes:
        entries: token or field → its entry, the oldest first. Read directly on the warm path.
        bytes: the memory that the entries take, roughly.
    """

    __slots__ = ("_max_bytes", "_of_session", "_size", "_ttl_ms", "bytes", "entries")

    def __init__(self, size: int, max_bytes: int, ttl_s: float) -> None:
        self.entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.bytes = 0
        self._of_session: dict[SessionId, bytes | tuple[bytes, ...]] = {}  # most sessions have one key, which is kept bare
        self._size = size
        self._max_bytes = max_bytes
        self._ttl_ms = ttl_s * 1000

    def put(self, key: bytes, verified: Verified, now_ms: float, transport: Transport | None = None) -> Entry:
        """Keep a verified token, and return its entry.

        Args:
            key: the token, or the header field that carries only that.
            verified: the token.
            now_ms: the time.
            transport: of that field.
        """
        entries = self.entries
        if key in entries:
            self._drop(key)  # so that the entry becomes the newest
        sid = verified.claims.sid
        others = self._of_session.setdefault(sid, key)
        if others is not key:
            self._of_session[sid] = self._beside(others, key)
        taken = bytes_of(key, verified)
        self.bytes = total = self.bytes + taken
        ends_ms, token_ends_ms = now_ms + self._ttl_ms, verified.ends_ms
        entry = entries[key] = Entry(ends_ms, verified, taken, ends_ms if ends_ms < token_ends_ms else token_ends_ms, transport)
        if total > self._max_bytes or len(entries) > self._size:
            self._make_room()
        elif entries[next(iter(entries))].ends_ms <= now_ms:
            self.drop_ended(now_ms, most=PER_PUT)
        return entry

    def _make_room(self) -> None:
        entries = self.entries
        while len(entries) > self._size or self.bytes > self._max_bytes:
            key, entry = entries.popitem(last=False)
            self.bytes -= entry.bytes
            self._forget(entry.verified.claims.sid, key)

    def _beside(self, others: bytes | tuple[bytes, ...], key: bytes) -> tuple[bytes, ...]:
        """Return the keys of a session with a new one. The session's oldest entry goes if there are too many."""
        keys = (others, key) if isinstance(others, bytes) else (*others, key)
        if len(keys) > TOKENS_OF_A_SESSION:
            self._drop(keys[0])
            return keys[1:]
        return keys

    def drop_ended(self, now_ms: float, *, most: int) -> None:
        """Drop entries whose time is over, so many at most. Call it now and then: no other call frees the memory of a quiet node."""
        entries = self.entries
        for _ in range(most):
            if not entries:
                return
            oldest = next(iter(entries))
            # An entry that ends later than a new one would was made before the clock was set back, and holds up the others.
            if now_ms < entries[oldest].ends_ms <= now_ms + self._ttl_ms:
                return
            self._drop(oldest)

    def _drop(self, key: bytes) -> None:
        entry = self.entries.pop(key)
        self.bytes -= entry.bytes
        self._forget(entry.verified.claims.sid, key)

    def _forget(self, sid: SessionId, key: bytes) -> None:
        keys = self._of_session.pop(sid)
        if isinstance(keys, tuple):
            left = tuple(other for other in keys if other != key)
            self._of_session[sid] = left if len(left) > 1 else left[0]

    def clear(self) -> None:
        """Drop all entries, because the keys changed: a token that verified before may not verify now."""
        self.entries.clear()
        self._of_session.clear()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.entries)


def bytes_of(key: bytes, verified: Verified) -> int:
    """Return the memory that an entry takes, roughly. Its data contains no containers, so the sizes of the values add up."""
    content, size = verified.data, len(verified.claims.data)
    taken = OVERHEAD_BYTES + len(key) + size
    if size <= LITTLE_DATA_BYTES:
        return taken + PER_VALUE_BYTES * (1 + len(content)) + 4 * size  # a character takes up to four bytes
    taken += content.__sizeof__()
    for name, value in content.items():
        taken += name.__sizeof__() + value.__sizeof__()
    return taken
