"""Tell the client, once, that its session came from another node, or that the session's data is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import Message, Send

from .._core.request_fields import Header
from .._core.structured_fields import LOST_FIELD
from ..models import NodeId
from ..session.state import RequestState

if TYPE_CHECKING:
    from .._node.node import Node

_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))


def telling_of_transfer(send: Send, node: Node, issuer: NodeId, state: RequestState) -> Send:
    """Return a ``send`` that adds ``Session-Transfer`` to the start of the answer if another node issued the token.

    Args:
        send: of the server.
        node: this node. One that does not name itself tells nothing.
        issuer: the node that issued the token that came in.
        state: of the request. If another node answers it, that node tells.
    """
    field = node.ownership.transfer_field(issuer) if node.node_fields else None
    return send if field is None else _adding(field, send, state)


def telling_of_loss(send: Send, state: RequestState) -> Send:
    """Return a ``send`` that adds ``Session-Data-Lost`` to the start of the answer."""
    return _adding(LOST_FIELD, send, state)


def _adding(field: Header, send: Send, state: RequestState) -> Send:
    async def send_with_field(message: Message) -> None:
        if message["type"] in _STARTS and (field is LOST_FIELD or not state.passed_on):
            headers = [*(message.get("headers") or ())]
            if all(name != field[0] for name, _ in headers):
                message = {**message, "headers": [*headers, field]}
        await send(message)

    return send_with_field
