"""The app of a node that refuses requests when it has too many of them (``HA_SESSION_OVERLOAD=refuse``)."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from starlette.types import ASGIApp, Receive, Scope, Send

from .._core.calls.overload import TICK_S, OverloadGuard, retry_after_s
from ..abc import Clock
from ..exceptions import Overloaded
from ..session.session import SCOPE_KEY, state_of


class GuardedApp:
    """Stands around the app. Probes, calls of peers and WebSockets do not come through it, or pass.

    Args:
        app: the app.
        clock: measures how late the event loop is.
        random: makes n random bytes.
    """

    def __init__(self, app: ASGIApp, clock: Clock, random: Callable[[int], bytes]) -> None:
        self.app = app
        self._boot_s = clock.boot_s
        self._random = random
        self._guard = OverloadGuard()
        self._refuses = self._guard.refuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            state = state_of(scope[SCOPE_KEY])
            if self._refuses(self._boot_s(), has_session=state.verified is not None):
                refusal = Overloaded("the event loop is late", retry_after_s=retry_after_s(self._random(1)[0] / 255))
                state.turned_away = refusal  # the app has done nothing
                raise refusal
        await self.app(scope, receive, send)

    async def run(self) -> None:
        """Measure until cancelled."""
        self._guard.begin(self._boot_s())
        try:
            while True:
                # The loop's own timer is what is measured. A time limit would take several rounds of the loop to end.
                await anyio.sleep(TICK_S)
                self._guard.tick(self._boot_s())
        finally:
            self._guard.stop()
