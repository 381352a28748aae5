"""Signatures of calls between nodes, of calls of operators, and of the answers: the signed content, and the header field of the signature.

A call's signature covers its name, callee, caller, both nonces, a counter and the body. An answer's covers the call's signature,
the status, the callee's nonce and the body. The callee's nonce and the counter make each call good for one use, without comparing clocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from itsdangerous import Signer

from .._core.token.keys import KeyRing, SigningKey, same_text
from ..abc import PeerFailure

HEADER = "session-peer"
"""The header field of a call's and of an answer's signature."""

FACTS_HEADER = "session-forwarded"
"""The header field of a forwarded request that says what its other fields cannot, such as its path."""

LENGTH_HEADER = "session-length"
"""The length in the answer to a forwarded ``HEAD``. The call is a ``POST``, so its server would demand so long a body."""

MAX_FIELD_LENGTH = 4096
"""How many characters of the field are read. It holds two URLs and some 250 characters more."""

_VERSION = "1"
_MAX_COUNTER_DIGITS = 18
"""A counter of more digits than this would not fit into 64 bits; ours count calls."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """A kind of signed calls. A signature for one purpose is none for another.

    Attributes:
        folder: the folder of their paths, below the prefix of the middleware's own paths.
        salt: keeps their signatures apart from others under the same secret. Its number is the version of the envelope.
        processes: how many processes may stand behind one URL. A call names one of them, so a caller may have to try as often.
        under_way: how many calls of one caller are answered at the same time.
    """

    folder: str
    salt: bytes
    processes: int
    under_way: int


PEER = Purpose("peer", b"ha_session_mw.peer.1", processes=1, under_way=16)
"""Calls between nodes. Each node has a URL of its own. A member has one poll at another, perhaps one that it gave up, and 8 look-ups."""
ADMIN = Purpose("admin", b"ha_session_mw.admin.1", processes=32, under_way=64)
"""Calls of operators. They reach a process by any URL, and several workers may share it."""
FORWARD = Purpose("peer/forward", b"ha_session_mw.forward.1", processes=1, under_way=64)
"""Requests that a node forwards to the owner of their session."""


def digest_of(body: bytes) -> str:
    """Return the SHA-256 of a body, in hex."""
    return hashlib.sha256(body).hexdigest()


@dataclass(frozen=True, slots=True)
class Envelope:
    """A call without its body.

    Attributes:
        callee: the URL of the member that is called.
        callee_nonce: the callee's, as the caller knows it; ``-`` if it does not know it yet.
        caller: the URL of the calling member.
        caller_nonce: the caller's.
        counter: grows with each call of the caller.
        digest: of the body.
    """

    callee: str
    callee_nonce: str
    caller: str
    caller_nonce: str
    counter: int
    digest: str

    def text(self, name: str) -> bytes:
        """Return the bytes that the signature of a call with this name covers."""
        return "\n".join(
            ("call", name, self.callee, self.callee_nonce, self.caller, self.caller_nonce, str(self.counter), self.digest)
        ).encode()

    def field(self, kid: str, signature: str) -> str:
        """Return the value of the header field of a call."""
        return " ".join(
            (
                _VERSION,
                kid,
                self.callee,
                self.callee_nonce,
                self.caller,
                self.caller_nonce,
                str(self.counter),
                self.digest,
                signature,
            )
        )

    @classmethod
    def parse(cls, field: str) -> tuple[Envelope, str, str] | None:
        """Return the envelope, the key id and the signature in the header field of a call; None if it is malformed."""
        parts = field.split(" ", 9)
        if len(parts) != 9 or parts[0] != _VERSION:
            return None
        _, kid, callee, callee_nonce, caller, caller_nonce, counter, digest, signature = parts
        if not counter.isascii() or not counter.isdigit() or len(counter) > _MAX_COUNTER_DIGITS:
            return None
        return cls(callee, callee_nonce, caller, caller_nonce, int(counter), digest), kid, signature


def answer_text(call: str, status: int, nonce: str, body: bytes) -> bytes:
    """Return the bytes that the signature of an answer covers.

    Args:
        call: the signature of the call.
        status: the HTTP status of the answer.
        nonce: the callee's.
        body: of the answer.
    """
    return "\n".join(("answer", call, str(status), nonce, digest_of(body))).encode()


def answer_field(nonce: str, signature: str) -> str:
    """Return the value of the header field of an answer."""
    return f"{_VERSION} {nonce} {signature}"


def parse_answer_field(field: str) -> tuple[str, str] | None:
    """Return the nonce and the signature in the header field of an answer; None if it is malformed."""
    parts = field.split(" ")
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == _VERSION else None


class Signatures:
    """Signs and verifies with any key of the ring. The key id travels with the signature.

    Args:
        ring: returns the present key ring.
        purpose: of the signed calls.
    """

    def __init__(self, ring: Callable[[], KeyRing], purpose: Purpose = PEER) -> None:
        self._ring = ring
        self._salt = purpose.salt
        self._signers: dict[str, Signer] = {}

    def _signer(self, key: SigningKey) -> Signer:
        signer = self._signers.get(key.kid)
        if signer is None:
            signer = self._signers[key.kid] = key.signer_for(self._salt)
        return signer

    def kids(self) -> tuple[str, ...]:
        """Return the ids of the keys in the ring."""
        return self._ring().kids

    def sign(self, kid: str, text: bytes) -> str:
        """Return the signature of a text.

        Raises:
            PeerFailure: the key was removed meanwhile.
        """
        key = self._ring().get(kid.encode())
        if key is None:
            raise PeerFailure("the key was removed meanwhile")
        return self._signer(key).get_signature(text).decode()

    def verify(self, kid: str, text: bytes, signature: str) -> bool:
        """Whether a signature of a text is good."""
        key = self._ring().get(kid.encode())
        return key is not None and same_text(self._signer(key).get_signature(text), signature.encode())
