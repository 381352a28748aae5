"""One request of a client, with all its tries. Does no I/O: the transports send, read, sleep and log in."""

from __future__ import annotations

import logging
import math
import random
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from .._core.calls.origins import origin_of
from .._core.calls.rate_limit import RateLimiter
from .._core.calls.retry import Call, Failure, GiveUp, Nodes, Outcome, TryAgain, Where
from .problems import LONGEST, MEDIA_TYPE, Problem, parse
from .tokens import Carried, Successors, carried_by, handed_out_by, with_token

logger = logging.getLogger("ha_session_mw.client")

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
CONNECT_WITHIN_S = 2.0
"""Seconds in which a node must take a connection if there are others to be asked after it. Twice as long after each one that did not:
the client's own machine may be the slow one."""
KEEP_IDLE_S = 1.5
"""How long an idle connection is kept. gunicorn closes one after 2 s, uvicorn after 5 s. A POST on it at that moment is lost, and nobody
knows whether it was executed."""
LOG_INS_AT_ONCE = 3
"""How many log-ins in a row a client tries. A cluster that refuses each new session must not be flooded with log-ins."""
LOG_IN_EVERY_S = 10.0
"""After those, one log-in may be tried in so many seconds."""

FOLLOWS_HEADER = "Session-Follows"
"""Says to which nodes this client follows a redirect, so that a node may answer with one to the owner of the session."""
NOT_SENT = ("ConnectError", "ConnectTimeout", "NewConnectionError", "ConnectTimeoutError")
"""Errors that say that no byte of the request has reached the node."""
CLOSED = ("ConnectError", "NewConnectionError")
"""Those that say so at once."""
TOOK_TOO_LONG = ("ReadTimeout", "WriteTimeout", "ReadTimeoutError")
BROKE_OFF = ("ReadError", "WriteError", "CloseError", "RemoteProtocolError", "ConnectionError", "ChunkedEncodingError", "ProtocolError")
_OUTCOMES: dict[str, Outcome] = {"not_executed": "not_executed", "executed": "executed"}
GATEWAY_STATUSES = (502, 503, 504)
"""The statuses of a balancer whose node is gone."""

logging_in: ContextVar[LogIn | None] = ContextVar("logging_in", default=None)
"""The log-in that runs in this context. Its own requests are not repaired by another log-in, and their tokens belong to it."""


class LogIn:
    """A log-in under way, and the token that it brought."""

    def __init__(self) -> None:
        self.brought: Carried | None = None


class Cluster:
    """The nodes, tokens and log-ins that all requests of one client share.

    Args:
        urls: the base URLs of the nodes.
        boot_s: returns the seconds since some moment.
        roll: returns a random number from 0 up to 1.

    Raises:
        ValueError: there is no URL, or one has more than a scheme, a host and a port.
    """

    def __init__(self, urls: Sequence[str], boot_s: Callable[[], float], roll: Callable[[], float] = random.random) -> None:
        if isinstance(urls, str) or not urls:
            raise ValueError("a list of the nodes' URLs is needed, such as ['https://n1.example:8443', 'https://n2.example:8443']")
        self.origins = [origin_of(url) for url in urls]
        for url, origin in zip(urls, self.origins, strict=True):
            if origin is None:
                raise ValueError(f"not the URL of a node: {redacted(url)}; it has a scheme (http or https), a host, and a port if need be")
        self.follows = [origin for origin in self.origins if origin is not None]
        self.boot_s = boot_s
        self.nodes = Nodes(len(urls), roll)
        self.successors = Successors()
        self.log_ins = 0
        """How many log-ins have ended well."""
        self.last_log_in: Carried | None = None
        self._pace = RateLimiter(1 / LOG_IN_EVERY_S, LOG_INS_AT_ONCE)

    def may_log_in(self) -> bool:
        """Whether one more log-in may be tried now, and count it if so."""
        may = self._pace.spend(1, self.boot_s(), patience_s=0) is not None
        logger.log(logging.INFO if may else logging.WARNING, "logging in again" if may else "too many log-ins were tried already")
        return may

    def node_at(self, url: str) -> int | None:
        """Return the node that a URL belongs to; None if it belongs to none."""
        origin = origin_of(url, only=False)
        return self.origins.index(origin) if origin in self.origins else None


def redacted(url: str) -> str:
    """Return a URL as it may be shown: without a password."""
    return repr(url.rpartition("@")[2]) if "@" in url else repr(url)


class AfterLogIn(TryAgain):
    """Log in, and send the request again; if no log-in may be tried, the answer is the caller's."""


class Exchange:
    """One request with all its tries: what to send, and how to go on after an answer or an error.

    Args:
        cluster: of the client.
        method, path, fields: of the request; the path with its query.
        can_send_again: whether the body can be sent once more.
        logs_in: whether the client can log in by itself.
    """

    def __init__(
        self,
        cluster: Cluster,
        method: str,
        path: str,
        fields: Iterable[tuple[str, str]],
        *,
        can_send_again: Callable[[], bool],
        logs_in: bool,
    ) -> None:
        self._cluster = cluster
        self.path = path
        self._original = [(name, value) for name, value in fields if name.lower() not in ("host", "session-follows")]
        self._carried = carried_by(self._original)
        self._can_send_again = can_send_again
        is_keyed = any(name.lower() == "idempotency-key" for name, _ in self._original)
        self._repeatable = method in SAFE_METHODS or is_keyed
        self._logs_in = logs_in and logging_in.get() is None
        self._log_ins_before = cluster.log_ins
        self._gained: Carried | None = None
        self._was_redirected = False
        self._is_superseded = False
        self._connect_within_s = CONNECT_WITHIN_S
        self.call: Call = cluster.nodes.call(cluster.boot_s(), repeatable=self._repeatable)

    # The next try

    @property
    def url(self) -> str:
        """The URL of the next try."""
        return f"{self._cluster.origins[self.call.node]}{self.path}"

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The header fields of the next try, without ``Host``."""
        fields = self._with_newest_token()
        if len(self._cluster.origins) == 1 or self._was_redirected or not self._can_send_again():
            return fields
        return [*fields, (FOLLOWS_HEADER, ", ".join(self._cluster.follows))]

    def _with_newest_token(self) -> list[tuple[str, str]]:
        old = self._carried
        if self._gained is not None:
            return with_token(self._original, old, self._gained)
        if old is None:
            return self._original
        newest = self._newest(old)
        return self._original if newest == old else with_token(self._original, old, newest)

    def connect_within_s(self, usual_s: float | None) -> float | None:
        """Return the seconds in which a connection must be made: less than usual if other nodes can be asked after this one."""
        if len(self._cluster.origins) == 1:
            return usual_s
        # A machine that is busy takes its time at each node. So the last try may take what is left.
        left_s = self.call.left_s(self._cluster.boot_s()) if self.call.is_last else 0.0
        return min(math.inf if usual_s is None else usual_s, max(self._connect_within_s, left_s))

    # After a try

    def failed(self, error: BaseException) -> TryAgain | None:
        """Return how to go on after an error; None if the caller must see it."""
        names = [kind.__name__ for kind in type(error).__mro__]
        name = type(error).__name__
        if any(each in NOT_SENT for each in names):
            is_closed = any(each in CLOSED for each in names)
            self._connect_within_s *= 1 if is_closed else 2
            return self._next(Failure(name, "not_executed", is_closed=is_closed))
        if any(each in TOOK_TOO_LONG for each in names):
            return self._next(Failure(name, "unknown", was_work=True))
        if any(each in BROKE_OFF for each in names):
            return self._next(Failure(name, "unknown"))
        return None

    def answered(self, status: int, headers: Mapping[str, str], problem: Problem | None) -> TryAgain | None:
        """Return how to go on after an answer; None if it is the caller's.

        Args:
            status, headers: of the answer.
            problem: its problem, if it has one.
        """
        self._note_token(headers)
        if status in (307, 308) and (step := self._redirected(headers.get("location", ""))) is not None:
            return step
        if problem is not None:
            return self._after_problem(problem)
        if status in GATEWAY_STATUSES:
            return self._next(Failure(f"status {status}", "unknown", after_s=_seconds(headers.get("retry-after")), was_work=True))
        self.call.answered()
        return None

    def reads_on(self, size: int) -> bool:
        """Whether to read more of a body that may be a problem: a server may send it without end, or a byte now and then."""
        return size <= LONGEST and self.call.left_s(self._cluster.boot_s()) > 0

    def may_log_in(self) -> bool:
        """Whether one more log-in of this client may be tried now, and count it if so."""
        return self._cluster.may_log_in()

    def uses_log_in(self) -> bool:
        """Whether another request of this client has logged in since this one began. This one then uses that."""
        if self._cluster.log_ins == self._log_ins_before:
            return False
        self._use_log_in()
        return True

    @contextmanager
    def log_in(self) -> Iterator[None]:
        """Make the requests of the block those of a log-in. If it ends well, this request uses the token that it brought."""
        log_in = LogIn()
        before = logging_in.set(log_in)
        try:
            yield
        finally:
            logging_in.reset(before)
        self._cluster.log_ins += 1
        self._cluster.last_log_in = log_in.brought
        self._use_log_in()

    def _use_log_in(self) -> None:
        self._gained = self._cluster.last_log_in
        if self._carried is not None and self._gained is not None:
            self._cluster.successors.note(self._carried.token, self._gained.token)

    def _after_problem(self, problem: Problem) -> TryAgain | None:
        is_superseded = problem.code == "session_superseded"
        # The second time, the request had the newest token that this client has. A late answer has cost it the newer one.
        if (problem.action == "reauthenticate" or (is_superseded and self._is_superseded)) and self._logs_in:
            return self._after_log_in(problem)
        self._is_superseded |= is_superseded
        if not problem.retryable and problem.retry_where != "other_node":
            self.call.answered()  # the node is well, and its answer is the caller's
            return None
        outcome = _OUTCOMES.get(problem.outcome, "unknown")
        where: Where = "other_node" if problem.retry_where == "other_node" else "any" if problem.status >= 500 else "same_node"
        after_s = None if problem.retry_after_ms is None or problem.retry_after_ms < 0 else problem.retry_after_ms / 1000
        return self._next(Failure(problem.code, outcome, problem.retryable, where, after_s, was_work=True))

    def _after_log_in(self, problem: Problem) -> TryAgain | None:
        self._logs_in = False  # a session that is refused at once is not mended by a third log-in
        self.call.answered()
        if problem.outcome != "not_executed" and not self._repeatable:
            return None
        if not self._can_send_again():
            return None
        return AfterLogIn(0.0)

    def _redirected(self, location: str) -> TryAgain | None:
        """Follow a redirect to another node of the list, once. The credentials go along; any other redirect is the caller's."""
        node = self._cluster.node_at(location)
        if node is None or node == self.call.node or self._was_redirected or not self._can_send_again():
            return None
        self._was_redirected = True
        self.call.answered()
        parts = urlsplit(location)
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.call.go_to(node)
        return TryAgain(0.0)

    def _next(self, failure: Failure) -> TryAgain | None:
        origin, tries = self._origin, self.call.tries
        step = self.call.next(failure, self._cluster.boot_s(), can_send_again=self._can_send_again())
        if isinstance(step, GiveUp):
            logger.warning("try %d at %s: %s; given up, because %s", tries, origin, failure.name, step.why)
            return None
        logger.info("try %d at %s: %s; next at %s in %.3f s", tries, origin, failure.name, self._origin, step.wait_s)
        return step

    def _note_token(self, headers: Mapping[str, str]) -> None:
        new = handed_out_by(headers.items() if not hasattr(headers, "multi_items") else headers.multi_items())
        if new is None:
            return
        if (log_in := logging_in.get()) is not None:
            log_in.brought = new
        if self._carried is not None:
            sent = self._gained or self._newest(self._carried)
            self._cluster.successors.note(sent.token, new.token)

    def _newest(self, carried: Carried) -> Carried:
        return Carried(carried.cookie, self._cluster.successors.newest(carried.token, under_any_id=self._is_superseded))

    @property
    def _origin(self) -> str:
        return self._cluster.origins[self.call.node]  # type: ignore[return-value] # the constructor has checked each


def may_be_problem(headers: Mapping[str, str]) -> bool:
    """Whether the body of a response is worth reading, because it may be a problem."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == MEDIA_TYPE


def decoded(headers: Mapping[str, str], body: bytes) -> bytes | None:
    """Return the body of a response without its content coding; None if this client does not know that, or the text is too long."""
    window = _ZLIB_WINDOWS.get(headers.get("content-encoding", "").strip().lower())
    if not window:
        return body if window == 0 else None
    inflater = zlib.decompressobj(window)
    try:
        text = inflater.decompress(body, LONGEST)  # no more, whatever it would become
    except zlib.error:
        return None
    return text if inflater.eof else None


def read_problem(headers: Mapping[str, str], body: bytes) -> Problem | None:
    """Return the problem in the body of a response, as the body came; None if it is no problem of this package."""
    text = decoded(headers, body)
    return None if text is None else parse(headers.get("content-type", ""), text)


_ZLIB_WINDOWS = {"identity": 0, "": 0, "gzip": 31, "deflate": 15}
"""The window bits with which zlib reads a content coding (RFC 9110 section 8.4.1); 0 for none. An app's own middleware may compress."""


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 7 else None


def limits_of(library: ModuleType) -> Any:
    """Return the limits of a transport that uses no connection again which its server may be about to close."""
    return library.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEP_IDLE_S)


def library_of(request: object) -> ModuleType:
    """Return the library, httpx or httpx2, to which a request belongs."""
    return sys.modules[type(request).__module__.partition(".")[0]]


def as_text(fields: Iterable[tuple[Any, Any]]) -> list[tuple[str, str]]:
    """Return raw header fields as text."""
    return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in fields]
