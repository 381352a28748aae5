"""The records of log-ins, and which log-ins stay if a subject has too many."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.records.log_ins import (
    MINUTE_MS,
    LogIn,
    admit,
    decode,
    decode_roster,
    encode,
    encode_roster,
    log_in_of,
    minute,
    newest_first,
    refreshed,
    roster_id,
)
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.models import Claims, CutId, FamilyId, KeyId, NodeId, SessionId

from ..builders import HOUR_MS, NOW_MS

MOMENTS = st.integers(NOW_MS, NOW_MS + HOUR_MS) | st.just(NOW_MS)  # of which several may be the same
FAMILIES = st.text("abcdef", min_size=1, max_size=3).map(FamilyId)
LOG_INS = st.builds(
    LogIn,
    sid=st.text("xyz", max_size=2).map(SessionId),
    cuts=st.lists(st.text("~c1", max_size=3).map(CutId), max_size=2).map(tuple),
    kid=st.sampled_from([KeyId("k1"), KeyId("k2")]),
    authenticated_ms=MOMENTS,
    idle_end_ms=MOMENTS,
    absolute_end_ms=MOMENTS,
    seen_ms=MOMENTS,
    label=st.sampled_from(["Firefox on Linux", "curl"]),
    address=st.none() | st.just("192.0.2.1"),
)


@given(LOG_INS)
def test_a_log_in_travels(log_in: LogIn) -> None:
    assert decode(encode(log_in)) == log_in


@given(st.dictionaries(FAMILIES, LOG_INS))
def test_a_roster_travels(roster: dict[FamilyId, LogIn]) -> None:
    assert decode_roster(encode_roster(roster)) == roster


@pytest.mark.parametrize("content", [b"", b"\x01", b"\x02\x80", b"\x01\xc1", b"\x01\x80", encode_roster({FamilyId("f"): None})])  # type: ignore[dict-item]
def test_a_foreign_or_damaged_entry_is_not_taken_for_a_log_in(content: bytes) -> None:
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        decode(content)


@pytest.mark.long
@given(LOG_INS, st.permutations(range(3)), st.lists(LOG_INS, min_size=3, max_size=3, unique_by=lambda one: one.idle_end_ms))
def test_the_record_does_not_depend_on_the_order_of_the_nodes_writes(recorded: LogIn, order: list[int], seen: list[LogIn]) -> None:
    recorded = msgspec.structs.replace(recorded, idle_end_ms=0)

    def after(numbers: list[int]) -> LogIn:
        record = recorded
        for number in numbers:
            record = refreshed(record, seen[number])
        return record

    assert after(order) == after([0, 1, 2]) == after([*order, *order])


@given(LOG_INS, LOG_INS)
def test_a_use_changes_neither_the_log_ins_time_nor_the_devices_name(recorded: LogIn, seen: LogIn) -> None:
    record = refreshed(recorded, seen)

    assert (record.authenticated_ms, record.label, record.address) == (recorded.authenticated_ms, recorded.label, recorded.address)
    assert record.seen_ms >= recorded.seen_ms
    assert record.idle_end_ms >= recorded.idle_end_ms


@given(st.dictionaries(FAMILIES, LOG_INS, max_size=8), FAMILIES, LOG_INS, st.integers(1, 5))
def test_the_current_log_in_has_a_place_first_and_then_the_newest(
    standing: dict[FamilyId, LogIn], family: FamilyId, log_in: LogIn, most: int
) -> None:
    stay, end = admit(standing, family, log_in, most)

    assert stay[family] == log_in
    assert end == admit(dict(reversed(standing.items())), family, log_in, most).end  # whichever node decides
    assert len(stay) <= most
    assert {*stay, *end} == {family, *standing}
    assert not {*stay} & {*end}
    assert not end or len(stay) == most  # no log-in is dropped while there is a place
    youngest_to_go = max((standing[one].authenticated_ms for one in end), default=0)
    assert all(standing[one].authenticated_ms >= youngest_to_go for one in stay if one != family)


@given(st.dictionaries(FAMILIES, LOG_INS))
def test_the_newest_log_in_comes_first_in_a_list(log_ins: dict[FamilyId, LogIn]) -> None:
    moments = [log_in.authenticated_ms for _, log_in in newest_first(log_ins.items())]

    assert moments == sorted(moments, reverse=True)


@given(MOMENTS)
def test_use_is_noted_to_the_minute(now_ms: int) -> None:
    assert minute(now_ms) <= now_ms < minute(now_ms) + MINUTE_MS
    assert minute(minute(now_ms)) == minute(now_ms)


def test_a_log_in_is_validated_as_its_newest_token() -> None:
    claims = token(NOW_MS + HOUR_MS, NOW_MS + HOUR_MS)
    verified = Verified.of(claims, KeyId("kid"))
    log_in = log_in_of(verified, NOW_MS)

    again = log_in.verified("family", "ada")
    assert (again.claims, again.kid) == (verified.claims, verified.kid)
    assert "sid" not in repr(log_in)


@given(MOMENTS, st.integers(0, HOUR_MS))
def test_a_log_in_is_not_over_before_its_token_is_and_at_most_a_minute_later(idle_end_ms: int, left_ms: int) -> None:
    end_ms = idle_end_ms + left_ms
    recorded = log_in_of(Verified.of(token(idle_end_ms, end_ms), KeyId("kid")), NOW_MS)

    assert idle_end_ms <= recorded.idle_end_ms <= min(idle_end_ms + MINUTE_MS, end_ms)


def token(idle_end_ms: int, absolute_end_ms: int) -> Claims:
    return Claims(
        sid=SessionId("sid"),
        subject="ada",
        family=FamilyId("family"),
        cuts=(CutId("cut"),),
        issued_ms=NOW_MS,
        authenticated_ms=NOW_MS,
        idle_end_ms=idle_end_ms,
        absolute_end_ms=absolute_end_ms,
        issuer=NodeId(""),
    )


def test_a_roll_has_an_id_that_no_session_has() -> None:
    assert roster_id("ada") == roster_id("ada") != roster_id("bob")
    assert "~" in roster_id("\ud800")  # no session's id has one
