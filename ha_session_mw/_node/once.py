"""Has a request with an idempotency key executed once in the whole cluster, and keeps its answer for repeats."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .._core.records.once import KEPT_MS, Once, decide, digest, encode, encode_answer, record_id
from ..abc import Clock, Conflict, Record, SessionStore
from ..exceptions import NotSupported, RequestInFlight


class Begun:
    """A request that is the first with its key: the record that says so."""

    def __init__(self, record: Record, once: Once) -> None:
        self.record = record
        self.once = once


class OnceKeeper:
    """The answers that one node gives, and those of all nodes.

    Args:
        open_store: opens the store on first use; returns None if the cluster has none.
        run_aside: runs the store's background work from then on.
        clock: the two clocks.
    """

    def __init__(
        self,
        open_store: Callable[[], SessionStore | None],
        run_aside: Callable[[str, Callable[[], Awaitable[None]]], None],
        clock: Clock,
    ) -> None:
        self._open_store = open_store
        self._run_aside = run_aside
        self._clock = clock
        self._opened: SessionStore | None = None

    async def begin(self, owner: str, subject: str | None, key: str, request: bytes, *, lease_s: float) -> Begun | Once:
        """Claim a key; return the record of the first request if that is answered.

        Raises:
            IdempotencyKeyReused, RequestInFlight: see :func:`~ha_session_mw._core.records.once.decide`.
            StoreUnavailable: the store cannot be reached, so nothing may be executed.
            NotSupported: the cluster has no store.
        """
        store = self._store()
        now_ms = self._clock.wall_s() * 1000
        once = Once(digest(request), lease_ms=int(now_ms + lease_s * 1000))
        record = Record(record_id(owner, key), encode(once), until_ms=int(now_ms + KEPT_MS), subject=subject)
        try:
            return Begun(await store.put(record), once)
        except Conflict as conflict:
            current = conflict.current
        if current is None:
            raise RequestInFlight("the first request with this key has just ended without an answer")
        found = decide(current.content, once.request, now_ms)
        if isinstance(found, Once):
            return found
        try:
            taken = Record(record.id, record.content, record.until_ms, subject, version=current.version)
            return Begun(await store.put(taken), once)
        except Conflict:
            raise RequestInFlight("another repeat has taken over") from None

    async def find(self, owner: str, key: str, request: bytes) -> Once | None:
        """Return the record of the first request with a key if that is answered; None if there is none that could be. Claims nothing.

        Raises:
            IdempotencyKeyReused, RequestInFlight: see :func:`~ha_session_mw._core.records.once.decide`.
            StoreUnavailable: the store cannot be reached.
            NotSupported: the cluster has no store.
        """
        record = await self._store().get(record_id(owner, key))
        if record is None:
            return None
        found = decide(record.content, digest(request), self._clock.wall_s() * 1000)
        return found if isinstance(found, Once) else None

    async def keep(self, begun: Begun, answer: object) -> None:
        """Keep the answer for repeats; durable on return.

        Raises:
            TypeError, ValueError: the answer cannot be kept.
            StoreUnavailable: it was not kept. Repeats are refused until the lease ends.
        """
        done = Once(begun.once.request, lease_ms=0, answer=encode_answer(answer))
        record = begun.record
        try:
            await self._store().put(Record(record.id, encode(done), record.until_ms, record.subject, version=record.version))
        except Conflict:
            raise RequestInFlight("this request took longer than its lease, and a repeat has taken over") from None

    async def give_up(self, begun: Begun) -> None:
        """Let the next request with this key be the first one. After the lease, a repeat may have taken over, whose claim stays."""
        if self._clock.wall_s() * 1000 < begun.once.lease_ms:
            await self._store().delete(begun.record.id)

    def _store(self) -> SessionStore:
        if self._opened is None:
            self._opened = self._open_store()
            if self._opened is None:
                raise NotSupported("HA_SESSION_CLUSTER has no store that could keep the answers")
            self._run_aside("answers", self._opened.run)
        return self._opened
