"""Which step of a rotation is safe: never one that would have a member refuse a good token."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.cluster.key_use import REMEMBERED_S, KeyState, KeyUse, fit_of, signing, told_apart
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


@given(clusters)
def test_members_that_do_not_go_together_are_apart_from_each_other(members: dict[str, tuple[KeyId, ...]]) -> None:
    apart = {name: fit_of(name, members, ()).apart for name in members}
    assert all(name in apart[other] for name in members for other in apart[name])


def test_a_member_with_another_secret_is_odd_and_changes_nothing_for_the_others() -> None:
    members: dict[str, tuple[str, ...]] = {"a": ("new", "old"), "b": ("old",), "c": ("stray",)}
    assert signing(members, ()) == {"a": "old", "b": "old", "c": "stray"}
    assert fit_of("c", members, ()).is_odd
    assert [(fit_of(name, members, ()).apart, fit_of(name, members, ()).is_odd) for name in "ab"] == [(("c",), False)] * 2


@pytest.mark.parametrize("rotated", [("new",), ("new", "old")])
def test_a_member_with_a_revoked_key_only_is_no_measure_for_the_others(rotated: tuple[str, ...]) -> None:
    """A key has leaked and is revoked, and the nodes get the new one in turn. The first that has it is the only one that is well."""
    members: dict[str, tuple[str, ...]] = {"a": rotated, "b": ("old",), "c": ("old",)}
    fit = fit_of("a", members, ("old",))
    assert (fit.apart, fit.is_odd) == (("b", "c"), False)


def test_of_two_members_with_different_secrets_neither_is_odd() -> None:
    members = {"a": ("one",), "b": ("two",)}
    assert [(fit_of(name, members, ()).apart, fit_of(name, members, ()).is_odd) for name in "ab"] == [(("b",), False), (("a",), False)]


def test_no_step_of_a_rotation_sets_members_apart() -> None:
    steps: list[tuple[str, ...]] = [("old",), ("old", "new"), ("new", "old"), ("new",)]
    for before, after in pairwise(steps):
        for changed in range(4):
            members = {name: after if number < changed else before for number, name in enumerate("abc")}
            assert not any(fit_of(name, members, ()).apart for name in members)


def test_a_silent_members_key_is_remembered_for_a_while_and_a_retired_one_is_not() -> None:
    use = KeyUse(0.0)
    use.look({"a": ("one",), "b": ("old",), "c": ("two",)}, (), 0.0)
    use.look({"a": ("one",), "b": ("new",)}, (), 1.0)
    assert [use.remembers(kid, 1.0) for kid in ("one", "old", "new", "two")] == [True, False, True, True]
    assert not use.remembers("two", REMEMBERED_S + 0.1)


def test_a_key_that_was_lacked_is_so_for_a_while() -> None:
    use = KeyUse(0.0)
    use.lack("old", 5.0)
    use.look({}, (), 5.0 + REMEMBERED_S)
    assert use.lacked(5.0 + REMEMBERED_S) == ("old",)
    use.look({}, (), 5.1 + REMEMBERED_S)
    assert use.lacked(5.0 + REMEMBERED_S) == ()


def test_members_that_share_a_name_are_told_apart() -> None:
    assert told_apart([("a", ("good",)), ("b", ("good",)), ("a", ("stray",))]) == {"a": ("good",), "b": ("good",), "a (2)": ("stray",)}
