"""How long a session lives: by the settings, by its own log-in, and not by requests that nobody made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ha_session_mw import Session, SessionManager, Settings
from ha_session_mw.manager import node_of

from ..asgi.driver import SECRET, Answer, Node, Visitor, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]
MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.fixture
def node() -> Node:
    return Node(idle_timeout="7d", absolute_timeout="30d", passive="/poll,/poll/*")


async def log_in(node: Node, **lives: Any) -> tuple[Visitor, Answer]:
    visitor = node.visitor()
    return visitor, await visitor.visit(lambda session: session.login("ada", **lives))


def ends(session: Session) -> tuple[float, float]:
    assert session.issued_at is not None
    assert session.idle_expires_at is not None
    assert session.expires_at is not None
    return (session.idle_expires_at - session.issued_at).total_seconds(), (session.expires_at - session.issued_at).total_seconds()


# Lives of a session's own


async def test_a_log_in_without_lives_has_those_of_the_settings(node: Node) -> None:
    visitor, answer = await log_in(node)
    assert (await visitor.visit(ends)).result == (7 * DAY, 30 * DAY)
    assert "Max-Age=2592000" in answer.cookies()[0]


@pytest.mark.parametrize(
    ("lives", "expected"),
    [
        ({"idle": "30m", "absolute": "12h"}, (30 * MINUTE, 12 * HOUR)),
        ({"idle": 90}, (90, 30 * DAY)),
        ({"absolute": 2 * HOUR}, (2 * HOUR, 2 * HOUR)),
        ({"idle": "7d", "absolute": "30d"}, (7 * DAY, 30 * DAY)),
        ({"idle": 0.0001, "absolute": "1h"}, (0.001, HOUR)),
    ],
)
async def test_a_log_in_may_have_shorter_lives(node: Node, lives: dict[str, Any], expected: tuple[float, float]) -> None:
    def log_in_and_tell(session: Session) -> tuple[float, float]:
        session.login("ada", **lives)
        return ends(session)

    answer = await node.visitor().visit(log_in_and_tell)
    assert answer.result == expected


@pytest.mark.parametrize("way", ["renewal", "write", "cycle", "write in a store"])
async def test_its_idle_timeout_stays_its_own(way: str) -> None:
    node = Node(idle_timeout="7d", absolute_timeout="30d", data="store" if "store" in way else "token")
    visitor, _ = await log_in(node, idle="30m", absolute="12h")
    acts = {"renewal": who, "cycle": lambda s: s.cycle()}
    for _ in range(3):
        node.clock.advance(20 * MINUTE)
        answer = await visitor.visit(acts.get(way, lambda s: s.update(at=node.clock.wall_s())))
        assert answer.token, way
        idle, _ = (await visitor.visit(ends)).result
        assert 28 * MINUTE < idle <= 30 * MINUTE
    node.clock.advance(31 * MINUTE)
    assert (await visitor.visit(why)).result == "session_idle_timeout"


async def test_its_absolute_end_stays_its_own(node: Node) -> None:
    visitor, answer = await log_in(node, absolute="1h")
    assert "Max-Age=3600" in answer.cookies()[0]
    for _ in range(3):
        node.clock.advance(15 * MINUTE)
        assert (await visitor.visit(lambda s: s.update(a=1))).result is None
    node.clock.advance(15 * MINUTE)
    assert (await visitor.visit(why)).result == "session_expired"


TOO_LONG: list[dict[str, Any]] = [{"idle": "8d"}, {"absolute": "31d"}]
NO_DURATION: list[dict[str, Any]] = [{"idle": "1y"}, {"idle": 0}, {"absolute": -1}, {"idle": float("nan")}]


@pytest.mark.parametrize("lives", [*TOO_LONG, *NO_DURATION])
async def test_a_life_is_a_duration_within_the_settings(node: Node, lives: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at most" if lives in TOO_LONG else "duration"):
        await log_in(node, **lives)


async def test_shorter_settings_count_for_sessions_that_exist(node: Node) -> None:
    visitor, _ = await log_in(node, idle="2d")
    later = Node(clock=node.clock, idle_timeout="1d", absolute_timeout="30d")
    moved = Visitor(later)
    moved.token = visitor.token
    await moved.visit(lambda s: s.update(a=1))
    assert (await moved.visit(ends)).result[0] == DAY


# The cookie of a session that ends with the browser


async def test_a_session_that_is_not_persistent_is_in_a_cookie_without_an_end(node: Node) -> None:
    visitor, answer = await log_in(node, persistent=False, idle="30m")
    cookies = answer.cookies()
    for act in (lambda s: s.update(a=1), lambda s: s.cycle(), who):
        node.clock.advance(16 * MINUTE)
        cookies += (await visitor.visit(act)).cookies()
    assert len(cookies) == 4
    assert not any("max-age" in cookie.lower() or "expires" in cookie.lower() for cookie in cookies)


async def test_the_next_log_in_decides_anew(node: Node) -> None:
    visitor, _ = await log_in(node, persistent=False, idle="30m", absolute="1h")
    answer = await visitor.visit(lambda s: s.login("ada"))
    assert "Max-Age=2592000" in answer.cookies()[0]
    assert (await visitor.visit(ends)).result == (7 * DAY, 30 * DAY)


def test_a_manager_issues_ordinary_sessions() -> None:
    issuer = node_of(SessionManager(Settings(secret_key=SECRET))).issuer
    assert issuer.issue("ada").persistent
    assert issuer.issue("ada").idle_ms(1000) == 1000


# Passive requests


@pytest.mark.parametrize("how", [{"path": "/poll"}, {"path": "/poll/x"}, {"path": "/", "headers": [(b"session-passive", b"1")]}])
@pytest.mark.parametrize("act", [who, lambda s: s.update(n=1), lambda s: s.cycle()], ids=["read", "write", "cycle"])
async def test_a_poll_does_not_keep_an_idle_session_alive(how: dict[str, Any], act: Any) -> None:
    node = Node(passive="/poll,/poll/*")
    visitor = await node.logged_in("ada")
    for _ in range(5):
        node.clock.advance(5 * MINUTE)
        assert (await visitor.visit(act, **how)).status == 200
        assert (await visitor.visit(why, **how)).result is None
    node.clock.advance(6 * MINUTE)
    assert (await visitor.visit(why)).result == "session_idle_timeout"


@pytest.mark.parametrize("headers", [[], [(b"session-passive", b"0")]])
async def test_any_other_request_does(node: Node, headers: list[tuple[bytes, bytes]]) -> None:
    node = Node(passive="/poll")
    visitor = await node.logged_in("ada")
    for _ in range(5):
        node.clock.advance(20 * MINUTE)
        assert (await visitor.visit(who, "/polls", headers=headers)).result == "ada"


async def test_a_poll_may_log_in_and_out(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(lambda s: s.login("ada"), "/poll")
    assert (await visitor.visit(ends)).result == (7 * DAY, 30 * DAY)
    assert (await visitor.visit(lambda s: s.clear(), "/poll")).token == ""
