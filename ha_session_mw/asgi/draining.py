"""The app of a node that drains: clients go elsewhere with their next request, and at once if the settings say so."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._node.draining import Draining
from ..exceptions import NodeDraining
from ..session.session import SCOPE_KEY, state_of
from .problems import SAFE_METHODS


class DrainingApp:
    """Stands around the app from the moment at which its node drains. Before that, requests pay nothing for it.

    Args:
        app: the app.
        draining: whether the node still drains.
        refuse_safe: whether to refuse requests that every client may send again elsewhere.
    """

    def __init__(self, app: ASGIApp, draining: Draining, *, refuse_safe: bool) -> None:
        self.app = app
        self._draining = draining
        self._refuse_safe = refuse_safe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._draining.begun:
            await self.app(scope, receive, send)
            return
        if self._refuse_safe and scope["method"] in SAFE_METHODS:
            refusal = NodeDraining("drains, and HA_SESSION_DRAIN_REFUSE=safe", check="fresh")
            state_of(scope[SCOPE_KEY]).turned_away = refusal  # the app has done nothing
            raise refusal
        await self.app(scope, receive, closing(send) if scope.get("http_version", "1.1") < "2" else send)


def closing(send: Send) -> Send:
    """Return a ``send`` that has the server close the connection: the client's next request then goes to another node."""

    async def send_last(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return send_last
