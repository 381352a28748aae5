"""The sessions that a client leaves behind with a new token: under its old id, its older session, those of its other tokens.

The new token reaches the client in the response, and until then the request may still be refused. An entry in the log cannot be
withdrawn. So a commit asks the log first (:meth:`LeftBehind.confirm`), before it changes anything. Then it does everything that can
fail, and denies the sessions last (:meth:`LeftBehind.leave`): nothing between that and the response can fail, or be cancelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import anyio.lowlevel

from .._node.uncancelled import Uncancelled
from ..models import Acknowledgement, Claims, Deny
from .presented import others
from .state import RequestState

if TYPE_CHECKING:
    from .._node.node import Node


class LeftBehind:
    """The sessions that one commit leaves behind.

    Args:
        node: this node.
        uncancelled: carries the denials out.
        replaced: the session in whose place the client gets its new token.
        others: the further sessions that end with it.
        begins: whether another session begins. Then all ids of the replaced one are denied, otherwise only the present one.
        cleared: whether the app has cleared the replaced session. It asked for an acknowledgement by that.
    """

    def __init__(
        self, node: Node, uncancelled: Uncancelled, replaced: Claims | None, others: Sequence[Claims], *, begins: bool, cleared: bool
    ) -> None:
        self._node = node
        self._uncancelled = uncancelled
        self._replaced = replaced
        self._others = others
        self._begins = begins
        self._cleared = cleared
        self._will_be_durable: bool | None = None

    async def confirm(self) -> None:
        """Ask once whether denials will be durable, or may be provisional. Denies nothing.

        Raises:
            QuorumLost: neither.
        """
        if self._will_be_durable is None:
            self._will_be_durable = await self._node.revoker.will_be_durable()

    async def leave(self, ended: Sequence[Deny] = ()) -> Acknowledgement | None:
        """Deny the sessions, and drop the records of those that are over; return the acknowledgement, as :meth:`Revoker.leave_behind`.

        A cancellation, as of a client that has gone, counts before it, or once the response has started. It takes as long as the log
        may take, a few seconds at most.

        Args:
            ended: denies further sessions, for which the new one leaves no place.

        Raises:
            QuorumLost: the denials may be provisional only, and cannot be written down. Nothing was denied.
        """
        entries = [*self._denials(), *ended]
        if not entries:
            return None
        await self.confirm()
        await anyio.lowlevel.checkpoint_if_cancelled()
        return await self._uncancelled.run(lambda: self._leave(entries))

    async def _leave(self, entries: Sequence[Deny]) -> Acknowledgement | None:
        acknowledgement = await self._node.revoker.leave_behind(
            entries, durable=self._will_be_durable is True, fence=self._cleared, report=self._begins
        )
        for claims in self._over():
            if claims.record:
                await self._node.data.forget(claims.family)
        return acknowledgement

    def _denials(self) -> Iterator[Deny]:
        if self._replaced is not None:
            id = self._replaced.family if self._begins else self._replaced.sid
            yield Deny(id, self._replaced.absolute_end_ms, int(self._node.clock.wall_s() * 1000))
        for claims in self._others:
            yield Deny(claims.family, claims.absolute_end_ms)

    def _over(self) -> Iterator[Claims]:
        if self._replaced is not None and self._begins:
            yield self._replaced
        yield from self._others


async def left_behind(state: RequestState, node: Node, uncancelled: Uncancelled, *, several: bool) -> LeftBehind:
    """Return the sessions that the client leaves behind if it gets a new token.

    Args:
        state: of the request.
        node: this node.
        uncancelled: carries the denials out.
        several: whether the sessions of all tokens in the request end.

    Raises:
        QuorumLost: there are some, and they can be denied neither durably nor provisionally. Nothing was changed.
    """
    claims, came_in = state.claims, state.came_in
    is_replaced = came_in is not None and state.acknowledgement is None and (claims is None or claims.sid != came_in.sid)
    further = others(state, node) if several else []
    left = LeftBehind(node, uncancelled, came_in if is_replaced else None, further, begins=not state.continues, cleared=state.ended)
    if is_replaced or further:
        await left.confirm()
    return left
