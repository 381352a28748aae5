"""Which member a session belongs to."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.cluster import routing
from ha_session_mw._core.cluster.members import Heartbeat, MemberState
from ha_session_mw._core.cluster.routing import BUCKETS, OwnerTable, bucket_of, nearest, owners, share_out
from ha_session_mw.models import NodeId

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "owners.json").read_text("utf-8"))
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


# Weights and buckets

weighted = st.dictionaries(st.sampled_from(MEMBERS), st.integers(1, 1000), min_size=1)


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: f"{vector['story']}, {vector['session']}")
def test_the_owner_is_the_same_in_every_release(vector: dict[str, Any]) -> None:
    table = OwnerTable(vector["members"])

    assert bucket_of(vector["session"]) == vector["bucket"]
    assert owners(str(vector["bucket"]), vector["members"], vector["members"]) == vector["order"]
    assert table.owner_of(vector["session"]) == vector["order"][0]
    assert VECTORS["buckets"] == BUCKETS


@given(sessions, weighted, st.sampled_from(MEMBERS))
def test_a_member_that_leaves_moves_its_own_sessions_and_no_others(session: str, weights: dict[str, int], leaver: str) -> None:
    left = {name: weight for name, weight in weights.items() if name != leaver}
    before = OwnerTable(weights).owner_of(session)

    assert not left or before in (leaver, OwnerTable(left).owner_of(session))


@given(sessions, weighted, st.integers(1, 1000))
def test_a_member_that_gains_weight_takes_sessions_and_loses_none(session: str, weights: dict[str, int], more: int) -> None:
    grown = next(iter(weights))
    before, after = OwnerTable(weights).owner_of(session), OwnerTable({**weights, grown: weights[grown] + more}).owner_of(session)

    assert after in (before, grown)


@given(sessions, weighted, st.randoms(use_true_random=False))
def test_every_node_finds_the_same_owner_in_any_order_of_members(session: str, weights: dict[str, int], dice: Random) -> None:
    shuffled = [*weights.items()]
    dice.shuffle(shuffled)

    assert OwnerTable(dict(shuffled)).owner_of(session) == OwnerTable(weights).owner_of(session)
    assert owners(str(bucket_of(session)), weights, weights)[0] == OwnerTable(weights).owner_of(session)


@pytest.mark.parametrize("count", [2, 3, 20])
def test_one_member_of_many_that_leaves_moves_its_share(count: int) -> None:
    weights = {f"node-{number}": 1 for number in range(count)}
    before, after = OwnerTable(weights), OwnerTable({name: 1 for name in weights if name != "node-1"})
    listed = [f"session-{number}" for number in range(4_000)]
    moved = [one for one in listed if before.owner_of(one) != after.owner_of(one)]

    assert {before.owner_of(one) for one in moved} == {"node-1"}
    share = len(listed) / count
    assert abs(len(moved) - share) < 6 * math.sqrt(share) + 0.1 * share  # six deviations, and those of the buckets


def test_sessions_are_spread_by_weight() -> None:
    weights = {"a": 1, "b": 2, "c": 5}
    table = OwnerTable(weights)
    count = Counter(table.owner_of(f"session-{number}") for number in range(16_000))

    assert {name: round(found / 2_000) for name, found in count.items()} == weights


def test_an_owner_is_computed_once_for_each_bucket_and_not_once_for_each_session(monkeypatch: pytest.MonkeyPatch) -> None:
    table = OwnerTable({f"node-{number}": 1 for number in range(1_000)})
    for number in range(50):
        table.owner_of(f"session-{number}")
    monkeypatch.setattr(routing, "_score", None)

    assert len({table.owner_of(f"session-{number}") for number in range(50)}) > 1


def test_a_table_without_members_is_refused() -> None:
    with pytest.raises(ValueError, match="a member"):
        OwnerTable({})


def member(url: str, state: MemberState = "ready", weight: int = 1) -> Heartbeat:
    return Heartbeat(NodeId(f"node at {url}"), "life", url, state, 1, 0, (), 5.0, 0, weight=weight)


def test_members_that_start_or_leave_own_nothing() -> None:
    listed = [member("a", weight=3), member("b", "draining"), member("c", "starting"), member("d")]

    assert share_out(listed) == {"node at a": 3, "node at d": 1}


def test_members_that_leave_own_the_sessions_while_there_is_no_other() -> None:
    assert share_out([member("b", "draining"), member("c", "starting")]) == {"node at b": 1}
    assert share_out([member("c", "starting")]) == {}


def test_the_issuer_of_a_token_is_asked_first_and_then_the_owners() -> None:
    others = [member(url) for url in MEMBERS[:4]]
    names = {one.member: one.url for one in others}
    in_order = [names[NodeId(name)] for name in owners(str(bucket_of("session-1")), names)]

    assert in_order[0] == names[NodeId(OwnerTable(dict.fromkeys(names, 1)).owner_of("session-1"))]
    assert nearest("session-1", others, issuer=None, but="http://me") == in_order
    assert nearest("session-1", others, issuer=f"node at {in_order[-1]}", but="http://me") == [in_order[-1], *in_order[:-1]]


def test_a_node_asks_neither_itself_nor_a_starting_or_unreachable_member() -> None:
    others = [member("http://a"), member("http://me"), member(""), member("http://b", "starting")]
    assert nearest("s", others, issuer=None, but="http://me") == ["http://a"]
