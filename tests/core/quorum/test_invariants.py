"""Each broken invariant of the quorum log is reported in words."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.cluster.invariants import InvariantBroken, ensure
from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.cluster.view import View
from ha_session_mw._core.quorum.acknowledgements import Acknowledgements
from ha_session_mw._core.quorum.durability import DurablePrefix
from ha_session_mw._core.quorum.fence import Fence
from ha_session_mw._core.quorum.log import Quorum
from ha_session_mw._core.quorum.majorities import Majorities
from ha_session_mw._core.quorum.sequence import Sequence
from ha_session_mw.models import Cut, CutId, Deny, NodeId

from ..builders import HOUR_MS, NOW_MS

START = Moment(1000.0, NOW_MS)
END_MS = NOW_MS + HOUR_MS


def test_a_valid_state_raises_nothing_and_a_broken_one_is_reported_in_words() -> None:
    ensure([1], "the list is not empty")
    with pytest.raises(InvariantBroken, match="it should hold that the list is not empty"):
        ensure([], "the list is not empty")


# The view.


def view() -> View:
    filled = View()
    for entry in (Deny("x", END_MS), Cut(CutId(f"everybody~{END_MS // 1000:x}"), None, END_MS), Cut(CutId("ada's~1"), "ada", END_MS)):
        filled.merge(entry)
    filled.check()
    return filled


def extend_without_a_new_end(broken: View) -> None:
    broken.denied["x"] = END_MS + HOUR_MS


def keep_what_has_ended(broken: View) -> None:
    broken.floor_ms = END_MS + HOUR_MS


def file_under_another_subject(broken: View) -> None:
    broken.by_subject["bob"] = broken.by_subject.pop("ada")


def forget_a_live_cut(broken: View) -> None:
    del broken.known_cuts[CutId("ada's~1")]


def bring_a_replaced_cut_back(broken: View) -> None:
    old = broken.by_subject["ada"][CutId("ada's~1")]
    broken.merge(Cut(CutId("newer~1"), "ada", END_MS, None, (old.id,)))
    broken.by_subject["ada"][old.id] = old


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (extend_without_a_new_end, "each denial leaves at the end that it has"),
        (keep_what_has_ended, "an entry that ended at the floor is gone"),
        (file_under_another_subject, "a cut concerns the subject that it is filed under"),
        (forget_a_live_cut, "each live cut leaves at the end that it has"),
        (bring_a_replaced_cut_back, "no cut is live together with one that it replaces"),
    ],
)
def test_a_view_that_differs_from_its_merged_entries_is_detected(spoil: Callable[[View], None], words: str) -> None:
    spoiled = view()
    spoil(spoiled)
    with pytest.raises(InvariantBroken, match=words):
        spoiled.check()


# Acknowledgements and the fence.


def fence(durable: int = 0, fenced: int = 0) -> Fence:
    made = Fence(Majorities("a", ["abc"]))
    made.durable, made.fenced = durable, fenced
    return made


@pytest.mark.parametrize(("durable", "fenced", "words"), [(1, 2, "what is fenced is durable"), (6, 1, "no more is durable than there is")])
def test_a_fence_that_claims_too_much_is_detected(durable: int, fenced: int, words: str) -> None:
    fence(5, 5).check(5, 0)
    with pytest.raises(InvariantBroken, match=words):
        fence(durable, fenced).check(5, 0)


def test_an_echo_of_a_stamp_that_was_never_given_is_detected() -> None:
    made = fence()
    made.heard("b", "life", 3)
    made.check(0, 3)
    with pytest.raises(InvariantBroken, match="no member has seen a stamp that was not given"):
        made.check(0, 2)


def test_a_history_that_goes_backwards_is_detected() -> None:
    known = Acknowledgements("b", "life")
    known.acknowledge(1, 5)
    known.check(5)
    known.acknowledge(2, 4)
    with pytest.raises(InvariantBroken, match="history goes forward"):
        known.check(5)


# The stored state.


def test_a_prefix_that_claims_more_than_the_sequence_has_is_detected() -> None:
    empty = View()
    prefix = DurablePrefix(Sequence(empty), empty, "life", ())
    prefix.check()
    prefix.position = 1
    with pytest.raises(InvariantBroken, match="no more is kept than there is"):
        prefix.check()


def test_a_node_without_a_file_that_lags_behind_itself_is_detected() -> None:
    known = View()
    sequence = Sequence(known)
    prefix = DurablePrefix(sequence, known, "life", None)
    known.merge(Deny("x", END_MS))
    sequence.append(Deny("x", END_MS))
    with pytest.raises(InvariantBroken, match="a node without a file keeps all it knows"):
        prefix.check()
    prefix.follow()
    prefix.check()


def test_an_entry_that_the_others_could_not_read_is_detected() -> None:
    known = View()
    sequence = Sequence(known)
    known.merge(Deny("x", END_MS))
    with pytest.raises(InvariantBroken, match="every entry that this node enforces is in its sequence"):
        sequence.check()


# Freshness.


def quorum() -> Quorum:
    urls = [f"https://{name}.example" for name in "abc"]
    own = Heartbeat(NodeId("a"), "life", urls[0], "starting", 0, 0, (), 5.0, HOUR_MS)
    return Quorum(View(), own, urls, now=START, heartbeat_s=0.5)


def test_a_recovering_node_that_takes_itself_for_fresh_is_detected() -> None:
    one = quorum()
    one.check(START)
    one.view.fresh_at = START.boot_s
    with pytest.raises(InvariantBroken, match="a node that is recovering, or has left, is not fresh"):
        one.check(START)


def test_a_cluster_that_is_doubted_without_a_loss_is_detected() -> None:
    one = quorum()
    one.amnesia._is_doubted = True
    with pytest.raises(InvariantBroken, match="only a cluster that began without entries is doubted"):
        one.check(START)


def test_a_node_that_is_fresh_as_of_the_future_is_detected() -> None:
    one = quorum()
    one.amnesia.recovery = None
    one.view.fresh_at = math.nextafter(START.boot_s, math.inf)
    with pytest.raises(InvariantBroken, match="no node is fresh as of a time to come"):
        one.check(START)


def test_a_limit_that_another_member_does_not_share_is_detected() -> None:
    one = quorum()
    one.members.fence_wait_s /= 2
    with pytest.raises(InvariantBroken, match="a fence waits for every lease"):
        one.check(START)
