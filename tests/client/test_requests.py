"""The adapter of requests, against small servers on loopback."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from ha_session_mw._core.calls.retry import DEADLINE_S, LONGEST_WAIT_S
from ha_session_mw.client import LogInAgain, raise_for_problem
from ha_session_mw.client.exchange import LOG_INS_AT_ONCE
from ha_session_mw.client.problems import LONGEST
from ha_session_mw.client.requests import NodesAdapter

STALE = {
    "code": "state_stale",
    "status": 503,
    "action": "retry",
    "retryable": True,
    "retry_where": "other_node",
    "outcome": "not_executed",
}
REVOKED = {"code": "session_revoked", "status": 401, "action": "reauthenticate", "retryable": False, "outcome": "not_executed"}

Part = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Plays the part of its node."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def do(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.body = self.rfile.read(length)
        self.node.asked.append((self.command, self.path, dict(self.headers), self.body))
        self.node.part(self)

    do_GET = do_POST = do

    @property
    def node(self) -> Server:
        assert isinstance(self.server, Server)
        return self.server

    def answer(self, status: int, body: bytes, **fields: str) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A node."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.part: Part = well


def well(handler: Handler) -> None:
    handler.answer(200, b"well")


def problem(document: dict[str, Any]) -> Part:
    return lambda handler: handler.answer(
        document["status"], gzip.compress(json.dumps(document).encode()), Content_Type="application/problem+json", Content_Encoding="gzip"
    )


def breaks_off(handler: Handler) -> None:
    handler.close_connection = True


@contextmanager
def two_nodes() -> Iterator[tuple[Server, Server]]:
    servers = Server(), Server()
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield servers
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


@pytest.fixture
def nodes() -> Iterator[tuple[Server, Server]]:
    with two_nodes() as servers:
        yield servers


@contextmanager
def session_of(first: Server | str, second: Server | str, **options: Any) -> Iterator[tuple[requests.Session, NodesAdapter, str]]:
    urls = [each if isinstance(each, str) else each.url for each in (first, second)]
    adapter = NodesAdapter(urls, **{"sleep": lambda _: None, **options})
    adapter._cluster.nodes._preferred = 0
    with requests.Session() as session:
        session.trust_env = False
        for url in urls:
            session.mount(url, adapter)
        yield session, adapter, urls[0]


def test_another_node_answers_what_one_cannot(nodes: tuple[Server, Server]) -> None:
    first, second = nodes
    first.part = problem(STALE)
    with session_of(first, second) as (session, _, url):
        response = session.post(f"{url}/order?x=1", data=b"tea", timeout=30)
        assert (response.status_code, response.content, response.url) == (200, b"well", f"{url}/order?x=1")
    assert [(method, path, body) for method, path, _, body in second.asked] == [("POST", "/order?x=1", b"tea")]
    assert second.asked[0][2]["Host"] == second.url.removeprefix("http://")


def test_a_node_that_is_gone_costs_no_request(nodes: tuple[Server, Server]) -> None:
    with two_nodes() as (gone, _):
        pass
    with session_of(gone.url, nodes[1]) as (session, _, url):
        assert session.post(f"{url}/", data=b"tea", timeout=30).content == b"well"


def test_a_connection_that_breaks_off_is_repeated_for_a_safe_request_only(nodes: tuple[Server, Server]) -> None:
    first, second = nodes
    first.part = breaks_off
    with session_of(first, second) as (session, _, url):
        assert session.get(f"{url}/", timeout=30).content == b"well"
    with session_of(first, second) as (session, _, url), pytest.raises(requests.ConnectionError):
        session.post(f"{url}/", data=b"pay", timeout=30)
    assert [method for method, *_ in second.asked] == ["GET"]


def breaks_off_within_a_problem(handler: Handler) -> None:
    handler.send_response(503)
    handler.send_header("Content-Type", "application/problem+json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"code": "state_st')
    handler.close_connection = True


def test_a_refusal_that_breaks_off_says_as_little_as_no_answer(nodes: tuple[Server, Server]) -> None:
    first, second = nodes
    first.part = breaks_off_within_a_problem
    with session_of(first, second) as (session, _, url):
        assert session.get(f"{url}/", timeout=30).content == b"well"
    with session_of(first, second) as (session, _, url), pytest.raises(requests.ConnectionError):
        session.post(f"{url}/", data=b"pay", timeout=30)
    assert [method for method, *_ in second.asked] == ["GET"]


def test_the_last_refusal_is_the_callers(nodes: tuple[Server, Server]) -> None:
    for node in nodes:
        node.part = problem(STALE)
    with session_of(*nodes) as (session, _, url):
        response = session.get(f"{url}/", timeout=30)
    assert (response.status_code, response.json()["code"]) == (503, "state_stale")
    assert sum(len(node.asked) for node in nodes) == 3


def test_a_session_that_has_ended_is_begun_anew(nodes: tuple[Server, Server]) -> None:
    first, second = nodes

    def part(handler: Handler) -> None:
        if handler.path == "/log-in":
            handler.answer(200, b"", Set_Cookie="session=hs1.s2.k.p.g; Path=/")
        elif "hs1.s2" in handler.headers.get("Cookie", ""):
            handler.answer(200, b"in")
        else:
            problem(REVOKED)(handler)

    first.part = second.part = part
    with session_of(first, second) as (session, adapter, url):
        session.cookies.set("session", "hs1.s1.k.p.g", domain="127.0.0.1", path="/")
        with pytest.raises(LogInAgain):
            raise_for_problem(session.get(f"{url}/", timeout=30))
        session.cookies.clear()
        adapter.reauthenticate = lambda: session.post(f"{url}/log-in", timeout=30).raise_for_status()
        assert session.post(f"{url}/order", data=b"tea", timeout=30).content == b"in"
        assert session.get(f"{url}/", timeout=30).content == b"in"
    assert [path for _, path, _, _ in first.asked] == ["/", "/order", "/log-in", "/order", "/"]


def test_a_url_of_no_node_is_not_touched(nodes: tuple[Server, Server]) -> None:
    first, second = nodes
    with session_of(first, "http://127.0.0.1:9") as (session, adapter, _):
        session.mount(second.url, adapter)
        second.part = problem(STALE)
        assert session.get(f"{second.url}/", timeout=30).status_code == 503
    assert first.asked == []


# Nodes that lie


def refusal(status: int, body: bytes, **fields: str) -> Part:
    return lambda handler: handler.answer(status, body, Content_Type="application/problem+json", **fields)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"not JSON", {}),
        (b'"a text"', {}),
        (b"[" * 50_000, {}),
        (b'{"code": 7}', {}),
        (b"\x00", {"Content_Encoding": "br"}),
        (b" " * (LONGEST + 1), {}),
        (gzip.compress(b" " * 30_000_000), {"Content_Encoding": "gzip"}),
    ],
    ids=["text", "string", "nested", "wrong type", "unknown coding", "too long", "bomb"],
)
def test_a_problem_that_is_none_is_the_callers(nodes: tuple[Server, Server], body: bytes, fields: dict[str, str]) -> None:
    nodes[0].part = refusal(409, body, **fields)
    with session_of(*nodes) as (session, _, url):
        response = session.get(f"{url}/", timeout=30, stream=True)
        assert response.status_code == 409
        response.close()
    assert [len(node.asked) for node in nodes] == [1, 0]


def test_a_refusal_that_has_no_end_is_not_read(nodes: tuple[Server, Server]) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(409)
        handler.send_header("Content-Type", "application/problem+json")
        handler.end_headers()  # without a length: the body lasts until the connection is closed
        handler.wfile.write(b"{")
        handler.rfile.read(1)
        handler.close_connection = True

    nodes[0].part = endless
    with session_of(*nodes) as (session, _, url), session.get(f"{url}/", timeout=30, stream=True) as response:
        assert response.status_code == 409


def test_a_refusal_that_comes_a_byte_now_and_then_is_given_up_after_the_deadline(nodes: tuple[Server, Server]) -> None:
    now_s = 0.0

    def dripping(handler: Handler) -> None:
        nonlocal now_s
        handler.send_response(503)
        handler.send_header("Content-Type", "application/problem+json")
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        now_s += DEADLINE_S + 1
        handler.wfile.write(b"{")
        handler.rfile.read(1)  # until the client closes the connection
        handler.close_connection = True

    nodes[0].part = dripping
    with session_of(*nodes, boot_s=lambda: now_s) as (session, _, url), pytest.raises(requests.ReadTimeout):
        session.get(f"{url}/", timeout=30)
    assert [len(node.asked) for node in nodes] == [1, 0]


def test_a_hint_of_hours_is_obeyed_up_to_a_limit(nodes: tuple[Server, Server]) -> None:
    waits_s: list[float] = []
    nodes[0].part = nodes[1].part = problem({**STALE, "retry_where": "any", "retry_after_ms": 86_400_000})
    with session_of(*nodes, sleep=waits_s.append) as (session, _, url):
        assert session.get(f"{url}/", timeout=30).status_code == 503
    assert waits_s == [LONGEST_WAIT_S] * 2


@pytest.mark.parametrize("told", [{"status": 200}, {"status": 503, "code": "of a later release"}])
def test_a_refusal_counts_whatever_its_status_and_code(nodes: tuple[Server, Server], told: dict[str, Any]) -> None:
    nodes[0].part = problem({**STALE, **told})
    with session_of(*nodes) as (session, _, url):
        assert session.post(f"{url}/", data=b"tea", timeout=30).content == b"well"


def test_nodes_that_redirect_to_each_other_end_at_the_limit_of_requests(nodes: tuple[Server, Server]) -> None:
    first, second = nodes
    first.part = lambda handler: handler.answer(307, b"", Location=f"{second.url}/")
    second.part = lambda handler: handler.answer(307, b"", Location=f"{first.url}/")
    with session_of(*nodes) as (session, _, url), pytest.raises(requests.TooManyRedirects):
        session.get(f"{url}/", timeout=30)
    assert sum(len(node.asked) for node in nodes) <= 2 * (session.max_redirects + 1)  # the adapter follows one each time


def test_a_cluster_that_refuses_each_new_session_is_not_flooded_with_log_ins(nodes: tuple[Server, Server]) -> None:
    nodes[0].part = nodes[1].part = problem(REVOKED)
    log_ins: list[None] = []
    with session_of(*nodes, reauthenticate=lambda: log_ins.append(None)) as (session, _, url):
        for _ in range(10):
            assert session.get(f"{url}/", timeout=30).status_code == 401
    assert len(log_ins) == LOG_INS_AT_ONCE
    assert sum(len(node.asked) for node in nodes) == 10 + LOG_INS_AT_ONCE
