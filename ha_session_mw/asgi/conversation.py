"""An app's side of a conversation, overheard: what it has listened to, and whether it has answered."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import Message, Receive, Send


class Conversation:
    """Hands messages on, both ways.

    Attributes:
        first: the message that opened the conversation, once the app has asked for it.
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
        """The message that opens the conversation, whether the app has taken it or not."""
        if self.first is None:
            self.first = await self._receive()
        return self.first
