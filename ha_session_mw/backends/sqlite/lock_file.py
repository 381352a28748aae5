"""The queues for locks, in the file of a machine's records: whoever takes part writes what is so, and finds what follows from it.

A lock's row is a place in the queue. The lowest one of a name has the lock, and its number is the fencing number. Places that
are good no more are deleted before anybody is granted anything, so none that was passed over can become good again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..._machine.shared_file import SharedFile
from ...abc import Grant
from ...exceptions import SessionLocked
from .record_file import SCHEMA, beside, require_held

_PRUNE_QUEUE = "DELETE FROM locks WHERE name = ? AND NOT (since_s <= ? AND ? < until_s)"
_OWN = "SELECT number FROM locks WHERE name = ? AND holder = ?"
_LAST = "SELECT seq FROM sqlite_sequence WHERE name = 'locks'"
_JOIN = "INSERT INTO locks (number, name, holder, granted, since_s, until_s) VALUES (?, ?, ?, 0, ?, ?)"
_AHEAD = "SELECT count(*) FROM locks WHERE name = ? AND number < ? AND ? < until_s"  # whoever has a place has pruned the queue
_KEEP = "UPDATE locks SET granted = ?, since_s = ?, until_s = ? WHERE number = ?"
_LEAVE = "DELETE FROM locks WHERE name = ? AND holder = ?"
_FORGET = "DELETE FROM locks WHERE NOT (since_s <= ? AND ? < until_s)"


class Wish(NamedTuple):
    """What somebody wants.

    Attributes:
        name: of the lock.
        holder: who, and nobody else at any time.
        lease_s: how long to have the lock, once it is granted.
        stands: whether it is wanted still. Asked within the transaction: whoever gives up by this, and then leaves, leaves
            nothing behind, though a write of his may be on its way.
    """

    name: str
    holder: str
    lease_s: float
    stands: Callable[[], bool]


class Place(NamedTuple):
    """Where somebody stands in a queue.

    Attributes:
        number: of the place.
        ahead: how many come first; 0: this one has the lock.
    """

    number: int
    ahead: int


class LockFile(SharedFile):
    """One process's way to the queues.

    Args:
        path: of the file.
        boot_s: the boot-time clock, which all processes of a machine share. It is asked within each transaction: whatever is
            found there was written earlier.
    """

    schema = SCHEMA

    def __init__(self, path: Path, boot_s: Callable[[], float]) -> None:
        super().__init__(path)
        self._boot_s = boot_s

    @classmethod
    def beside(cls, path: Path, boot_s: Callable[[], float]) -> LockFile:
        """The one that belongs to a file of entries."""
        return cls(beside(path), boot_s)

    def _prepare(self, db: sqlite3.Connection) -> None:
        super()._prepare(db)
        # A loss of power ends those who hold or wait, too, so nobody waits for the disk. The changes that locks guard do.
        db.execute("PRAGMA synchronous = NORMAL")

    def take(self, wish: Wish, place_s: float) -> Place:
        """Take a place, or keep the one that there is; and with it the lock, if nobody comes first.

        Args:
            place_s: for how long the place is good, if somebody does. 0: there is to be none then.

        Raises:
            SessionLocked: there is none.
        """
        return self._write(lambda db: _take(db, wish, place_s, self._boot_s()))

    def ahead(self, name: str, number: int) -> int:
        """How many come before a place."""
        return self._read(lambda db: _ahead(db, name, number, self._boot_s()))

    def renew(self, grant: Grant, lease_s: float) -> None:
        """Keep a lock for so long from now on.

        Raises:
            LockLost: it is held no more.
        """
        self._write(lambda db: _renew(db, grant, lease_s, self._boot_s()))

    def leave(self, name: str, holder: str) -> None:
        """Give up the place, and the lock with it."""
        self._write(lambda db: db.execute(_LEAVE, (name, holder)))

    def prune(self) -> None:
        """Forget the places that are good no more and that nobody came to pass over: holders have died."""
        self._write(lambda db: db.execute(_FORGET, (self._boot_s(),) * 2))


def _take(db: sqlite3.Connection, wish: Wish, place_s: float, now_s: float) -> Place:
    if not wish.stands():
        raise SessionLocked("it is not wanted any more")
    db.execute(_PRUNE_QUEUE, (wish.name, now_s, now_s))
    own = db.execute(_OWN, (wish.name, wish.holder)).fetchone()
    number = own[0] if own else _join(db, wish, now_s)
    ahead = _ahead(db, wish.name, number, now_s)
    if ahead and not place_s:
        raise SessionLocked("others had the lock all the time")
    db.execute(_KEEP, (ahead == 0, now_s, now_s + (place_s if ahead else wish.lease_s), number))
    return Place(number, ahead)


def _join(db: sqlite3.Connection, wish: Wish, now_s: float) -> int:
    """The number of a new place: higher than each before it, those included that were lost with the machine's power."""
    number: int = max(db.execute(_LAST).fetchone()[0] + 1, time.time_ns() // 1000)
    db.execute(_JOIN, (number, wish.name, wish.holder, now_s, now_s))
    return number


def _ahead(db: sqlite3.Connection, name: str, number: int, now_s: float) -> int:
    found: int = db.execute(_AHEAD, (name, number, now_s)).fetchone()[0]
    return found


def _renew(db: sqlite3.Connection, grant: Grant, lease_s: float, now_s: float) -> None:
    require_held(db, grant, now_s)
    db.execute(_KEEP, (True, now_s, now_s + lease_s, grant.fence))
