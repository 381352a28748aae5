"""The port of a store of records: session data too large for a token, and log-ins, which are found by their subject."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

from ..models import Reticent
from .locks import Grant

MAX_RECORD_BYTES = 1 << 20
"""Largest record that every store of this package accepts. etcd's request limit is 1.5 MB, and every change rewrites the whole record."""

OnNewer = Callable[[str, int], None]
"""Takes the id and the version of a record that any node has put, or version 0 of one that any node has deleted.

Returns at once and never raises. A store calls it as soon as it has the news.
"""

OnGap = Callable[[], None]
"""Says that records may have changed without a call of :data:`OnNewer`, so copies of them are worthless.

Returns at once and never raises. A store calls it when it begins to follow the writes of others, and after each interruption of that.
"""


def ignore(*_: object) -> None:
    """Take a callback's arguments and do nothing. This suffices for a store whose records are not copied."""


class Record(Reticent, frozen=True):
    """One record in a store.

    Attributes:
        id: the family of a session, or another id that cannot be guessed.
        content: opaque bytes.
        until_ms: the end of the record: afterwards it may be deleted (wall clock).
        subject: the subject by which it is listed; None for a visitor's record.
        version: grows with each put, and is never used again for this id, not even after a delete. 0: not stored yet.
    """

    _unshown: ClassVar[frozenset[str]] = frozenset({"id", "content", "subject"})
    id: str
    content: bytes
    until_ms: int
    subject: str | None = None
    version: int = 0

    def require_length(self, max_bytes: int) -> None:
        """Raise ValueError if the content is longer than a store takes."""
        if len(self.content) > max_bytes:
            raise ValueError(f"a record may have {max_bytes} bytes, and this one has {len(self.content)}")


class Conflict(Exception):
    """The stored record has another version than the one to be replaced.

    Attributes:
        current: the stored record; None if there is none.
    """

    def __init__(self, current: Record | None) -> None:
        super().__init__("the record has changed meanwhile" if current else "the record is gone")
        self.current = current


class SessionStore(ABC):
    """Keeps the records of one kind for all nodes of the cluster.

    Every method ends in bounded time. It raises :class:`~ha_session_mw.exceptions.StoreUnavailable` if the answer cannot be known,
    or the change cannot be made durable, in that time. A put or delete that raised it may have been done nevertheless.

    Attributes:
        max_bytes: the largest content.
        poll_now: calls ``on_newer`` for everything that is known elsewhere by now, without waiting; never raises. Called before a copy
            of a record is used. None if the store calls ``on_newer`` by itself as soon as it has news.
    """

    max_bytes: int
    poll_now: Callable[[], None] | None = None

    @abstractmethod
    async def get(self, id: str) -> Record | None:
        """Return the present record; None if there certainly is none. A record that has ended may or may not be there."""

    @abstractmethod
    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        """Store a record in place of the one with the same ``version`` (0: of none), and return it with its new version.

        Durable on return. One atomic step: no reader finds neither record.

        Args:
            record: the record.
            guard: a lock that must still be held.

        Raises:
            Conflict: another version is stored, or none.
            LockLost: the guard's lock was granted anew or released, or its lease is over. Nothing was written.
            ValueError: the content is larger than ``max_bytes``.
        """

    @abstractmethod
    async def delete(self, id: str) -> None:
        """Remove a record of any version. It is no error if there is none."""

    async def delete_all(self, ids: Collection[str]) -> None:
        """Remove records of any version. If it raises, any of them may be gone. A store over a network takes many in one round trip."""
        for id in ids:
            await self.delete(id)

    @abstractmethod
    async def of_subject(self, subject: str, *, after: str = "", limit: int = 100) -> Sequence[Record]:
        """Return a subject's records in the order of their ids, beginning behind the id ``after``, at most ``limit``."""

    def trouble(self) -> str | None:
        """Return why records cannot be reached or changed, for operators; None if nothing is wrong as far as is known. Asks nobody."""
        return None

    async def run(self) -> None:
        """Run the store's background work until cancelled: remove ended records, follow the writes of others."""
        return
