"""Tell the client, once, that its session came from another node."""

from __future__ import annotations

from starlette.types import Message, Send

from .._core.request_fields import Header
from .._core.structured_fields import TRANSFER_HEADER
from .._node.node import Node
from ..models import Claims

_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))


def telling_of_transfer(send: Send, node: Node, claims: Claims) -> Send:
    """Return a ``send`` that adds ``Session-Transfer`` to the start of the answer if another node issued the token.

    Args:
        send: of the server.
        node: this node. One that does not name itself tells nothing.
        claims: of the token that came in.
    """
    field = node.ownership.transfer_field(claims) if node.node_fields else None
    return send if field is None else _adding(field, send)


def _adding(field: Header, send: Send) -> Send:
    async def send_with_field(message: Message) -> None:
        if message["type"] in _STARTS:
            headers = [*(message.get("headers") or ())]
            if all(name != TRANSFER_HEADER for name, _ in headers):
                message = {**message, "headers": [*headers, field]}
        await send(message)

    return send_with_field
