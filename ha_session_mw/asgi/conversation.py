"""Observes what an app has received and whether it has sent anything."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import Message, Receive, Send


class Conversation:
    """Passes messages between a server and an app, and notes the first one of each side.

    Attributes:
        first: the first message from the server, once the app or ``opening`` has received it.
        answered: whether the app has sent anything.
    """

    __slots__ = ("_receive", "_send", "answered", "first")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.first: Message | None = None
        self.answered = False

    def receive(self) -> Awaitable[Message]:
        return self._receive() if self.first is not None else self.opening()

    def send(self, message: Message) -> Awaitable[None]:
        self.answered = True
        return self._send(message)

    async def opening(self) -> Message:
        """Return the first message from the server, whether the app has received it already or not."""
        if self.first is None:
            self.first = await self._receive()
        return self.first
