"""Start and stop with the app: run the node for as long as the app lives, and stop the start on wrong settings."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..exceptions import ConfigurationError
from .conversation import Conversation
from .sigterm import drains_on_sigterm

if TYPE_CHECKING:
    from .._node.node import Node

logger = logging.getLogger("ha_session_mw")


class _LastWords:
    """The messages of an app's lifespan, the last of which waits: servers end the event loop with it, and the node must leave before.

    Attributes:
        kept: that message, once the app has sent it.
        told: the type of the last message that the app sent.
        whole: the scope of the app, which ends when the app has nothing more to say.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.kept: list[Message] = []
        self.told = ""
        self.whole = anyio.CancelScope()

    async def send(self, message: Message) -> None:
        self.told = message["type"]
        if self.told.startswith("lifespan.shutdown."):
            self.kept.append(message)
        else:
            await self._send(message)

    async def receive(self) -> Message:
        if self.kept:
            self.whole.cancel()  # no message follows, and an app that waited for one would delay the last message for ever
        return await self._receive()


async def run_lifespan(app: ASGIApp, node: Node, scope: Scope, receive: Receive, send: Send) -> None:
    """Run the node for as long as the app's lifespan lasts. For an app without a lifespan (Django), the server's alone counts."""
    try:
        node.open()
    except ConfigurationError as fault:
        await refuse_lifespan(fault, receive, send)
        return
    last_words = _LastWords(receive, send)
    conversation = Conversation(last_words.receive, last_words.send)
    failure: Exception | None = None
    async with node.running(), drains_on_sigterm(node):
        try:
            with last_words.whole:
                await app(scope, conversation.receive, conversation.send)
        except Exception as exc:  # noqa: BLE001 - raised below, outside the task group, which would wrap it
            # An app that raises before it receives anything supports no lifespan. That is no failure, and the start is answered here.
            failure = exc if conversation.first or conversation.answered else None
            _log(exc, took_part=failure is not None, told=last_words.told)
        if failure is None and not conversation.answered:
            await _own_lifespan(conversation)
    for message in last_words.kept:
        await send(message)
    if failure is not None:
        raise failure


def _log(failure: Exception, *, took_part: bool, told: str) -> None:
    """Log the error with which the app left the lifespan: servers take it for an app without one, and most of them say nothing.

    Args:
        failure: the error.
        took_part: whether the app had received or sent anything.
        told: the type of the last message that the app sent.
    """
    if took_part:
        if not told.endswith(".failed"):  # the server shows that message
            logger.error("the app failed in its lifespan", exc_info=failure)
    elif "lifespan" in str(failure).lower():  # Django says so on purpose
        logger.info("the app has no lifespan of its own: %s", failure)
    else:
        logger.warning(
            "the app raised before it took part in the lifespan, so none of its middlewares and none of its own start and stop runs. "
            "It is served all the same. A middleware that does not pass the lifespan on may be the reason",
            exc_info=failure,
        )


async def _own_lifespan(conversation: Conversation) -> None:
    await conversation.opening()
    await conversation.send({"type": "lifespan.startup.complete"})
    await conversation.receive()
    await conversation.send({"type": "lifespan.shutdown.complete"})


async def refuse_lifespan(fault: ConfigurationError, receive: Receive, send: Send) -> None:
    """Make the server stop. An exception alone would not: servers take it for an app without a lifespan."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": str(fault)})
    # Starlette's TestClient looks at the message only after the app has ended.
    raise ConfigurationError(fault.faults)
