"""The turns of log-outs everywhere: one subject's come at a pace, and those that wait for the same turn share one entry.

A node cannot know that a repeated log-out changes nothing, so each makes an entry that lives for hours. Without a pace, one user who
repeats it would fill all nodes. None is refused: the entry is made after all of those that share it were asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from ..abc import Clock
from ..models import Acknowledgement, Cut
from .pace import LogInPace


class _Turn:
    """One entry, for all callers that ask for the same log-out before its time."""

    __slots__ = ("acknowledgement", "at_s", "callers", "cut", "lock")

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s
        self.callers = 0
        self.lock = anyio.Lock()
        self.cut: Cut | None = None
        self.acknowledgement: Acknowledgement | None = None


class SharedCuts:
    """Gives each log-out everywhere its turn.

    Args:
        clock: ends the waiting.
        pace: of each subject.
    """

    def __init__(self, clock: Clock, pace: LogInPace) -> None:
        self._clock = clock
        self._pace = pace
        self._coming: dict[tuple[str, str | None], _Turn] = {}

    async def take_turn(
        self, subject: str, kept: str | None, make: Callable[[], Cut], write: Callable[[Cut], Awaitable[Acknowledgement]]
    ) -> Acknowledgement:
        """Return the acknowledgement of an entry that was made after this call.

        Args:
            subject: whose sessions end.
            kept: the family of the session that stays.
            make: makes the entry.
            write: writes it. If that fails, each caller that shares the entry tries it once more.
        """
        key = subject, kept
        turn = self._coming.get(key)
        if turn is None:
            turn = self._coming[key] = _Turn(self._clock.boot_s() + self._pace.wait_to_cut_s(subject))
        turn.callers += 1
        try:
            if (wait_s := turn.at_s - self._clock.boot_s()) > 0:
                await self._clock.sleep(wait_s)
            self._close(key, turn)
            async with turn.lock:
                if turn.acknowledgement is None:
                    turn.cut = turn.cut or make()
                    turn.acknowledgement = await write(turn.cut)
                return turn.acknowledgement
        finally:
            turn.callers -= 1
            if not turn.callers:
                self._close(key, turn)

    def _close(self, key: tuple[str, str | None], turn: _Turn) -> None:
        """Let the next caller have another turn."""
        if self._coming.get(key) is turn:
            del self._coming[key]

    def __len__(self) -> int:
        return len(self._coming)
