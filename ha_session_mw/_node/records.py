"""Session data in the store: read through copies, changed so that nothing is lost, and deleted with its session.

A token names the version that it needs, so a copy is good if it is of that version or a later one. It is looked for in this
node's memory, then in the token itself, then at the peers, then in the store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import anyio
import msgspec

from .._core.records.session_data import ELSEWHERE, OVERHEAD_BYTES, Stored, UnreadableError, merge
from .._core.token import data
from .._peering.asking import Asking
from ..abc import Clock, Conflict, Grant, Record, SessionStore
from ..exceptions import RecordLost, SessionConflict, SessionTooLarge, StoreUnavailable
from ..models import Claims, Deny, Entry
from .record_copies import RecordCopies
from .single_flight import SingleFlight

logger = logging.getLogger("ha_session_mw.records")

VERSION = 1
TRIES = 128
"""How often a change is merged onto what others have written meanwhile. Each time one of them got through, and a browser has no more
than a hundred requests under way."""
LIST_LIMIT_S = 0.25
"""How long a log-out of all sessions of a subject waits until it knows their records: as long as for a peer."""
DELETE_AGAIN_S = 1.0


class Question(msgspec.Struct, frozen=True, array_like=True):
    """Have you a copy of this record, of this version or a later one?"""

    version: int
    id: str
    needed: int


class Copy(msgspec.Struct, frozen=True, array_like=True):
    """What a node has. ``record`` and ``content`` go with a yes."""

    version: int
    says: Literal["yes", "unknown"]
    record: int = 0
    content: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode_question = msgspec.msgpack.Decoder(Question).decode
decode_copy = msgspec.msgpack.Decoder(Copy).decode


class Records:
    """The records of sessions, as this node sees them.

    Args:
        store: keeps them for all nodes.
        copies: this node's copies, to which the store reports changes.
        clock: bounds the waiting.
        asking: asks peers for their copies; None where there are none.
    """

    def __init__(self, store: SessionStore, copies: RecordCopies, clock: Clock, *, asking: Asking[Copy] | None = None) -> None:
        self.max_data_bytes = store.max_bytes - OVERHEAD_BYTES
        self._store = store
        self._copies = copies
        self._poll_now = store.poll_now
        self._clock = clock
        self._asking = asking
        self._flights: SingleFlight[Stored | StoreUnavailable] = SingleFlight()
        self._owed: set[str] = set()
        self._owes = anyio.Event()
        self._told: set[str] = set()
        self._is_running = False

    # Reading

    async def load(self, claims: Claims, peers: Callable[[], Sequence[str]]) -> Stored:
        """A session's data, of the version that its token needs or a later one.

        Args:
            claims: of the token.
            peers: whom to ask for a copy, in this order.

        Raises:
            StoreUnavailable: it cannot be reached, or not read.
        """
        known = self._known(claims)
        if known is not None:
            return known
        needed = max(claims.record, self._copies.version(claims.family))
        question = claims.family, needed

        async def find() -> Stored | StoreUnavailable:
            return await self._find(claims.family, needed, peers())

        found = await self._flights.join(question, find) if self._flights.has_room() else await find()
        if isinstance(found, Stored):
            return found
        raise StoreUnavailable() if found is None else type(found)(found.reason)

    def _known(self, claims: Claims) -> Stored | None:
        """What is here: in this node's memory, or in the token."""
        if self._poll_now is not None:
            self._poll_now()
        known = self._copies.get(claims.family)
        if known is not None and known.version >= claims.record:
            return known
        if claims.data == ELSEWHERE or self._copies.version(claims.family) > claims.record:
            return None
        stored = self._read(claims.record, claims.data)
        self._copies.keep_read(claims.family, stored, self._copies.mark())
        return stored

    async def _find(self, id: str, needed: int, peers: Sequence[str]) -> Stored | StoreUnavailable:
        """What others have. Returns what went wrong, for all that wait for it."""
        begun = self._copies.mark()
        try:
            found = await self._ask_peers(id, needed, peers) or await self._ask_store(id, needed)
        except StoreUnavailable as problem:
            return problem
        self._copies.keep_read(id, found, begun)
        return found

    async def _ask_peers(self, id: str, needed: int, peers: Sequence[str]) -> Stored | None:
        if self._asking is None or not peers:
            return None
        copy = await self._asking.ask(_encode(Question(VERSION, id, needed)), peers)
        if copy is None or copy.record < needed:
            return None
        try:
            return Stored.decode(copy.record, copy.content)
        except UnreadableError:
            return None

    async def newest(self, claims: Claims) -> Stored | None:
        """A session's data as the store has it at this moment; None if there is no record, and its token does without.

        Raises:
            StoreUnavailable: it cannot be reached, or not read.
        """
        begun = self._copies.mark()
        record = await self._store.get(claims.family)
        if record is None and claims.data != ELSEWHERE:
            return None
        stored = self._checked(record, claims.record)
        self._copies.keep_read(claims.family, stored, begun)
        return stored

    async def _ask_store(self, id: str, needed: int) -> Stored:
        return self._checked(await self._store.get(id), needed)

    def _checked(self, record: Record | None, needed: int) -> Stored:
        if record is None or record.version < needed:
            what = (
                "a record is not there, or is too old: its session was logged out just now, or the store has lost what it had acknowledged"
            )
            raise RecordLost(self._tell(what))
        return self._read(record.version, record.content)

    def _read(self, version: int, content: bytes) -> Stored:
        try:
            return Stored.decode(version, content)
        except UnreadableError as exc:
            what = "a record was written by another release, or is damaged; it is left as it is"
            raise StoreUnavailable(self._tell(what)) from exc

    def _tell(self, what: str) -> str:
        """Log it once: it concerns many a record, and each request with one."""
        if what not in self._told:
            self._told.add(what)
            logger.error("%s; this is told once", what)
        return what

    async def on_question(self, body: bytes) -> bytes:
        """A peer asks for a copy. It is told what this node has by itself: questions are not passed on."""
        try:
            question = _decode_question(body)
        except RecursionError as exc:
            raise ValueError("no question") from exc
        known = self._copies.get(question.id)
        if question.version != VERSION or known is None or known.version < question.needed:
            return _encode(Copy(VERSION, "unknown"))
        return _encode(Copy(VERSION, "yes", known.version, known.encode()))

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
        """Store a session's data; returns it as it then stands, with what others have changed meanwhile.

        Args:
            claims: of the session.
            base: the data that the request began with.
            mine: what it made of it.
            raw: the same as it is stored.
            strict: whether a change by others is told.
            guard: a lock that must be held still.
            ensure_valid: raises if the session does not stand; asked before anything is written.
            is_revoked: whether it was logged out; asked afterwards.

        Raises:
            SessionConflict: others have changed it meanwhile, and ``strict``.
            LockLost: the guard is held no more.
            SessionTooLarge: with what others have put into it, it is more than the store takes.
            StoreUnavailable: it cannot be stored, or what is stored cannot be read.
        """
        wanted = msgspec.structs.replace(base, data=raw)
        for _ in range(TRIES):
            ensure_valid()
            begun = self._copies.mark()
            try:
                stored = await self._put(claims, wanted, guard)
            except Conflict as conflict:
                self._copies.hear(claims.family, conflict.current.version if conflict.current else 0)
                if conflict.current is None:  # and the session stands: the store has lost it, and this request knows it
                    wanted = msgspec.structs.replace(base, version=0, data=raw)
                elif strict and base.version:
                    raise SessionConflict("it has changed since this request read it") from None
                else:
                    wanted = self._merged(base, mine, conflict.current)
                continue
            self._copies.keep_written(claims.family, stored, begun)
            if is_revoked():
                await self.forget(claims.family)
                ensure_valid()
            return stored
        raise StoreUnavailable("others change this session all the time")

    async def _put(self, claims: Claims, wanted: Stored, guard: Grant | None) -> Stored:
        content = wanted.encode()
        if len(content) > self._store.max_bytes:
            raise SessionTooLarge(f"with what others have put into it, the session has {len(content)} bytes, too many for the store")
        record = Record(claims.family, content, claims.absolute_end_ms, claims.subject, wanted.version)
        return msgspec.structs.replace(wanted, version=(await self._store.put(record, guard=guard)).version)

    def _merged(self, base: Stored, mine: Mapping[str, object], current: Record) -> Stored:
        theirs = self._read(current.version, current.content)
        return msgspec.structs.replace(theirs, data=data.encode(merge(base, mine, theirs)))

    # Deleting

    async def forget(self, id: str) -> None:
        """Delete the record of a session that has ended; later, if that cannot be done now."""
        self._copies.drop(id)
        try:
            await self._store.delete(id)
        except StoreUnavailable:
            self._owe(id)

    async def forget_soon(self, id: str) -> None:
        """Delete the record of a session that has ended. Whoever logs out does not wait for that, least of all for a store that is gone."""
        if self._is_running:
            self._copies.drop(id)
            self._owe(id)
        else:
            await self.forget(id)

    async def of_subject(self, subject: str) -> list[str]:
        """The ids of a subject's records; of those that can be found now, and soon: a log-out waits for it."""
        found: list[str] = []
        listed = False
        with self._clock.move_on_after(LIST_LIMIT_S):
            try:
                while page := await self._store.of_subject(subject, after=found[-1] if found else ""):
                    found += [record.id for record in page]
                listed = True
            except StoreUnavailable:
                pass  # and told
        if not listed:
            logger.warning("the records of a subject that is logged out cannot all be listed; the others are deleted when they have ended")
        return found

    def on_news(self, entry: Entry) -> None:
        """A session has ended somewhere. Should a write have been under way here, its record is there again."""
        if isinstance(entry, Deny) and self._copies.drop(entry.id):
            self._owe(entry.id)

    def _owe(self, id: str) -> None:
        self._owed.add(id)
        self._owes.set()

    async def run(self) -> None:
        """Carries the reading, the deleting, and what the store does besides, until cancelled."""
        self._is_running = True
        self._copies.forget_all()
        try:
            async with anyio.create_task_group() as tasks:
                for task in (self._store.run, self._flights.run, self._delete):
                    tasks.start_soon(task)
        finally:
            self._is_running = False

    async def _delete(self) -> None:
        while True:
            self._owes = anyio.Event()  # here, for one of an earlier run would belong to that run's event loop
            if not self._owed:
                await self._owes.wait()
            for id in [*self._owed]:
                self._owed.discard(id)  # before, for it may have to be deleted once more
                try:
                    await self.forget(id)
                except BaseException:
                    self._owed.add(id)
                    raise
            if self._owed:
                with self._clock.move_on_after(DELETE_AGAIN_S):
                    await anyio.sleep_forever()
