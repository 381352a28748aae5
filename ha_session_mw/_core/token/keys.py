"""Signing keys: which one signs, which ones verify, and how each is named.

Signatures are itsdangerous' ``Signer`` with SHA-256 and HMAC key derivation, a salt of its own per purpose (RFC 2104,
RFC 5869 section 3.2 for why purposes are kept apart). The derived key is kept, so that a check costs one HMAC.
"""

from __future__ import annotations

import hashlib
import hmac
from binascii import b2a_base64
from collections.abc import Collection, Iterable, Iterator, Sequence

from itsdangerous import Signer
from itsdangerous.encoding import base64_encode
from itsdangerous.signer import SigningAlgorithm

from ...models import KeyId

KID_LENGTH = 8
"""In characters: 48 bits, so that two keys of a ring do not meet by chance."""

_SHA256_BLOCK = 64
"""In bytes."""
_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_TOKEN_SALT = b"ha_session_mw.token.1"
_NAME_SALT = b"ha_session_mw.key-id.1"


class _KeptHmac(SigningAlgorithm):
    """HMAC-SHA256 (RFC 2104) that takes the key in once, as section 4 there allows, and not for each signature: half of the time."""

    def __init__(self, key: bytes) -> None:
        if len(key) > _SHA256_BLOCK:
            raise ValueError("a derived key is never longer than a block")
        padded = key.ljust(_SHA256_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def get_signature(self, key: bytes, value: bytes) -> bytes:  # noqa: ARG002 - taken in before
        inner = self._inner.copy()
        inner.update(value)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


class SigningKey:
    """One secret under one name, with a signer for each purpose."""

    __slots__ = ("_mac", "kid", "secret")

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.kid = KeyId(base64_encode(self._derive(_NAME_SALT))[:KID_LENGTH].decode())
        self._mac = _KeptHmac(self._derive(_TOKEN_SALT))

    def signature(self, signed: bytes) -> bytes:
        """The signature of some bytes, as canonical base64url text: what the signer for this purpose makes, in two thirds of the time."""
        return b2a_base64(self._mac.get_signature(b"", signed), newline=False).translate(_TO_URL_SAFE, b"=")

    def _derive(self, salt: bytes) -> bytes:
        return Signer(self.secret, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256).derive_key()

    def signer_for(self, salt: bytes) -> Signer:
        """A signer for one purpose. Its key is derived once, here, and not at each use."""
        key = self._derive(salt)
        return Signer(key, salt=salt, key_derivation="none", digest_method=hashlib.sha256, algorithm=_KeptHmac(key))

    def __repr__(self) -> str:
        return f"<SigningKey {self.kid}>"


class KeyRing:
    """The keys of a node, newest first.

    Args:
        secrets: the keys that may sign.
        fallbacks: keys that only verify: old ones being retired and new ones being staged. One of them signs only while
            some member of the cluster has none of ``secrets`` yet.
    """

    __slots__ = ("_by_kid", "_in_order")

    def __init__(self, secrets: Iterable[bytes], fallbacks: Iterable[bytes] = ()) -> None:
        self._in_order = tuple(SigningKey(secret) for secret in dict.fromkeys((*secrets, *fallbacks)))
        if not self._in_order:
            raise ValueError("a key ring needs at least one key")
        self._by_kid = {key.kid.encode(): key for key in self._in_order}

    def __iter__(self) -> Iterator[SigningKey]:
        return iter(self._in_order)

    @property
    def kids(self) -> tuple[KeyId, ...]:
        return tuple(key.kid for key in self._in_order)

    def get(self, kid: bytes) -> SigningKey | None:
        """The key of this name; None where there is none."""
        return self._by_kid.get(kid)

    def signing_key(self, announced: Sequence[Collection[KeyId]] = (), denied: Collection[str] = ()) -> SigningKey:
        """The newest key that every other live member announces, so that nobody gets a token it cannot verify.

        Args:
            announced: for each other live member, the kids it has.
            denied: the kids whose tokens are not accepted any more.
        """
        usable = [key for key in self._in_order if key.kid not in denied] or self._in_order
        for key in usable:
            if all(key.kid in kids for kids in announced):
                return key
        # No key is common to all. The newest is as good as any: the members that lack it answer 503, never 401.
        return usable[0]

    def __repr__(self) -> str:
        return f"<KeyRing {' '.join(self.kids)}>"


def same_text(one: bytes, other: bytes) -> bool:
    """Whether two signatures are the same *text*, in constant time. base64 has several spellings of the same bytes."""
    return hmac.compare_digest(one, other)
