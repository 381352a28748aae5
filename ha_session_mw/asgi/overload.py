"""The app of a node that refuses requests when it has too many of them (``HA_SESSION_OVERLOAD=refuse``)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._core.calls.in_flight import InFlightLimit
from .._core.calls.overload import TICK_S, OverloadGuard, retry_after_s
from ..abc import Clock
from ..exceptions import Overloaded
from ..session.session import SCOPE_KEY, state_of


class GuardedApp:
    """Stands around the app. Probes, calls of peers and WebSockets do not come through it, or pass.

    Args:
        app: the app.
        clock: measures how late the event loop is, and how long requests take.
        random: makes n random bytes.
        is_passive: whether nobody made a request by hand. Such a request may wait for an event, so its time proves nothing.
    """

    def __init__(self, app: ASGIApp, clock: Clock, random: Callable[[int], bytes], is_passive: Callable[[Scope, str], bool]) -> None:
        self.app = app
        self._boot_s = clock.boot_s
        self._random = random
        self._is_passive = is_passive
        self._guard = OverloadGuard()
        self._in_flight = InFlightLimit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        now_s = self._boot_s()
        state = state_of(scope[SCOPE_KEY])
        has_session = state.verified is not None
        if self._guard.refuses(now_s, has_session=has_session):
            why = "the event loop is late"
        elif self._is_passive(scope, scope.get("root_path") or ""):
            await self.app(scope, receive, send)
            return
        elif self._in_flight.refuses(has_session=has_session):
            why = "too many requests are in flight"
        else:
            timed = _Timed(self._in_flight, self._boot_s, receive, send)
            self._in_flight.begin(timed, now_s)
            try:
                await self.app(scope, timed.receive_next, timed.pass_on)
            finally:
                timed.end()
            return
        refusal = Overloaded(why, retry_after_s=retry_after_s(self._random(1)[0]))
        state.turned_away = refusal  # the app has done nothing
        raise refusal

    async def run(self) -> None:
        """Measure until cancelled."""
        self._guard.begin(self._boot_s())
        try:
            while True:
                # The loop's own timer is what is measured. A time limit would take several rounds of the loop to end.
                await anyio.sleep(TICK_S)
                self.tick()
        finally:
            self._guard.stop()

    def tick(self) -> None:
        """Measure once."""
        now_s = self._boot_s()
        self._guard.tick(now_s)
        self._in_flight.tick(now_s)


class _Timed:
    """One request, and the time that it takes until its response starts."""

    __slots__ = ("_boot_s", "_in_flight", "_is_over", "_receive", "_send")

    def __init__(self, in_flight: InFlightLimit, boot_s: Callable[[], float], receive: Receive, send: Send) -> None:
        self._in_flight = in_flight
        self._boot_s = boot_s
        self._receive = receive
        self._send = send
        self._is_over = False

    async def receive_next(self) -> Message:
        if self._is_over:
            return await self._receive()
        took_s = self._in_flight.pause(self, self._boot_s())
        message = await self._receive()
        if not self._is_over:
            self._in_flight.begin(self, self._boot_s(), took_s)
        return message

    def pass_on(self, message: Message) -> Awaitable[None]:
        if not self._is_over and message["type"] == "http.response.start":
            self._is_over = True
            self._in_flight.answered(self, self._boot_s())
        return self._send(message)

    def end(self) -> None:
        """Note that the app has returned. A task that it has left behind may still ask for a message."""
        self._is_over = True
        self._in_flight.forget(self)
