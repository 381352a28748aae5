"""Notes about ids that all nodes know for a while, such as that the client of a session has just logged out.

They travel in the log, as denials of names that no session has. In a storm of log-outs there is one for each, so those of a moment share
one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

import anyio

from .._core.cluster.log_outs import LogOuts
from .._core.cluster.view import FLOOR_MARGIN_MS, NO_SESSION, SUPERSEDED_MS
from ..abc import Clock, ClusterLog
from ..models import Deny, Entry, SessionId

HAS_SUCCESSOR: Final = f"{NO_SESSION}newer."
"""The client of an id got another session. A late write under the id fails."""
MOVED_ON: Final = f"{NO_SESSION}moved."
"""The client of an id logged out, or got a visitor's session. A late write sets no cookie, and does not fail: the client may be a page that
sends several at once."""

TOGETHER_S = 0.05
"""Time in which notes share an entry. The first one after a quiet time waits for nothing."""
MOST_TOGETHER = 32
"""Most notes in one entry, which has some 800 bytes then."""
FORGOTTEN_AT_ONCE = 4000
"""How many notes are looked at each second, the oldest first: a millisecond."""


class Notes:
    """The notes that one node knows: its own at once, and those of the others as the log brings them.

    Args:
        clock: the two clocks.
        log: returns the log that carries the notes.
        is_leaving: returns whether this node is about to stop. Its notes wait for nothing then.
    """

    def __init__(self, clock: Clock, *, log: Callable[[], ClusterLog], is_leaving: Callable[[], bool]) -> None:
        self._clock = clock
        self._log = log
        self._is_leaving = is_leaving
        self._noted: dict[str, int] = {}
        """By name, :data:`SUPERSEDED_MS` before the end of the note."""
        self._waiting: dict[tuple[str, int], dict[SessionId, None]] = {}
        self._filled = anyio.Event()
        self._is_running = False
        self._next_s = 0.0

    def note(self, what: str, ids: Iterable[SessionId], for_ms: int) -> None:
        """Have each node know something about ids for so many milliseconds: :data:`SUPERSEDED_MS` at most. Waits for nothing."""
        noted_ms = self._noted_ms(for_ms)
        for id in ids:
            self._noted[what + id] = noted_ms
            self._waiting.setdefault((what, for_ms), {})[id] = None
        if not self._is_running or self._is_leaving() or self._clock.boot_s() >= self._next_s:
            self._send()
        else:
            self._filled.set()

    def _noted_ms(self, for_ms: int) -> int:
        # As if it had happened earlier, because each node counts from the time in the entry.
        return int(self._clock.wall_s() * 1000) + for_ms - SUPERSEDED_MS

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, {}
        entries: list[Entry] = []
        for (what, for_ms), ids in waiting.items():
            rest, noted_ms = iter(ids), self._noted_ms(for_ms)
            while some := ",".join(islice(rest, MOST_TOGETHER)):
                entries.append(Deny(what + some, noted_ms + SUPERSEDED_MS + FLOOR_MARGIN_MS, noted_ms))
        if entries:
            self._next_s = self._clock.boot_s() + TOGETHER_S
            self._log().apply(entries)

    def on_news(self, entries: Sequence[Entry]) -> None:
        """Take in the notes among entries that are news to this node."""
        if isinstance(entries, LogOuts):  # of sessions alone
            return
        for entry in entries:
            if isinstance(entry, Deny) and entry.replaced_ms and entry.id.startswith((HAS_SUCCESSOR, MOVED_ON)):
                what, dot, ids = entry.id.partition(".")
                for id in ids.split(","):
                    name = f"{what}{dot}{id}"
                    self._noted[name] = max(entry.replaced_ms, self._noted.get(name, 0))

    def has(self, what: str, id: SessionId) -> bool:
        """Return whether something was noted about an id that still counts."""
        noted_ms = self._noted.get(what + id)
        return noted_ms is not None and not _is_over(noted_ms, self._clock.wall_s() * 1000)

    def forget(self, wall_ms: float | None) -> None:
        """Forget what counts no longer by the wall clock; nothing if that is not trusted. Called once a second."""
        if wall_ms is not None:
            for name in [name for name, noted_ms in islice(self._noted.items(), FORGOTTEN_AT_ONCE) if _is_over(noted_ms, wall_ms)]:
                del self._noted[name]

    async def run(self) -> None:
        """Send the notes that wait, until cancelled."""
        self._is_running = True
        try:
            while True:
                self._send()
                self._filled = anyio.Event()
                await self._filled.wait()
                await self._clock.sleep(self._next_s - self._clock.boot_s())
        finally:
            self._is_running = False


def _is_over(noted_ms: int, wall_ms: float) -> bool:
    return abs(wall_ms - noted_ms) > SUPERSEDED_MS
