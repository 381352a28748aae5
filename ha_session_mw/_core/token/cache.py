"""The node-local cache of verified tokens, bounded in entries, in bytes, in time, and in tokens of one session.

It caches the *verification*, never the decision beyond a change of the view. A token notes the generation of the view under which
the accept rule accepted it, and each request compares that. So the cache needs no invalidation, and a stale token costs only memory.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import structs

from ...models import Claims, FamilyId
from .tokens import FirstClaims, Transport, Verified

TOKENS_OF_A_SESSION = 4
"""How many tokens of one session are kept. A browser needs the newest one, and for a moment the one before; each may come two ways."""
RECENT_SESSIONS = 512
"""The cache knows the tokens of so many sessions that were the last to bring new ones. So of the others, none takes much of it."""
UNIT_BYTES = 64
"""Memory is counted in these. Python keeps one object for each number up to 256, so such a count takes no memory itself."""
OVERHEAD_BYTES = 400
"""Memory that a token takes besides its key and its data: its subject, and the places in the dicts. Measured, rounded up."""
OF_CLAIMS_BYTES = 560
"""Memory that claims take which are not read from the key, besides their data."""
NOT_DATA_BYTES = 140
"""At least so many characters of a token are not its data."""
LITTLE_TOKEN_BYTES = 480
"""Up to this size, the memory of a token is bounded by the number of its values alone. Measuring each takes longer than all else here."""
PER_VALUE_BYTES = 150
"""The most memory that a short key and its value take besides their characters, with their place in the dict."""
_OF_LITTLE_TOKEN = OVERHEAD_BYTES - 3 * NOT_DATA_BYTES + PER_VALUE_BYTES
PER_PUT = 2
"""How many ended tokens go with each new one. Then they go at least as fast as new ones come."""
SHARED_FOR_S = 1.0
"""Tokens that come within this time are forgotten at one moment, that of the first one, so that they share one number."""


class VerifiedCache:
    """Maps a token, or a header field that carries only that token, to the verified token.

    All tokens are kept equally long, so the oldest is forgotten first, and the cache is a queue. The caller passes the time. An
    ``OrderedDict``, because a plain ``dict`` finds its oldest entry more slowly the more entries were deleted before it.

    Args:
        size: the most tokens.
        max_bytes: the most memory that all tokens together may take, roughly.
        ttl_s: how long a token is kept.

    Attributes:
        entries: token or field → its verified token, the oldest first. Read directly on the warm path.
        times: since when, and until when, the tokens of the last second are kept.
    """

    __slots__ = ("_before", "_families", "_families_before", "_max_units", "_recent", "_size", "_ttl_s", "_units", "entries", "times")

    def __init__(self, size: int, max_bytes: int, ttl_s: float) -> None:
        self.entries: OrderedDict[bytes, Verified] = OrderedDict()
        self._units = 0
        self._recent: dict[FamilyId, bytes | tuple[bytes, ...]] = {}  # most sessions have one key, which is kept bare
        self._before: dict[FamilyId, bytes | tuple[bytes, ...]] = {}
        """The sessions that were recent before ``_recent`` was begun."""
        self._families: dict[bytes, FamilyId] = {}
        """The session of each key in ``_recent``."""
        self._families_before: dict[bytes, FamilyId] = {}
        """The session of each key in ``_before``. Keys that are in ``_families``, or are dropped, may be here still."""
        self._size = size
        self._max_units = max_bytes // UNIT_BYTES
        self._ttl_s = ttl_s
        self.times = (0.0, 0.0)

    def put(self, key: bytes, verified: Verified, now_s: float, transport: Transport | None = None) -> None:
        """Keep a verified token, which no other cache may keep.

        Args:
            key: the token, or the header field that carries only that.
            verified: the token.
            now_s: the time.
            transport: of that field.
        """
        from_s, until_s = self.times
        if not 0.0 <= now_s - from_s < SHARED_FOR_S:
            from_s, until_s = self.begin_times(now_s)
        first = verified.first_claims()  # as long as the text is the token
        verified.text, verified.transport = key, transport
        if verified.from_s < from_s:
            verified.from_s = from_s
        if verified.until_s > until_s:
            verified.until_s = until_s
        if verified.quiet_until_s > until_s:
            verified.quiet_until_s = until_s
        self.keep(key, verified, first, now_s)

    def begin_times(self, now_s: float) -> tuple[float, float]:
        """Return new :attr:`times`, because the present ones began before this time, and :data:`SHARED_FOR_S` have passed."""
        self.times = times = now_s, now_s + self._ttl_s
        return times

    def keep(self, key: bytes, verified: Verified, first: Claims | FirstClaims, now_s: float) -> None:
        """Do as :meth:`put` for a token that was verified with this key and with :attr:`times`.

        Args:
            key, verified, now_s: as there.
            first: the claims of the token.
        """
        entries, recent, families, family = self.entries, self._recent, self._families, first.family
        if key in entries:
            self._drop(key)  # so that it becomes the newest
        if family in recent or family in self._before:
            self._put_beside_others(family, key)
        else:
            if len(recent) >= RECENT_SESSIONS:
                self._before, self._recent = recent, {}
                self._families_before, self._families = families, {}
                recent, families = self._recent, self._families
            recent[family], families[key] = key, family
        length = len(key)
        if verified.given is None and length <= LITTLE_TOKEN_BYTES:  # as ``units_of`` does
            units = (_OF_LITTLE_TOKEN + 4 * length + PER_VALUE_BYTES * len(verified.data)) // UNIT_BYTES
        else:
            units = units_of(verified, first.subject)
        verified.units = units
        self._units = total = self._units + units
        entries[key] = verified
        if total > self._max_units or len(entries) > self._size:
            while True:
                oldest, dropped = entries.popitem(last=False)
                self._units = total = total - dropped.units
                whose = families.pop(oldest, None)
                if whose is not None and recent.get(whose) is oldest:  # as ``_forget`` does for any token
                    del recent[whose]
                elif whose is not None or oldest in self._families_before:
                    self._forget(whose, oldest)
                if total <= self._max_units and len(entries) <= self._size:
                    return
        elif entries[next(iter(entries))].until_s <= now_s:
            self.drop_ended(now_s, most=PER_PUT)

    def put_beside(self, field: bytes, verified: Verified, now_s: float, transport: Transport) -> None:
        """Keep a token that is in the cache under a header field with other cookies besides, for as long.

        Such a field is kept only once it has come twice in a row: the cookies of some sites change with each request.
        """
        known = self.entries.get(field)
        if known is None or known.until_s < verified.until_s:
            mark = hash(field)
            if verified.beside != mark:
                verified.beside = mark
                return
            known = structs.replace(verified)
            self.put(field, known, now_s, transport)
            known.text, known.until_s, known.quiet_until_s = verified.text, verified.until_s, verified.quiet_until_s
        known.generation = verified.generation

    def _put_beside_others(self, family: FamilyId, key: bytes) -> None:
        """Note another key of a session. The session's oldest token goes if there are too many."""
        others = self._recent.get(family) or self._before.pop(family)
        keys = (others, key) if isinstance(others, bytes) else (*others, key)
        self._recent[family] = keys
        self._families.update(dict.fromkeys(keys, family))
        if len(keys) > TOKENS_OF_A_SESSION:
            self._drop(keys[0])

    def drop_ended(self, now_s: float, *, most: int) -> None:
        """Drop tokens whose time is over, so many at most. Call it now and then: no other call frees the memory of a quiet node."""
        entries = self.entries
        for _ in range(most):
            if not entries:
                return
            oldest = next(iter(entries))
            # One that ends later than a new one would was put here before the clock was set back, and holds up the others.
            if now_s < entries[oldest].until_s <= now_s + self._ttl_s:
                return
            self._drop(oldest)

    def _drop(self, key: bytes) -> None:
        verified = self.entries.pop(key)
        self._units -= verified.units
        self._forget(self._families.pop(key, None), key)

    def _forget(self, family: FamilyId | None, key: bytes) -> None:
        """Forget a key that was dropped, if its session is a recent one.

        Args:
            family: the session, if the key was in ``_families``.
            key: the key.
        """
        if family is None and (family := self._families_before.pop(key, None)) is None:
            return
        recent = self._recent if family in self._recent else self._before
        keys = recent[family]
        if isinstance(keys, bytes):
            del recent[family]
        else:
            left = tuple(other for other in keys if other != key)
            recent[family] = left if len(left) > 1 else left[0]

    def clear(self) -> None:
        """Drop all tokens, because the keys changed: a token that verified before may not verify now."""
        self.entries.clear()
        self._recent.clear()
        self._before.clear()
        self._families.clear()
        self._families_before.clear()
        self._units = 0

    @property
    def bytes(self) -> int:
        """The memory that the tokens take, roughly."""
        return self._units * UNIT_BYTES

    def __len__(self) -> int:
        return len(self.entries)


def units_of(verified: Verified, subject: str | None) -> int:
    """Return the memory that a token in the cache takes, roughly. Its data contains no containers, so the sizes of the values add up.

    Args:
        verified: the token.
        subject: of its session. The token has it only once somebody has asked for it.
    """
    content, given, length = verified.data, verified.given, len(verified.text)
    if given is None and length <= LITTLE_TOKEN_BYTES:
        # In base64, data has a third more characters than bytes, and one of its characters takes up to four bytes in memory.
        return (_OF_LITTLE_TOKEN + 4 * length + PER_VALUE_BYTES * len(content)) // UNIT_BYTES
    taken = OVERHEAD_BYTES + length + len(verified.nested_data or b"") + content.__sizeof__() + subject.__sizeof__()
    for name, value in content.items():
        taken += name.__sizeof__() + value.__sizeof__()
    if given is not None:
        taken += OF_CLAIMS_BYTES + len(given.claims.data)
    return -(-taken // UNIT_BYTES)
