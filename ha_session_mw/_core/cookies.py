"""Where tokens are found in a request, and how they are handed back: RFC 6265 cookies and RFC 6750 bearer tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from ..exceptions import RequestAmbiguous
from .tokens import PREFIX, Verified

Transport = Literal["cookie", "bearer"]
Header = tuple[bytes, bytes]

MAX_COOKIE_BYTES = 4096
"""Name, value and attributes together: what every browser keeps (RFC 6265 section 6.1)."""
MAX_PRESENTED = 8
"""More tokens than this in one request are not looked at: each would cost a signature check."""

_NO_TOKEN = (b"", b"null")  # ``null`` is what a removed cookie is set to


def presented(headers: Iterable[Header], cookie_prefix: bytes, *, bearer: bool) -> list[tuple[Transport, bytes]]:
    """The session tokens that a request carries, in their order, each as often as it was sent.

    Args:
        headers: of the ASGI scope.
        cookie_prefix: the cookie's name and ``=``; empty where cookies are not looked at.
        bearer: whether ``Authorization: Bearer`` is looked at. A bearer token that is not one of ours is left alone.
    """
    found: list[tuple[Transport, bytes]] = []
    for name, value in headers:
        if name == b"cookie":
            if cookie_prefix and cookie_prefix in value:
                for pair in value.split(b";") if b";" in value else (value,):
                    pair = pair.strip()
                    if pair.startswith(cookie_prefix):
                        token = pair[len(cookie_prefix) :].strip(b'" ')
                        if token not in _NO_TOKEN:
                            found.append(("cookie", token))
        elif bearer and name == b"authorization" and value[:7].lower() == b"bearer ":
            token = value[7:].strip()
            if token.startswith(PREFIX):
                found.append(("bearer", token))
    return found


def choose(found: list[tuple[Transport, bytes]], verify: Callable[[bytes], Verified | None]) -> tuple[Transport | Literal["both"], bytes]:
    """Which of several presented tokens counts, and how it came.

    Of doubled cookies (of two paths, say) the one that verifies counts, and of two tokens of one session the newer. A
    cookie that is no token of ours does not stand beside a bearer token.

    Raises:
        RequestAmbiguous: they name different sessions.
    """
    if len(found) > MAX_PRESENTED:
        raise RequestAmbiguous(f"{len(found)} tokens in one request", check="presented")
    cookies, bearers = ([*dict.fromkeys(token for way, token in found if way == transport)] for transport in ("cookie", "bearer"))
    if len(bearers) > 1:
        raise RequestAmbiguous("several bearer tokens that differ", check="presented")
    if not bearers:
        return "cookie", _of_doubled(cookies, verify)
    ours = [cookie for cookie in cookies if cookie.startswith(PREFIX)]
    if not ours:
        return "bearer", bearers[0]
    if ours != bearers:
        raise RequestAmbiguous("a cookie and a bearer token that differ", check="presented")
    return "both", bearers[0]


def _of_doubled(cookies: list[bytes], verify: Callable[[bytes], Verified | None]) -> bytes:
    if len(cookies) == 1:
        return cookies[0]
    good = [(verified.claims, cookie) for cookie in cookies if (verified := verify(cookie))]
    if len({claims.sid for claims, _ in good}) > 1:
        raise RequestAmbiguous("several session cookies of different sessions", check="presented")
    if good:
        return max(good, key=lambda pair: pair[0].issued_ms)[1]
    return next((cookie for cookie in cookies if cookie.startswith(PREFIX)), cookies[0])


def claims_https(scheme: str, headers: Iterable[Header]) -> bool:
    """Whether a request came by https, or any forwarding header says so. A lie there only makes the cookie stricter."""
    if scheme in ("https", "wss"):
        return True
    for name, value in headers:
        if name in (b"x-forwarded-proto", b"x-forwarded-scheme", b"x-url-scheme", b"x-scheme"):
            if b"https" in value.lower():
                return True
        elif name in (b"x-forwarded-ssl", b"front-end-https"):
            if value.strip().lower() == b"on":
                return True
        elif name == b"forwarded" and b"proto=https" in value.lower().replace(b'"', b"").replace(b" ", b""):
            return True
    return False


class CookieWriter:
    """Writes the ``Set-Cookie`` values of one configuration, in the literal form of Starlette's middleware."""

    def __init__(self, name: str, *, path: str, domain: str | None, same_site: str, partitioned: bool, max_age: bool) -> None:
        self.name = name
        self._path = path
        self._same_site = f"httponly; samesite={same_site}"
        self._rest = (f"; domain={domain}" if domain is not None else "") + ("; partitioned" if partitioned else "")
        self._max_age = max_age

    def _value(self, value: str, lifetime: str, *, secure: bool) -> bytes:
        flags = self._same_site + ("; secure" if secure else "") + self._rest
        return f"{self.name}={value}; path={self._path}; {lifetime}{flags}".encode("latin-1")

    def set(self, token: bytes, *, max_age_s: int, secure: bool) -> bytes:
        """Hands a token to the browser, for ``max_age_s`` or, where that is switched off, until the browser closes."""
        return self._value(token.decode("ascii"), f"Max-Age={max_age_s}; " if self._max_age else "", secure=secure)

    def remove(self, *, secure: bool) -> bytes:
        return self._value("null", "expires=Thu, 01 Jan 1970 00:00:00 GMT; ", secure=secure)

    def overhead(self) -> int:
        """The most bytes that a cookie takes besides its token."""
        return len(self.set(b"", max_age_s=-(10**9), secure=True))
