"""Where tokens are found in a request, and how they are handed back: RFC 6265 cookies and RFC 6750 bearer tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from ...exceptions import RequestAmbiguous
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

_LOOKED_AT = frozenset((b"cookie", b"authorization", INDEX_HEADER))
_NO_TOKEN = (b"", b"null")  # ``null`` is what a removed cookie is set to


class TokenReader:
    """Finds the session tokens in a request's header fields.

    Args:
        cookie_name: the cookie's name; None where cookies are not looked at.
        bearer: whether ``Authorization: Bearer`` is looked at. A bearer token that is not one of ours is left alone.
    """

    def __init__(self, cookie_name: str | None, *, bearer: bool) -> None:
        self._cookie = cookie_name is not None
        self._bearer = bearer
        self._cookie_prefix = f"{cookie_name}=".encode()
        self._cookie_prefix_length = len(self._cookie_prefix)

    def lone(self, headers: Iterable[Header]) -> bytes | None:
        """The value of the one field that can carry a token, if it carries nothing else: what most clients send.

        It then is what :meth:`field` makes of that token, so it can be looked up without being taken apart.
        """
        lone = None
        for field in headers:
            if field[0] in _LOOKED_AT:
                if lone is not None:
                    return None
                lone = field
        if lone is None:
            return None
        name, value = lone
        if name == b"cookie":
            return value if self._cookie and value.startswith(self._cookie_prefix) else None
        return value if self._bearer and name == b"authorization" and value.startswith(b"Bearer ") else None

    def token_of(self, lone: bytes) -> bytes | None:
        """The token of such a field; None where the field has to be taken apart all the same."""
        token = lone[7:] if lone[:7] == b"Bearer " else lone[self._cookie_prefix_length :]
        # Neither other cookies nor quotes or blanks at its end, which come before all characters of a token.
        return token if token.startswith(PREFIX) and b";" not in token and token[-1] > ord('"') else None

    def field(self, presented: Presented) -> bytes:
        """The value of the field that carries this token and nothing else."""
        return (b"Bearer " if presented[0] == "bearer" else self._cookie_prefix) + presented[1]

    def read(self, headers: Iterable[Header]) -> list[Presented]:
        """The tokens that a request carries, in their order, each as often as it was sent."""
        return [presented for field in headers if field[0] in _LOOKED_AT for presented in self._presented(field)]

    def _presented(self, field: Header) -> list[Presented]:
        name, value = field
        if name == b"cookie" and self._cookie:
            return [("cookie", token) for token in _cookie_tokens(value, self._cookie_prefix)]
        if name == b"authorization" and self._bearer and value[:7].lower() == b"bearer ":
            token = value[7:].strip()
            return [("bearer", token)] if token.startswith(PREFIX) else []
        return []


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
