"""Estimate how random a secret is: what counts or repeats was typed, or made by a pattern, and can be guessed."""

from __future__ import annotations

import math

MOST_BYTES = 256
"""How much of a secret is looked at. So many bytes without a pattern are random enough."""
MAX_STRIDE = 3
"""How many interleaved sequences are recognised, such as ``a1b2c3d4`` (two)."""
FOLLOWING = 3
"""How many bytes must follow a pattern until it counts as one. Random text has a shorter one now and then."""
PATTERN_BITS = 8.0
"""The randomness of a pattern besides its first bytes: which pattern it is, and how long."""

_KEYBOARD = (b"qwertyuiop", b"asdfghjkl", b"zxcvbnm", b"qwertzuiop", b"azertyuiop", b"1234567890")
_ROWS = b"\0".join((*_KEYBOARD, *(row[::-1] for row in _KEYBOARD)))


def bits_of(secret: bytes) -> float:
    """Return the bits of randomness in a secret, roughly, and never much more than it has.

    A byte counts with as many bits as tell the secret's different bytes apart. A sequence, a repetition or a part of a
    keyboard's row counts little, at any length.
    """
    text = secret[:MOST_BYTES]
    per_byte = math.log2(len(set(text))) if text else 0.0
    bits, at = 0.0, 0
    while at < len(text):
        length, free = _pattern(text, at)
        if length:
            bits += PATTERN_BITS + free * per_byte
            at += length
        else:
            bits += per_byte
            at += 1
    return bits


def _pattern(text: bytes, at: int) -> tuple[int, int]:
    """Return the length of the longest pattern that begins here, and how many of its bytes are free; 0 without a pattern."""
    best = (0, 0)
    for length, free in (
        (_known(text, at, text), 0),
        (_known(text.lower(), at, _ROWS), 0),
        *((_sequence(text, at, stride), stride) for stride in range(1, MAX_STRIDE + 1)),
    ):
        if length > free + FOLLOWING and length - free > best[0] - best[1]:
            best = (length, free)
    return best


def _known(text: bytes, at: int, known: bytes) -> int:
    """Return how many of the bytes from here on stand in a known text, in the same order. In the same text: only further left."""
    length = FOLLOWING
    while at + length < len(text) and known.find(text[at : at + length + 1], 0, at + length if known is text else None) >= 0:
        length += 1
    return length


def _sequence(text: bytes, at: int, stride: int) -> int:
    """Return how many bytes from here on differ by the same number from the byte so many places before them."""
    end = at + stride
    if end >= len(text):
        return 0
    step = text[end] - text[at]
    while end < len(text) and text[end] - text[end - stride] == step:
        end += 1
    return end - at
