"""Cookies that Starlette's own middleware made."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from itsdangerous import Signer, TimestampSigner
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ha_session_mw._core.token import data, legacy, renewal
from ha_session_mw._core.token.keys import KeyRing
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.exceptions import SessionExpired, TokenInvalid
from ha_session_mw.models import NodeId

from ..builders import HOUR_MS, KEY, MINUTE_MS, OTHER_KEY, RING

AT_S = 1_800_000_000


class SignerAt(TimestampSigner):
    def get_timestamp(self) -> int:
        return AT_S


def cookie_of_starlette(content: dict[str, Any], secret: bytes = KEY.secret) -> bytes:
    """The cookie that Starlette's middleware, run here, sends to a browser."""

    def write(request: Request) -> PlainTextResponse:
        request.session.update(content)
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", write)], middleware=[Middleware(StarlettesMiddleware, secret_key=secret.decode())])
    client = TestClient(app)
    client.get("/")
    return client.cookies["session"].strip('"').encode()


def cookie(content: object, secret: bytes = KEY.secret) -> bytes:
    """The same cookie, made at a known time."""
    return SignerAt(secret).sign(b64encode(content if isinstance(content, bytes) else json.dumps(content).encode()))


def taken_over(
    found: bytes, *, ring: KeyRing = RING, now_ms: float = AT_S * 1000, idle_ms: int = 30 * MINUTE_MS, **bounds: float
) -> Verified:
    rules = legacy.TakeOver(idle_ms=idle_ms, absolute_ms=12 * HOUR_MS, **bounds)
    return legacy.take_over(found, ring, rules, now_ms=now_ms, issuer=NodeId("node-a"))


def test_a_cookie_that_starlette_really_made_is_a_session_of_ours() -> None:
    found = taken_over(cookie_of_starlette({"user": "ada", "cart": [1, {"n": None}]}), now_ms=0)

    assert data.decode(found.claims.data) == {"user": "ada", "cart": [1, {"n": None}]}
    assert found.nested
    assert found.claims.subject is None
    assert found.renew_at_ms <= 0


def test_it_began_when_starlette_signed_it_and_ends_as_a_session_of_ours_would() -> None:
    found = taken_over(cookie({"a": 1}), now_ms=AT_S * 1000 + HOUR_MS).claims

    assert found.issued_ms == found.authenticated_ms == AT_S * 1000
    assert found.idle_end_ms == AT_S * 1000 + HOUR_MS + 30 * MINUTE_MS
    assert found.absolute_end_ms == AT_S * 1000 + 12 * HOUR_MS


def test_it_is_over_at_its_absolute_end() -> None:
    taken_over(cookie({"a": 1}), now_ms=AT_S * 1000 + 12 * HOUR_MS - 1)
    with pytest.raises(SessionExpired):
        taken_over(cookie({"a": 1}), now_ms=AT_S * 1000 + 12 * HOUR_MS)


def test_the_take_over_ends_and_a_cached_cookie_ends_with_it() -> None:
    until_ms = AT_S * 1000 + HOUR_MS

    found = taken_over(cookie({"a": 1}), now_ms=until_ms - 1000, until_ms=until_ms)
    assert found.until_s == until_ms / 1000
    with pytest.raises(SessionExpired):
        taken_over(cookie({"a": 1}), now_ms=until_ms, until_ms=until_ms)


def test_its_successor_outlives_the_take_over() -> None:
    until_ms = AT_S * 1000 + HOUR_MS
    found = taken_over(cookie({"a": 1}), now_ms=until_ms - 1000, until_ms=until_ms)

    renewed = renewal.successor(found.claims, until_ms - 1000, 30 * MINUTE_MS)
    assert renewed.idle_end_ms > until_ms + 25 * MINUTE_MS


@pytest.mark.parametrize(("late_s", "is_taken"), [(-3600, True), (0, True), (60, True), (61, False), (3600, False)])
def test_a_cookie_that_was_signed_after_the_node_had_started_is_not_taken_over(late_s: int, is_taken: bool) -> None:
    """Starlette's middleware has gone by then. The machine that signed it may be a minute ahead."""
    began_ms = (AT_S - late_s) * 1000

    if is_taken:
        taken_over(cookie({"a": 1}), now_ms=AT_S * 1000, began_ms=began_ms)
    else:
        with pytest.raises(TokenInvalid):
            taken_over(cookie({"a": 1}), now_ms=AT_S * 1000, began_ms=began_ms)


def test_the_same_cookie_is_the_same_session_on_every_node_and_another_cookie_another() -> None:
    one, again, other = (
        taken_over(cookie(content), now_ms=AT_S * 1000 + n).claims for n, content in enumerate(({"a": 1}, {"a": 1}, {"a": 2}))
    )

    assert (one.sid, one.family) == (again.sid, again.family)
    assert len({one.sid, one.family, other.sid, other.family}) == 4
    assert len(one.sid) == len(one.family) == 22


def respellings(found: bytes) -> list[bytes]:
    """Every other text whose signature decodes to the same bytes. base64 has several, and itsdangerous accepts all."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return [
        *(found[:-1] + bytes([last]) for last in alphabet if last != found[-1]),
        *(found + padding for padding in (b"=", b"==", b"===", b"!", b" ", b"=A")),
        found[:-5] + b"!" + found[-5:],
    ]


def test_every_spelling_of_a_cookie_is_the_same_session() -> None:
    """Otherwise, one altered character would make a captured cookie valid again after the log-out, under another id."""
    found = cookie({"user": "ada"})
    original = taken_over(found).claims
    accepted = 0
    for other in respellings(found):
        try:
            claims = taken_over(other).claims
        except TokenInvalid:
            continue
        accepted += 1
        assert (claims.sid, claims.family) == (original.sid, original.family), other
    assert accepted > 3


def test_any_key_of_the_ring_may_have_signed_it() -> None:
    assert taken_over(cookie({"a": 1}, OTHER_KEY.secret)).kid == OTHER_KEY.kid


def test_a_cookie_under_another_secret_is_invalid() -> None:
    with pytest.raises(TokenInvalid):
        taken_over(cookie({"a": 1}, OTHER_KEY.secret), ring=KeyRing([KEY.secret]))


@pytest.mark.parametrize("bad", [b"", b".", b"..", b"null", b"eyJhIjogMX0=", b"a.b.c", b"\xff.\xfe.\xfd", b"hs1.a.b.c.d"])
def test_a_cookie_that_is_not_starlettes_is_invalid(bad: bytes) -> None:
    with pytest.raises(TokenInvalid):
        taken_over(bad)


def test_every_altered_cookie_is_invalid() -> None:
    good = cookie({"a": 1})
    for position in range(len(good)):
        for byte in (b"A", b"_", b".", b"\x00"):
            changed = good[:position] + byte + good[position + 1 :]
            if changed != good:
                with pytest.raises(TokenInvalid):
                    taken_over(changed)


@pytest.mark.parametrize(
    "content",
    [b"[1, 2]", b"1", b"null", b"not json", b"\xff\xfe", b"", b'{"a": 1', b"[" * 100_000],
    ids=lambda content: content[:24],
)
def test_signed_content_that_is_no_session_is_invalid_and_no_fault_of_the_server(content: bytes) -> None:
    with pytest.raises(TokenInvalid):
        taken_over(cookie(content))


def test_a_value_that_a_session_of_ours_cannot_hold_is_left_out_and_the_session_goes_on() -> None:
    deep = "[" * 200 + "]" * 200
    found = taken_over(cookie(f'{{"user": "ada", "deep": {deep}, "\\ud800": 1, "n": 36893488147419103232, "s": "\\ud800"}}'.encode()))

    assert found.data == {"user": "ada", "n": 2**65, "s": "\ud800"}


def test_signed_text_that_is_not_base64_is_invalid() -> None:
    with pytest.raises(TokenInvalid):
        taken_over(SignerAt(KEY.secret).sign(b"AAAAA"))


def test_a_signature_without_a_time_is_invalid() -> None:
    with pytest.raises(TokenInvalid):
        taken_over(Signer(KEY.secret).sign(b64encode(b'{"a": 1}')))


def test_no_refusal_shows_the_cookies_content() -> None:
    for bad in (cookie(b'["canary"]'), cookie({"a": "canary"}, OTHER_KEY.secret), cookie(b'"canary"')):
        with pytest.raises(TokenInvalid) as caught:
            taken_over(bad, ring=KeyRing([KEY.secret]))
        assert "canary" not in f"{caught.value!r} {caught.value.reason}"
