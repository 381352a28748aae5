"""A node that has to learn reads on as fast as it can, and does not read the same page over and over."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import msgspec
import pytest

from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.quorum.log import PAGE_ENTRIES
from ha_session_mw._core.quorum.messages import Answer
from ha_session_mw.backends.peers.pacing import (
    CATCH_UP_AT_ONCE,
    INCOMPLETE_COUNTS,
    LEAST_PAGE_AGAIN_S,
    LEAST_PAGE_WHILE_SERVING_S,
    LEAST_ROUND_S,
    NEWS_PER_S,
    ROUNDS_AT_ONCE,
    ROUNDS_PER_S,
    PeerPace,
)
from ha_session_mw.models import Deny, NodeId

from ...core.builders import HOUR_MS, NOW_MS

HEARTBEAT = Heartbeat(NodeId("b"), "life-of-b", "https://b.example", "ready", 0, 0, (), 5.0, HOUR_MS)


def answer(upto: int, entries: int = 1, **fields: Any) -> Answer:
    denials = tuple(Deny(f"{upto}-{number}", NOW_MS) for number in range(entries))
    return Answer(
        version=1, digest="", sender="b", heartbeat=HEARTBEAT, incarnation="life-of-b", memory="whole", upto=upto, entries=denials, **fields
    )


def pauses(*answers: Answer, recovering: bool, news: int = 0) -> list[float]:
    pace = PeerPace(lambda _: None)
    return [pace.least_round_s(one, news, 0.0, recovering=recovering, fresh=False) for one in answers]


@pytest.mark.parametrize("news", [0, 1])
def test_a_page_that_leads_further_is_followed_by_the_next_at_once_whether_or_not_another_member_has_told_the_same(news: int) -> None:
    assert pauses(answer(1), answer(2), answer(3), recovering=True, news=news) == [LEAST_ROUND_S] * 3


def test_the_same_page_again_is_worth_a_pause() -> None:
    assert pauses(answer(1), answer(1), answer(1), recovering=True) == [LEAST_ROUND_S, LEAST_PAGE_AGAIN_S, LEAST_PAGE_AGAIN_S]


def test_a_million_entries_are_paced_to_a_second() -> None:
    pages = 1_000_000 / PAGE_ENTRIES
    assert pages * pauses(answer(PAGE_ENTRIES, PAGE_ENTRIES), recovering=True)[0] == pytest.approx(1.0)


def test_log_outs_by_column_are_paced_as_others_are() -> None:
    by_column = msgspec.structs.replace(answer(1, 0), ids="-" * 22 * PAGE_ENTRIES, ends=(1,) * PAGE_ENTRIES)
    for recovering in (True, False):
        assert pauses(*[by_column] * 9, recovering=recovering) == pauses(*[answer(1, PAGE_ENTRIES)] * 9, recovering=recovering)


def test_answers_that_bring_nothing_are_not_asked_for_over_and_over_by_a_node_that_serves_nobody() -> None:
    """Members that recover answer a new one at once, until operators mend what they wait for."""
    pace, now_s, polls = PeerPace(lambda _: None), 0.0, 0
    while now_s < 10:
        now_s, polls = now_s + pace.least_round_s(answer(0, 0, complete=True), 0, now_s, recovering=False, fresh=False), polls + 1
    assert polls <= ROUNDS_AT_ONCE + 10 * ROUNDS_PER_S + 1


def test_a_node_that_serves_leaves_time_for_the_others() -> None:
    assert pauses(answer(1), answer(2), recovering=False) == [LEAST_PAGE_WHILE_SERVING_S] * 2


def read_in_a_minute(*news: int) -> int:
    """Return how many news a node out of contact reads in a minute from a peer whose pages never end, and bring so many news in turn."""
    pace, now_s, read = PeerPace(lambda _: None), 0.0, 0
    page = answer(1, PAGE_ENTRIES, complete=False)
    for brought in cycle(news):
        if now_s >= 60:
            return read
        now_s, read = now_s + pace.least_round_s(page, brought, now_s, recovering=False, fresh=False), read + brought
    raise AssertionError


def test_a_node_out_of_contact_catches_up_at_once_and_then_slows_a_peer_whose_news_do_not_end() -> None:
    assert read_in_a_minute(PAGE_ENTRIES) == pytest.approx(CATCH_UP_AT_ONCE + 60 * NEWS_PER_S / INCOMPLETE_COUNTS, rel=0.05)


def test_a_peer_that_passes_on_a_flood_is_slowed_less_because_it_also_tells_what_this_node_has_told_it() -> None:
    assert read_in_a_minute(PAGE_ENTRIES, 0) == pytest.approx(60 / LEAST_PAGE_WHILE_SERVING_S * PAGE_ENTRIES / 2, rel=0.05)
