"""Session data in the store: read through copies, changed without loss, and deleted with its session.

A token names the version of the record that it needs, so a copy of that version or a later one is good enough. A node looks for it
in its memory, then in the token, then at the peers, then in the store.

A version that a token names was acknowledged. So its data is lost if the store answers that it has no such record, or an older one. An
empty record takes its place, once: the first node whose write succeeds reports the loss, and all others find the new record.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import anyio
import msgspec

from .._core.records.session_data import ELSEWHERE, OVERHEAD_BYTES, DamagedError, Stored, UnreadableError, merge
from .._core.token import data
from ..abc import Clock, Conflict, Grant, Record, SessionStore
from ..exceptions import ProblemError, SessionConflict, SessionTooLarge, StoreUnavailable
from ..models import Claims
from .peer_copies import Copy, PeerCopies
from .record_copies import RecordCopies
from .record_deletions import RecordDeletions
from .recoveries import Recoveries
from .single_flight import SingleFlight

if TYPE_CHECKING:
    from .._peering.asking import Asking

logger = logging.getLogger("ha_session_mw.records")

TRIES = 128
"""Tries to merge a change onto a newer version. Each failed try means that another request succeeded, and a browser has no more than
a hundred requests under way."""
NOTHING = data.encode({})


class Loaded(NamedTuple):
    """A session's data, and whether it was found just now that earlier data is lost."""

    stored: Stored
    is_lost: bool = False


class LostRecord(msgspec.Struct, frozen=True):
    """The answer of a store that has no record of a session, or not in the version that was acknowledged.

    Attributes:
        version: of the record that the store has instead; 0 if it has none.
    """

    version: int


GiveUp = Callable[[], Awaitable[None]]
"""Called before an empty record takes the place of a lost one. Raises unless the session is certainly valid, and goes on without data."""


class Records:
    """The session records, as one node sees them.

    Args:
        store: keeps them for all nodes.
        copies: this node's copies, to which the store reports changes.
        clock: bounds the waiting.
        recoveries: counts what was rebuilt.
        asking: asks peers for their copies; None without peers.

    Attributes:
        max_data_bytes: the most bytes of data that a record takes.
        peer_copies: the copies that other nodes have.
        deletions: deletes the records of sessions that have ended.
    """

    def __init__(
        self, store: SessionStore, copies: RecordCopies, clock: Clock, recoveries: Recoveries, *, asking: Asking[Copy] | None = None
    ) -> None:
        self.max_data_bytes = store.max_bytes - OVERHEAD_BYTES
        self._store = store
        self._copies = copies
        self._poll_now = store.poll_now
        self._recoveries = recoveries
        self.peer_copies = PeerCopies(copies, asking)
        self.deletions = RecordDeletions(store, copies, clock)
        self._flights: SingleFlight[Loaded | ProblemError] = SingleFlight()
        self._logged: set[str] = set()

    def trouble(self) -> str | None:
        """Return why session data cannot be reached or changed; None if nothing is wrong as far as is known."""
        return self._store.trouble()

    # Reading

    async def load(
        self,
        claims: Claims,
        peers: Callable[[], Sequence[str]],
        *,
        give_up: GiveUp,
        is_revoked: Callable[[], bool],
    ) -> Loaded:
        """Return a session's data, in the version that its token needs or a later one; empty data in place of lost data.

        Args:
            claims: of the token.
            peers: returns the URLs of the peers to ask for a copy, in order.
            give_up: called if the data is lost.
            is_revoked: whether the session was revoked; called after that.

        Raises:
            StoreUnavailable: the record cannot be reached or read.
            ProblemError: the data is lost, and ``give_up`` has raised this.
        """
        known = self._known(claims)
        if known is not None:
            return Loaded(known)
        needed = max(claims.record, self._copies.version(claims.family))
        question = claims.family, needed

        async def find() -> Loaded | ProblemError:
            try:
                return await self._find(claims, needed, peers()) or await self._replace_lost(claims, needed, give_up, is_revoked)
            except ProblemError as problem:
                return problem

        found = await self._flights.join(question, find) if self._flights.has_room() else await find()
        if isinstance(found, Loaded):
            return found
        raise StoreUnavailable() if found is None else type(found)(found.reason, check=found.check)

    def _known(self, claims: Claims) -> Stored | None:
        """Return the copy in this node's memory or in the token; None if neither is good enough."""
        if self._poll_now is not None:
            self._poll_now()
        known = self._copies.get(claims.family)
        if known is not None and known.reaches(claims.record):
            return known
        if claims.data == ELSEWHERE or self._copies.version(claims.family) > claims.record:
            return None
        try:
            stored = self._decode(claims.record, claims.data)
        except DamagedError:
            return None
        self._copies.keep_read(claims.family, stored, self._copies.mark())
        return stored

    async def _find(self, claims: Claims, needed: int, peers: Sequence[str]) -> Loaded | None:
        """Return the copy of a peer, or the store's record, for all requests that wait for it; None if the store has lost the record."""
        id = claims.family
        begun, was_unknown = self._copies.mark(), not self._copies.version(id)
        copy = await self.peer_copies.ask(id, needed, peers)
        found = copy or self._readable(await self._store.get(id), needed)
        if isinstance(found, LostRecord):
            return None
        self._copies.keep_read(id, found, begun)
        if was_unknown:
            self._recoveries.recover(id, "store" if copy is None else "copy")
        return Loaded(found)

    async def _replace_lost(self, claims: Claims, needed: int, give_up: GiveUp, is_revoked: Callable[[], bool]) -> Loaded:
        """Put an empty record in the place of a lost one, or return what another node has put there."""
        await give_up()
        for _ in range(TRIES):
            begun = self._copies.mark()
            found = self._readable(await self._store.get(claims.family), needed)
            if not isinstance(found, LostRecord):
                self._copies.keep_read(claims.family, found, begun)
                return Loaded(found)
            self._copies.drop(claims.family)  # its version may be one that the store gives again
            try:
                stored = await self._put(claims, Stored.in_token(NOTHING).in_place_of(needed, version=found.version), None)
            except Conflict:
                continue
            self._copies.keep_written(claims.family, stored, begun)
            if is_revoked():
                await self.deletions.forget(claims.family)
            else:
                self._log_once("the store has lost the data of a session, which goes on with empty data")
                self._recoveries.lose(claims, ended=False)
            return Loaded(stored, is_lost=True)
        raise StoreUnavailable("other requests change this session all the time")

    async def newest(self, claims: Claims) -> Stored | None:
        """Return a session's data that the store has at this moment; None if it has none, or has lost what the token needs.

        Raises:
            StoreUnavailable: the record cannot be reached or read.
        """
        begun = self._copies.mark()
        found = self._readable(await self._store.get(claims.family), claims.record)
        if isinstance(found, LostRecord):
            return None
        self._copies.keep_read(claims.family, found, begun)
        return found

    def _readable(self, record: Record | None, needed: int) -> Stored | LostRecord:
        """Return the data in the store's answer, unless what was acknowledged is lost."""
        if record is None:
            return LostRecord(0)
        try:
            found = self._decode(record.version, record.content)
        except DamagedError:
            return LostRecord(record.version)
        return found if found.reaches(needed) else LostRecord(record.version)

    def _decode(self, version: int, content: bytes) -> Stored:
        try:
            return Stored.decode(version, content)
        except DamagedError:
            self._log_once("a record is damaged")
            raise
        except UnreadableError as exc:
            what = "a record was written by another release; it is left as it is"
            raise StoreUnavailable(self._log_once(what)) from exc

    def _log_once(self, what: str) -> str:
        """Log a problem once, because it concerns many records and each request for one; return its text."""
        if what not in self._logged:
            self._logged.add(what)
            logger.error("%s; this line is not repeated", what)
        return what

    # Changing

    async def save(
        self,
        claims: Claims,
        base: Stored,
        mine: Mapping[str, object],
        raw: bytes,
        *,
        strict: bool,
        guard: Grant | None,
        ensure_valid: Callable[[], None],
        is_revoked: Callable[[], bool],
    ) -> Stored:
        """Store a session's data; return it as stored, merged with the changes that other requests made meanwhile.

        Args:
            claims: of the session.
            base: the data with which the request began.
            mine: the data as the request has changed it.
            raw: ``mine``, encoded.
            strict: whether a change by another request raises.
            guard: a lock that must still be held.
            ensure_valid: raises if the session is not valid; called before each write.
            is_revoked: whether the session was revoked; called after the write.

        Raises:
            SessionConflict: another request has changed the session meanwhile, and ``strict`` is set.
            LockLost: the guard is no longer held.
            SessionTooLarge: the merged data is larger than the store takes.
            StoreUnavailable: the data cannot be stored, or the stored record cannot be read.
        """
        wanted, has_lost = msgspec.structs.replace(base, data=raw), False
        for _ in range(TRIES):
            ensure_valid()
            begun = self._copies.mark()
            try:
                stored = await self._put(claims, wanted, guard)
            except Conflict as conflict:
                self._copies.hear(claims.family, conflict.current.version if conflict.current else 0)
                theirs = self._readable(conflict.current, base.version)
                if has_lost := isinstance(theirs, LostRecord):
                    self._copies.drop(claims.family)
                wanted = _onto(theirs, base, mine, raw, strict=strict)
                continue
            self._copies.keep_written(claims.family, stored, begun)
            if has_lost:
                self._recoveries.recover(claims.family, "request")
            if is_revoked():
                await self.deletions.forget(claims.family)
                ensure_valid()
            return stored
        raise StoreUnavailable("other requests change this session all the time")

    async def _put(self, claims: Claims, wanted: Stored, guard: Grant | None) -> Stored:
        content = wanted.encode()
        if len(content) > self._store.max_bytes:
            raise SessionTooLarge(f"with the changes of other requests, the session has {len(content)} bytes, too many for the store")
        record = Record(claims.family, content, claims.absolute_end_ms, claims.subject, wanted.version)
        return msgspec.structs.replace(wanted, version=(await self._store.put(record, guard=guard)).version)

    async def run(self) -> None:
        """Run reads, deletions and the store's background work until cancelled."""
        self._copies.forget_all()
        async with anyio.create_task_group() as tasks:
            for task in (self._store.run, self._flights.run, self.deletions.run):
                tasks.start_soon(task)


def _onto(theirs: Stored | LostRecord, base: Stored, mine: Mapping[str, object], raw: bytes, *, strict: bool) -> Stored:
    """Return what to store after another request has changed the record, or the store has lost it.

    Args:
        theirs: what the store has now.
        base, mine, raw, strict: as in :meth:`Records.save`.
    """
    if isinstance(theirs, LostRecord):
        # The session is valid, so the store has lost the record, and this request still has the data.
        return msgspec.structs.replace(base, data=raw).in_place_of(base.version, version=theirs.version)
    if strict and base.version:
        raise SessionConflict("it has changed since this request read it") from None
    return msgspec.structs.replace(theirs, data=data.encode(merge(base, mine, theirs)))
