"""Which step of a rotation is safe: never one that would have a member refuse a good token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.cluster.key_use import KeyState, KeyUse, signing
from ha_session_mw._core.token.keys import KeyRing
from ha_session_mw.models import KeyId

LIFE_S = 100.0
SECRETS = {KeyRing([text]).kids[0]: text for text in (b"one", b"two", b"three")}
KIDS = sorted(SECRETS)

rings = st.lists(st.sampled_from(KIDS), min_size=1, max_size=3, unique=True).map(tuple)
clusters = st.dictionaries(st.sampled_from("abc"), rings, min_size=1)


def state(use: KeyUse, kid: str, now_s: float, expected: int = 0, denied: tuple[str, ...] = (), **members: tuple[str, ...]) -> KeyState:
    [found] = [one for one in use.states(members, denied, now_s, life_s=LIFE_S, expected=expected) if one.kid == kid]
    return found


@given(clusters, st.frozensets(st.sampled_from(KIDS), max_size=2))
def test_a_member_is_taken_to_sign_with_the_key_that_its_ring_chooses(
    members: dict[str, tuple[KeyId, ...]], denied: frozenset[str]
) -> None:
    for name, kid in signing(members, denied).items():
        others = [kids for other, kids in members.items() if other != name]
        ring = KeyRing([SECRETS[one] for one in members[name]])
        assert ring.signing_key(others, denied).kid == kid


@given(st.lists(st.tuples(clusters, st.floats(0, 200)), min_size=1, max_size=6))
def test_a_key_is_retired_only_when_no_token_of_it_can_live(story: list[tuple[dict[str, tuple[KeyId, ...]], float]]) -> None:
    use, now_s, newest_token_s = KeyUse(0.0), 0.0, dict.fromkeys(map(str, KIDS), 0.0)  # before the node watched, each may have signed
    for members, passed_s in story:
        now_s += passed_s
        for kid in signing(members, ()).values():
            newest_token_s[kid] = now_s
        for one in use.states(members, (), now_s, life_s=LIFE_S, expected=0):
            if one.not_retired_because is None:
                assert newest_token_s[one.kid] + LIFE_S <= now_s
                assert not one.signing_at
            if one.not_promoted_because is None:
                assert all(one.kid in kids for kids in members.values())


def test_a_rotation_step_by_step() -> None:
    use = KeyUse(0.0)
    assert state(use, "new", 1, a=("old", "new"), b=("old",)).not_promoted_because == "not announced by b"
    staged = state(use, "new", 2, a=("old", "new"), b=("old", "new"))
    assert (staged.not_promoted_because, staged.signing_at, staged.known_for_s, staged.signed_ago_s) == (None, (), 1, None)
    assert state(use, "old", 3, a=("new", "old"), b=("old", "new")).not_retired_because == "signs at b"
    assert state(use, "old", 13, a=("new", "old"), b=("new", "old")).not_retired_because == "tokens that it signed may live for 90 s more"
    assert state(use, "old", 103, a=("new", "old"), b=("new", "old")).not_retired_because is None


def test_a_member_that_is_not_heard_holds_each_step_up() -> None:
    found = state(KeyUse(0.0), "old", 500, 3, a=("new", "old"), b=("new", "old"))
    assert found.not_promoted_because == found.not_retired_because == "1 of 3 members are not heard"


def test_a_revoked_key_is_never_promoted_and_retired_at_any_time() -> None:
    found = state(KeyUse(0.0), "old", 1, denied=("old",), a=("old", "new"), b=("old", "new"))
    assert (found.revoked, found.not_promoted_because, found.not_retired_because) == (True, "the key is revoked", None)
