"""Answers the calls of operators: state, devices, log-outs, keys, drain. Only a holder of the cluster's key can sign one."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.types import Send

from .._core.calls.faults import PeerFaults
from .._core.names import require_name
from .._peering.server import PeerServer
from .._peering.signatures import ADMIN
from ..exceptions import ProblemError, UsageError
from ..models import Acknowledgement
from .admin_messages import DRAIN, KEYS, REVOKE, SESSIONS, STATUS, Answer, Drain, Failure, Nothing, Revoke, SessionsOf, encode
from .keys_told import keys_of
from .members_told import members_of
from .node import Node
from .status import status_of

logger = logging.getLogger("ha_session_mw")

R = TypeVar("R", bound=msgspec.Struct)


class Administration:
    """Answers operators on behalf of one process.

    Args:
        node: the process.
        not_found: answers a call that nobody signed as a path is answered that does not exist.

    Attributes:
        server: answers the calls.
    """

    def __init__(self, node: Node, not_found: Callable[[Send], Awaitable[None]]) -> None:
        self._node = node
        self.server = PeerServer(
            None,
            os.urandom(16).hex(),
            node.peer_keys,
            node.clock,
            PeerFaults(on_fault=node.security.peer_fault),
            purpose=ADMIN,
            on_unsigned=node.security.stranger_refused,
            not_found=not_found,
        )
        self._answer(STATUS, Nothing, self._status)
        self._answer(SESSIONS, SessionsOf, self._sessions)
        self._answer(REVOKE, Revoke, self._revoke)
        self._answer(KEYS, Nothing, self._keys)
        self._answer(DRAIN, Drain, self._drain)

    def _answer(self, name: str, kind: type[R], act: Callable[[R], Awaitable[object]]) -> None:
        decode = msgspec.msgpack.Decoder(kind).decode

        async def handler(body: bytes) -> bytes:
            request = decode(body)  # a ValueError becomes a signed 400
            try:
                return encode(Answer(result=await act(request)))
            except ProblemError as problem:
                return encode(Answer(error=Failure(problem.code, problem.reason or problem.detail)))
            except (UsageError, ValueError) as exc:
                return encode(Answer(error=Failure("usage", str(exc))))

        self.server.handle(name, handler)

    async def _status(self, _: Nothing) -> object:
        return {**status_of(self._node), **self._of_cluster()}

    def _of_cluster(self) -> dict[str, object]:
        node = self._node
        return {"wall_ms": int(node.clock.wall_s() * 1000), "members": members_of(node), "kids_of_members": node.kids_of_members()}

    async def _sessions(self, asked: SessionsOf) -> object:
        require_name(asked.subject, "subject")
        devices = await self._node.require_devices().of_subject(asked.subject)
        return [msgspec.structs.asdict(device) for device in devices]

    async def _revoke(self, asked: Revoke) -> Any:
        self._node.require_running()
        return msgspec.to_builtins(await self._revoked(asked))

    async def _revoked(self, asked: Revoke) -> Acknowledgement:
        revoker = self._node.revoker
        if asked.session is not None:
            return await revoker.revoke_id(asked.session)
        if asked.subject is not None:
            return await revoker.revoke_subject(asked.subject, None)
        if asked.key is not None:
            return await revoker.revoke_key(asked.key)
        return await revoker.revoke_everybody()

    async def _keys(self, _: Nothing) -> object:
        return keys_of(self._node)

    async def _drain(self, asked: Drain) -> object:
        draining = self._node.draining
        draining.begin()
        if asked.wait:
            await draining.drain()
        return {"draining": True}


def administration_of(node: Node, not_found: Callable[[Send], Awaitable[None]]) -> PeerServer:
    """Return what answers operators at a node. It is made with the first call, because most processes never get one.

    Several middlewares share a node, and a call that was used at one of them must not be good at another.
    """
    if node.administration is None:
        node.administration = Administration(node, not_found).server
    return node.administration
