"""The polls of the other members: each waits here as a request until the state machine answers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import anyio

from ..._core.quorum.holds import SECOND_HAND_S, TOGETHER_S
from ..._core.quorum.log import Quorum
from ..._core.quorum.messages import Answer, decode_poll, encode
from ..._core.quorum.ready import Hold, Ready
from ...abc import Clock
from ..common.membered import moment_of


class _Waiting:
    """A request of another member that waits for the answer to its poll."""

    __slots__ = ("answer", "answered")

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.answered = anyio.Event()


class Answering:
    """Answers the polls of the others.

    Args:
        quorum: the state machine.
        clock: the two clocks.
        obey: does what the state machine asks for.
        wake: lets requests that wait for news look again.
        heard: takes each member that has polled this node, and its process.
    """

    def __init__(
        self,
        quorum: Quorum,
        *,
        clock: Clock,
        obey: Callable[[Ready], None],
        wake: Callable[[], None],
        heard: Callable[[str, str], None],
    ) -> None:
        self._quorum = quorum
        self._clock = clock
        self._obey = obey
        self._wake = wake
        self._heard = heard
        self._waiting: dict[Hold, _Waiting] = {}
        self._has_answered_in_part = anyio.Event()

    def hand_out(self, answers: Iterable[tuple[Hold, Answer]]) -> None:
        """Let each request have its answer."""
        for hold, answer in answers:
            if (waiting := self._waiting.pop(hold, None)) is not None:
                waiting.answer = answer
                waiting.answered.set()

    async def on_poll(self, body: bytes) -> bytes:
        """Answer a poll of another member once there is something to answer.

        Raises:
            ValueError: the body is no poll.
        """
        try:
            poll = decode_poll(body)
        except (ValueError, RecursionError) as exc:
            raise ValueError("no poll") from exc
        hold, ready = self._quorum.arrived(poll, moment_of(self._clock))
        waiting = self._waiting[hold] = _Waiting()
        self._obey(ready)
        self._wake()
        self._heard(poll.sender, poll.heartbeat.life)
        answer = await self._answer(hold, waiting)
        if not answer.complete:
            self._has_answered_in_part.set()
        return encode(answer)

    async def prepare_for_ever(self) -> None:
        """Look up the next page while its reader takes in the newest one."""
        while True:
            await self._has_answered_in_part.wait()
            self._has_answered_in_part = anyio.Event()
            self._quorum.composer.prepare()

    async def _answer(self, hold: Hold, waiting: _Waiting) -> Answer:
        look_s = min(hold.since_s + max(SECOND_HAND_S, TOGETHER_S), hold.until_s)
        try:
            while waiting.answer is None:
                with self._clock.move_on_after(max(0.0, look_s - self._clock.boot_s())) as limit:
                    await waiting.answered.wait()
                if limit.cancelled_caught:
                    look_s = hold.until_s
                    self._obey(self._quorum.ready(moment_of(self._clock)))
            return waiting.answer
        finally:
            if self._waiting.pop(hold, None) is not None:
                self._quorum.drop(hold)
