"""Tell the client, once, that its session came from another node."""

from __future__ import annotations

from starlette.types import Message, Send

from .._core.request_fields import Header
from .._core.structured_fields import TRANSFER_HEADER

_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))


def telling(send: Send, field: Header) -> Send:
    """Return a ``send`` that adds a field to the start of the answer, unless the answer has it."""

    async def send_with_field(message: Message) -> None:
        if message["type"] in _STARTS:
            headers = [*(message.get("headers") or ())]
            if all(name != TRANSFER_HEADER for name, _ in headers):
                message = {**message, "headers": [*headers, field]}
        await send(message)

    return send_with_field
