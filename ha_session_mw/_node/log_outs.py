"""Log-outs of a session, a subject, everybody, or a key: what is denied, who may stay, and which records go with it."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable

from .._core.cluster.view import View, new_cut_id
from .._core.names import require_name
from .._core.token.keys import KeyRing
from ..abc import ClusterLog
from ..models import Acknowledgement, AnySession, Claims, Cut, CutId, Deny, DenyKey, FamilyId, KeyId
from .revocation import Revocations
from .session_data import SessionData


class LogOuts:
    """Makes the entries of log-outs.

    Args:
        revocations: carry them to the log.
        log: knows by when whatever there is has ended, and which keys members have.
        view: what this node knows.
        data: of sessions, to be forgotten with them.
        ring: gives the keys as they are now.
        random: makes n random bytes.
    """

    def __init__(
        self,
        revocations: Revocations,
        log: ClusterLog,
        view: View,
        data: SessionData,
        *,
        ring: Callable[[], KeyRing],
        random: Callable[[int], bytes],
    ) -> None:
        self._revocations = revocations
        self._log = log
        self._view = view
        self._data = data
        self._ring = ring
        self._random = random

    async def of_claims(self, claims: Claims) -> Acknowledgement:
        """Log a session out that is known."""
        return await self.of_family(Deny(claims.family, claims.absolute_end_ms))

    async def of_id(self, id: str) -> Acknowledgement:
        """Log out the session that has this id, or the family of this id. One that the log could not take would hold up all others."""
        require_name(id, "id")
        return await self.of_family(Deny(id, self._log.unknown_end_ms()))  # its record goes, too, should it be the family's

    async def of_family(self, denial: Deny) -> Acknowledgement:
        """Deny a session, and have its record forgotten."""
        acknowledgement = await self._revocations.revoke(denial)
        await self._data.forget(denial.id)
        return acknowledgement

    async def of_subject(self, subject: str, except_session: AnySession | str | None) -> Acknowledgement:
        """Log out all sessions of a subject, but for one that may stay."""
        require_name(subject, "subject")
        if isinstance(except_session, str):
            require_name(except_session, "except_session")
        elif except_session is not None and not hasattr(except_session, "family"):
            raise TypeError(f"except_session must be a session, or the id or family of one, got {type(except_session).__name__}")
        # Those that are there before the log-out: a session that begins afterwards may have a record, too.
        families = await self._data.of_subject(subject)
        acknowledgement = await self._cut(subject, except_session)
        kept = getattr(except_session, "family", except_session)
        if not isinstance(except_session, str) or kept in families:  # else it is an id of any of them
            for family in families:
                if family != kept:
                    await self._data.forget(family)
        return acknowledgement

    async def of_everybody(self) -> Acknowledgement:
        """Log out all sessions of all subjects."""
        return await self._cut(None, None)

    async def of_key(self, kid: str) -> Acknowledgement:
        """Have no node accept a token that a key signed.

        Raises:
            ValueError: no live member has a key of this id.
        """
        known = {*self._ring().kids, *(kid for kids in self._log.announced_kids() for kid in kids)}
        if kid not in known:
            raise ValueError(f"no live member has a key {kid!r}; there are {', '.join(sorted(known))}")
        return await self._revocations.revoke(DenyKey(KeyId(kid), self._log.unknown_end_ms()))

    async def _cut(self, subject: str | None, except_session: AnySession | str | None) -> Acknowledgement:
        kept = except_session if isinstance(except_session, str) or except_session is None else except_session.family
        withstood = getattr(except_session, "cuts", ())
        until_ms = self._log.unknown_end_ms()
        cut = Cut(
            id=new_cut_id(urlsafe_b64encode(self._random(9)).decode(), until_ms),
            subject=subject,
            until_ms=until_ms,
            except_family=FamilyId(kept) if kept is not None else None,
            replaces=self._replaceable(subject, kept, withstood),
        )
        return await self._revocations.revoke(cut)

    def _replaceable(self, subject: str | None, kept: str | None, withstood: tuple[CutId, ...]) -> tuple[CutId, ...]:
        """The known cuts that the new one may replace: all that do not deny the session which it excepts."""
        known = self._view.everybody if subject is None else self._view.by_subject.get(subject, {})
        return tuple(id for id, cut in sorted(known.items()) if kept is None or id in withstood or cut.except_family == kept)
