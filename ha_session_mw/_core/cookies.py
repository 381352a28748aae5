"""Where tokens are found in a request, and how they are handed back: RFC 6265 cookies and RFC 6750 bearer tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from cachetools import FIFOCache

from ..exceptions import RequestAmbiguous
from .tokens import PREFIX, Verified

Transport = Literal["cookie", "bearer"]
Presented = tuple[Transport | Literal["both"], bytes]
"""How a token came, and the token."""
Header = tuple[bytes, bytes]

MAX_COOKIE_BYTES = 4096
"""Name, value and attributes together: what every browser keeps (RFC 6265 section 6.1)."""
MAX_PRESENTED = 8
"""More different tokens than this in one request are not looked at: each would cost a signature check."""

INDEX_HEADER = b"session-index"
"""Names the state that a client has seen: sent with a log-out's answer, and sent back to whichever node comes next."""
MAX_REMEMBERED_BYTES = 1024
"""A field longer than this is read anew each time: four times a usual token, and what a client may make a node hold on to."""

_NO_TOKEN = (b"", b"null")  # ``null`` is what a removed cookie is set to


class TokenReader:
    """Finds the session tokens in a request's header fields.

    What a field says never changes, so a field whose token was found good is remembered and not taken apart again.

    Args:
        cookie_name: the cookie's name; None where cookies are not looked at.
        bearer: whether ``Authorization: Bearer`` is looked at. A bearer token that is not one of ours is left alone.
        size: how many fields are remembered.
    """

    def __init__(self, cookie_name: str | None, *, bearer: bool, size: int) -> None:
        self._cookie_prefix = f"{cookie_name}=".encode() if cookie_name is not None else b""
        # With an index besides, a request is never recalled, so that the index is looked at.
        self._carriers = {INDEX_HEADER, *([b"cookie"] if cookie_name is not None else []), *([b"authorization"] if bearer else [])}
        self._remembered: FIFOCache[bytes, Presented] = FIFOCache(size)

    def recall(self, headers: Iterable[Header]) -> Presented | None:
        """The only token of a request whose field was seen before; None where the fields must be read."""
        fields = [value for name, value in headers if name in self._carriers]
        if len(fields) == 1:
            try:
                return self._remembered[fields[0]]
            except KeyError:
                pass
        return None

    def read(self, headers: Iterable[Header]) -> list[Presented]:
        """The tokens that a request carries, in their order, each as often as it was sent."""
        return [presented for field in headers if field[0] in self._carriers for presented in self._presented(field)]

    def remember(self, headers: Iterable[Header], presented: Presented) -> None:
        """Note that the token that counts here was found good. (To note others would let anybody fill the memory.)"""
        fields = [value for name, value in headers if name in self._carriers]
        if len(fields) == 1 and len(fields[0]) <= MAX_REMEMBERED_BYTES:
            self._remembered[fields[0]] = presented

    def _presented(self, field: Header) -> list[Presented]:
        name, value = field
        if name == b"cookie":
            return [("cookie", token) for token in _cookie_tokens(value, self._cookie_prefix)]
        if name == INDEX_HEADER:
            return []
        token = value[7:].strip()
        return [("bearer", token)] if value[:7].lower() == b"bearer " and token.startswith(PREFIX) else []


def _cookie_tokens(value: bytes, prefix: bytes) -> list[bytes]:
    pairs = [pair.strip() for pair in value.split(b";")]
    tokens = [pair[len(prefix) :].strip(b'" ') for pair in pairs if pair.startswith(prefix)]
    return [token for token in tokens if token not in _NO_TOKEN]


def choose(found: list[Presented], verify: Callable[[bytes], Verified | None], stands: Callable[[Verified], bool]) -> Presented:
    """Which of several presented tokens counts, and how it came.

    Of doubled cookies (of two paths, say) the one that verifies counts, and one whose session has ended does not beside
    one that may stand: the browser could hold on to it for days. Of two tokens of one session the newer counts. A cookie
    that is no token of ours does not stand beside a bearer token.

    Args:
        found: the tokens.
        verify: what a token says; None where its signature is bad.
        stands: whether its session may stand.

    Raises:
        RequestAmbiguous: they name different sessions.
    """
    cookies, bearers = ([*dict.fromkeys(token for way, token in found if way == transport)] for transport in ("cookie", "bearer"))
    if len(cookies) + len(bearers) > MAX_PRESENTED:
        raise RequestAmbiguous(f"{len(cookies) + len(bearers)} different tokens in one request", check="presented")
    if len(bearers) > 1:
        raise RequestAmbiguous("several bearer tokens that differ", check="presented")
    if not bearers:
        return "cookie", _of_doubled(cookies, verify, stands)
    ours = [cookie for cookie in cookies if cookie.startswith(PREFIX)]
    if not ours:
        return "bearer", bearers[0]
    if ours != bearers:
        raise RequestAmbiguous("a cookie and a bearer token that differ", check="presented")
    return "both", bearers[0]


def _of_doubled(cookies: list[bytes], verify: Callable[[bytes], Verified | None], stands: Callable[[Verified], bool]) -> bytes:
    if len(cookies) == 1:
        return cookies[0]
    good = [(verified, cookie) for cookie in cookies if (verified := verify(cookie))]
    live = [pair for pair in good if stands(pair[0])]
    if len({verified.claims.sid for verified, _ in live}) > 1:
        raise RequestAmbiguous("several session cookies of different sessions", check="presented")
    if good:
        return max(live or good, key=lambda pair: pair[0].claims.issued_ms)[1]
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
