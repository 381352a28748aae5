"""The caller's side of calls between nodes, and of calls of operators: HTTP/1.1, each call signed, each answer checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from itertools import count

import anyio
import httpx2

from .._core.calls.faults import PeerFaults
from .._core.token.keys import KeyRing
from .._machine.tls import unreachable
from ..abc import HELLO, Clock, PeerFailure
from .signatures import HEADER, PEER, Envelope, Purpose, Signatures, answer_text, digest_of, parse_answer_field

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Largest answer. A page of 4096 entries has some 200 kB, or a few MB with long subjects and lists of cuts."""


class PeerClient:
    """Calls other members.

    Args:
        me: this node's advertised URL.
        nonce: random, new for each process.
        ring: returns the present key ring.
        prefix: of the middleware's own paths, the same on all nodes.
        clock: bounds each call.
        faults: counts the calls that fail, and why.
        http: returns the transport that carries the calls.
        purpose: of the calls.
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
        purpose: Purpose = PEER,
    ) -> None:
        self.me = me
        self._nonce = nonce
        self._signatures = Signatures(ring, purpose)
        self._path = f"{prefix}/{purpose.folder}/"
        self._most_tries = 1 + purpose.processes
        self._clock = clock
        self._faults = faults
        self._http = http
        self._counter = count(1)
        self._nonces: dict[str, str] = {}
        self._kids: dict[str, str] = {}
        self._urls: dict[tuple[str, str], httpx2.URL] = {}  # of the calls made so far: parsing one takes a tenth of a call

    async def call(self, peer: str, name: str, body: bytes, *, timeout_s: float) -> bytes:
        """Return the body of the peer's answer.

        Raises:
            PeerFailure: the peer did not answer in time, or not as a member of this cluster does.
        """
        try:
            return await self._call(peer, name, body, timeout_s)
        except PeerFailure as failure:
            self._faults.note(peer, failure.fault)
            raise

    async def _call(self, peer: str, name: str, body: bytes, timeout_s: float) -> bytes:
        # One try with each key that both may have. The ring may change during a call, which the peer may hold for a while. A retired key
        # is no fault of the peer, so each key has the whole time.
        tried: set[str] = set()
        while (kid := next((one for one in self._candidates(peer) if one not in tried), None)) is not None:
            tried.add(kid)
            status, content = await self._call_with(kid, peer, name, body, timeout_s)
            if status == 200 or (status == 409 and name == HELLO):
                self._kids[peer] = kid
                return content
            if status != 404:
                raise PeerFailure(f"answered {status}")
        raise PeerFailure(
            "answers, but knows none of our keys: it has another secret or audience, another URL of its own, or is another app"
        )

    async def _call_with(self, kid: str, peer: str, name: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        status, content = 404, b""
        with self._clock.move_on_after(timeout_s):
            for _ in range(self._most_tries):  # once more in case the peer has restarted, and its nonce is new
                status, content = await self._try(peer, name, body, kid) if kid in self._signatures.kids() else (404, b"")
                if status != 409 or name == HELLO:
                    break
            return status, content
        raise PeerFailure("gives no answer in time", "stalled")

    def _candidates(self, peer: str) -> list[str]:
        kids = list(self._signatures.kids())
        known = self._kids.get(peer)
        return [known, *(kid for kid in kids if kid != known)] if known in kids else kids

    async def _try(self, peer: str, name: str, body: bytes, kid: str) -> tuple[int, bytes]:
        envelope = Envelope(peer, self._nonces.get(peer, "-"), self.me, self._nonce, next(self._counter), digest_of(body))
        call = self._signatures.sign(kid, envelope.text(name))
        try:
            status, headers, content = await self._post(peer, name, body, envelope.field(kid, call))
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as exc:
            raise PeerFailure(unreachable(exc), "unreachable") from exc
        if status == 404 or kid not in self._signatures.kids():
            return 404, b""
        self._check(peer, kid, call, status, headers, content)
        return status, content

    async def _post(self, peer: str, name: str, body: bytes, field: str) -> tuple[int, Mapping[str, str], bytes]:
        headers = {HEADER: field, "content-type": "application/msgpack"}
        if name == HELLO:
            headers["connection"] = "close"  # a kept connection would reach the same one of several processes each time
        # The transport is called directly: a client would write each call, with the peer's address, to the app's log.
        url = self._urls.get((peer, name))
        if url is None:
            url = self._urls[peer, name] = httpx2.URL(peer + self._path + name)
        response = await self._http().handle_async_request(httpx2.Request("POST", url, content=body, headers=headers))
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
        parsed = parse_answer_field(headers.get(HEADER, ""))
        if parsed is None:
            raise PeerFailure(f"answered {status} without a signature: something else listens there", "unsigned")
        nonce, signature = parsed
        if not self._signatures.verify(kid, answer_text(call, status, nonce, content), signature):
            raise PeerFailure("answered with a wrong signature", "unsigned")
        self._nonces[peer] = nonce
