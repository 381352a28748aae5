"""Find out whether another process answers at this node's own URL. The peers could not tell the two apart.

Two processes with one ``HA_SESSION_ADVERTISE_URL`` take turns in answering, as a load balancer or the kernel decides. Each would
acknowledge entries for the other that it does not know itself.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from ...abc import HELLO, Clock, PeerFailure

Call = Callable[[str, str, bytes, float], Awaitable[bytes]]
"""Calls a member: ``(url, name, body, time limit in seconds)`` returns its answer, or raises :class:`.PeerFailure`."""

ASK_EVERY_S = 5.0
"""How often a round begins at first. A second process appears with a deployment, so seconds are early enough."""
SELDOM_S = 120.0
"""How often a round begins while this process has been alone for long. A second one that starts asks often itself, and is found by that."""
CALLS_PER_ROUND = 4
"""Calls in one round, at once, so that each takes a connection of its own and may reach another process."""
ROUNDS_ALONE = 4
"""Rounds in a row that this process alone must answer until that counts. Of two, one answers 16 calls by chance 1 time in 65,536."""


class OwnUrl:
    """Asks at this node's own URL, again and again, which process answers there.

    Args:
        url: this node's URL.
        life: names this process.
        call: calls a member.
        clock: measures the time from round to round.
        tell: takes the reason why this node cannot be reached at its URL; None when it is reached.
        logger: takes the line about a second process.

    Attributes:
        shared: whether another process answers at the URL.
    """

    def __init__(
        self,
        url: str,
        life: str,
        call: Call,
        *,
        clock: Clock,
        tell: Callable[[str | None], None],
        logger: logging.Logger,
    ) -> None:
        self._url = url
        self._life = life.encode()
        self._call = call
        self._clock = clock
        self._tell = tell
        self._logger = logger
        self._rounds_alone = 0
        self._noticed = anyio.Event()
        """Set once another process is noticed, so that the rounds that find out when it has gone begin at once."""
        self.shared = False

    async def watch(self, first_after_s: float) -> None:
        """Ask for ever, first after ``first_after_s``: a server listens only once the app has started."""
        await self._clock.sleep(first_after_s)
        while True:
            await self._ask_round()
            if self._rounds_alone < ROUNDS_ALONE:
                await self._clock.sleep(ASK_EVERY_S)
                continue
            self._noticed = anyio.Event()
            with self._clock.move_on_after(SELDOM_S):
                await self._noticed.wait()

    async def _ask_round(self) -> None:
        lives: list[bytes] = []
        async with anyio.create_task_group() as tasks:
            for _ in range(CALLS_PER_ROUND):
                tasks.start_soon(self._ask, lives)
        for life in lives:
            self._note_process(life)
        if len(lives) == CALLS_PER_ROUND:
            self._rounds_alone += 1
            if self._rounds_alone >= ROUNDS_ALONE:
                self.shared = False  # the other process was a predecessor, about to end
        else:
            self._rounds_alone = 0  # unreachable: ask often, so that its log says soon when that has ended

    async def _ask(self, lives: list[bytes]) -> None:
        try:
            lives.append(await self._call(self._url, HELLO, self._life, ASK_EVERY_S))
        except PeerFailure as failure:
            self._tell(f"HA_SESSION_ADVERTISE_URL, where peers are to reach this node: {failure}")
        else:
            self._tell(None)

    async def on_hello(self, body: bytes) -> bytes:
        """Return the life of this process. The caller has this node's URL, so it is this process or a second one."""
        self._note_process(body)
        return self._life

    def _note_process(self, life: bytes) -> None:
        if life == self._life:
            return
        self._rounds_alone = -1  # the round under way does not count
        self._noticed.set()
        if not self.shared:
            self.shared = True
            self._logger.error(
                "another process answers at HA_SESSION_ADVERTISE_URL: give each process a URL of its own, or start one worker only"
            )
