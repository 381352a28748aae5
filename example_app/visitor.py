"""The drill's client of the example app. It handles its token by hand, so that the drill can copy it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from websockets.sync.client import ClientConnection, connect

from .no_tls import NO_TLS

TIMEOUT_S = 30.0


class AnswerError(Exception):
    """An answer was not the expected one."""


class Visitor:
    """Keeps the session cookie, as a browser does, and sends it with each request.

    Args:
        url: the node's URL.
        token: the first cookie: a copy of another visitor's, for example.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self.token = token
        self.token_changed = False
        self._client = httpx2.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False, verify=NO_TLS)

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return self._taken(self._client.get(path, headers=self._cookie() | headers))

    def post(self, path: str, **form: str) -> httpx2.Response:
        return self._taken(self._client.post(path, data=form, headers=self._cookie()))

    def delete(self, path: str) -> httpx2.Response:
        return self._taken(self._client.delete(path, headers=self._cookie()))

    def log_in(self, username: str, password: str) -> httpx2.Response:
        return self.post("/login", username=username, password=password)

    @contextmanager
    def events(self) -> Iterator[Iterator[dict[str, Any]]]:
        """Open the event stream; give an iterator over the ticks."""
        with self._client.stream("GET", "/private/events", headers=self._cookie()) as response:
            told(response, 200)
            yield (json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line.startswith("data: "))

    @contextmanager
    def websocket(self) -> Iterator[ClientConnection]:
        """Open a WebSocket.

        Raises:
            websockets.exceptions.InvalidStatus: the node refused it; carries the HTTP response.
        """
        url = self.url.replace("http", "ws", 1) + "/private/ws"
        with connect(url, additional_headers=self._cookie(), open_timeout=TIMEOUT_S, proxy=None) as socket:
            yield socket

    def _cookie(self) -> dict[str, str]:
        return {"Cookie": f"session={self.token}"} if self.token else {}

    def _taken(self, response: httpx2.Response) -> httpx2.Response:
        self._client.cookies.clear()  # self.token is the only copy
        self.token_changed = False
        for cookie in response.headers.get_list("set-cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            if name == "session":
                self.token = None if value == "null" else value
                self.token_changed = True
        return response


def told(response: httpx2.Response, status: int, code: str | None = None) -> str:
    """Return a response in a few words: status, problem code, and what the client should do.

    Raises:
        AnswerError: the response has another status or problem code.
    """
    if response.status_code != status:
        raise AnswerError(f"expected {status} {code or ''}, got {response.status_code}: {response.text[:300]}")
    if code is None:
        return str(status)
    if not response.headers["content-type"].startswith("application/problem+json"):
        raise AnswerError(f"expected a problem document, got {response.headers['content-type']}")
    return told_problem(response.json(), status, code)


def told_problem(problem: dict[str, Any], status: int, code: str) -> str:
    if (problem["status"], problem["code"]) != (status, code):
        raise AnswerError(f"expected {status} {code}, got {problem['status']} {problem['code']}")
    where = f", {problem['retry_where']}" if problem["retry_where"] != "none" else ""
    after = f", after {problem['retry_after_ms']} ms" if problem["retry_after_ms"] else ""
    return f"{status} {code} → {problem['action']}{where}{after}"


def expect(what: str, holds: object) -> None:
    """Raise ``AnswerError`` unless the condition holds."""
    if not holds:
        raise AnswerError(f"expected {what}")
