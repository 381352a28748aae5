"""Cookies of the same name that a sibling subdomain planted, or an earlier setting left behind: a log-in or log-out ends them all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from ha_session_mw.manager import node_of

from .driver import OTHER_SECRET, Act, Answer, Header, Node, look, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

HOST = "shop.example.com"


@dataclass(frozen=True)
class Place:
    """The attributes by which a browser tells cookies of one name apart (RFC 6265bis section 5.7)."""

    domain: str = HOST
    is_host_only: bool = True
    path: str = "/"
    is_partitioned: bool = False

    def is_sent_to(self, path: str) -> bool:
        at_host = self.domain == HOST if self.is_host_only else f".{HOST}".endswith("." + self.domain)
        return at_host and (path == self.path or path.startswith(self.path.rstrip("/") + "/"))


@dataclass
class Browser:
    """Keeps the session cookies of one host and its parent domains, as browsers do, and sends the longest path first."""

    node: Node
    name: str = "session"
    jar: dict[Place, str] = field(default_factory=dict)

    async def visit(self, act: Act = look, path: str = "/", *, bearer: str | None = None, headers: tuple[Header, ...] = ()) -> Answer:
        sent = sorted((place for place in self.jar if place.is_sent_to(path)), key=lambda place: -len(place.path))
        cookies = "; ".join(f"{self.name}={self.jar[place]}" for place in sent)
        given: list[Header] = [(b"host", HOST.encode()), *headers] + [(b"cookie", cookies.encode())] * bool(cookies)
        answer = await self.node.request(act, path, headers=given, bearer=bearer, scheme="https")
        for line in answer.all("set-cookie"):
            self._set(line)
        return answer

    def _set(self, line: str) -> None:
        pair, *rest = [part.strip() for part in line.split(";")]
        attributes = {key.lower(): value for key, _, value in (part.partition("=") for part in rest)}
        name, _, value = pair.partition("=")
        assert name == self.name
        domain = attributes.get("domain", HOST)
        if not f".{HOST}".endswith("." + domain) or domain == "com":
            return  # browsers ignore a foreign domain, and a public suffix
        if "partitioned" in attributes:
            assert "secure" in attributes, "browsers refuse a partitioned cookie without Secure"
        place = Place(domain, "domain" not in attributes, attributes["path"], "partitioned" in attributes)
        if attributes.get("max-age") == "0" or "1970" in attributes.get("expires", ""):
            self.jar.pop(place, None)
        else:
            self.jar[place] = value


async def token_of(node: Node, subject: str) -> str:
    return node_of(node.manager).sign(node_of(node.manager).issuer.issue(subject)).decode()


PLANTED = [
    Place("example.com", is_host_only=False),
    Place(HOST, is_host_only=False),
    Place(path="/account"),
    Place("example.com", is_host_only=False, path="/account"),
    Place(path="/account/"),
    Place(is_partitioned=True),
]


def log_in(session: Any) -> None:
    session.login("ada")


@pytest.mark.parametrize("place", PLANTED, ids=str)
async def test_a_log_in_ends_a_planted_session_and_removes_its_cookie(node: Node, place: Place) -> None:
    browser = Browser(node)
    await browser.visit(log_in, "/account/login")
    planted = await token_of(node, "eve")
    browser.jar[place] = planted
    assert (await browser.visit(why, "/account/data")).result == "request_ambiguous"

    await browser.visit(log_in, "/account/login")

    assert (await browser.visit(who, "/account/data")).result == "ada"
    assert [*browser.jar] == [Place()]
    assert (await node.request(why, token=planted)).result == "session_revoked"


@pytest.mark.parametrize("act", [lambda s: s.clear(), lambda s: s.revoke()], ids=["clear", "revoke"])
@pytest.mark.parametrize("place", PLANTED, ids=str)
async def test_a_log_out_ends_every_session_that_came_and_removes_every_cookie(node: Node, place: Place, act: Act) -> None:
    browser = Browser(node)
    await browser.visit(log_in, "/account/login")
    tokens = [browser.jar[Place()], await token_of(node, "eve")]
    browser.jar[place] = tokens[1]

    answer = await browser.visit(act, "/account/logout")

    assert answer.header("session-revocation") == "fenced"
    assert browser.jar == {}
    for token in tokens:
        assert (await node.request(why, token=token)).result == "session_revoked"


async def test_a_log_in_by_bearer_token_leaves_no_cookie_behind(node: Node) -> None:
    browser = Browser(node)
    await browser.visit(log_in, "/account/login")
    browser.jar[Place("example.com", is_host_only=False)] = await token_of(node, "eve")

    answer = await browser.visit(lambda s: s.login("ada", transport="bearer"), "/account/login")

    assert answer.header("session-token")
    assert browser.jar == {}


async def test_a_log_out_under_the_one_live_session_removes_a_dead_cookie_beside_it(node: Node) -> None:
    browser = Browser(node)
    dead = await token_of(node, "eve")
    await node.request(lambda s: s.clear(), token=dead)
    await browser.visit(log_in)
    browser.jar[Place("example.com", is_host_only=False)] = dead
    assert (await browser.visit(who)).result == "ada"

    await browser.visit(lambda s: s.clear())
    assert browser.jar == {}


async def test_a_request_that_neither_logs_in_nor_out_removes_nothing(node: Node) -> None:
    browser = Browser(node)
    await browser.visit(log_in)
    browser.jar[Place("example.com", is_host_only=False)] = planted = await token_of(node, "eve")

    answer = await browser.visit(look)

    assert answer.all("set-cookie") == []
    assert (await node.request(who, token=planted)).result == "eve"


async def test_a_log_in_whose_answer_is_an_error_ends_nothing(node: Node) -> None:
    tokens = [await token_of(node, "ada"), await token_of(node, "eve")]
    cookies = (b"cookie", "; ".join(f"session={token}" for token in tokens).encode())
    answer = await node.request(log_in, headers=[cookies], status=500)
    assert answer.all("set-cookie") == []
    assert [(await node.request(who, token=token)).result for token in tokens] == ["ada", "eve"]


async def test_a_cookie_and_a_bearer_token_that_differ_both_end_at_a_log_out(node: Node) -> None:
    tokens = [await token_of(node, "ada"), await token_of(node, "eve")]
    answer = await node.request(lambda s: s.clear(), token=tokens[0], bearer=tokens[1])
    assert answer.header("session-revocation") == "fenced"
    assert answer.token == ""
    for token in tokens:
        assert (await node.request(why, token=token)).result == "session_revoked"


async def test_a_log_in_deletes_the_data_of_the_other_sessions(node: Node) -> None:
    node = Node(clock=node.clock, data="store")
    tokens = [(await node.logged_in(name, cart=["book"])).token for name in ("ada", "eve")]
    copies = node_of(node.manager).copies
    assert len(copies) == 2
    await node.request(log_in, headers=[(b"cookie", "; ".join(f"session={token}" for token in tokens).encode())])
    assert len(copies) == 0


async def test_more_cookies_than_a_request_may_carry_end_all_the_same(node: Node) -> None:
    tokens = [await token_of(node, f"eve-{n}") for n in range(12)]
    cookies = (b"cookie", "; ".join(f"session={token}" for token in tokens).encode())
    assert (await node.request(why, headers=[cookies])).result == "request_ambiguous"
    await node.request(lambda s: s.clear(), headers=[cookies])
    for token in tokens:
        assert (await node.request(why, token=token)).result == "session_revoked"


async def test_a_cookie_of_another_app_under_our_name_is_not_removed(node: Node) -> None:
    """Two apps on sibling hosts may use one name. A cookie on the parent domain may be the other app's only one."""
    browser = Browser(node)
    await browser.visit(log_in)
    theirs = Place("example.com", is_host_only=False)
    browser.jar[theirs] = "eyJhIjogMX0=.aBcDeF.xyz"

    await browser.visit(lambda s: s.clear())

    assert [*browser.jar] == [theirs]


async def test_tokens_that_do_not_verify_end_no_session_and_make_no_error(node: Node) -> None:
    other = Node(secret_key=OTHER_SECRET)
    forged = [await token_of(other, "ada"), await token_of(other, "eve")]
    answer = await node.request(lambda s: s.clear(), headers=[(b"cookie", "; ".join(f"session={one}" for one in forged).encode())])
    assert answer.status == 200
    assert answer.header("session-revocation") is None
    assert answer.cookies()


@pytest.mark.parametrize(
    "host", ["localhost", "192.0.2.1:8000", "[2001:db8::1]:8000", "evil\r\nx: y.example", "ünï.example", "", "a;b.c", "x" * 9999]
)
async def test_any_host_makes_well_formed_lines_and_few_of_them(node: Node, host: str) -> None:
    tokens = [await token_of(node, "ada"), await token_of(node, "eve")]
    cookies = (b"cookie", "; ".join(f"session={token}" for token in tokens).encode())
    made: list[Header] = [(b"host", host.encode("latin-1", "replace")), cookies]
    answer = await node.request(lambda s: s.clear(), "/a/b;c/%41/d/e/f/g/h" + "/i" * 500, headers=made, scheme="https")
    lines = answer.all("set-cookie")
    assert sum(map(len, lines)) < 2000
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
        assert "evil" not in line


async def test_a_host_cookie_has_no_variants_but_the_partitioned_one() -> None:
    node = Node(cookie_name="__Host-session", cookie_https_only=True)
    browser = Browser(node, "__Host-session")
    await browser.visit(log_in, "/account/login")
    browser.jar[Place(is_partitioned=True)] = await token_of(node, "eve")

    answer = await browser.visit(log_in, "/account/login")

    assert [*browser.jar] == [Place()]
    assert len(answer.all("set-cookie")) == 2
