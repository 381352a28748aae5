"""The accept rule, step by step: each check's refusals, limits and order."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.accept_rule import ACCEPT, CHECKS, CannotTell, Decision, Refuse, decide, denial, walk
from ha_session_mw._core.cluster.view import CUT_TOLERANCE_MS, SUPERSEDED_MS, View, began_after, cut_end_ms, new_cut_id
from ha_session_mw._core.token.cache import VerifiedCache
from ha_session_mw.exceptions import (
    ClientFault,
    InfrastructureFault,
    ProblemError,
    SessionExpired,
    SessionIdleTimeout,
    SessionRevoked,
    SessionSuperseded,
    StateNotReached,
    StateStale,
    TokenInvalid,
    TokenMissing,
    TokenNotYetValid,
)
from ha_session_mw.models import CutId, Deny, DenyKey

from .builders import HOUR_MS, KEY, NOW_MS, claims, cut, fresh_view, judge, seen

LEEWAY_MS = 60_000


def problem_of(decision: Decision) -> ProblemError:
    assert isinstance(decision, (Refuse, CannotTell)), decision
    return decision.problem


def refusal(decision: Decision) -> type[ProblemError] | None:
    return None if decision is ACCEPT else type(problem_of(decision))


def knowing(*entries: Deny | DenyKey | object, floor_ms: int = 0) -> View:
    view = fresh_view()
    view.raise_floor(floor_ms)
    for entry in entries:
        view.merge(entry)  # type: ignore[arg-type]
    return view


def test_a_session_without_an_objection_is_accepted() -> None:
    assert judge(claims(), fresh_view()) is ACCEPT


@pytest.mark.parametrize("seen_ms", [NOW_MS - 1, NOW_MS, NOW_MS + 5, NOW_MS + 30, NOW_MS + HOUR_MS])
def test_a_token_is_valid_at_the_same_times_whether_and_whenever_it_was_put_into_the_cache(seen_ms: int) -> None:
    for session in (ENDS_AT_ONCE, claims(idle_end_ms=NOW_MS + 10)):
        cached = seen(session)
        VerifiedCache(10, 10**6, ttl_s=0.002).put(cached.text, cached, seen_ms / 1000)
        assert denial(cached, fresh_view()) is None
        for wall_ms in (NOW_MS - LEEWAY_MS - 1, NOW_MS - LEEWAY_MS, NOW_MS + 9.5, NOW_MS + 10):
            for floor_ms in (0, NOW_MS + 10):
                view = knowing(floor_ms=floor_ms)
                found, known = (decide(one, view, math.inf, 0.0, wall_ms, 1.0) for one in (seen(session), cached))
                assert refusal(found) is refusal(known)


# Each check at its exact edge

ENDS_AT_ONCE = claims(idle_end_ms=NOW_MS + 10, absolute_end_ms=NOW_MS + 10)


@pytest.mark.parametrize(
    ("wall_ms", "told"),
    [(NOW_MS + 9.999, None), (NOW_MS + 10, SessionExpired), (NOW_MS + 10.001, SessionExpired), (math.inf, SessionExpired)],
)
def test_a_session_is_over_exactly_at_its_absolute_end(wall_ms: float, told: type[ProblemError] | None) -> None:
    assert refusal(judge(ENDS_AT_ONCE, fresh_view(), wall_ms=wall_ms)) is told


@pytest.mark.parametrize(
    ("wall_ms", "told"), [(NOW_MS + 9.999, None), (NOW_MS + 10, SessionIdleTimeout), (NOW_MS + 11, SessionIdleTimeout)]
)
def test_a_session_is_over_exactly_at_its_idle_end(wall_ms: float, told: type[ProblemError] | None) -> None:
    assert refusal(judge(claims(idle_end_ms=NOW_MS + 10), fresh_view(), wall_ms=wall_ms)) is told


@pytest.mark.parametrize(("floor_ms", "told"), [(NOW_MS + 9, None), (NOW_MS + 10, SessionExpired), (NOW_MS + 11, SessionExpired)])
def test_a_session_that_ends_at_or_below_the_floor_is_over_by_any_clock(floor_ms: int, told: type[ProblemError] | None) -> None:
    assert refusal(judge(ENDS_AT_ONCE, knowing(floor_ms=floor_ms), wall_ms=NOW_MS)) is told


@pytest.mark.parametrize(
    ("ahead_ms", "told"),
    [(1, None), (LEEWAY_MS - 1, None), (LEEWAY_MS, None), (LEEWAY_MS + 1, TokenNotYetValid), (HOUR_MS, TokenNotYetValid)],
)
def test_a_token_from_the_future_is_accepted_within_a_minute(ahead_ms: int, told: type[ProblemError] | None) -> None:
    later = claims(issued_ms=NOW_MS + ahead_ms, idle_end_ms=NOW_MS + 2 * HOUR_MS)

    assert refusal(judge(later, fresh_view())) is told


def test_a_token_from_too_far_in_the_future_says_when_to_come_back() -> None:
    problem = problem_of(judge(claims(issued_ms=NOW_MS + LEEWAY_MS + 2_500, idle_end_ms=NOW_MS + HOUR_MS), fresh_view()))

    assert problem.retry_after_s == 2.5
    assert problem.retryable


@pytest.mark.parametrize(("age_s", "told"), [(0, None), (4.999, None), (5.0, None), (5.001, StateStale), (math.inf, StateStale)])
def test_a_node_validates_for_as_long_as_the_freshness_limit_after_its_last_contact(age_s: float, told: type[ProblemError] | None) -> None:
    assert refusal(judge(claims(), fresh_view(), fresh_at=1_000.0 - age_s, limit_s=5.0)) is told


def test_a_node_that_never_learned_anything_cannot_tell() -> None:
    assert refusal(judge(claims(), View(), fresh_at=View().fresh_at)) is StateStale


def test_freshness_counts_as_read_before_the_look_up() -> None:
    """A lease that is renewed during the look-up would vouch for a look-up that is older."""
    assert refusal(judge(claims(), fresh_view(), fresh_at=900.0)) is StateStale


@pytest.mark.parametrize(
    ("denied", "told"),
    [
        ("sid-of-a-session-ABCDE", SessionRevoked),
        ("family-of-it-ABCDEFGHI", SessionRevoked),
        ("sid-of-another-session", None),
        ("ada", None),
    ],
)
def test_a_denied_id_or_family_is_revoked(denied: str, told: type[ProblemError] | None) -> None:
    assert refusal(judge(claims(), knowing(Deny(denied, NOW_MS + HOUR_MS)))) is told


SID, FAMILY = claims().sid, claims().family
LASTING_MS = NOW_MS + 12 * HOUR_MS


@pytest.mark.parametrize("id", [SID, FAMILY])
@pytest.mark.parametrize(
    ("ago_ms", "told"),
    [
        (0, SessionSuperseded),
        (-30_000, SessionSuperseded),
        (SUPERSEDED_MS, SessionSuperseded),
        (SUPERSEDED_MS + 1, SessionRevoked),
        (-SUPERSEDED_MS - 1, SessionRevoked),
    ],
)
def test_a_replaced_id_is_superseded_for_two_minutes_and_then_revoked(id: str, ago_ms: int, told: type[ProblemError]) -> None:
    assert refusal(judge(claims(), knowing(Deny(id, LASTING_MS, NOW_MS - ago_ms)))) is told


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ((Deny(SID, LASTING_MS, NOW_MS), Deny(FAMILY, LASTING_MS)), SessionRevoked),
        ((Deny(SID, LASTING_MS), Deny(FAMILY, LASTING_MS, NOW_MS)), SessionRevoked),
        ((Deny(SID, LASTING_MS, NOW_MS - HOUR_MS), Deny(FAMILY, LASTING_MS, NOW_MS)), SessionRevoked),
        ((Deny(SID, LASTING_MS, NOW_MS - 1000), Deny(FAMILY, LASTING_MS, NOW_MS)), SessionSuperseded),
        ((Deny(SID, LASTING_MS, NOW_MS), cut("c")), SessionRevoked),
        ((Deny(SID, LASTING_MS, NOW_MS), cut("c", spare=FAMILY)), SessionSuperseded),
    ],
)
def test_a_log_out_of_the_session_outranks_its_replacement(entries: tuple[Deny, ...], told: type[ProblemError]) -> None:
    assert refusal(judge(claims(), knowing(*entries))) is told
    assert refusal(judge(claims(), knowing(*reversed(entries)))) is told


def test_a_replaced_session_whose_token_lists_an_unknown_cut_is_certainly_superseded() -> None:
    old = cut("old")
    new = cut("new", replaces=(old,))

    assert refusal(judge(claims(cuts=(new.id,)), knowing(old, Deny(SID, LASTING_MS, NOW_MS)))) is SessionSuperseded


def test_a_replacement_is_told_without_a_clock() -> None:
    found = denial(seen(claims()), knowing(Deny(SID, LASTING_MS, NOW_MS - HOUR_MS)))

    assert found is not None
    assert isinstance(found.problem, SessionSuperseded)


def test_a_token_under_a_denied_key_is_invalid_and_no_word_more() -> None:
    view = knowing(DenyKey(KEY.kid, NOW_MS + HOUR_MS))

    assert refusal(judge(claims(), view)) is TokenInvalid


@pytest.mark.parametrize(
    ("given_cut", "told"),
    [
        (cut("c"), SessionRevoked),
        (cut("c", subject="bob"), None),
        (cut("c", subject=None), SessionRevoked),
        (cut("c", spare="family-of-it-ABCDEFGHI"), None),
        (cut("c", spare="sid-of-a-session-ABCDE"), None),
        (cut("c", spare="another"), SessionRevoked),
        (cut("c", subject=None, spare="family-of-it-ABCDEFGHI"), None),
    ],
)
def test_a_cut_takes_its_subjects_sessions_but_for_the_one_it_spares(given_cut: object, told: type[ProblemError] | None) -> None:
    assert refusal(judge(claims(), knowing(given_cut))) is told


def test_a_cut_of_everybody_takes_visitors_too_and_a_subjects_cut_does_not() -> None:
    visitor = claims(subject=None)

    assert refusal(judge(visitor, knowing(cut("c", subject=None)))) is SessionRevoked
    assert judge(visitor, knowing(cut("c"))) is ACCEPT


def test_a_session_begun_after_the_cut_lists_it_and_is_valid() -> None:
    one = cut("c")

    assert judge(claims(cuts=(one.id,)), knowing(one)) is ACCEPT


def test_a_session_that_began_a_minute_after_the_cut_need_not_list_it() -> None:
    """The cut was made without a majority, and arrives late."""
    began_ms = claims().authenticated_ms
    after, within = began_ms - CUT_TOLERANCE_MS - 1_000, began_ms - CUT_TOLERANCE_MS + 1_000
    for subject in (None, "ada"):
        assert judge(claims(), knowing(cut("c", subject=subject, made_ms=after))) is ACCEPT
        assert refusal(judge(claims(), knowing(cut("c", subject=subject, made_ms=within)))) is SessionRevoked
        assert refusal(judge(claims(), knowing(cut("c", subject=subject, made_ms=after), cut("d", made_ms=within)))) is SessionRevoked


@given(st.text("~0123456789abcdefx-_", max_size=30), st.integers(0, 2**48))
def test_text_that_carries_no_time_of_making_revokes_every_session_that_does_not_list_it(text: str, began_ms: int) -> None:
    assert not began_after(began_ms, CutId(text.replace("~", "")))
    assert not began_after(began_ms, CutId(f"random~{text.replace('~', '')}"))
    assert not began_after(began_ms, CutId(f"random~x~{text.replace('~', '')}"))


@given(st.integers(0, 2**42), st.integers(0, 2**42))
def test_the_end_of_a_cut_is_where_an_earlier_release_looks_for_it(made_ms: int, until_ms: int) -> None:
    dated = new_cut_id("random", until_ms, made_ms)
    assert cut_end_ms(dated) == cut_end_ms(new_cut_id("random", until_ms)) == -(-until_ms // 1000) * 1000
    assert int(dated.rpartition("~")[2], 16) * 1000 == cut_end_ms(dated)
    assert not began_after(made_ms + CUT_TOLERANCE_MS, dated)
    assert began_after(made_ms + CUT_TOLERANCE_MS + 1_000, dated)


def test_a_session_must_list_every_live_cut() -> None:
    one, two = cut("c"), cut("d")

    assert refusal(judge(claims(cuts=(one.id,)), knowing(one, two))) is SessionRevoked


def test_a_token_that_lists_an_unknown_cut_says_that_the_node_is_behind() -> None:
    problem = problem_of(judge(claims(cuts=(cut("unheard-of").id,)), fresh_view()))

    assert isinstance(problem, StateNotReached)
    assert problem.retryable


def test_a_listed_cut_that_ended_below_the_floor_may_have_been_forgotten_and_is_no_reason() -> None:
    ended = cut("c", until_ms=NOW_MS - HOUR_MS)

    assert judge(claims(cuts=(ended.id,)), knowing(floor_ms=NOW_MS - HOUR_MS + 1_000)) is ACCEPT


def test_a_listed_cut_that_everybody_forgot_is_no_reason_and_no_excuse() -> None:
    lost, newer = cut("lost"), cut("newer")
    view = knowing(newer)
    view.forgotten_cuts_end_ms = lost.until_ms + 1_000

    assert refusal(judge(claims(cuts=(lost.id,)), view)) is SessionRevoked
    assert judge(claims(cuts=(lost.id, newer.id)), view) is ACCEPT


def test_listed_text_that_is_no_cuts_id_does_not_hold_a_session_up_for_ever() -> None:
    assert judge(claims(cuts=("nonsense",)), fresh_view()) is ACCEPT


# Which check comes first


def test_the_checks_come_in_the_order_of_the_rule() -> None:
    """A token that every check refuses, and then one reason less at a time."""
    unknown = cut("unknown")
    live = cut("live")
    told = [
        judge(
            claims(
                issued_ms=NOW_MS if reasons < 7 else NOW_MS + HOUR_MS,
                idle_end_ms=NOW_MS + 20 if reasons < 8 else NOW_MS,
                absolute_end_ms=NOW_MS + 20 if reasons < 9 else NOW_MS,
                cuts=(unknown.id,) if reasons >= 3 else (),
            ),
            knowing(
                *([live] if reasons >= 2 else []),
                *([Deny("sid-of-a-session-ABCDE", NOW_MS + HOUR_MS)] if reasons >= 4 else []),
                *([DenyKey(KEY.kid, NOW_MS + HOUR_MS)] if reasons >= 5 else []),
                floor_ms=NOW_MS + 20 if reasons >= 6 else 0,
            ),
            fresh_at=math.inf if reasons < 1 else -math.inf,
        )
        for reasons in range(9, -1, -1)
    ]

    assert [refusal(decision) for decision in told] == [
        *(SessionExpired, SessionIdleTimeout, TokenNotYetValid, SessionExpired),
        *(TokenInvalid, SessionRevoked, StateNotReached, SessionRevoked, StateStale, None),
    ]
    checks = [problem_of(decision).check for decision in told[:-1]]
    assert checks == [check for check in CHECKS if check in checks]


def test_an_unknown_cut_comes_before_a_missing_one_because_it_may_replace_it() -> None:
    """This node knows only the old cut. The session began on another node, after the new cut, which replaces the old one."""
    old = cut("old")
    new = cut("new", replaces=(old,))
    session = claims(cuts=(new.id,))
    view = knowing(old)

    assert refusal(judge(session, view)) is StateNotReached
    view.merge(new)
    assert judge(session, view) is ACCEPT


def test_certain_refusals_do_not_wait_for_freshness() -> None:
    """A revoked session stays revoked, whatever a stale node has yet to learn."""
    lost = -math.inf

    assert refusal(judge(claims(), knowing(Deny("sid-of-a-session-ABCDE", NOW_MS + HOUR_MS)), fresh_at=lost)) is SessionRevoked
    assert refusal(judge(claims(), knowing(cut("c")), fresh_at=lost)) is SessionRevoked
    assert refusal(judge(claims(), knowing(DenyKey(KEY.kid, NOW_MS + HOUR_MS)), fresh_at=lost)) is TokenInvalid
    assert refusal(judge(ENDS_AT_ONCE, fresh_view(), wall_ms=NOW_MS + 10, fresh_at=lost)) is SessionExpired


def test_a_certain_refusal_is_a_client_fault_and_an_uncertain_one_an_infrastructure_fault() -> None:
    refused = judge(claims(), knowing(cut("c")))
    unsure = judge(claims(), fresh_view(), fresh_at=-math.inf)

    assert isinstance(refused, Refuse)
    assert isinstance(refused.problem, ClientFault)
    assert isinstance(unsure, CannotTell)
    assert isinstance(unsure.problem, InfrastructureFault)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (Deny("sid-of-a-session-ABCDE", NOW_MS + HOUR_MS), SessionRevoked),
        (cut("c"), SessionRevoked),
        (DenyKey(KEY.kid, NOW_MS + HOUR_MS), TokenInvalid),
        (Deny("sid-of-another-session", NOW_MS + HOUR_MS), None),
    ],
)
def test_a_denied_session_stays_denied_at_any_clock_time(entry: object, told: type[ProblemError] | None) -> None:
    view = knowing(entry)
    view.fresh_at = -math.inf
    against = denial(seen(claims()), view)

    assert (type(against.problem) if against else None) is told


def test_a_refusal_that_depends_on_the_clock_is_no_denial() -> None:
    long_over = claims(issued_ms=0, idle_end_ms=10, absolute_end_ms=10)
    to_come = claims(issued_ms=2 * NOW_MS, idle_end_ms=3 * NOW_MS, absolute_end_ms=3 * NOW_MS)

    assert [denial(seen(given), fresh_view()) for given in (long_over, to_come)] == [None, None]


# The walk with HA_SESSION_ERROR_DETAIL=full


def test_the_walk_lists_the_checks_up_to_the_one_that_failed() -> None:
    problem = problem_of(judge(claims(), knowing(Deny("sid-of-a-session-ABCDE", NOW_MS + HOUR_MS))))
    steps = walk(problem)

    assert [step["check"] for step in steps] == list(CHECKS[: CHECKS.index("denied") + 1])
    assert [step["passed"] for step in steps] == [True] * (len(steps) - 1) + [False]
    assert steps[-1]["reason"] == problem.reason


def test_a_problem_that_comes_from_no_check_has_no_walk() -> None:
    assert walk(TokenMissing("nothing was sent")) == []
    assert walk(TokenMissing("nothing was sent", check="presented")) == [
        {"check": "presented", "passed": False, "reason": "nothing was sent"}
    ]


def test_no_decision_shows_whose_session_it_is() -> None:
    decisions = [judge(claims(), knowing(cut("c"))), judge(claims(), knowing(Deny("sid-of-a-session-ABCDE", NOW_MS + HOUR_MS)))]

    assert not [word for word in ("ada", "sid-of", "family-of") if word in f"{decisions!r}"]
