"""Take over the cookies of Starlette's own session middleware, so that a roll-out logs no user out.

Starlette signs base64 JSON with itsdangerous' ``TimestampSigner`` and its defaults. The ids of the new session are derived
from the cookie. A captured cookie is therefore revoked together with the session that was made from it.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode

import msgspec
from itsdangerous import BadSignature, TimestampSigner

from ...exceptions import SessionExpired, TokenInvalid
from ...models import Claims, FamilyId, NodeId, SessionId
from . import data
from .keys import KeyRing, SigningKey
from .tokens import MAX_TOKEN_BYTES, NOT_BEFORE_LEEWAY_MS, SID_LENGTH, Verified

_ID_SALT = b"ha_session_mw.starlette.1"


class TakeOver(msgspec.Struct, frozen=True):
    """Which cookies of Starlette's middleware are taken over, and the lives of their sessions.

    Starlette signs a new cookie with each change, and no cookie names its session. An earlier cookie of a session therefore
    survives the log-out of a later one. These bounds end that.

    Attributes:
        idle_ms: the idle timeout.
        absolute_ms: the absolute timeout, which counts from the signature.
        began_ms: the start of this node. Starlette's middleware has been replaced by then, so it signs no more cookies.
        until_ms: the end of the take-over, infinite without one.
    """

    idle_ms: int
    absolute_ms: int
    began_ms: float = math.inf
    until_ms: float = math.inf

    def require(self, signed_ms: int, now_ms: float) -> None:
        """Raise unless a cookie that was signed at ``signed_ms`` may be taken over now."""
        if now_ms >= self.until_ms:
            raise SessionExpired("HA_SESSION_LEGACY_UNTIL has passed", check="absolute_end")
        if now_ms >= signed_ms + self.absolute_ms:
            raise SessionExpired("the cookie of Starlette's middleware is past the absolute timeout", check="absolute_end")
        if signed_ms > self.began_ms + NOT_BEFORE_LEEWAY_MS:  # which another machine's clock may be ahead
            raise TokenInvalid("Starlette's middleware signed the cookie after this node had started", check="signature")


def take_over(cookie: bytes, ring: KeyRing, rules: TakeOver, *, now_ms: float, issuer: NodeId) -> Verified:
    """Return a Starlette cookie as a verified token that is due for renewal at once.

    Raises:
        TokenInvalid: no key of the ring signed the cookie, it does not contain a session, or it was signed too late.
            Or it is longer than browsers allow.
        SessionExpired: the cookie is older than the absolute timeout, or the take-over has ended.
    """
    if len(cookie) > MAX_TOKEN_BYTES:
        raise TokenInvalid("no browser keeps so long a cookie", check="size")
    for key in ring:
        try:
            value, when = TimestampSigner(key.secret).unsign(cookie, return_timestamp=True)
        except BadSignature:
            continue
        signed_ms = int(when.timestamp() * 1000)
        rules.require(signed_ms, now_ms)
        claims = _claims(cookie, key, _content(value), rules, signed_ms=signed_ms, now_ms=now_ms, issuer=issuer)
        return Verified.of(claims, key.kid, renew_at_ms=0.0)
    raise TokenInvalid("no key of the ring signed this cookie of Starlette's middleware", check="signature")


def _content(value: bytes) -> bytes:
    try:
        found = json.loads(b64decode(value))
    except (ValueError, RecursionError) as exc:
        raise TokenInvalid("the cookie does not contain a session", check="payload") from exc
    if not isinstance(found, dict):
        raise TokenInvalid("the cookie does not contain a session", check="payload")
    return data.keep_what_travels(found)


def _claims(cookie: bytes, key: SigningKey, content: bytes, rules: TakeOver, *, signed_ms: int, now_ms: float, issuer: NodeId) -> Claims:
    # Made from the signed text without the signature, because base64 spells the bytes of a signature in several ways.
    derived = key.signer_for(_ID_SALT).get_signature(cookie.rpartition(b".")[0]).decode()
    end_ms = signed_ms + rules.absolute_ms
    return Claims(
        sid=SessionId(derived[:SID_LENGTH]),
        subject=None,
        family=FamilyId(derived[-SID_LENGTH:]),
        cuts=(),
        issued_ms=signed_ms,
        authenticated_ms=signed_ms,
        # The cookie itself is not accepted from a cache after the end of the take-over. Its successors go on.
        idle_end_ms=int(min(now_ms + rules.idle_ms, end_ms, rules.until_ms)),
        absolute_end_ms=end_ms,
        issuer=issuer,
        data=content,
    )
