"""A function of the real code, stopped wherever it reads a clock: between the steps of the accept rule."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, ParamSpec, TypeVar

from ha_session_mw import SessionManager
from ha_session_mw._core.accept_rule import CannotTell
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.manager import node_of
from ha_session_mw.testing import ManualClock

P = ParamSpec("P")
T = TypeVar("T")

LIMIT_S = 10.0
"""Time limit of one step, which computes and never waits."""

_thread = threading.local()


class SteppedClock(ManualClock):
    """Stops a call that goes step by step before it is shown the time."""

    __slots__ = ()

    def boot_s(self) -> float:
        _stop()
        return super().boot_s()

    def wall_s(self) -> float:
        _stop()
        return super().wall_s()


def _stop() -> None:
    steps: Steps[object] | None = getattr(_thread, "steps", None)
    if steps is not None:
        steps.stop()


class Steps(Generic[T]):
    """A call in a thread of its own, which runs while :meth:`go_on` waits for it and at no other time. So it replays.

    Events between two steps act as if the process, or a thread of it, had been paused there.
    """

    def __init__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._in_a_hurry = False
        self._result: list[T] = []
        self._failure: BaseException | None = None
        self.ended = False
        self._thread = threading.Thread(target=self._run, args=(lambda: function(*args, **kwargs),), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], T]) -> None:
        _thread.steps = self
        self._go.acquire()
        try:
            self._result.append(call())
        except BaseException as exc:  # noqa: BLE001 - raised again by result()
            self._failure = exc
        self.ended = True
        self._stopped.release()

    def stop(self) -> None:
        """Called by the clock, in the thread of the call."""
        if not self._in_a_hurry:
            self._stopped.release()
            self._go.acquire()

    def go_on(self) -> bool:
        """Take the next step; returns whether there are more."""
        self._go.release()
        if not self._stopped.acquire(timeout=LIMIT_S):
            raise RuntimeError("the step does not come to its end")
        return not self.ended

    def result(self) -> T:
        """Take all remaining steps, and return or raise the call's result."""
        self._in_a_hurry = True
        if not self.ended:
            self.go_on()
        self._thread.join(LIMIT_S)
        if self._failure is not None:
            raise self._failure
        return self._result[0]


async def check_with_pauses(
    process: SessionManager, token: bytes, pauses: Sequence[float], sleep: Callable[[float], Awaitable[None]]
) -> Verified | CannotTell:
    """The accept rule, with a pause before each of the first readings of a clock.

    Raises:
        ClientFault: as ``SessionManager.check``.
    """
    if not any(pauses):
        return node_of(process).validator.validate(token)
    steps = Steps(node_of(process).validator.validate, token)
    for seconds in pauses:
        if not steps.go_on():
            break
        await sleep(seconds)
    return steps.result()
