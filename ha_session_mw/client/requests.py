"""An adapter for the sessions of requests, over several nodes. The rules are in ``_core/calls/retry.py``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

try:
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter
    from requests.exceptions import ConnectionError as RequestsConnectionError
    from requests.exceptions import ReadTimeout, RequestException
    from urllib3.exceptions import HTTPError
except ImportError as exc:
    raise ImportError("ha_session_mw.client.requests needs the package requests: pip install requests") from exc

from .between_tries import Blocking
from .exchange import Cluster, Exchange, decoded, may_be_problem, read_problem
from .problems import LONGEST, Problem
from .tries import Way, respond, run_blocking


class NodesAdapter(HTTPAdapter):
    """Sends each request to a node that is well, and again where that is right.

    Mount it at the URL of each node: ``session.mount("https://n1.example", adapter)``.

    Args:
        urls: the base URLs of the nodes: scheme, host and port.
        reauthenticate: logs in by a request of the same session. Called where a node says that the session has ended, once for all
            requests that wait for it. The session then belongs to one user.
        boot_s: returns the seconds since some moment.
        sleep: waits for so many seconds.
        options: of ``HTTPAdapter``.

    Raises:
        ValueError: no URL is given, or one has more than these parts.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        reauthenticate: Callable[[], Any] | None = None,
        boot_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._cluster = Cluster(urls, boot_s)
        self.reauthenticate = reauthenticate
        self._sleep = sleep
        self._one_log_in = threading.Lock()

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - the signature of requests
        timeout: Any = None,
        verify: bool | str = True,  # noqa: FBT001, FBT002 - the signature of requests
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Return the response of a node. Sessions call this.

        Raises:
            RequestException: the last try failed.
        """
        url = request.url or ""
        if self._cluster.node_at(url) is None:
            return super().send(request, stream, timeout, verify, cert, proxies)
        parts = urlsplit(url)
        body = request.body
        exchange = Exchange(
            self._cluster,
            request.method or "GET",
            (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            [(as_text(name), as_text(value)) for name, value in request.headers.items()],
            can_send_again=lambda: body is None or isinstance(body, str | bytes),
            logs_in=self.reauthenticate is not None,
        )
        options = {"stream": stream, "verify": verify, "cert": cert, "proxies": proxies}
        way = _RequestsWay(request, partial(super().send, **options), timeout)
        response: Response = run_blocking(respond(exchange, way, Blocking(self._sleep, self._one_log_in, self.reauthenticate)))
        return response


class _RequestsWay(Way):
    """The way of one request.

    Args:
        request: the caller's.
        send: sends once.
        timeout: of the caller.
    """

    errors = RequestException

    def __init__(self, request: PreparedRequest, send: Callable[..., Response], timeout: Any) -> None:
        self._request = request
        self._send = send
        self._timeout = timeout

    async def send(self, exchange: Exchange) -> Response:
        wire = self._request.copy()
        wire.url = exchange.url
        wire.headers.clear()
        wire.headers.update(exchange.fields)
        response = self._send(wire, timeout=_connect_within(exchange, self._timeout))
        response.request, response.url = self._request, self._request.url or ""
        return response

    async def read_problem(self, exchange: Exchange, response: Response) -> Problem | None:
        # A part of a body cannot be put back, so only a body of known length is read.
        length = response.headers.get("content-length", "")
        if not may_be_problem(response.headers) or not length.isdigit() or int(length) > LONGEST:
            return None
        read_some, body = getattr(response.raw, "read1", response.raw.read), b""  # urllib3 2 returns what has come so far
        try:
            while part := read_some(LONGEST, decode_content=False):
                body += part
                if not exchange.reads_on(len(body)):
                    response.close()
                    raise ReadTimeout("a refusal came too slowly", request=self._request)
        except HTTPError as error:
            raise RequestsConnectionError(error, request=self._request) from error
        text = decoded(response.headers, body)
        response._content = body if text is None else text  # noqa: SLF001 - requests has no other way
        return read_problem(response.headers, body)

    async def close(self, response: Response) -> None:
        response.close()

    def reason(self, error: Exception) -> BaseException:
        """Return the error of urllib3 that says how far a request came; the error itself if there is none."""
        inner = error.args[0] if error.args else None
        return getattr(inner, "reason", None) or error


def as_text(value: str | bytes) -> str:
    """Return a header's name or value as text."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _connect_within(exchange: Exchange, timeout: Any) -> Any:
    connect_s, read_s = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    return (exchange.connect_within_s(connect_s), read_s)
