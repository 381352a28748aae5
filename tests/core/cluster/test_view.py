"""The view: merging is order-free and idempotent, deny wins, and nothing revives a denied session."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import permutations
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ha_session_mw._core.accept_rule import Decision, Refuse
from ha_session_mw._core.cluster.denials import ID_LENGTH, Denials
from ha_session_mw._core.cluster.view import DROPPED_AT_ONCE, END_STEP_MS, View, cut_end_ms, new_cut_id
from ha_session_mw._core.token.keys import SigningKey
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.exceptions import SessionRevoked, SessionSuperseded
from ha_session_mw.models import Cut, CutId, Deny, DenyKey, Entry

from ...thinning import thinned
from ..builders import HOUR_MS, KEY, MINUTE_MS, NOW_MS, OTHER_KEY, claims, cut, fresh_view, judge, random_id, seen

# A small world, so that entries meet the sessions and each other.

ENDS_MS = [NOW_MS + minutes * MINUTE_MS + extra for minutes in (1, 2, 30, 720) for extra in (-1, 0, 1)]


def cuts_ending(*minutes: int) -> dict[str, list[Cut]]:
    """Return, for each subject: a cut, one that spares a family, and two that replace what they may.

    A cut that spares a family replaces only such as spared it too (see ``SessionManager``).
    """
    found = {}
    for name, subject in (("a", "ada"), ("b", "bob"), ("e", None)):
        ends = [NOW_MS + end * MINUTE_MS + number for number, end in enumerate(minutes)]
        plain = cut(name + "1", subject=subject, until_ms=ends[0])
        sparing = cut(name + "2", subject=subject, until_ms=ends[1], spare="family-0")
        still_sparing = cut(name + "3", subject=subject, until_ms=ends[2], spare="family-0", replaces=(sparing,))
        found[name] = [plain, sparing, still_sparing, cut(name + "4", subject=subject, until_ms=ends[3], replaces=(plain, sparing))]
    return found


def sessions_knowing(cuts: dict[str, list[Cut]]) -> list[Verified]:
    rows: list[tuple[str | None, list[Cut], int, SigningKey]] = [
        ("ada", [], 720, KEY),
        ("ada", [cuts["a"][0]], 720, KEY),
        ("ada", [cuts["a"][3], cuts["e"][0]], 720, OTHER_KEY),
        ("bob", [], 2, KEY),
        ("bob", [cuts["b"][1]], 30, KEY),
        (None, [], 30, OTHER_KEY),
        (None, [cuts["e"][2]], 720, KEY),
    ]
    return [
        seen(
            claims(
                f"sid-{number}",
                family=f"family-{number // 2}",
                subject=subject,
                cuts=tuple(one.id for one in listed),
                idle_end_ms=NOW_MS + minutes * MINUTE_MS,
                absolute_end_ms=NOW_MS + minutes * MINUTE_MS,
            ),
            key,
        )
        for number, (subject, listed, minutes, key) in enumerate(rows)
    ]


CUTS = cuts_ending(30, 60, 720, 721)
ALL_CUTS = [one for cuts in CUTS.values() for one in cuts]
SESSIONS = sessions_knowing(CUTS)
IDS = [f"sid-{number}" for number in range(7)] + [f"family-{number}" for number in range(4)]

entries: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Deny, st.sampled_from(IDS), st.sampled_from(ENDS_MS), st.sampled_from([0, NOW_MS - 1, NOW_MS])),
    st.sampled_from(ALL_CUTS),
    st.builds(DenyKey, st.sampled_from([KEY.kid, OTHER_KEY.kid]), st.sampled_from(ENDS_MS)),
)


def verdicts(view: View) -> list[Decision | str]:
    """Return the view's decision on every session, as comparable text."""
    return [repr(decision) for decision in (judge(session, view) for session in SESSIONS)]


def view_of(found: Iterable[Entry]) -> View:
    view = fresh_view()
    for entry in found:
        view.merge(entry)
    return view


# Merging


@given(st.lists(entries, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_entries_makes_no_difference(found: list[Entry], random: Random) -> None:
    other = found.copy()
    random.shuffle(other)

    assert verdicts(view_of(found)) == verdicts(view_of(other))


@given(st.lists(entries, max_size=8))
def test_entries_that_come_twice_make_no_difference(found: list[Entry]) -> None:
    assert verdicts(view_of(found)) == verdicts(view_of(found + found))


@given(st.lists(entries, max_size=6), st.lists(entries, max_size=6))
def test_one_node_sends_another_its_whole_view(mine: list[Entry], yours: list[Entry]) -> None:
    """Merging views by their entries is as good as having seen each entry oneself, however they were grouped."""
    through_me = view_of(yours)
    for entry in view_of(mine).entries():
        through_me.merge(entry)

    assert verdicts(through_me) == verdicts(view_of(mine + yours))


@given(st.lists(entries, max_size=8), entries)
def test_a_further_entry_never_turns_a_revoked_session_into_an_accepted_one(found: list[Entry], further: Entry) -> None:
    before, after = verdicts(view_of(found)), verdicts(view_of([*found, further]))

    assert all(new != "Accept()" for old, new in zip(before, after, strict=True) if old != "Accept()" and "StateNotReached" not in str(old))


@given(st.lists(entries, max_size=8), entries)
def test_merge_returns_whether_it_was_news_and_reports_news_once(found: list[Entry], entry: Entry) -> None:
    told: list[Entry] = []
    view = view_of(found)
    view.on_news = told.extend

    knew = view.knows(entry)
    assert not (knew and view.merge(entry))
    view.merge(entry)
    assert not view.merge(entry)
    assert view.knows(entry)
    assert len(told) <= 1


PACKABLE = [f"{number}".ljust(ID_LENGTH, "-") for number in range(6)] + ["alike-".ljust(ID_LENGTH, end) for end in "01"]
packable = st.builds(Deny, st.sampled_from(PACKABLE), st.sampled_from(ENDS_MS), st.sampled_from([0, 0, NOW_MS]))


@given(st.lists(st.lists(entries | packable, max_size=8), max_size=4), st.sampled_from([0, *ENDS_MS]))
def test_many_entries_at_once_come_to_the_same_as_one_by_one(pages: list[list[Entry]], floor_ms: int) -> None:
    told: list[Entry] = []
    many, single = View(on_news=told.extend), View()
    for view in (many, single):
        view.raise_floor(floor_ms)

    for page in pages:
        before, unknown = len(told), [entry for entry in page if not many.knows(entry)]
        generation = many.generation
        news = many.merge_all(page)
        assert told[before:] == news
        assert bool(news) == bool(unknown)
        assert not news or many.generation is not generation
        many.check()
        for entry in page:
            single.merge(entry)

    assert (many.denied, many.superseded, many.denied_keys, many.known_cuts) == (
        single.denied,
        single.superseded,
        single.denied_keys,
        single.known_cuts,
    )
    assert verdicts(many) == verdicts(single)


# Denials


def test_a_denied_id_takes_one_token_and_a_denied_family_all_of_the_session() -> None:
    sessions = [claims("sid-1", family="f"), claims("sid-2", family="f")]

    assert [refused(judge(one, view_of([Deny("sid-1", one.absolute_end_ms)]))) for one in sessions] == [True, False]
    assert [refused(judge(one, view_of([Deny("f", one.absolute_end_ms)]))) for one in sessions] == [True, True]


def refused(decision: Decision) -> bool:
    return isinstance(decision, Refuse) and isinstance(decision.problem, SessionRevoked)


def superseded(decision: Decision) -> bool:
    return isinstance(decision, Refuse) and isinstance(decision.problem, SessionSuperseded)


@given(st.permutations([Deny("sid-1", NOW_MS + HOUR_MS, replaced_ms) for replaced_ms in (0, NOW_MS - 1, NOW_MS)]), st.integers(0, 3))
def test_a_log_out_outranks_a_replacement_of_the_same_id_in_any_order(order: list[Deny], heard: int) -> None:
    view = view_of(order[:heard])
    was_logged_out = any(entry.replaced_ms == 0 for entry in order[:heard])

    assert refused(judge(claims("sid-1"), view)) == was_logged_out
    assert superseded(judge(claims("sid-1"), view)) == (heard > 0 and not was_logged_out)
    assert view.superseded == ({} if was_logged_out or not heard else {"sid-1": max(entry.replaced_ms for entry in order[:heard])})


@given(st.lists(entries, max_size=8), st.builds(Deny, st.sampled_from(IDS), st.sampled_from(ENDS_MS), st.sampled_from([0, NOW_MS])))
def test_no_further_denial_turns_a_log_out_into_a_replacement(found: list[Entry], further: Deny) -> None:
    before, after = view_of(found), view_of([*found, further])

    assert not any(refused(judge(one, before)) and superseded(judge(one, after)) for one in SESSIONS)


@pytest.mark.parametrize("first", [0, NOW_MS])
def test_a_reason_that_is_news_is_reported_though_the_end_is_known(first: int) -> None:
    told: list[Entry] = []
    view = fresh_view()
    view.on_news = told.extend
    both = [Deny("a", NOW_MS + HOUR_MS, first), Deny("a", NOW_MS + HOUR_MS, NOW_MS - first)]
    for entry in both:
        view.merge(entry)

    assert told == (both if first else both[:1])


def test_a_denial_that_is_extended_stays_until_its_later_end() -> None:
    view = view_of([Deny("a", NOW_MS + MINUTE_MS), Deny("a", NOW_MS + HOUR_MS)])

    view.raise_floor(NOW_MS + 30 * MINUTE_MS)
    assert "a" in view.denied
    view.raise_floor(NOW_MS + HOUR_MS + MINUTE_MS)
    assert "a" not in view.denied


def test_a_denial_that_is_shortened_keeps_its_later_end() -> None:
    view = view_of([Deny("a", NOW_MS + HOUR_MS), Deny("a", NOW_MS + MINUTE_MS)])

    view.raise_floor(NOW_MS + 30 * MINUTE_MS)

    assert "a" in view.denied


def test_a_key_denial_is_extended_as_well() -> None:
    view = view_of([DenyKey(KEY.kid, NOW_MS + MINUTE_MS), DenyKey(KEY.kid, NOW_MS + HOUR_MS)])

    view.raise_floor(NOW_MS + 30 * MINUTE_MS)
    assert KEY.kid in view.denied_keys
    view.raise_floor(NOW_MS + 2 * HOUR_MS)
    assert KEY.kid not in view.denied_keys


# Cuts


def test_a_replaced_cut_that_arrives_late_does_not_come_to_life() -> None:
    old, new = cut("old"), cut("new", until_ms=NOW_MS + 13 * HOUR_MS)
    new = cut("new", until_ms=new.until_ms, replaces=(old,))

    for order in permutations([old, new]):
        view = view_of(order)
        assert view.live_cuts("ada") == (new.id,)
        assert not refused(judge(claims(cuts=(new.id,)), view))


def test_cuts_under_a_replaced_cut_stay_replaced_in_any_order_of_arrival() -> None:
    first = cut("1")
    second = cut("2", replaces=(first,))
    third = cut("3", replaces=(second,))
    last = cut("4", replaces=(third,))

    for order in permutations([first, second, third, last]):
        view = fresh_view()
        assert [view.knows(each) for each in order] == [False] * 4
        assert [view.merge(each) for each in order] == [True] * 4
        assert [view.knows(each) for each in order] == [True] * 4
        assert view.live_cuts("ada") == (last.id,)


@pytest.mark.parametrize("past_ms", range(0, END_STEP_MS, 7_500))
def test_a_replaced_cut_does_not_come_to_life_at_its_end_either(past_ms: int) -> None:
    """Ends are rounded to minutes; a replaced cut must be remembered for as long as one that arrives would be taken."""
    old = cut("old", until_ms=NOW_MS + 15_000)
    view = view_of([cut("new", replaces=(old,))])

    view.raise_floor(NOW_MS + 15_000 + past_ms)
    view.merge(old)

    assert len(view.live_cuts("ada")) == 1


def test_live_cuts_are_everybodys_and_the_subjects_own_in_a_fixed_order() -> None:
    found = [cut("c"), cut("a", subject=None), cut("b"), cut("d", subject="bob")]

    for order in permutations(found):
        view = view_of(order)
        assert view.live_cuts("ada") == tuple(sorted(one.id for one in found[:3]))
        assert view.live_cuts("bob") == tuple(sorted((found[1].id, found[3].id)))
        assert view.live_cuts("eve") == view.live_cuts(None) == (found[1].id,)


def test_a_new_id_lists_no_cut_that_may_be_lost_if_it_withstands_that_without() -> None:
    view = fresh_view()
    first = cut("first")
    excepting = cut("excepting", spare=claims().family, replaces=(first,))
    unsure = cut("unsure")
    for one in (first, excepting):
        view.merge(one)
    session = claims(cuts=(first.id,))

    assert view.withstood_cuts(session, lambda _: False) == (excepting.id,)
    assert view.withstood_cuts(session, lambda one: one is excepting) == (first.id,)  # it is live elsewhere if its successor is lost
    view.merge(unsure)
    listed = view.withstood_cuts(claims(cuts=(first.id, unsure.id)), lambda one: one in (excepting, unsure))
    assert listed == tuple(sorted((first.id, unsure.id)))


def test_a_token_that_lists_the_live_cuts_is_accepted() -> None:
    view = view_of([cut("a", subject=None), cut("b"), cut("d", subject="bob")])

    assert repr(judge(claims(cuts=view.live_cuts("ada")), view)) == "Accept()"


def test_lists_stay_short_because_a_new_cut_replaces_the_known_ones() -> None:
    view = fresh_view()
    for number in range(50):
        view.merge(cut(f"n{number}", replaces=tuple(view.by_subject.get("ada", {}).values())))

    assert len(view.live_cuts("ada")) == 1


@given(st.text(max_size=12), st.integers(0, 2**50))
def test_a_cuts_id_carries_its_end_rounded_up_to_a_second(random_text: str, until_ms: int) -> None:
    assert 0 <= cut_end_ms(new_cut_id(random_text, until_ms)) - until_ms < 1_000


@pytest.mark.parametrize("text", ["", "~", "abc~", "abc~xyz", "~~", "a~-", "a~ "])
def test_text_that_is_no_cuts_id_ended_long_ago(text: str) -> None:
    assert cut_end_ms(CutId(text)) == 0


# The floor


def test_the_floor_rises_and_never_falls() -> None:
    view = fresh_view()
    for floor_ms, stands_at in ((5, 5), (3, 5), (-7, 5), (5, 5), (9, 9)):
        view.raise_floor(floor_ms)
        assert view.floor_ms == stands_at


@given(st.lists(entries, max_size=10), st.sampled_from(ENDS_MS))
def test_entries_leave_only_below_the_floor_and_then_they_do_leave(found: list[Entry], floor_ms: int) -> None:
    view = view_of(found)
    view.raise_floor(floor_ms)

    for entry in found:
        if entry.until_ms > floor_ms:
            assert view.knows(entry)
    assert all(end > floor_ms for end in (*view.denied.values(), *view.denied_keys.values(), *view.known_cuts.values()))
    view.raise_floor(NOW_MS + 1000 * HOUR_MS)
    assert len(view) == 0
    assert list(view.entries()) == []
    assert not view.by_subject
    assert not view.everybody


def test_a_floor_drops_no_more_than_a_step_at_a_time() -> None:
    view = fresh_view()
    for number in range(3 * DROPPED_AT_ONCE):
        view.merge(Deny(f"{number}", NOW_MS))
    view.merge(Deny("0", NOW_MS + HOUR_MS))  # extended
    view.merge(cut("a", until_ms=NOW_MS))
    view.raise_floor(NOW_MS + MINUTE_MS)
    view.check()
    assert len(view.denied) >= 2 * DROPPED_AT_ONCE
    assert [*view.entries()] == [Deny("0", NOW_MS + HOUR_MS)]  # the others are no longer in force, and are told to nobody
    assert not view.merge(Deny("1", NOW_MS))
    steps = 0
    while len(view) > 1:
        before = len(view)
        view.drop_ended()
        view.check()
        assert before - len(view) <= DROPPED_AT_ONCE
        steps += 1
    assert steps == 2
    assert [*view.denied] == ["0"]


def test_a_floor_that_passes_no_end_looks_at_no_entry() -> None:
    view = fresh_view()
    for number in range(100):
        view.merge(cut(f"{number}", until_ms=NOW_MS + HOUR_MS))
    view.merge(Deny(random_id(Random(1)), NOW_MS + HOUR_MS))
    view.known_cuts = NotLookedAt(view.known_cuts)
    view.denied = DenialsNotLookedAt()
    for step in range(1000):
        view.raise_floor(NOW_MS + step)


class DenialsNotLookedAt(Denials):
    """Denials that nobody goes through."""

    def begin_sweep(self, upto_ms: int) -> None:
        raise AssertionError(upto_ms)


class NotLookedAt(dict[Any, int]):
    """Entries that nobody goes through."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError

    def items(self) -> Any:
        raise AssertionError


def test_an_entry_that_has_ended_is_no_news() -> None:
    view = fresh_view()
    view.raise_floor(NOW_MS + HOUR_MS)

    for entry in (Deny("a", NOW_MS), cut("a", until_ms=NOW_MS), DenyKey(KEY.kid, NOW_MS)):
        assert view.knows(entry)
        assert not view.merge(entry)
    assert len(view) == 0


# Realistic entries: each outlives every token that it could match.
LASTING = cuts_ending(720, 720, 721, 722)
LASTING_CUTS = [one for cuts in LASTING.values() for one in cuts]
LASTING_SESSIONS = sessions_knowing(LASTING)
LASTING_DENIALS = [
    *(Deny(session.claims.sid, session.claims.absolute_end_ms + extra) for session in LASTING_SESSIONS for extra in (0, 1, HOUR_MS)),
    *(Deny(session.claims.family, NOW_MS + 720 * MINUTE_MS) for session in LASTING_SESSIONS),
]
LASTING_REPLACEMENTS = [Deny(entry.id, entry.until_ms, NOW_MS) for entry in LASTING_DENIALS]


class AnyHistory(RuleBasedStateMachine):
    """Entries come in any order, floors rise at any time, the wall clock goes where it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.view = fresh_view()
        self.wall_ms = NOW_MS
        self.revoked: set[int] = set()
        self.logged_out: set[str] = set()
        self.floor_ms = 0

    @rule(entry=st.sampled_from(LASTING_DENIALS))
    def hear_a_denial(self, entry: Deny) -> None:
        if self.view.merge(entry):
            self.logged_out.add(entry.id)

    @rule(entry=st.sampled_from(LASTING_REPLACEMENTS))
    def hear_of_a_replacement(self, entry: Deny) -> None:
        self.view.merge(entry)

    @rule(entry=st.sampled_from(LASTING_CUTS))
    def hear_a_cut(self, entry: Cut) -> None:
        self.view.merge(entry)

    @rule(by_ms=st.sampled_from([-12 * HOUR_MS, -HOUR_MS, -MINUTE_MS, -1, 1, MINUTE_MS, HOUR_MS, 12 * HOUR_MS]))
    def step_the_clock(self, by_ms: int) -> None:
        self.wall_ms += by_ms

    @rule(behind_ms=st.sampled_from([0, 1, MINUTE_MS, HOUR_MS]))
    def raise_the_floor(self, behind_ms: int) -> None:
        """As a backend does: at any time, to a little before any clock."""
        self.view.raise_floor(self.wall_ms - behind_ms)

    @invariant()
    def what_was_revoked_is_never_accepted_again(self) -> None:
        assert self.view.floor_ms >= self.floor_ms
        self.floor_ms = self.view.floor_ms
        for number, session in enumerate(LASTING_SESSIONS):
            decision = judge(session, self.view, wall_ms=self.wall_ms)
            if refused(decision) or superseded(decision):
                self.revoked.add(number)
                assert not superseded(decision) or self.logged_out.isdisjoint((session.claims.sid, session.claims.family))
            elif number in self.revoked:
                assert repr(decision) != "Accept()", f"session {number} came back to life"


TestAnyHistory = pytest.mark.long(AnyHistory.TestCase)
TestAnyHistory.settings = settings(max_examples=150, stateful_step_count=25)


@given(
    st.lists(st.builds(Deny, st.sampled_from(IDS), st.just(NOW_MS + HOUR_MS), st.sampled_from([0, NOW_MS - 200_000, NOW_MS])), max_size=6),
    st.integers(-300_000, 300_000),
    st.integers(0, 2 * MINUTE_MS),
)
def test_a_replacement_is_forgotten_once_no_clock_tells_it_from_a_log_out(found: list[Deny], floor_off_ms: int, ahead_ms: int) -> None:
    kept, forgetful = view_of(found), view_of(found)
    forgetful.raise_floor(NOW_MS + floor_off_ms)
    wall_ms = NOW_MS + floor_off_ms + ahead_ms  # the floor is behind every trusted clock
    lasting = [session for session in SESSIONS if session.until_s * 1000 > wall_ms and session.claims.absolute_end_ms > forgetful.floor_ms]

    for one in lasting:
        before, after = judge(one, kept, wall_ms=wall_ms), judge(one, forgetful, wall_ms=wall_ms)
        # Both are refused as revoked then, for different reasons.
        assert repr(before) == repr(after) or (refused(before) and refused(after))
    forgetful.check()


# Size


@pytest.mark.long
@pytest.mark.parametrize("kind", thinned([(20_000, True), (100_000, True), (100_000, False)], kept=[(20_000, True)]))
def test_a_denial_takes_a_few_bytes(kind: tuple[int, bool]) -> None:
    """Of log-outs, or of log-ins: each of these replaces an id."""
    count, replaced = kind
    random = Random(1)
    ids = [random_id(random).encode() for _ in range(count)]
    view = View(fresh_at=math.inf)
    tracemalloc.start()
    try:
        for number, id in enumerate(ids):
            at_ms = NOW_MS + 12 * number * HOUR_MS // len(ids)
            view.merge(Deny(id.decode(), at_ms + 12 * HOUR_MS, at_ms * replaced))
            if number % 1000 == 0:
                view.raise_floor(at_ms - MINUTE_MS)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert len(view) == count
    assert size <= (40 if count == 100_000 else 60) * count  # some are not packed yet
