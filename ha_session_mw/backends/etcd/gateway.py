"""Calls to etcd v3 over its JSON gateway: HTTP/1.1 to one of several endpoints, on asyncio and trio.

This module decides which endpoint is asked and for how long. Its time limits are shorter than etcd's own, which answers after 7 seconds
without a quorum. Callers decide on the writes, and on the reaction to a failure.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import anyio
import httpx2

from ..._machine.call_transport import CallTransport
from ..._machine.tls import unreachable
from ...abc import Clock
from .api import (
    TOO_LATE,
    AuthenticationNeeded,
    Comparison,
    EtcdRejected,
    EtcdUnavailable,
    Granted,
    KeptAlive,
    Nothing,
    Operation,
    Page,
    Reads,
    Token,
    Transaction,
    Watched,
    decode,
    decode_watched,
    encode,
    error_of,
    look_for,
)
from .authentication import Authentication
from .bodies import SILENCE_S, follow_lines, read
from .engine_clock import EngineClock
from .tries import Patience, Rotation, first_answer

TRY_S = 0.6
"""Time limit of one try at one endpoint. A write takes milliseconds; an endpoint that needs longer is frozen, cut off or far away."""
MOST_TRY_S = 2.4
"""The longest such limit, for an etcd that is far away."""
SCAN_S = 4.0
"""Time limit of a read for which etcd looks at all keys of the log. With 100,000 keys it took more than ``TRY_S`` on a busy machine."""
CALL_S = 5.0
"""Time limit of all tries of one call. An election after a leader was killed took up to 2.3 s, and a drawn vote doubles that."""
LOG_IN_S = 2.0
"""Time limit of an authentication. etcd's password hash takes a tenth of a second by design, and longer on a busy machine."""
MOST_CALLS = 32
"""Calls at once, those of the watch apart."""
PAGE_KEYS = 5000
"""Keys in one page of a load: with short entries a megabyte, which a node decodes in a few milliseconds."""

_LOG_IN_PATH = "/v3/auth/authenticate"
_JSON = {"content-type": "application/json"}
_WATCH = {**_JSON, "grpc-metadata-hasleader": "true"}  # without it, a member that has lost its leader stays silent

T = TypeVar("T")


class EtcdGateway:
    """A client of one etcd cluster.

    Args:
        endpoints: URLs, in the order in which they are asked.
        clock: bounds each try and each call.
        tls: for https endpoints; presents a certificate if one is loaded.
        user: the user to authenticate; None if no user is configured.
        password: returns the user's current password.
        transport: makes the HTTP transport; by default one over the network.

    Attributes:
        engine_clock: how this machine's clock compares with etcd's.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        clock: Clock,
        *,
        tls: ssl.SSLContext | None = None,
        user: str | None = None,
        password: Callable[[], str] = str,
        transport: Callable[[], httpx2.AsyncBaseTransport] | None = None,
    ) -> None:
        self._rotation = Rotation(tuple(endpoints))
        self._watch_turn = 0
        self._patience = Patience(MOST_TRY_S)
        self._clock = clock
        self._tls = tls
        self._transport = transport or self._network
        self._authentication = Authentication(clock, user, password)
        self.engine_clock = EngineClock()
        self._urls: dict[str, httpx2.URL] = {}  # of the calls made so far: parsing one takes a tenth of a call
        self._http: httpx2.AsyncBaseTransport | None = None
        self._watch_http: httpx2.AsyncBaseTransport | None = None

    def _network(self) -> httpx2.AsyncBaseTransport:
        return CallTransport(self._tls, most=MOST_CALLS)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep connections open. They are opened here and not before, because a forked process must not use those of its parent."""
        self._authentication.begin()
        # The watch has a pool of its own, so that a stalled load does not take its connection.
        self._http, self._watch_http = pools = self._transport(), self._transport()
        try:
            yield
        finally:
            self._http = self._watch_http = None
            with anyio.move_on_after(5, shield=True):
                for pool in pools:
                    await pool.aclose()

    @property
    def endpoint(self) -> str:
        """The URL that the next call asks first."""
        return self._rotation.endpoint(self._rotation.turn)

    @property
    def try_limit_s(self) -> float:
        """How long one try may take at present."""
        return self._patience.limit_s(TRY_S)

    # Calls.

    async def page(
        self, start: bytes, end: bytes, *, revision: int = 0, limit: int = PAGE_KEYS, least_s: float = TRY_S, names_only: bool = False
    ) -> Page:
        """Return keys from ``start`` up to but excluding ``end``, in their order, at a revision. Revision 0 is the current one.

        With ``names_only``, the values are missing.

        An endpoint has ``least_s`` at least for its answer. Beyond a second or so, that is for ranges of very many keys.

        The read is linearizable: it shows everything that etcd had confirmed to anybody before the call.

        Raises:
            EtcdCompacted: etcd has discarded that revision.
            EtcdError: etcd did not answer, or refused.
        """
        body = {"key": start, "range_end": end, "revision": revision, "limit": limit, "keys_only": names_only}
        return await self._call("/v3/kv/range", body, Page, limit_s=max(least_s, self.try_limit_s))

    async def exist(self, keys: Sequence[bytes]) -> list[bool]:
        """Return which of up to 128 keys exist, in their order. The read is linearizable.

        Raises:
            EtcdError: etcd did not answer, or refused.
        """
        done = await self._call("/v3/kv/txn", {"compare": (), "success": [*map(look_for, keys)], "failure": ()}, Reads)
        return [bool(response.response_range.kvs) for response in done.responses]

    async def written_after(self, start: bytes, end: bytes, revision: int) -> Page:
        """Return one of the keys in a range that were last written after a revision, without its value. One endpoint is asked.

        The read is linearizable. etcd looks at each key of the range, so the answer may take seconds.

        Raises:
            EtcdError: etcd did not answer, or refused.
        """
        body = {"key": start, "range_end": end, "limit": 1, "min_mod_revision": revision + 1, "keys_only": True}
        return await self._call_once("/v3/kv/range", body, Page, limit_s=SCAN_S)

    async def transact(
        self,
        success: Sequence[Operation],
        *,
        compare: Sequence[Comparison] = (),
        failure: Sequence[Operation] = (),
        once: bool = False,
    ) -> Transaction:
        """Execute all of ``success`` at one revision or, if a comparison does not hold, all of ``failure``.

        Args:
            once: ask one endpoint only. Otherwise the transaction may be applied twice, and must be harmless when repeated.

        Raises:
            EtcdUnavailable: the transaction may have been applied, and may still be, some moments later.
            EtcdError: it was not applied.
        """
        body = {"compare": compare, "success": success, "failure": failure}
        call = self._call_once if once else self._call
        return await call("/v3/kv/txn", body, Transaction)

    async def grant_lease(self, ttl_s: int) -> Granted:
        """Return a new lease. Its time counts from before the call; etcd may end it later than that, and grants at least 2 s.

        A try whose answer was lost may leave another lease behind. No key depends on that one, and it ends by itself.
        """
        return await self._call("/v3/lease/grant", {"TTL": ttl_s}, Granted)

    async def keep_lease(self, lease: int) -> bool:
        """Restart a lease's time. Return False if the lease has ended."""
        kept = await self._call("/v3/lease/keepalive", {"ID": lease}, KeptAlive)
        return kept.result.ttl_s > 0

    async def revoke_lease(self, lease: int) -> None:
        """End a lease, and delete the keys that depend on it. A lease that has already ended is no error."""
        try:
            await self._call("/v3/lease/revoke", {"ID": lease}, Nothing)
        except EtcdRejected:
            return

    async def watch(
        self, start: bytes, end: bytes, revision: int, take: Callable[[Watched], None], *, silence_s: float = SILENCE_S
    ) -> None:
        """Pass each message about keys from ``start`` up to but excluding ``end`` to ``take``, from a revision on. Never returns.

        Raises:
            EtcdCompacted: etcd has discarded that revision.
            EtcdError: the watch has ended. The caller decides where to resume.
        """
        turn = self._watch_turn
        try:
            await self._watch(self._rotation.endpoint(turn), start, end, revision, take, silence_s)
        except EtcdUnavailable:
            self._watch_turn = turn + 1
            raise

    def leave_watched(self) -> None:
        """Open the next watch at another endpoint than the last one."""
        self._watch_turn += 1

    # Tries.

    async def _call(self, path: str, body: Mapping[str, object], kind: type[T], *, limit_s: float | None = None) -> T:
        limit_s = limit_s or self.try_limit_s

        def ask(turn: int) -> Coroutine[Any, Any, T]:
            return self._try(turn, path, body, kind, limit_s=limit_s)

        return await first_answer(self._clock, self._rotation, ask, try_s=limit_s, within_s=CALL_S)

    async def _call_once(self, path: str, body: Mapping[str, object], kind: type[T], *, limit_s: float | None = None) -> T:
        turn = self._rotation.turn
        try:
            return await self._try(turn, path, body, kind, limit_s=limit_s or self.try_limit_s)
        except EtcdUnavailable:
            self._rotation.move_on(turn)
            raise

    async def _try(self, turn: int, path: str, body: Mapping[str, object], kind: type[T], *, limit_s: float) -> T:
        """Ask one endpoint, and authenticate if etcd asks for that. The endpoint that has answered is the first of the next call."""
        endpoint, used = self._rotation.endpoint(turn), self._authentication.token
        try:
            answer = await self._within(limit_s, self._post(endpoint, path, body, kind))
        except AuthenticationNeeded as exc:
            await self._authenticate(endpoint, used, exc)
            try:
                answer = await self._within(limit_s, self._post(endpoint, path, body, kind))
            except AuthenticationNeeded as again:
                raise again.final() from again
        self._rotation.turn = turn
        return answer

    async def _authenticate(self, endpoint: str, used: str | None, why: AuthenticationNeeded) -> None:
        async def request_token(credentials: Mapping[str, object]) -> str:
            return (await self._post(endpoint, _LOG_IN_PATH, credentials, Token)).token

        await self._within(LOG_IN_S, self._authentication.renew(used, why, request_token))

    async def _within(self, limit_s: float, answer: Coroutine[Any, Any, T]) -> T:
        begun_s = self._clock.boot_s()
        with self._clock.move_on_after(limit_s):
            answered = await answer
            self._patience.answered(self._clock.boot_s() - begun_s)
            return answered
        self._patience.too_late()
        raise EtcdUnavailable(TOO_LATE)

    # HTTP.

    async def _post(self, endpoint: str, path: str, body: Mapping[str, object], kind: type[T]) -> T:
        sent_s = self._clock.boot_s()
        async with self._sent(self._http, endpoint + path, body, _JSON) as response:
            self.engine_clock.read(response.headers, sent_s, self._clock.boot_s())
            content = await read(response)
        if response.status_code != 200 or content.startswith(b'{"error"'):
            raise error_of(response.status_code, content)
        return decode(content, kind)

    @asynccontextmanager
    async def _sent(
        self, http: httpx2.AsyncBaseTransport | None, url: str, body: Mapping[str, object], headers: Mapping[str, str]
    ) -> AsyncIterator[httpx2.Response]:
        if http is None:
            raise EtcdUnavailable("is not asked before this node has been started")
        token = self._authentication.token
        if token is not None and not url.endswith(_LOG_IN_PATH):
            headers = {**headers, "authorization": token}
        try:
            # Not a client above the transport: it would write the address of each call to the app's log.
            parsed = self._urls.get(url) or self._urls.setdefault(url, httpx2.URL(url))
            response = await http.handle_async_request(httpx2.Request("POST", parsed, content=encode(body), headers=headers))
            try:
                yield response
            finally:
                with anyio.move_on_after(5, shield=True):
                    await response.aclose()
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as exc:
            raise EtcdUnavailable(unreachable(exc)) from exc

    async def _watch(
        self, endpoint: str, start: bytes, end: bytes, revision: int, take: Callable[[Watched], None], silence_s: float
    ) -> None:
        body = {"create_request": {"key": start, "range_end": end, "start_revision": revision}}
        used = self._authentication.token
        try:
            async with self._opened_watch(endpoint, body) as response:
                if response.status_code != 200:
                    raise error_of(response.status_code, await read(response))
                await follow_lines(response, self._clock, lambda line: take(decode_watched(line)), silence_s=silence_s)
        except AuthenticationNeeded as exc:
            await self._authenticate(endpoint, used, exc)
            raise EtcdUnavailable(str(exc)) from exc

    @asynccontextmanager
    async def _opened_watch(self, endpoint: str, body: Mapping[str, object]) -> AsyncIterator[httpx2.Response]:
        async with AsyncExitStack() as held:
            opening = held.enter_async_context(self._sent(self._watch_http, endpoint + "/v3/watch", body, _WATCH))
            yield await self._within(self.try_limit_s, opening)
