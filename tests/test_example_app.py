"""The example app as a browser and as curl see it, in process; and the demo, as a newcomer runs it with ``make demo``."""

from __future__ import annotations

import io
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse

from example_app import app as example
from example_app import balancer, etcd, rolling, users
from example_app.control import Control
from example_app.drill import altered
from example_app.no_tls import NO_TLS
from example_app.processes import READY_WITHIN_S, ServerError, running
from example_app.servers import Server, cluster, new_secret
from example_app.story import StepError, Story
from example_app.visitor import Visitor

from . import warm
from .thinning import thinned
from .waiting import LIMIT_S

ROOT = Path(__file__).parent.parent
PAGE = {"Accept": "text/html"}
DEMO_WITHIN_S = 270
"""A drill takes 12 to 30 s on an idle machine."""
TOKEN = re.compile(r"hs1\.[\w-]{22}\.")


class Client(TestClient):
    """Logs in, and knows its token."""

    def log_in(self, username: str = "ada") -> None:
        response = self.post("/login", data={"username": username, "password": users.USERS[username].password})
        assert response.status_code == 200, response.text

    @property
    def token(self) -> str:
        return self.cookies["session"]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HA_SESSION_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HA_SESSION_SECRET_KEY", secrets.token_urlsafe(48))
    monkeypatch.setenv("HA_SESSION_PROTECT", "/private/*,/api/private/*")


@pytest.fixture(params=["asyncio", "trio"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    backend: Literal["asyncio", "trio"] = request.param
    with Client(example.make_app(), backend=backend, follow_redirects=False) as client:
        yield client


def as_thief(client: Client, token: str) -> Any:
    """Return the app's answer to a client with only this token."""
    client.cookies.clear()
    return client.get("/private/session", headers={"Cookie": f"session={token}"})


def test_a_room_lives_on_the_node_with_its_guests(client: Client) -> None:
    client.log_in()
    assert client.get("/private/room").json()["guests"] == []
    assert client.post("/private/room", data={"name": "<b>Bea</b>"}).json()["guests"] == ["<b>Bea</b>"]
    page = client.get("/private/room", headers=PAGE)
    assert "&lt;b&gt;Bea&lt;/b&gt;" in page.text
    assert client.post("/private/room", data={"name": "Cy"}, headers=PAGE).status_code == 303
    assert client.post("/private/room", data={"name": "x" * 41}).status_code == 422
    for number in range(2, 20):
        client.post("/private/room", data={"name": f"guest {number}"})
    assert client.post("/private/room", data={"name": "one more"}, headers=PAGE).status_code == 422
    client.post("/logout")
    assert client.get("/private/room").status_code == 401


# The open part


def test_a_visitor_is_shown_the_log_in_form_and_given_no_cookie(client: Client) -> None:
    response = client.get("/", headers=PAGE)
    assert response.status_code == 200
    assert 'action="/login"' in response.text
    assert "set-cookie" not in response.headers


def test_the_same_address_gives_a_page_to_a_browser_and_json_to_curl(client: Client) -> None:
    client.log_in()
    assert client.get("/private/session", headers=PAGE).headers["content-type"].startswith("text/html")
    for_curl = client.get("/private/session", headers={"Accept": "*/*"})
    assert for_curl.json()["subject"] == "ada"
    assert "Accept" in for_curl.headers["vary"]


def test_a_wrong_password_and_an_unknown_name_get_one_answer(client: Client) -> None:
    wrong = client.post("/login", data={"username": "ada", "password": "guess"})
    unknown = client.post("/login", data={"username": "nobody", "password": ""})
    assert wrong.status_code == unknown.status_code == 403
    assert wrong.content == unknown.content
    assert "set-cookie" not in wrong.headers


@pytest.mark.parametrize("body", ["", "[]", "{", '{"username": 7}', '{"username": "ada"}'])
def test_a_malformed_log_in_is_refused_without_a_crash(client: Client, body: str) -> None:
    response = client.post("/login", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 403


def test_a_log_in_may_be_json(client: Client) -> None:
    assert client.post("/login", json={"username": "ada", "password": "analytical"}).json() == {"subject": "ada"}


def test_a_browser_is_sent_on_after_the_log_in_and_greeted_by_name(client: Client) -> None:
    response = client.post("/login", data={"username": "ada", "password": "analytical"}, headers=PAGE)
    assert (response.status_code, response.headers["location"]) == (303, "/private/session")
    assert "Ada Lovelace" in client.get("/private/session", headers=PAGE).text
    assert "You are Ada Lovelace" in client.get("/", headers=PAGE).text


def test_a_bad_token_leaves_the_open_page_open_and_says_why(client: Client) -> None:
    client.log_in()
    bad = {"Cookie": f"session={altered(client.token, part=4)}"}
    client.cookies.clear()
    assert client.get("/", headers=bad).json() == {"subject": None, "problem": "token_invalid"}
    assert "token_invalid" in client.get("/", headers=bad | PAGE).text


# The protected part


@pytest.mark.parametrize("path", ["/private/session", "/private/devices", "/api/private/session", "/private/events", "/private/anything"])
def test_the_protected_part_refuses_a_visitor(client: Client, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()["code"]) == (401, "token_missing")


@pytest.mark.parametrize("path", ["/private/session", "/private/devices", "/api/private/session", "/private/events"])
def test_where_the_protection_is_forgotten_the_handlers_refuse(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.delenv("HA_SESSION_PROTECT")
    with TestClient(example.make_app()) as client:
        response = client.get(path)
    assert (response.status_code, response.json()["code"]) == (401, "token_missing")


def test_a_session_is_described_without_its_token_or_full_id(client: Client) -> None:
    client.log_in()
    for accept in ("application/json", "text/html"):
        text = client.get("/private/session", headers={"Accept": accept}).text
        assert not TOKEN.search(text)
        assert client.token.split(".")[1] not in text


def test_a_change_deep_inside_the_session_is_kept(client: Client) -> None:
    client.log_in()
    client.post("/private/notes", data={"text": "second"})
    client.post("/private/notes/1/toggle")
    client.post("/private/notes/0/delete")
    assert client.get("/private/session").json()["notes"] == [{"text": "second", "done": True}]
    assert client.post("/private/notes/1/toggle").status_code == 404


def test_a_note_with_markup_in_it_is_shown_as_text(client: Client) -> None:
    client.log_in()
    client.post("/private/notes", data={"text": '<img src=x onerror="alert(1)">{body}'})
    page = client.get("/private/session", headers=PAGE).text
    assert "<img" not in page
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;{body}" in page


def fill(client: Client) -> list[httpx2.Response]:
    client.log_in()
    return [client.post("/private/notes", data={"text": secrets.token_hex(100)}) for _ in range(25)]


def test_notes_that_outgrow_the_cookie_are_still_kept(client: Client) -> None:
    assert {answer.status_code for answer in fill(client)} == {200}
    assert len(client.token) < 1000
    assert len(client.get("/private/session").json()["notes"]) == 26


@pytest.fixture
def without_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HA_SESSION_DATA", "token")


@pytest.mark.usefixtures("without_a_store")
def test_without_a_store_a_full_session_says_so_and_keeps_its_data(client: Client) -> None:
    answers = fill(client)
    kept = [answer for answer in answers if answer.status_code == 200]
    assert 5 < len(kept) < 25
    assert "Delete a note" in answers[-1].json()["error"]
    assert len(client.get("/private/session").json()["notes"]) == len(kept) + 1


@pytest.mark.parametrize("text", ["", "   ", "x" * 201])
def test_an_empty_or_overlong_note_is_refused_on_the_page(client: Client, text: str) -> None:
    client.log_in()
    response = client.post("/private/notes", data={"text": text}, headers=PAGE)
    assert response.status_code == 422
    assert 'role="alert"' in response.text


def test_the_websocket_knows_its_user(client: Client) -> None:
    client.log_in()
    with client.websocket_connect("/private/ws") as socket:
        assert socket.receive_json() == {"subject": "ada"}
        socket.send_text("hello")
        assert socket.receive_json() == {"subject": "ada", "echo": "hello"}


def test_a_refused_websocket_gets_the_reason(client: Client) -> None:
    with pytest.raises(WebSocketDenialResponse) as refusal, client.websocket_connect("/private/ws"):
        pass  # pragma: no cover
    assert (refusal.value.status_code, refusal.value.json()["code"]) == (401, "token_missing")


# Leaving


def test_after_a_log_out_a_captured_cookie_is_refused(client: Client) -> None:
    client.log_in()
    captured = client.token
    assert client.post("/logout").status_code == 200
    assert "session" not in client.cookies
    assert as_thief(client, captured).json()["code"] == "session_revoked"


def test_a_log_out_without_a_session_is_no_fault(client: Client) -> None:
    assert client.post("/logout", headers=PAGE).headers["location"] == "/"


def test_a_log_out_everywhere_ends_every_session_of_the_subject_and_no_other(client: Client) -> None:
    client.log_in("grace")
    grace = client.token
    client.cookies.clear()
    client.log_in()
    phone = client.token
    client.cookies.clear()
    client.log_in()
    laptop = client.token
    assert client.post("/private/logout-everywhere").json()["acknowledged"] == "fenced"
    assert as_thief(client, phone).json()["code"] == "session_revoked"
    assert as_thief(client, laptop).json()["code"] == "session_revoked"
    assert as_thief(client, grace).status_code == 200


def test_a_log_out_everywhere_but_here_spares_this_session(client: Client) -> None:
    client.log_in()
    phone = client.token
    client.cookies.clear()
    client.log_in()
    assert client.post("/private/logout-everywhere", data={"keep": "this"}).status_code == 200
    assert client.get("/private/session").status_code == 200
    assert as_thief(client, phone).json()["code"] == "session_revoked"


# Devices


def test_a_node_that_records_no_log_ins_says_so_on_the_page(client: Client) -> None:
    client.log_in()
    page = client.get("/private/devices", headers=PAGE).text
    assert "does not record log-ins" in page
    assert "devices.js" not in page


def test_the_page_of_devices_shows_the_data_of_the_ready_made_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HA_SESSION_TRACK", "on")
    monkeypatch.setenv("HA_SESSION_DEVICES", "on")
    with Client(example.make_app()) as client:
        client.log_in()
        page = client.get("/private/devices", headers=PAGE).text
        routes = re.search('data-routes="([^"]+)"', page)
        assert routes is not None
        assert len(client.get(routes[1]).json()["sessions"]) == 1
        assert client.get("/static/devices.js").status_code == 200


# Browsers


@pytest.mark.parametrize("path", ["/login", "/logout", "/private/notes", "/private/logout-everywhere"])
def test_a_post_from_another_sites_page_is_refused(client: Client, path: str) -> None:
    client.log_in()
    form = {"username": "grace", "password": "nanosecond", "text": "planted"}
    assert client.post(path, data=form, headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.post(path, data=form, headers={"Origin": "null"}).status_code == 403
    assert client.get("/private/session").json()["subject"] == "ada"


def test_a_post_from_the_apps_own_page_is_taken(client: Client) -> None:
    client.log_in()
    assert client.post("/logout", headers={"Origin": "http://testserver"}).status_code == 200


def test_a_websocket_from_another_sites_page_is_refused(client: Client) -> None:
    client.log_in()
    with (
        pytest.raises(WebSocketDenialResponse) as refusal,
        client.websocket_connect("/private/ws", headers={"Origin": "https://evil.example"}),
    ):
        pass  # pragma: no cover
    assert refusal.value.status_code == 403


@pytest.mark.parametrize("path", ["/", "/private/session", "/private/devices"])
def test_the_pages_load_nothing_from_elsewhere_and_run_nothing_inline(client: Client, path: str) -> None:
    client.log_in()
    response = client.get(path, headers=PAGE)
    assert "default-src 'none'" in response.headers["content-security-policy"]
    linked = re.findall(r'(?:src|href)="([^"#]*)"', response.text)
    assert all(address.startswith(("/", "data:,")) and not address.startswith("//") for address in linked)
    assert not re.search(r"<style|style=|\son\w+=|<script(?! src=)", response.text)
    for address in linked:
        if address.startswith("/static/"):
            assert client.get(address).status_code == 200


# The demo


def test_a_step_that_fails_is_reported_and_ends_the_story() -> None:
    out = io.StringIO()
    story = Story(out)
    with story.step("what works") as step:
        step.told = "fine"
    with pytest.raises(StepError, match="what does not"), story.step("what does not"):
        raise ValueError("the reason")
    good, bad, reason = out.getvalue().splitlines()
    assert (good.split()[0], good.split()[-1]) == ("✓", "fine")
    assert bad.split() == ["✗", "what", "does", "not"]
    assert "the reason" in reason
    assert story.steps == 1


def test_on_a_terminal_the_row_of_a_step_is_updated_and_elsewhere_lines_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    terminal, plain = Terminal(), io.StringIO()
    for out in (terminal, plain):
        story = Story(out)
        story.chapter("A chapter")
        with story.step("a step") as step:
            under_way = out.getvalue()
            step.told = "fine"
    assert under_way == "\nA chapter\n"
    assert "\x1b" not in plain.getvalue()
    before, row = terminal.getvalue().split("\x1b[1A\r\x1b[2K")
    assert before.splitlines()[2].split() == ["step", "time", "outcome"]
    assert before.splitlines()[3] == "  - a step"
    assert (row.split()[0], row.split()[-1]) == ("✓", "fine")


def test_without_a_balancer_the_story_says_how_to_install_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancer, "program", lambda _kind: None)
    out = io.StringIO()
    rolling.tell(Story(out), [])
    assert balancer.HOW_TO_INSTALL in out.getvalue()
    assert balancer.drain_settings() == {}


WARM = """
import subprocess, sys
from example_app import __main__, drill, rolling, three_nodes
from tests import warm
subprocess.Popen = warm.popen
"""
"""Begins a demo whose servers start from a process that is warm. One demo in ``make test`` begins as a newcomer's does."""


@pytest.fixture
def warm_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", warm.popen)


def run_demo(*command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *(command or ("-m", "example_app"))],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def end(process: subprocess.Popen[str]) -> str:
    """End the demo in any case; return its remaining output."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.communicate(timeout=LIMIT_S)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


def listens(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/-/session/readyz", timeout=LIMIT_S, trust_env=False, verify=NO_TLS).status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.real
def test_the_demo_tells_its_whole_story_and_ends_well() -> None:
    demo = run_demo(PYTHONUTF8="1", KEEP="")
    try:
        story, _ = demo.communicate(timeout=DEMO_WITHIN_S)
    finally:
        end(demo)
    assert demo.returncode == 0, story
    for told in (
        *("ada logs in", "renewed", "event stream", "WebSocket", "log-out everywhere".capitalize()),
        *("401 token_missing", "401 token_invalid", "400 token_malformed", "400 token_too_large", "400 request_ambiguous"),
        *("401 session_idle_timeout", "401 session_expired", "401 session_revoked → reauthenticate"),
        *(
            "signed by a, answered by c",
            "Session-Revocation: fenced",
            "refused on c after",
            "closed by the node: 4401",
            "ended by the node",
        ),
        *(
            "but here",
            "kill -9",
            "waited until a's lease was over",
            "kill -STOP",
            "provisional",
            "503 state_stale → retry, other_node, after 250 ms",
            "by itself",
        ),
        "0 failed, nobody logged out" if balancer.installed() else balancer.HOW_TO_INSTALL,
    ):
        assert told in story
    assert re.search(r"All \d\d steps went as told, in \d+\.\d s\.$", story.strip())
    assert "✗" not in story
    assert not TOKEN.search(story)
    assert not any(listens(url) for url in re.findall(r"http://127\.0\.0\.1:\d+", story))


@pytest.mark.real
@pytest.mark.prove  # a demo has the same frame on each backend, and two others tell theirs in make test
def test_the_demo_of_one_machine_tells_its_story_and_ends_well() -> None:
    demo = run_demo(PYTHONUTF8="1", KEEP="", CLUSTER="sqlite")
    try:
        story, _ = demo.communicate(timeout=DEMO_WITHIN_S)
    finally:
        end(demo)
    assert demo.returncode == 0, story
    assert len(set(re.findall(r"uses it at (node-\w+)", story))) == 4
    for told in (
        "Session-Revocation: fenced",
        "refused by all workers at the next request",
        "closed: 4401",
        "killed (kill -9)",
        "grace's session, at all workers",
    ):
        assert told in story
    assert re.search(r"All \d\d steps went as told, in \d+\.\d s\.$", story.strip())
    assert not TOKEN.search(story)
    assert not any(listens(url) for url in re.findall(r"http://127\.0\.0\.1:\d+", story))


@pytest.mark.real
def test_a_drill_that_does_not_exist_is_reported() -> None:
    demo = run_demo(PYTHONUTF8="1", KEEP="", CLUSTER="oracle")
    story, _ = demo.communicate(timeout=LIMIT_S)
    assert (demo.returncode, "Choose peers, etcd or sqlite" in story) == (2, True)


@pytest.mark.real
def test_where_there_is_no_etcd_its_drill_says_how_to_install_it(tmp_path: Path) -> None:
    demo = run_demo(PYTHONUTF8="1", KEEP="", CLUSTER="etcd", PATH=str(tmp_path))
    story, _ = demo.communicate(timeout=LIMIT_S)
    assert demo.returncode == 2
    [line] = story.splitlines()
    assert "needs etcd" in line
    assert "apt-get install -y --no-install-recommends etcd-server" in line


@pytest.mark.real
@pytest.mark.skipif(not etcd.is_installed(), reason=f"needs etcd: {etcd.HOW_TO_INSTALL}")
@pytest.mark.parametrize("left_out", thinned(["nothing", "one node's part"], ["one node's part"]))  # the demo on peers tells it, too
def test_the_demo_on_etcd_tells_its_story_and_ends_well(left_out: str) -> None:
    leave_out = "" if left_out == "nothing" else "drill.tell = lambda *_: None\n"
    demo = run_demo("-c", f"{WARM}{leave_out}sys.exit(__main__.main())", PYTHONUTF8="1", KEEP="", CLUSTER="etcd")
    try:
        story, _ = demo.communicate(timeout=DEMO_WITHIN_S)
    finally:
        end(demo)
    assert demo.returncode == 0, story
    for told in (
        "three etcd members",
        "Session-Revocation: fenced",
        "The leader of etcd is killed (kill -9)",
        "c is cut off from etcd",
        "waited until c's lease was over",
        "503 state_stale → retry, other_node, after 250 ms",
        "mended: ada's session on c",
        "Two of three etcd members are killed (kill -9)",
        "provisional: in a's journal, to be replicated later",
        "started again: ada's session on c",
    ):
        assert told in story
    assert re.search(r"All \d\d steps went as told, in \d+\.\d s\.$", story.strip())
    assert not TOKEN.search(story)
    assert not any(listens(url) for url in re.findall(r"http://127\.0\.0\.1:\d+", story))


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "evil.example:80", "localhost.evil.example", ""])
def test_the_page_with_buttons_answers_to_no_name_but_that_of_this_machine(host: str) -> None:
    """A page of another site may have its name lead here, and is of the same origin then (DNS rebinding)."""
    client = TestClient(Control([], "tea-and-7-biscuits").app, base_url="http://127.0.0.1:8000")
    same_origin = {"Host": host, "Sec-Fetch-Site": "same-origin"}
    assert [client.get(path, headers=same_origin).status_code for path in ("/", "/nodes", "/ui/events")] == [400] * 3
    assert client.post("/nodes/a/kill", headers=same_origin).status_code == 400
    for own in ("127.0.0.1:8000", "localhost:8000"):
        assert client.get("/nodes", headers={"Host": own}).json() == []


@pytest.mark.real
def test_keep_leaves_all_nodes_up_until_the_demo_is_stopped() -> None:
    demo = run_demo("-c", QUICK_DEMO, PYTHONUTF8="1", KEEP="1")
    try:
        assert demo.stdout is not None
        lines: list[str] = []
        while not lines or "node c, process" not in lines[-1]:
            lines.append(next(demo.stdout))
        urls = [line.partition("/-/session/livez")[0].split()[-1] for line in lines if "livez" in line]
        assert len(urls) == 3
        assert all(map(listens, urls))
    finally:
        end(demo)
    assert not any(map(listens, urls))


QUICK_DEMO = f"""
{WARM}
drill.tell = three_nodes.tell = rolling.tell = lambda *_: None
sys.exit(__main__.main())
"""

FAILING_DEMO = f"""
{WARM}
def freeze_and_fail(story, node, hasty):
    node.freeze()
    print(node.pid)
    with story.step("what cannot be"):
        raise ValueError("the reason")
drill.tell = freeze_and_fail
sys.exit(__main__.main())
"""


@pytest.mark.real
def test_a_demo_that_fails_says_so_and_leaves_no_process_behind_not_even_a_frozen_one() -> None:
    demo = run_demo("-c", FAILING_DEMO, PYTHONUTF8="1")
    try:
        story, _ = demo.communicate(timeout=LIMIT_S)
    finally:
        end(demo)
    assert demo.returncode == 1, story
    assert "✗ what cannot be" in story
    assert "the reason" in story
    pid = next(int(line) for line in story.splitlines() if line.isdigit())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.real
@pytest.mark.usefixtures("warm_servers")
def test_the_page_says_which_node_answers_and_which_signed_and_leads_to_the_others(tmp_path: Path) -> None:
    nodes = cluster("abc", tmp_path, {"SECRET_KEY": new_secret()})
    a, b, _ = nodes
    with running(*nodes), Visitor(a.url) as ada, Visitor(b.url) as on_b:
        ada.log_in("ada", "analytical")
        on_b.token = ada.token
        page = on_b.get("/private/session", **PAGE).text
    assert '<span class="badge">node b</span>' in page
    assert "<dd>node <code>a</code></dd>" in page
    assert "<dd>node <code>b</code></dd>" in page
    assert [f'href="{node.url}/private/session"' in page for node in nodes] == [True, False, True]
    assert "Log out everywhere but here" in page


@pytest.mark.real
@pytest.mark.usefixtures("warm_servers")
def test_a_server_that_cannot_start_says_why_and_is_not_left_behind(tmp_path: Path) -> None:
    good = Server("good", tmp_path, {"SECRET_KEY": new_secret()})
    bad = Server("bad", tmp_path, {"SECRET_KEY": "too-short", "IDLE_TIMEOUT": "soon"})
    began = time.monotonic()
    with pytest.raises(ServerError, match="HA_SESSION_IDLE_TIMEOUT"), running(good, bad):
        pass  # pragma: no cover
    assert (good.pid, bad.pid) == (None, None)
    assert time.monotonic() - began < READY_WITHIN_S  # not waited for, once it had ended


@pytest.mark.real
@pytest.mark.usefixtures("warm_servers")
def test_a_frozen_server_is_ended_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("example_app.processes.END_WITHIN_S", 0.2)
    server = Server("a", tmp_path, {"SECRET_KEY": new_secret()})
    with running(server):
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
    assert server.pid is None
