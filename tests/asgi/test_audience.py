"""Two apps with one secret: with audiences, neither accepts the other's tokens; without, they are one."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from itsdangerous import TimestampSigner

from ha_session_mw.testing import ManualClock

from .driver import SECRET, Node, look, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


def app(clock: ManualClock, audience: str | None, **settings: Any) -> Node:
    return Node(clock=clock, audience=audience, protect="/private", **settings)


@pytest.mark.parametrize(("one", "other"), [("shop", "blog"), ("shop", None), (None, "shop"), ("shop", "shop2"), ("Shop", "shop")])
async def test_another_audiences_token_is_invalid(clock: ManualClock, one: str | None, other: str | None) -> None:
    theirs, ours = app(clock, one), app(clock, other)
    token = (await theirs.logged_in("ada")).token
    assert (await theirs.request(who, token=token)).result == "ada"

    assert (await ours.request(lambda s: (why(s), who(s)), token=token)).result == ("token_invalid", None)
    answer = await ours.request(path="/private", bearer=token)
    assert (answer.status, answer.code) == (401, "token_invalid")


@pytest.mark.parametrize("audience", [None, "https://shop.example/"])
async def test_nodes_of_one_audience_accept_each_others_tokens(clock: ManualClock, audience: str | None) -> None:
    token = (await app(clock, audience).logged_in("ada")).token
    assert (await app(clock, audience).request(who, token=token)).result == "ada"


async def test_a_token_of_another_audience_does_not_stand_beside_a_good_one(clock: ManualClock) -> None:
    ours, theirs = app(clock, "shop"), app(clock, "blog")
    good, foreign = (await ours.logged_in("ada")).token, (await theirs.logged_in("eve")).token
    answer = await ours.request(who, headers=[(b"cookie", f"session={foreign}; session={good}".encode())])
    assert answer.result == "ada"


async def test_cookies_of_starlettes_middleware_are_taken_over_into_the_audience(clock: ManualClock) -> None:
    signed = TimestampSigner(SECRET)
    signed.get_timestamp = lambda: int(clock.wall_s())  # type: ignore[method-assign]
    cookie = signed.sign(b64encode(json.dumps({"user": "ada"}).encode())).decode()
    shop, blog = (app(clock, audience, legacy_cookies="starlette") for audience in ("shop", "blog"))
    answer = await shop.request(look, token=cookie)
    assert answer.result == {"user": "ada"}
    assert (await shop.request(look, token=answer.token)).result == {"user": "ada"}
    assert (await blog.request(why, token=answer.token)).result == "token_invalid"
