"""Devices: the log-ins of a subject. Each log-in is a record in the store, found by its subject.

A log-in is written when it happens. The use of a session is noted in memory and written later, so no request waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

import anyio
import msgspec
from msgspec.structs import replace

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
from .._core.records.user_agents import label
from .._core.token.tokens import Verified
from ..abc import Clock, Conflict, Record, SessionStore
from ..exceptions import SessionConflict, SessionLimitReached, StoreUnavailable
from ..models import Deny, Device, FamilyId

logger = logging.getLogger("ha_session_mw")

NOTE_EVERY_S = 60.0
"""Interval at which one node notes the use of a session. A list of devices shows minutes."""
WRITE_EVERY_S = 5.0
MOST_NOTES = 100_000
"""Most sessions whose use waits to be written: all that a node serves, in some 50 MB. Further ones are counted as lost."""
PAGE = 100
ROUNDS = 10
"""Tries of a log-in when others of the same subject come first. In each round one of them succeeds."""

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
T = TypeVar("T")


class Devices:
    """Records log-ins on one node, and lists those of all nodes.

    Args:
        store: keeps the records.
        clock: the two clocks.
        may_be_valid: whether a session may be valid, by this node's knowledge.
        most: the largest number of sessions of a subject; None for any number.
        refuse: whether a log-in beyond ``most`` is refused; otherwise the oldest session is revoked.
        keep_address: whether the client's address is recorded.

    Attributes:
        lost: how many uses of a session could not be recorded.
    """

    def __init__(
        self,
        store: SessionStore,
        clock: Clock,
        *,
        may_be_valid: Callable[[Verified], bool],
        most: int | None,
        refuse: bool,
        keep_address: bool,
    ) -> None:
        self._store = store
        self._clock = clock
        self._is_acceptable = may_be_valid
        self._most = most
        self._refuse = refuse
        self._keep_address = keep_address
        self._notes: dict[FamilyId, tuple[Verified, LogIn]] = {}
        self._ended: set[str] = set()
        self.lost = 0

    # Log-ins

    async def enter(
        self,
        verified: Verified,
        *,
        replaces: FamilyId | None,
        user_agent: str,
        address: str | None,
        before_ending: Callable[[], Awaitable[object]],
    ) -> Sequence[Deny]:
        """Record a log-in, before its token is sent; return what denies the sessions that have to end for it.

        The caller denies them when nothing can fail any more: a log-in that is refused ends no other session.

        Args:
            verified: the content of its token.
            replaces: the session that the log-in replaces.
            user_agent: the client's name for itself.
            address: the client's address.
            before_ending: called before anything is recorded that ends a session; raises if no session can be ended now.

        Raises:
            SessionLimitReached: the subject has as many sessions as it may have.
            SessionConflict: other log-ins of the subject came first in every round.
            StoreUnavailable: there is a limit, and the number of sessions cannot be known.
            QuorumLost: as ``before_ending``.
        """
        kept = address if self._keep_address else None
        log_in = log_in_of(verified, minute(self._wall_ms()), label=label(user_agent), address=kept)
        ended: Sequence[Deny] = ()
        if self._most is not None:
            ended = await self._admit(verified, log_in, replaces, self._most, before_ending)
        try:
            await self._store.put(self._record(verified, log_in))
        except (Conflict, StoreUnavailable):
            self._note_use(verified, log_in)  # written later
        return ended

    def _record(self, verified: Verified, log_in: LogIn, version: int = 0) -> Record:
        claims = verified.claims
        return Record(claims.family, encode(log_in), claims.absolute_end_ms, claims.subject, version)

    async def _admit(
        self, verified: Verified, log_in: LogIn, replaces: FamilyId | None, most: int, before_ending: Callable[[], Awaitable[object]]
    ) -> Sequence[Deny]:
        """Admit a log-in only within the limit: one record, the roster, names the sessions, and it changes in one step."""
        subject, family = verified.subject or "", verified.family
        for _ in range(ROUNDS):
            roster = await self._store.get(roster_id(subject)) or Record(roster_id(subject), b"", 0)
            valid = await self._all_valid(subject, roster)
            valid.pop(replaces or FamilyId(""), None)
            stay, end = admit(valid, family, log_in, most)
            if end and self._refuse:
                raise SessionLimitReached(f"there are {len(valid)} sessions, and {most} may be")
            if end:
                await before_ending()
            until_ms = max(one.absolute_end_ms for one in stay.values())
            try:
                await self._store.put(replace(roster, content=encode_roster(stay), until_ms=until_ms))
            except Conflict:
                continue
            return [Deny(oldest, valid[oldest].absolute_end_ms) for oldest in end]
        raise SessionConflict("others log in as the same subject at the same time")

    async def _all_valid(self, subject: str, roster: Record) -> dict[FamilyId, LogIn]:
        """Return the subject's valid sessions: those that have records, and those on the roster whose record is not written yet."""
        named = _decoded(roster, decode_roster) if roster.content else {}
        found = {family: log_in for family, log_in in named.items() if self._may_be_valid(family, subject, log_in)}
        return found | {family: log_in async for family, log_in, is_valid in self._recorded(subject) if is_valid}

    # Lists

    async def of_subject(self, subject: str) -> list[Device]:
        """Return the valid sessions of a subject, the newest first.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        valid = [(family, log_in) async for family, log_in, is_valid in self._recorded(subject) if is_valid]
        return [_device(family, log_in) for family, log_in in newest_first(valid)]

    async def owned(self, subject: str, id: str) -> Deny | None:
        """Return the entry that logs out a session of this subject; None if the subject has no such session, or certainly no longer.

        Raises:
            StoreUnavailable: the store cannot be reached.
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
        """Yield each recorded session of a subject, and whether it may be valid."""
        after = ""
        while page := await self._store.of_subject(subject, after=after, limit=PAGE):
            for record in page:
                family, log_in = FamilyId(record.id), self._newest(FamilyId(record.id), _decoded(record, decode))
                is_valid = self._may_be_valid(family, subject, log_in)
                if not is_valid and self._is_over(family, subject, log_in):
                    self._ended.add(family)
                yield family, log_in, is_valid
            after = page[-1].id

    def _newest(self, family: FamilyId, log_in: LogIn) -> LogIn:
        """Return a log-in with the use that this node has noted and not written yet."""
        return refreshed(log_in, self._notes[family][1]) if family in self._notes else log_in

    def _may_be_valid(self, family: FamilyId, subject: str, log_in: LogIn) -> bool:
        return self._is_acceptable(log_in.verified(family, subject))

    def _is_over(self, family: FamilyId, subject: str, log_in: LogIn) -> bool:
        """Whether a session is over for good, under any id that it may have now.

        An idle session is not: another node may have seen it a moment ago, and not have written that yet.
        """
        awake = msgspec.structs.replace(log_in, idle_end_ms=log_in.absolute_end_ms)
        under_its_family = msgspec.structs.replace(awake, sid=family)
        return not any(self._may_be_valid(family, subject, one) for one in (awake, under_its_family))

    # Writing later

    def note(self, verified: Verified) -> None:
        """Note that a session was used, or has a new token. Waits for nothing."""
        if verified.subject is not None:
            self._note_use(verified, log_in_of(verified, minute(self._wall_ms())))

    async def take_new_id(self, verified: Verified) -> None:
        """Record at once, if possible, that a session takes a new id: its record names the id by which it is validated."""
        self.note(verified)
        with suppress(StoreUnavailable):
            await self._write_note(verified.family)

    def _note_use(self, verified: Verified, log_in: LogIn) -> None:
        family = verified.family
        if family in self._notes:
            older, recorded = self._notes[family]
            newest = refreshed(recorded, log_in)
            self._notes[family] = (verified if newest.sid == verified.sid else older), newest
        elif len(self._notes) < MOST_NOTES:
            self._notes[family] = verified, log_in
        else:
            self.lost += 1

    def __len__(self) -> int:
        return len(self._notes)

    async def run(self) -> None:
        """Write notes until cancelled, and the rest then."""
        async with anyio.create_task_group() as tasks:
            # The store must run until the last note is written, which is after the cancellation of everything else here.
            storing = anyio.CancelScope(shield=True)
            tasks.start_soon(self._run_store, storing)
            try:
                while True:
                    await self._clock.sleep(WRITE_EVERY_S)
                    await self.write_notes()
            finally:
                try:
                    with anyio.move_on_after(5, shield=True):
                        await self.write_notes()
                    self._give_up()
                finally:
                    storing.cancel()  # its scope is shielded from all others

    async def _run_store(self, scope: anyio.CancelScope) -> None:
        with scope:
            await self._store.run()

    def _give_up(self) -> None:
        if self._notes:
            logger.warning("the last use of %d sessions could not be written to the store before the end", len(self._notes))
            self.lost += len(self._notes)
            self._notes.clear()

    async def write_notes(self) -> None:
        """Write the notes, and delete records of sessions that are over. Failures are tried again later."""
        try:
            for family in [*self._notes]:
                await self._write_note(family)
            for ended in [*self._ended]:
                await self._store.delete(ended)
                self._ended.discard(ended)
        except StoreUnavailable as problem:
            logger.debug("the last use of sessions is written later: %s", problem)

    async def _write_note(self, family: FamilyId) -> None:
        noted = self._notes.get(family)
        if noted is not None and await self._write(*noted) and self._notes.get(family) is noted:
            del self._notes[family]

    async def _write(self, verified: Verified, log_in: LogIn) -> bool:
        """Write one note; return whether it needs no other try."""
        family = verified.family
        record = await self._store.get(family)
        try:
            recorded = decode(record.content) if record is not None else None
        except UNREADABLE:
            self.lost += 1
            return True  # another release may need this record, so nothing overwrites it
        newest = refreshed(recorded, log_in) if recorded is not None else log_in
        if newest == recorded or not self._is_acceptable(verified):
            return True
        try:
            await self._store.put(self._record(verified, newest, record.version if record is not None else 0))
        except Conflict:
            return False  # another node has written meanwhile, perhaps the same
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
