"""How a new token reaches the client: as the app says, as the client's own token came, as the client asks, or in a cookie."""

from __future__ import annotations

from typing import Any

import pytest

from ha_session_mw._core.request_fields import MAX_FIELDS
from ha_session_mw.manager import node_of

from .driver import OTHER_SECRET, SECRET, Answer, Header, Node, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

ASKS = (b"session-transport", b"bearer")


def log_in(session: Any) -> None:
    session.login("ada")


def log_in_by(transport: Any) -> Any:
    return lambda session: session.login("ada", transport=transport)


def handed(answer: Answer) -> tuple[bool, bool]:
    """Whether the answer has a new token in a cookie, and in ``Session-Token``."""
    return bool(answer.token), bool(answer.header("session-token"))


def token_of(node: Node, subject: str = "ada") -> str:
    return node_of(node.manager).sign(node_of(node.manager).issuer.issue(subject)).decode()


# As the app says


async def test_one_app_logs_browsers_in_by_cookie_and_its_mobile_app_by_bearer_token(node: Node) -> None:
    browser, mobile = await node.request(log_in_by("cookie")), await node.request(log_in_by("bearer"))
    assert (handed(browser), handed(mobile)) == ((True, False), (False, True))
    assert mobile.all("set-cookie") == []

    token = mobile.header("session-token")
    answer = await node.request(lambda s: s.update(a=1), bearer=token)
    assert handed(answer) == (False, True)
    assert (await node.request(who, bearer=answer.header("session-token"))).result == "ada"
    assert (await node.request(who, token=browser.token)).result == "ada"


async def test_a_cookie_that_a_bearer_token_replaces_is_removed_because_its_session_has_ended(node: Node) -> None:
    visitor = await node.logged_in("ada")
    old = visitor.token
    answer = await visitor.visit(log_in_by("bearer"))
    assert answer.token == ""
    assert answer.header("session-token")
    assert (await node.request(why, token=old)).result == "session_superseded"


async def test_a_bearer_token_that_a_cookie_replaces_has_ended(node: Node) -> None:
    token = token_of(node)
    answer = await node.request(log_in_by("cookie"), bearer=token)
    assert handed(answer) == (True, False)
    assert (await node.request(why, bearer=token)).result == "session_superseded"


async def test_the_last_log_in_of_a_request_says_how(node: Node) -> None:
    def twice(session: Any) -> None:
        session.login("ada", transport="bearer")
        session.login("bob")

    assert handed(await node.request(twice)) == (True, False)


async def test_a_log_out_after_such_a_log_in_hands_out_nothing(node: Node) -> None:
    def in_and_out(session: Any) -> None:
        session.login("ada", transport="bearer")
        session.clear()

    answer = await node.request(in_and_out)
    assert handed(answer) == (False, False)


@pytest.mark.parametrize(("transports", "asked"), [("cookie", "bearer"), ("bearer", "cookie"), ("cookie,bearer", "both"), ("cookie", 7)])
async def test_a_transport_that_no_request_may_use_is_refused(transports: str, asked: Any) -> None:
    node = Node(transports=transports)
    with pytest.raises(ValueError, match="transport"):
        await node.request(log_in_by(asked))


# As the client asks


async def test_a_client_that_says_so_gets_its_token_in_the_header(node: Node) -> None:
    for act in (log_in, lambda s: s.update(a=1)):
        assert handed(await node.request(act, headers=[ASKS])) == (False, True)


async def test_the_apps_word_goes_before_the_clients(node: Node) -> None:
    assert handed(await node.request(log_in_by("cookie"), headers=[ASKS])) == (True, False)


@pytest.mark.parametrize(
    "sign",
    [(b"cookie", b"a=b"), (b"origin", b"https://shop.example"), (b"sec-fetch-site", b"same-origin"), (b"sec-fetch-mode", b"cors")],
    ids=lambda sign: sign[0].decode(),
)
async def test_a_script_in_a_browser_cannot_ask(node: Node, sign: Header) -> None:
    """Else a script that was smuggled into the page could read the token of a log-in that goes on without the user."""
    assert handed(await node.request(log_in, headers=[ASKS, sign])) == (True, False)


async def test_a_script_in_a_browser_cannot_hide_the_browser_behind_many_fields(node: Node) -> None:
    many = [(b"x-%d" % number, b"") for number in range(MAX_FIELDS)]
    answer = await node.request(log_in, headers=[ASKS, *many, (b"sec-fetch-site", b"same-origin")])
    assert handed(answer) == (True, False)


@pytest.mark.parametrize("value", [b"cookie", b"Bearer", b"bearer, cookie", b"", b"both"])
async def test_any_other_word_means_nothing(node: Node, value: bytes) -> None:
    assert handed(await node.request(log_in, headers=[(b"session-transport", value)])) == (True, False)


async def test_a_client_cannot_ask_for_a_transport_that_is_off() -> None:
    assert handed(await Node(transports="cookie").request(log_in, headers=[ASKS])) == (True, False)


async def test_a_session_that_came_by_cookie_goes_on_by_cookie_whatever_the_client_asks(node: Node) -> None:
    visitor = await node.logged_in("ada")
    assert handed(await visitor.visit(lambda s: s.update(a=1), headers=[ASKS])) == (True, False)


# As its token came: a verified one only


def made_up(node: Node) -> dict[str, str]:
    good = token_of(node)
    return {
        "no token": "hs1.a.b.c.d",
        "altered": good[:-4] + "AAAA",
        "of another secret": token_of(Node(secret_key=OTHER_SECRET)),
        "too large": "hs1." + "x" * 5000,
        "of a key that nobody has": "hs1." + "A" * 22 + ".AAAAAAAA." + good.split(".", 3)[3],
    }


@pytest.mark.parametrize("kind", made_up(Node()))
async def test_a_made_up_bearer_token_brings_no_log_in_within_the_reach_of_scripts(node: Node, kind: str) -> None:
    assert handed(await node.request(log_in, bearer=made_up(node)[kind])) == (True, False)


async def test_a_token_of_a_revoked_key_proves_nothing(node: Node) -> None:
    node = Node(secret_key=[OTHER_SECRET, SECRET], clock=node.clock)
    token = token_of(Node(clock=node.clock))
    await node.manager.revoke_key(token.split(".")[2])
    assert handed(await node.request(log_in, bearer=token)) == (True, False)


@pytest.mark.parametrize("ended", ["revoked", "idle", "expired"])
async def test_a_bearer_client_whose_session_has_ended_logs_in_by_header_again(node: Node, ended: str) -> None:
    token = token_of(node)
    if ended == "revoked":
        await node.request(lambda s: s.revoke(), bearer=token)
    else:
        node.clock.advance(3600 if ended == "idle" else 13 * 3600)
    assert handed(await node.request(log_in, bearer=token)) == (False, True)
    assert handed(await node.request(log_in, bearer=token)) == (False, True)  # the same from the cache
