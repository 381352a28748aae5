"""Group commit: the writes of several callers in one transaction, which share its sync of the disk. Each has an outcome of its own.

Callers learn no outcome before the transaction is on the disk. A write may fail because of another one in its transaction, and
that one may be lost.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from .file_trouble import FileTrouble

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class Write(Generic[T]):
    """One caller's write, from when it begins to wait until its outcome is known.

    Args:
        work: changes the file, within a transaction that others may share. If it raises, the file keeps none of its changes. If any of
            them raises, all are called once more.

    Attributes:
        is_done: whether the outcome is known.
    """

    __slots__ = ("_raised", "_value", "is_done", "work")

    def __init__(self, work: Work[T]) -> None:
        self.work = work
        self.is_done = False
        self._value: T | None = None
        self._raised: BaseException | None = None

    def settle(self, value: T | None, raised: BaseException | None = None) -> None:
        """Set the outcome: a value, or what the write raises."""
        self._value, self._raised, self.is_done = value, raised, True

    @property
    def trouble(self) -> FileTrouble | None:
        """The trouble of the file that was the outcome; None if it was another one."""
        return self._raised if isinstance(self._raised, FileTrouble) else None

    def outcome(self) -> T:
        """Return the value of the work, whose changes are on the disk; or raise what it raised, or the trouble of the file."""
        if self._raised is not None:
            # Both names for one exception would keep this frame, and all that it holds, until the next garbage collection.
            raised, self._raised = self._raised, None
            raise raised
        return self._value  # type: ignore[return-value]


Outcome = tuple[Any, Exception | None]
Do = Callable[[sqlite3.Connection, Write[Any]], Outcome]


def done(db: sqlite3.Connection, write: Write[Any]) -> Outcome:
    """Do one write's work within a transaction. An error ends the transaction."""
    return write.work(db), None


def tried(db: sqlite3.Connection, write: Write[Any]) -> Outcome:
    """Do one write's work within a transaction; undo it, and nothing else, if it raises. A failure of the file ends the transaction."""
    db.execute("SAVEPOINT one")
    found: Outcome
    try:
        found = write.work(db), None
    except (sqlite3.Error, FileTrouble):
        raise
    except Exception as exc:  # noqa: BLE001 - the outcome of this write, raised to its caller
        db.execute("ROLLBACK TO one")
        found = None, exc
    db.execute("RELEASE one")
    return found


def settle(writes: Sequence[Write[Any]], outcomes: Sequence[Outcome]) -> None:
    """Tell each write its outcome, once the disk has the transaction."""
    for write, (value, raised) in zip(writes, outcomes, strict=True):
        write.settle(value, raised)


def fail(writes: Sequence[Write[Any]], trouble: BaseException) -> None:
    """Tell each write that the file has failed. A copy each: an exception that several callers raise collects the frames of all."""
    for write in writes:
        write.settle(None, trouble if len(writes) == 1 else _copy(trouble))


def _copy(trouble: BaseException) -> BaseException:
    if not isinstance(trouble, FileTrouble):
        return trouble
    copy = FileTrouble(str(trouble), passing=trouble.passing)
    copy.__cause__ = trouble.__cause__
    return copy
