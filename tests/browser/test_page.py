"""The page for operators in headless Chromium: three real nodes, narrow and wide, dark and light, with hostile names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from example_app.control import Control
from example_app.servers import Server
from ha_session_mw import SessionManager, SessionMiddleware, Settings, get_session
from ha_session_mw.ops.page import answer, document, event

from ..asgi.driver import SECRET
from ..operators import listeners, served
from .devtools import CHROMIUM, Tab, tab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install -y --no-install-recommends chromium"),
]

PASSWORD = "tea-and-7-biscuits"
SIZES = [(360, False), (360, True), (1600, False), (1600, True)]

FITS = "document.documentElement.scrollWidth <= innerWidth"
# The least contrast of any text with what is painted behind it (WCAG 2.2, 1.4.3).
LEAST_CONTRAST = """
(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (one) => one.slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const found = rgb(getComputedStyle(one).backgroundColor);
      if (found.length < 4 || found[3] === 1) return found;
    }
  };
  const texts = [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() && !one.matches(":disabled")
    && [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
  const contrast = (one) => {
    const [low, high] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  return Math.min(...texts.map(contrast));
})()
"""


async def log_in(request: Request) -> Response:
    get_session(request).login(request.query_params["subject"])
    return PlainTextResponse("in")


async def log_out(request: Request) -> Response:
    get_session(request).clear()
    return PlainTextResponse("out")


def node(name: str, url: str, urls: list[str]) -> SessionMiddleware:
    routes = [Route("/log-in", log_in), Route("/log-out", log_out), Route("/private", lambda _: PlainTextResponse("well"))]
    settings = Settings(
        secret_key=SECRET,
        cluster="peers://",
        peers=urls,
        advertise_url=url,
        node_id=name,
        protect=("/private",),
        ui="on",
        ui_password=PASSWORD,
    )
    return SessionMiddleware(Starlette(routes=routes), manager=SessionManager(settings))


def log_out_by(one: str, *, subject: str) -> None:
    """Log somebody in and out there, and come back with the old token."""
    with httpx2.Client(base_url=one, trust_env=False) as client:
        client.get("/log-in", params={"subject": subject}).raise_for_status()
        client.get("/private").raise_for_status()
        kept = client.cookies["session"]
        client.get("/log-out").raise_for_status()
        client.cookies.set("session", kept)
        assert client.get("/private").status_code == 401


def enter(page: Tab, url: str, password: str = PASSWORD) -> None:
    page.open(f"{url}/-/session/ui")
    page.ask(f"document.querySelector('input').value = {json.dumps(password)}; document.querySelector('button').click()")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(tmp_path_factory.mktemp("chromium")) as found:
        yield found


def text_of(page: Tab, selector: str) -> str:
    return str(page.ask(f"document.querySelector({json.dumps(selector)}).innerText"))


def looks_well(page: Tab, folder: Path, name: str) -> None:
    """Whatever the width and the colours, all text is readable, nothing lies outside the window, and nothing was blocked."""
    for width, dark in SIZES:
        page.size(width, dark=dark)
        assert page.ask(FITS), width
        assert page.ask(LEAST_CONTRAST) >= 4.5, (width, dark)
        (folder / f"{name}-{width}-{'dark' if dark else 'light'}.png").write_bytes(page.picture())
    assert page.faults == []


@pytest.mark.prove
def test_three_nodes_are_seen_at_work(page: Tab, tmp_path: Path) -> None:
    bound = listeners(3)
    urls = [url for url, _ in bound]
    apps = {one: node(name, url, urls) for name, (url, one) in zip("abc", bound, strict=True)}
    with served(apps) as servers:
        enter(page, urls[0], "wrong")
        page.until("document.querySelector('.fault')?.innerText.includes('wrong')")
        looks_well(page, tmp_path, "log-in")
        enter(page, urls[0])
        page.until("[...document.querySelectorAll('.state')].filter((one) => one.innerText.endsWith('ready')).length === 3")
        for number in range(3):
            log_out_by(urls[1 + number % 2], subject=f"subject {number}")
        page.until("document.querySelectorAll('#log-outs tbody tr').length === 3")
        page.until("!document.querySelector('#log-outs tbody').innerText.includes('not for')")
        page.until("document.querySelector('#log-outs tbody').innerText.split('fenced after').length === 4")
        page.size(1600)
        table = text_of(page, "#log-outs tbody")
        assert table.count("fenced after") == 3
        assert table.count("made it") == 3
        assert table.count("ms") >= 9  # of each: the acknowledgement, and the two others
        assert "session_revoked" in text_of(page, "#errors")
        assert "✓" in text_of(page, "#verdict")
        assert "subject " not in page.ask("document.body.innerText")
        looks_well(page, tmp_path, "well")
        the_demo_has_buttons(page, tmp_path, urls)
        page.open(f"{urls[0]}/-/session/ui")
        page.until("document.querySelectorAll('#log-outs tbody tr').length === 3")
        servers[bound[2][1]].should_exit = True
        page.until(
            "document.querySelector('#verdict').innerText.includes('▲') || document.querySelector('#verdict').innerText.includes('■')"
        )
        assert urls[2] in text_of(page, "#members") or "c" in text_of(page, "#verdict")
        looks_well(page, tmp_path, "ill")
        page.ask("document.querySelector('#log-out button').click()")
        page.until("document.querySelector('#password')")
        page.open("about:blank")


def test_a_worker_that_hears_of_no_other_says_that_it_is_one_of_them(page: Tab, tmp_path: Path) -> None:
    """Workers that share a file do not know each other, so its figures are not those of all."""
    [(url, bound)] = listeners(1)
    settings = Settings(secret_key=SECRET, cluster=f"sqlite://{tmp_path}/log.db", node_id="worker-1234abcd", ui="on", ui_password=PASSWORD)
    with served({bound: SessionMiddleware(Starlette(), settings=settings)}):
        enter(page, url)
        page.until("document.querySelectorAll('.member').length === 1 && document.querySelector('#verdict').innerText.includes('well')")
        page.size(1600)
        assert "one worker" in text_of(page, "#exposed")
        assert "cannot be asked" not in text_of(page, "#members")
        assert text_of(page, "#verdict").split() == ["✓", "This", "worker", "is", "well."]
        looks_well(page, tmp_path, "worker")
        page.open("about:blank")


class Recorded(Server):
    """A node of the demo that notes what is done to it."""

    def __init__(self, name: str, folder: Path, url: str, done: list[str]) -> None:
        super().__init__(name, folder, {}, port=int(url.rpartition(":")[2]))
        self._done = done

    def kill(self) -> None:
        self._done.append(f"kill {self.name}")

    def freeze(self) -> None:
        self._done.append(f"freeze {self.name}")

    def heal(self) -> None:
        self._done.append(f"heal {self.name}")

    def terminate(self) -> None:
        self._done.append(f"drain {self.name}")


def the_demo_has_buttons(page: Tab, folder: Path, urls: list[str]) -> None:
    """The page of the demo's own process passes on the news of a node, and acts on the nodes. Another site's page cannot."""
    done: list[str] = []
    control = Control([Recorded(name, folder, url, done) for name, url in zip("abc", urls, strict=True)], PASSWORD)
    [(url, bound)] = listeners(1)
    with served({bound: control.app}):
        page.open(f"{url}/")
        page.until("document.querySelectorAll('.actions button').length === 12")
        for act in ("Kill a", "Freeze b", "Heal b", "Drain c"):
            page.ask(f"document.querySelector('[aria-label=\"{act}\"]').click()")
            page.until("!document.querySelector('.actions button:disabled')")
        assert done == ["kill a", "freeze b", "heal b", "drain c"]
        looks_well(page, folder, "demo")
        for headers in ({}, {"origin": "http://evil.test"}, {"sec-fetch-site": "cross-site"}):
            assert httpx2.post(f"{url}/nodes/a/kill", headers=headers, trust_env=False).status_code == 403
        assert httpx2.post(f"{url}/nodes/a/burn", headers={"origin": url}, trust_env=False).status_code == 404
        assert len(done) == 4
        page.open("about:blank")


HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>\"'&\u202e" + "long" * 40


async def told(scope: Any, _: Any, send: Any) -> None:
    """Serves the page, with news that a test has made. The first part of the path is their name."""
    if scope["type"] != "http":
        return
    if not scope["path"].endswith("/events"):
        html, policy = document()
        fields = [(b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", policy.encode())]
        await answer(send, 200, html, fields)
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send(event(surveys[scope["path"].split("/")[1]]()))
    await send({"type": "http.response.body", "body": b""})


def survey_of_many_nodes() -> dict[str, Any]:
    """Thirty nodes of etcd://. The third is silent, and the twentieth has not read the newest log-out."""
    well = {
        "freshness_age_s": 0.1, "sync_lag": {"count": 3, "p50_s": 0.005, "p99_s": 0.05}, "accepted": 9, "cache_hits": 1, "cache_misses": 0,
        "cached_tokens": 1, "revocation_entries": 1, "provisional_log_outs": 0, "accepts_after_revocation": 0,
        "logouts_by_infrastructure": 0, "told_log_outs": True,
    }  # fmt: skip
    seen = {"heard_ago_s": 0.2, "ahead_s": 0.0, "freshness_limit_s": 5.0, "release": "0.1.0", "here": False, "failure": None}
    names = [f"shop-{number}-7d9c6b5f4-x2x" for number in range(30)]
    members = [{"member": name, "url": f"https://{name}.shop.svc:8443", "state": "ready", "status": well, **seen} for name in names]
    members[3] |= {"state": "not heard", "status": None, "heard_ago_s": 30.0}
    nodes = {name: {"after_s": number / 1000, "error_s": 0.001} for number, name in enumerate(names) if number != 20}
    log_out = {"key": "x", "reach": "session", "name": "AAECAwQFBgcICQoL", "ago_s": 1.0, "by": names[0], "mode": "fenced"}
    return {
        "node": names[0],
        "cluster": "etcd",
        "draining": False,
        "members": members,
        "log_outs": [{**log_out, "acknowledged_s": 0.04, "nodes": nodes}],
        "errors": [],
    }


def survey_of_hostile_names() -> dict[str, Any]:
    status = {
        "freshness_age_s": None, "sync_lag": {"count": 3, "p50_s": 0.005, "p99_s": None}, "accepted": 0, "cache_hits": 1,
        "cache_misses": 0, "cached_tokens": 1, "revocation_entries": 1, "provisional_log_outs": 1, "accepts_after_revocation": 0,
        "logouts_by_infrastructure": 0, "not_ready_because": HOSTILE, "exposed_because": HOSTILE, "restarted_tasks": {HOSTILE: 1},
        "told_log_outs": True,
    }  # fmt: skip
    seen = {"heard_ago_s": 0.5, "ahead_s": -3.0, "freshness_limit_s": 5.0, "release": HOSTILE, "here": False}
    members = [
        {"member": HOSTILE, "url": HOSTILE, "state": HOSTILE, "status": status, "failure": None, **seen},
        {"member": "b", "url": HOSTILE, "state": "gone", "status": None, "failure": HOSTILE, **seen},
    ]
    log_out = {"key": HOSTILE, "reach": HOSTILE, "name": HOSTILE, "ago_s": 1.0, "by": HOSTILE, "mode": HOSTILE, "acknowledged_s": 0.01}
    last = {"at": HOSTILE, "node": HOSTILE, "instance": HOSTILE}
    error = {"code": HOSTILE, "turn": HOSTILE, "total": 1, "per_minute": {"1m": 1.0, "5m": 1.0, "15m": 1.0}, "last": last}
    return {
        "node": HOSTILE,
        "cluster": HOSTILE,
        "draining": False,
        "members": members,
        "log_outs": [
            {
                **log_out,
                "nodes": {
                    HOSTILE: {"after_s": 0.0, "error_s": 0.0},
                    "b": {"after_s": 0.1, "error_s": 0.001},
                    "c": {"after_s": 0.02, "error_s": 0.001},
                },
            }
        ],
        "errors": [error],
    }


surveys = {"hostile": survey_of_hostile_names, "many": survey_of_many_nodes}


@contextmanager
def serving_made_up_news() -> Iterator[str]:
    [(url, bound)] = listeners(1)
    with served({bound: told}, lifespan="off"):
        yield url


def test_hostile_texts_stay_texts(page: Tab, tmp_path: Path) -> None:
    page.faults.clear()
    with serving_made_up_news() as url:
        page.open(f"{url}/hostile/ui")
        page.until("document.querySelectorAll('#errors tbody tr').length")
        assert page.ask("window.hacked") is None
        assert "median 100 ms" in text_of(page, "#tiles")  # of b and c; the node that made the log-out took no time
        assert page.ask("document.querySelectorAll('img').length + document.querySelectorAll('script').length") == 2  # its own scripts
        assert page.ask("document.body.innerText").count("onerror") >= 10
        looks_well(page, tmp_path, "hostile")
        page.open("about:blank")


def test_a_cluster_of_many_nodes_is_seen_at_a_glance(page: Tab, tmp_path: Path) -> None:
    """No node is left out, those in trouble come first, and no table has a column for each."""
    page.size(1280)
    with serving_made_up_news() as url:
        page.open(f"{url}/many/ui")
        page.until("document.querySelectorAll('.member').length === 30")
        names = [text.split("-")[1] for text in page.ask("[...document.querySelectorAll('.name')].map((one) => one.innerText)")]
        assert names[:4] == ["3", "0", "1", "2"]
        row = text_of(page, "#log-outs tbody")
        assert "▲ 29 of 30 nodes" in row  # the silent one has read it before it fell silent
        assert "29 ms shop-29" in row
        assert page.ask("document.querySelector('#log-outs').scrollWidth <= document.querySelector('#log-outs').parentElement.clientWidth")
        looks_well(page, tmp_path, "many")
        page.open("about:blank")


def test_news_that_are_old_look_so_and_the_page_says_where_to_look(page: Tab) -> None:
    page.size(1600)
    with serving_made_up_news() as url:
        page.open(f"{url}/hostile/ui")
        page.ask("performance.now = () => 0")  # else they may be old by now, on a busy machine
        page.until("document.querySelectorAll('.member').length === 2 && !('old' in document.body.dataset)")
    page.ask("performance.now = () => 1e9")  # as if time had passed since
    page.until("'old' in document.body.dataset")
    assert "Another member's page" in text_of(page, "#said")
    assert page.ask("Number(getComputedStyle(document.querySelector('#members').parentElement).opacity)") < 1
    assert page.ask("getComputedStyle(document.querySelector('#verdict')).opacity") == "1"
