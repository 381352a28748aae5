"""Make tokens: their claims, their size, and the key that signs them. Decides nothing about whether a session is valid."""

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
from ..models import Claims, FamilyId, NodeId, OwnLives, SessionId

NOTHING = data.encode({})
_KEEP_ELSEWHERE = "keep large data in a database and its key in the session"


def cookie_writer(settings: Settings) -> CookieWriter:
    """Return the writer of the session's cookie."""
    return CookieWriter(
        settings.cookie_name,
        path=settings.cookie_path,
        domain=settings.cookie_domain,
        same_site=settings.cookie_same_site,
        partitioned=settings.cookie_partitioned,
        max_age=settings.cookie_max_age,
    )


class Issuer:
    """Issues the tokens of one node.

    Args:
        settings: the lives of sessions, and how tokens travel.
        cookie: the cookie into which tokens must fit.
        clock: dates tokens.
        log: says by how much that clock is ahead, and which keys all members have.
        view: this node's knowledge.
        ring: returns the present key ring.
        node: returns the name of this node.
        random: makes n random bytes.
        max_stored_bytes: the largest session data that the store takes; None if there is no store.
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
        self._is_in_cookie = "cookie" in settings.transports
        self._room = MAX_COOKIE_BYTES - cookie.overhead() if self._is_in_cookie else MAX_TOKEN_BYTES
        self._clock = clock
        self._log = log
        self._view = view
        self._ring = ring
        self._node = node
        self._random = random
        self._max_stored_bytes = max_stored_bytes

    def _now_ms(self) -> float:
        """The time that tokens carry. A clock that is ahead, and still trusted, must not date tokens into the future of other nodes."""
        now_ms = self._clock.wall_s() * 1000 - self._log.ahead_ms()
        self._view.latest_ms = max(self._view.latest_ms, now_ms)
        return now_ms

    def leave_room(self, cookie: CookieWriter) -> None:
        """Make tokens only as large as fit into this cookie, too."""
        if self._is_in_cookie:
            self._room = min(self._room, MAX_COOKIE_BYTES - cookie.overhead())

    def new_id(self) -> SessionId:
        """Return 128 random bits. An id never comes from a client."""
        return SessionId(urlsafe_b64encode(self._random(16)).rstrip(b"=").decode())

    # Claims

    def issue(
        self, subject: str | None, *, idle_s: float | None = None, absolute_s: float | None = None, persistent: bool = True
    ) -> Claims:
        """Return the claims of a new session: new id, new family.

        Args:
            subject: the subject that is logged in; None for a visitor.
            idle_s, absolute_s: the lives of this session; by default those of the settings.
            persistent: whether a browser keeps the cookie when it closes.

        Raises:
            ValueError: a life is longer than the settings allow.
        """
        own_idle_ms = _within(idle_s, self._idle_ms, "idle", "HA_SESSION_IDLE_TIMEOUT")
        absolute_ms = _within(absolute_s, self._absolute_ms, "absolute", "HA_SESSION_ABSOLUTE_TIMEOUT")
        return renewal.begin(
            self.new_id(),
            FamilyId(self.new_id()),
            subject,
            cuts=self._view.live_cuts(subject),
            now_ms=int(self._now_ms()),
            idle_ms=own_idle_ms or self._idle_ms,
            absolute_ms=absolute_ms or self._absolute_ms,
            issuer=self._node(),
            own=OwnLives(own_idle_ms, persistent) if own_idle_ms or not persistent else msgspec.UNSET,
        )

    def issue_new_id(self, claims: Claims, *, authenticated: bool = False) -> Claims:
        """Return the claims of the same session under a new id. They list the cuts known now, which the session has withstood.

        Args:
            claims: the session's present claims.
            authenticated: whether the subject has proven just now to be there.
        """
        at_ms = int(self._now_ms()) if authenticated else claims.authenticated_ms
        changed = msgspec.structs.replace(claims, sid=self.new_id(), authenticated_ms=at_ms)
        return msgspec.structs.replace(changed, cuts=self._view.withstood_cuts(changed, self._log.may_lose))

    def change(self, claims: Claims, content: bytes, *, record: int = 0) -> Claims:
        """Return the claims of the same session with other data, used just now.

        Args:
            claims: the session's present claims.
            content: the new data as it travels.
            record: the version of the session's record.
        """
        idle_ms = claims.idle_ms(self._idle_ms)
        return renewal.change(claims, content, record, now_ms=int(self._now_ms()), idle_ms=idle_ms, issuer=self._node())

    def change_stored(self, claims: Claims, stored: Stored) -> Claims:
        """Return the claims of the same session with other data in the store. The token carries a copy if it may and the copy fits."""
        if self._data != "store" and len(stored.data) * 4 // 3 < self._room:  # base64 alone takes that much
            copy = self.change(claims, stored.encode(), record=stored.version)
            if self.has_room(copy):
                return copy
        return self.change(claims, ELSEWHERE, record=stored.version)

    def renew(self, claims: Claims) -> Claims | None:
        """Return the claims of the renewed token of a session; None if that token would be too large."""
        renewed = renewal.successor(claims, self._now_ms(), claims.idle_ms(self._idle_ms))
        # A cookie of Starlette's middleware carries less around its data, so data that fits there need not fit here.
        return renewed if self.has_room(renewed) else None

    def has_room(self, claims: Claims) -> bool:
        """Whether browsers keep the token for these claims."""
        return tokens.length(claims) <= self._room

    # Where data goes

    def fit(self, claims: Claims | None, content: Mapping[str, object], *, raw: bytes | None = None) -> bytes:
        """Return session data as it travels, or is stored.

        Args:
            claims: of the session; None for one that has not begun.
            content: the data.
            raw: the data as it travels, if the caller has encoded it.

        Raises:
            SessionNotSerializable: a value cannot travel.
            SessionTooLarge: browsers would drop the token, and there is no store; or the data is too large for the store.
        """
        raw = data.encode(content) if raw is None else raw
        if self._max_stored_bytes is not None and (self._data != "token" or (claims is not None and claims.record)):
            if len(raw) > self._max_stored_bytes:
                raise SessionTooLarge(
                    f"this change would make the session {len(raw)} bytes long, and {self._max_stored_bytes} is the most; {_KEEP_ELSEWHERE}"
                )
            return raw
        size = tokens.length(msgspec.structs.replace(claims or self.issue(None), data=raw))
        if size > self._room:
            remedy = _KEEP_ELSEWHERE if self._max_stored_bytes is None else "HA_SESSION_DATA=auto has the store keep it"
            raise SessionTooLarge(
                f"this change would make the session's token {size} bytes long, and {self._room} is the most that browsers keep of this "
                f"cookie; {remedy}"
            )
        return raw

    def belongs_in_store(self, claims: Claims, raw: bytes) -> bool:
        """Whether the changed data of a session goes to the store. Data that has been there stays there."""
        if claims.record:
            return True
        return raw != NOTHING if self._data == "store" else not self.has_room(self.change(claims, raw))

    # The key that signs them

    def sign(self, claims: Claims) -> bytes:
        """Return the token for these claims, signed with the newest key that all live members have."""
        return tokens.sign(claims, self._signing_key())

    def as_signed(self, claims: Claims) -> Verified:
        """Return the claims that verifying a token for these claims, signed now, will yield."""
        return Verified.of(claims, self._signing_key().kid)

    def _signing_key(self) -> SigningKey:
        ring = self._ring()
        return ring.only or ring.signing_key(self._log.announced_kids(), self._view.denied_keys)


def _within(life_s: float | None, limit_ms: int, name: str, variable: str) -> int:
    """Return a session's own life in milliseconds; 0 if it has none."""
    if life_s is None:
        return 0
    if life_s * 1000 > limit_ms:
        raise ValueError(f"{name} is {life_s:g} s, and {variable} allows {limit_ms / 1000:g} s at most")
    return max(1, int(life_s * 1000))
