"""The meaning of a failure of an SQLite file, for operators: what to mend, and whether it may pass by itself."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from .file_trouble import FileDamaged, FileTrouble

LOCKED = "is locked by another process, or by a program that copies it"
REPLACED = "was deleted or replaced while it was in use"
LOST = "has lost the -wal or -shm beside it, which was deleted while it was in use"
_WHAT = {
    sqlite3.SQLITE_BUSY: LOCKED,
    sqlite3.SQLITE_LOCKED: LOCKED,
    sqlite3.SQLITE_PROTOCOL: LOCKED,
    sqlite3.SQLITE_FULL: "cannot be written: the disk is full",
    sqlite3.SQLITE_READONLY: "cannot be written: it is read-only, or its folder is",
    sqlite3.SQLITE_PERM: "cannot be opened: this user may not",
    sqlite3.SQLITE_AUTH: "cannot be opened: this user may not",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: its folder is missing, or this user may not write there",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is damaged, or is no database",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk fails",
}
BESIDE_BYTES = 1 << 16
"""Room that SQLite needs beside a file when it opens one: the index of the write-ahead log, and a first page."""
_PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
# ENOENT passes: the folder was there just before.
_PASSING_OS = {errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NAMED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN}
_MAY_NOT = "; give this user the right to write there, or name another place"
_NO_FOLDER = "; it must be a folder, and is a file"
_REMEDIES = {
    errno.EACCES: _MAY_NOT,
    errno.EPERM: _MAY_NOT,
    errno.EROFS: "; mount it for writing, or name another place",
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
}


def trouble_of(exc: sqlite3.Error | OSError, path: Path | None = None) -> FileTrouble:
    """Return the meaning of a failure of the file, for operators.

    Args:
        exc: the failure.
        path: of the file that cannot be opened or made. Of its folders, the one that cannot be made is named.
    """
    if path is not None and os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for some paths
        return FileTrouble(f"cannot be opened: it is a folder: {str(path)!r}; name a file in it")
    if path is not None and os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
        return FileTrouble(f"cannot be opened: it is no regular file: {str(path)!r}; name another place")
    if isinstance(exc, OSError):
        where = exc.filename if path is not None and isinstance(exc.filename, str) and Path(exc.filename) in path.parents else path
        named = "" if where is None else f": {str(where)!r}{_REMEDIES.get(exc.errno or 0, '')}"
        return FileTrouble(f"cannot be opened: {exc.strerror}{named}", passing=exc.errno in _PASSING_OS)
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the higher bits are details
    if code == sqlite3.SQLITE_IOERR and path is not None and _is_full(path.parent):
        code = sqlite3.SQLITE_FULL
    named = f": {str(path)!r}{_MAY_NOT}" if path is not None and code in _NAMED else ""
    if code in _DAMAGED:
        return FileDamaged(_WHAT[code])
    # A closed connection has no code: the process has just forked, or is ending.
    return FileTrouble(_WHAT.get(code, f"cannot be used: {exc}") + named, passing=code in _PASSING or not code)


def _is_full(folder: Path) -> bool:
    """Whether a disk has no room for what SQLite keeps beside a file. It calls that a failure of the disk."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < BESIDE_BYTES


def may_not_write(path: str) -> FileTrouble:
    """Return the trouble with a file or folder that this user may not write."""
    return FileTrouble(f"cannot be written: it is read-only, or its folder is: {path!r}{_MAY_NOT}")


def may_be_one_writes_fault(trouble: FileTrouble) -> bool:
    """Return whether others of the same transaction, which was rolled back, may be written without one of them."""
    code = getattr(trouble.__cause__, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF == sqlite3.SQLITE_FULL or code & 0xFF not in _WHAT)
