"""Start and stop with the app: run the manager for as long as the app lives, and stop the start on wrong settings."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..exceptions import ConfigurationError
from ..manager import SessionManager


class _Ear:
    """The app's side of the lifespan, noting what it did, to tell an app without a lifespan from one that failed."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.heard = False
        self.answered = False

    async def receive(self) -> Message:
        self.heard = True
        return await self._receive()

    async def send(self, message: Message) -> None:
        self.answered = True
        await self._send(message)


async def run_lifespan(app: ASGIApp, manager: SessionManager, scope: Scope, receive: Receive, send: Send) -> None:
    """The app's lifespan with the manager running around it; one of ours for an app that has none (Django)."""
    ear = _Ear(receive, send)
    failure: Exception | None = None
    async with manager.running():
        try:
            await app(scope, ear.receive, ear.send)
        except Exception as exc:  # noqa: BLE001 - raised below, outside the task group, which would wrap it
            # An app that raises without listening knows no lifespan. That is no failure, but then the start is ours to answer.
            failure = exc if ear.heard or ear.answered else None
        if failure is None and not ear.answered:
            await _own_lifespan(receive, send, heard=ear.heard)
    if failure is not None:
        raise failure


async def _own_lifespan(receive: Receive, send: Send, *, heard: bool) -> None:
    if not heard:
        await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def refuse_lifespan(fault: ConfigurationError, receive: Receive, send: Send) -> None:
    """Stop the start. An exception would not: servers take that for an app without a lifespan."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": str(fault)})
