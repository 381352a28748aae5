"""Find the tokens in a request, and write them into answers: RFC 6265 cookies and RFC 6750 bearer tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from itertools import islice
from typing import Literal, cast
from urllib.parse import quote

from ...exceptions import RequestAmbiguous
from ..request_fields import MAX_FIELDS, Header, credentials
from .tokens import MAX_TOKEN_BYTES, PREFIX, Transport, Verified

Presented = tuple[Transport | Literal["both"], bytes]
"""The transport of a token, and the token."""

MAX_COOKIE_BYTES = 4096
"""The largest cookie that every browser keeps: name, value and attributes together (RFC 6265 section 6.1)."""
MAX_PRESENTED = 8
"""The most different tokens in one request. A request with more is refused, because each would cost a signature check."""

LONGEST_FIELD = 2 * MAX_COOKIE_BYTES
"""The longest header field that is looked for in the cache: a cookie with any name, or a bearer token. Others must be parsed."""

MAX_CANDIDATES = 128
"""The most cookies of one request whose name ends in the session cookie's name. A browser has that one, and some of other apps."""
MAX_FORWARDED = 16
"""The most fields that say how a request came to the proxy."""
MAX_FORWARDED_BYTES = 1024
"""The longest such field."""
MAX_HOST_LENGTH = 253
"""The longest host name (RFC 1035 section 2.3.4)."""

HOST_PREFIX = "__host-"
"""A cookie whose name has this prefix, in any case, is of one host and of the path / (RFC 6265bis section 4.1.3)."""
MAX_VARIANTS = 16
"""The most lines that remove variants of the cookie: 1 to 2 kB. Proxies bound the header fields of an answer, some to 4 kB."""
MAX_DEPTH = 3
"""How many parent domains and path segments have variants removed. More would not fit into the lines."""
MAX_PATH_LENGTH = 40
"""The longest path of such a line, in characters."""
_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})+")

INDEX_HEADER = b"session-index"
"""The header that names the state that a client has seen. A log-out's answer carries it, and the client sends it to the next node."""

MAX_INDEX_LENGTH = 128
"""How many characters of that header are read. A node's index has less than 60."""

_NO_TRANSPORT = cast(Transport, "index")
"""Stands for that header where a transport is expected. No token comes by it."""

_LOOKED_AT = frozenset((b"cookie", b"authorization", INDEX_HEADER))
_SCHEMES = frozenset(
    (
        *(b"x-forwarded-proto", b"x-forwarded-protocol", b"x-forwarded-scheme", b"x-url-scheme", b"x-scheme"),
        *(b"cloudfront-forwarded-proto", b"cf-visitor"),  # of a CDN whose origin is reached by http
    )
)
_SWITCHES = frozenset((b"x-forwarded-ssl", b"front-end-https", b"x-appengine-https", b"fastly-ssl"))
_FORWARDED = _SCHEMES | _SWITCHES | {b"forwarded", b"x-arr-ssl"}
_PREFIX_LENGTH = len(PREFIX)
_QUOTE = ord('"')
_SEMICOLON = ord(";")
"""As a number: CPython makes and drops an error when it looks for bytes in bytes."""
_NO_TOKEN = (b"", b"null")  # a removed cookie is set to ``null``


@cache
def _cookie_named(name: str | None) -> Transport:  # noqa: ARG001 - the key of the results
    """Return the transport of cookies with a name. It is an object of its own, so that no token is found in a cookie of another name."""
    return cast(Transport, str(b"cookie", "ascii"))


class TokenReader:
    """Finds the session tokens in a request's header fields.

    Args:
        cookie_name: the cookie's name; None if cookies are ignored.
        bearer: whether ``Authorization: Bearer`` is read. A bearer token of another service is ignored.

    Attributes:
        transports: the fields that tell which session a request has, and the transport of each. The cache compares that by identity.
    """

    def __init__(self, cookie_name: str | None, *, bearer: bool) -> None:
        self._cookie = cookie_name is not None
        self._bearer = bearer
        self._cookie_prefix = f"{cookie_name}=".encode()
        self._cookie_prefix_length = len(self._cookie_prefix)
        self.transports: Mapping[bytes, Transport] = {
            b"cookie": _cookie_named(cookie_name),
            b"authorization": "bearer",
            INDEX_HEADER: _NO_TRANSPORT,
        }
        self._begin: dict[Transport | None, bytes] = {"bearer": b"Bearer " + PREFIX} if bearer else {}
        if cookie_name is not None:
            self._begin["cookie"] = self._cookie_prefix + PREFIX
        """The beginning of a field that carries a token, by its transport."""
        self._longest = max(self._cookie_prefix_length, len(b"Bearer ")) + MAX_TOKEN_BYTES

    def token_alone(self, field: bytes | None, transport: Transport | None) -> bytes | None:
        """Return the token of the only field that can carry one, if it carries nothing else. None if the field must be parsed."""
        begin = self._begin.get(transport)
        if not begin or not field or len(field) > self._longest or not field.startswith(begin):
            return None
        token = field[len(begin) - _PREFIX_LENGTH :]
        # No other cookies, and no quote or blank at the end: those sort before all characters of a token.
        return token if _SEMICOLON not in token and token[-1] > _QUOTE else None

    def field(self, presented: Presented) -> bytes:
        """Return the value of the field that carries this token and nothing else."""
        return (b"Bearer " if presented[0] == "bearer" else self._cookie_prefix) + presented[1]

    def read(self, headers: Collection[Header]) -> list[Presented]:
        """Return the tokens of a request in their order, each as often as it was sent.

        Raises:
            HeadersTooLarge: the request is larger than what a browser sends, so its token is not looked for.
            RequestAmbiguous: it carries far too many cookies of our name.
        """
        found: list[Presented] = []
        for field in credentials(headers, _LOOKED_AT):
            found += self._presented(field)
            if len(found) > MAX_CANDIDATES:
                raise RequestAmbiguous(f"more than {MAX_CANDIDATES} session tokens", check="presented")
        return found

    def _presented(self, field: Header) -> list[Presented]:
        name, value = field
        if name == b"cookie" and self._cookie:
            return [("cookie", token) for token in _cookie_tokens(value, self._cookie_prefix)]
        if name == b"authorization" and self._bearer and value[:7].lower() == b"bearer ":
            token = value[7 : 7 + MAX_TOKEN_BYTES + 2].strip()  # one byte more than a token may have, and a blank
            return [("bearer", token)] if token.startswith(PREFIX) else []
        return []


def _cookie_tokens(value: bytes, prefix: bytes) -> list[bytes]:
    """Return the tokens in a ``Cookie`` field. Other cookies cost next to nothing, because only the name is searched for."""
    tokens: list[bytes] = []
    begin, at = 0, value.find(prefix)
    for _ in range(MAX_CANDIDATES + 1):
        if at < 0:
            return [token for token in tokens if token not in _NO_TOKEN]
        begin = max(begin, value.rfind(b";", begin, at) + 1)
        end = value.find(b";", at)
        pair = value[begin : end if end >= 0 else len(value)].strip()
        if pair.startswith(prefix):
            tokens.append(pair[len(prefix) :].strip(b'" '))
        begin, at = end + 1, value.find(prefix, end) if end >= 0 else -1
    raise RequestAmbiguous(f"more than {MAX_CANDIDATES} cookies of one name", check="presented")


def choose(found: list[Presented], verify: Callable[[bytes], Verified | None], may_be_valid: Callable[[Verified], bool]) -> Presented:
    """Return the token that counts, and its transport.

    A browser may send several cookies of one name, for example of two paths, and may keep an expired one for days. A cookie
    that verifies goes before one that does not, and a session that may be valid before one that is not. Of two tokens of one
    session, the newer counts. Beside a bearer token, a cookie that is not a token of this service is ignored.

    Args:
        found: the presented tokens.
        verify: returns the verified token; None if the signature is bad.
        may_be_valid: returns whether the session may be valid.

    Raises:
        RequestAmbiguous: the tokens name different sessions.
    """
    cookies, bearers = ([*dict.fromkeys(token for transport, token in found if transport == one)] for one in ("cookie", "bearer"))
    if len(cookies) + len(bearers) > MAX_PRESENTED:
        raise RequestAmbiguous(f"{len(cookies) + len(bearers)} different tokens in one request", check="presented")
    if len(bearers) > 1:
        raise RequestAmbiguous("several bearer tokens that differ", check="presented")
    if not bearers:
        return "cookie", _of_doubled(cookies, verify, may_be_valid)
    ours = [cookie for cookie in cookies if cookie.startswith(PREFIX)]
    if not ours:
        return "bearer", bearers[0]
    if ours != bearers:
        raise RequestAmbiguous("a cookie and a bearer token that differ", check="presented")
    return "both", bearers[0]


def _of_doubled(cookies: list[bytes], verify: Callable[[bytes], Verified | None], may_be_valid: Callable[[Verified], bool]) -> bytes:
    if len(cookies) == 1:
        return cookies[0]
    good = [(verified, cookie) for cookie in cookies if (verified := verify(cookie))]
    live = [pair for pair in good if may_be_valid(pair[0])]
    if len({verified.sid for verified, _ in live}) > 1:
        raise RequestAmbiguous("several session cookies of different sessions", check="presented")
    if good:
        return max(live or good, key=lambda pair: pair[0].claims.issued_ms)[1]
    return next((cookie for cookie in cookies if cookie.startswith(PREFIX)), cookies[0])


def claims_https(scheme: str, headers: Iterable[Header]) -> bool:
    """Return whether a request came by https, or a forwarding header says so. A lie in a header only makes the cookie stricter.

    Fields that are too long or too many to be read count as if they said so.
    """
    if scheme in ("https", "wss"):
        return True
    given = [field for field in islice(headers, MAX_FIELDS + 1) if field[0] in _FORWARDED]
    if not given:
        return False
    if len(given) > MAX_FORWARDED or any(len(value) > MAX_FORWARDED_BYTES for _, value in given):
        return True
    return any(_says_https(name, value.lower()) for name, value in given)


def _says_https(name: bytes, value: bytes) -> bool:
    if name == b"forwarded":
        return any(proto in value.replace(b'"', b"").replace(b" ", b"") for proto in (b"proto=https", b"proto=wss"))
    if name in _SWITCHES:
        return value.strip() in (b"on", b"1")
    return b"https" in value or b"wss" in value if name in _SCHEMES else bool(value.strip())  # x-arr-ssl describes the certificate


def _attributes(domain: str | None, *, partitioned: bool) -> str:
    return (f"; domain={domain}" if domain is not None else "") + ("; partitioned" if partitioned else "")


def _domains_of(host: str) -> list[str]:
    """Return a host and its parent domains, the host first. None for an address, and for a host without a parent."""
    name = host.partition(":")[0].lower()
    if len(name) > MAX_HOST_LENGTH:
        return []
    labels = name.split(".")
    if not _HOST.fullmatch(name) or labels[-1].isdigit():
        return []
    return [".".join(labels[first:]) for first in range(min(len(labels) - 1, MAX_DEPTH))]


def _paths_of(path: str) -> list[str]:
    """Return the paths of cookies that browsers send to a path, the shortest first. Each may end with a slash, or without."""
    parts = quote(path[:256], safe="/:@!$&'()*+=~%").split("/")[1 : MAX_DEPTH + 1]
    found = ["/"]
    for count in range(1, len(parts) + 1):
        prefix = "/" + "/".join(parts[:count])
        found += [prefix, prefix + "/"]
    return [one for one in found if len(one) <= MAX_PATH_LENGTH and "//" not in one]


class CookieWriter:
    """Writes ``Set-Cookie`` values in the literal format of Starlette's middleware."""

    def __init__(self, name: str, *, path: str, domain: str | None, same_site: str, partitioned: bool, max_age: bool) -> None:
        self.name = name
        self._path = path
        self._domain = domain
        self._partitioned = partitioned
        self._same_site = same_site
        self._rest = _attributes(domain, partitioned=partitioned)
        self._max_age = max_age

    def _value(self, value: str, lifetime: str, *, secure: bool) -> bytes:
        flags = f"httponly; samesite={self._same_site}" + ("; secure" if secure else "") + self._rest
        return f"{self.name}={value}; path={self._path}; {lifetime}{flags}".encode("latin-1")

    def set(self, token: bytes, *, max_age_s: int | None, secure: bool) -> bytes:
        """Return the value that sets the cookie for ``max_age_s`` seconds; until the browser closes, if that is None or Max-Age is off."""
        lifetime = f"Max-Age={max_age_s}; " if self._max_age and max_age_s is not None else ""
        return self._value(token.decode("ascii"), lifetime, secure=secure)

    def remove(self, *, secure: bool) -> bytes:
        """Return the value that removes the cookie."""
        # Max-Age goes before Expires, and counts where the client's clock is wrong (RFC 6265 section 5.3).
        return self._value("null", "expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; ", secure=secure)

    def remove_variants(self, *, host: str, path: str, secure: bool) -> list[bytes]:
        """Return values that remove cookies of the same name which browsers keep beside ours and send to this request, too.

        Browsers tell cookies of one name apart by domain, path and partition (RFC 6265bis section 5.7). Send these values before
        the one that sets or removes the cookie itself. Older browsers do not tell a host-only cookie from one of this host.

        Args:
            host: the field ``Host`` of the request.
            path: the path of the request.
            secure: whether the client came by https. Partitioned cookies exist there only.
        """
        is_host_cookie = self.name.lower().startswith(HOST_PREFIX)
        domains: list[str | None] = [None] if is_host_cookie else [self._domain, None, *_domains_of(host)]
        paths = ["/"] if is_host_cookie else [self._path, *_paths_of(path)]
        own = (self._path, self._domain, self._partitioned)
        places = [(at, domain, part) for at in paths for domain in domains for part in ((False, True) if secure else (False,))]
        found = [place for place in dict.fromkeys(places) if place != own][:MAX_VARIANTS]
        same_site = f"; samesite={self._same_site}" + ("; secure" if secure else "")
        return [
            f"{self.name}=null; path={at}; Max-Age=0{same_site}{_attributes(domain, partitioned=part)}".encode("latin-1")
            for at, domain, part in found
        ]

    def overhead(self) -> int:
        """Return the most bytes that a cookie has besides its token."""
        return len(self.set(b"", max_age_s=-(10**9), secure=True))
