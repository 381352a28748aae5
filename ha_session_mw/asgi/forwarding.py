"""Forward one request to the owner of its session, and pass the answer on: streamed both ways, with the pace of the slower side.

A request whose bytes may have reached the owner is never executed a second time unless its method is safe.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal, Self

import anyio
from starlette.types import Message, Receive, Scope, Send

from .._core.cluster.members import Heartbeat
from .._core.request_fields import Header, values
from .._node.node import Node
from .._peering.signatures import FACTS_HEADER, HEADER, LENGTH_HEADER
from ..abc import PeerFailure
from ..exceptions import ForwardLoop, ForwardOutcomeUnknown, PeerUnreachable
from ..session.state import STARTED, RequestState
from .headers import is_event_stream
from .problems import SAFE_METHODS
from .streams import cut_off

if TYPE_CHECKING:
    import httpx2

    from .._peering.forward import Facts

KEPT_BODY = 64 * 1024
"""Bytes of a body that are kept until the owner answers, so that this node can answer if the owner has done nothing."""
MESSAGE_BYTES = 256
"""Bytes that a message takes besides its content. A client may send each byte in a message of its own."""
LONGEST_HEADER = 32 * 1024
"""Bytes of the longest header that is forwarded. The call adds a path and signatures, and servers take 64 kB, if not less."""
ANSWER_WITHIN_S = 60.0
"""Seconds in which the owner must begin its answer, as with the generated files of balancers."""
LOOK_EVERY_S = 1.0
"""How often a request that waits looks whether the owner is still a member."""

_OF_ONE_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authorization"),
    )
)
"""Fields that concern one connection (RFC 9110 section 7.6.1). Trailers are not passed on."""
_SIGNED = HEADER.encode()
_OF_THE_CALL = (b"host", b"content-length", b"expect", _SIGNED, FACTS_HEADER.encode())
"""Fields of a request that the call has in its own right, and ``Expect``, which a server has dealt with."""
_OF_A_SERVER = (b"date", b"server")
"""Fields that each server adds to what its app says: the client gets those of this node."""
_VIA = (b"via", b"1.1 ha-session")

Result = Literal["answered", "fell_back", "refused", "unknown", "cut_off", "gone"]


class AnswerCutOff(ConnectionResetError):
    """The owner's answer broke off after its beginning had been passed on. The server drops the client's connection, too."""


class ClientGone(Exception):
    """The client has gone before its request was complete."""


class BrokenBody(PeerFailure):
    """The body of a request has another length than its header says."""

    was_sent = True


class Body:
    """The body of a request on its way to the owner. Keeps its beginning, so that this node can still handle the request.

    Attributes:
        ended: is set once the body is complete.
        length: the length that the header of the request gives, if any.
    """

    def __init__(self, receive: Receive) -> None:
        self.length: int | None = None
        self._receive = receive
        self._waiting: list[Message] = []
        self._kept: list[Message] | None = []
        self._size = 0
        self.ended = anyio.Event()

    async def look(self) -> bool:
        """Whether there is a body at all. HTTP/2 has bodies without a field that says so."""
        message = await self._next()
        self._waiting.append(message)
        return bool(message.get("body") or message.get("more_body"))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self.ended.is_set():
            message = self._waiting.pop() if self._waiting else await self._next()
            if message["type"] != "http.request":
                raise ClientGone
            if not message.get("more_body"):
                self.ended.set()
            self._check_length()
            if chunk := message.get("body"):
                return bytes(chunk)
        raise StopAsyncIteration

    def _check_length(self) -> None:
        if self.length is not None and (self._size > self.length or (self.ended.is_set() and self._size < self.length)):
            raise BrokenBody("the body has another length than the header says")

    async def _next(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._kept is not None:
            self._kept.append(message)
            if self._size + len(self._kept) * MESSAGE_BYTES > KEPT_BODY:
                self._kept = None
        return message

    def again(self) -> Receive | None:
        """Return a ``receive`` that begins the request anew; None if too much of it has gone."""
        kept = self._kept
        if kept is None:
            return None
        rest = [*kept]

        async def receive() -> Message:
            return rest.pop(0) if rest else await self._receive()

        return receive


class Forwarding:
    """One request on its way to the owner of its session.

    Args:
        node: this node.
        owner: the member that owns the session.
        scope, receive, send, state: of the request.
    """

    def __init__(self, node: Node, owner: Heartbeat, scope: Scope, receive: Receive, send: Send, state: RequestState) -> None:
        self._node = node
        self._owner = owner
        self._scope = scope
        self._receive = receive
        self._send = send
        self._state = state
        self._body = Body(receive)
        self._last_state = owner.state
        self._gone: bool = False
        self._lost: bool = False
        self._is_complete: bool = False
        self._answered = anyio.Event()

    async def run(self) -> Receive | None:
        """Have the owner answer. Return None once it has; else a ``receive`` with which this node can handle the request.

        Raises:
            PeerUnreachable, ForwardLoop: the owner has not answered, and too much of the body has gone to handle it here.
            ForwardOutcomeUnknown: the owner may have handled the request.
        """
        try:
            sent = await self._prepared()
        except PeerFailure as unproven:
            self._node.ownership.note(self._owner.member, str(unproven))
            return self._fall_back(was_sent=False)
        if sent is None:
            return self._fall_back(was_sent=False)
        failure = await self._exchanged(*sent)
        if not self._gone:
            if isinstance(failure, PeerFailure):
                return self._fall_back(was_sent=getattr(failure, "was_sent", False), loops=getattr(failure, "loops", False))
            if self._lost:
                return self._fall_back(was_sent=True)
            if failure is not None:
                raise failure
        self._count("gone" if self._gone else "answered")
        return None

    async def _prepared(self) -> tuple[Facts, list[Header]] | None:
        node, owner, headers = self._node, self._owner, self._scope["headers"]
        forwarding = None if node.peering is None else node.peering.forwarding
        if forwarding is None:
            return None
        found = await forwarding.owner_at(owner.url, timeout_s=node.settings.peer_timeout)
        node.ownership.note(owner.member, None if found == owner.member else f"its URL leads to {found}")
        if (
            found != owner.member
            or not _is_text(self._scope["path"])
            or sum(len(name) + len(value) for name, value in headers) > LONGEST_HEADER
        ):
            return None
        framing = await self._framing()
        facts = _facts_of(self._scope, has_length=bool(framing))
        forwarded = forwarded_field(self._scope)
        fields = [field for field in end_to_end(headers) if field[0] not in _OF_THE_CALL]
        return facts, [*fields, *(framing or [(b"content-length", b"0")]), forwarded, _VIA]

    async def _framing(self) -> list[Header]:
        headers = self._scope["headers"]
        lengths = values(headers, b"content-length")
        if values(headers, b"transfer-encoding") or len(lengths) > 1 or any(not length.isdigit() or len(length) > 18 for length in lengths):
            return [(b"transfer-encoding", b"chunked")]
        if lengths:
            self._body.length = int(lengths[0])
            return [(b"content-length", lengths[0])]
        return [(b"transfer-encoding", b"chunked")] if await self._body.look() else []

    async def _exchanged(self, facts: Facts, headers: list[Header]) -> Exception | None:
        """Send the request and pass the answer on. Return the error that ended this early, if any."""
        outcome: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_client, tasks.cancel_scope)
            tasks.start_soon(self._watch_owner, tasks.cancel_scope)
            try:
                await self._relay(facts, headers)
            except Exception as failure:  # noqa: BLE001 - raised outside the task group, which would wrap it
                outcome = failure
            tasks.cancel_scope.cancel()
        return outcome

    async def _relay(self, facts: Facts, headers: list[Header]) -> None:
        from .._peering import forward

        forwarding = None if self._node.peering is None else self._node.peering.forwarding
        assert forwarding is not None  # noqa: S101 - else nothing was prepared
        begun_s = self._node.clock.boot_s()
        try:
            response = await forwarding.send(self._owner.url, facts, headers, self._body)
        except ClientGone:
            self._gone = True
            return
        self._node.validator.durations["forward"].observe(self._node.clock.boot_s() - begun_s)
        try:
            await self._pass_on(response)
        finally:
            await forward.close(response)

    async def _pass_on(self, response: httpx2.Response) -> None:
        from .._peering import forward

        self._answered.set()
        raw = [(name.lower(), value) for name, value in response.headers.raw]
        headers = [field for field in end_to_end(raw) if field[0] not in (_SIGNED, *_OF_A_SERVER)]
        if self._scope["method"] == "HEAD":
            headers = [(b"content-length", value) if name == LENGTH_HEADER.encode() else (name, value) for name, value in headers]
        state = self._state
        state.read_only, state.passed_on, state.passes_events = STARTED, True, is_event_stream(headers)
        await self._send({"type": "http.response.start", "status": response.status_code, "headers": [*headers, _VIA]})
        try:
            async with aclosing(forward.chunks_of(response)) as chunks:
                async for chunk in chunks:
                    await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        except PeerFailure as failure:
            self._count("cut_off")
            await cut_off(self._send, AnswerCutOff(f"the answer of the owner broke off: {failure}"))
            return
        self._is_complete = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch_client(self, scope: anyio.CancelScope) -> None:
        """End the exchange when the client has gone. Until the body is complete, the reader of the body hears of that."""
        await self._body.ended.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._is_complete:  # else the server says that the response is over
            self._gone = True
            scope.cancel()

    async def _watch_owner(self, scope: anyio.CancelScope) -> None:
        """End the exchange when the owner does not begin its answer in time, or has left the members otherwise than in order."""
        clock = self._node.clock
        ends_s = clock.boot_s() + ANSWER_WITHIN_S
        while not self._answered.is_set():
            with clock.move_on_after(LOOK_EVERY_S):
                await self._answered.wait()
            if self._answered.is_set():
                return
            if clock.boot_s() >= ends_s or self._is_lost():
                self._lost = True
                scope.cancel()
                return

    def _is_lost(self) -> bool:
        for member in self._node.log.members():
            if member.life == self._owner.life:
                self._last_state = member.state
                return False
        return self._last_state != "draining"  # one that drains leaves the members, and finishes its requests

    def _fall_back(self, *, was_sent: bool, loops: bool = False) -> Receive | None:
        if was_sent and self._scope["method"] not in SAFE_METHODS:
            self._count("unknown")
            raise ForwardOutcomeUnknown("the owner of the session took the request, and gave no answer")
        again = self._body.again()
        if again is None:
            self._count("refused")
            why = "the owner of the session did not take the request, and its body has gone"
            refusal = ForwardLoop(why) if loops else PeerUnreachable(why)
            if not was_sent:
                self._state.turned_away = refusal  # nothing was executed
            raise refusal
        self._count("fell_back")
        return again

    def _count(self, result: Result) -> None:
        self._node.ownership.forwards[result] += 1


def end_to_end(headers: Iterable[Header]) -> list[Header]:
    """Return the fields that a proxy passes on: not those of one hop, nor those that ``Connection`` names (RFC 9110 section 7.6.1)."""
    listed = [*headers]
    named = {item.strip().lower() for value in values(listed, b"connection") for item in value.split(b",")}
    return [field for field in listed if field[0] not in _OF_ONE_HOP and field[0] not in named]


def forwarded_field(scope: Scope) -> Header:
    """Return the field ``Forwarded`` (RFC 7239) of a request: for whom, by which host and scheme."""
    client = scope.get("client")
    host = values(scope["headers"], b"host")
    parts = [] if client is None else [f'for="{_node(client[0])}"']
    if host and not set(host[-1]) & set(b'"\\'):
        parts.append(f'host="{host[-1].decode("latin-1")}"')
    return b"forwarded", ";".join([*parts, f"proto={scope.get('scheme', 'http')}"]).encode("latin-1")


def _node(address: str) -> str:
    return f"[{address}]" if ":" in address else address.replace('"', "").replace("\\", "") or "unknown"


def _is_text(path: str) -> bool:
    """Whether a path can be sent: not with a lone surrogate in it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _facts_of(scope: Scope, *, has_length: bool) -> Facts:
    from .._peering.forward import Facts

    return Facts(
        method=scope["method"],
        path=scope["path"],
        raw_path=scope.get("raw_path") or b"",
        query_string=scope.get("query_string", b""),
        root_path=scope.get("root_path") or "",
        scheme=scope.get("scheme", "http"),
        client=_client_of(scope),
        host=tuple(values(scope["headers"], b"host")),
        has_length=has_length,
    )


def _client_of(scope: Scope) -> tuple[str, int] | None:
    """Return the client's address and port. granian has the port as text, and a Unix socket has none."""
    client = scope.get("client")
    if client is None:
        return None
    port = str(client[1] or 0)
    return client[0], int(port) if port.isdecimal() else 0
