"""Take over the cookies of Starlette's own session middleware, so that a roll-out logs no user out.

Starlette signs base64 JSON with itsdangerous' ``TimestampSigner`` and its defaults. The ids of the new session are derived
from the cookie. A captured cookie is therefore revoked together with the session that was made from it.
"""

from __future__ import annotations

import json
from base64 import b64decode

from itsdangerous import BadSignature, TimestampSigner

from ...exceptions import SessionExpired, TokenInvalid
from ...models import Claims, FamilyId, NodeId, SessionId
from . import data
from .keys import KeyRing, SigningKey
from .tokens import SID_LENGTH, Verified

_ID_SALT = b"ha_session_mw.starlette.1"


def take_over(cookie: bytes, ring: KeyRing, *, now_ms: float, idle_ms: int, absolute_ms: int, issuer: NodeId) -> Verified:
    """Return a Starlette cookie as a verified token that is due for renewal at once.

    Raises:
        TokenInvalid: no key of the ring signed the cookie, or it does not contain a session.
        SessionExpired: the cookie is older than the absolute timeout.
    """
    for key in ring:
        try:
            value, when = TimestampSigner(key.secret).unsign(cookie, return_timestamp=True)
        except BadSignature:
            continue
        begun_ms = int(when.timestamp() * 1000)
        if now_ms >= begun_ms + absolute_ms:
            raise SessionExpired("the cookie of Starlette's middleware is past the absolute timeout", check="absolute_end")
        claims = _claims(
            cookie, key, _content(value), begun_ms=begun_ms, now_ms=now_ms, idle_ms=idle_ms, absolute_ms=absolute_ms, issuer=issuer
        )
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


def _claims(
    cookie: bytes, key: SigningKey, content: bytes, *, begun_ms: int, now_ms: float, idle_ms: int, absolute_ms: int, issuer: NodeId
) -> Claims:
    # Made from the signed text without the signature, because base64 spells the bytes of a signature in several ways.
    derived = key.signer_for(_ID_SALT).get_signature(cookie.rpartition(b".")[0]).decode()
    end_ms = begun_ms + absolute_ms
    return Claims(
        sid=SessionId(derived[:SID_LENGTH]),
        subject=None,
        family=FamilyId(derived[-SID_LENGTH:]),
        cuts=(),
        issued_ms=begun_ms,
        authenticated_ms=begun_ms,
        idle_end_ms=min(int(now_ms) + idle_ms, end_ms),
        absolute_end_ms=end_ms,
        issuer=issuer,
        data=content,
    )
