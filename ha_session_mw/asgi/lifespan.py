"""Start and stop with the app: run the node for as long as the app lives, and stop the start on wrong settings."""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._node.node import Node
from ..exceptions import ConfigurationError
from .conversation import Conversation


async def run_lifespan(app: ASGIApp, node: Node, scope: Scope, receive: Receive, send: Send) -> None:
    """The app's lifespan with the node running around it; one of ours for an app that has none (Django)."""
    last_words: list[Message] = []
    whole = anyio.CancelScope()

    async def send_or_keep(message: Message) -> None:
        # Servers end the event loop as soon as they hear this, and the node has last words of its own to say.
        if message["type"].startswith("lifespan.shutdown."):
            last_words.append(message)
        else:
            await send(message)

    async def receive_or_end() -> Message:
        if last_words:
            whole.cancel()  # nothing comes after the end, and an app that waits for it would keep the end from being told
        return await receive()

    try:
        node.open()
    except ConfigurationError as fault:
        await refuse_lifespan(fault, receive, send)
        return
    ear = Conversation(receive_or_end, send_or_keep)
    failure: Exception | None = None
    async with node.running():
        try:
            with whole:
                await app(scope, ear.receive, ear.send)
        except Exception as exc:  # noqa: BLE001 - raised below, outside the task group, which would wrap it
            # An app that raises without listening knows no lifespan. That is no failure, but then the start is ours to answer.
            failure = exc if ear.first or ear.answered else None
        if failure is None and not ear.answered:
            await _own_lifespan(ear)
    for message in last_words:
        await send(message)
    if failure is not None:
        raise failure


async def _own_lifespan(ear: Conversation) -> None:
    await ear.opening()
    await ear.send({"type": "lifespan.startup.complete"})
    await ear.receive()
    await ear.send({"type": "lifespan.shutdown.complete"})


async def refuse_lifespan(fault: ConfigurationError, receive: Receive, send: Send) -> None:
    """Stop the start. An exception would not: servers take that for an app without a lifespan."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": str(fault)})
    # For those who wait for the app to end before they look at what it said (Starlette's TestClient).
    raise ConfigurationError(fault.faults)
