"""The page for operators: nothing is there without its password, and it shows what each member tells."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from starlette.types import Message

from ha_session_mw import Settings
from ha_session_mw._core.quorum.membership import MARK
from ha_session_mw._node.recent_log_outs import RecentLogOuts
from ha_session_mw._node.status import status_of
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny, SessionId
from ha_session_mw.ops import survey
from ha_session_mw.ops.credential import COOKIE, LIFE_S, TRIES_AT_ONCE
from ha_session_mw.ops.lost_members import LostMembers
from ha_session_mw.ops.page import EVERY_S, MOST_READERS, document, log_in_form
from ha_session_mw.ops.survey import ASK_LIMIT_S
from ha_session_mw.testing import Cluster, ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

from ..asgi.driver import OTHER_SECRET, SECRET, Answer, Header, Node, call, scope_of
from ..backends.etcd.fake_cluster import EtcdCluster

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

PASSWORD = "tea-and-7-biscuits"
ON: dict[str, Any] = {"ui": "on", "ui_password": PASSWORD}
SAME: Header = (b"sec-fetch-site", b"same-origin")
UI = "/-/session/ui"


async def ask(app: Any, path: str, method: str = "GET", headers: Iterable[Header] = (), body: bytes = b"", **scope: Any) -> Answer:
    return await call(app, scope_of("http", path, method=method, headers=headers, **scope), [{"type": "http.request", "body": body}])


async def log_in(app: Any, password: str = PASSWORD, headers: Iterable[Header] = (SAME,), **scope: Any) -> Answer:
    return await ask(app, f"{UI}/log-in", "POST", headers, b"password=" + quote(password).encode(), **scope)


def cookie_of(answer: Answer) -> Header:
    [field] = answer.cookies(COOKIE)
    return b"cookie", field.partition(";")[0].encode()


async def cookie(app: Any) -> Header:
    return cookie_of(await log_in(app))


def seen(answer: Answer) -> tuple[int, list[Header], bytes]:
    return answer.status, answer.start["headers"], answer.body


class Reader:
    """A browser that reads the news until it leaves."""

    def __init__(self, app: Any, cookie: Header) -> None:
        self._app = app
        self._scope = scope_of("http", f"{UI}/events", headers=[cookie])
        self._left = anyio.Event()
        self.answer = Answer()
        self.has_ended = False

    @property
    def news(self) -> list[dict[str, Any]]:
        return [json.loads(message["body"].removeprefix(b"data: ")) for message in self.answer.messages[1:] if message["body"]]

    async def read(self) -> None:
        async def receive() -> Message:
            await self._left.wait()
            return {"type": "http.disconnect"}

        await self._app(self._scope, receive, self.answer.send)
        self.has_ended = True

    def leave(self) -> None:
        self._left.set()


@asynccontextmanager
async def cluster(**settings: Any) -> AsyncIterator[Cluster]:
    async with Cluster(**{**ON, **settings}) as found:
        await found.ready()
        yield found


async def news(found: Cluster, app: Any) -> dict[str, Any]:
    """The first news of a new reader."""
    reader = Reader(app, await cookie(app))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.read)
        await found.wait_until(lambda: bool(reader.news))
        reader.leave()
    return reader.news[0]


# What is there without the password


@pytest.mark.parametrize("settings", [{}, {"ui": "off", "ui_password": PASSWORD}])
async def test_it_is_off_by_default(settings: dict[str, Any]) -> None:
    app = Node(**settings).app
    missing = await ask(app, "/-/session/no-such-page")
    for path in ("", "/", "/events", "/log-in", "/log-out"):
        for method in ("GET", "POST"):
            assert seen(await ask(app, UI + path, method, [SAME])) == seen(missing)
    assert missing.status == 404


async def test_without_its_cookie_there_is_the_form_and_nothing_else() -> None:
    app = Node(**ON).app
    form = await ask(app, UI)
    assert (form.status, form.body) == (200, log_in_form()[0])
    assert b"survey" not in form.body
    missing = await ask(app, "/-/session/no-such-page")
    for path in ("/", "/events", "/log-out", "/page.js"):
        for method in ("GET", "POST"):
            assert seen(await ask(app, UI + path, method, [SAME])) == seen(missing)
    for method in ("POST", "PUT", "DELETE"):
        assert seen(await ask(app, UI, method, [SAME])) == seen(missing)


async def test_a_log_in_opens_the_page_for_an_hour() -> None:
    node = Node(**ON)
    answer = await log_in(node.app)
    assert (answer.status, answer.header("location")) == (303, "../ui")
    opened = cookie_of(answer)
    page = await ask(node.app, UI, headers=[opened])
    assert page.body == document()[0]
    assert (await ask(node.app, UI, "HEAD", [opened])).body == b""
    node.clock.advance(LIFE_S + 1)
    assert (await ask(node.app, UI, headers=[opened])).body == log_in_form()[0]


async def test_the_cookie_is_for_this_folder_and_for_no_script() -> None:
    app = Node(**ON).app
    [plain] = (await log_in(app)).cookies(COOKIE)
    [secure] = (await log_in(app, scheme="https")).cookies(COOKIE)
    for field in (plain, secure):
        attributes = {part.strip() for part in field.split(";")[1:]}
        # Without a Path it is for the folder of /-/session/ui/log-in, behind any prefix that a proxy takes away.
        assert attributes - {"Secure"} == {"HttpOnly", "SameSite=Strict", f"Max-Age={LIFE_S:.0f}"}
    assert ("Secure" in secure, "Secure" in plain) == (True, False)
    [gone] = (await ask(app, f"{UI}/log-out", "POST", [SAME, await cookie(app)])).cookies(COOKIE)
    assert gone.startswith(f"{COOKIE}=; Max-Age=0;")


@pytest.mark.parametrize("password", ["", "wrong", PASSWORD[:-1], PASSWORD + "x", PASSWORD.upper(), "\ud800", "é" * 4000])
async def test_another_password_opens_nothing(password: str) -> None:
    app = Node(**ON).app
    answer = await ask(app, f"{UI}/log-in", "POST", [SAME], b"password=" + quote(password, errors="surrogatepass").encode())
    assert answer.status in (400, 403)
    assert answer.cookies(COOKIE) == []


async def test_a_long_password_counts_whole() -> None:
    password = PASSWORD * 100
    app = Node(ui="on", ui_password=password).app
    assert (await log_in(app, password)).status == 303
    assert (await log_in(app, password[:-1])).status == 403


@pytest.mark.parametrize("body", [b"", b"nonsense", b"a=b", b"password", b"&".join([b"a=b"] * 9), b"\xff\x00", b"x" * 5000])
async def test_a_strange_form_opens_nothing(body: bytes) -> None:
    answer = await ask(Node(**ON).app, f"{UI}/log-in", "POST", [SAME], body)
    assert answer.status in (400, 403)
    assert answer.cookies(COOKIE) == []


async def test_nobody_guesses_fast() -> None:
    node = Node(**ON)
    answers = [(await log_in(node.app, "wrong-and-wrong-again")).status for _ in range(int(TRIES_AT_ONCE) + 1)]
    assert answers == [403] * int(TRIES_AT_ONCE) + [429]
    assert (await log_in(node.app)).status == 429  # else the answer would tell which password is the true one
    node.clock.advance(2)
    assert (await log_in(node.app)).status == 303


STRANGE_COOKIES = [
    "",
    ".",
    "..",
    "a.b.c",
    "9999999999",
    "9" * 5000,
    "²³.x.y",
    "-5.x.y",
    "99999999999.{kid}.{signature}",
    "{end}.{kid}.",
    "{end}.{kid}.é",
]


@pytest.mark.parametrize("strange", STRANGE_COOKIES)
async def test_a_made_up_cookie_opens_nothing(strange: str) -> None:
    app = Node(**ON).app
    end, kid, signature = (await cookie(app))[1].decode().partition("=")[2].split(".")
    value = strange.format(end=end, kid=kid, signature=signature)
    made_up = (b"cookie", f"{COOKIE}={value}".encode("latin-1"))
    assert (await ask(app, UI, headers=[made_up])).body == log_in_form()[0]
    true = (b"cookie", f"x=y; {COOKIE}={value}; {COOKIE}={end}.{kid}.{signature}".encode("latin-1"))
    assert (await ask(app, UI, headers=[true])).body == document()[0]


async def test_a_cookie_of_another_secret_or_password_or_for_other_things_opens_nothing() -> None:
    app = Node(**ON).app
    for settings in ({"secret_key": OTHER_SECRET}, {"ui_password": PASSWORD + "!"}):
        stranger = await cookie_of_another(settings)
        assert (await ask(app, UI, headers=[stranger])).body == log_in_form()[0]
    visitor = await Node(**ON).logged_in("ada")
    assert (await ask(app, UI, headers=[(b"cookie", f"{COOKIE}={visitor.token}".encode())])).body == log_in_form()[0]


async def cookie_of_another(settings: dict[str, Any]) -> Header:
    other = Node(**{**ON, **settings})
    return cookie_of(await log_in(other.app, settings.get("ui_password", PASSWORD)))


async def test_a_log_in_counts_on_each_node() -> None:
    async with cluster() as found:
        one, other, _ = found.nodes
        assert (await ask(other.middleware, UI, headers=[await cookie(one.middleware)])).body == document()[0]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"sec-fetch-site", b"cross-site")],
        [(b"sec-fetch-site", b"same-site")],
        [(b"sec-fetch-site", b"none"), (b"origin", b"http://testserver")],
        [(b"origin", b"null")],
        [(b"origin", b"http://evil.test")],
        [(b"origin", b"http://testserver.evil.test")],
        [(b"origin", b"http://[")],
    ],
)
async def test_a_form_of_another_site_changes_nothing(headers: list[Header]) -> None:
    app = Node(**ON).app
    answer = await log_in(app, headers=headers)
    assert (answer.status, answer.cookies(COOKIE)) == (403, [])
    assert (await ask(app, f"{UI}/log-out", "POST", [*headers, await cookie(app)])).cookies(COOKIE) == []


async def test_a_browser_over_plain_http_sends_no_fetch_metadata() -> None:
    assert (await log_in(Node(**ON).app, headers=[(b"origin", b"http://testserver")])).status == 303


async def test_no_answer_is_kept_or_framed_or_loads_anything() -> None:
    app = Node(**ON).app
    opened = await cookie(app)
    for answer in (await ask(app, UI), await log_in(app, "wrong"), await ask(app, UI, headers=[opened])):
        policy = answer.header("content-security-policy") or ""
        assert answer.header("cache-control") == "no-store"
        assert answer.header("x-content-type-options") == "nosniff"
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert b"http://" not in answer.body.replace(b"http://www.w3.org/2000/svg", b"")  # the name of a language, which nothing loads
        assert b"https://" not in answer.body
        assert not {b"innerHTML", b"outerHTML", b"insertAdjacentHTML", b"document.write", b"eval("} & {*answer.body.split()}
        assert b"HTML" not in answer.body


async def test_a_file_of_the_password_is_read_when_it_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    app = Node(ui="on", ui_password_file=file).app
    opened = await cookie(app)
    file.write_text("another-password-now\n")
    assert (await log_in(app)).status == 403
    assert (await ask(app, UI, headers=[opened])).body == log_in_form()[0]
    file.write_bytes(b"\xff" * 32)
    assert (await log_in(app)).status == 503
    file.unlink()
    assert (await log_in(app)).status == 503
    assert (await ask(app, UI, headers=[opened])).body == log_in_form()[0]


async def test_log_ins_are_in_the_security_log_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ha_session_mw.security")
    app = Node(**ON).app
    await log_in(app, "wrong-and-wrong-again")
    await log_in(app)
    assert [record.event for record in caplog.records] == ["page_refused", "page_log_in"]  # type: ignore[attr-defined]
    assert PASSWORD not in caplog.text
    assert "wrong" not in caplog.text
    assert PASSWORD not in repr(Settings(secret_key=SECRET, **ON))


# The news


async def test_it_shows_each_member_and_the_way_of_a_log_out() -> None:
    async with cluster() as found:
        one, other, _ = found.nodes
        await found.run(one.manager.revoke_subject, "ada")
        told = await news(found, other.middleware)
        assert {member["member"]: member["state"] for member in told["members"]} == dict.fromkeys("abc", "ready")
        assert [member["member"] for member in told["members"] if member["here"]] == ["b"]
        assert all(0 <= member["status"]["freshness_age_s"] < member["freshness_limit_s"] == 5 for member in told["members"])
        [log_out] = told["log_outs"]
        assert (log_out["reach"], log_out["by"], log_out["mode"]) == ("subject", "a", "fenced")
        assert log_out["name"] == node_of(one.manager).security.pseudonym("ada")
        assert log_out["nodes"]["a"]["after_s"] == 0
        assert {*log_out["nodes"]} == {*"abc"}
        assert "ada" not in json.dumps(told)


async def test_the_times_of_a_busy_node_are_as_uncertain_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stood still for 0.2 s while it told its own state. That made its log-outs as late, and was taken for exact."""

    def stands_still(node: Any) -> dict[str, object]:
        told = status_of(node)
        node.clock.advance(0.2)
        return told

    async with cluster() as found:
        one, other, _ = found.nodes
        await found.run(one.manager.revoke_subject, "ada")
        monkeypatch.setattr(survey, "status_of", stands_still)
        [log_out] = (await news(found, other.middleware))["log_outs"]
        took = log_out["nodes"]["b"]
        assert took["error_s"] >= 0.1
        assert took["after_s"] - took["error_s"] < 0.01
        monkeypatch.undo()
        await found.advance(2)
        [log_out] = (await news(found, other.middleware))["log_outs"]
        assert log_out["nodes"]["b"]["after_s"] < 0.01


async def test_a_member_that_is_silent_costs_its_time_and_no_more() -> None:
    async with cluster() as found:
        one, other, third = found.nodes
        found.cut(one, third)
        found.cut(other, third)
        began_s = found.passed_s
        told = await news(found, one.middleware)
        assert found.passed_s - began_s <= ASK_LIMIT_S + 0.5
        [silent] = [member for member in told["members"] if member["member"] == "c"]
        assert (silent["status"], silent["failure"]) == (None, "gives no answer in time")


async def states(found: Cluster, app: Any) -> dict[str, str]:
    """The state of each member on the page, by its name without the random part."""
    return {(member["member"] or member["url"])[0]: member["state"] for member in (await news(found, app))["members"]}


async def test_a_member_that_died_is_shown_by_its_name_where_a_list_says_who_belongs_there() -> None:
    async with cluster() as found:
        one, _, third = found.nodes
        await found.run(third.kill)
        await found.advance(30)
        assert await states(found, one.middleware) == {"a": "ready", "b": "ready", "c": "not heard"}


async def test_where_members_come_and_go_one_that_died_is_shown_until_it_is_back() -> None:
    """The log itself forgets it within seconds, and the page said that all were well."""
    async with EtcdCluster(**ON) as found:
        await found.ready()
        one, _, third = found.nodes
        await found.kill(third)
        await found.advance(30)
        told = await news(found, one.middleware)
        [lost] = [member for member in told["members"] if member["state"] == "not heard"]
        assert 25 < lost["heard_ago_s"] < 35
        await found.run(third.start)
        await found.ready()
        await found.advance(2)
        assert await states(found, one.middleware) == dict.fromkeys("abc", "ready")


async def test_where_members_come_and_go_one_that_died_is_forgotten_after_ten_minutes() -> None:
    lost = LostMembers()
    row = {"member": "c-1", "url": "", "state": "ready", "here": False, "heard_ago_s": 0.0, "freshness_limit_s": 5.0}
    lost.look([row], 0.0)
    lost.look([], 6.0)
    assert [(one["member"], one["state"], one["heard_ago_s"]) for one in lost.told([], 8.0)] == [("c-1", "not heard", 8.0)]
    assert lost.told([{**row, "member": "c-2"}], 8.0) == []
    lost.look([], 601.0)
    assert lost.told([], 601.0) == []


async def test_a_member_that_came_back_and_then_left_in_order_is_not_missed() -> None:
    """It was frozen for a while, so it is the same process as before."""
    lost = LostMembers()
    row = {"member": "c-1", "url": "", "state": "ready", "here": False, "heard_ago_s": 0.0, "freshness_limit_s": 5.0}
    for rows, at_s in (([row], 0.0), ([], 6.0), ([row], 20.0), ([], 21.0)):
        lost.look(rows, at_s)
    assert lost.told([], 22.0) == []


async def test_a_member_that_left_in_order_is_not_missed() -> None:
    async with EtcdCluster(**ON) as found:
        await found.ready()
        one, _, third = found.nodes
        await found.stop(third)
        await found.advance(30)
        assert await states(found, one.middleware) == {"a": "ready", "b": "ready"}


async def test_refusals_of_all_members_are_added_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ha_session_mw.security")  # an incident is shown if it is in the log
    async with cluster(protect=("/*",)) as found:
        one, other, _ = found.nodes
        for node in (one, other, other):
            await node.get("/", token="hs1.AAAAAAAAAAAAAAAAAAAAAA.AAAAAAAA.AAAA.AAAA")
        [error] = [error for error in (await news(found, one.middleware))["errors"] if error["total"] == 3]
        assert error["turn"] == "client"
        assert error["last"]["node"] in "ab"
        assert error["last"]["instance"].startswith("urn:uuid:")


async def test_it_shows_one_process_alone() -> None:
    node = Node(**ON)
    await node.manager.revoke_subject("ada")
    reader = Reader(node.app, await cookie(node.app))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.read)
        await until_nothing_moves()
        reader.leave()
    [member] = reader.news[0]["members"]
    assert (member["state"], member["status"]["accepted"]) == ("ready", 0)
    assert [row["mode"] for row in reader.news[0]["log_outs"]] == ["fenced"]


async def test_the_stream_ends_when_the_node_drains() -> None:
    async with cluster() as found:
        one = found.nodes[0]
        reader = Reader(one.middleware, await cookie(one.middleware))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader.read)
            await found.wait_until(lambda: len(reader.news) > 1)
            node_of(one.manager).draining.begin()
            await found.wait_until(lambda: reader.has_ended)
        assert reader.news[-1]["draining"]
        assert reader.answer.messages[-1] == {"type": "http.response.body", "body": b""}
        refused = Reader(one.middleware, await cookie(one.middleware))
        await refused.read()
        assert refused.answer.status == 503


async def test_the_stream_ends_with_the_log_in() -> None:
    node = Node(**ON)
    opened = await cookie(node.app)
    node.clock.advance(LIFE_S - 5)
    reader = Reader(node.app, opened)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.read)
        for passed_s in range(7):
            await until_nothing_moves()
            assert reader.has_ended == (passed_s >= 5), passed_s
            node.clock.advance(1)
    assert len(reader.news) == 5
    assert (await ask(node.app, f"{UI}/events", headers=[opened])).status == 404


async def test_the_stream_ends_with_a_new_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    node = Node(ui="on", ui_password_file=file)
    reader = Reader(node.app, await cookie(node.app))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.read)
        await until_nothing_moves()
        file.write_text("another-password-now")
        node.clock.advance(EVERY_S)
        await until_nothing_moves()
        has_ended = reader.has_ended
        reader.leave()
    assert has_ended
    assert len(reader.news) == 1


async def test_readers_are_bounded_and_a_reader_that_left_makes_room() -> None:
    async with cluster() as found:
        app = found.nodes[0].middleware
        opened = await cookie(app)
        readers = [Reader(app, opened) for _ in range(MOST_READERS)]
        async with anyio.create_task_group() as tasks:
            for reader in readers:
                tasks.start_soon(reader.read)
            await found.wait_until(lambda: all(reader.news for reader in readers))
            assert (await ask(app, f"{UI}/events", headers=[opened])).status == 503
            readers[0].leave()
            await found.wait_until(lambda: readers[0].has_ended)
            late = Reader(app, opened)
            tasks.start_soon(late.read)
            await found.wait_until(lambda: bool(late.news))
            for reader in (*readers, late):
                reader.leave()


async def test_hostile_names_are_text_in_the_news() -> None:
    """The page makes text of them; see tests/browser."""
    hostile = "</script><img src=x onerror=alert(1)>\u2028\n\n"
    async with cluster() as found:
        one = found.nodes[0]
        await found.run(one.manager.revoke_subject, hostile.replace("\n", "").replace("\u2028", ""))
        reader = Reader(one.middleware, await cookie(one.middleware))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader.read)
            await found.wait_until(lambda: bool(reader.news))
            reader.leave()
        raw = reader.answer.messages[1]["body"]
        assert b"onerror" not in raw
        assert raw.count(b"\n") == 2


def test_marks_in_the_log_and_replaced_ids_are_no_log_outs() -> None:
    recent = RecentLogOuts(ManualClock(), pseudonym=str, is_starting=lambda: False)
    for entry in (Deny(SessionId(f"{MARK}4.open"), 10**13), Deny(SessionId("replaced"), 10**13, 5), Deny(SessionId("ended"), 10**13)):
        recent.on_news([entry])
    assert [row["name"] for row in recent.told()] == ["ended"]


async def test_a_node_without_the_page_remembers_no_log_outs() -> None:
    node = node_of(Node().manager)
    assert node.recent_log_outs is None
    assert status_of(node)["recent_log_outs"] is None
