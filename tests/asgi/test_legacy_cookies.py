"""The roll-over from Starlette's own middleware: sessions survive, and log-outs stay in force."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

import pytest
from itsdangerous import TimestampSigner

from ha_session_mw.testing import ManualClock

from .driver import OTHER_SECRET, SECRET, Node, look, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


class StarletteSigner(TimestampSigner):
    """Signs as Starlette's middleware does, at the time of a manual clock."""

    def __init__(self, secret: str, clock: ManualClock) -> None:
        super().__init__(secret)
        self._clock = clock

    def get_timestamp(self) -> int:
        return int(self._clock.wall_s())


def starlette_cookie(clock: ManualClock, data: Any, secret: str = SECRET) -> str:
    return StarletteSigner(secret, clock).sign(b64encode(json.dumps(data).encode())).decode()


@pytest.fixture
def node(clock: ManualClock) -> Node:
    return Node(clock=clock, legacy_cookies="starlette")


async def test_a_session_of_starlettes_middleware_goes_on_as_one_of_ours(node: Node) -> None:
    visitor = node.visitor()
    visitor.token = starlette_cookie(node.clock, {"user": "ada", "cart": [1, {"n": 2}]})
    answer = await visitor.visit(look)
    assert answer.result == {"user": "ada", "cart": [1, {"n": 2}]}
    assert answer.token
    assert answer.token.startswith("hs1.")
    assert (await visitor.visit(look)).result == {"user": "ada", "cart": [1, {"n": 2}]}


@pytest.mark.parametrize("age_h", [0, 1, 5, 8, 9.5, 11, 11.9])
async def test_a_session_of_any_age_goes_on_for_as_long_as_ours_would(node: Node, age_h: float) -> None:
    visitor = node.visitor()
    visitor.token = starlette_cookie(node.clock, {"user": "ada"})
    node.clock.advance(age_h * 3600)
    await visitor.visit(look)
    node.clock.advance(min(25 * 60, (12 - age_h) * 3600 - 1))
    assert (await visitor.visit(look)).result == {"user": "ada"}


async def test_one_that_is_older_than_a_session_may_be_does_not_go_on(node: Node) -> None:
    cookie = starlette_cookie(node.clock, {"user": "ada"})
    node.clock.advance(12 * 3600)
    assert (await node.request(why, token=cookie)).result == "session_expired"


async def test_both_nodes_make_the_same_session_of_it(node: Node) -> None:
    cookie = starlette_cookie(node.clock, {"user": "ada"})
    other = Node(clock=node.clock, legacy_cookies="starlette")
    assert (await node.request(lambda s: (s.id, s.family), token=cookie)).result == (
        await other.request(lambda s: (s.id, s.family), token=cookie)
    ).result


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda s: s.clear(), "session_revoked"),
        (lambda s: s.revoke(), "session_revoked"),
        (lambda s: s.login("ada"), "session_superseded"),
        (lambda s: s.cycle(), "session_superseded"),
    ],
)
async def test_the_old_cookie_is_dead_after_a_log_out_and_after_a_log_in(node: Node, end: Any, told: str) -> None:
    cookie = starlette_cookie(node.clock, {"user": "ada"})
    visitor = node.visitor()
    visitor.token = cookie
    await visitor.visit(look)
    await visitor.visit(end)
    assert (await node.request(why, token=cookie)).result == told


async def test_the_old_cookie_is_dead_when_it_was_it_that_logged_out(node: Node) -> None:
    cookie = starlette_cookie(node.clock, {"user": "ada"})
    await node.request(lambda s: s.clear(), token=cookie)
    assert (await node.request(why, token=cookie)).result == "session_revoked"


async def test_a_cookie_of_a_retired_key_goes_on(clock: ManualClock) -> None:
    node = Node(clock=clock, legacy_cookies="starlette", secret_key_fallbacks=[OTHER_SECRET])
    assert (await node.request(look, token=starlette_cookie(clock, {"a": 1}, OTHER_SECRET))).result == {"a": 1}


async def test_a_cookie_of_another_key_does_not(node: Node) -> None:
    answer = await node.request(lambda s: (dict(s), why(s)), token=starlette_cookie(node.clock, {"a": 1}, OTHER_SECRET))
    assert answer.result == ({}, "token_invalid")


async def test_it_is_off_unless_it_is_asked_for(clock: ManualClock) -> None:
    assert (await Node(clock=clock).request(look, token=starlette_cookie(clock, {"a": 1}))).result == {}


@pytest.mark.parametrize("content", [[1], "text", None])
async def test_content_that_cannot_be_taken_over_is_refused_and_breaks_nothing(node: Node, content: Any) -> None:
    assert (await node.request(why, token=starlette_cookie(node.clock, content))).result == "token_invalid"


async def test_a_session_too_large_for_a_token_of_ours_goes_on_under_its_old_cookie(node: Node) -> None:
    """Starlette's cookie has less around the data. A browser would drop the new one without a word."""
    data = {"a": "x" * 2985}
    cookie = starlette_cookie(node.clock, data)
    assert len(cookie) < 4096
    answer = await node.request(look, token=cookie)
    assert answer.result == data
    assert all(len(value) <= 4096 for value in answer.cookies())


@pytest.mark.parametrize("spelled", [lambda cookie: cookie + "=", lambda cookie: cookie[:-1] + chr(ord(cookie[-1]) + 1)])
async def test_a_captured_cookie_is_dead_after_the_log_out_however_it_is_spelled(node: Node, spelled: Any) -> None:
    cookie = starlette_cookie(node.clock, {"user": "ada"})
    visitor = node.visitor()
    visitor.token = cookie
    await visitor.visit(lambda s: s.clear())
    thief = node.visitor()
    thief.token = spelled(cookie)
    answer = await thief.visit(look)
    assert answer.result == {}


async def test_an_earlier_cookie_of_a_session_is_dead_when_the_take_over_ends(clock: ManualClock) -> None:
    """Nothing in Starlette's cookies says that two belong to one session, so a log-out cannot end the earlier one."""
    end = datetime.fromtimestamp(clock.wall_s() + 3600, UTC)
    node = Node(clock=clock, legacy_cookies="starlette", legacy_until=end)
    earlier, later = starlette_cookie(clock, {"user": "ada", "n": 1}), starlette_cookie(clock, {"user": "ada", "n": 2})
    visitor = node.visitor()
    visitor.token = later
    await visitor.visit(look)

    await node.request(lambda s: s.clear(), token=later)
    assert (await node.request(look, token=earlier)).result == {"user": "ada", "n": 1}
    clock.advance(3600)
    assert (await node.request(why, token=earlier)).result == "session_expired"
    assert (await node.request(why, token=later)).result == "session_expired"


async def test_a_session_that_was_taken_over_outlives_the_take_over(clock: ManualClock) -> None:
    node = Node(clock=clock, legacy_cookies="starlette", legacy_until=datetime.fromtimestamp(clock.wall_s() + 600, UTC))
    visitor = node.visitor()
    visitor.token = starlette_cookie(clock, {"user": "ada"})
    await visitor.visit(look)
    clock.advance(700)
    assert (await visitor.visit(look)).result == {"user": "ada"}


async def test_a_cookie_that_is_younger_than_the_node_is_not_taken_over(node: Node) -> None:
    node.clock.advance(3600)
    assert (await node.request(why, token=starlette_cookie(node.clock, {"user": "ada"}))).result == "token_invalid"
