"""Where a session's data is: in its token, or in its record. Reads it from there, and decides where it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from .._core.records.session_data import ELSEWHERE, Stored
from ..abc import Grant
from ..exceptions import SessionRevoked, StoreUnavailable
from ..models import Claims
from .issuing import Issuer
from .records import Records


class SessionData:
    """The data of the sessions that this node sees.

    Args:
        issuer: knows what fits into a token.
        records: what is in the store; None where there is none.
        is_revoked: whether a session is logged out with all its ids, for certain.
        peers: whom to ask for a copy of a session's record, in this order.
    """

    def __init__(
        self, issuer: Issuer, records: Records | None, *, is_revoked: Callable[[Claims], bool], peers: Callable[[Claims], Sequence[str]]
    ) -> None:
        self._issuer = issuer
        self._records = records
        self._is_revoked = is_revoked
        self._peers = peers

    @property
    def has_store(self) -> bool:
        """Whether session data can be kept on the nodes."""
        return self._records is not None

    async def load(self, claims: Claims) -> Stored:
        """The data of a session that has a record, of the version that its token needs or a later one.

        Raises:
            StoreUnavailable: it cannot be reached, or not read.
            SessionRevoked: the session was logged out meanwhile, and its record deleted.
        """
        if self._records is None:
            return _copy_in(claims)
        with self._gone_if_ended(claims):
            return await self._records.load(claims, lambda: self._peers(claims))

    async def newest(self, claims: Claims) -> Stored | None:
        """The data of a session as it is in the store at this moment; None where it is in the token.

        Raises:
            StoreUnavailable, SessionRevoked: as :meth:`load`.
        """
        if self._records is None:
            return None
        with self._gone_if_ended(claims):
            return await self._records.newest(claims)

    @contextmanager
    def _gone_if_ended(self, claims: Claims) -> Iterator[None]:
        try:
            yield
        except StoreUnavailable:
            if self._is_revoked(claims):
                raise SessionRevoked("its record is gone, too", check="denied") from None
            raise

    async def keep(
        self,
        claims: Claims,
        base: Stored,
        content: Mapping[str, object],
        *,
        ensure_valid: Callable[[], None],
        strict: bool = False,
        guard: Grant | None = None,
    ) -> Claims:
        """The same session with other data, used just now: in its token, or in the store.

        Args:
            claims: of the session.
            base: the data that the request began with.
            content: what it made of it.
            ensure_valid: raises if the session does not stand.
            strict: whether a change by others is told. Has the data kept in the store, as has the next.
            guard: a lock that must be held still.

        Raises:
            SessionNotSerializable: a value cannot travel.
            SessionTooLarge: there is no room for it.
            SessionConflict: others have changed the session meanwhile, and ``strict``.
            LockLost: the guard is held no more.
            StoreUnavailable: it cannot be stored.
        """
        raw = self._issuer.fit(claims, content)
        if self._records is None or not (strict or guard or self._issuer.belongs_in_store(claims, raw)):
            ensure_valid()
            return self._issuer.change(claims, raw)
        stored = await self._records.save(
            claims,
            base,
            content,
            raw,
            strict=strict,
            guard=guard,
            ensure_valid=ensure_valid,
            is_revoked=lambda: self._is_revoked(claims),
        )
        return self._issuer.change_stored(claims, stored)

    async def forget(self, family: str) -> None:
        """Have the record of a session that has ended deleted."""
        if self._records is not None:
            await self._records.forget_soon(family)

    async def of_subject(self, subject: str) -> list[str]:
        """The families of a subject that have records; those that can be found now."""
        return await self._records.of_subject(subject) if self._records is not None else []


def _copy_in(claims: Claims) -> Stored:
    """What a token carries of a record, where there is no store any more."""
    if claims.data == ELSEWHERE:
        raise StoreUnavailable("the session's data is in a store that HA_SESSION_CLUSTER does not name")
    return Stored.decode(claims.record, claims.data)
