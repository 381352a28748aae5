"""The callee's side of calls between nodes, and of calls of operators: the allowed callers, their rate, and the signature of answers.

A caller that cannot sign gets the plain 404 of a path that does not exist. A member that calls too often waits for its turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable

import anyio
from starlette.types import Message, Receive, Scope, Send

from .._core.calls.faults import Fault, PeerFaults
from .._core.calls.rate_limit import RateLimiter
from .._core.request_fields import last_value
from .._core.token.keys import KeyRing
from ..abc import HELLO, Clock, PeerFailure, PeerHandler
from .signatures import HEADER, MAX_FIELD_LENGTH, PEER, Envelope, Purpose, Signatures, answer_field, answer_text, digest_of

MAX_CALL_BYTES = 256 * 1024
"""Largest body of a call. A poll has a few hundred bytes, a token at most 4096."""

CALLS_PER_S = 500.0
"""How many calls of one member are answered in the long run. A storm of log-outs causes a few polls for each."""
CALLS_AT_ONCE = 1000
"""How many calls of one member are answered in a burst, after it has been quiet."""
ARRIVING = 64
"""How many calls of one member may be sending their bodies. Beyond that the oldest gives way, so nobody can hold all places."""
COPIES = 2
"""How many times the same call may be sending its body: the call itself, and a copy of its header that somebody sent."""
ARRIVAL_S = 2.0
"""How long the body of a call may take to arrive. It mostly comes with the header, in one packet or a few."""
WAITING_BYTES = 8 * 1024 * 1024
"""The most bytes of calls of one member that wait for their turn. Calls beyond that are turned away at once."""
PATIENCE_S = 1.0
"""How long a call waits for its turn. A refusal takes as long, so a member that floods this node waits for it."""

_WINDOW = 4096
"""How many of a caller's newest counters are remembered one by one: more calls than a member has under way, in any order."""
_MOST_CALLERS = 256
"""How many callers' counters are remembered: many times the members of a cluster. Each command of an operator is a caller."""


def ignore_call() -> None:
    """Do nothing about a call that no member signed but count it."""


async def empty_404(send: Send) -> None:
    """Answer as a path does that nobody serves."""
    await _plain(send, 404, b"")


class _Caller:
    """The calls that one member may still make to this node."""

    __slots__ = ("arriving", "rate", "under_way", "waiting_bytes")

    def __init__(self, purpose: Purpose) -> None:
        self.rate = RateLimiter(CALLS_PER_S, CALLS_AT_ONCE)
        self.under_way = anyio.Semaphore(purpose.under_way)
        self.waiting_bytes = 0
        self.arriving: dict[anyio.CancelScope, tuple[str, int]] = {}
        """The calls whose bodies are on the way, with their caller's nonce and counter, the oldest first."""


class PeerServer:
    """Answers the signed calls of other members, or of operators. Knows each call by its name, the rest of its path.

    Args:
        me: this node's advertised URL; None to answer at any URL. The nonce names the process in either case.
        nonce: random, new for each process.
        ring: returns the present key ring.
        clock: measures the waiting of calls that are too many.
        faults: counts the faults of callers.
        purpose: of the calls.
        on_unsigned: is called for each call that no member signed.
        not_found: answers a call as a path that does not exist is answered.

    Attributes:
        nonce: which calls are for this server. Another one whenever it forgets the callers that it had: their calls would be good again.
        refused: how many calls were refused.
        added_root: the root path that the server adds in front of the path that came over the wire; None until a member has called.
    """

    def __init__(
        self,
        me: str | None,
        nonce: str,
        ring: Callable[[], KeyRing],
        clock: Clock,
        faults: PeerFaults,
        *,
        purpose: Purpose = PEER,
        on_unsigned: Callable[[], None] = ignore_call,
        not_found: Callable[[Send], Awaitable[None]] = empty_404,
    ) -> None:
        self.me = me
        self.nonce = self._life = nonce
        self._clock = clock
        self._faults = faults
        self._callers: defaultdict[str, _Caller] = defaultdict(lambda: _Caller(purpose))
        self._signatures = Signatures(ring, purpose)
        self._on_unsigned = on_unsigned
        self._not_found = not_found
        self._handlers: dict[str, PeerHandler] = {}
        self._used: dict[str, _Counters] = {}
        self._nonces = 0
        self.added_root: bytes | None = None
        self.refused = 0

    def handle(self, name: str, handler: PeerHandler) -> None:
        """Have calls of this name answered by a handler."""
        self._handlers[name] = handler

    async def __call__(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the call of this name that a request carries."""
        handler = self._handlers.get(name)
        field = last_value(scope["headers"], HEADER.encode(), MAX_FIELD_LENGTH)
        found = self._verified(name, field) if handler and scope["method"] == "POST" else None
        if found is None or handler is None:
            self.refused += 1
            self._on_unsigned()
            await self._not_found(send)
            return
        self._note_root(scope)
        await self._admit(handler, *found, receive, send)

    def _note_root(self, scope: Scope) -> None:
        """Note whether the server adds the root path: a member has sent this path without it."""
        root = (scope.get("root_path") or "").encode()
        self.added_root = root if (scope.get("raw_path") or b"").startswith(root + b"/") else b""

    async def _admit(self, handler: PeerHandler, envelope: Envelope, kid: str, signature: str, receive: Receive, send: Send) -> None:
        """Answer a call with a good signature, unless it is repeated, incomplete, or one of too many.

        A listener between the nodes can send the header of a call that it has seen, without a body. So a call takes a place only
        when it is complete and its counter was new.
        """
        if envelope.callee_nonce != self.nonce:
            await self._teach_nonce(send, kid, signature)
            return
        caller = self._callers[self._faults.name(envelope.caller)]
        if caller.rate.wait_s(1, self._clock.boot_s()) > PATIENCE_S:
            # Complete calls alone have used the rate up, so this is the member's doing. Nothing more of it is read for a while.
            await self._turn_away(envelope, kid, signature, send)
            return
        body = b"" if self._was_used(envelope) else await self._arrived(caller, envelope, receive)
        if envelope.callee_nonce != self.nonce:
            await self._teach_nonce(send, kid, signature)
            return
        if body is None or digest_of(body) != envelope.digest or not self._first_use(envelope):
            fault: Fault = "replayed" if self._was_used(envelope) else "incomplete" if body is None else "garbage"
            await self._refuse(send, envelope, fault)
            return
        if not await self._turn_of(caller, envelope.caller, len(body)):
            self._faults.note(envelope.caller, "turned_away")
            await self._answer(send, 429, b"", kid, signature)
            return
        try:
            await self._carry_out(handler, body, envelope, kid, signature, send)
        finally:
            caller.under_way.release()

    async def _teach_nonce(self, send: Send, kid: str, signature: str) -> None:
        """Answer a call that was signed for an earlier nonce, or for none yet: the caller learns the one to use."""
        await self._answer(send, 409, self._life.encode(), kid, signature)

    async def _turn_away(self, envelope: Envelope, kid: str, signature: str, send: Send) -> None:
        """Let a member that floods this node wait, then refuse its call unread."""
        self._faults.note(envelope.caller, "queued")
        await self._clock.sleep(PATIENCE_S)
        self._faults.note(envelope.caller, "turned_away")
        await self._answer(send, 429, b"", kid, signature)

    async def _arrived(self, caller: _Caller, envelope: Envelope, receive: Receive) -> bytes | None:
        """Return the body of a call; None if it is too large or too late, or gave way to newer calls."""
        arriving, own = caller.arriving, (envelope.caller_nonce, envelope.counter)
        with self._clock.move_on_after(ARRIVAL_S) as scope:
            copies = [other for other, counter in arriving.items() if counter == own]
            if len(copies) >= COPIES or len(arriving) >= ARRIVING:
                # A call can have been sent by its caller, and by a listener. The next copies displace copies, and no other call.
                oldest = copies[0] if copies else next(iter(arriving))
                arriving.pop(oldest)
                oldest.cancel()
            arriving[scope] = own
            try:
                return await _body(receive)
            finally:
                arriving.pop(scope, None)
        return None

    async def _turn_of(self, caller: _Caller, url: str, size: int) -> bool:
        """Wait for this call's turn among all calls of its caller; return whether the turn came in time."""
        wait_s = caller.rate.spend(1, self._clock.boot_s(), patience_s=PATIENCE_S)
        if wait_s == 0 and caller.under_way.value:
            caller.under_way.acquire_nowait()
            return True
        self._faults.note(url, "queued")
        if caller.waiting_bytes + size > WAITING_BYTES:
            return False
        caller.waiting_bytes += size
        try:
            with self._clock.move_on_after(PATIENCE_S):
                await self._clock.sleep(PATIENCE_S if wait_s is None else wait_s)
                if wait_s is not None:
                    await caller.under_way.acquire()
                    return True
            return False
        finally:
            caller.waiting_bytes -= size

    async def _carry_out(self, handler: PeerHandler, body: bytes, envelope: Envelope, kid: str, signature: str, send: Send) -> None:
        try:
            content = await handler(body)
        except ValueError:
            self.refused += 1
            self._faults.note(envelope.caller, "garbage")
            await self._answer(send, 400, b"", kid, signature)
            return
        await self._answer(send, 200, content, kid, signature)

    async def _refuse(self, send: Send, envelope: Envelope, fault: Fault) -> None:
        self.refused += 1
        self._faults.note(envelope.caller, fault)
        await self._not_found(send)

    def _verified(self, name: str, field: str) -> tuple[Envelope, str, str] | None:
        parsed = Envelope.parse(field)
        if parsed is None:
            return None
        envelope, kid, signature = parsed
        if (self.me is not None and envelope.callee != self.me) or not self._signatures.verify(kid, envelope.text(name), signature):
            return None
        if name == HELLO and envelope.caller != self.me:
            return None  # no other node may make this one believe that its URL is used twice
        return parsed

    def _was_used(self, envelope: Envelope) -> bool:
        counters = self._used.get(envelope.caller_nonce)
        return counters is not None and counters.was_used(envelope.counter)

    def _first_use(self, envelope: Envelope) -> bool:
        counters = self._used.get(envelope.caller_nonce)
        if counters is None:
            if len(self._used) >= _MOST_CALLERS:
                self._used.clear()
                self._nonces += 1
                self.nonce = f"{self._life}.{self._nonces}"
            counters = self._used[envelope.caller_nonce] = _Counters()
        return counters.first_use(envelope.counter)

    async def _answer(self, send: Send, status: int, body: bytes, kid: str, call: str) -> None:
        text = answer_text(call, status, self.nonce, body)
        try:
            field = answer_field(self.nonce, self._signatures.sign(kid, text)).encode()
        except PeerFailure:  # the key was removed while the call was held; the next call comes with another
            await self._not_found(send)
            return
        await _plain(send, status, body, [(HEADER.encode(), field), (b"content-type", b"application/msgpack")])


class _Counters:
    """The counters that one caller has used: the newest are remembered one by one, older ones count as used."""

    __slots__ = ("_newest", "_seen")

    def __init__(self) -> None:
        self._newest = 0
        self._seen: set[int] = set()

    def was_used(self, counter: int) -> bool:
        return counter <= self._newest - _WINDOW or counter in self._seen

    def first_use(self, counter: int) -> bool:
        if self.was_used(counter):
            return False
        self._seen.add(counter)
        self._newest = max(self._newest, counter)
        if len(self._seen) > 2 * _WINDOW:
            self._seen = {one for one in self._seen if one > self._newest - _WINDOW}
        return True


async def _body(receive: Receive) -> bytes | None:
    chunks, size = [], 0
    while True:
        message: Message = await receive()
        if message["type"] != "http.request":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > MAX_CALL_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(chunks)


async def _plain(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, (b"cache-control", b"no-store"), *headers]})
    await send({"type": "http.response.body", "body": body})
