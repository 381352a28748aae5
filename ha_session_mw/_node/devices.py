"""Devices: who is logged in where. Each log-in is a record in the store, found by its subject.

A log-in is written when it is made. That a session was used is noted in memory and written behind, so no request waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

import anyio
import msgspec

from .._core.names import require_name
from .._core.records.log_ins import (
    LogIn,
    admit,
    decode,
    decode_roster,
    encode,
    encode_roster,
    log_in_of,
    minute,
    newest_first,
    refreshed,
    roster_id,
)
from .._core.token.tokens import Verified
from ..abc import Clock, Conflict, Record, SessionStore
from ..exceptions import SessionConflict, SessionLimitReached, StoreUnavailable
from ..models import Deny, Device, FamilyId

logger = logging.getLogger("ha_session_mw")

NOTE_EVERY_S = 60.0
"""How often a session's use is noted on one node. People look at minutes."""
WRITE_EVERY_S = 5.0
MOST_NOTES = 100_000
"""How many sessions may wait to be written: all that a node serves, and some 50 MB. What comes then is counted as lost."""
PAGE = 100
ROUNDS = 10
"""How often a log-in tries again that others came before. Each round one of them gets through."""

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
T = TypeVar("T")


class Devices:
    """One node's part in it.

    Args:
        store: keeps the records.
        clock: the two clocks.
        stands: whether a session may stand, by all that this node knows.
        end: logs a session out; durable on return.
        most: how many sessions a subject may have; None: any number.
        refuse: whether a log-in beyond that is refused, and not the oldest session ended in its place.

    Attributes:
        lost: how many times a session's use could not be written down.
    """

    def __init__(
        self,
        store: SessionStore,
        clock: Clock,
        *,
        stands: Callable[[Verified], bool],
        end: Callable[[Deny], Awaitable[None]],
        most: int | None,
        refuse: bool,
    ) -> None:
        self._store = store
        self._clock = clock
        self._stands = stands
        self._end = end
        self._most = most
        self._refuse = refuse
        self._notes: dict[FamilyId, tuple[Verified, LogIn]] = {}
        self._ended: set[str] = set()
        self.lost = 0

    # Log-ins

    async def enter(self, verified: Verified, *, replaces: FamilyId | None, label: str, address: str | None) -> None:
        """Record a log-in, before its token is given away.

        Args:
            verified: what its token will say.
            replaces: the session that the log-in takes the place of.
            label, address: of the device.

        Raises:
            SessionLimitReached: the subject has as many sessions as it may have.
            SessionConflict: so many logged in at once that this one did not get through.
            StoreUnavailable: there is a limit, and how many sessions there are cannot be known.
            QuorumLost: a session that was to be ended could not be. The log-in has not happened.
        """
        log_in = log_in_of(verified, minute(self._wall_ms()), label=label, address=address)
        if self._most is not None:
            await self._admit(verified, log_in, replaces, self._most)
        with suppress(Conflict, StoreUnavailable):
            await self._store.put(self._record(verified, log_in))
            return
        self._note(verified, log_in)  # and it is written later

    def _record(self, verified: Verified, log_in: LogIn, version: int = 0) -> Record:
        claims = verified.claims
        return Record(claims.family, encode(log_in), claims.absolute_end_ms, claims.subject, version)

    async def _admit(self, verified: Verified, log_in: LogIn, replaces: FamilyId | None, most: int) -> None:
        """Let the log-in be one of so many, for certain: one record names them, and it is changed in one step."""
        subject, family = verified.claims.subject or "", verified.claims.family
        for _ in range(ROUNDS):
            roster = await self._store.get(roster_id(subject)) or Record(roster_id(subject), b"", 0)
            standing = await self._all_standing(subject, roster)
            standing.pop(replaces or FamilyId(""), None)
            stay, end = admit(standing, family, log_in, most)
            if end and self._refuse:
                raise SessionLimitReached(f"there are {len(standing)} sessions, and {most} may be")
            until_ms = max(one.absolute_end_ms for one in stay.values())
            try:
                await self._store.put(replace(roster, content=encode_roster(stay), until_ms=until_ms))
            except Conflict:
                continue
            for oldest in end:
                await self._end(Deny(oldest, standing[oldest].absolute_end_ms))
            return
        raise SessionConflict("others log in as the same subject at the same time")

    async def _all_standing(self, subject: str, roster: Record) -> dict[FamilyId, LogIn]:
        """The subject's sessions: by their records, and those that are on the roster and whose record is yet to be written."""
        named = _decoded(roster, decode_roster) if roster.content else {}
        found = {family: log_in for family, log_in in named.items() if self._may_stand(family, subject, log_in)}
        return found | {family: log_in async for family, log_in, stands in self._recorded(subject) if stands}

    # Lists

    async def of_subject(self, subject: str) -> list[Device]:
        """The sessions of a subject that stand, the newest first.

        Raises:
            StoreUnavailable: they cannot be known.
        """
        standing = [(family, log_in) async for family, log_in, stands in self._recorded(subject) if stands]
        return [_device(family, log_in) for family, log_in in newest_first(standing)]

    async def owned(self, subject: str, id: str) -> Deny | None:
        """What logs out a session of this subject; None where the subject has no such session, or has one no more for certain.

        Raises:
            StoreUnavailable: that cannot be known.
            TypeError: the id is not a str.
        """
        try:
            require_name(id, "id")
        except ValueError:
            return None
        record = await self._store.get(id)
        if record is None or record.subject != subject:
            return None
        log_in = _decoded(record, decode)
        return None if self._is_over(FamilyId(id), subject, log_in) else Deny(id, log_in.absolute_end_ms)

    async def _recorded(self, subject: str) -> AsyncIterator[tuple[FamilyId, LogIn, bool]]:
        """Each recorded session of a subject, and whether it stands."""
        after = ""
        while page := await self._store.of_subject(subject, after=after, limit=PAGE):
            for record in page:
                family, log_in = FamilyId(record.id), self._newest(FamilyId(record.id), _decoded(record, decode))
                stands = self._may_stand(family, subject, log_in)
                if not stands and self._is_over(family, subject, log_in):
                    self._ended.add(family)
                yield family, log_in, stands
            after = page[-1].id

    def _newest(self, family: FamilyId, log_in: LogIn) -> LogIn:
        """With what this node has noted and not written yet."""
        return refreshed(log_in, self._notes[family][1]) if family in self._notes else log_in

    def _may_stand(self, family: FamilyId, subject: str, log_in: LogIn) -> bool:
        return self._stands(log_in.verified(family, subject))

    def _is_over(self, family: FamilyId, subject: str, log_in: LogIn) -> bool:
        """Whether a session does not stand under whatever id it has now, and never will again.

        One that has idled may have been used a moment ago, on a node that has yet to write that down.
        """
        awake = msgspec.structs.replace(log_in, idle_end_ms=log_in.absolute_end_ms)
        under_its_family = msgspec.structs.replace(awake, sid=family)
        return not any(self._may_stand(family, subject, one) for one in (awake, under_its_family))

    # What is written behind

    def note(self, verified: Verified) -> None:
        """A session was used, or has a new token. Waits for nothing."""
        if verified.claims.subject is not None:
            self._note(verified, log_in_of(verified, minute(self._wall_ms())))

    async def take_new_id(self, verified: Verified) -> None:
        """A session is about to leave its id behind, by which it is judged: that is written at once, if it can be."""
        self.note(verified)
        with suppress(StoreUnavailable):
            await self._write_note(verified.claims.family)

    def _note(self, verified: Verified, log_in: LogIn) -> None:
        family = verified.claims.family
        if family in self._notes:
            older, recorded = self._notes[family]
            newest = refreshed(recorded, log_in)
            self._notes[family] = (verified if newest.sid == verified.claims.sid else older), newest
        elif len(self._notes) < MOST_NOTES:
            self._notes[family] = verified, log_in
        else:
            self.lost += 1

    def __len__(self) -> int:
        return len(self._notes)

    async def run(self) -> None:
        """Write behind, until cancelled; and then what is left."""
        async with anyio.create_task_group() as tasks:
            # The store runs for as long as there is something to write, which is longer than all else that is cancelled with this.
            storing = anyio.CancelScope(shield=True)
            tasks.start_soon(self._run_store, storing)
            try:
                while True:
                    with self._clock.move_on_after(WRITE_EVERY_S):
                        await anyio.sleep_forever()
                    await self.write_notes()
            finally:
                try:
                    with anyio.move_on_after(5, shield=True):
                        await self.write_notes()
                    self._give_up()
                finally:
                    storing.cancel()  # nobody else can

    async def _run_store(self, scope: anyio.CancelScope) -> None:
        with scope:
            await self._store.run()

    def _give_up(self) -> None:
        if self._notes:
            logger.warning("when %d sessions were last used could not be written to the store before the end", len(self._notes))
            self.lost += len(self._notes)
            self._notes.clear()

    async def write_notes(self) -> None:
        """Write what was noted, and delete what is over. What cannot be written now is tried again."""
        try:
            for family in [*self._notes]:
                await self._write_note(family)
            for ended in [*self._ended]:
                await self._store.delete(ended)
                self._ended.discard(ended)
        except StoreUnavailable as problem:
            logger.debug("what sessions were used last is written later: %s", problem)

    async def _write_note(self, family: FamilyId) -> None:
        noted = self._notes.get(family)
        if noted is not None and await self._write(*noted) and self._notes.get(family) is noted:
            del self._notes[family]

    async def _write(self, verified: Verified, log_in: LogIn) -> bool:
        """Whether this note is done with."""
        family = verified.claims.family
        record = await self._store.get(family)
        try:
            recorded = decode(record.content) if record is not None else None
        except UNREADABLE:
            self.lost += 1
            return True  # nothing is written over what another release may need
        newest = refreshed(recorded, log_in) if recorded is not None else log_in
        if newest == recorded or not self._stands(verified):
            return True
        try:
            await self._store.put(self._record(verified, newest, record.version if record is not None else 0))
        except Conflict:
            return False  # another node has written meanwhile, maybe all that there is to write
        return True

    def _wall_ms(self) -> float:
        return self._clock.wall_s() * 1000


def _decoded(record: Record, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(record.content)
    except UNREADABLE as exc:
        raise StoreUnavailable("a record of a log-in is damaged, or of another release") from exc


def _device(family: FamilyId, log_in: LogIn) -> Device:
    return Device(
        id=family,
        label=log_in.label,
        created_at=_utc(log_in.authenticated_ms),
        last_seen_at=_utc(max(log_in.seen_ms, log_in.authenticated_ms)),  # of the one the minute is kept
        idle_expires_at=_utc(log_in.idle_end_ms),
        expires_at=_utc(log_in.absolute_end_ms),
        address=log_in.address,
    )


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
