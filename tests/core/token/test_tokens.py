"""The token: every signed token verifies to the same claims, and nothing else verifies."""

from __future__ import annotations

import hashlib
import json
import math
import re
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from itsdangerous import Signer
from itsdangerous.encoding import base64_decode, base64_encode

from ha_session_mw._core.token import data, tokens
from ha_session_mw._core.token.keys import KeyRing, SigningKey
from ha_session_mw._core.token.renewal import due_ms
from ha_session_mw._core.token.tokens import MAX_TOKEN_BYTES, NOT_BEFORE_LEEWAY_MS, FirstClaims, Verified, length, sign, verify
from ha_session_mw.exceptions import ClientFault, KeyNotReached, ProblemError, TokenInvalid, TokenMalformed, TokenTooLarge
from ha_session_mw.models import Claims, OwnLives

from ..builders import KEY, OTHER_KEY, RING, any_claims, claims

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "hs1.json").read_text())["vectors"]
ALPHABET = string.ascii_letters + string.digits + "-_"


def refusal(token: bytes, ring: KeyRing = RING) -> type[ProblemError] | None:
    """The problem with which a token is refused. Any other error passes through, and fails the test."""
    try:
        verify(token, ring)
    except ProblemError as problem:
        return type(problem)
    return None


def signed(payload: bytes, *, key: SigningKey = KEY) -> bytes:
    """A signed token with an arbitrary payload. Only a holder of the key can make one."""
    text = b"hs1.sid-of-a-session-ABCDE.%b.%b" % (key.kid.encode(), payload)
    return text + b"." + key.signature(text)


# Vectors: written once, true for ever


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["story"] for vector in VECTORS])
def test_a_token_of_an_earlier_release_verifies_to_the_claims_it_was_made_from(vector: dict[str, Any]) -> None:
    verified = verify(vector["token"].encode(), KeyRing([vector["secret"].encode()], audience=vector.get("audience")))

    assert verified.claims == msgspec.convert(vector["claims"], Claims)
    assert verified.kid == vector["kid"]
    assert verified.data == ({} if verified.nested else data.decode(verified.claims.data))


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["story"] for vector in VECTORS])
def test_the_same_claims_under_the_same_key_still_make_the_same_text(vector: dict[str, Any]) -> None:
    assert (
        sign(msgspec.convert(vector["claims"], Claims), SigningKey(vector["secret"].encode(), vector.get("audience"))).decode()
        == vector["token"]
    )


# Signed tokens


@given(any_claims())
def test_all_signed_claims_verify_to_the_same_claims(given_claims: Claims) -> None:
    token = sign(given_claims, KEY)
    assume(len(token) <= MAX_TOKEN_BYTES)

    verified = verify(token, RING)

    assert verified.claims == given_claims
    assert verified.kid == KEY.kid
    assert verified.record == given_claims.record
    if given_claims.record:  # the data is in the record
        assert verified.data == {}
        assert verified.nested
    else:
        content = data.decode(given_claims.data)
        assert verified.nested == any(isinstance(value, (dict, list)) for value in content.values())
        assert verified.data == ({} if verified.nested else content)  # nobody reads decoded containers: each request decodes its own


@given(any_claims())
def test_the_times_of_a_verified_token_are_those_of_its_claims(given_claims: Claims) -> None:
    token = sign(given_claims, KEY)
    assume(len(token) <= MAX_TOKEN_BYTES)

    for verified in (verify(token, RING), Verified.of(given_claims, KEY.kid)):
        assert verified.from_s == (given_claims.issued_ms - NOT_BEFORE_LEEWAY_MS) / 1000
        assert verified.until_s == min(given_claims.idle_end_ms, given_claims.absolute_end_ms) / 1000
        assert verified.renew_at_ms == due_ms(given_claims)
        assert verified.quiet_until_s == (-math.inf if verified.record else min(verified.renew_at_ms / 1000, verified.until_s))


@given(any_claims(), st.sampled_from([b"", b"session=", b"a.hs1.b="]))
def test_what_the_accept_rule_needs_is_read_from_the_text_whichever_token_was_read_last(given_claims: Claims, before: bytes) -> None:
    token = sign(given_claims, KEY)
    assume(len(token) <= MAX_TOKEN_BYTES)
    another = sign(claims(), KEY)
    one, other = verify(token, RING, key=before + token), verify(another, RING, key=before + another)

    for verified in (other, one, one, other, Verified.of(given_claims, KEY.kid)):
        expected = verified.claims
        first = verified.first_claims()
        assert [getattr(first, name) for name in FirstClaims.__struct_fields__ if name != "version"] == [
            getattr(expected, name) for name in FirstClaims.__struct_fields__ if name != "version"
        ]
        assert (*verified.ids(), verified.kid, verified.issuer) == (expected.sid, expected.family, KEY.kid, expected.issuer)
        assert verified.subject == verified.subject == expected.subject


@given(any_claims(), st.integers(0), st.integers(0, 255))
def test_the_verifier_of_itsdangerous_agrees_about_every_token_and_every_altered_one(given_claims: Claims, place: int, byte: int) -> None:
    signer = Signer(KEY.secret, salt=b"ha_session_mw.token.1", key_derivation="hmac", digest_method=hashlib.sha256)
    token = sign(given_claims, KEY)
    assume(len(token) <= MAX_TOKEN_BYTES)
    altered = bytearray(token)
    altered[place % len(token)] = byte

    assert signer.sign(token.rpartition(b".")[0]) == token
    assert signer.unsign(token) == token.rpartition(b".")[0]
    if refusal(bytes(altered)) is None:  # itsdangerous takes a signature in another spelling, too
        assert signer.unsign(bytes(altered))
        assert altered == token


@given(any_claims())
def test_the_length_of_a_token_is_known_before_it_is_signed(given_claims: Claims) -> None:
    assert length(given_claims) == len(sign(given_claims, KEY))


@given(any_claims())
def test_a_token_is_one_word_of_url_safe_text_that_begins_with_the_format_and_the_session_id(given_claims: Claims) -> None:
    token = sign(given_claims, KEY).decode()

    assert re.fullmatch(r"[A-Za-z0-9._-]+", token)
    assert token.split(".")[:3] == ["hs1", given_claims.sid, KEY.kid]


def test_a_token_in_use_today_fits_a_cookie_many_times_over() -> None:
    assert len(sign(claims(content={"cart": [1, 2, 3]}), KEY)) < 300


# Altered tokens


def altered(token: bytes) -> Iterator[bytes]:
    """Every token with one character changed into any other that a token may have."""
    for position in range(len(token)):
        for character in (ALPHABET + ".").encode():
            if token[position] != character:
                yield token[:position] + bytes([character]) + token[position + 1 :]


@pytest.mark.parametrize(
    "given_claims",
    [claims(), claims(subject=None, content={"name": "Zoë", "cart": [{"id": 7}]})],
    ids=["of a subject", "of a visitor with data"],
)
def test_a_token_with_any_one_character_changed_is_refused(given_claims: Claims) -> None:
    token = sign(given_claims, KEY)

    refusals = Counter(map(refusal, altered(token)))

    assert set(refusals) == {TokenInvalid, TokenMalformed, KeyNotReached}
    assert sum(refusals.values()) == 64 * len(token)


def test_a_signature_in_another_spelling_of_the_same_bytes_is_refused() -> None:
    """Decoders ignore two bits of the last of the 43 characters, so three other characters there decode to the same bytes."""
    token = sign(claims(), KEY)
    spellings = [
        token[:-1] + bytes([character])
        for character in ALPHABET.encode()
        if base64_decode(token[-43:-1] + bytes([character])) == base64_decode(token[-43:])
    ]

    assert len(spellings) == 4
    assert [spelling for spelling in spellings if refusal(spelling) is None] == [token]


@given(any_claims(), st.data())
def test_any_changed_character_of_any_token_is_refused(given_claims: Claims, choice: st.DataObject) -> None:
    token = sign(given_claims, KEY)
    position = choice.draw(st.integers(0, len(token) - 1))
    byte = choice.draw(st.integers(0, 255).filter(lambda byte: byte != token[position]))

    assert refusal(token[:position] + bytes([byte]) + token[position + 1 :]) is not None


def test_a_token_cut_short_or_grown_at_either_end_is_refused() -> None:
    token = sign(claims(), KEY)

    for size in range(len(token)):
        assert refusal(token[:size]) is not None
        assert refusal(token[size + 1 :]) is not None
    for extra in (b".", b"A", b"=", b" ", b"\n", b"\x00", b'"', b";"):
        assert refusal(token + extra) is not None
        assert refusal(extra + token) is not None


def test_no_part_of_a_token_has_another_spelling() -> None:
    """Its session is denied by an id that is part of the signed text, so a second spelling would have to be signed, too."""
    token = sign(claims(content={"name": "Zoë?>~", "n": 1}), KEY)
    parts = token.split(b".")
    spellings = [token.swapcase(), token.upper(), token.replace(b"-", b"+").replace(b"_", b"/"), token.replace(b".", b"%2E")]
    for place, part in enumerate(parts):
        last = [bytes([character]) for character in ALPHABET.encode()]
        changed = [
            part.swapcase(),
            part + b"=",
            part + b"==",
            *(part[:-1] + character for character in last),
            b"%%%02x" % part[0] + part[1:],
        ]
        spellings += [b".".join([*parts[:place], other, *parts[place + 1 :]]) for other in changed]

    assert [spelling for spelling in spellings if spelling != token and refusal(spelling) is None] == []


def test_the_parts_of_two_good_tokens_do_not_make_a_third() -> None:
    mine, yours = (sign(claims(sid, subject=who), KEY).split(b".") for sid, who in (("A" * 22, "ada"), ("B" * 22, "bob")))

    for mask in range(1, 2**5 - 1):
        mixed = b".".join(yours[i] if mask >> i & 1 else mine[i] for i in range(5))
        if mixed not in (b".".join(mine), b".".join(yours)):
            assert refusal(mixed) is TokenInvalid


# Tokens that were never signed


def made_up(random: Random) -> Iterator[bytes]:
    """Inputs of every kind: noise, noise in the shape of a token, pieces of real tokens, and real tokens with several changes."""
    real = [sign(claims(content={"n": n, "text": "x" * n}), key) for n in (0, 30) for key in (KEY, OTHER_KEY)]
    letters = (ALPHABET + ".=").encode()
    while True:
        yield random.randbytes(random.randrange(80))
        yield bytes(random.choices(letters, k=random.randrange(200)))
        yield b"hs1." + b".".join(bytes(random.choices(letters[:-2], k=random.randrange(1, 60))) for _ in range(random.randrange(6)))
        yield b"hs1.%b.%b.%b.%b" % (
            *(real[0].split(b".")[1], random.choice([KEY, OTHER_KEY]).kid.encode()),
            *(base64_encode(random.randbytes(random.randrange(1, 60))), base64_encode(random.randbytes(32))),
        )
        one, other = random.choices(real, k=2)
        yield one[: random.randrange(len(one))]
        yield one[: random.randrange(1, len(one))] + other[random.randrange(1, len(other)) :]
        changed = bytearray(one)
        for _ in range(random.randrange(1, 6)):
            changed[random.randrange(len(changed))] = random.randrange(256)
        yield bytes(changed)


def test_no_input_makes_anything_but_a_refusal() -> None:
    real = {sign(claims(content={"n": n, "text": "x" * n}), key) for n in (0, 30) for key in (KEY, OTHER_KEY)}
    inputs = (token for _, token in zip(range(100_000), made_up(Random(2159)), strict=False) if token not in real)

    refusals = Counter(map(refusal, inputs))

    assert None not in refusals
    assert {kind for kind in refusals if kind} == {TokenMalformed, TokenInvalid, KeyNotReached}
    assert sum(refusals.values()) > 99_000


def payloads(random: Random) -> Iterator[bytes]:
    """Payloads that no release makes: noise, changed, truncated or deep payloads, and text that is not base64."""
    real = base64_decode(sign(claims(content={"n": 1, "list": [1, {"a": "ü"}], "when": b"x"}), KEY).split(b".")[3])
    while True:
        yield base64_encode(random.randbytes(random.randrange(1, 80)))
        yield base64_encode(real[: random.randrange(1, len(real))])
        changed = bytearray(real)
        for _ in range(random.randrange(1, 4)):
            changed[random.randrange(len(changed))] = random.randrange(256)
        yield base64_encode(bytes(changed))
        yield bytes(random.choices(ALPHABET.encode(), k=random.randrange(1, 40)))
        yield base64_encode(real[:-20] + b"\x81\xa1a" + b"\x91" * random.randrange(1, 2_000) + b"\xc0")


def test_even_a_good_signature_over_nonsense_makes_nothing_but_a_refusal_or_claims() -> None:
    for _, payload in zip(range(20_000), payloads(Random(4067)), strict=False):
        token = signed(payload)
        try:
            found = verify(token, RING)
        except KeyNotReached:
            pass
        except TokenTooLarge:
            assert len(token) > MAX_TOKEN_BYTES
        else:
            assert isinstance(found, Verified)


# How it is refused


def test_a_token_above_4096_bytes_is_not_looked_at() -> None:
    assert refusal(b"hs1." + b"A" * 4092) is TokenMalformed
    assert refusal(b"hs1." + b"A" * 4093) is TokenTooLarge
    assert refusal(b"\xff" * 10_000_000) is TokenTooLarge


@pytest.mark.parametrize(
    "token",
    [
        *(b"", b"hs1", b"hs1.", b"hs1....", b"hs1.a.b.c", b"hs1.a.b.c.", b"hs1..b.c.d", b"hs1.a.b.c.d.e", b".hs1.a.b.c.d"),
        *(b"hs2.a.b.c.d", b"HS1.a.b.c.d", b"hs1.a.b.c.d\n", b"hs1.a.b.c=.d", b"hs1.a.b.c.d==", b"hs1.a b.c.d.e", b"hs1.\xc3\xa9.b.c.d"),
        b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.1rT6bVx0dG0",
    ],
)
def test_text_without_the_shape_of_a_token_is_malformed(token: bytes) -> None:
    with pytest.raises(TokenMalformed) as caught:
        verify(token, RING)

    assert caught.value.check == "shape"


def test_an_altered_token_is_invalid_by_its_signature() -> None:
    sid, rest = sign(claims(), KEY).split(b".", 2)[1:]
    with pytest.raises(TokenInvalid) as caught:
        verify(b"hs1." + sid[::-1] + b"." + rest, RING)

    assert caught.value.check == "signature"


def test_a_key_that_the_node_does_not_have_is_not_reached_rather_than_wrong() -> None:
    with pytest.raises(KeyNotReached) as caught:
        verify(sign(claims(), OTHER_KEY), KeyRing([KEY.secret]))

    assert caught.value.check == "key"
    assert not isinstance(caught.value, ClientFault)


def test_a_token_under_the_name_of_another_key_of_the_ring_is_invalid() -> None:
    token = sign(claims(), KEY).replace(KEY.kid.encode(), OTHER_KEY.kid.encode())

    assert refusal(token) is TokenInvalid


def test_each_key_of_the_ring_verifies_its_own_tokens() -> None:
    for key in (KEY, OTHER_KEY):
        assert verify(sign(claims(), key), RING).kid == key.kid


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_payload_of_a_later_release_is_not_the_clients_fault(version: int) -> None:
    """In a rolling upgrade the new release may sign tokens that the old one cannot read: 503, ask another node, never 401."""
    fields = msgspec.msgpack.decode(base64_decode(sign(claims(), KEY).split(b".")[3]))
    later = msgspec.msgpack.encode([version, *fields[1:]])

    with pytest.raises(KeyNotReached) as caught:
        verify(signed(base64_encode(later)), RING)

    assert caught.value.check == "payload"


def test_fields_that_a_later_release_adds_at_the_end_are_ignored() -> None:
    own = OwnLives(60_000, persistent=False)
    fields = msgspec.msgpack.decode(base64_decode(sign(with_lives(own), KEY).split(b".")[3]))

    for more in (["more"], [{"another": 1}, None]):
        assert verify(signed(base64_encode(msgspec.msgpack.encode([*fields, *more]))), RING).claims.own == own


def with_lives(own: OwnLives) -> Claims:
    return msgspec.structs.replace(claims(), own=own)


class _EarlierPayload(msgspec.Struct, frozen=True, array_like=True):
    """The payload as it was before sessions had lives of their own."""

    version: int
    subject: str | None
    family: str
    cuts: tuple[str, ...]
    issued_ms: int
    authenticated_ms: int
    idle_end_ms: int
    absolute_end_ms: int
    issuer: str
    record: int
    data: msgspec.Raw


def test_a_node_of_an_earlier_release_reads_the_token_of_a_session_with_lives_of_its_own() -> None:
    given = with_lives(OwnLives(60_000, persistent=False))
    read = msgspec.msgpack.decode(base64_decode(sign(given, KEY).split(b".")[3]), type=_EarlierPayload)

    assert (read.subject, read.absolute_end_ms, bytes(read.data)) == (given.subject, given.absolute_end_ms, given.data)


def test_a_session_without_lives_of_its_own_has_the_token_that_it_always_had() -> None:
    assert len(msgspec.msgpack.decode(base64_decode(sign(claims(), KEY).split(b".")[3]))) == 11


@pytest.mark.parametrize("raw", [b"\x81\xa1a\xc7\x01\x63x", b"\xc0"], ids=["of a later release", "none"])
def test_data_that_cannot_be_read_does_no_harm_if_a_store_has_it(raw: bytes) -> None:
    with_it = msgspec.structs.replace(claims(), data=raw)

    assert refusal(sign(with_it, KEY)) is KeyNotReached
    verified = verify(sign(msgspec.structs.replace(with_it, record=1), KEY), RING)
    assert (verified.record, verified.data, verified.nested_data, verified.nested) == (1, {}, None, True)


def test_a_payload_that_is_not_even_base64_is_a_later_releases_too() -> None:
    """A length of one more than a multiple of four is not valid base64."""
    with pytest.raises(KeyNotReached):
        verify(signed(b"AAAAA"), RING)


def test_a_refusal_shows_nothing_of_the_token() -> None:
    token = sign(claims(subject="canary-subject"), KEY)
    for bad in (token[:-1], token + b"A", signed(token.split(b".")[3][:-9]), b"canary!" * 3, token.replace(KEY.kid.encode(), b"canary00")):
        with pytest.raises(ProblemError) as caught:
            verify(bad, RING)
        assert "canary" not in f"{caught.value} {caught.value!r} {caught.value.reason}"


def test_a_token_of_this_module_is_never_longer_than_it_says() -> None:
    room = tokens.length(claims(content={"text": ""}))
    text = "x" * ((MAX_TOKEN_BYTES - room) * 3 // 4 - 2)

    assert refusal(sign(claims(content={"text": text}), KEY)) is None
    assert refusal(sign(claims(content={"text": text + "x" * 8}), KEY)) is TokenTooLarge
