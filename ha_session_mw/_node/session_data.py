"""Read session data from its place, the token or the record, and decide where changed data goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from .._core.records.session_data import ELSEWHERE, Stored
from .._core.token.data import encode
from ..abc import Grant
from ..exceptions import ProblemError, StateNotReached, StoreMissing, StoreUnavailable
from ..models import Claims
from .issuing import Issuer
from .records import Loaded, Records


class SessionData:
    """The data of the sessions that this node sees.

    Args:
        issuer: tells whether data fits into a token.
        records: the records in the store; None without a store.
        why_revoked: returns why a session is certainly revoked with all its ids; None if it may be valid.
        peers: returns the URLs of the peers to ask for a copy of a session's record, in order.
        learn_all: returns once this node knows each log-out that was durable before the call; raises a problem if it cannot.
        end: ends a session whose data is lost, and raises; None to let such sessions go on with empty data.
    """

    def __init__(
        self,
        issuer: Issuer,
        records: Records | None,
        *,
        why_revoked: Callable[[Claims], ProblemError | None],
        peers: Callable[[Claims], Sequence[str]],
        learn_all: Callable[[], Awaitable[None]],
        end: Callable[[Claims], Awaitable[None]] | None,
    ) -> None:
        self._issuer = issuer
        self._records = records
        self._why_revoked = why_revoked
        self._peers = peers
        self._learn_all = learn_all
        self._end = end

    @property
    def has_store(self) -> bool:
        """Whether session data can be kept on the nodes."""
        return self._records is not None

    async def load(self, claims: Claims) -> Loaded:
        """Return the data of a session that has a record, in the version that its token needs or a later one.

        Raises:
            StoreUnavailable: the record cannot be reached or read.
            SessionRevoked, SessionSuperseded: the session was logged out or replaced meanwhile, and its record deleted.
            RecordLost: the data is lost, and the settings end such a session.
        """
        if self._records is None:
            return Loaded(_copy_in(claims))
        try:
            loaded = await self._records.load(
                claims,
                lambda: self._peers(claims),
                give_up=lambda: self._give_up(claims),
                is_revoked=lambda: self._why_revoked(claims) is not None,
            )
        except StoreUnavailable:
            self._ensure_not_revoked(claims)
            raise
        if loaded.is_lost:
            self._ensure_not_revoked(claims)
        return loaded

    async def _give_up(self, claims: Claims) -> None:
        """Return if the session of a lost record is certainly valid, and may go on without its data.

        A log-out is durable before it deletes a record. So once this node knows what was durable when the record was gone, either it
        knows of a log-out, or there was none.
        """
        try:
            await self._learn_all()
        except StateNotReached as behind:
            raise StoreUnavailable(behind.reason, retry_after_s=behind.retry_after_s) from behind
        self._ensure_not_revoked(claims)
        if self._end is not None:
            await self._end(claims)

    async def newest(self, claims: Claims) -> Stored | None:
        """Return the data of a session that the store has at this moment; None if it is in the token, or in this request alone.

        Raises:
            StoreUnavailable, SessionRevoked, SessionSuperseded: as :meth:`load`.
        """
        if self._records is None:
            return None
        try:
            found = await self._records.newest(claims)
        except StoreUnavailable:
            self._ensure_not_revoked(claims)
            raise
        if found is None and claims.record:
            self._ensure_not_revoked(claims)
        return found

    def _ensure_not_revoked(self, claims: Claims) -> None:
        if (problem := self._why_revoked(claims)) is not None:
            raise problem from None

    async def keep(
        self,
        claims: Claims,
        base: Stored,
        content: Mapping[str, object],
        *,
        ensure_valid: Callable[[], None],
        strict: bool = False,
        guard: Grant | None = None,
        known: bytes | None = None,
    ) -> tuple[Claims, Stored]:
        """Keep a session's changed data, in its token or in the store; return the session's new claims, and the data as it is kept.

        Args:
            claims: the session's present claims.
            base: the data with which the request began.
            content: the data as the request has changed it.
            ensure_valid: raises if the session is not valid.
            strict: whether a change by another request raises. Strict data is kept in the store.
            guard: a lock that must still be held. Data under a lock is kept in the store.
            known: bytes of data that is known to travel.

        Raises:
            SessionNotSerializable: a value cannot travel.
            SessionTooLarge: the data has no room.
            SessionConflict: another request has changed the session meanwhile, and ``strict`` is set.
            LockLost: the guard is no longer held.
            StoreUnavailable: the data cannot be stored.
        """
        raw = self._issuer.fit(claims, content, raw=encode(content, known=known))
        if self._records is None or not (strict or guard or self._issuer.belongs_in_store(claims, raw)):
            ensure_valid()
            return self._issuer.change(claims, raw), Stored.in_token(raw)
        stored = await self._records.save(
            claims,
            base,
            content,
            raw,
            strict=strict,
            guard=guard,
            ensure_valid=ensure_valid,
            is_revoked=lambda: self._why_revoked(claims) is not None,
        )
        return self._issuer.change_stored(claims, stored), stored

    async def forget(self, family: str) -> None:
        """Delete the record of a session that has ended, now or later."""
        if self._records is not None:
            await self._records.deletions.forget_soon(family)

    async def of_subject(self, subject: str) -> list[str]:
        """Return the families of a subject that have records, as far as they can be found now."""
        return await self._records.deletions.of_subject(subject) if self._records is not None else []


def _copy_in(claims: Claims) -> Stored:
    """Return the copy of a record in a token: there is no store any more."""
    if claims.data == ELSEWHERE:
        raise StoreMissing("the session's data is in a store that HA_SESSION_CLUSTER does not name")
    return Stored.decode(claims.record, claims.data)
