"""No request without a valid token costs more than a millisecond, whatever it carries: counted in lines and characters, not in time.

A line of Python takes 30 to 50 ns, and C code works on some 1000 characters in a microsecond. So each limit below is less than half a
millisecond. They hold for inputs of any size, because everything that reads what a client sends has a bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ha_session_mw
from ha_session_mw import Session
from ha_session_mw._core.paths import LONGEST_PATH, PathRules, TooManySpellings, spellings
from ha_session_mw._core.request_fields import MAX_CREDENTIAL_BYTES, MAX_FIELDS
from ha_session_mw._core.token.cookies import MAX_CANDIDATES
from ha_session_mw._core.token.keys import KeyRing

from ..thinning import thinned
from .driver import Header, Node, why
from .meter import Octets, Text, metered

pytestmark = [pytest.mark.anyio, pytest.mark.one_library, pytest.mark.long]

MOST_LINES = 10_000
MOST_CHARACTERS = 500_000
LARGE = 1_000_000

READ = (
    *("accept", "authorization", "cookie", "forwarded", "front-end-https", "host", "idempotency-key", "origin", "session-index"),
    *("content-length", "transfer-encoding", "sec-fetch-mode", "sec-fetch-site", "session-follows", "session-passive", "session-transport"),
    *("session-peer", "user-agent", "x-forwarded-proto", "x-forwarded-scheme", "x-forwarded-ssl", "x-scheme", "x-url-scheme"),
)
"""Every header field that the package reads. ``test_the_list_of_fields_is_complete`` holds it to that."""

SECRETS = [f"{number}-9hQ2vX7mRk4TzLwB8sNpYd3JfGcVuA6E" for number in range(3)]
KID = KeyRing([secret.encode() for secret in SECRETS]).kids[-1].encode()
TOKEN = b"hs1." + b"a" * 22 + b"." + KID + b"." + b"p" * 3900 + b"." + b"s" * 43
LOOKS_LIKE_ONE = b"hs1.a." + KID + b".c.d"
SHAPES = (
    *(b",", b";", b" ", b"=", b'"', b"\t", b"a", b"\xff", b".", b"/", b":", b";q=", b", ;", b"text/html,", b"*/*;q=0.1,", b"https,"),
    *(b"session=", b"session=;", b"; session=x", b"session=hs1.", b"sessionsession", b"x_session=1; ", b"; ", b"proto=http;", b"a.b-"),
    *(b"; session=" + LOOKS_LIKE_ONE, b"; session=" + TOKEN, b"1 ", b"-1", b"0", b"\0", b"bearer "),
)
ORDINARY = {
    "authorization": (b"Bearer " + LOOKS_LIKE_ONE, b"Bearer " + TOKEN, b"Bearer "),
    "cookie": (b"session=" + LOOKS_LIKE_ONE, b"session=" + TOKEN, b"session="),
    "accept": (b"text/html",),
}


def hostile(name: str) -> Iterator[Sequence[Header]]:
    """The fields of hostile requests by one name: very long, just within a proxy's limits, and many."""
    for size, shapes in ((4000, SHAPES), (60_000, SHAPES), (LARGE, SHAPES[::4])):
        for shape in shapes:
            long = (shape * (size // len(shape) + 1))[:size]
            yield from ([(name.encode(), Octets(start + long))] for start in (b"", *ORDINARY.get(name, ())))
    for value in (b"x", *ORDINARY.get(name, ())):
        for count in (MAX_FIELDS // 2, MAX_FIELDS - 2, 20_000):
            varied = [(name.encode(), Octets(value + b"%d" % number)) for number in range(count)]
            yield varied
            yield [(b"x", b"y")] * count + [(name.encode(), Octets(value))]


def node_of(*, legacy: bool = False) -> Node:
    cluster: dict[str, Any] = {"cluster": "peers://", "advertise_url": "http://a:1", "peers": "http://a:1,http://b:1,http://c:1"}
    rules = {"login_url": "/log-in", "protect": "/private/*", "exempt": "/static/*", "relaxed": "/relaxed/*"}
    devices = {"devices": "on", "track": "on"}
    settings = devices | rules | {"legacy_cookies": "starlette"} if legacy else cluster | rules
    return Node(secret_key=SECRETS, ui="on", ui_password="tea-and-7-biscuits", **settings)


async def spend(node: Node, headers: Sequence[Header], path: str = "/", method: str = "GET", act: Any = why, **extra: Any) -> None:
    """Send a request; fail if it cost too much."""
    incoming = [{"type": "http.request", "body": b"x" * LARGE, "more_body": True}] * 2
    with metered() as cost:
        answer = await node.request(act, headers=headers, method=method, incoming=incoming, raw_path=b"", **{"path": path, **extra})
    told = f"{cost} for {[(name, value[:40], len(value)) for name, value in headers[:3]]}, {len(headers)} fields, {path[:40]!r}"
    assert cost.lines <= MOST_LINES, told
    assert cost.characters <= MOST_CHARACTERS, told
    assert answer.received == 0, "the body was read"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run each test once: nothing waits."""
    return "asyncio"


@pytest.fixture(scope="module", params=["peers", "legacy"])
def hardened(request: pytest.FixtureRequest) -> Node:
    return node_of(legacy=request.param == "legacy")


@pytest.mark.parametrize("name", READ)
async def test_no_header_field_makes_a_request_expensive(hardened: Node, name: str) -> None:
    for turn, headers in enumerate(hostile(name)):
        await spend(hardened, headers, ("/", "/private/x")[turn % 2])


OWN_PATHS = [*("/-/session/livez", "/-/session/peer/poll", "/-/session/devices/x", "/-/session/ui", "/-/session/ui/events")]


@pytest.mark.parametrize("path", [*OWN_PATHS, "/relaxed/x", "/static/x"])
async def test_our_own_endpoints_read_no_more_than_others(hardened: Node, path: str) -> None:
    for name, method in product(READ, ("GET", "POST", "DELETE")):
        for headers in ([(name.encode(), Octets(shape * (LARGE // len(shape))))] for shape in SHAPES[::8]):
            await spend(hardened, headers, path, method)


async def test_a_log_in_reads_no_more_of_its_client() -> None:
    def log_in(session: Session) -> None:
        session.login("ada")

    for name in READ:
        for shape in SHAPES[::8]:
            await spend(node_of(legacy=True), [(name.encode(), Octets(shape * (LARGE // len(shape))))], act=log_in)


PATHS = (
    *(
        "/",
        "a://h\\/%25252532%252e%2e;x\x01//./a/../;p=%3f?#q /%5c;;/",
        "/%2525252f;a?b\\..//",
        "/x/./",
        "/../",
        "//",
        "/;",
        "%25",
        "\\",
        " ",
    ),
    *("/private", "/private/", "/root", "/-/session/", "/-/session/peer/", "/-/session/problems/", "/-/session/devices/", "\ud800", "é"),
)


@pytest.mark.parametrize("root_path", thinned(["", "/root", "/root/"], ["", "/root/"]))
async def test_no_path_makes_a_request_expensive(hardened: Node, root_path: str) -> None:
    for shape, size in product(PATHS, (50, 200, 255, 256, 1000, 1025, 4000, LONGEST_PATH + 1, LARGE)):
        for start in ("", "/", root_path, root_path + "/-/session/", "/private/"):
            path = start + (shape * (size // len(shape) + 1))[:size]
            extra: dict[str, Any] = {"path": "/", "root_path": root_path, "query_string": b"a" * LARGE}
            with metered() as cost:
                hardened.app._paths.kind_of(Text(path), root_path)
                hardened.app._paths.is_relaxed(Text(path))
            assert cost.lines <= MOST_LINES, (cost, path[:60], len(path))
            assert cost.characters <= MOST_CHARACTERS, (cost, path[:60], len(path))
            await spend(hardened, [], **extra)


@given(st.text("/.;%\\ab\n25?# ", max_size=80), st.sampled_from(["", "/", "/a", "/a/"]))
def test_a_path_with_too_many_spellings_counts_as_protected(path: str, root_path: str) -> None:
    rules = PathRules(protect=["/nowhere"], exempt=["*"])
    try:
        found = spellings(path, root_path)
    except TooManySpellings:
        assert rules.kind_of(path, root_path) == "protected"
    else:
        assert len(found) * (len(path) + 300) <= 40_000


@pytest.mark.parametrize(
    "path",
    [
        "/proxy/https://example.org/a%20b;v=1/?q=1",
        "/files/My%20Report (final).pdf",
        "/wiki/C#/Generics/",
        "/a/../b//c/./d;jsessionid=0123456789ABCDEF",
        "/search/100%/?",
        "/" + "deep/" * 180 + "page",
    ],
)
def test_an_honest_path_has_few_enough(path: str) -> None:
    assert PathRules(protect=["/nowhere"], exempt=[]).kind_of(path) == "open"


def test_a_path_longer_than_any_is_protected_and_neither_exempt_nor_relaxed() -> None:
    rules = PathRules(protect=["/private/*"], exempt=["*"], relaxed=["*"])
    long = "/" + "x" * LONGEST_PATH

    assert (rules.kind_of(long), rules.is_relaxed(long)) == ("protected", False)
    assert (rules.kind_of(long[:-1]), rules.is_relaxed(long[:-1])) == ("exempt", True)
    assert PathRules(protect=[], exempt=["*"]).kind_of(long) == "open"


# What a browser sends is found


async def test_a_session_cookie_among_all_that_a_browser_keeps_is_found() -> None:
    node = Node()
    ada = await node.logged_in()
    own = b"session=" + (ada.token or "").encode()
    jar = [b"x%d_session=%s" % (number, b"v" * 200) for number in range(60)] + [b"c%d=%s" % (number, b"v" * 380) for number in range(119)]
    for place in (0, 90, 179):
        cookies = [*jar[:place], own, *jar[place:]]
        assert 55_000 < len(b"; ".join(cookies)) <= MAX_CREDENTIAL_BYTES
        by_one = await node.request(lambda session: session.subject, headers=[(b"cookie", b"; ".join(cookies))])
        by_many = await node.request(lambda session: session.subject, headers=[(b"cookie", cookie) for cookie in cookies])
        assert (by_one.result, by_many.result) == ("ada", "ada")


async def test_a_larger_header_is_refused_and_says_so() -> None:
    node = Node(protect="/private/*")
    ada = await node.logged_in()
    own = b"session=" + (ada.token or "").encode()
    large = [(b"cookie", own + b"; x=" + b"v" * MAX_CREDENTIAL_BYTES)]
    many = [(b"cookie", own), *[(b"x", b"y")] * MAX_FIELDS]
    for headers in (large, many):
        answer = await node.request(path="/private/x", headers=headers)
        assert (answer.status, answer.code, answer.header("www-authenticate")) == (431, "headers_too_large", None)
        assert (await node.request(why, headers=headers)).result == "headers_too_large"


async def test_far_too_many_cookies_of_one_name_are_ambiguous() -> None:
    node = Node(protect="/private/*")
    ada = await node.logged_in()
    cookies = b"; ".join([b"session=" + (ada.token or "").encode()] + [b"my_session=1"] * MAX_CANDIDATES)

    assert (await node.request(path="/private/x", headers=[(b"cookie", cookies)])).code == "request_ambiguous"
    assert (await node.request(path="/private/x", headers=[(b"cookie", cookies.rpartition(b";")[0])])).status == 200


# The list of what is read


PASS_A_REQUEST_ON = {"forwarding.py", "forwarded.py"}
"""Modules that carry all fields of a request with a valid token from node to node, within a bound of their own."""


def test_the_list_of_fields_is_complete() -> None:
    everywhere = Path(ha_session_mw.__file__).parent.rglob("*.py")
    files = [file for file in everywhere if "testing" not in file.parts and file.name not in PASS_A_REQUEST_ON]
    lines = [line.strip() for file in files for line in file.read_text().splitlines()]
    uses = [line for line in lines if 'scope["headers"]' in line and not line.endswith("= []")]
    readers = re.compile(r"\b(_?reader\.read|last_value|list_items|claims_https|goes_by|values|follows_of)\(")
    named = {name for line in uses for name in re.findall(r'b"([a-z-]+)"', line)}

    warm = 'headers = scope["headers"]'  # the middleware, for the one field that can carry a token
    assert [line for line in uses if not readers.search(line)] == [warm]
    assert named <= {*READ}
    assert {*READ} - named == {
        *("authorization", "cookie", "session-index", "session-passive", "session-peer", "forwarded", "front-end-https"),
        *("session-transport", "sec-fetch-mode", "session-follows"),
        *("x-forwarded-proto", "x-forwarded-scheme", "x-forwarded-ssl", "x-scheme", "x-url-scheme"),
    }
