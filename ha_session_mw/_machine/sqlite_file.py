"""One SQLite file on this machine: how it is made, kept private, recognised, written, and let go across forks.

A file is its owner's alone from the first moment. A file of another program, or of a release that this one cannot read, is
refused and left as it is. The tables belong to the subclasses of :class:`SqliteFile`.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from ..version import TABLES
from . import forks
from .file_trouble import FileTrouble as FileTrouble
from .group_commit import Do, Outcome, T, Write, done, fail, settle, tried
from .group_commit import Work as Work
from .sqlite_trouble import LOCKED, LOST, REPLACED, may_be_one_writes_fault, trouble_of

WRITE_BUSY_S = 1.0
"""How long a write waits for the writes of other processes, each of which takes less than a millisecond on most disks."""
WRITE_LIMIT_S = 2 * WRITE_BUSY_S
"""How long a caller waits for a write: for those of other processes, and for the disk."""
OPEN_S = 5.0
"""How long a starting process waits for a file that another process is making, or has locked."""
MOMENT_S = 0.25
"""How long it waits for a folder that is being replaced, or a disk that is full. The node can serve meanwhile, and tries again."""

MOST_TOGETHER = 64
"""Most writes in one transaction: the sync of the disk is shared by enough of them, and none waits for long records of many others."""

Inode = tuple[int, int]


class SelfClosing(sqlite3.Connection):
    """A connection that closes itself when it is collected: a manager may be made and never run. Python 3.13 and later warn of that."""

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # the connection was never open: there is no such file
            self.close()


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of a file.

    Attributes:
        application_id: marks the file as one of this package, not of another program.
        make: makes the tables in an empty file, or adds what is missing in an adopted one.
        adopts: the SQL of the one table in a file that an earlier release made without an application id. Such a file is adopted with all
            its rows.
    """

    application_id: int
    make: Callable[[sqlite3.Connection], None]
    adopts: str | None = None


class SqliteFile:
    """A file and this process's connection for writing to it, opened at its first use, and again after a fork or a fault.

    Each method raises FileTrouble. A write waits for the disk: call it in a worker thread.
    """

    schema: Schema

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: sqlite3.Connection | None = None
        self._writer_inodes: tuple[Inode, ...] = ()
        self._writing = Lock()
        self._waiting: deque[Write[Any]] = deque()
        self._is_let_go = False
        forks.watch(self)

    # Writing

    def _write(self, work: Work[T]) -> T:
        """Change the file, all or nothing, and return once the disk has it. Writes of other threads that wait go along."""
        write = self.submit(work)
        try:
            while not write.is_done:
                self.commit()
        finally:
            self.give_up(write)
        return write.outcome()

    def submit(self, work: Work[T]) -> Write[T]:
        """Have a write wait for the next :meth:`commit`. Waits for nothing itself."""
        write = Write(work)
        self._waiting.append(write)
        return write

    def give_up(self, write: Write[Any]) -> None:
        """Wait for a write no longer. If it has not begun, it is left out, and takes no memory while the disk does not answer."""
        if not write.is_done:
            with suppress(ValueError):  # it has begun
                self._waiting.remove(write)

    def commit(self) -> None:
        """Carry out the writes that wait, in one transaction; return once the disk has it, and each write its outcome.

        Raises:
            FileTrouble: the writes of another thread take too long. Those that wait here were not begun.
        """
        if not self._writing.acquire(timeout=WRITE_BUSY_S):
            raise FileTrouble("cannot be written: the disk does not answer", passing=True)
        try:
            if writes := self._taken():
                self._carry_out(writes)
        finally:
            if self._is_let_go:  # the caller was cancelled, and close() has run
                self._close_writer()
            self._writing.release()

    def _taken(self) -> list[Write[Any]]:
        """Return the next writes."""
        taken: list[Write[Any]] = []
        with suppress(IndexError):  # another thread may give up the last one meanwhile
            while len(taken) < MOST_TOGETHER:
                taken.append(self._waiting.popleft())
        return taken

    def _carry_out(self, writes: Sequence[Write[Any]]) -> None:
        try:
            settle(writes, self._in_one_transaction(writes))
        except FileTrouble as trouble:
            if len(writes) == 1 or not may_be_one_writes_fault(trouble):
                fail(writes, trouble)
            else:
                self._carry_out_singly(deque(writes))
        except BaseException as exc:
            fail(writes, exc)
            raise

    def _carry_out_singly(self, writes: deque[Write[Any]]) -> None:
        """Carry out writes one by one: of all together the disk has kept nothing, and one of them may have been too much for it."""
        while writes:
            self._carry_out([write := writes.popleft()])
            if (trouble := write.trouble) is not None and not may_be_one_writes_fault(trouble):
                fail([*writes], trouble)
                return

    def _in_one_transaction(self, writes: Sequence[Write[Any]]) -> list[Outcome]:
        try:
            writer = self._opened_writer()
            outcomes = self._outcomes(writer, writes)
            self._require(self._writer_inodes)
        except sqlite3.Error as exc:
            self._close_writer()
            raise trouble_of(exc) from exc
        except FileTrouble:
            self._close_writer()  # the next write opens the file that has the name by then, or makes it
            raise
        return outcomes

    def _outcomes(self, writer: sqlite3.Connection, writes: Sequence[Write[Any]]) -> list[Outcome]:
        """Do writes in one transaction. A savepoint for each takes a fifth of their time, so they get some only if one of them raises."""
        try:
            return in_transaction("BEGIN IMMEDIATE", writer, lambda db: self._done(db, writes, done))
        except (sqlite3.Error, FileTrouble):
            raise
        except Exception:  # noqa: BLE001 - the outcome of one write
            return in_transaction("BEGIN IMMEDIATE", writer, lambda db: self._done(db, writes, tried))

    def _done(self, db: sqlite3.Connection, writes: Sequence[Write[Any]], do: Do) -> list[Outcome]:
        """Do writes within a transaction, which may have to begin anew. A subclass adds what they have in common."""
        return [do(db, write) for write in writes]

    def _opened_writer(self) -> sqlite3.Connection:
        if self._writer is None or self._inodes() != self._writer_inodes:
            self._close_writer()
            writer, self._writer_inodes = self._connected(WRITE_BUSY_S, 0.0)
            self._writer = writer
        return self._writer

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def close(self) -> None:
        """Let the file go. The next call opens it again."""
        self._is_let_go = True
        if self._writing.acquire(timeout=WRITE_BUSY_S):
            try:
                self._close_writer()
            finally:
                self._writing.release()

    # Opening

    def _inodes(self) -> tuple[Inode, ...]:
        """Return which files have the names that a connection opens."""
        return (inode_of(self.path),)

    def _require(self, inodes: tuple[Inode, ...]) -> None:
        """Raise FileTrouble unless these very files have the names."""
        if self._inodes() != inodes:
            raise _replaced()

    def _connected(self, busy_s: float, within_s: float) -> tuple[sqlite3.Connection, tuple[Inode, ...]]:
        """Return a connection to a file that has our tables, and which files it has open.

        Several processes may be about to make the file. SQLite does not always wait for the first one, so this method does.
        """
        failed_s: float | None = None
        while True:
            try:
                return self._connect(busy_s)
            except FileTrouble as trouble:
                now_s = time.monotonic()
                failed_s = now_s if failed_s is None else failed_s
                limit_s = within_s if str(trouble) in (LOCKED, REPLACED, LOST) else min(within_s, MOMENT_S)
                if not trouble.passing or now_s - failed_s >= limit_s:
                    raise
            time.sleep(0.01)

    def _connect(self, busy_s: float) -> tuple[sqlite3.Connection, tuple[Inode, ...]]:
        try:
            _make_folder(self.path.parent)
            _make_private(self.path)
            with ExitStack() as undo:
                with _one_file(self.path):
                    # SQLite must not make the file: all users could read that one.
                    uri = self.path.absolute().as_uri() + "?mode=rw"
                    db = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False, factory=SelfClosing)
                    undo.callback(db.close)
                    self._prepare(db)
                    inodes = self._inodes()
                undo.pop_all()
        except (sqlite3.Error, OSError) as exc:
            raise trouble_of(exc, self.path) from exc
        return db, inodes

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Make the tables where they are missing, and refuse the file where they are not ours."""
        # All in one state of the file: another process may make it between two statements.
        if not in_transaction("BEGIN", db, self._is_ours):
            in_transaction("BEGIN EXCLUSIVE", db, self._make_tables)
        db.execute("PRAGMA synchronous = FULL")  # a write-ahead log is not synced at each commit otherwise

    def _is_ours(self, db: sqlite3.Connection) -> bool:
        """Return whether the tables are there. They are not in a new file, nor in one that is to be adopted."""
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (format,) = db.execute("PRAGMA user_version").fetchone()
        tables = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_master")]
        if (application, format) == (0, 0) and tables in ([], [self.schema.adopts]):
            return False
        if application != self.schema.application_id:
            raise FileTrouble("is the database of another program")
        if format not in TABLES.reads:
            raise FileTrouble("was written by another release, in a form that this one cannot read")
        return True

    def _make_tables(self, db: sqlite3.Connection) -> None:
        if self._is_ours(db):
            return  # another process was faster
        if self.schema.adopts is not None:
            with suppress(PermissionError):  # it belongs to another user
                self.path.chmod(0o600)  # the build that made it left it readable for all users
        db.execute(f"PRAGMA application_id = {self.schema.application_id}")
        db.execute(f"PRAGMA user_version = {TABLES.writes}")
        self.schema.make(db)

    # Forks. A connection that is open during a fork is of no use to either process, and SQLite cannot tell.

    def before_fork(self) -> None:
        self._writing.acquire()
        self._close_writer()

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._waiting.clear()  # the parent carries them out
        self._writing.release()


def inode_of(path: Path | str) -> Inode:
    """Return which file has this name."""
    try:
        found = os.stat(path)  # noqa: PTH116 - the shortest way
    except FileNotFoundError:
        raise _replaced() from None
    except OSError as exc:
        raise trouble_of(exc) from exc
    return found.st_dev, found.st_ino


def _replaced() -> FileTrouble:
    return FileTrouble(REPLACED, passing=True)


@contextmanager
def _one_file(path: Path) -> Iterator[None]:
    """Make sure that the body worked on one and the same file. If it did not, that explains any failure of the body."""
    inode = inode_of(path)
    try:
        yield
    finally:
        if inode_of(path) != inode:
            raise _replaced()


@contextmanager
def _made_in(folder: Path) -> Iterator[None]:
    """Tell a folder that takes no files, such as those of the kernel, from one that is missing. The system says the same of both."""
    before = os.stat(folder)  # noqa: PTH116 - as in ``inode_of``
    try:
        yield
    except FileNotFoundError as exc:
        with suppress(FileNotFoundError):
            if os.path.samestat(before, os.stat(folder)):  # noqa: PTH116
                raise FileTrouble(f"cannot be opened: no file can be made in {str(folder)!r}; name another place") from exc
        raise


def _make_folder(path: Path) -> None:
    """Make the folders that are missing, for their owner alone. The names of files in them tell about the cluster, too."""
    if not path.is_dir() and path != path.parent:  # the working directory may have been deleted
        _make_folder(path.parent)
        with _made_in(path.parent):
            path.mkdir(mode=0o700, exist_ok=True)


def _make_private(path: Path) -> None:
    """Make the file where it is missing, for its owner alone: it names subjects and sessions."""
    if path.exists():
        return
    # Closing a file drops all locks that this process has on it, and another thread may have opened it by then. So the file gets
    # its name after it was closed.
    path = path.resolve()
    with _made_in(path.parent):
        handle, new = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        os.close(handle)
        with suppress(FileExistsError):
            try:
                os.link(new, path)
            except FileExistsError:
                raise
            except OSError:  # the file system has no hard links; any other cause shows again in the next line
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    finally:
        os.unlink(new)  # noqa: PTH108 - no path


def in_transaction(begin: str, db: sqlite3.Connection, work: Work[T]) -> T:
    """Do work in one transaction, begun by this statement; all of it, or nothing."""
    db.execute(begin)
    try:
        done = work(db)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return done
