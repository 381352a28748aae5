"""Making tokens: what they say, whether that fits, and the key that signs them. Whether a session stands is judged elsewhere."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping

import msgspec

from .._core.cluster.view import View
from .._core.records.session_data import ELSEWHERE, Stored
from .._core.token import data, renewal, tokens
from .._core.token.cookies import MAX_COOKIE_BYTES, CookieWriter
from .._core.token.keys import KeyRing, SigningKey
from .._core.token.tokens import MAX_TOKEN_BYTES, Verified
from ..abc import Clock, ClusterLog
from ..config import Settings
from ..exceptions import SessionTooLarge
from ..models import Claims, FamilyId, NodeId, SessionId

NOTHING = data.encode({})
_KEEP_ELSEWHERE = "keep large data in a database and its key in the session"


class Issuer:
    """Makes the tokens of one node.

    Args:
        settings: the lives of sessions, and how tokens travel.
        cookie: which they must fit into.
        clock: dates them.
        log: tells by how much that clock is ahead, and which keys all members have.
        view: what this node knows.
        ring: gives the keys as they are now.
        node: gives the name of this node.
        random: makes n random bytes.
        max_stored_bytes: of a session's data in the store; None where there is no store.
    """

    def __init__(
        self,
        settings: Settings,
        cookie: CookieWriter,
        clock: Clock,
        log: ClusterLog,
        view: View,
        *,
        ring: Callable[[], KeyRing],
        node: Callable[[], NodeId],
        random: Callable[[int], bytes],
        max_stored_bytes: int | None,
    ) -> None:
        self._data = settings.data
        self._idle_ms = int(settings.idle_timeout * 1000)
        self._absolute_ms = int(settings.absolute_timeout * 1000)
        self._room = MAX_COOKIE_BYTES - cookie.overhead() if "cookie" in settings.transports else MAX_TOKEN_BYTES
        self._clock = clock
        self._log = log
        self._view = view
        self._ring = ring
        self._node = node
        self._random = random
        self._max_stored_bytes = max_stored_bytes

    def _now_ms(self) -> float:
        """Now, as tokens made here say. A clock that is ahead, though not too far to be trusted, dates none into the others' future."""
        return self._clock.wall_s() * 1000 - self._log.ahead_ms()

    def new_id(self) -> SessionId:
        """128 random bits. Never comes from a client."""
        return SessionId(urlsafe_b64encode(self._random(16)).rstrip(b"=").decode())

    # What tokens say

    def begin(self, subject: str | None) -> Claims:
        """The claims of a new session: new id, new family."""
        return renewal.begin(
            self.new_id(),
            FamilyId(self.new_id()),
            subject,
            cuts=self._view.live_cuts(subject),
            now_ms=int(self._now_ms()),
            idle_ms=self._idle_ms,
            absolute_ms=self._absolute_ms,
            issuer=self._node(),
        )

    def cycle(self, claims: Claims) -> Claims:
        """The same session under a new id. It lists the cuts known now, which it has withstood."""
        return msgspec.structs.replace(claims, sid=self.new_id(), cuts=self._view.live_cuts(claims.subject))

    def change(self, claims: Claims, content: bytes, *, record: int = 0) -> Claims:
        """The same session with other data, used just now.

        Args:
            claims: of the session.
            content: its data as it travels.
            record: the version of its record.
        """
        return renewal.change(claims, content, record, now_ms=int(self._now_ms()), idle_ms=self._idle_ms, issuer=self._node())

    def change_stored(self, claims: Claims, stored: Stored) -> Claims:
        """The same session with other data in the store, of which the token carries a copy if it may and if that fits."""
        if self._data != "store":
            copy = self.change(claims, stored.encode(), record=stored.version)
            if self.has_room(copy):
                return copy
        return self.change(claims, ELSEWHERE, record=stored.version)

    def successor(self, claims: Claims) -> Claims | None:
        """The same session in a renewed token; None where that has no room."""
        renewed = renewal.successor(claims, self._now_ms(), self._idle_ms)
        # A cookie of Starlette's middleware has less around its data, so what fits there need not fit here.
        return renewed if self.has_room(renewed) else None

    def has_room(self, claims: Claims) -> bool:
        """Whether browsers keep the token for these claims."""
        return tokens.length(claims) <= self._room

    # Where data goes

    def fit(self, claims: Claims | None, content: Mapping[str, object]) -> bytes:
        """Session data as it travels, or is stored.

        Args:
            claims: of the session; None for one that has not begun.

        Raises:
            SessionNotSerializable: a value cannot travel.
            SessionTooLarge: the token would be dropped by browsers, and there is no store; or it is too much even for that.
        """
        raw = data.encode(content)
        if self._max_stored_bytes is not None and (self._data != "token" or (claims is not None and claims.record)):
            if len(raw) > self._max_stored_bytes:
                raise SessionTooLarge(
                    f"this change would make the session {len(raw)} bytes long, and {self._max_stored_bytes} is the most; {_KEEP_ELSEWHERE}"
                )
            return raw
        size = tokens.length(msgspec.structs.replace(claims or self.begin(None), data=raw))
        if size > self._room:
            remedy = _KEEP_ELSEWHERE if self._max_stored_bytes is None else "HA_SESSION_DATA=auto has the store keep it"
            raise SessionTooLarge(
                f"this change would make the session's token {size} bytes long, and {self._room} is the most that browsers keep of this "
                f"cookie; {remedy}"
            )
        return raw

    def belongs_in_store(self, claims: Claims, raw: bytes) -> bool:
        """Whether the data of a session that is to change goes to the store: for good, once it has been there."""
        if claims.record:
            return True
        return raw != NOTHING if self._data == "store" else not self.has_room(self.change(claims, raw))

    # The key that signs them

    def sign(self, claims: Claims) -> bytes:
        """The token for these claims, signed with the newest key that all live members have."""
        return tokens.sign(claims, self._signing_key())

    def as_signed(self, claims: Claims) -> Verified:
        """What a token for these claims, made now, will be verified to say."""
        return Verified.of(claims, self._signing_key().kid)

    def _signing_key(self) -> SigningKey:
        return self._ring().signing_key(self._log.announced_kids(), self._view.denied_keys)
