"""Signing keys: the key that signs, the keys that verify, and the name of each key.

Signatures are those of itsdangerous' ``Signer`` with SHA-256 and HMAC key derivation (RFC 2104). Each purpose has its own salt;
RFC 5869 section 3.2 says why. Derived keys are kept, so that a check costs one HMAC.
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
"""The length of a key's name, in characters: 48 bits, so that two keys of a ring never share a name by chance."""

_SHA256_BLOCK = 64
"""SHA-256's block, in bytes. HMAC pads its key to this length."""
_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URL_SAFE = bytes.maketrans(b"-_+/", b"+/-_")
"""Each character of one alphabet stands for one of the other, so text in the wrong one stays wrong."""
_TOKEN_SALT = b"ha_session_mw.token.1"
_NAME_SALT = b"ha_session_mw.key-id.1"


class _KeptHmac(SigningAlgorithm):
    """HMAC-SHA256 that hashes the padded key once, as RFC 2104 section 4 allows. That halves the time of a signature."""

    def __init__(self, key: bytes) -> None:
        if len(key) > _SHA256_BLOCK:
            raise ValueError("a derived key must not be longer than a block")
        padded = key.ljust(_SHA256_BLOCK, b"\0")
        self.inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self.outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def get_signature(self, key: bytes, value: bytes) -> bytes:  # noqa: ARG002 - hashed at the start
        inner = self.inner.copy()
        inner.update(value)
        outer = self.outer.copy()
        outer.update(inner.digest())
        return outer.digest()


class SigningKey:
    """One secret with its name, and a signer for each purpose.

    Args:
        secret: the secret.
        audience: the app for which it signs. It is part of every derived key, so another app with the same secret refuses all
            signatures. The key's name does not depend on it, so that app knows the key, and answers "invalid" at once.
    """

    __slots__ = ("_audience", "_begin_inner", "_begin_outer", "kid", "secret")

    def __init__(self, secret: bytes, audience: str | None = None) -> None:
        self.secret = secret
        self._audience = b"" if audience is None else b"\n" + audience.encode()  # no salt contains a line feed
        self.kid = KeyId(base64_encode(_derive(secret, _NAME_SALT))[:KID_LENGTH].decode())
        mac = _KeptHmac(_derive(secret, _TOKEN_SALT + self._audience))
        self._begin_inner, self._begin_outer = mac.inner.copy, mac.outer.copy

    def signature(self, signed: bytes) -> bytes:
        """Return the signature of some bytes as canonical base64url text: the same as by ``signer_for``, in half of the time."""
        inner, outer = self._begin_inner(), self._begin_outer()
        inner.update(signed)
        outer.update(inner.digest())
        return b2a_base64(outer.digest()).translate(_TO_URL_SAFE, b"=\n")

    def has_signed(self, signed: bytes, signature: bytes) -> bool:
        """Return whether :meth:`signature` returns this very text for these bytes. Its alphabet costs less here than there."""
        begin_inner, begin_outer = self._begin_inner, self._begin_outer
        inner, outer = begin_inner(), begin_outer()
        inner.update(signed)
        outer.update(inner.digest())
        return same_text(b2a_base64(outer.digest()), signature.translate(_FROM_URL_SAFE) + b"=\n")

    def signer_for(self, salt: bytes) -> Signer:
        """Return a signer for one purpose. Its key is derived here, once."""
        key = _derive(self.secret, salt + self._audience)
        return Signer(key, salt=salt, key_derivation="none", digest_method=hashlib.sha256, algorithm=_KeptHmac(key))

    def __repr__(self) -> str:
        return f"<SigningKey {self.kid}>"


def _derive(secret: bytes, salt: bytes) -> bytes:
    return Signer(secret, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256).derive_key()


class KeyRing:
    """The keys of a node, newest first.

    Args:
        secrets: the keys that may sign.
        fallbacks: the keys that only verify: old keys being retired, and new keys being staged. One of them signs only while
            some member of the cluster has none of ``secrets`` yet.
        audience: the app for which all keys sign; None for any app with these secrets.

    Attributes:
        get: returns the key of a name; None if the ring has none.
        only: the one key of the ring; None if it has several.
    """

    __slots__ = ("_in_order", "get", "only")

    def __init__(self, secrets: Iterable[bytes], fallbacks: Iterable[bytes] = (), *, audience: str | None = None) -> None:
        self._hold(tuple(SigningKey(secret, audience) for secret in dict.fromkeys((*secrets, *fallbacks))))

    def _hold(self, keys: tuple[SigningKey, ...]) -> None:
        if not keys:
            raise ValueError("a key ring needs at least one key")
        self._in_order = keys
        self.get = {key.kid.encode(): key for key in keys}.get
        self.only = keys[0] if len(keys) == 1 else None

    def __iter__(self) -> Iterator[SigningKey]:
        return iter(self._in_order)

    @property
    def kids(self) -> tuple[KeyId, ...]:
        """The names of all keys, the newest first."""
        return tuple(key.kid for key in self._in_order)

    def without(self, denied: Collection[str]) -> KeyRing:
        """Return the ring without revoked keys. A ring of revoked keys alone stays as it is: without a key, nodes could not talk."""
        left = tuple(key for key in self._in_order if key.kid not in denied)
        if not left or len(left) == len(self._in_order):
            return self
        ring = KeyRing.__new__(KeyRing)
        ring._hold(left)  # noqa: SLF001 - this class's own; the keys are derived already
        return ring

    def signing_key(self, announced: Sequence[Collection[KeyId]] = (), denied: Collection[str] = ()) -> SigningKey:
        """Return the newest key that every other live member announces, so that every member can verify the token.

        Args:
            announced: the key names of each other live member.
            denied: the names of revoked keys.
        """
        usable: list[SigningKey] = [*self.without(denied)]
        for key in usable:
            if all(key.kid in kids for kids in announced):
                return key
        # No key is common to all. One member's wrong keys must not make the others sign with a key that is only being staged.
        return max(usable, key=lambda key: sum(key.kid in kids for kids in announced))

    def __repr__(self) -> str:
        return f"<KeyRing {' '.join(self.kids)}>"


same_text = hmac.compare_digest
"""Whether two signatures are the same *text*, compared in constant time. The same bytes have several base64 texts."""
