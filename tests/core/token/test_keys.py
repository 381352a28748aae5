"""Keys: the name of a key, the key that signs, and that no repr shows a secret."""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import Signer

from ha_session_mw._core.token.keys import KeyRing, SigningKey, same_text
from ha_session_mw._core.token.tokens import sign
from ha_session_mw.models import KeyId

from ..builders import KEY, OTHER_KEY, claims

SECRET = b"kept-for-ever: a secret of the vectors, 1"


def text(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")


# The name and the signature, computed a second time from the RFCs alone


def test_the_name_of_a_key_never_changes() -> None:
    """Issued tokens contain the name, and nodes of different releases must mean the same key by it."""
    assert SigningKey(SECRET).kid == "u9uKTUqs"


def test_a_name_is_a_short_keyed_hash_of_the_secret() -> None:
    assert SigningKey(SECRET).kid.encode() == text(hmac.digest(SECRET, b"ha_session_mw.key-id.1", "sha256"))[:8]


def test_a_signature_is_hmac_sha256_under_a_key_derived_by_hmac_sha256_for_this_purpose_alone() -> None:
    derived = hmac.digest(SECRET, b"ha_session_mw.token.1", hashlib.sha256)

    assert SigningKey(SECRET).signature(b"some bytes") == text(hmac.digest(derived, b"some bytes", hashlib.sha256))


def test_the_defaults_of_itsdangerous_are_not_used() -> None:
    signed, signature = sign(claims(), KEY).rsplit(b".", 1)
    weak = [
        Signer(KEY.secret, salt=b"ha_session_mw.token.1", key_derivation=derivation, digest_method=digest).get_signature(signed)
        for derivation, digest in product((None, "django-concat", "concat", "none", "hmac"), (None, hashlib.sha1, hashlib.sha256))
        if (derivation, digest) != ("hmac", hashlib.sha256)
    ]

    assert len(signature) == 43
    assert signature not in weak


def test_each_purpose_has_a_key_of_its_own() -> None:
    signatures = {KEY.signer_for(salt).get_signature(b"text") for salt in (b"one", b"two")} | {KEY.signature(b"text")}

    assert len(signatures) == 3


def test_an_audience_changes_every_signature_and_not_the_name() -> None:
    """Another app with the same secret knows the key by its name, so it says "invalid" at once, and need not ask for the key."""
    keys = [KEY, SigningKey(KEY.secret, "shop"), SigningKey(KEY.secret, "blog")]

    assert {key.kid for key in keys} == {KEY.kid}
    assert len({key.signature(b"text") for key in keys}) == 3
    assert len({key.signer_for(b"purpose").get_signature(b"text") for key in keys}) == 3


def test_an_audience_is_hashed_after_the_purpose() -> None:
    derived = hmac.digest(SECRET, b"ha_session_mw.token.1\nshop", hashlib.sha256)

    assert SigningKey(SECRET, "shop").signature(b"some bytes") == text(hmac.digest(derived, b"some bytes", hashlib.sha256))


def test_different_secrets_have_different_names() -> None:
    random = Random(7)

    assert len({SigningKey(random.randbytes(32)).kid for _ in range(2_000)}) == 2_000


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_signatures_are_compared_as_text(one: bytes, other: bytes) -> None:
    assert same_text(one, one)
    assert same_text(one, other) == (one == other)


# Weak secrets


# The ring


def test_the_newest_key_signs() -> None:
    assert KeyRing([KEY.secret, OTHER_KEY.secret]).signing_key().kid == KEY.kid


def test_a_fallback_verifies_and_does_not_sign() -> None:
    ring = KeyRing([KEY.secret], [OTHER_KEY.secret])

    assert ring.signing_key().kid == KEY.kid
    assert ring.get(OTHER_KEY.kid.encode()) is not None


@pytest.mark.parametrize(
    ("announced", "signs"),
    [
        ([], "new"),
        ([("new", "old")], "new"),
        ([("new", "old"), ("new",)], "new"),
        ([("old",)], "old"),
        ([("new", "old"), ("old",)], "old"),
        ([("new",), ("old",)], "new"),  # no key is common to all
        ([()], "new"),
    ],
    ids=str,
)
def test_a_new_key_signs_once_every_live_member_announces_it(announced: list[tuple[str, ...]], signs: str) -> None:
    kids = {"new": KEY.kid, "old": OTHER_KEY.kid}
    ring = KeyRing([KEY.secret], [OTHER_KEY.secret])

    assert ring.signing_key([{kids[name] for name in names} for names in announced]).kid == kids[signs]


def test_a_ring_without_its_revoked_keys_has_the_others_in_their_order() -> None:
    ring = KeyRing([KEY.secret, OTHER_KEY.secret])

    assert ring.without({KEY.kid}).kids == (OTHER_KEY.kid,)
    assert ring.without({KEY.kid}).get(KEY.kid.encode()) is None
    assert ring.without({"unknown"}) is ring
    assert ring.without({KEY.kid, OTHER_KEY.kid}) is ring  # nodes must still talk to hear of the new key


def test_a_key_given_twice_is_one_key() -> None:
    assert KeyRing([KEY.secret, KEY.secret], [KEY.secret, OTHER_KEY.secret]).kids == (KEY.kid, OTHER_KEY.kid)


def test_a_ring_lists_its_keys_newest_first() -> None:
    assert [key.kid for key in KeyRing([KEY.secret], [OTHER_KEY.secret])] == [KEY.kid, OTHER_KEY.kid]


def test_a_key_that_is_not_there_is_none() -> None:
    assert KeyRing([KEY.secret]).get(b"AAAAAAAA") is None


def test_a_ring_without_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        KeyRing([], [])


def test_no_repr_shows_a_secret() -> None:
    ring = KeyRing([b"canary-0123456789-0123456789-0123456789"])
    shown = f"{ring!r} {ring!s} {list(ring)!r} {ring.kids!r} {ring.signing_key().signer_for(b'x')!r} {ring.signing_key().signature!r}"

    assert "canary" not in shown
    assert KeyId(ring.kids[0]) in shown
