"""Calls between the nodes: HTTP/1.1, each call and each answer signed with a key of the cluster.

A signature covers what is asked, of whom, by whom and with which body; the callee's nonce and a counter make each call
good for one use, without comparing clocks. Whoever cannot sign gets the plain 404 of a path that is not there.
"""

from __future__ import annotations

import hashlib
import ssl
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count

import anyio
import httpx2
from itsdangerous import Signer
from starlette.types import Message, Receive, Scope, Send

from .._core.calls.faults import Fault, PeerFaults
from .._core.calls.rate_limit import RateLimiter
from .._core.token.keys import KeyRing, SigningKey, same_text
from .._machine.tls import tls_context, unreachable
from ..abc import HELLO, Clock, PeerFailure, PeerHandler
from ..config import Settings
from ..exceptions import ConfigurationError

MAX_CALL_BYTES = 256 * 1024
"""A poll has a few hundred bytes and a token at most 4096."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""A page of 4096 entries has some 200 kB, or a few MB where subjects and lists of cuts are long."""

CALLS_PER_S = 500.0
CALLS_AT_ONCE = 1000
"""How many calls of one member are carried out, in the long run and in a storm of log-outs, each of which is some polls."""
UNDER_WAY = 16
"""How many of them at the same time. A peer has one poll here, perhaps another that it gave up, and 8 look-ups at the most."""
PATIENCE_S = 1.0
"""How long a call waits for its turn. One that is turned away takes so long, too, and whoever floods waits for it."""

_SALT = b"ha_session_mw.peer.1"
_HEADER = "session-peer"
_WINDOW = 4096
_MOST_CALLERS = 256


@dataclass(frozen=True, slots=True)
class _Envelope:
    """What the signature of a call covers, besides the names of method and path."""

    callee: str
    callee_nonce: str
    caller: str
    caller_nonce: str
    counter: int
    digest: str

    def text(self, path: str) -> bytes:
        return "\n".join(
            ("call", path, self.callee, self.callee_nonce, self.caller, self.caller_nonce, str(self.counter), self.digest)
        ).encode()


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class _Signatures:
    """Signs and verifies with any key of the ring; the name of the key goes along."""

    def __init__(self, ring: Callable[[], KeyRing]) -> None:
        self._ring = ring
        self._signers: dict[str, Signer] = {}

    def _signer(self, key: SigningKey) -> Signer:
        signer = self._signers.get(key.kid)
        if signer is None:
            signer = self._signers[key.kid] = key.signer_for(_SALT)
        return signer

    def kids(self) -> tuple[str, ...]:
        return self._ring().kids

    def sign(self, kid: str, text: bytes) -> str:
        key = self._ring().get(kid.encode())
        if key is None:
            raise PeerFailure("the key was removed meanwhile")
        return self._signer(key).get_signature(text).decode()

    def good(self, kid: str, text: bytes, signature: str) -> bool:
        key = self._ring().get(kid.encode())
        return key is not None and same_text(self._signer(key).get_signature(text), signature.encode())


class _Caller:
    """What one member may still ask of this node."""

    __slots__ = ("pace", "under_way")

    def __init__(self) -> None:
        self.pace = RateLimiter(CALLS_PER_S, CALLS_AT_ONCE)
        self.under_way = anyio.Semaphore(UNDER_WAY)


class PeerServer:
    """Answers the signed calls of other members. Knows each call by a name below ``/peer/``.

    Args:
        me: this node's advertised URL.
        nonce: random, new for each process.
        ring: gives the keys as they are now.
        clock: by which calls that are too many wait.
        faults: counts what callers do wrong.
    """

    def __init__(self, me: str, nonce: str, ring: Callable[[], KeyRing], clock: Clock, faults: PeerFaults) -> None:
        self.me = me
        self.nonce = nonce
        self._clock = clock
        self._faults = faults
        self._callers: defaultdict[str, _Caller] = defaultdict(_Caller)
        self._signatures = _Signatures(ring)
        self._handlers: dict[str, PeerHandler] = {}
        self._used: OrderedDict[str, _Counters] = OrderedDict()
        self.refused = 0

    def handle(self, name: str, handler: PeerHandler) -> None:
        self._handlers[name] = handler

    async def __call__(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get(name)
        field = next((value for key, value in scope["headers"] if key == _HEADER.encode()), b"")
        found = self._verified(name, field.decode("latin-1")) if handler and scope["method"] == "POST" else None
        if found is None or handler is None:
            self.refused += 1
            await _plain(send, 404, b"")
            return
        envelope, kid, signature = found
        caller = self._callers[self._faults.name(envelope.caller)]
        if not await self._turn_of(caller, envelope.caller):
            self._faults.note(envelope.caller, "turned_away")
            await self._answer(send, 429, b"", kid, signature)
            return
        try:
            await self._carry_out(handler, envelope, kid, signature, receive, send)
        finally:
            caller.under_way.release()

    async def _turn_of(self, caller: _Caller, url: str) -> bool:
        """Wait until it is this call's turn among all of its caller; returns whether it ever is."""
        wait_s = caller.pace.spend(1, self._clock.boot_s(), patience_s=PATIENCE_S)
        if wait_s == 0 and caller.under_way.value:
            caller.under_way.acquire_nowait()
            return True
        self._faults.note(url, "queued")
        with self._clock.move_on_after(PATIENCE_S):
            with self._clock.move_on_after(PATIENCE_S if wait_s is None else wait_s):
                await anyio.sleep_forever()
            if wait_s is not None:
                await caller.under_way.acquire()
                return True
        return False

    async def _carry_out(self, handler: PeerHandler, envelope: _Envelope, kid: str, signature: str, receive: Receive, send: Send) -> None:
        if envelope.callee_nonce != self.nonce:
            # Well signed, but for an earlier process of ours, or for none yet: tell the caller what to put in.
            await self._answer(send, 409, self.nonce.encode(), kid, signature)
            return
        body = await _body(receive)
        if body is None or _digest(body) != envelope.digest:
            await self._refuse(send, envelope, "garbage")
            return
        if not self._first_use(envelope):
            await self._refuse(send, envelope, "replayed")
            return
        try:
            content = await handler(body)
        except ValueError:
            self.refused += 1
            self._faults.note(envelope.caller, "garbage")
            await self._answer(send, 400, b"", kid, signature)
            return
        await self._answer(send, 200, content, kid, signature)

    async def _refuse(self, send: Send, envelope: _Envelope, fault: Fault) -> None:
        self.refused += 1
        self._faults.note(envelope.caller, fault)
        await _plain(send, 404, b"")

    def _verified(self, name: str, field: str) -> tuple[_Envelope, str, str] | None:
        parts = field.split(" ")
        if len(parts) != 9 or parts[0] != "1" or not parts[6].isascii() or not parts[6].isdigit() or len(parts[6]) > 18:
            return None
        _, kid, callee, callee_nonce, caller, caller_nonce, counter, digest, signature = parts
        envelope = _Envelope(callee, callee_nonce, caller, caller_nonce, int(counter), digest)
        if callee != self.me or not self._signatures.good(kid, envelope.text(name), signature):
            return None
        if name == HELLO and caller != self.me:
            return None  # nobody else may have this node believe that there are two of it
        return envelope, kid, signature

    def _first_use(self, envelope: _Envelope) -> bool:
        counters = self._used.get(envelope.caller_nonce)
        if counters is None:
            counters = self._used[envelope.caller_nonce] = _Counters()
            if len(self._used) > _MOST_CALLERS:
                # A process that has long gone. Polls of it are known as such by what they say, were they sent again.
                self._used.popitem(last=False)
        self._used.move_to_end(envelope.caller_nonce)
        return counters.first_use(envelope.counter)

    async def _answer(self, send: Send, status: int, body: bytes, kid: str, call: str) -> None:
        text = "\n".join(("answer", call, str(status), self.nonce, _digest(body))).encode()
        try:
            field = f"1 {self.nonce} {self._signatures.sign(kid, text)}".encode()
        except PeerFailure:  # the key was removed while the call was held, and whoever asks again does so with another
            await _plain(send, 404, b"")
            return
        await _plain(send, status, body, [(_HEADER.encode(), field), (b"content-type", b"application/msgpack")])


class _Counters:
    """Which counters of one caller were used: the newest ones one by one, and all that are older at once."""

    __slots__ = ("_newest", "_seen")

    def __init__(self) -> None:
        self._newest = 0
        self._seen: set[int] = set()

    def first_use(self, counter: int) -> bool:
        if counter <= self._newest - _WINDOW or counter in self._seen:
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


class PeerClient:
    """Calls other members.

    Args:
        me: this node's advertised URL.
        nonce: random, new for each process.
        ring: gives the keys as they are now.
        prefix: of the middleware's own paths, the same on all nodes.
        clock: bounds each call.
        faults: counts the calls that fail, and why.
        http: gives what carries the calls.
    """

    def __init__(
        self,
        me: str,
        nonce: str,
        ring: Callable[[], KeyRing],
        *,
        prefix: str,
        clock: Clock,
        faults: PeerFaults,
        http: Callable[[], httpx2.AsyncBaseTransport],
    ) -> None:
        self.me = me
        self._nonce = nonce
        self._signatures = _Signatures(ring)
        self._path = f"{prefix}/peer/"
        self._clock = clock
        self._faults = faults
        self._http = http
        self._counter = count(1)
        self._nonces: dict[str, str] = {}
        self._kids: dict[str, str] = {}

    async def call(self, peer: str, name: str, body: bytes, *, timeout_s: float) -> bytes:
        """What the peer answers.

        Raises:
            PeerFailure: it did not answer in time, or not as a member of this cluster does.
        """
        try:
            with self._clock.move_on_after(timeout_s):
                return await self._call(peer, name, body)
            raise PeerFailure("no answer in time", "stalled")
        except PeerFailure as failure:
            self._faults.note(peer, failure.fault)
            raise

    async def _call(self, peer: str, name: str, body: bytes) -> bytes:
        # One try for each key that both may have, and one more should the peer have been started anew.
        for kid in self._candidates(peer):
            for _ in range(2):
                status, content = await self._try(peer, name, body, kid)
                if status == 200 or (status == 409 and name == HELLO):
                    self._kids[peer] = kid
                    return content
                if status != 409:
                    break
            if status != 404:
                raise PeerFailure(f"answered {status}")
        raise PeerFailure("answers, but knows none of our keys: it has another secret, another URL of its own, or is another app")

    def _candidates(self, peer: str) -> list[str]:
        kids = list(self._signatures.kids())
        known = self._kids.get(peer)
        return [known, *(kid for kid in kids if kid != known)] if known in kids else kids

    async def _try(self, peer: str, name: str, body: bytes, kid: str) -> tuple[int, bytes]:
        envelope = _Envelope(peer, self._nonces.get(peer, "-"), self.me, self._nonce, next(self._counter), _digest(body))
        call = self._signatures.sign(kid, envelope.text(name))
        field = " ".join(
            (
                "1",
                kid,
                envelope.callee,
                envelope.callee_nonce,
                envelope.caller,
                envelope.caller_nonce,
                str(envelope.counter),
                envelope.digest,
                call,
            )
        )
        try:
            status, headers, content = await self._post(peer, name, body, field)
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as exc:
            raise PeerFailure(unreachable(exc), "unreachable") from exc
        if status == 404:
            return status, b""
        self._check(peer, kid, call, status, headers, content)
        return status, content

    async def _post(self, peer: str, name: str, body: bytes, field: str) -> tuple[int, Mapping[str, str], bytes]:
        headers = {_HEADER: field, "content-type": "application/msgpack"}
        if name == HELLO:
            headers["connection"] = "close"  # over one that is kept, the same process of several would answer each time
        # The transport itself: a client above it would write each call, with the peer's address, to the app's log.
        response = await self._http().handle_async_request(httpx2.Request("POST", peer + self._path + name, content=body, headers=headers))
        try:
            chunks, size = [], 0
            async with aclosing(response.aiter_raw()) as content:
                async for chunk in content:
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > MAX_ANSWER_BYTES:
                        raise PeerFailure("answered too much", "garbage")
            return response.status_code, response.headers, b"".join(chunks)
        finally:
            with anyio.move_on_after(5, shield=True):
                await response.aclose()

    def _check(self, peer: str, kid: str, call: str, status: int, headers: Mapping[str, str], content: bytes) -> None:
        parts = headers.get(_HEADER, "").split(" ")
        if len(parts) != 3 or parts[0] != "1":
            raise PeerFailure(f"answered {status} without a signature: something else listens there", "unsigned")
        _, nonce, signature = parts
        text = "\n".join(("answer", call, str(status), nonce, _digest(content))).encode()
        if not self._signatures.good(kid, text, signature):
            raise PeerFailure("answered with a wrong signature", "unsigned")
        self._nonces[peer] = nonce


class Peering:
    """This node's side of all calls: what it answers and what it asks.

    Args:
        settings: the node's own URL, and the certificates.
        life: random, new for each process.
        ring: gives the keys as they are now.
        clock: bounds each call.
        transport: carries the calls; by default the network.

    Attributes:
        faults: what the other members did wrong.
    """

    def __init__(
        self, settings: Settings, life: str, ring: Callable[[], KeyRing], clock: Clock, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self.me = settings.advertise_url or ""
        self._settings = settings
        self._transport = transport
        self._tls = _tls(settings)
        self.faults = PeerFaults(settings.peers)
        self.server = PeerServer(self.me, life, ring, clock, self.faults)
        self._client = PeerClient(self.me, life, ring, prefix=settings.endpoints, clock=clock, faults=self.faults, http=self._open)
        self._http: httpx2.AsyncBaseTransport | None = None

    def _open(self) -> httpx2.AsyncBaseTransport:
        if self._http is None:
            raise PeerFailure("this node has not been started")
        return self._http

    def handle(self, name: str, handler: PeerHandler) -> None:
        """As :meth:`PeerServer.handle`."""
        self.server.handle(name, handler)

    async def call(self, peer: str, name: str, body: bytes, timeout_s: float) -> bytes:
        """As :meth:`PeerClient.call`."""
        return await self._client.call(peer, name, body, timeout_s=timeout_s)

    async def run(self) -> None:
        """Keeps the connections, until cancelled. They are opened here, for those of before a fork are nobody's."""
        limits = httpx2.Limits(max_connections=128, max_keepalive_connections=64)
        # No proxy from the environment: it would send the cluster's traffic away.
        self._http = self._transport or httpx2.AsyncHTTPTransport(verify=self._tls, limits=limits, trust_env=False)
        try:
            await anyio.sleep_forever()
        finally:
            http, self._http = self._http, None
            with anyio.move_on_after(5, shield=True):
                await http.aclose()


def _tls(settings: Settings) -> ssl.SSLContext | bool:
    if not any(url.startswith("https://") for url in (*settings.peers, settings.advertise_url or "")):
        return False  # there is no certificate to check
    try:
        return tls_context(settings.peer_ca_file, settings.peer_cert_file, settings.peer_key_file)
    except OSError as exc:
        raise ConfigurationError([f"HA_SESSION_PEER_CA_FILE, HA_SESSION_PEER_CERT_FILE, HA_SESSION_PEER_KEY_FILE: {exc}"]) from exc
