"""The record of a request with an idempotency key, and how a repeat is answered. Performs no I/O and reads no clock.

The statuses are those of the IETF draft "The Idempotency-Key HTTP Header Field". A repeat gets the answer of the first request. It gets 409
while that is under way, and 422 if it asks for something else.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Literal

import msgspec

from ...exceptions import IdempotencyKeyReused, RequestInFlight
from ...version import ONCE

KEPT_MS = 24 * 60 * 60 * 1000
"""How long an answer is kept. Clients repeat within seconds, and queues within hours."""
MOST_ANSWER_BYTES = 65_536
"""The longest answer, encoded."""


class Once(msgspec.Struct, frozen=True, array_like=True):
    """The content of a record.

    Attributes:
        request: a digest of what is asked for.
        lease_ms: until when the first request may be under way (wall clock); 0 once it is answered.
        answer: its answer, encoded.
    """

    request: bytes
    lease_ms: int
    answer: msgspec.Raw = msgspec.Raw(b"\xc0")


_encoder = msgspec.msgpack.Encoder()
_decode = msgspec.msgpack.Decoder(Once).decode


def record_id(owner: str, key: str) -> str:
    """Return the id of the record for a key of one owner. It cannot be guessed, and shows neither."""
    return urlsafe_b64encode(sha256(f"once\0{owner}\0{key}".encode("utf-8", "surrogatepass")).digest()[:24]).decode()


def digest(request: bytes) -> bytes:
    """Return a digest of what is asked for."""
    return sha256(request).digest()[:16]


def encode(once: Once) -> bytes:
    return bytes([ONCE.writes]) + _encoder.encode(once)


def encode_answer(answer: object) -> msgspec.Raw:
    """Return an answer as it is kept.

    Raises:
        TypeError, ValueError: it has something that MessagePack cannot carry, or is too long.
    """
    encoded = _encoder.encode(answer)
    if len(encoded) > MOST_ANSWER_BYTES:
        raise ValueError(f"an answer may have {MOST_ANSWER_BYTES} bytes, and this one has {len(encoded)}")
    return msgspec.Raw(encoded)


def decode_answer(once: Once) -> object:
    return msgspec.msgpack.decode(once.answer)


def decide(content: bytes, request: bytes, now_ms: float) -> Once | Literal["take over"]:
    """Return the answered record, or whether the first request has died without an answer.

    Args:
        content: of the stored record.
        request: the digest of what is asked for now.
        now_ms: the present moment (wall clock).

    Raises:
        IdempotencyKeyReused: the first request asked for something else.
        RequestInFlight: it is under way; or a later release wrote the record.
    """
    if not content or content[0] not in ONCE.reads:
        raise RequestInFlight("a later release wrote the record of this key")
    once = _decode(content[1:])
    if once.request != request:
        raise IdempotencyKeyReused("the first request with this key asked for something else")
    if not once.lease_ms:
        return once
    if now_ms < once.lease_ms:
        raise RequestInFlight("the first request with this key is under way")
    return "take over"
