"""Makes hostile requests by the million, and knows without the package's help which of them may be accepted."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from .driver import Header, scope_of

_SEPARATORS = re.compile(rb'[;,\s="]+')
"""What can stand around a token in a header field."""

NAMES = (b"session", b"Session", b"session ", b" session", b"__Host-session", b"sessions", b"xsession", b"session\t", b"", b'"session"')
SCHEMES = (b"Bearer ", b"bearer ", b"BEARER ", b"Bearer", b"Bearer  ", b"Basic ", b"Bearer\t", b"Token ", b"Bearer,", b"")
PATHS = (
    *("/", "/private/x", "/static/x", "/relaxed/x", "/-/session/livez", "/-/session/devices", "/-/session/devices/others", "/-/session/"),
    *("//private/x", "/private/x/..", "/%70rivate/x", "/static/../private/x", "/private/x;a", "/PRIVATE/x", "/private\\x", "private/x"),
    *("/root/private/x", "/root", "/x\x00/private/x", "/private/\ud800", "/-/session/devices/\x00", "/-/session/problems/token_invalid"),
)
METHODS = ("GET", "GET", "POST", "HEAD", "DELETE", "OPTIONS", "PURGE")
NOISE: tuple[Header, ...] = (
    *((b"accept", b"text/html"), (b"accept", b"*/*;q=0.1, text/html;q=x"), (b"session-index", b"a-1"), (b"session-index", b"\xff-9" * 40)),
    *((b"sec-fetch-site", b"cross-site"), (b"session-passive", b"1"), (b"x-forwarded-proto", b"https"), (b"forwarded", b"proto=https;;=")),
    *((b"cookie", b"a=b; c"), (b"cookie", b";;;=;"), (b"authorization", b"Basic x"), (b"user-agent", b"curl/8"), (b"host", b"a.b.example")),
)


def _replaced(token: bytes, at: int, by: bytes, remove: int = 1) -> bytes:
    return token[:at] + by + token[at + remove :]


Mutation = Callable[[random.Random, bytes, bytes], bytes]
"""Changes a token. The second token is another one, to mix with."""

MUTATIONS: tuple[Mutation, ...] = (
    lambda dice, token, _: _replaced(token, dice.randrange(len(token)), bytes([dice.randrange(256)])),
    lambda dice, token, _: _replaced(token, dice.randrange(len(token)), dice.choice((b"", b".", b"-", b"_", b"=", b"%2E", b"\x00", b"A"))),
    lambda dice, token, _: token[: dice.randrange(len(token))],
    lambda dice, token, _: token[dice.randrange(1, len(token)) :],
    lambda dice, token, _: token + dice.choice((b"=", b"==", b".", b"A", b"\n", b"%00", b"\x00", b"\xc2\xa0", b".x", b"'")),
    lambda dice, token, _: dice.choice((b"hs1.", b".", b"x", b"hs2.", b"\xef\xbb\xbf")) + token,
    lambda _, token, __: token.swapcase(),
    lambda _, token, __: token.replace(b"-", b"+").replace(b"_", b"/"),
    lambda _, token, __: b"hs2" + token[3:],
    lambda dice, token, _: token[:-1] + bytes([dice.choice(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")]),
    lambda dice, token, other: b".".join(dice.choice((one, two)) for one, two in zip(token.split(b"."), other.split(b"."), strict=True)),
    lambda dice, token, other: token[: (cut := dice.randrange(len(token)))] + other[cut:],
    lambda dice, token, _: b".".join(dice.sample(parts := token.split(b"."), len(parts))),
    lambda _, token, __: token.rpartition(b".")[0] + b".",
    lambda _, token, __: token.rpartition(b".")[0] + b"." + b"A" * 43,
    lambda dice, token, _: token * dice.randrange(2, 12),
    lambda dice, token, _: b".".join([*token.split(b".")[:2], dice.choice((b"none", b"AAAAAAAA", b"kid", b"..")), *token.split(b".")[3:]]),
    lambda dice, _, __: dice.randbytes(dice.randrange(200)),
)


@dataclass(frozen=True)
class Fuzzed:
    """A request, and the subjects of all tokens that it carries exactly as they were issued and that are valid."""

    scope: Scope
    may_be: frozenset[str]


class Fuzzer:
    """Makes requests.

    Args:
        seed: of the dice.
        valid: the subjects of the valid tokens.
        others: tokens that no node may accept: revoked, expired, and of another secret.
    """

    def __init__(self, seed: int, valid: dict[bytes, str], others: list[bytes]) -> None:
        self._dice = random.Random(seed)
        self._valid = valid
        self._tokens = [*valid, *others]

    def request(self) -> Fuzzed:
        dice = self._dice
        headers = [self._credential() for _ in range(dice.choice((0, 1, 1, 1, 2, 2, 3, 12)))]
        headers += dice.sample(NOISE, dice.choice((0, 0, 1, 3)))
        dice.shuffle(headers)
        kind = "websocket" if dice.random() < 0.1 else "http"
        scope = scope_of(kind, "/", method=dice.choice(METHODS), headers=headers, root_path=dice.choice(("", "", "", "/root", "/")))
        scope["path"] = dice.choice(PATHS)
        pieces = {piece for _, value in headers for piece in _SEPARATORS.split(value)}
        return Fuzzed(scope, frozenset(self._valid[piece] for piece in pieces & self._valid.keys()))

    def _token(self) -> bytes:
        dice = self._dice
        token = dice.choice(self._tokens)
        for _ in range(dice.choice((0, 1, 1, 1, 2))):
            if token.count(b".") == 4 and len(token) > 40:
                token = dice.choice(MUTATIONS)(dice, token, dice.choice(self._tokens))
        return token

    def _credential(self) -> Header:
        dice, token = self._dice, self._token()
        if dice.random() < 0.4:
            name = b"authorization" if dice.random() < 0.95 else b"proxy-authorization"
            return name, (b"Bearer " if dice.random() < 0.7 else dice.choice(SCHEMES)) + token
        name = b"session" if dice.random() < 0.8 else dice.choice(NAMES)
        value = name + b"=" + (b'"' + token + b'"' if dice.random() < 0.1 else token)
        extra: list[Any] = [b"a=b", b"session=", b"session=null", b"", b"x_session=1", b"session=" + self._token()]
        parts = [value, *dice.sample(extra, dice.choice((0, 0, 0, 1, 2)))]
        dice.shuffle(parts)
        return b"cookie", dice.choice((b"; ", b";", b" ; ", b", ")).join(parts)
