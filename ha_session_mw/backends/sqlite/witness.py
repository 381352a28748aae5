"""Notice that a backup was restored, or the file was lost, while no process ran: its log-outs since then are forgotten.

A note beside the file has the number of the last row that a process knew. Nothing is synced, so a note can be older than the file after
a loss of power, and never newer.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ...abc import Clock

SUFFIX = "-known"
NOTE_EVERY_S = 5.0
"""How often a process notes the number. A backup is older than that."""
_NOTE = re.compile(r"([\w-]{1,64}) ([0-9]{1,19}) ([0-9]{1,19})", re.ASCII)


class Note(NamedTuple):
    """The last row of the file, as a process knew it.

    Attributes:
        file: the file's random text.
        last: the number of its last row.
        set_back_ms: when a process found the file older than its note, or another one (wall clock); 0 if none has.
    """

    file: str = ""
    last: int = 0
    set_back_ms: int = 0


class Witness:
    """Remembers the last row across restarts.

    Args:
        path: of the file.
        clock: the two clocks.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path.with_name(path.name + SUFFIX)
        self._clock = clock
        self._noted = self._read()
        self._note_at_s = -math.inf

    @property
    def set_back_ms(self) -> int:
        """As in :class:`Note`."""
        return self._noted.set_back_ms

    def _read(self) -> Note:
        with suppress(OSError, ValueError):  # this is the first process, or cannot read the note: then the file has no witness
            if found := _NOTE.fullmatch(self._path.read_text("utf-8")):
                return Note(found[1], int(found[2]), int(found[3]))
        return Note()

    def compare(self, file: str, last: int) -> None:
        """Compare the file, and the number of its last row, with the note."""
        known = self._noted
        if known.file and (known.file != file or known.last > last):
            self._write(Note(file, last, int(self._clock.wall_s() * 1000)))

    def note(self, file: str, last: int, *, now: bool = False) -> None:
        """Note the last row if it is a newer one: now, or every few seconds. Never raises."""
        now_s = self._clock.boot_s()
        if (file, last) == self._noted[:2] or (now_s < self._note_at_s and not now):
            return
        self._note_at_s = now_s + NOTE_EVERY_S
        self._write(Note(file, last, max(self.set_back_ms, self._read().set_back_ms)))  # another process may have found that

    def _write(self, note: Note) -> None:
        self._noted = note
        with suppress(OSError):  # the file itself cannot be written then, and the log tells that
            self._path.touch(mode=0o600)
            self._path.write_text(" ".join(map(str, note)), "utf-8")
