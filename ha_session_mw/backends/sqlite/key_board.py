"""The keys of the processes that share a file: a small file for each process, in a folder beside it.

Apart from the log, because each write there has all processes read. Nothing is synced: after a crash of the machine no process runs.

A process holds a lock on its file, and the kernel lets it go when the process ends, however it ends. So a file without its lock is that of
a dead process. A process that is paused keeps its lock; its file gets old instead.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path

from ...abc import Clock
from ...models import KeyId
from .file_dates import NAME

logger = logging.getLogger("ha_session_mw.sqlite")

SIGN_EVERY_S = 5.0
"""How often a process shows that it runs, by the time of its file."""
SILENT_S = 15.0
"""How old the file of a process that runs may be."""
HELD = ".held"
"""The end of the name of a file that its process has locked. Earlier builds lock none, and read files of any name."""
NEW = ".new"
"""The end of the name of a file that is being written."""
REMOVE_S = 120.0
"""Age from which the file of a process that was killed is removed."""


class KeyBoard:
    """Tells the other processes which keys this one has, and learns theirs.

    Args:
        folder: of the small files. Made when it is needed.
        life: names this process's file: random bits, new for each process.
        member: the process's name.
        kids: the ids of its keys, the newest first.
        clock: the two clocks.
    """

    def __init__(self, folder: Path, life: str, member: str, kids: tuple[KeyId, ...], clock: Clock) -> None:
        self._folder = folder
        self._own = folder / (life + HELD)
        self._held = -1
        self._member = member
        self._clock = clock
        self._kids = kids
        self._sign_at_s = -math.inf
        self._seen_ns = -1
        self._read_at_s = -math.inf
        self._others: dict[str, tuple[KeyId, ...]] = {}
        self._has_failed = False

    def announce(self, kids: tuple[KeyId, ...]) -> None:
        """Tell the others of other keys."""
        self._kids = kids
        self._try_to(self._write)

    def sign(self) -> None:
        """Show that this process runs. Called often; does something now and then. Never raises."""
        now_s = self._clock.boot_s()
        if now_s < self._sign_at_s:
            return
        self._sign_at_s = now_s + SIGN_EVERY_S
        self._try_to(self._touch)

    def _try_to(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as exc:
            if not self._has_failed:
                self._has_failed = True
                line = "the folder %s cannot be written (%s), so another secret at another process goes unnoticed"
                logger.warning(line, self._folder.name, exc.strerror or type(exc).__name__)
        else:
            self._has_failed = False

    def _touch(self) -> None:
        try:
            os.utime(self._own, (self._clock.wall_s(),) * 2)
        except FileNotFoundError:
            self._write()

    def _write(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        new = self._own.with_suffix(NEW)
        # Renamed when it is whole: the time of the folder tells the others to read it.
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            flock(file, LOCK_EX | LOCK_NB)
            os.write(file, "\n".join((self._member, *self._kids)).encode())
            os.utime(new, (self._clock.wall_s(),) * 2)
            new.rename(self._own)
        except OSError:
            os.close(file)
            raise
        self.let_go()
        self._held = file

    def others(self) -> Mapping[str, tuple[KeyId, ...]]:
        """Return the key ids of each other process that runs, the newest first. Looks at the folder once; reads it if that has changed."""
        now_s = self._clock.boot_s()
        try:
            changed_ns = self._folder.stat().st_mtime_ns
            if changed_ns != self._seen_ns or now_s >= self._read_at_s:
                self._others = self._read_keys()
                self._seen_ns, self._read_at_s = changed_ns, now_s + SIGN_EVERY_S
        except OSError:
            self._others, self._seen_ns = {}, -1
        return self._others

    def _read_keys(self) -> dict[str, tuple[KeyId, ...]]:
        found = {}
        wall_s = self._clock.wall_s()
        for file in self._folder.iterdir():
            if file in (self._own, self._folder / NAME):
                continue
            with suppress(OSError, ValueError):  # it has just left
                age_s = abs(wall_s - file.stat().st_mtime)
                if age_s > REMOVE_S:
                    file.unlink()
                elif age_s <= SILENT_S and file.suffix != NEW and not _is_dead(file):
                    member, *kids = file.read_text("utf-8").split("\n")
                    found[member] = tuple(map(KeyId, kids))
        return found

    def leave(self) -> None:
        """Tell the others that this process has left. Never raises."""
        self._sign_at_s = -math.inf
        with suppress(OSError):
            self._own.unlink()
        self.let_go()

    def let_go(self) -> None:
        """Close the file that has the lock. A newer one has it, or this process has left, or is a child."""
        held, self._held = self._held, -1
        if held >= 0:
            os.close(held)

    def __del__(self) -> None:
        self.let_go()


def _is_dead(file: Path) -> bool:
    """Return whether the process of a file has ended."""
    if file.suffix != HELD:
        return False
    with file.open("rb") as opened:
        try:
            flock(opened, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return False
    return True
