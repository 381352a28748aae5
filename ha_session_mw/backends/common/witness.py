"""Notice that a backup was restored, or a file was lost, while no process ran: log-outs since then are forgotten.

A note beside the file has the newest position that a process knew in it. Nothing is synced, so a note can be older than the file after
a loss of power, and never newer.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..._core.cluster.members import UNKNOWN_END_MARGIN_MS
from ..._core.cluster.view import View, made_ms
from ...abc import Clock

SUFFIX = "-known"
NOTE_EVERY_S = 5.0
"""How often a process notes the position. A backup is older than that."""
FILE = "the file of HA_SESSION_CLUSTER"
SET_BACK = (
    "{} is older than an earlier process knew it, or is another one, so log-outs may be forgotten: "
    "log out everybody, by ha-session revoke --everybody"
)
_NOTE = re.compile(r"([\w-]{1,64}) ([0-9]{1,19}) ([0-9]{1,19})", re.ASCII)


class Note(NamedTuple):
    """The newest position in a file, as a process knew it.

    Attributes:
        file: names the file, or the account in it.
        last: the position.
        set_back_ms: when a process found the file older than its note, or another one (wall clock); 0 if none has.
    """

    file: str = ""
    last: int = 0
    set_back_ms: int = 0


class Witness:
    """Remembers the newest position across restarts.

    Args:
        path: of the file.
        clock: the two clocks.
        absolute_ms: the longest life of a session.
        what: its name in the line for operators.

    Attributes:
        told: that line.
    """

    def __init__(self, path: Path, clock: Clock, absolute_ms: int, *, what: str = FILE) -> None:
        self.told = SET_BACK.format(what)
        self._path = path.with_name(path.name + SUFFIX)
        self._clock = clock
        self._absolute_ms = absolute_ms
        self._noted = self._read()
        self._note_at_s = -math.inf

    def _read(self) -> Note:
        with suppress(OSError, ValueError):  # this is the first process, or cannot read the note: then the file has no witness
            if found := _NOTE.fullmatch(self._path.read_text("utf-8")):
                return Note(found[1], int(found[2]), int(found[3]))
        return Note()

    def is_older(self, file: str, last: int) -> bool:
        """Return whether the file is older than the note, or another one."""
        known = self._noted
        return bool(known.file) and (known.file != file or known.last > last)

    def set_back(self, file: str, last: int) -> None:
        """Note that log-outs were lost with the file, and go on from this position."""
        self._write(Note(file, last, int(self._clock.wall_s() * 1000)))

    def note(self, file: str, last: int, *, now: bool = False) -> None:
        """Note the position if it is another one: now, or every few seconds. Never raises."""
        now_s = self._clock.boot_s()
        # Another file is noted at once: a process that is killed a moment later has not lost it.
        if (file, last) == self._noted[:2] or (file == self._noted.file and now_s < self._note_at_s and not now):
            return
        self._note_at_s = now_s + NOTE_EVERY_S
        self._write(Note(file, last, max(self._noted.set_back_ms, self._read().set_back_ms)))  # another process may have found that

    def _write(self, note: Note) -> None:
        self._noted = note
        with suppress(OSError):  # the file itself cannot be written then, and the log tells that
            self._path.touch(mode=0o600)
            self._path.write_text(" ".join(map(str, note)), "utf-8")

    def exposure(self, view: View) -> str | None:
        """Return that log-outs may be forgotten; None once everybody was logged out, or all tokens from before have ended."""
        set_back_ms = self._noted.set_back_ms  # 0 is long over
        is_over = self._clock.wall_s() * 1000 >= set_back_ms + self._absolute_ms + UNKNOWN_END_MARGIN_MS
        return None if is_over or any((made_ms(cut) or 0) >= set_back_ms for cut in view.everybody) else self.told
