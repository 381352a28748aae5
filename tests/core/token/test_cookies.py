"""Where tokens are found, which of several counts, and the literal form of Set-Cookie."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware

from ha_session_mw._core.request_fields import Header
from ha_session_mw._core.token.cookies import (
    INDEX_HEADER,
    MAX_PRESENTED,
    CookieWriter,
    Presented,
    TokenReader,
    choose,
    claims_https,
)
from ha_session_mw._core.token.tokens import Transport, Verified, sign, verify
from ha_session_mw.exceptions import ProblemError, RequestAmbiguous

from ..builders import KEY, NOW_MS, RING, claims

ADA = sign(claims(), KEY)
ADA_RENEWED = sign(claims(issued_ms=NOW_MS + 1_000), KEY)
BOB = sign(claims("sid-of-bobs-session-AB", subject="bob", family="bobs-family"), KEY)
GONE = sign(claims("sid-of-an-ended-one-AB", subject="gone", issued_ms=NOW_MS + 5_000), KEY)
GONE_TOO = sign(claims("sid-of-a-second-one-AB", subject="gone"), KEY)
FORGED = ADA[:-4] + b"AAAA"


def reader(*, cookie: str | None = "session", bearer: bool = True) -> TokenReader:
    return TokenReader(cookie, bearer=bearer)


def read(*headers: Header, **how: Any) -> list[Presented]:
    return reader(**how).read(headers)


def cookie(*values: bytes) -> list[Presented]:
    return [("cookie", value) for value in values]


def bearer(*values: bytes) -> list[Presented]:
    return [("bearer", value) for value in values]


# Reading


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (b"session=" + ADA, [ADA]),
        (b"a=b; session=" + ADA + b"; c=d", [ADA]),
        (b"a=b;session=" + ADA, [ADA]),
        (b'session="' + ADA + b'"', [ADA]),
        (b" session=" + ADA + b" ", [ADA]),
        (b"session=" + ADA + b"; session=" + BOB, [ADA, BOB]),
        (b"session=" + ADA + b"; session=" + ADA, [ADA, ADA]),
        (b"mysession=" + ADA, []),
        (b"mysession=x; session=" + ADA, [ADA]),
        (b"session-old=" + ADA, []),
        (b"Session=" + ADA, []),
        (b"session=", []),
        (b'session=""', []),
        (b"session=null", []),
        (b"session", []),
        (b"", []),
        (b"session=somebody-elses", [b"somebody-elses"]),
        (b"a=session=" + ADA, []),
    ],
)
def test_tokens_are_found_in_cookies(field: bytes, found: list[bytes]) -> None:
    assert read((b"cookie", field)) == cookie(*found)


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (b"Bearer " + ADA, [ADA]),
        (b"bearer  " + ADA + b" ", [ADA]),
        (b"BEARER " + ADA, [ADA]),
        (b"Bearer", []),
        (b"Bearer ", []),
        (b"Basic YWRhOnBhc3M=", []),
        (b"Bearer eyJhbGciOiJIUzI1NiJ9.e30.x", []),
        (b"Bearer" + ADA, []),
        (b"Token " + ADA, []),
    ],
)
def test_a_bearer_token_is_ours_if_it_says_so(field: bytes, found: list[bytes]) -> None:
    assert read((b"authorization", field)) == bearer(*found)


# Servers that strip more than blanks, or know RFC 2109, read these as a cookie with the prefix __Host-. Browsers do not,
# so a sibling host may set them.
LOOKS_LIKE_A_HOST_COOKIE = ["\u2000", "\u00a0", "\u0085", "\ufeff", "\u3000", "$Version=1,", "$", "x,"]


@pytest.mark.parametrize("before", LOOKS_LIKE_A_HOST_COOKIE)
def test_no_cookie_of_a_sibling_host_passes_for_one_with_the_host_prefix(before: str) -> None:
    for field in (before.encode() + b"__Host-session=" + ADA, b"a=b; " + before.encode() + b"__Host-session=" + ADA):
        assert read((b"cookie", field), cookie="__Host-session") == []
        assert reader(cookie="__Host-session").token_alone(field, "cookie") is None


def test_several_fields_are_read_in_their_order() -> None:
    """HTTP/2 may split the cookie header (RFC 9113 section 8.2.3)."""
    headers = (b"cookie", b"session=" + ADA), (b"authorization", b"Bearer " + BOB), (b"cookie", b"session=" + BOB)

    assert read(*headers) == [("cookie", ADA), ("bearer", BOB), ("cookie", BOB)]


def test_a_transport_that_is_switched_off_is_not_looked_at() -> None:
    headers = (b"cookie", b"session=" + ADA), (b"authorization", b"Bearer " + BOB)

    assert read(*headers, bearer=False) == cookie(ADA)
    assert read(*headers, cookie=None) == bearer(BOB)
    assert read(*headers, cookie="other") == bearer(BOB)


@given(st.binary(max_size=60), st.sampled_from([b"cookie", b"authorization", b"x"]))
def test_no_field_makes_an_error(value: bytes, name: bytes) -> None:
    assert isinstance(read((name, value)), list)


@pytest.mark.parametrize("transport", ["cookie", "bearer", None])
@pytest.mark.parametrize("how", [("session", True), ("session", False), (None, True)])
def test_a_field_that_stands_alone_begins_with_its_token(transport: Transport | None, how: tuple[str | None, bool]) -> None:
    one = reader(cookie=how[0], bearer=how[1])
    for field in (b"session=" + ADA, b"Bearer " + ADA, b"bearer " + ADA, b"a=b; session=" + ADA, b"Basic eA==", ADA, b""):
        token = one.token_alone(field, transport)
        assert token in (None, ADA)
        name = {"cookie": b"cookie", "bearer": b"authorization", None: INDEX_HEADER}[transport]
        if token is not None:
            assert one.read([(name, field)]) == [(transport, ADA)]


def test_a_long_field_does_not_stand_alone() -> None:
    assert reader().token_alone(b"session=" + b"a" * 5000, "cookie") is None
    assert reader().token_alone(None, None) is None


# Choosing


def looked_at(token: bytes) -> Verified | None:
    try:
        return verify(token, RING)
    except ProblemError:
        return None


def chosen(found: Iterable[Presented]) -> Presented | str:
    try:
        return choose(list(found), looked_at, lambda verified: verified.claims.subject != "gone")
    except RequestAmbiguous:
        return "ambiguous"


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (cookie(ADA), ("cookie", ADA)),
        (cookie(ADA, ADA), ("cookie", ADA)),
        (cookie(FORGED, ADA), ("cookie", ADA)),
        (cookie(ADA, b"of-another-app"), ("cookie", ADA)),
        (cookie(b"of-another-app", FORGED), ("cookie", FORGED)),
        (cookie(b"one", b"two"), ("cookie", b"one")),
        (cookie(ADA, ADA_RENEWED), ("cookie", ADA_RENEWED)),
        (cookie(ADA_RENEWED, ADA), ("cookie", ADA_RENEWED)),
        (cookie(ADA, BOB), "ambiguous"),
        (cookie(GONE, ADA), ("cookie", ADA)),
        (cookie(ADA, GONE, FORGED), ("cookie", ADA)),
        (cookie(ADA, GONE, BOB), "ambiguous"),
        (cookie(FORGED, GONE), ("cookie", GONE)),
        (cookie(GONE) + bearer(ADA), "ambiguous"),
        (bearer(ADA), ("bearer", ADA)),
        (bearer(ADA, ADA), ("bearer", ADA)),
        (bearer(ADA, BOB), "ambiguous"),
        (bearer(ADA, ADA_RENEWED), "ambiguous"),
        (bearer(ADA, FORGED), "ambiguous"),
        (cookie(ADA) + bearer(ADA), ("both", ADA)),
        (bearer(ADA) + cookie(ADA), ("both", ADA)),
        (cookie(ADA) + bearer(BOB), "ambiguous"),
        (cookie(FORGED) + bearer(ADA), "ambiguous"),
        (cookie(b"of-another-app") + bearer(ADA), ("bearer", ADA)),
        (cookie(*[ADA] * 20), ("cookie", ADA)),
        (cookie(*[ADA] * 20) + bearer(*[ADA] * 20), ("both", ADA)),
        (cookie(*(b"other-%d" % n for n in range(MAX_PRESENTED - 1)), ADA), ("cookie", ADA)),
        (cookie(*(b"other-%d" % n for n in range(MAX_PRESENTED)), ADA), "ambiguous"),
    ],
)
def test_which_token_counts(found: list[Presented], outcome: object) -> None:
    assert chosen(found) == outcome


def test_a_request_full_of_tokens_costs_no_signature_check() -> None:
    """Each signature check costs time, and a client must not be able to cause a hundred."""

    def never(token: bytes) -> None:
        pytest.fail("a token was verified")

    with pytest.raises(RequestAmbiguous):
        choose(cookie(*(b"hs1.%d" % n for n in range(100))), never, lambda verified: True)


# Writing


def writer(**given_attributes: Any) -> CookieWriter:
    attributes: dict[str, Any] = {"path": "/", "domain": None, "same_site": "lax", "partitioned": False, "max_age": True}
    return CookieWriter(given_attributes.pop("name", "session"), **(attributes | given_attributes))


def of_starlette(*, clear: bool = False, **arguments: Any) -> str:
    """The Set-Cookie that Starlette's own middleware sends."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"].clear() if clear else scope["session"].update(a=1)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.extend(value.decode() for name, value in message["headers"] if name == b"set-cookie")

    async def receive() -> Any:
        raise AssertionError

    middleware = StarlettesMiddleware(app, "example", **arguments)
    name = arguments.get("session_cookie", "session")
    cookie = f"{name}=eyJhIjogMX0=.x".encode()
    if clear:
        signer = middleware.signer
        cookie = f"{name}=".encode() + signer.sign(b"eyJhIjogMX0=")
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"cookie", cookie)]}

    anyio.run(middleware, scope, receive, send)
    (value,) = sent
    return re.sub(r"(?<==)ey[^;]+", "TOKEN", value)


KNOWS_PARTITIONED = pytest.mark.skipif(
    "partitioned" not in inspect.signature(StarlettesMiddleware).parameters, reason="this release of Starlette's has no partitioned cookies"
)


@pytest.mark.parametrize(
    ("ours", "starlettes", "secure"),
    [
        ({}, {}, False),
        ({"name": "id"}, {"session_cookie": "id"}, False),
        ({"path": "/app", "same_site": "strict"}, {"path": "/app", "same_site": "strict"}, False),
        ({"domain": "example.com"}, {"domain": "example.com"}, False),
        ({"same_site": "none"}, {"same_site": "none", "https_only": True}, True),
        ({"domain": "a.example"}, {"https_only": True, "domain": "a.example"}, True),
        ({"max_age": False}, {"max_age": None}, False),
        pytest.param({"partitioned": True}, {"partitioned": True, "https_only": True}, True, marks=KNOWS_PARTITIONED),
    ],
)
def test_cookies_have_the_literal_form_of_starlettes(ours: dict[str, Any], starlettes: dict[str, Any], secure: bool) -> None:
    two_weeks_s = 14 * 24 * 3600

    assert writer(**ours).set(b"TOKEN", max_age_s=two_weeks_s, secure=secure).decode() == of_starlette(**starlettes)
    removal = of_starlette(clear=True, **starlettes).replace("GMT;", "GMT; Max-Age=0;")
    assert writer(**ours).remove(secure=secure).decode() == removal


def test_the_size_of_a_cookie_besides_its_token_is_never_understated() -> None:
    for one in (writer(), writer(max_age=False), writer(domain="a.example", partitioned=True, path="/" + "x" * 50)):
        for max_age_s in (0, -1, 10**8, -(10**8)):
            for secure in (True, False):
                assert len(one.set(b"", max_age_s=max_age_s, secure=secure)) <= one.overhead()


# https


@pytest.mark.parametrize(
    ("scheme", "headers", "secure"),
    [
        ("https", [], True),
        ("wss", [], True),
        ("http", [], False),
        ("ws", [(b"host", b"https.example")], False),
        ("http", [(b"x-forwarded-proto", b"https")], True),
        ("http", [(b"x-forwarded-proto", b"http, HTTPS")], True),
        ("http", [(b"x-forwarded-proto", b"http")], False),
        ("http", [(b"x-forwarded-scheme", b"https")], True),
        ("http", [(b"x-forwarded-ssl", b"on")], True),
        ("http", [(b"x-forwarded-ssl", b"off")], False),
        ("http", [(b"front-end-https", b"On")], True),
        ("http", [(b"forwarded", b"for=192.0.2.60;proto=https;by=203.0.113.43")], True),
        ("http", [(b"forwarded", b'for=192.0.2.60; Proto="HTTPS"')], True),
        ("http", [(b"forwarded", b"for=192.0.2.60;proto=http")], False),
        ("http", [(b"forwarded", b"for=a;proto=http"), (b"forwarded", b"for=b;proto=https")], True),
        ("http", [(b"forwarded", b"for=192.0.2.60;proto=wss")], True),
        ("http", [(b"x-forwarded-proto", b"wss")], True),
        ("http", [(b"x-forwarded-proto", b"ws")], False),
        ("http", [(b"x-forwarded-protocol", b"https")], True),
        ("http", [(b"x-forwarded-proto", b"http"), (b"cloudfront-forwarded-proto", b"https")], True),
        ("http", [(b"cf-visitor", b'{"scheme":"https"}')], True),
        ("http", [(b"cf-visitor", b'{"scheme":"http"}')], False),
        ("http", [(b"x-appengine-https", b"on")], True),
        ("http", [(b"fastly-ssl", b"1")], True),
        ("http", [(b"fastly-ssl", b"0")], False),
        ("http", [(b"x-arr-ssl", b"2048|256|C=US, O=An Authority|CN=shop.example")], True),
        ("http", [(b"x-arr-ssl", b"")], False),
        ("http", [(b"referer", b"https://example.com")], False),
    ],
)
def test_a_request_is_https_where_anything_says_so(scheme: str, headers: list[Header], secure: bool) -> None:
    assert claims_https(scheme, headers) is secure
