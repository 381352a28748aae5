"""The queues of locks, in the file of a machine's records. Each process writes its tickets, and reads where they stand.

The lowest ticket of a name has the lock, and its number is the fencing number. Tickets that have ended are deleted before a lock
is granted, so a ticket that was passed over cannot become good again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from ..._machine.shared_file import SharedFile
from ...abc import Grant
from ...exceptions import SessionLocked
from ..common.queued_locks import Admission, Ticket
from .record_file import REOPEN_S, SCHEMA, beside, require_held

_PRUNE_QUEUE = "DELETE FROM locks WHERE name = ? AND NOT (since_s <= ? AND ? < until_s)"
_OWN = "SELECT number FROM locks WHERE name = ? AND holder = ?"
_LAST = "SELECT seq FROM sqlite_sequence WHERE name = 'locks'"
_JOIN = "INSERT INTO locks (number, name, holder, granted, since_s, until_s) VALUES (?, ?, ?, 0, ?, ?)"
_AHEAD = "SELECT count(*) FROM locks WHERE name = ? AND number < ? AND ? < until_s"  # taking a ticket has pruned the queue
_KEEP = "UPDATE locks SET granted = ?, since_s = ?, until_s = ? WHERE number = ?"
_LEAVE = "DELETE FROM locks WHERE name = ? AND holder = ?"
_FORGET = "DELETE FROM locks WHERE NOT (since_s <= ? AND ? < until_s)"


class LockFile(SharedFile):
    """One process's access to the queues.

    Args:
        path: of the file.
        boot_s: the boot-time clock, which all processes of a machine share. Each transaction reads it, so that it is never behind the file.
    """

    schema = SCHEMA
    reopen_s = REOPEN_S

    def __init__(self, path: Path, boot_s: Callable[[], float]) -> None:
        super().__init__(path)
        self._boot_s = boot_s

    @classmethod
    def beside(cls, path: Path, boot_s: Callable[[], float]) -> LockFile:
        """Return the one that belongs to a file of entries."""
        return cls(beside(path), boot_s)

    def _prepare(self, db: sqlite3.Connection) -> None:
        super()._prepare(db)
        # A loss of power ends all holders and all that wait, so a ticket does not wait for the disk. Guarded changes do.
        db.execute("PRAGMA synchronous = NORMAL")

    def take(self, ticket: Ticket, good_s: float) -> Admission:
        """Put a ticket into the queue, or keep the one that is there; grant the lock if no other comes first.

        Args:
            ticket: of the request. Once it is given up, a write that is still under way puts nothing into the queue.
            good_s: how long the ticket is good while others come first. 0: it is not kept then.

        Raises:
            SessionLocked: others come first and the ticket is not kept, or it was given up.
        """
        return self._write(lambda db: _take_ticket(db, ticket, good_s, self._boot_s()))

    def ahead(self, name: str, number: int) -> int:
        """Return how many tickets come before one."""
        return self._read(lambda db: _ahead(db, name, number, self._boot_s()))

    def renew(self, grant: Grant, lease_s: float) -> None:
        """Extend a lease; it counts from now.

        Raises:
            LockLost: the lock is no longer held.
        """
        self._write(lambda db: _renew(db, grant, lease_s, self._boot_s()))

    def leave(self, name: str, holder: str) -> None:
        """Delete a ticket, and the lock with it."""
        self._write(lambda db: db.execute(_LEAVE, (name, holder)))

    def prune(self) -> None:
        """Delete all tickets that have ended, those included that no other request has passed over: their processes have died."""
        self._write(lambda db: db.execute(_FORGET, (self._boot_s(),) * 2))


def _take_ticket(db: sqlite3.Connection, ticket: Ticket, good_s: float, now_s: float) -> Admission:
    if ticket.is_given_up:
        raise SessionLocked("the request was given up")
    db.execute(_PRUNE_QUEUE, (ticket.name, now_s, now_s))
    own = db.execute(_OWN, (ticket.name, ticket.holder)).fetchone()
    number = own[0] if own else _join(db, ticket, now_s)
    ahead = _ahead(db, ticket.name, number, now_s)
    if ahead and not good_s:
        raise SessionLocked("others had the lock all the time")
    db.execute(_KEEP, (ahead == 0, now_s, now_s + (good_s if ahead else ticket.lease_s), number))
    return Admission(ahead, number)


def _join(db: sqlite3.Connection, ticket: Ticket, now_s: float) -> int:
    """Return the number of a new ticket: higher than every one before, also than those that a loss of power has deleted."""
    number: int = max(db.execute(_LAST).fetchone()[0] + 1, time.time_ns() // 1000)
    db.execute(_JOIN, (number, ticket.name, ticket.holder, now_s, now_s))
    return number


def _ahead(db: sqlite3.Connection, name: str, number: int, now_s: float) -> int:
    found: int = db.execute(_AHEAD, (name, number, now_s)).fetchone()[0]
    return found


def _renew(db: sqlite3.Connection, grant: Grant, lease_s: float, now_s: float) -> None:
    require_held(db, grant, now_s)
    db.execute(_KEEP, (True, now_s, now_s + lease_s, grant.fence))
