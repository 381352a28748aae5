"""A real nginx as a shared cache in front of the middleware: no client's token comes out of it to another client."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest

from ha_session_mw import SessionManager, Settings
from ha_session_mw.testing import ManualClock, mint_session

from ..waiting import end, until
from .driver import SECRET

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("nginx")]

ROOT = Path(__file__).parents[2]

APP = """
from ha_session_mw import SessionMiddleware, get_session

ANSWERS = {
    "/logo.svg": [(b"cache-control", b"public, max-age=600, immutable")],
    "/for-nginx": [(b"x-accel-expires", b"600")],
    "/news": [(b"cache-control", b"public, max-age=600")],
    "/account": [(b"cache-control", b"public, max-age=600")],
    "/cdn/account": [(b"x-accel-expires", b"600")],
}

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] not in ("/logo.svg", "/for-nginx"):
        get_session(scope).get("read")
    if scope["path"] == "/log-in":
        get_session(scope).login("ada", transport="bearer")
    await send({"type": "http.response.start", "status": 200, "headers": ANSWERS.get(scope["path"], [])})
    await send({"type": "http.response.body", "body": scope["path"].encode()})

app = SessionMiddleware(app)
"""

NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=all:1m;
    server {{
        listen unix:{folder}/n;
        location / {{
            proxy_pass http://unix:{folder}/s:;
            proxy_cache all;
            proxy_cache_valid any 10m;  # careless: stores also what says nothing about caching
            add_header x-cache $upstream_cache_status always;
        }}
    }}
}}
"""


def listens(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        return client.connect_ex(str(path)) == 0


@contextmanager
def process(log: Path, command: list[str], path: Path, environ: dict[str, str] | None = None) -> Iterator[None]:
    """A server that listens at the path of its socket."""
    with log.open("wb") as output:
        running = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
        try:
            until(lambda: listens(path), "the server listens")
            yield
        finally:
            end(running)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an app behind an nginx that caches."""
    if (command := shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")) is None:
        pytest.skip("needs nginx: apt-get install -y --no-install-recommends nginx")
    folder = tmp_path_factory.mktemp("n")
    (folder / "served.py").write_text(APP)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    outside = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
    environ = {
        **outside,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "HA_SESSION_SECRET_KEY": SECRET,
        "HA_SESSION_PROTECT": "/account,/cdn/account",
    }
    uvicorn = [sys.executable, "-m", "uvicorn", "served:app", "--uds", str(folder / "s")]
    nginx = [command, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with process(folder / "uvicorn.log", uvicorn, folder / "s", environ), process(folder / "nginx.log", nginx, folder / "n"):
        yield folder


class Client:
    """A client of the cache, which sends the same credentials each time, and keeps no cookies."""

    def __init__(self, folder: Path, **headers: str) -> None:
        self._headers = headers
        self._transport = httpx2.HTTPTransport(uds=str(folder / "n"))

    def get(self, path: str) -> tuple[str, httpx2.Response]:
        """Whether the cache answered, and the answer."""
        with httpx2.Client(transport=self._transport) as client:
            answer = client.get(f"http://testserver{path}", headers=self._headers)
        assert answer.status_code == 200, (path, answer.text)
        assert answer.text == path.partition("?")[0]
        return answer.headers["x-cache"], answer


def token_of(subject: str, *, age_s: float) -> str:
    """A token of the app's. It is due for renewal when half of its idle timeout of 30 minutes is over."""
    return mint_session(SessionManager(Settings(secret_key=SECRET), clock=ManualClock(wall_s=time.time() - age_s)), subject)


def sends(transport: str, token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if transport == "bearer" else {"Cookie": f"session={token}"}


def hands_out(answer: httpx2.Response) -> bool:
    """Whether an answer has a token in it, wherever that is."""
    return "set-cookie" in answer.headers or "session-token" in answer.headers or "hs1." in str(answer.headers)


DUE_S = 20 * 60


@pytest.mark.parametrize("transport", ["bearer", "cookie"])
@pytest.mark.parametrize("path", ["/logo.svg", "/for-nginx", "/news"])
def test_a_public_page_is_cached_without_the_token_that_was_due(folder: Path, path: str, transport: str) -> None:
    path = f"{path}?{transport}"
    due = sends(transport, token_of("ada", age_s=DUE_S))
    cached, first = Client(folder, **due).get(path)
    assert cached == "MISS"
    assert not hands_out(first)

    cached, again = Client(folder, **due).get(path)
    assert cached == "HIT"
    assert not hands_out(again)

    cached, other = Client(folder).get(path)
    assert cached == ("MISS" if path.startswith("/news") else "HIT"), "an answer that read the session is another one for each token"
    assert not hands_out(other)


@pytest.mark.parametrize("transport", ["bearer", "cookie"])
@pytest.mark.parametrize("path", ["/account", "/cdn/account"])
def test_a_protected_page_is_never_cached(folder: Path, path: str, transport: str) -> None:
    path = f"{path}?{transport}"
    for age_s, renewed in ((0, False), (DUE_S, True)):
        client = Client(folder, **sends(transport, token_of("ada", age_s=age_s)))
        for _ in range(2):
            cached, answer = client.get(path)
            assert (cached, hands_out(answer)) == ("MISS", renewed)


@pytest.mark.parametrize("transport", ["bearer", "cookie"])
def test_a_careless_cache_does_not_store_the_answer_that_renews(folder: Path, transport: str) -> None:
    path = f"/says-nothing?{transport}"
    for age_s, expected in ((DUE_S, ["MISS", "MISS"]), (0, ["MISS", "HIT"])):
        client = Client(folder, **sends(transport, token_of("ada", age_s=age_s)))
        seen = [client.get(path) for _ in range(2)]
        assert [cached for cached, _ in seen] == expected
        assert all(hands_out(answer) == (age_s == DUE_S) for _, answer in seen)
        assert not hands_out(Client(folder).get(path)[1])


def test_the_token_of_a_log_in_goes_to_its_client_alone(folder: Path) -> None:
    seen = [Client(folder).get("/log-in") for _ in range(2)]
    assert [cached for cached, _ in seen] == ["MISS", "MISS"]
    tokens = {answer.headers["session-token"] for _, answer in seen}
    assert len(tokens) == 2
