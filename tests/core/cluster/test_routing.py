"""Which member a session belongs to."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.cluster.members import Heartbeat, MemberState
from ha_session_mw._core.cluster.routing import nearest, owners
from ha_session_mw.models import NodeId

MEMBERS = [f"http://10.0.0.{number}:8000" for number in range(1, 10)]
members = st.lists(st.sampled_from(MEMBERS), min_size=1, unique=True)
sessions = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=22, max_size=22)


@given(sessions, members)
def test_all_members_are_there_once(session: str, listed: list[str]) -> None:
    assert sorted(owners(session, listed)) == sorted(listed)


@given(sessions, members, st.randoms(use_true_random=False))
def test_every_node_finds_the_same_owners_in_any_order_of_members(session: str, listed: list[str], dice: object) -> None:
    shuffled = [*listed]
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert owners(session, shuffled) == owners(session, listed)


@given(sessions, members, st.sampled_from(MEMBERS))
def test_a_member_that_leaves_hands_over_its_own_sessions_and_no_others_move(session: str, listed: list[str], leaver: str) -> None:
    left = [member for member in owners(session, listed) if member != leaver]
    assert owners(session, [member for member in listed if member != leaver]) == left


def test_the_sessions_are_spread_evenly() -> None:
    count = Counter(owners(f"session-{number}", MEMBERS)[0] for number in range(9_000))
    assert set(count) == set(MEMBERS)
    assert max(abs(found - 1_000) for found in count.values()) < 150  # five standard deviations


def test_the_order_is_the_same_in_every_release() -> None:
    """A rolling upgrade must not move every session."""
    assert [MEMBERS.index(url) for url in owners("A" * 22, MEMBERS[:4])] == [3, 1, 0, 2]
    assert [MEMBERS.index(url) for url in owners("session-1", MEMBERS[:4])] == [2, 3, 1, 0]


def test_a_session_has_no_owner_without_members() -> None:
    assert owners("s", []) == []


def member(url: str, state: MemberState = "ready") -> Heartbeat:
    return Heartbeat(NodeId(f"node at {url}"), "life", url, state, 1, 0, (), 5.0, 0)


def test_the_issuer_of_a_token_is_asked_first_and_then_the_owners() -> None:
    others = [member(url) for url in MEMBERS[:4]]
    in_order = [member.url for member in others]
    assert nearest("session-1", others, issuer=None, but="http://me") == owners("session-1", in_order)
    last = owners("session-1", in_order)[-1]
    assert nearest("session-1", others, issuer=f"node at {last}", but="http://me") == [last, *owners("session-1", in_order)[:-1]]


def test_a_node_asks_neither_itself_nor_a_starting_or_unreachable_member() -> None:
    others = [member("http://a"), member("http://me"), member(""), member("http://b", "starting")]
    assert nearest("s", others, issuer=None, but="http://me") == ["http://a"]
