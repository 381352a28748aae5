"""A block that is executed once for each idempotency key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .._core.records.once import decode_answer
from .._node.once import Begun
from ..exceptions import ClientFault, SessionRevoked
from ..models import Claims
from .state import RequestState

if TYPE_CHECKING:
    from .._node.node import Node


class Answer:
    """The value of ``async with session.once(key)``.

    Attributes:
        answer: the answer of the first request; None until there is one. The block sets it.
    """

    def __init__(self, answer: object = None) -> None:
        self.answer = answer


@asynccontextmanager
async def executed_once(
    state: RequestState, node: Node, owner: str, subject: str | None, key: str, request: bytes, *, lease_s: float
) -> AsyncIterator[Answer]:
    """Run the block unless a request with this key has an answer already; see ``Session.once``."""
    try:
        found = await node.once.begin(owner, subject, key, request, lease_s=lease_s)
    except ClientFault as problem:
        state.turned_away = problem  # nothing has been done
        raise
    if not isinstance(found, Begun):
        yield Answer(decode_answer(found))
        return
    one = Answer()
    try:
        yield one
    except Exception:
        # An answer means that the work is done, so a repeat must not do it again.
        await (node.once.give_up(found) if one.answer is None else node.once.keep(found, one.answer))
        raise
    # A block that is cancelled keeps its claim: nobody knows how far it got. The lease ends that.
    if one.answer is None:
        await node.once.give_up(found)
    else:
        await node.once.keep(found, one.answer)


def logged_out(state: RequestState, node: Node) -> Claims | None:
    """Return the claims of the session that came with a request and was logged out; None if there is none, or several."""
    if not isinstance(state.problem, SessionRevoked) or len(state.refused) != 1:
        return None
    verified = node.validator.verify(state.refused[0])
    return verified.claims if verified is not None else None


@asynccontextmanager
async def answered_before(state: RequestState, node: Node, ended: Claims, key: str, request: bytes) -> AsyncIterator[Answer]:
    """Run the block with the answer of a request whose session is logged out by now, as by that very request.

    Raises:
        SessionRevoked: no request with this key was answered. Nothing may be executed for that session any more.
        IdempotencyKeyReused, RequestInFlight, StoreUnavailable: as :meth:`OnceKeeper.find`.
    """
    assert state.problem is not None  # noqa: S101 - see logged_out
    try:
        found = await node.once.find(ended.subject or ended.family, key, request)
        if found is None:
            raise state.problem.with_traceback(None)
    except ClientFault as problem:
        state.turned_away = problem  # nothing has been done
        raise
    yield Answer(decode_answer(found))
