"""The three ways to call the middleware, faults in the settings, and the lifespan around the app's own."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ha_session_mw import ConfigurationError, SessionManager, SessionMiddleware, Settings
from ha_session_mw.manager import node_of
from ha_session_mw.testing import ManualClock

from ..waiting import LIMIT_S
from .driver import OTHER_SECRET, SECRET, Act, Answer, Node, call, lifespan, look, obliging, refused_start, scope_of, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


async def ask(app: ASGIApp, act: Act = look, *, cookie: str | None = None, path: str = "/") -> Answer:
    headers = [(b"cookie", cookie.encode())] if cookie else []
    scope = scope_of("http", path, headers=headers, act=act, status=200, answer_headers=())
    answer = await call(app, scope)
    answer.result = scope.get("result")
    return answer


async def log_in(app: ASGIApp) -> str:
    [cookie] = (await ask(app, lambda s: s.login("ada"))).all("set-cookie")
    return cookie


# Calls


async def test_called_with_nothing_all_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HA_SESSION_SECRET_KEY", SECRET)
    monkeypatch.setenv("HA_SESSION_COOKIE_NAME", "sid")
    monkeypatch.setenv("HA_SESSION_PROTECT", "/private/*")
    app = SessionMiddleware(obliging)
    assert (await log_in(app)).startswith("sid=hs1.")
    assert (await ask(app, path="/private/x")).status == 401


async def test_called_as_starlettes_the_environment_still_goes_before_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HA_SESSION_COOKIE_NAME", "sid")
    monkeypatch.setenv("HA_SESSION_TRANSPORTS", "bearer,cookie")
    app = SessionMiddleware(obliging, SECRET)
    assert (await log_in(app)).startswith("sid=hs1.")
    assert app.manager.settings.transports == ("bearer", "cookie")


async def test_an_argument_goes_before_settings_and_settings_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HA_SESSION_COOKIE_NAME", "environment")
    monkeypatch.setenv("HA_SESSION_COOKIE_PATH", "/environment")
    monkeypatch.setenv("HA_SESSION_UNHEARD_OF", "1")
    app = SessionMiddleware(obliging, session_cookie="argument", settings=Settings(secret_key=SECRET, cookie_name="settings"))
    cookie = await log_in(app)
    assert cookie.startswith("argument=")
    assert "path=/;" in cookie


async def test_a_manager_made_by_hand_is_used(clock: ManualClock) -> None:
    manager = SessionManager(Settings(secret_key=SECRET), clock=clock)
    app = SessionMiddleware(obliging, manager=manager)
    assert (await ask(app, lambda s: s.manager)).result is manager


@pytest.mark.parametrize("arguments", [{"secret_key": SECRET}, {"settings": Settings(secret_key=SECRET)}, {"max_age": 60}, {"path": "/x"}])
async def test_a_manager_takes_no_other_settings(arguments: dict[str, Any]) -> None:
    app = SessionMiddleware(obliging, manager=SessionManager(Settings(secret_key=SECRET)), **arguments)
    assert "the manager has its settings" in await refused_start(app)


@pytest.mark.parametrize("key", [SECRET, SECRET.encode(), Secret(SECRET), [SECRET, OTHER_SECRET], (Secret(SECRET),)])
async def test_a_key_may_be_given_in_several_forms(key: Any) -> None:
    cookie = await log_in(SessionMiddleware(obliging, key))
    assert (await ask(SessionMiddleware(obliging, SECRET), who, cookie=cookie.split(";")[0])).result == "ada"


async def test_of_several_keys_the_first_signs_and_all_verify() -> None:
    old = (await log_in(SessionMiddleware(obliging, OTHER_SECRET))).split(";")[0]
    both = SessionMiddleware(obliging, [SECRET, OTHER_SECRET])
    assert (await ask(both, who, cookie=old)).result == "ada"
    new = (await log_in(both)).split(";")[0]
    assert (await ask(SessionMiddleware(obliging, SECRET), who, cookie=new)).result == "ada"


async def test_starlettes_example_secret_is_logged_and_works(caplog: pytest.LogCaptureFixture) -> None:
    app = SessionMiddleware(obliging, secret_key="example")
    why = "a weak secret is used, because secret_key=… was given and HA_SESSION_CLUSTER=memory://. HA_SESSION_SECRET_KEY: is a well-known"
    assert why in caplog.text
    assert await log_in(app)


async def test_two_middlewares_of_one_process_with_the_same_settings_are_one_node() -> None:
    """Litestar makes a middleware for each route, and Starlette can: a log-out on one must hold on the others."""
    one, other = (SessionMiddleware(obliging, SECRET, session_cookie="shared") for _ in range(2))
    cookie = (await log_in(one)).split(";")[0]
    assert (await ask(other, who, cookie=cookie)).result == "ada"
    await ask(one, lambda s: s.clear(), cookie=cookie)
    assert (await ask(other, why, cookie=cookie)).result == "session_revoked"


async def test_a_middleware_inside_another_of_the_same_settings_runs_nothing_twice() -> None:
    inner = SessionMiddleware(app_with(says_yes), SECRET, session_cookie="shared")
    outer = SessionMiddleware(inner, SECRET, session_cookie="shared")
    assert outer.manager is inner.manager
    begun: list[int] = []

    async def probe() -> None:
        begun.append(1)
        await anyio.sleep_forever()

    node_of(outer.manager).supervisor.add("probe", probe)
    assert types(await lifespan(outer)) == ["startup.complete", "shutdown.complete"]
    assert begun == [1]


# Faults


FAULTY: list[dict[str, Any]] = [
    {},
    {"secret_key": ""},
    {"secret_key": []},
    {"settings": Settings(secret_key=SECRET), "secret_key": ""},
    {"secret_key": SECRET, "session_cookie": "a b"},
    {"secret_key": SECRET, "session_cookie": None},
    {"secret_key": SECRET, "session_cookie": SECRET},
    {"secret_key": SECRET, "max_age": "1h"},
    {"secret_key": SECRET, "max_age": float("nan")},
    {"secret_key": SECRET, "max_age": object},
    {"secret_key": SECRET, "path": "x"},
    {"secret_key": SECRET, "path": "/; domain=evil.example"},
    {"secret_key": SECRET, "path": 7},
    {"secret_key": SECRET, "same_site": "none"},
    {"secret_key": SECRET, "same_site": None, "https_only": True},
    {"secret_key": SECRET, "same_site": "sometimes"},
    {"secret_key": SECRET, "https_only": "perhaps"},
    {"secret_key": SECRET, "domain": "a b"},
    {"secret_key": SECRET, "domain": 7},
    {"secret_key": SECRET, "partitioned": True},
    {"secret_key": SECRET, "session_cookie": "__Host-sid"},
    {"secret_key": SECRET, "session_cookie": "__Host-sid", "https_only": True, "domain": "example.org"},
    {"secret_key": SECRET, "session_cookie": "__Host-sid", "https_only": True, "path": "/app"},
]


@pytest.mark.parametrize("arguments", FAULTY, ids=str)
async def test_the_constructor_never_raises_and_the_start_fails(arguments: dict[str, Any]) -> None:
    app = SessionMiddleware(obliging, **arguments)
    message = await refused_start(app)
    assert message.startswith("ha_session_mw cannot start, 1 setting(s) to correct:")
    assert SECRET not in message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"settings": {"secret_key": SECRET}}, "SessionMiddleware(settings=…): must be a Settings, got dict"),
        ({"settings": SECRET}, "SessionMiddleware(settings=…): must be a Settings, got str"),
        ({"manager": Settings(secret_key=SECRET)}, "SessionMiddleware(manager=…): must be a SessionManager, got Settings"),
    ],
)
async def test_an_argument_that_is_no_settings_or_manager_stops_the_start(arguments: dict[str, Any], told: str) -> None:
    assert told in await refused_start(SessionMiddleware(obliging, **arguments))


async def test_a_manager_is_made_of_settings_alone() -> None:
    with pytest.raises(TypeError, match=r"^settings must be a Settings, got dict$"):
        SessionManager({"secret_key": SECRET})  # type: ignore[arg-type]


async def test_the_faults_of_arguments_are_reported_together() -> None:
    message = await refused_start(SessionMiddleware(obliging, SECRET, max_age="1h", domain="a b"))  # type: ignore[arg-type]
    assert "HA_SESSION_COOKIE_DOMAIN='a b'" in message
    assert "max_age='1h'" in message


async def test_all_faults_are_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "HA_SESSION_IDLE_TIMEOUT": "soon",
        "HA_SESSION_PROTECT": "private",
        "HA_SESSION_CLUSTER": "etcd3://nowhere",
        "HA_SESSION_IDEL_TIMEOUT": "5m",
        "HA_SESSION_COOKIE_SAME_SITE": "sometimes",
        "HA_SESSION_SERVICE_HOST": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    message = await refused_start(SessionMiddleware(obliging))
    for expected in (
        "HA_SESSION_IDLE_TIMEOUT='soon'",
        "HA_SESSION_PROTECT='private'",
        "HA_SESSION_CLUSTER='etcd3://nowhere'",
        "HA_SESSION_IDEL_TIMEOUT: is not a setting of this release. Did you mean HA_SESSION_IDLE_TIMEOUT?",
        "HA_SESSION_COOKIE_SAME_SITE='sometimes'",
    ):
        assert expected in message
    assert "SERVICE_HOST" not in message


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_with_faulty_settings_no_request_is_served(kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("the app was called")

    faulty = SessionMiddleware(app)
    for path in ("/", "/-/session/readyz"):
        with pytest.raises(ConfigurationError, match="HA_SESSION_SECRET_KEY"):
            await call(faulty, scope_of(kind, path))


async def test_the_faults_are_logged_where_no_lifespan_tells_them(caplog: pytest.LogCaptureFixture) -> None:
    # Litestar's way of adding a middleware keeps the lifespan from it, and answers 500 without a word of why.
    app = SessionMiddleware(obliging, settings=Settings(secret_key=SECRET), same_site="nonsense")  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(ConfigurationError):
            await ask(app, who)
    assert caplog.text.count("HA_SESSION_COOKIE_SAME_SITE='nonsense'") == 1


async def test_a_node_that_no_lifespan_starts_says_so(caplog: pytest.LogCaptureFixture) -> None:
    peers = "http://127.0.0.1:1,http://127.0.0.1:2,http://127.0.0.1:3"
    settings = Settings(secret_key=SECRET, cluster="peers://", peers=peers, advertise_url="http://127.0.0.1:1")
    app = SessionMiddleware(obliging, settings=settings)
    for _ in range(2):
        answer = await call(app, scope_of("http", act=lambda session: session.login("ada"), status=200, answer_headers=()))
        assert answer.code == "node_starting"
    assert caplog.text.count("put it around the whole app, and have the server run the lifespan") == 1
    ready = await call(app, scope_of("http", "/-/session/readyz"))
    assert (ready.status, b"put it around the whole app" in ready.body) == (503, True)


async def test_refusing_again_and_again_does_not_pile_up() -> None:
    faulty = SessionMiddleware(obliging)
    lengths = []
    for _ in range(3):
        with pytest.raises(ConfigurationError) as caught:
            await call(faulty, scope_of("http"))
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len({*lengths}) == 1


# The lifespan


async def says_yes(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await anyio.wait_all_tasks_blocked()
    await send({"type": "lifespan.shutdown.complete"})


def app_with(story: Callable[[Receive, Send], Any]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await story(receive, send)

    return app


def types(messages: list[Message]) -> list[str]:
    return [message["type"].removeprefix("lifespan.") for message in messages]


async def test_the_apps_own_lifespan_runs_and_the_manager_around_it() -> None:
    order: list[str] = []

    async def story(receive: Receive, send: Send) -> None:
        order.append((await receive())["type"])
        await send({"type": "lifespan.startup.complete"})
        order.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    sent = await lifespan(Node(app=app_with(story)).app)
    assert order == ["lifespan.startup", "lifespan.shutdown"]
    assert types(sent) == ["startup.complete", "shutdown.complete"]


@pytest.mark.parametrize("listens_on", [False, True])
async def test_the_app_reports_its_end_after_the_managers_and_not_before(listens_on: bool) -> None:
    """Servers end the event loop as soon as they hear it."""
    order: list[str] = []
    waiting = ["startup", "shutdown"]

    async def last_words() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
                order.append("manager")

    async def story(receive: Receive, send: Send) -> None:
        await says_yes(receive, send)
        if listens_on:
            await receive()

    async def receive() -> Message:
        if not waiting:
            await anyio.sleep_forever()
        return {"type": f"lifespan.{waiting.pop(0)}"}

    async def send(message: Message) -> None:
        order.append(message["type"].removeprefix("lifespan."))

    node = Node(app=app_with(story))
    node_of(node.manager).supervisor.add("last words", last_words)
    with anyio.fail_after(LIMIT_S):
        await node.app({"type": "lifespan", "asgi": {}}, receive, send)
    assert order == ["startup.complete", "manager", "shutdown.complete"]


async def test_an_app_that_raises_for_a_lifespan_gets_ours() -> None:
    async def django(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError(f"Django can only handle ASGI/HTTP connections, not {scope['type']}.")

    assert types(await lifespan(Node(app=django).app)) == ["startup.complete", "shutdown.complete"]


async def test_an_app_that_returns_from_a_lifespan_gets_ours() -> None:
    async def returns(receive: Receive, send: Send) -> None:
        return

    async def listens_and_returns(receive: Receive, send: Send) -> None:
        await receive()

    for story in (returns, listens_and_returns):
        assert types(await lifespan(Node(app=app_with(story)).app)) == ["startup.complete", "shutdown.complete"]


class BrokenError(Exception):
    pass


async def test_an_app_that_fails_to_start_fails_as_it_would_alone() -> None:
    async def story(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is away"})
        raise BrokenError

    app, sent = Node(app=app_with(story)).app, []

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(BrokenError):  # itself, in no group
        await app({"type": "lifespan", "asgi": {}}, startup_only, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "the database is away"}]


async def startup_only() -> Message:
    return {"type": "lifespan.startup"}


async def test_an_app_that_raises_while_it_starts_or_stops_raises_that() -> None:
    async def starts_badly(receive: Receive, send: Send) -> None:
        await receive()
        raise BrokenError

    async def stops_badly(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise BrokenError

    for story in (starts_badly, stops_badly):
        with pytest.raises(BrokenError):
            await lifespan(Node(app=app_with(story)).app)


async def test_the_state_of_the_lifespan_reaches_the_app() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan", "state": {"a": 1}}

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        pass

    await Node(app=app).app(scope, receive, send)
    assert seen[0] is scope


async def test_it_works_without_a_lifespan() -> None:
    cookie = (await log_in(SessionMiddleware(obliging, SECRET))).split(";")[0]
    assert (await ask(SessionMiddleware(obliging, SECRET), who, cookie=cookie)).result == "ada"


async def test_other_kinds_of_scope_pass() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    await call(Node(app=app).app, {"type": "something.new"})
    assert seen == ["something.new"]


async def test_starlettes_own_lifespan_runs_inside() -> None:
    app = Starlette(middleware=[Middleware(SessionMiddleware, secret_key=SECRET)])
    assert types(await lifespan(app)) == ["startup.complete", "shutdown.complete"]
    assert "HA_SESSION_SECRET_KEY" in await refused_start(Starlette(middleware=[Middleware(SessionMiddleware)]))


# Keys in files


async def test_keys_rotate_under_a_running_middleware(tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    keys, staged = tmp_path / "keys", tmp_path / "staged"
    keys.write_text(OTHER_SECRET + "\n")
    staged.write_text("")
    manager = SessionManager(Settings(secret_key_file=keys, secret_key_fallbacks_file=staged), clock=clock)
    app = SessionMiddleware(obliging, manager=manager)
    old = (await log_in(app)).split(";")[0]
    assert (await ask(app, who, cookie=old)).result == "ada"

    # staged: verified, and not yet signed with
    staged.write_text(SECRET)
    clock.advance(2)
    early = (await log_in(Node(clock=clock).app)).split(";")[0]
    assert (await ask(app, who, cookie=early)).result == "ada"
    assert (await log_in(app)).split(".")[2] == old.split(".")[2]

    # signing, the old one being retired
    keys.write_text(SECRET)
    staged.write_text(OTHER_SECRET)
    clock.advance(2)
    assert (await log_in(app)).split(".")[2] == early.split(".")[2]
    assert (await ask(app, who, cookie=old)).result == "ada"

    # retired; without a lifespan, that is seen when the next token is made or verified
    staged.write_text("")
    clock.advance(2)
    await log_in(app)
    assert (await ask(app, why, cookie=old)).result == "token_invalid"
    assert (await ask(app, who, cookie=early)).result == "ada"
    assert SECRET not in caplog.text


async def test_a_file_that_became_unusable_leaves_the_keys_as_they_are(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(SECRET)
    app = SessionMiddleware(obliging, manager=SessionManager(Settings(secret_key_file=keys), clock=clock))
    cookie = (await log_in(app)).split(";")[0]
    for content in ("", "too short"):
        keys.write_text(content)
        clock.advance(2)
        assert (await ask(app, why, cookie="session=hs1." + "x" * 22 + ".abcdefgh.AAAA." + "s" * 43)).result == "token_invalid"
        assert (await ask(app, who, cookie=cookie)).result == "ada"
    keys.unlink()
    clock.advance(2)
    assert (await log_in(app)).split(".")[2] == cookie.split(".")[2]
    assert "the keys stay as they are" in caplog.text
    assert "too short" not in caplog.text
