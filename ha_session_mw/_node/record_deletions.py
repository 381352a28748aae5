"""The records of sessions that have ended: deleted at once, or as soon as the store takes it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio

from .._core.calls.rate_limit import RateLimiter
from ..abc import Clock, SessionStore
from ..exceptions import StoreUnavailable
from ..models import Deny, Entry
from .record_copies import RecordCopies

logger = logging.getLogger("ha_session_mw.records")

LIST_LIMIT_S = 0.25
"""How long a log-out of a subject waits for the list of its records: as long as for a peer's answer."""
DELETE_AGAIN_S = 1.0
"""Pause after a deletion that failed."""
DELETIONS_PER_S, DELETIONS_AT_ONCE = 2, 20
"""Deletions per second in the long run, and those without a pause after it was quiet. In a storm of log-outs, each deletes many records."""


class RecordDeletions:
    """Deletes records, and remembers those that it owes.

    Args:
        store: keeps the records.
        copies: this node's copies, which go first.
        clock: bounds the waiting.
    """

    def __init__(self, store: SessionStore, copies: RecordCopies, clock: Clock) -> None:
        self._store = store
        self._copies = copies
        self._clock = clock
        self._owed: set[str] = set()
        self._owes = anyio.Event()
        self._is_running = False

    async def forget(self, id: str) -> None:
        """Delete the record of a session that has ended; later, if the store is unavailable now."""
        self._copies.drop(id)
        try:
            await self._store.delete(id)
        except StoreUnavailable:
            self._owe(id)

    async def forget_soon(self, id: str) -> None:
        """Delete the record of a session that has ended, in the background: a log-out does not wait for the store."""
        if self._is_running:
            self._copies.drop(id)
            self._owe(id)
        else:
            await self.forget(id)

    def on_news(self, entries: Sequence[Entry]) -> None:
        """Delete the records of sessions that were logged out somewhere: a write under way here may have stored one again."""
        for entry in entries if len(self._copies) else ():
            if isinstance(entry, Deny) and self._copies.drop(entry.id):
                self._owe(entry.id)

    async def of_subject(self, subject: str) -> list[str]:
        """Return the ids of a subject's records, as far as the store lists them soon: a log-out waits for the list."""
        found: list[str] = []
        listed = False
        with self._clock.move_on_after(LIST_LIMIT_S):
            try:
                while page := await self._store.of_subject(subject, after=found[-1] if found else ""):
                    found += [record.id for record in page]
                listed = True
            except StoreUnavailable:
                pass  # logged below
        if not listed:
            logger.warning("the records of a subject that is logged out cannot all be listed; the others are deleted when they have ended")
        return found

    def _owe(self, id: str) -> None:
        self._owed.add(id)
        self._owes.set()

    async def run(self) -> None:
        """Delete what is owed until cancelled."""
        self._is_running = True
        pace = RateLimiter(DELETIONS_PER_S, DELETIONS_AT_ONCE)
        try:
            while True:
                self._owes = anyio.Event()  # made here: an event of an earlier run belongs to that run's event loop
                if not self._owed:
                    await self._owes.wait()
                wait_s = pace.spend(1, self._clock.boot_s()) if await self._delete_owed() else DELETE_AGAIN_S
                if wait_s:
                    await self._clock.sleep(wait_s)
        finally:
            self._is_running = False

    async def _delete_owed(self) -> bool:
        """Delete the records that are owed now; return whether the store has taken that."""
        ids, self._owed = self._owed, set()  # before the deletion: a second one of an id may become due meanwhile
        is_done = False
        for id in ids:
            self._copies.drop(id)
        try:
            await self._store.delete_all(ids)
            is_done = True
        except StoreUnavailable:
            pass  # the store has logged why
        finally:
            if not is_done:
                self._owed |= ids
        return is_done
