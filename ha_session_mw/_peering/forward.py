"""Requests that one node sends on to another: the caller's side. Each is a signed call that carries a whole request, streamed both ways."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import anyio
import httpx2
import msgspec

from .._core.request_fields import Header
from .._machine.tls import unreachable
from ..abc import PeerFailure
from .client import PeerClient
from .signatures import FACTS_HEADER, FORWARD, HEADER, Envelope, answer_text, digest_of, parse_answer_field

WHO, REQUEST = "who", "request"
"""The names of the two calls: which member answers at a URL; and a request to answer."""
ANSWERED, REFUSED = b"answered", b"refused"
"""Signed with an answer: whether the middleware of the member has handled the request, or nothing has."""

PROVEN_S = 1.0
"""For how many seconds a node believes what it has found out about the member at a URL."""
CONNECT_WITHIN_S = 1.0
"""Seconds in which a connection to a member must be made, or become free."""
WRITE_WITHIN_S = 60.0
"""Seconds for which a member may read nothing of a body."""


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """The parts of a request that the header of the call cannot carry, as the app would see them on the first node.

    Attributes:
        method, path, raw_path, query_string, root_path, scheme, client: as in the ASGI scope.
        host: the fields ``Host``.
        has_length: whether the request said how long its body is, or that it has one.
    """

    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    root_path: str
    scheme: str
    client: tuple[str, int] | None
    host: tuple[bytes, ...]
    has_length: bool


class ForwardFailure(PeerFailure):
    """A request has no answer of the member.

    Attributes:
        was_sent: whether the member may have handled it.
        loops: whether the request came back to this node.
    """

    def __init__(self, reason: str, *, was_sent: bool, loops: bool = False) -> None:
        super().__init__(reason, "unreachable")
        self.was_sent = was_sent
        self.loops = loops


class Body(httpx2.AsyncByteStream):
    """The body of a request, from whatever yields it."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = chunks
        self.has_begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        self.has_begun = True
        return aiter(self._chunks)


class ForwardClient(PeerClient):
    """Sends requests to other members. Its arguments are those of :class:`.PeerClient`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, purpose=FORWARD)
        self._proven: dict[str, tuple[float, str | PeerFailure]] = {}

    async def owner_at(self, url: str, *, timeout_s: float) -> str:
        """Return the member that answers at a URL. It has proven that, no more than a second ago.

        Raises:
            PeerFailure: no member answers there in time.
        """
        now_s = self._clock.boot_s()
        known = self._proven.get(url)
        if known is None or known[0] <= now_s:
            found: str | PeerFailure
            try:
                found = (await self.call(url, WHO, b"", timeout_s=timeout_s)).decode()
            except PeerFailure as failure:
                found = failure
            known = self._proven[url] = (self._clock.boot_s() + PROVEN_S, found)
        if isinstance(known[1], PeerFailure):
            raise PeerFailure(str(known[1]), known[1].fault)
        return known[1]

    async def send(self, peer: str, facts: Facts, headers: Sequence[Header], chunks: AsyncIterable[bytes]) -> httpx2.Response:
        """Return the answer of a member that :meth:`owner_at` has found, once its header is there. The caller must close it.

        Args:
            peer: the URL of the member.
            facts, headers, chunks: of the request.

        Raises:
            PeerFailure: the member has not answered; a ForwardFailure if the request may have left this node.
        """
        kid = self._kids.get(peer, "")
        packed = urlsafe_b64encode(msgspec.msgpack.encode(facts)).decode()
        envelope = Envelope(peer, self._nonces.get(peer, "-"), self.me, self._nonce, next(self._counter), digest_of(packed.encode()))
        call = self._signatures.sign(kid, envelope.text(REQUEST))
        body = Body(chunks)
        request = self._request(peer, headers, [(FACTS_HEADER, packed), (HEADER, envelope.field(kid, call))], body)
        response = await self._sent(request, body)
        parsed = parse_answer_field(response.headers.get(HEADER, ""))
        for outcome in (ANSWERED, REFUSED) if parsed is not None else ():
            nonce, signature = parsed  # type: ignore[misc]
            if self._signatures.verify(kid, answer_text(call, response.status_code, nonce, outcome), signature):
                if outcome is ANSWERED:
                    return response
                await close(response)
                self._proven.pop(peer, None)
                raise ForwardFailure(f"refused the request ({response.status_code})", was_sent=False, loops=response.status_code == 508)
        await close(response)
        raise ForwardFailure("an answer that no member has signed", was_sent=True)

    def _request(self, peer: str, headers: Sequence[Header], own: Sequence[tuple[str, str]], body: Body) -> httpx2.Request:
        url = httpx2.URL(peer + self._path + REQUEST)
        timeouts = {"connect": CONNECT_WITHIN_S, "pool": CONNECT_WITHIN_S, "write": WRITE_WITHIN_S, "read": None}
        fields = [(b"host", url.netloc), *((name.encode(), value.encode()) for name, value in own), *headers]
        return httpx2.Request("POST", url, headers=fields, stream=body, extensions={"timeout": timeouts})

    async def _sent(self, request: httpx2.Request, body: Body) -> httpx2.Response:
        try:
            return await self._http().handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol) as exc:
            raise ForwardFailure(unreachable(exc), was_sent=False) from exc
        except httpx2.LocalProtocolError as exc:  # the header cannot be written, or the body has another length than it says
            raise ForwardFailure("the request cannot be sent on", was_sent=body.has_begun) from exc
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as exc:
            raise ForwardFailure(unreachable(exc), was_sent=True) from exc


async def chunks_of(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Yield the body of a response as it came.

    Raises:
        PeerFailure: it broke off.
    """
    try:
        async with aclosing(response.aiter_raw()) as chunks:
            async for chunk in chunks:
                yield chunk
    except (httpx2.HTTPError, httpx2.StreamError, OSError) as exc:
        raise PeerFailure(type(exc).__name__, "unreachable") from exc


async def close(response: httpx2.Response) -> None:
    """Close a response that is not read to its end."""
    with anyio.move_on_after(5, shield=True):
        await response.aclose()
