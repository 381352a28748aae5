"""A thin client of etcd v3 over its JSON gateway: HTTP/1.1 to one of several endpoints, on asyncio and trio.

It decides which endpoint is asked, for how long, and what an answer means; what is written, and what follows from a failure, is
the caller's. Time limits are its own and small, for etcd's are long: without a quorum it answers after 7 seconds.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Any, Generic, TypeVar

import anyio
import httpx2
import msgspec

from ..._machine.tls import unreachable
from ...abc import Clock

TRY_S = 0.6
"""One try at one endpoint. A write takes milliseconds; a frozen or cut off endpoint is not worth more. With three, the next one is asked
after a third of it."""
CALL_S = 5.0
"""All tries of one call: longer than an election takes (2.3 s at the most where a leader was killed)."""
ROUND_PAUSE_S = 0.05
"""Between two rounds through all endpoints."""
LOG_IN_S = 2.0
"""etcd takes a tenth of a second to check a password, on purpose, and longer where it has much to do."""
REFUSED_S = 2.0
"""A password that was refused is not tried again before. To check one is work for etcd."""
SILENCE_S = 3.0
"""A watch that says nothing for so long is given up: whoever watches writes something there more often."""
PAGE = 2000
"""Keys in one page of a load."""
MOST_OPERATIONS = 128
"""In one transaction; etcd's own limit where nobody changed it."""
MAX_BYTES = 64 * 1024 * 1024
"""Of one answer, or one message of a watch. A page of long entries has some MB; a message holds some revisions of 2 MB at the most."""

_LOG_IN_PATH = "/v3/auth/authenticate"
_JSON = {"content-type": "application/json"}
_WATCH = {**_JSON, "grpc-metadata-hasleader": "true"}  # or a member that has lost its leader would keep silent


class EtcdError(Exception):
    """Something did not work. ``str()`` says what in words of ours, fit to follow "etcd "; it holds no address and no upstream text."""


class EtcdUnavailable(EtcdError):
    """No endpoint answered in time, or none that has a quorum. Whether a write was applied is unknown."""


class EtcdForeign(EtcdUnavailable):
    """Something else than an etcd answers. Another endpoint may be a real one."""


class EtcdFull(EtcdUnavailable):
    """It has no space left. Nothing was written, and nothing can be until an operator makes room."""


class EtcdRefused(EtcdError):
    """The user, the password or the certificate is not accepted, or not entitled. Whoever asks again is told the same."""


class EtcdRejected(EtcdError):
    """A definite no to this very request; it was not applied."""


class EtcdCompacted(EtcdError):
    """The history from there on is gone: everything must be loaded anew."""


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """A key as it stood at a revision; what is absent in the JSON is empty or zero."""

    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0


class Header(msgspec.Struct, frozen=True, gc=False):
    """Where the store as a whole stands."""

    revision: int = 0


class Event(msgspec.Struct, frozen=True, gc=False):
    """A change of one key. Of a deleted one, only its name and the revision are told."""

    kv: KeyValue = KeyValue()
    type: str = "PUT"

    @property
    def is_deletion(self) -> bool:
        return self.type == "DELETE"


class Page(msgspec.Struct, frozen=True):
    """Some keys of a range."""

    header: Header = Header()
    kvs: tuple[KeyValue, ...] = ()
    more: bool = False


class Transaction(msgspec.Struct, frozen=True):
    """The outcome of a transaction: which of its two branches was taken, and at which revision."""

    header: Header = Header()
    succeeded: bool = False


class Granted(msgspec.Struct, frozen=True):
    """A lease; without a time to live, it is over."""

    id: int = msgspec.field(name="ID", default=0)
    ttl_s: int = msgspec.field(name="TTL", default=0)


class Watched(msgspec.Struct, frozen=True):
    """One message of a watch. Its header's revision proves nothing: only events do, and they come in whole revisions."""

    header: Header = Header()
    canceled: bool = False
    cancel_reason: str = ""
    compact_revision: int = 0
    events: tuple[Event, ...] = ()


class _Fault(msgspec.Struct, frozen=True):
    """An error as the gateway tells it, flat or within a stream."""

    error: Any = None
    message: str = ""
    code: int = 0
    grpc_code: int = 0


class _KeptAlive(msgspec.Struct, frozen=True):
    result: Granted = Granted()


class _Token(msgspec.Struct, frozen=True):
    token: str = ""


class _Nothing(msgspec.Struct, frozen=True):
    pass


class _Message(msgspec.Struct, frozen=True):
    result: Watched | None = None
    error: Any = None


T = TypeVar("T")
Operation = Mapping[str, Mapping[str, object]]

_encode = msgspec.json.Encoder().encode
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def _decode(content: bytes, kind: type[T]) -> T:
    """Read an answer. Numbers of 64 bits are text in it."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind, strict=False)
    found: T = decoder.decode(content)
    return found


def put(key: bytes, value: bytes, *, lease: int = 0) -> Operation:
    """Set a key; it goes with the lease, if there is one."""
    return {"request_put": {"key": key, "value": value, "lease": lease}}


def delete(start: bytes, end: bytes | None = None) -> Operation:
    """Delete a key, or all from ``start`` to before ``end``."""
    return {"request_delete_range": {"key": start} if end is None else {"key": start, "range_end": end}}


def unchanged_since(key: bytes, revision: int) -> Mapping[str, object]:
    """That a key was last written at a revision; 0: that it does not exist."""
    return {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}


def value_below(key: bytes, value: bytes) -> Mapping[str, object]:
    """That a key exists, and that its value is less, byte by byte."""
    return {"key": key, "target": "VALUE", "result": "LESS", "value": value}


def end_of(prefix: bytes) -> bytes:
    """The first key behind all that begin with a prefix, which must not end with the highest byte."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


class _Tries(Generic[T]):
    """The tries of one call, of which several may be under way.

    Attributes:
        under_way: how many are.
        latest: set when the latest one has failed, or the outcome of the call is known.
    """

    def __init__(self) -> None:
        self.under_way = 0
        self.latest = anyio.Event()
        self._answers: list[T] = []
        self._failure: EtcdError = EtcdUnavailable(_TOO_LATE)

    def begin(self) -> anyio.Event:
        self.latest = anyio.Event()
        return self.latest

    async def run(self, ask: Callable[[], Awaitable[T]], done: anyio.Event) -> None:
        self.under_way += 1
        try:
            self._answers.append(await ask())
        except EtcdError as exc:
            if not self.are_over():
                self._failure = exc
        self.under_way -= 1
        (self.latest if self.are_over() else done).set()

    def are_over(self) -> bool:
        """Whether there is an answer, or a failure that each endpoint would tell."""
        return bool(self._answers) or not isinstance(self._failure, EtcdUnavailable) or isinstance(self._failure, EtcdFull)

    def outcome(self) -> T:
        if self._answers:
            return self._answers[0]
        raise self._failure


class EtcdGateway:
    """Calls one etcd cluster.

    Args:
        endpoints: URLs, in the order in which they are tried.
        clock: bounds each try and each call.
        tls: for https endpoints; shows a certificate where one is loaded.
        user: who logs in; None where nobody has to.
        password: gives the user's password as it is now.
        transport: makes what carries the calls; by default the network.
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
        self._endpoints = tuple(endpoints)
        self._clock = clock
        self._tls = tls
        self._user = user
        self._password = password
        self._transport = transport or self._network
        self._turn = 0
        self._watch_turn = 0
        self._token: str | None = None
        self._logging_in = anyio.Lock()
        self._refusal: EtcdRefused | None = None
        self._refused_until_s = -math.inf
        self._http: httpx2.AsyncBaseTransport | None = None
        self._watch_http: httpx2.AsyncBaseTransport | None = None

    def _network(self) -> httpx2.AsyncBaseTransport:
        limits = httpx2.Limits(max_connections=32, max_keepalive_connections=32)
        # No proxy from the environment: it would send the cluster's traffic away.
        return httpx2.AsyncHTTPTransport(verify=self._tls or False, limits=limits, trust_env=False)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keeps the connections. They are opened here, for those of before a fork are nobody's."""
        self._logging_in = anyio.Lock()
        # A watch has a pool of its own: a load that stalls must not take its connection.
        self._http, self._watch_http = pools = self._transport(), self._transport()
        try:
            yield
        finally:
            self._http = self._watch_http = None
            with anyio.move_on_after(5, shield=True):
                for pool in pools:
                    await pool.aclose()

    # What can be asked.

    async def page(self, start: bytes, end: bytes, *, revision: int = 0, limit: int = PAGE) -> Page:
        """Some keys from ``start`` to before ``end``, in their order, as they stood at a revision; 0: as they stand now.

        Raises:
            EtcdCompacted: that revision is gone.
            EtcdError: there is no answer, or a refusal.
        """
        return await self._call("/v3/kv/range", {"key": start, "range_end": end, "revision": revision, "limit": limit}, Page)

    async def transact(
        self,
        success: Sequence[Operation],
        *,
        compare: Sequence[Mapping[str, object]] = (),
        failure: Sequence[Operation] = (),
        once: bool = False,
    ) -> Transaction:
        """Do all of ``success`` at one revision, or, where a comparison does not hold, all of ``failure``.

        Args:
            once: try one endpoint only. Else the transaction may be applied twice, and must be one for which that is no harm.

        Raises:
            EtcdUnavailable: it may have been applied, and may yet be, some moments later.
            EtcdError: it was not applied.
        """
        body = {"compare": compare, "success": success, "failure": failure}
        call = self._call_once if once else self._call
        return await call("/v3/kv/txn", body, Transaction)

    async def grant_lease(self, ttl_s: int) -> Granted:
        """A new lease. Its time counts from before the call, and etcd may end it later than that (2 s at the least).

        One more may be left behind by a try without an answer. Nothing hangs on it, and it ends by itself.
        """
        return await self._call("/v3/lease/grant", {"TTL": ttl_s}, Granted)

    async def keep_lease(self, lease: int) -> bool:
        """Begin a lease's time anew; False where it is over."""
        kept = await self._call("/v3/lease/keepalive", {"ID": lease}, _KeptAlive)
        return kept.result.ttl_s > 0

    async def revoke_lease(self, lease: int) -> None:
        """End a lease, and delete the keys that hang on it. One that is over is none to end."""
        try:
            await self._call("/v3/lease/revoke", {"ID": lease}, _Nothing)
        except EtcdRejected:
            return

    async def watch(self, start: bytes, end: bytes, revision: int, take: Callable[[Watched], None]) -> None:
        """Hand each message about keys from ``start`` to before ``end`` to ``take``, from a revision on. Never returns.

        Raises:
            EtcdCompacted: that revision is gone.
            EtcdError: the watch is over, for whatever reason; where it goes on is the caller's to say.
        """
        turn = self._watch_turn
        try:
            await self._watch(self._endpoints[turn % len(self._endpoints)], start, end, revision, take)
        except EtcdUnavailable:
            self._watch_turn = turn + 1
            raise

    def leave_watched(self) -> None:
        """The next watch is at another endpoint than the last one."""
        self._watch_turn += 1

    # How it is carried.

    async def _call(self, path: str, body: Mapping[str, object], kind: type[T]) -> T:
        """The first answer of the endpoints, which are asked one after the other without waiting for the slow.

        While a leader is elected, what a member was asked before is lost, and what it is asked then is done. So the sooner one is asked
        again the better; and each once at a time.
        """
        tries = _Tries[T]()
        with self._clock.move_on_after(CALL_S):
            async with anyio.create_task_group() as tasks:
                for number in count(1):
                    turn = self._turn
                    tasks.start_soon(tries.run, partial(self._try, turn, path, body, kind), tries.begin())
                    await self._hear(tries, TRY_S / len(self._endpoints))
                    if not tries.are_over():
                        self._move_on(turn)
                        if number % len(self._endpoints) == 0:
                            tries.begin()
                            await self._hear(tries, ROUND_PAUSE_S)
                    if tries.are_over():
                        break
                if tries.under_way:
                    tasks.cancel_scope.cancel()
        return tries.outcome()

    async def _hear(self, tries: _Tries[T], within_s: float) -> None:
        with self._clock.move_on_after(within_s):
            await tries.latest.wait()

    async def _call_once(self, path: str, body: Mapping[str, object], kind: type[T]) -> T:
        turn = self._turn
        try:
            return await self._try(turn, path, body, kind)
        except EtcdUnavailable:
            self._move_on(turn)
            raise

    def _move_on(self, turn: int) -> None:
        """Another endpoint is asked next. Of many calls that fail at once, the first has its way."""
        if self._turn == turn:
            self._turn = turn + 1

    async def _try(self, turn: int, path: str, body: Mapping[str, object], kind: type[T]) -> T:
        """One try; with a log-in, where one is asked for. Whoever has answered is asked first by the next call."""
        endpoint, used = self._endpoints[turn % len(self._endpoints)], self._token
        try:
            answer = await self._within(TRY_S, self._post(endpoint, path, body, kind))
        except _LogInFirst as exc:
            await self._within(LOG_IN_S, self._log_in(endpoint, used, exc))
            try:
                answer = await self._within(TRY_S, self._post(endpoint, path, body, kind))
            except _LogInFirst as again:
                raise again.after_all() from again
        self._turn = turn
        return answer

    async def _within(self, limit_s: float, answer: Coroutine[Any, Any, T]) -> T:
        with self._clock.move_on_after(limit_s):
            return await answer
        raise EtcdUnavailable(_TOO_LATE)

    async def _log_in(self, endpoint: str, used: str | None, why: _LogInFirst) -> None:
        if why.denied and (self._user is None or used is not None):
            raise why.after_all()
        if self._user is None:
            raise EtcdRefused("asks for a user: set HA_SESSION_ETCD_USER and HA_SESSION_ETCD_PASSWORD")
        async with self._logging_in:
            if self._token != used:
                return  # somebody else was faster
            if self._refusal is not None and self._clock.boot_s() < self._refused_until_s:
                raise self._refusal
            self._token = None
            try:
                self._token = (await self._post(endpoint, _LOG_IN_PATH, self._credentials(), _Token)).token
            except EtcdRefused as exc:
                self._refusal, self._refused_until_s = exc, self._clock.boot_s() + REFUSED_S
                raise

    def _credentials(self) -> Mapping[str, object]:
        try:
            return {"name": self._user, "password": self._password()}
        except OSError as exc:
            raise EtcdRefused("is not asked, for HA_SESSION_ETCD_PASSWORD_FILE cannot be read") from exc

    async def _post(self, endpoint: str, path: str, body: Mapping[str, object], kind: type[T]) -> T:
        async with self._sent(self._http, endpoint + path, body, _JSON) as response:
            content = await _read(response)
        if response.status_code != 200 or content.startswith(b'{"error"'):
            raise _error_of(response.status_code, content)
        try:
            return _decode(content, kind)
        except (msgspec.MsgspecError, ValueError) as exc:
            raise EtcdForeign(_FOREIGN) from exc

    @asynccontextmanager
    async def _sent(
        self, http: httpx2.AsyncBaseTransport | None, url: str, body: Mapping[str, object], headers: Mapping[str, str]
    ) -> AsyncIterator[httpx2.Response]:
        if http is None:
            raise EtcdUnavailable("is not asked before this node has been started")
        if self._token is not None and not url.endswith(_LOG_IN_PATH):
            headers = {**headers, "authorization": self._token}
        try:
            # The transport itself: a client above it would write each call, with the address, to the app's log.
            response = await http.handle_async_request(httpx2.Request("POST", url, content=_encode(body), headers=headers))
            try:
                yield response
            finally:
                with anyio.move_on_after(5, shield=True):
                    await response.aclose()
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as exc:
            raise EtcdUnavailable(unreachable(exc)) from exc

    async def _watch(self, endpoint: str, start: bytes, end: bytes, revision: int, take: Callable[[Watched], None]) -> None:
        body = {"create_request": {"key": start, "range_end": end, "start_revision": revision}}
        used = self._token
        try:
            async with self._opened_watch(endpoint, body) as response:
                if response.status_code != 200:
                    raise _error_of(response.status_code, await _read(response))
                async with _body(response) as chunks:
                    await self._follow(chunks, take)
        except _LogInFirst as exc:
            await self._within(LOG_IN_S, self._log_in(endpoint, used, exc))
            raise EtcdUnavailable(str(exc)) from exc

    @asynccontextmanager
    async def _opened_watch(self, endpoint: str, body: Mapping[str, object]) -> AsyncIterator[httpx2.Response]:
        async with AsyncExitStack() as held:
            opening = held.enter_async_context(self._sent(self._watch_http, endpoint + "/v3/watch", body, _WATCH))
            yield await self._within(TRY_S, opening)

    async def _follow(self, chunks: AsyncIterator[bytes], take: Callable[[Watched], None]) -> None:
        rest: list[bytes] = []
        size = 0
        while True:
            *lines, last = (await self._next(chunks)).split(b"\n")
            for line in lines:
                content = b"".join([*rest, line])
                rest, size = [], 0
                if content:
                    take(_message(content))
            rest.append(last)
            size += len(last)
            if size > MAX_BYTES:
                raise EtcdForeign(_FOREIGN)

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        with self._clock.move_on_after(SILENCE_S):
            try:
                return await anext(chunks)
            except StopAsyncIteration:
                raise EtcdUnavailable("has ended the watch") from None
        raise EtcdUnavailable("has fallen silent")


@asynccontextmanager
async def _body(response: httpx2.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body as it arrives. Of the generators below it, those of the transport end by a cancellation, or not before the body does."""
    chunks = response.aiter_raw()
    try:
        yield chunks
    finally:
        with anyio.CancelScope() as scope, suppress(httpx2.HTTPError, httpx2.StreamError):
            scope.cancel()
            async for _ in chunks:
                pass


async def _read(response: httpx2.Response) -> bytes:
    chunks, size = [], 0
    async with _body(response) as content:
        async for chunk in content:
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_BYTES:
                raise EtcdForeign(_FOREIGN)
    return b"".join(chunks)


# What an answer means.

_TOO_LATE = "gives no answer in time"
_FOREIGN = "is not what answers at an endpoint of HA_SESSION_CLUSTER (no JSON of an etcd 3.4 or later)"
_NAMED = "refuses client certificates that carry a name (CN) there; use one without, and HA_SESSION_ETCD_USER"

_NO = frozenset({3, 5, 11})
"""gRPC: invalid argument, not found, out of range. All others speak of the server, not of the request."""
_LOG_IN = ("invalid auth token", "user name is empty", "auth store is old")


class _LogInFirst(Exception):
    """The request carried no token, or one that counts no more; or it was denied, maybe for want of one."""

    def __init__(self, text: str, *, denied: bool = False) -> None:
        super().__init__(text)
        self.denied = denied

    def after_all(self) -> EtcdError:
        """What it means where there was a token that has just been given."""
        return EtcdRefused(str(self)) if self.denied else EtcdUnavailable(str(self))


def _error_of(status: int, content: bytes) -> Exception:
    """What an answer other than the one hoped for says."""
    try:
        fault = _decode(content, _Fault)
        if isinstance(fault.error, dict):  # streams nest it
            fault = msgspec.convert(fault.error, _Fault, strict=False)
    except (msgspec.MsgspecError, ValueError):
        return _error_of_text(status, content)
    text = fault.message or (fault.error if isinstance(fault.error, str) else "")
    return _meaning(fault.code or fault.grpc_code or 2, text)


def _error_of_text(status: int, content: bytes) -> EtcdError:
    if status == 400 and b"CommonName" in content:
        return EtcdRefused(_NAMED)
    if status in (502, 503, 504):
        return EtcdUnavailable(f"cannot be reached (a proxy answers {status})")
    return EtcdForeign(_FOREIGN)


def _meaning(code: int, text: str) -> Exception:
    """The error that a gRPC code and its text stand for. Only the code may be shown."""
    if "space exceeded" in text:
        return EtcdFull("has no space left (NOSPACE): compact and defragment it, or raise its quota, then disarm the alarm")
    if code == 11 and "compacted" in text:
        return EtcdCompacted("has compacted the history that was asked for")
    if code == 16 or any(phrase in text for phrase in _LOG_IN):
        return _LogInFirst("does not accept the token that it gave")
    if "authentication failed" in text:
        return EtcdRefused("does not accept HA_SESSION_ETCD_USER with HA_SESSION_ETCD_PASSWORD")
    if "authentication is not enabled" in text:
        return EtcdRefused("knows no users: enable authentication there, or unset HA_SESSION_ETCD_USER")
    if code == 7:
        # So is somebody who shows a certificate, and no token yet.
        return _LogInFirst("does not let the user read and write below the prefix of HA_SESSION_CLUSTER", denied=True)
    if code in _NO or "larger than max" in text:
        return EtcdRejected(f"rejects the request (code {code})")
    return EtcdUnavailable(f"has no quorum, or too much to do (code {code})")


def _message(line: bytes) -> Watched:
    """One message of a watch, unless it says that the watch is over."""
    try:
        message = _decode(line, _Message)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise EtcdForeign(_FOREIGN) from exc
    if message.error is not None or message.result is None:
        raise _error_of(200, line)
    watched = message.result
    if watched.compact_revision:
        raise EtcdCompacted("has compacted the history that was asked for")
    if watched.canceled:
        raise _cancellation(watched.cancel_reason)
    return watched


def _cancellation(reason: str) -> Exception:
    """The end of a watch, told as text with the code's name in it."""
    return _meaning(7 if "PermissionDenied" in reason else 14, reason)
