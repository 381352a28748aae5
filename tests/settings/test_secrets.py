"""Weak secrets: which ones are refused, and for which reason."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._settings import secrets
from ha_session_mw._settings.randomness import PATTERN_BITS, bits_of
from ha_session_mw._settings.secrets import MIN_SECRET_BYTES, weakness

PLACEHOLDERS = [
    *("secret", "changeme", "change-me", "CHANGE_ME!", "your-secret-key", "YOUR_SECRET_KEY_HERE", "example", "test", "password", "xxx"),
    *("please change this to a long random string", "replace-this-with-a-long-random-secret-key", "a-very-long-and-secure-secret-key"),
    *(
        "your-256-bit-secret-your-256-bit-secret",
        "super-secret-key-super-secret-key-super-secret-key",
        "insecure-insecure-insecure-insecure",
    ),
    *("secret" * 10, "x" * 64, "changeme" * 8, "123" * 20, "MY_SUPER_SECRET_TOKEN_DO".removesuffix("_DO") + "-please-change-in-production"),
]


@pytest.mark.parametrize("secret", PLACEHOLDERS)
def test_a_placeholder_is_refused_however_long_it_is(secret: str) -> None:
    assert weakness(secret.encode()) == "is a well-known placeholder"


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        (b"", "is empty"),
        (b"django-insecure-3k@x!v9q7w_zj2m8r4t6y1u5i0o", "is marked as insecure"),
        (b"k8Zq", "is 4 bytes long, and 32 is the least"),
        (b"vG7qLw2ZnR9xTb4YkM8cJd5HsP3fA6u", "is 31 bytes long, and 32 is the least"),
        (b"q" * 40, "repeats the same few characters"),
        (b"qwqw" * 12, "repeats the same few characters"),
        (b"\x00" * 32, "repeats the same few characters"),
        (b"-" * 32, "repeats the same few characters"),
    ],
)
def test_a_weak_secret_is_refused_by_a_reason(secret: bytes, why: str) -> None:
    assert weakness(secret) == why


PUBLISHED = [
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
    "pf9Wkove4IKEAXvy-cQkeDPhv9Cb3Ag-wyJILbq_dFw",
    "cg#p$g+j9tax!#a3cup@1$8obt2_+&k3q+pmu)5%asj6yjpkag",
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg",
    "a-string-secret-at-least-256-bits-long",
]


@pytest.mark.parametrize("secret", PUBLISHED)
def test_a_key_that_documentation_shows_is_refused(secret: str) -> None:
    assert weakness(secret.encode()) == "is a key that documentation shows"


PATTERNS = [
    *("01234567890123456789012345678901", "12345678901234567890123456789012", "98765432109876543210987654321098"),
    *("0123456789abcdef0123456789abcdef", "abcdefghijklmnopqrstuvwxyz012345", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"),
    *("abcd1234" * 4, "aB3$xY9!" * 4, "Tr0ub4dor&3-" * 3, "qwertyuiopasdfghjklzxcvbnm1234567890", "QWERTZUIOPasdfghjkl0987654321ytrewq"),
    *("00112233445566778899aabbccddeeff", "a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6", "000111222333444555666777888999aaa", "02468ace" * 4),
    "".join(chr(n) for n in range(33, 97)),
    "1a2b3c4d5e6f7g8h9i0j1a2b3c4d5e6f7g8h9i0j",
]


@pytest.mark.parametrize("secret", PATTERNS)
def test_a_secret_that_counts_or_repeats_itself_is_refused(secret: str) -> None:
    assert weakness(secret.encode()) == "counts or repeats itself"


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=10), st.integers(4, 40))
def test_repeating_a_short_text_makes_no_secret_of_it(part: str, times: int) -> None:
    assert weakness((part * times).encode()) is not None


@given(st.binary(max_size=300))
def test_a_longer_secret_has_no_less_randomness(secret: bytes) -> None:
    assert 0.0 <= bits_of(secret) <= 8 * len(secret) + PATTERN_BITS


@pytest.mark.long
def test_random_secrets_of_few_different_characters_are_strong_enough() -> None:
    random = Random(17)
    for alphabet in ("0123456789", "abcdefgh", "0123456789abcdef", "ACGTXYZW-_"):
        for _ in range(2000):
            secret = "".join(random.choices(alphabet, k=40)).encode()
            assert weakness(secret) in (None, "repeats the same few characters"), secret


def test_thirty_two_bytes_are_enough() -> None:
    assert weakness(b"vG7qLw2ZnR9xTb4YkM8cJd5HsP3fA6uE") is None


def test_bytes_are_counted_not_characters() -> None:
    assert weakness("ключ-из-двадцати-букв".encode()) is None


def test_a_passphrase_without_a_latin_letter_is_no_placeholder() -> None:
    assert weakness("долгая тайная фраза".encode()) is None


@pytest.mark.long
def test_real_secrets_are_never_refused() -> None:
    random = Random(48)

    for size in (24, 32, 48, 64):
        for _ in range(500):
            raw = random.randbytes(size)
            assert weakness(urlsafe_b64encode(raw).rstrip(b"=")) is None  # secrets.token_urlsafe
            assert weakness(raw.hex().encode()) is None  # secrets.token_hex
            assert weakness(b64encode(raw)) is None  # openssl rand -base64
            assert size < MIN_SECRET_BYTES or weakness(raw) is None


@given(st.binary(max_size=80))
def test_a_reason_never_contains_the_secret(secret: bytes) -> None:
    assert len(secret) < 4 or secret.decode("latin-1") not in (weakness(secret) or "")


@pytest.mark.parametrize("word", ["32", "insecure", "atest", "123", "xxx", "secretkey"])
def test_a_placeholder_is_recognised_in_no_more_steps_than_it_has_letters(word: str) -> None:
    """If a word were made of other words, each occurrence would double the work, and the match would not end."""
    assert weakness((word * 2_000 + "-zq8Kw").encode()) != "is a well-known placeholder"


def test_the_words_of_placeholders_are_made_of_no_other_words() -> None:
    """The test of Sardinas and Patterson (1953): no text splits into words in two ways, so matching never backtracks."""
    words = set(secrets._PLACEHOLDER.strip("()*+").split("|"))
    rest = {b.removeprefix(a) for a in words for b in words if a != b and b.startswith(a)}
    known: set[str] = set()
    while rest - known:
        known |= rest
        pairs = [(dangling, word) for dangling in rest for word in words]
        rest = {w.removeprefix(d) for d, w in pairs if w.startswith(d)} | {d.removeprefix(w) for d, w in pairs if d.startswith(w)}
        rest -= {""}

    assert not known & words
