"""The token: ``hs1.<sid>.<kid>.<payload>.<signature>``.

``sid`` is readable, so that any load balancer can hash on it. ``kid`` names the key. The payload is a MessagePack array in
base64url. The signature covers all text before it, and no payload is parsed before its signature has been compared.
"""

from __future__ import annotations

import math
import re
from typing import Any, Generic, Literal, TypeVar

import msgspec
from itsdangerous.encoding import base64_encode

from ...exceptions import KeyNotReached, TokenInvalid, TokenMalformed, TokenTooLarge
from ...models import Claims, CutId, FamilyId, KeyId, NodeId, OwnLives, SessionId
from ...version import TOKEN
from .data import decode, from_extension, is_nested
from .keys import KID_LENGTH, KeyRing, SigningKey
from .renewal import due_ms

_LOWEST, _HIGHEST = TOKEN.reads.lowest, TOKEN.reads.highest

Transport = Literal["cookie", "bearer"]
"""How a token comes with a request."""

PREFIX = b"hs1."
MAX_TOKEN_BYTES = 4096
"""The longest token. Browsers keep cookies of 4096 bytes, name and attributes included (RFC 6265 section 6.1)."""
SID_LENGTH = 22
"""The length of a session id: 128 bits in base64url without padding."""
NOT_BEFORE_LEEWAY_MS = 60_000.0
"""How far in the future a token may have been issued. Each trusted clock is at most 30 s off, so two differ by at most 60 s."""
PARTS = 5
SIGNATURE_LENGTH = 43
"""The length of a signature: SHA-256's 32 bytes in base64url without padding."""

Data = TypeVar("Data")

_ALWAYS = -math.inf
_NEVER = math.inf
_ANY_LIFE_MS = 1 << 62
_EMPTY: dict[str, object] = {}
"""Of all tokens without decoded data."""
_UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_SID = slice(len(PREFIX), -KID_LENGTH - 1)
"""The place of the session's id in the text before the payload."""
_PADDED = (b'"', b'"', b'=="', b'="')
"""The end of a text in base64, as a JSON string, by the length of the text modulo 4."""
_SHAPE = re.compile(rb"hs1\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


class FirstClaims(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The claims that come first in a payload: those that the accept rule needs. Decoded alone, they take a third of the time of all."""

    version: int
    subject: str | None
    family: FamilyId
    cuts: tuple[CutId, ...]
    issued_ms: int
    authenticated_ms: int


class _Payload(FirstClaims, Generic[Data], frozen=True, array_like=True, gc=False):
    idle_end_ms: int
    absolute_end_ms: int
    issuer: NodeId
    record: int
    data: Data
    # Only in the token of a session with lives of its own. An earlier release reads such a token, and ignores this.
    own: OwnLives | msgspec.UnsetType = msgspec.UNSET


class Given(msgspec.Struct, frozen=True, gc=False):
    """Facts that the text of a token does not state. Few tokens have them: those taken over or shortened, or described by a peer.

    Attributes:
        claims: of the token.
        kid: the name of the key that signed it.
        due_ms: the time from which it is due for renewal.
    """

    claims: Claims
    kid: KeyId
    due_ms: float


class Verified(msgspec.Struct, eq=False, gc=False):
    """A token with a good signature. The session may be revoked or expired nevertheless.

    The cache keeps it, so it holds what each request needs, and no more. Its claims are read from its text again.

    Attributes:
        generation: the view's generation under which the accept rule last accepted the token; None if it never did. The validator notes it.
        from_s: the time from which the session may be used, with the leeway for clocks. In the cache it is the time at which the token
            was put there, or up to a second before, if that is later. Many tokens share one such number. In seconds, as the clock gives
            them: each request compares it.
        until_s: the time from which the session has expired, by the idle or the absolute end. In the cache it is the time at which the
            cache forgets the token, if that is sooner.
        transport: how the token comes if ``text`` is a header field: no field of another name stands for it. None for a bare token.
        text: the token; or the header field that carries it and nothing else, under which the cache keeps it.
        given: what is not read from the text.
        cuts: the cuts that the token lists.
        record: the version of the session's record that the token needs; 0 if all data is in the token.
        data: the decoded data of a token, without a record, whose values contain no containers. Shared by all requests with this
            token: copy before use. Empty for other tokens, because each request decodes containers of its own. A decoded copy
            would take twenty times the memory of the token.
        nested_data: data of a token without a record that contains containers, as it travels; None for other tokens.
        quiet_until_s: the time until which a request without changes certainly has nothing to commit.
        units: in the cache: the memory that this takes, roughly, in units of the cache.
        beside: the hash of the field with other cookies that carried the token last. If it comes again, it becomes a key of the cache.
        asked_subject: the subject, once somebody has asked for it: an app that does so does it with each request.
    """

    # Each request looks at the first ones, so that they lie in few lines of the processor's cache.
    generation: object
    from_s: float
    until_s: float
    transport: Transport | None
    record: int
    nested_data: bytes | None
    data: dict[str, object]
    quiet_until_s: float
    text: bytes
    given: Given | None
    cuts: tuple[CutId, ...]
    units: int = 0
    beside: int = 0
    asked_subject: str | msgspec.UnsetType | None = msgspec.UNSET

    def __repr__(self) -> str:
        return f"<Verified under {self.kid}: {self.claims!r}>"

    @property
    def sid(self) -> SessionId:
        """The session's id."""
        return self.ids()[0]

    @property
    def family(self) -> FamilyId:
        """The session with all its ids."""
        return self.ids()[1]

    def ids(self) -> tuple[SessionId, FamilyId]:
        """Return the session's id and its family."""
        if self.given is not None:
            return self.given.claims.sid, self.given.claims.family
        text, sid, first = last_read[0]
        if text is not self.text:
            sid, first = _read(self.text)
        return sid.decode(), first.family  # type: ignore[return-value]  # a call of ``SessionId`` takes time

    def first_claims(self) -> Claims | FirstClaims:
        """Return the claims that the accept rule needs. A method, because the interpreter calls those faster than properties."""
        if self.given is not None:
            return self.given.claims
        text, _, first = last_read[0]
        return first if text is self.text else _read(self.text)[1]

    @property
    def subject(self) -> str | None:
        """The user or account that is logged in; None for a visitor's session."""
        subject = self.asked_subject
        if subject is msgspec.UNSET:
            subject = self.asked_subject = self.first_claims().subject
        return subject

    @property
    def issuer(self) -> NodeId:
        """The node that issued the token."""
        first = self.first_claims()
        return first.issuer if isinstance(first, (Claims, _Payload)) else self.claims.issuer

    @property
    def kid(self) -> KeyId:
        """The name of the key that signed the token."""
        if self.given is not None:
            return self.given.kid
        return KeyId(self.text.rsplit(b".", 2)[0][-KID_LENGTH:].decode())

    @property
    def claims(self) -> Claims:
        """The claims of the token. They are decoded each time, which takes a microsecond or two."""
        if self.given is not None:
            return self.given.claims
        _, sid, _, payload, _ = self.text.rsplit(b".", PARTS - 1)
        return _claims(sid, _decode_payload(_raw(payload)))

    @property
    def nested(self) -> bool:
        """Whether the data may contain containers, which an app can change in place. True for a token with a record."""
        return self.nested_data is not None or bool(self.record)

    @property
    def renew_at_ms(self) -> float:
        """The time from which the token is due for renewal. Before ``quiet_until_s`` nobody need ask."""
        return due_ms(self.claims) if self.given is None else self.given.due_ms

    @classmethod
    def of(cls, claims: Claims, kid: KeyId, *, renew_at_ms: float | None = None) -> Verified:
        """Return a token with these claims as a verified one."""
        given = Given(claims, kid, due_ms(claims) if renew_at_ms is None else renew_at_ms)
        return _verified(b"", given, claims, *_content(claims))


_encode = msgspec.msgpack.Encoder().encode
_decode_payload = msgspec.msgpack.Decoder(_Payload[msgspec.Raw]).decode
_decode_first = msgspec.msgpack.Decoder(FirstClaims).decode
_decode_at_once = msgspec.msgpack.Decoder(_Payload[dict[str, object] | None], ext_hook=from_extension).decode
"""With the data, which most tokens carry; None if a store has it."""
_decode_base64 = msgspec.json.Decoder(bytes).decode
"""Bytes in JSON are base64. This decoder is faster than ``binascii``'s and stricter: it refuses what is no base64."""


def _payload(claims: Claims) -> bytes:
    fields = (
        TOKEN.writes,
        claims.subject,
        claims.family,
        claims.cuts,
        claims.issued_ms,
        claims.authenticated_ms,
        claims.idle_end_ms,
        claims.absolute_end_ms,
        claims.issuer,
        claims.record,
        msgspec.Raw(claims.data),
    )
    return _encode(fields if claims.own is msgspec.UNSET else (*fields, claims.own))


def sign(claims: Claims, key: SigningKey) -> bytes:
    """Return the token for these claims. The same claims and key always give the same text."""
    signed = b"hs1.%b.%b.%b" % (claims.sid.encode(), key.kid.encode(), base64_encode(_payload(claims)))
    return signed + b"." + key.signature(signed)


def length(claims: Claims) -> int:
    """Return the length in bytes of the token for these claims, without signing it."""
    return len("hs1....") + len(claims.sid) + KID_LENGTH + -(-len(_payload(claims)) * 4 // 3) + SIGNATURE_LENGTH


def verify(
    token: bytes,
    ring: KeyRing,
    longest_ms: int = _ANY_LIFE_MS,
    key: bytes | None = None,
    transport: Transport | None = None,
    from_s: float = _ALWAYS,
    until_s: float = _NEVER,
) -> Verified:
    """Return a token as verified, after checks of its size, shape and signature.

    Args:
        token: the token.
        ring: the keys.
        longest_ms: the longest life of a session. A token that was issued under a longer one ends as if it had been issued under this.
        key: the key under which the cache will keep the token. To set this and what follows afterwards takes longer.
        transport: how the token comes with that key.
        from_s, until_s: the time for which the cache will keep it.

    Raises:
        TokenTooLarge: the token is longer than ``MAX_TOKEN_BYTES``.
        TokenMalformed: the text does not have the shape of a token.
        TokenInvalid: the signature does not match.
        KeyNotReached: the ring does not have the key of the token, or a later release issued the token.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenTooLarge(f"more than {MAX_TOKEN_BYTES} bytes", check="size")
    signed, _, signature = token.rpartition(b".")
    head, _, text = signed.rpartition(b".")
    key_of = ring.get
    signer = key_of(head[-KID_LENGTH:])
    # A signature that matches says that all other text is a member's, so nobody need look at its shape.
    if signer is None or not signer.has_signed(signed, signature):
        raise _refusal(token, ring)
    try:
        # As in ``_raw``. The signature covers the text, so no other base64 text of the same bytes gets here.
        raw = _decode_base64(b'"' + text.translate(_FROM_URL_SAFE) + _PADDED[len(text) & 3])
        terms: _Payload[Any]
        content: dict[str, Any] = _EMPTY
        nested_data: bytes | None = None
        try:
            terms = _decode_at_once(raw)
            if not terms.record:
                if terms.data is None:
                    raise msgspec.ValidationError("neither data nor a record")
                content = terms.data
                for value in content.values():
                    kind = type(value)
                    if kind is dict or kind is list:
                        terms = _decode_payload(raw)
                        content, nested_data = _EMPTY, bytes(terms.data)
                        break
        except _UNREADABLE:  # if a store has the data, it does no harm that this copy cannot be read
            terms = _decode_payload(raw)
            content, nested_data = _content(terms)
        if not _LOWEST <= terms.version <= _HIGHEST or not head.isascii():
            raise _later_release(terms)
        key = key or token
        last_read[0] = key, head[_SID], terms
        verified = _verified(key, None, terms, content, nested_data, transport, from_s, until_s)
        if terms.idle_end_ms - terms.issued_ms <= longest_ms:
            return verified
        shorter = msgspec.structs.replace(verified.claims, idle_end_ms=terms.issued_ms + longest_ms)
        given = Given(shorter, signer.kid, due_ms(shorter))
        return _verified(key, given, shorter, content, nested_data, transport, from_s, until_s)
    except _UNREADABLE as exc:
        raise _not_readable(exc) from exc


def unverified(token: bytes) -> tuple[KeyId, Claims]:
    """Return the key id and the claims that a token states, for people to look at. Nothing may be decided by them.

    Raises:
        TokenTooLarge, TokenMalformed: as :func:`verify`.
        KeyNotReached: no release that this one knows issued the token, if any did.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenTooLarge(f"more than {MAX_TOKEN_BYTES} bytes", check="size")
    shape = _SHAPE.fullmatch(token)
    if shape is None:
        raise TokenMalformed("not hs1 with four parts of base64url text", check="shape")
    kid = KeyId(shape[2].decode())
    try:
        payload = _decode_payload(_raw(shape[3]))
        if not _LOWEST <= payload.version <= _HIGHEST:
            raise _later_release(payload)
        _content(payload)
        return kid, _claims(shape[1], payload)
    except _UNREADABLE as exc:
        raise _not_readable(exc) from exc


def _refusal(token: bytes, ring: KeyRing) -> TokenMalformed | KeyNotReached | TokenInvalid:
    """Return why a token is refused of which no key of the ring has signed the text."""
    shape = _SHAPE.fullmatch(token)
    if shape is None:
        return TokenMalformed("not hs1 with four parts of base64url text", check="shape")
    if ring.get(shape[2]) is None:
        return KeyNotReached("signed with a key that this node does not have", check="key")
    return TokenInvalid("the signature does not match", check="signature")


def _later_release(payload: _Payload[Any]) -> msgspec.ValidationError:
    return msgspec.ValidationError(f"payload version {payload.version}")


def _not_readable(exc: Exception) -> KeyNotReached:
    # The signature is good, so a holder of the key issued it: a member of a later release. The client has done nothing wrong.
    return KeyNotReached(f"a payload that this release cannot read: {type(exc).__name__}", check="payload")


def _raw(text: bytes) -> bytes:
    return _decode_base64(b'"' + text.translate(_FROM_URL_SAFE) + _PADDED[len(text) & 3])


def _claims(sid: bytes, payload: _Payload[msgspec.Raw]) -> Claims:
    return Claims(
        sid=SessionId(sid.decode()),
        subject=payload.subject,
        family=payload.family,
        cuts=payload.cuts,
        issued_ms=payload.issued_ms,
        authenticated_ms=payload.authenticated_ms,
        idle_end_ms=payload.idle_end_ms,
        absolute_end_ms=payload.absolute_end_ms,
        issuer=payload.issuer,
        record=payload.record,
        data=bytes(payload.data),
        own=payload.own,
    )


def _verified(
    text: bytes,
    given: Given | None,
    terms: Claims | _Payload[Any],
    content: dict[str, Any],
    nested_data: bytes | None,
    transport: Transport | None = None,
    from_s: float = _ALWAYS,
    until_s: float = _NEVER,
) -> Verified:
    """Return a verified token. Times are floats, which compare faster with a clock's."""
    record, issued_ms, ends_ms, absolute_end_ms = terms.record, terms.issued_ms, terms.idle_end_ms, terms.absolute_end_ms
    # As ``due_ms`` says, but a call takes longer than that.
    renewal_ms = _NEVER
    if ends_ms < absolute_end_ms:
        renewal_ms = (issued_ms + ends_ms) / 2
    else:
        ends_ms = absolute_end_ms
    if given is not None:
        renewal_ms = given.due_ms
    begins_ms = issued_ms - NOT_BEFORE_LEEWAY_MS
    # A product of floats takes less than a quotient, and most tokens need none.
    if from_s * 1000.0 < begins_ms:
        from_s = begins_ms / 1000.0
    until_ms = until_s * 1000.0
    if until_ms > ends_ms:
        until_ms, until_s = ends_ms, ends_ms / 1000.0
    return Verified(
        None,
        from_s,
        until_s,
        transport,
        record,
        nested_data,
        content or _EMPTY,
        _ALWAYS if record else renewal_ms / 1000.0 if renewal_ms < until_ms else until_s,
        text,
        given,
        terms.cuts,
    )


def _content(terms: Claims | _Payload[msgspec.Raw]) -> tuple[dict[str, object], bytes | None]:
    """Return the decoded data of a token; or the data as it travels if it has containers."""
    if terms.record:
        return _EMPTY, None
    content = decode(terms.data)
    return (_EMPTY, bytes(terms.data)) if is_nested(content) else (content or _EMPTY, None)


last_read: list[tuple[bytes, bytes, FirstClaims]] = [(b"", b"", FirstClaims(0, None, FamilyId(""), (), 0, 0))]
"""The one text that was read last, with the session's id and the first claims in it. Code that asks for one of them asks for another.
Compare the text by ``is``: another thread may have read another one meanwhile."""


def _read(text: bytes) -> tuple[bytes, FirstClaims]:
    """Return the session's id and the first claims in the text of a token, or of the field that carries it."""
    _, sid, _, payload, _ = text.rsplit(b".", PARTS - 1)
    first = _decode_first(_raw(payload))
    last_read[0] = text, sid, first
    return sid, first
