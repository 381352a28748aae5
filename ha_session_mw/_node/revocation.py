"""The way of a log-out: an entry is appended to the log, fenced and acknowledged, and the session's record is deleted.

Without a majority the entry is enforced here, written to the journal, acknowledged as provisional, and appended later.
"""

from __future__ import annotations

import logging
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Literal, Protocol

from cachetools import LRUCache

from .._core.cluster.view import View, began_after, new_cut_id
from .._core.names import require_id, require_name
from .._core.tally import SPREAD_S, Tally
from .._core.token.keys import KeyRing
from ..abc import Clock, ClusterLog
from ..exceptions import EntryRejected, QuorumLost
from ..models import Acknowledgement, AnySession, Claims, Cut, CutId, Deny, DenyKey, Entry, FamilyId, KeyId
from .journal import Journal
from .second_look import Fences
from .shared_cuts import SharedCuts

logger = logging.getLogger("ha_session_mw.revocations")

MOST_CUTS = 1000
"""Of how many subjects the newest log-out everywhere is remembered, to know that another one changes nothing."""
MAKE_GOOD_EVERY_S = 1.0
"""Interval between tries to make provisional log-outs durable. The log itself spreads them as soon as it reaches a peer."""


class SessionRecords(Protocol):
    """Deletes session data with its session."""

    async def forget(self, family: str) -> None:
        """Delete the record of a session that was logged out, now or later."""
        ...

    async def of_subject(self, subject: str) -> list[str]:
        """Return the families of a subject that have records, as far as they can be found now."""
        ...


class Revoker:
    """Logs out sessions, subjects, everybody, and keys.

    Args:
        log: takes the entries.
        view: this node's knowledge.
        records: deletes session data.
        clock: measures how long a log-out took.
        journal: keeps the entries that the log could not take.
        ring: returns the present key ring.
        random: makes n random bytes.
        require_loop: raises UsageError in an event loop other than the node's.
        report: receives each log-out, with how it went: ``fenced``, ``provisional``, ``durable`` or ``failed``.
        fences: remembers when log-outs were fenced.
        shared_cuts: gives each log-out everywhere its turn.

    Attributes:
        took: the seconds that log-outs and replacements of ids took, by how they went.
        under_way: how many have no answer yet.
        provisional_in_a_row: how many of the newest ones were all provisional.
    """

    def __init__(
        self,
        log: ClusterLog,
        view: View,
        records: SessionRecords,
        clock: Clock,
        journal: Journal,
        *,
        ring: Callable[[], KeyRing],
        random: Callable[[int], bytes],
        require_loop: Callable[[], None],
        report: Callable[[Entry, str], None],
        fences: Fences,
        shared_cuts: SharedCuts,
    ) -> None:
        self._log = log
        self._view = view
        self._records = records
        self._clock = clock
        self._journal = journal
        self._ring = ring
        self._random = random
        self._require_loop = require_loop
        self._report = report
        self._fences = fences
        self._shared_cuts = shared_cuts
        self.took = {mode: Tally(SPREAD_S) for mode in ("fenced", "durable", "provisional", "failed")}
        self.under_way = 0
        self.provisional_in_a_row = 0
        self._newest_cuts: LRUCache[str, Cut] = LRUCache(MOST_CUTS)
        """The newest log-out everywhere of each subject that this node has made."""

    # The log-outs

    async def revoke_session(self, claims: Claims) -> Acknowledgement:
        """Log out a session, with all its ids."""
        return await self.revoke_family(Deny(claims.family, claims.absolute_end_ms))

    async def revoke_id(self, id: str) -> Acknowledgement:
        """Log out the session that has this id, or the family of this id."""
        # Checked first: an id that the log cannot take would hold up all other log-outs.
        require_id(id, "id")
        return await self.revoke_family(Deny(id, self._unknown_end_ms()))

    async def revoke_family(self, denial: Deny) -> Acknowledgement:
        """Log out the session or family that an entry denies, and delete the record of that family."""
        acknowledgement = await self.revoke(denial)
        await self._records.forget(denial.id)
        return acknowledgement

    async def revoke_subject(self, subject: str, except_session: AnySession | str | None) -> Acknowledgement:
        """Log out all sessions of a subject, except one."""
        self._require_loop()
        require_name(subject, "subject")
        if isinstance(except_session, str):
            require_id(except_session, "except_session")
        elif except_session is not None and not hasattr(except_session, "family"):
            raise TypeError(f"except_session must be a session, or the id or family of one, got {type(except_session).__name__}")
        # Listed before the log-out: a session that begins after it may have a record, too, and keeps it.
        families = await self._records.of_subject(subject)
        acknowledgement = await self._cut(subject, except_session)
        kept = getattr(except_session, "family", except_session)
        if not isinstance(except_session, str) or kept in families:  # else it is an id, and the record of any family may be that session's
            for family in families:
                if family != kept:
                    await self._records.forget(family)
        return acknowledgement

    async def revoke_everybody(self) -> Acknowledgement:
        """Log out all sessions of all subjects."""
        return await self._cut(None, None)

    async def revoke_key(self, kid: str) -> Acknowledgement:
        """Revoke a key: no node accepts a token that it signed.

        Raises:
            ValueError: no live member has a key of this id.
        """
        known = {*self._ring().kids, *(kid for kids in self._log.announced_kids() for kid in kids)}
        if kid not in known:
            raise ValueError(f"no live member has a key {kid!r}; there are {', '.join(sorted(known))}")
        return await self.revoke(DenyKey(KeyId(kid), self._unknown_end_ms()))

    async def _cut(self, subject: str | None, except_session: AnySession | str | None) -> Acknowledgement:
        kept = except_session if isinstance(except_session, str) or except_session is None else except_session.family
        withstood = getattr(except_session, "cuts", ())
        if subject is None:
            return await self.revoke(self._new_cut(subject, kept, withstood))
        if (same := self._in_force(subject, kept)) is not None:
            return await self.revoke(same)
        return await self._shared_cuts.take_turn(subject, kept, partial(self._new_cut, subject, kept, withstood), self.revoke)

    def _new_cut(self, subject: str | None, kept: str | None, withstood: tuple[CutId, ...]) -> Cut:
        until_ms = self._unknown_end_ms()
        # By a wrong clock, sessions that began before the cut could seem to have begun after it.
        wall_ms = self._wall_ms()  # before the verdict: a clock that is set in between dates nothing
        made_ms = wall_ms if self._log.trusts_clock() else None
        cut = Cut(
            id=new_cut_id(urlsafe_b64encode(self._random(9)).decode(), until_ms, made_ms),
            subject=subject,
            until_ms=until_ms,
            except_family=FamilyId(kept) if kept is not None else None,
            replaces=self._replaceable(subject, kept, withstood),
        )
        if subject is not None:
            self._newest_cuts[subject] = cut
        return cut

    def _in_force(self, subject: str, kept: str | None) -> Cut | None:
        """Return a log-out that this one would only repeat, because no session of the subject has begun since; None if there is none.

        A session that has begun since lists it. With other nodes, this node would not know of such a session.
        """
        cut = self._newest_cuts.get(subject) if self._log.is_alone else None
        if cut is None or cut.except_family != kept or cut.id in self._view.listed or began_after(self._wall_ms(), cut.id):
            return None
        return cut if cut.id in self._view.by_subject.get(subject, {}) else None

    def _replaceable(self, subject: str | None, kept: str | None, withstood: tuple[CutId, ...]) -> tuple[CutId, ...]:
        """The known cuts that the new one may replace: those that do not deny the session which it excepts."""
        known = self._view.everybody if subject is None else self._view.by_subject.get(subject, {})
        return tuple(id for id, cut in sorted(known.items()) if kept is None or id in withstood or cut.except_family == kept)

    def _wall_ms(self) -> int:
        """The time that a log-out carries: not before that of any token, even if the wall clock was set back since."""
        return int(max(self._clock.wall_s() * 1000, self._view.latest_ms))

    def _unknown_end_ms(self) -> int:
        """The end of an entry that may concern any token: the later ones of a clock that was set back since, too."""
        return self._log.unknown_end_ms() + self._wall_ms() - int(self._clock.wall_s() * 1000)

    # Appending

    async def revoke(self, entry: Entry) -> Acknowledgement:
        """Append an entry and return once it is fenced; or provisional, without a majority.

        Raises:
            QuorumLost: there is no majority, and no journal. This node enforces the log-out all the same.
        """
        self._require_loop()
        begun_s = self._clock.boot_s()
        mode = "failed"
        self.under_way += 1
        try:
            try:
                await self._log.append_and_fence([entry])
            except QuorumLost as lost:
                await self._keep_provisional(entry, lost)
                mode = "provisional"
                return Acknowledgement(mode="provisional", waited_s=self._clock.boot_s() - begun_s)
            mode = "fenced"
            self._fences.note(entry)
        finally:
            self._count(mode, begun_s)
        self._report(entry, "fenced")
        return Acknowledgement(mode="fenced", waited_s=self._clock.boot_s() - begun_s)

    def _count(self, mode: str, begun_s: float) -> None:
        """Count what is under way no more, how it went, and how long it took."""
        self.under_way -= 1
        self.provisional_in_a_row = self.provisional_in_a_row + 1 if mode == "provisional" else 0
        self.took[mode].observe(self._clock.boot_s() - begun_s)

    async def _keep_provisional(self, entry: Entry, lost: QuorumLost) -> None:
        mode = "failed"
        try:
            await self._journal.add([entry], lost)
            mode = "provisional"
        finally:
            self._report(entry, mode)

    async def ensure_kept(self, claims: Claims) -> None:
        """Return once no log-out that a token for these claims lists can be lost.

        If one were lost, no node would ever hear of it, and each would take itself to be behind. None could accept or refuse the token.

        Raises:
            QuorumLost: one of them is not durable, and the log does not make it so now. No token must be issued.
        """
        if not claims.cuts:
            return
        known = self._view.cuts_of(claims.subject)
        if unsure := [cut for id in claims.cuts if (cut := known.get(id)) is not None and self._log.may_lose(cut)]:
            try:
                await self._log.append(unsure)
            except EntryRejected as exc:
                raise QuorumLost("the log does not take a log-out that the token lists") from exc

    # The sessions that a client leaves behind with a new token

    async def will_be_durable(self) -> bool:
        """Return whether denials will be durable now. Denies nothing.

        Returns:
            False: they can be written down, and be provisional.

        Raises:
            QuorumLost: they can be neither.
        """
        self._require_loop()
        try:
            await self._log.confirm()
        except QuorumLost:
            if not self._journal.keeps:
                raise
            return False
        return True

    async def leave_behind(self, entries: Sequence[Deny], *, durable: bool, report: bool, fence: bool = False) -> Acknowledgement | None:
        """Deny what a client leaves behind that is about to get another token.

        A denial that was appended may count on some nodes, whatever becomes of it, and cannot be withdrawn. So the client must get its
        new token from then on. If the denial does not become durable in time, it is provisional, and the log goes on trying.

        Args:
            entries: deny the sessions or ids.
            durable: the answer of :meth:`will_be_durable`.
            report: whether sessions end, and the client does not merely get another id for one.
            fence: whether to wait for the fence.

        Returns:
            None once the denials are durable, or the acknowledgement that they are fenced; otherwise the provisional one.

        Raises:
            QuorumLost: the denials can only be provisional, and were not written down. Nothing was denied.
        """
        begun_s = self._clock.boot_s()
        mode: Literal["fenced", "durable", "provisional"] | None = None
        self.under_way += 1
        try:
            if durable:
                mode = await self._append_or_keep(entries, fence=fence)
            else:
                # Written down first: if that fails, the client keeps its old token.
                await self._journal.add(entries, QuorumLost("no majority, and no journal"))
                self._log.apply(entries)
                mode = "provisional"
        finally:
            self._count(mode or "failed", begun_s)
        for entry in entries if report else ():
            self._report(entry, mode)
        return None if mode == "durable" else Acknowledgement(mode=mode, waited_s=self._clock.boot_s() - begun_s)

    async def _append_or_keep(self, entries: Sequence[Entry], *, fence: bool) -> Literal["fenced", "durable", "provisional"]:
        """Append entries; return how far they have got. If they are not durable, write them down where there is a journal."""
        try:
            if fence:
                await self._log.append_and_fence(entries)
                for entry in entries:
                    self._fences.note(entry)
            else:
                await self._log.append(entries)
        except EntryRejected as exc:
            logger.error("sessions that their clients have left behind: %s", exc)
        except QuorumLost as lost:
            with suppress(QuorumLost):
                await self._journal.add(entries, lost)
        else:
            return "fenced" if fence else "durable"
        return "provisional"

    def take_back(self, claims: Claims) -> None:
        """Deny a session whose token was never sent to a client, so no request waits for the entry."""
        self._log.apply([Deny(claims.family, claims.absolute_end_ms)])

    # Without a majority

    @property
    def provisional(self) -> Sequence[Entry]:
        """The log-outs that this node enforces and no majority is known to hold."""
        return self._journal.entries

    def load(self) -> None:
        """Enforce the entries in the journal.

        Raises:
            ConfigurationError: the journal cannot be used.
        """
        if found := self._journal.load():
            self._log.apply(found)

    async def run(self) -> None:
        """Append provisional log-outs again and again, until cancelled."""
        self._journal.hold()
        try:
            while True:
                await self._journal.wait_filled()
                await self._journal.restore()
                await self._make_good([*self.provisional])
                await self._clock.sleep(MAKE_GOOD_EVERY_S)
        finally:
            await self._journal.close()

    async def _make_good(self, entries: Sequence[Entry]) -> None:
        try:
            # Fenced, and not merely durable: several processes on memory:// each have a log of their own.
            await self._log.append_and_fence(entries)
        except QuorumLost:
            return
        except EntryRejected as exc:  # the log never takes them, so there is nothing to try again
            logger.error("provisional log-outs: %s", exc)
        if await self._journal.remove(entries):
            logger.info("%d provisional log-outs are in force on every node now", len(entries))
