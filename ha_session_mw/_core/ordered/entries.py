"""The entries in an ordered log, as one process has read them: a sum over them, and which of its own are still missing.

The view has the entries themselves, and enforces those that the log lacks, too.
"""

from __future__ import annotations

from ...models import Entry
from ..cluster.invariants import ensure
from .digest import Digest
from .keys import LogHeartbeat, entry_key, key_end_ms
from .loading import Loading


class LogEntries:
    """The difference between the log and the view of one process, and between the log and the words of the others.

    Attributes:
        digest: the sum of the log's entries.
        unseen: the entries that were appended here and not read in the log yet, by their keys.
        deleted: the keys of entries that were deleted, or overwritten, before they ended. They stay in the view.
        to_restore: those of them that this process has yet to write again.
    """

    __slots__ = ("_suspects", "deleted", "digest", "to_restore", "unseen")

    def __init__(self) -> None:
        self.digest = Digest()
        self.unseen: dict[str, Entry] = {}
        self.deleted: set[str] = set()
        self.to_restore: set[str] = set()
        self._suspects: set[str] = set()
        """Slots whose digest has differed, and not agreed since."""

    def is_explained(self, key: str) -> bool:
        """Return whether the log may lack a known entry with this key."""
        return key in self.unseen or key in self.deleted

    def append(self, entry: Entry) -> None:
        """Note that an entry is on its way into the log."""
        self.unseen[entry_key(entry)] = entry

    def begin(self, position: int, loading: Loading) -> None:
        """Begin with a log that was read as a whole at a position."""
        for key in self.unseen.keys() & loading.keys:
            del self.unseen[key]
        self.deleted -= loading.keys
        self.to_restore &= self.deleted
        self.digest.begin(position, loading.total)

    def put(self, entry: Entry, *, created: bool) -> bool:
        """Take in that an entry was written; return whether this process had not sent it, or has read it before.

        Args:
            entry: the entry.
            created: whether its key is new in the log.
        """
        key = entry_key(entry)
        if created:
            self.digest.add(key)
        self.deleted.discard(key)
        self.to_restore.discard(key)
        return self.unseen.pop(key, None) is None

    def delete(self, key: str, floor_ms: int) -> None:
        """Take in that the key of an entry was deleted."""
        self.digest.remove(key)
        self.lose(key, floor_ms)

    def lose(self, key: str, floor_ms: int) -> None:
        """Take in that the log lacks an entry. Nothing is lost if it has ended."""
        if key_end_ms(key) > floor_ms and key not in self.deleted:
            self.deleted.add(key)
            self.to_restore.add(key)

    def raise_floor(self, floor_ms: int) -> None:
        """Forget the entries that end at or below the floor: nobody asks for them any more."""
        self.unseen = {key: entry for key, entry in self.unseen.items() if key_end_ms(key) > floor_ms}
        self.deleted = {key for key in self.deleted if key_end_ms(key) > floor_ms}
        self.to_restore &= self.deleted

    def take_to_restore(self) -> frozenset[str]:
        """Return the keys to write again, each once."""
        taken, self.to_restore = frozenset(self.to_restore), set()
        return taken

    def differ(self, slot: str, beat: LogHeartbeat) -> bool:
        """Return whether another process has read the log differently, and has not since a heartbeat before.

        The sums are compared at the position that the other one had applied.

        A difference does not show which of the two is wrong, and two of three that agree may have missed the same change. So each process
        loads the log again. After that it trusts its own state until the other one, by the same rule, agrees.
        """
        own = self.digest.at(beat.applied)
        if own == beat.digest:
            self._suspects.discard(slot)
        if own is None or own == beat.digest or slot in self._suspects:
            return False
        self._suspects.add(slot)
        return True

    def check(self, position: int, floor_ms: int) -> None:
        """Check what must hold after each change.

        Args:
            position: up to where the log has been applied.
            floor_ms: the floor of the view.

        Raises:
            InvariantBroken: it does not hold.
        """
        self.digest.check(position)
        ensure(all(key_end_ms(key) > floor_ms for key in (*self.unseen, *self.deleted)), "nothing below the floor is kept")
        ensure(self.to_restore <= self.deleted, "only a deleted entry is restored")
