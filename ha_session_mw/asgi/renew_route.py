"""The ready-made route ``{ENDPOINTS}/renew``: keeps a session alive whose user works in a page that sends no other request.

A message over a WebSocket is no request, so it renews no token. The script of such a page calls this route while the page is used.
"""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from .._core.request_fields import last_value
from ..exceptions import ClientFault, ProblemError, TokenMissing
from ..manager import node_of
from ..session.of_request import get_session
from ..session.session import Session, state_of
from .device_routes import MAX_KEY_LENGTH, require_same_site


async def renew(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer ``POST`` with 204 and a renewed token, also if renewal is not due yet. It runs behind the middleware, like an app.

    A repeat with the same ``Idempotency-Key`` gets the same answer, without a record of the first: to renew twice does no harm.
    A key that stands for something else is refused.

    Raises:
        ProblemError: the request carries no token of a valid session, or a page of another site made it.
    """
    if scope["method"] != "POST":
        await _answer(send, 405, (b"allow", b"POST"))
        return
    session = get_session(scope)
    state = state_of(session)
    state.path_kind = "guarded"
    try:
        _ensure_may_renew(scope, session)
    except ProblemError as problem:
        state.turned_away = problem  # nothing has been done
        raise
    key = last_value(scope["headers"], b"idempotency-key", MAX_KEY_LENGTH)
    node = node_of(session.manager)
    if key and node.data.has_store:
        try:
            await node.once.find(session.subject or session.family or "", key, scope["path"].encode())
        except ClientFault as problem:
            state.turned_away = problem
            raise
    state.renews_now = True
    session.modified = True  # so that the response does not start without a commit
    await _answer(send, 204)


def _ensure_may_renew(scope: Scope, session: Session) -> None:
    require_same_site(scope)
    if session.problem is not None:
        raise session.problem
    if session.id is None:
        raise TokenMissing("there is no session to renew")


async def _answer(send: Send, status: int, *fields: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"cache-control", b"no-store"), *fields]})
    await send({"type": "http.response.body"})
