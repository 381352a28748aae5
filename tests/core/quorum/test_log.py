"""One member's part in the log without a server, message by message. The simulation tests many of them together."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterable
from random import Random
from typing import Any

import msgspec
import pytest

from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.cluster.view import View
from ha_session_mw._core.quorum import log as module
from ha_session_mw._core.quorum.log import PAGE_ENTRIES, Quorum
from ha_session_mw._core.quorum.majorities import Majorities
from ha_session_mw._core.quorum.messages import Answer, Batch, Poll, decode_answer, decode_batch, decode_poll, encode
from ha_session_mw._core.quorum.ready import Hold, OldFile, PeerMismatch, QuorumEvent, Ready, Receipt, Recovered, Sent
from ha_session_mw.events import FoundQuorum, LostQuorum, MemberDraining, MemberJoined, MemberLeft, PossibleLoss
from ha_session_mw.models import Cut, CutId, Deny, DenyKey, Entry, KeyId, NodeId
from ha_session_mw.version import PROTOCOL, Versions

from ...thinning import thinned
from ..builders import HOUR_MS, NOW_MS, random_id

A, B, C, D, E = (f"https://{name}.example" for name in "abcde")
LIMIT_S = 5.0
OVER_S = LIMIT_S * 1.02 + 0.05


def at(seconds: float) -> Moment:
    return Moment(1000 + seconds, NOW_MS + seconds * 1000)


START = at(0)


class Member:
    """A member's state machine, and a driver that obeys it: it collects the events, the answers and the batches."""

    def __init__(self, quorum: Quorum, now: Moment) -> None:
        self.quorum = quorum
        self.events: list[QuorumEvent] = []
        self.answers: dict[Hold, Answer] = {}
        self.batch: Batch | None = None
        self.checked = True
        self._obey(quorum.ready(now), now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.quorum, name)

    def _obey(self, ready: Ready, now: Moment) -> None:
        self.events += ready.events
        self.answers.update(ready.answers)
        if ready.batch is not None:
            assert self.batch is None, "no batch follows before the one before it has been kept"
            self.batch = ready.batch
        if self.checked:
            self.quorum.check(now)

    def append(self, entries: Iterable[Entry], now: Moment, *, awaited: bool = True) -> Receipt:
        receipt, ready = self.quorum.append(entries, now, awaited=awaited)
        self._obey(ready, now)
        return receipt

    def answered(self, sent: Sent, answer: Answer, now: Moment) -> None:
        self._obey(self.quorum.answered(sent, answer, now), now)

    def arrived(self, poll: Poll, now: Moment) -> Answer | Hold:
        """Return the answer if it is due at once, else the hold."""
        hold, ready = self.quorum.arrived(poll, now)
        self._obey(ready, now)
        return self.answers.pop(hold, hold)

    def release(self, hold: Hold, now: Moment) -> Answer | None:
        """Return the answer to a held poll; None if it is not due yet."""
        self._obey(self.quorum.ready(now), now)
        return self.answers.pop(hold, None)

    def tick(self, now: Moment) -> None:
        self._obey(self.quorum.tick(now), now)

    def keep(self, now: Moment, disk: list[Batch]) -> None:
        """Write all that has to be written."""
        while self.batch is not None:
            batch, self.batch = self.batch, None
            disk.append(decode_batch(encode(batch)))
            self._obey(self.quorum.kept(batch, now), now)

    def fail_to_keep(self, now: Moment) -> None:
        self.batch = None
        self._obey(self.quorum.not_kept(now), now)

    def take_events(self) -> list[QuorumEvent]:
        events, self.events = self.events, []
        return events


def member(
    url: str, *urls: str, life: str = "", now: Moment = START, stored: Iterable[Batch] | None = None, protocol: Versions = PROTOCOL
) -> Member:
    own = Heartbeat(NodeId(url), life or f"life of {url}", url, "starting", 0, 0, (KeyId("key"),), LIMIT_S, 12 * HOUR_MS)
    own = msgspec.structs.replace(own, protocol=protocol)
    return Member(Quorum(View(), own, urls, now=now, heartbeat_s=0.5, stored=stored), now)


def exchange(asker: Member, answerer: Member, now: Moment, *, received: Moment | None = None) -> Answer:
    """A poll and its answer, over the wire; the answer is made at once or when the hold ends."""
    sent = asker.poll(answerer.me, now)
    result = answerer.arrived(decode_poll(encode(sent.poll)), now)
    if isinstance(result, Hold):
        late = answerer.release(result, Moment(result.until_s, now.wall_ms))
        assert late is not None
        result = late
    answer = decode_answer(encode(result))
    asker.answered(sent, answer, received or now)
    return answer


def talk(now: Moment, *members: Member, rounds: int = 3) -> None:
    """Let each member poll each other one."""
    for _ in range(rounds):
        for one in members:
            for other in members:
                if one is not other:
                    exchange(one, other, now)


def started(*urls: str) -> list[Member]:
    members = [member(url, *urls) for url in urls]
    talk(at(0), *members)
    for one in members:
        one.take_events()
    return members


def deny(name: str, until_ms: int = NOW_MS + HOUR_MS) -> Deny:
    return Deny(name, until_ms)


# The list.


def test_a_first_start_is_doubted_while_nodes_of_another_list_that_serve_take_this_one_for_a_member() -> None:
    one, *_ = started(A, B, C)
    for url, recovering in ((D, True), (E, True), (D, False), (E, False)):
        assert not one.recovering
        other = member(url, A, D, E)
        one.arrived(msgspec.structs.replace(other.poll(A, at(1)).poll, recovering=recovering), at(1))
        one.tick(at(1))
    assert one.recovering
    assert one.view.fresh_at == -math.inf
    one.tick(at(1 + OVER_S + 0.1))
    assert not one.recovering


def test_a_node_that_missed_a_change_of_the_list_casts_no_doubt() -> None:
    one, *_ = started(A, B, C)
    one.append([deny(one.membership.__class__(A, (A, B, D), (A, B, C)).move().id)], at(1))
    for url in (D, E):
        other = member(url, A, D, E)
        one.arrived(msgspec.structs.replace(other.poll(A, at(1)).poll, recovering=False), at(1))
    one.tick(at(1))
    assert not one.recovering
    assert one.membership.phase == "steady"


@pytest.mark.parametrize("urls", [(), (B, C), (A, B, B)])
def test_the_list_names_each_member_once_and_this_one_among_them(urls: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="must name each of them once"):
        member(A, *urls)


def test_one_member_alone_is_a_cluster_of_its_own() -> None:
    alone = member(A, A)
    assert alone.is_ready(at(0))
    assert alone.view.fresh_at == math.inf
    assert alone.standing(alone.append([deny("x")], at(0))) == "fenced"
    assert alone.has_quorum(at(10**6))


def test_the_order_in_which_the_list_is_written_does_not_matter() -> None:
    one, other = member(A, A, B), member(B, B, A)
    talk(at(0), one, other)
    assert one.is_ready(at(0))
    assert other.is_ready(at(0))


def test_a_member_with_another_list_never_counts_and_is_reported_once() -> None:
    one, foreign = member(A, A, B, C), member(B, A, B)
    for _ in range(3):
        answer = exchange(one, foreign, at(0))
        exchange(foreign, one, at(0))
        assert not answer.complete
    assert one.take_events() == [PeerMismatch(B, "list")]
    assert foreign.take_events() == [PeerMismatch(A, "list")]
    assert one.mismatched == {B: "list"}
    assert one.recovering
    assert not one.has_quorum(at(0))


def test_nothing_is_learned_from_a_member_with_another_list() -> None:
    one, foreign = member(A, A, B, C), member(B, A, B)
    foreign.append([deny("x")], at(0))
    exchange(one, foreign, at(0))
    assert "x" not in one.view.denied


def test_a_member_that_was_given_the_right_list_counts_again() -> None:
    one, foreign, right = member(A, A, B), member(B, A, B, C), member(B, A, B, life="later")
    exchange(one, foreign, at(0))
    talk(at(1), one, right)
    assert not one.mismatched
    assert one.is_ready(at(1))


def test_a_stranger_is_refused() -> None:
    one, stranger = member(A, A, B), member(C, A, C)
    poll = stranger.poll(A, at(0)).poll
    assert isinstance(one.arrived(poll, at(0)), Answer)
    assert not one.take_events()


def test_a_peer_that_takes_itself_for_another_one_never_counts() -> None:
    one, other = member(A, A, B, C), member(C, A, B, C)
    sent = one.poll(B, at(0))
    result = other.arrived(sent.poll, at(0))
    assert isinstance(result, Answer)
    one.answered(sent, result, at(0))
    assert one.take_events() == [PeerMismatch(B, "identity")]


def test_a_peer_that_points_elsewhere_than_to_its_own_url_never_counts() -> None:
    one, other = member(A, A, B, C), member(B, A, B, C)
    sent = other.poll(A, at(0))
    lying = msgspec.structs.replace(sent.poll, heartbeat=msgspec.structs.replace(sent.poll.heartbeat, url="http://elsewhere.example"))
    assert isinstance(one.arrived(lying, at(0)), Answer)
    assert one.take_events() == [PeerMismatch(B, "identity")]


def test_another_version_of_the_protocol_is_reported_and_never_counts() -> None:
    one, two = started(A, B)
    sent = one.poll(B, at(1))
    later = Poll(**{name: getattr(sent.poll, name) for name in Poll.__struct_fields__} | {"version": 2})
    assert isinstance(two.arrived(later, at(1)), Answer)
    assert two.take_events() == [PeerMismatch(A, "version")]


# Starting.


def test_at_a_first_start_all_others_must_have_been_heard() -> None:
    one, two, three = (member(url, A, B, C) for url in (A, B, C))
    for _ in range(5):
        exchange(one, two, at(0))
    assert one.recovering
    exchange(one, three, at(0))
    exchange(one, two, at(0))
    exchange(one, three, at(0))
    assert not one.recovering


def test_a_first_start_is_no_loss() -> None:
    members = [member(url, A, B, C) for url in (A, B, C)]
    talk(at(0), *members)
    for one in members:
        events = one.take_events()
        assert Recovered() in events
        assert not any(isinstance(event, PossibleLoss) for event in events)


def test_after_a_first_start_cuts_that_are_no_news_any_more_are_given_up_and_recent_ones_are_not() -> None:
    # A first start cannot be told from one after a majority has forgotten, when tokens are out that list lost cuts.
    members = [member(url, A, B, C) for url in (A, B, C)]
    talk(at(0), *members)
    for one in members:
        one.tick(at(1))
        made_now = one.members.unknown_end_ms(at(1))
        assert made_now - 6 * 60_000 < one.view.forgotten_cuts_end_ms < made_now - 60_000


def test_a_member_that_forgot_learns_from_two_others_before_it_counts() -> None:
    one, two, _ = started(A, B, C)
    one.append([deny("x")], at(1))
    exchange(two, one, at(1))
    back = member(C, A, B, C, life="second", now=at(2))
    answer = exchange(one, back, at(2))
    assert answer.memory == "lost"
    exchange(back, two, at(2))
    assert back.memory == "lost"
    assert back.view.fresh_at == -math.inf
    exchange(back, one, at(2))
    assert not back.recovering
    assert "x" in back.view.denied


def test_a_recovering_member_makes_no_member_fresh() -> None:
    one, _, _ = started(A, B, C)
    before = one.view.fresh_at
    back = member(C, A, B, C, life="second", now=at(2))
    exchange(one, back, at(2))
    assert one.view.fresh_at == before


def test_a_majority_that_forgot_at_once_is_reported_as_a_possible_loss() -> None:
    one, *_ = started(A, B, C)
    two, three = (member(url, A, B, C, life="second", now=at(1)) for url in (B, C))
    talk(at(1), one, two, three)
    assert PossibleLoss() in two.take_events() + three.take_events()
    assert not two.recovering
    assert not three.recovering


# Freshness.


def test_fresh_is_the_time_of_sending_of_the_poll_that_makes_the_majority() -> None:
    one, two, three, *_ = started(A, B, C, D, E)
    exchange(one, two, at(1), received=at(1.7))
    assert one.view.fresh_at == at(0).boot_s
    exchange(one, three, at(2), received=at(2.9))
    assert one.view.fresh_at == at(1).boot_s


def test_an_incomplete_answer_makes_no_member_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_ENTRIES", 10)
    one, two = started(A, B)
    two.append([deny(f"x{number}") for number in range(15)], at(1))
    assert not exchange(one, two, at(2)).complete
    assert one.view.fresh_at == at(0).boot_s
    assert exchange(one, two, at(3)).complete
    assert one.view.fresh_at == at(3).boot_s
    assert len(one.view.denied) == 15


def test_an_answer_that_was_overtaken_does_not_turn_the_position_back() -> None:
    one, two = started(A, B)
    early = one.poll(B, at(1))
    old = two.arrived(early.poll, at(1))
    assert isinstance(old, Hold)
    two.append([deny("x")], at(2))
    late_answer = two.release(old, at(2))
    assert late_answer is not None
    two.append([deny("y")], at(3))
    exchange(one, two, at(3))
    one.answered(early, late_answer, at(4))
    assert one.poll(B, at(4)).poll.position == 2
    assert one.view.fresh_at == at(3).boot_s


# Holding polls.


def test_a_poll_is_held_until_there_is_news() -> None:
    one, two = started(A, B)
    hold = two.arrived(one.poll(B, at(1)).poll, at(1))
    assert isinstance(hold, Hold)
    assert two.release(hold, at(1.1)) is None
    two.append([deny("x")], at(1.2))
    answer = two.release(hold, at(1.2))
    assert answer is not None
    assert answer.entries == (deny("x"),)


def test_a_member_that_starts_waits_for_no_page_of_entries_that_another_member_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has them at first hand may be far away, or gone. Each page would wait for a twentieth of a second."""
    monkeypatch.setattr(module, "PAGE_ENTRIES", 4)
    random = Random(1)
    one, two, _ = started(A, B, C)
    one.append([deny(random_id(random)) for _ in range(12)], at(1))
    for second in range(1, 6):
        exchange(two, one, at(second))
    back = member(C, A, B, C, life="second", now=at(6))
    pages: list[Answer] = []
    while not pages or not pages[-1].complete:
        sent = back.poll(B, at(6))
        answer = two.arrived(sent.poll, at(6))
        assert isinstance(answer, Answer)
        pages.append(answer)
        back.answered(sent, answer, at(6))
    assert [page.size for page in pages] == [4, 4, 4]
    assert isinstance(two.arrived(back.poll(B, at(6)).poll, at(6)), Hold)


def test_news_of_another_member_leave_that_one_the_time_to_tell_them_itself() -> None:
    one, two, three = started(A, B, C)
    hold = two.arrived(three.poll(B, at(1)).poll, at(1))
    assert isinstance(hold, Hold)
    one.append([deny("x")], at(1))
    exchange(two, one, at(1))
    assert two.release(hold, at(1.09)) is None
    answer = two.release(hold, at(1.1))
    assert answer is not None
    assert answer.entries == (deny("x"),)


@pytest.mark.parametrize("awaited", [True, False])
def test_what_nobody_waits_for_is_told_at_once_and_asks_for_no_further_poll(awaited: bool) -> None:
    one, two, *_ = started(A, B, C, D, E)  # of three, none is asked to poll again
    sent = two.poll(A, at(1))
    hold = one.arrived(sent.poll, at(1))
    assert isinstance(hold, Hold)
    one.append([deny("x")], at(1), awaited=awaited)
    answer = one.release(hold, at(1))
    assert answer is not None
    assert answer.entries == (deny("x"),)
    two.answered(sent, answer, at(1))
    again = one.arrived(two.poll(A, at(1)).poll, at(1))
    assert isinstance(again, Hold)
    assert (one.release(again, at(1.1)) is not None) == awaited


def test_polls_that_acknowledge_an_entry_are_answered_together_so_that_one_more_proves_it() -> None:
    one, *others = started(A, B, C, D, E)
    sent = [(other, other.poll(A, at(1))) for other in others]
    holds = [one.arrived(poll.poll, at(1)) for _, poll in sent]
    receipt = one.append([deny("x")], at(1))
    for (other, poll), hold in zip(sent, holds, strict=True):
        assert isinstance(hold, Hold)
        answer = one.release(hold, at(1))
        assert answer is not None
        other.answered(poll, answer, at(1))
    acknowledging = [(other, other.poll(A, at(1.01))) for other in others]
    *early, last = [one.arrived(poll.poll, at(1.01)) for _, poll in acknowledging]
    assert isinstance(last, Answer)
    answers = [one.release(hold, at(1.02)) if isinstance(hold, Hold) else None for hold in early] + [last]
    for (other, poll), answer in zip(acknowledging, answers, strict=True):
        assert answer is not None
        other.answered(poll, answer, at(1.02))
        assert one.standing(receipt) == "applied"
    for other in others:
        one.arrived(other.poll(A, at(1.03)).poll, at(1.03))
    assert one.standing(receipt) == "fenced"


def test_a_poll_without_news_is_answered_after_a_heartbeat_if_it_allows_no_more() -> None:
    one, two = started(A, B)
    hold = two.arrived(msgspec.structs.replace(one.poll(B, at(1)).poll, hold_s=None), at(1))  # as of an earlier release
    assert isinstance(hold, Hold)
    assert hold.until_s == at(1.5).boot_s
    assert two.release(hold, at(1.49)) is None
    assert two.release(hold, at(1.5)) is not None


def test_a_poll_without_news_is_held_for_three_heartbeats_while_all_members_are_well() -> None:
    one, two = started(A, B)
    hold = two.arrived(one.poll(B, at(1)).poll, at(1))
    assert isinstance(hold, Hold)
    assert hold.until_s == at(2.5).boot_s
    assert two.release(hold, at(2.49)) is None
    assert two.release(hold, at(2.5)) is not None


def test_a_poll_for_what_a_member_knows_now_is_answered_at_once_and_the_one_before_waits_on() -> None:
    one, two = started(A, B)
    before = two.arrived(one.poll(B, at(1)).poll, at(1))
    assert isinstance(before, Hold)
    sent = one.quorum.poll(B, at(1.2), at_once=True)
    answer = two.arrived(sent.poll, at(1.2))
    assert not isinstance(answer, Hold)
    assert two.release(before, at(1.2)) is None
    one.answered(sent, answer, at(1.2))
    assert one.quorum.view.fresh_at == at(1.2).boot_s


def test_news_count_as_read_although_a_later_poll_was_answered_before_them() -> None:
    """Otherwise the next poll would not acknowledge them, and their log-out would wait for another round trip."""
    one, two, _ = started(A, B, C)
    waiting = one.poll(B, at(1))
    hold = two.arrived(waiting.poll, at(1))
    assert isinstance(hold, Hold)
    question = one.quorum.poll(B, at(1.2), at_once=True)
    answer = two.arrived(question.poll, at(1.2))
    assert isinstance(answer, Answer)
    one.answered(question, answer, at(1.3))
    receipt = two.append([deny("x")], at(1.4))
    news = two.release(hold, at(1.4))
    assert news is not None
    one.answered(waiting, news, at(1.5))
    two.arrived(one.poll(B, at(1.5)).poll, at(1.5))
    assert two.standing(receipt) == "durable"


def test_a_late_answer_of_an_earlier_process_does_not_count_as_read() -> None:
    one, two = started(A, B)
    late = one.poll(B, at(1))
    answer = two.arrived(late.poll, at(1))
    assert isinstance(answer, Hold)
    late_answer = two.release(answer, at(2.5))
    assert late_answer is not None
    back = member(B, A, B, life="second", now=at(3))
    exchange(one, back, at(3))
    one.answered(late, late_answer, at(3.1))
    assert one.poll(B, at(3.2)).poll.callee == "second"
    assert one.poll(B, at(3.2)).poll.callee_life == "second"


def quiet(until_s: int, *members: Member, since_s: int = 0) -> None:
    """Let the members be well and without news until then."""
    for second in range(since_s + 1, until_s + 1):
        talk(at(second), *members, rounds=1)


def test_a_poll_is_held_for_forty_heartbeats_once_the_quiet_time_has_lasted_for_ten_seconds() -> None:
    one, two, three = started(A, B, C)
    quiet(9, one, two, three)
    assert one.poll(B, at(9.9)).poll.hold_s == 1.5
    quiet(11, one, two, three, since_s=9)
    hold = two.arrived(one.poll(B, at(11)).poll, at(11))
    assert isinstance(hold, Hold)
    assert hold.until_s == at(31).boot_s


@pytest.mark.parametrize("disturbs", ["news", "a silent member"])
def test_news_or_a_silent_member_end_the_long_quiet_time(disturbs: str) -> None:
    one, two, three = started(A, B, C)
    quiet(11, one, two, three)
    assert one.poll(B, at(11)).poll.hold_s == 20.0
    if disturbs == "news":
        one.append([deny("x")], at(11))
        assert one.poll(B, at(11)).poll.hold_s == 1.5
    else:
        for second in range(12, 17):
            exchange(one, two, at(second))
        assert one.poll(B, at(16)).poll.hold_s is None
        talk(at(17), one, two, three)
        assert one.poll(B, at(17)).poll.hold_s == 1.5


def test_with_a_short_lease_no_poll_is_held_for_long() -> None:
    members = [member(url, A, B) for url in (A, B)]
    for one in members:
        one.quorum.members.own = msgspec.structs.replace(one.quorum.members.own, freshness_limit_s=4.0)
        one.quorum.members.compare_limits()
    talk(at(0), *members)
    quiet(15, *members)
    assert members[0].poll(B, at(15)).poll.hold_s == pytest.approx(4 / 3)


def test_each_node_asks_those_that_follow_it_so_that_each_pair_exchanges_a_message() -> None:
    for urls in ((A, B, C), (A, B, C, D, E)):
        members = started(*urls)
        quiet(12, *members)
        asked = {frozenset((one.me, url)) for one in members for url in one.quorum.quiet_time.due(at(14))}
        assert len(asked) == len(urls) * (len(urls) - 1) / 2
        assert all(len(one.quorum.quiet_time.due(at(14))) == len(urls) // 2 for one in members)
        assert all(one.quorum.quiet_time.due(at(13.5)) == [] for one in members)


def test_a_node_whose_knowledge_is_older_than_in_a_quiet_time_asks_all() -> None:
    one, two, three = started(A, B, C)
    quiet(12, one, two, three)
    assert one.quorum.quiet_time.due(at(15.8)) == [B, C]
    assert one.quorum.quiet_time.due(at(17.1)) == []  # a silent member is polled again and again


def test_a_node_that_few_have_polled_lately_answers_the_polls_that_it_holds() -> None:
    """Their senders poll again at once. So it knows that a majority hears it, although one of those that ask it is silent."""
    one, two, three = started(A, B, C)
    quiet(11, one, two, three)
    hold = two.arrived(one.poll(B, at(11)).poll, at(11))
    assert isinstance(hold, Hold)
    assert two.release(hold, at(14.7)) is None
    assert two.release(hold, at(14.8)) is not None


def test_no_poll_is_held_for_more_than_forty_heartbeats_whatever_it_allows() -> None:
    one, two = started(A, B)
    hold = two.arrived(msgspec.structs.replace(one.poll(B, at(1)).poll, hold_s=100.0), at(1))
    assert isinstance(hold, Hold)
    assert hold.until_s == at(21).boot_s


def test_while_one_member_is_silent_no_poll_is_held_for_longer() -> None:
    one, two, _ = started(A, B, C)
    exchange(one, two, at(4.5))
    assert one.poll(B, at(4.6)).poll.hold_s is None


def test_while_the_answers_of_one_member_are_late_no_poll_is_held_for_longer() -> None:
    """A busy node answers late. The lease has to last for its delays."""
    one, two, three = started(A, B, C)
    for delay_s, hold_s in ((0.2, 1.5), (0.3, None), (0.2, 1.5)):
        sent = one.poll(B, at(1))
        hold = two.arrived(sent.poll, at(1))
        assert isinstance(hold, Hold)
        answer = two.release(hold, at(1 + one.quorum.quiet_time.held_s(sent.poll)))
        assert answer is not None
        one.answered(sent, answer, at(1 + one.quorum.quiet_time.held_s(sent.poll) + delay_s))
        assert one.poll(C, at(2)).poll.hold_s == hold_s
    assert three.quorum.serving


def test_a_member_that_was_silent_for_longer_than_a_lease_is_to_answer_at_once() -> None:
    """After a pause or a partition, the first answer makes the node fresh."""
    one, two = started(A, B)
    limit_s = one.quorum.members.acceptance_limit_s
    exchange(one, two, at(1))
    assert one.poll(B, at(1 + limit_s)).poll.hold_s is None
    sent = one.poll(B, at(1.1 + limit_s))
    assert sent.poll.hold_s == 0.0
    answer = two.arrived(sent.poll, at(1.1 + limit_s))
    assert isinstance(answer, Answer)
    one.answered(sent, answer, at(1.1 + limit_s))
    assert one.poll(B, at(1.2 + limit_s)).poll.hold_s != 0.0


def test_a_lost_poll_of_a_quiet_time_leaves_room_for_another_within_the_lease() -> None:
    one, _ = started(A, B)
    assert 3 * one.quorum.quiet_time.hold_s <= one.quorum.members.acceptance_limit_s


def test_while_the_own_disk_is_busy_a_poll_is_held_for_a_heartbeat() -> None:
    """A log-out that waits for the disk goes on waiting while a majority polls this node."""
    one, two = member(A, A, B), member(B, A, B, stored=[])
    for _ in range(3):
        talk(at(0.9), one, two)
        two.keep(at(0.9), [])
    hold = two.arrived(one.poll(B, at(1)).poll, at(1))
    assert isinstance(hold, Hold)
    assert hold.until_s == at(2.5).boot_s
    two.append([deny("x")], at(1.1))  # and no batch is kept
    assert two.release(hold, at(1.4)) is None
    assert two.release(hold, at(1.5)) is not None


def test_a_member_with_a_full_disk_gets_no_answer_that_has_only_what_it_has_applied() -> None:
    """It polled ten times a second, and got the same entries each time."""
    one, two = member(A, A, B, stored=[]), member(B, A, B)
    for _ in range(3):
        talk(at(0.9), one, two)
        one.keep(at(0.9), [])
    two.append([deny("x")], at(1), awaited=False)
    exchange(one, two, at(1))
    assert "x" in one.quorum.view.denied
    one.fail_to_keep(at(1.1))
    hold = two.arrived(decode_poll(encode(one.poll(B, at(1.1)).poll)), at(1.1))
    assert isinstance(hold, Hold)
    assert hold.until_s == at(1.6).boot_s  # and no longer: the next poll acknowledges what the disk has taken by then
    assert two.release(hold, at(1.3)) is None
    two.append([deny("y")], at(1.4), awaited=False)
    answer = two.release(hold, at(1.4))
    assert answer is not None
    assert [entry.id for entry in answer.entries if isinstance(entry, Deny)] == ["x", "y"]  # of which it keeps neither


def test_a_member_that_drains_answers_the_polls_that_it_holds_at_once() -> None:
    one, two = started(A, B)
    hold = two.arrived(one.poll(B, at(1)).poll, at(1))
    assert isinstance(hold, Hold)
    two.quorum.drain()
    answer = two.release(hold, at(1.1))
    assert answer is not None
    assert answer.heartbeat.state == "draining"


def test_a_member_has_no_lease_by_an_answer_once_that_is_over_since_its_poll_came() -> None:
    """The lease counts from when the poll was sent, so it makes no difference for how long the poll was held."""
    one, two = started(A, B)
    hold = two.arrived(one.poll(B, at(1)).poll, at(1))
    assert isinstance(hold, Hold)
    assert two.release(hold, at(2.5)) is not None
    wait_s = two.quorum.members.fence_wait_s
    assert two.poll(A, at(1 + wait_s - 0.01)).poll.silent == ()
    assert two.poll(A, at(1 + wait_s + 0.01)).poll.silent == (A,)


def test_a_hold_without_a_waiter_ends() -> None:
    one, two = started(A, B)
    hold = two.arrived(one.poll(B, at(1)).poll, at(1))
    assert isinstance(hold, Hold)
    assert isinstance(two.arrived(one.poll(B, at(1.2)).poll, at(1.2)), Hold)
    assert two.release(hold, at(1.2)) is not None


def test_a_sign_of_contact_takes_one_round_with_a_majority() -> None:
    one, two, _ = started(A, B, C)
    hold = one.arrived(two.poll(A, at(1)).poll, at(1))
    sent = two.poll(A, at(1))
    assert isinstance(hold, Hold)

    sought, ready = one.seek_contact(at(2))

    answers = dict(ready.answers)
    assert not one.is_found(sought)
    two.answered(sent, answers[hold], at(2))
    assert isinstance(one.arrived(two.poll(A, at(2)).poll, at(2)), Hold)  # its next poll waits for news again
    assert one.is_found(sought)


def test_a_poll_that_was_sent_before_proves_no_contact() -> None:
    one, two, _ = started(A, B, C)
    late = two.poll(A, at(1)).poll
    sought, _ = one.seek_contact(at(2))
    assert isinstance(one.arrived(late, at(2.1)), Answer)  # answered at once, so that the next one can prove it
    assert not one.is_found(sought)


def test_there_is_no_contact_while_earlier_entries_do_not_become_durable() -> None:
    disk: list[Batch] = []
    one, two, three = member(A, A, B, C, stored=[]), member(B, A, B, C), member(C, A, B, C)
    talk(at(0), one, two, three)
    one.keep(at(0), disk)
    talk(at(0), one, two, three)
    one.append([deny("stuck")], at(1))
    one.fail_to_keep(at(1))
    sought, _ = one.seek_contact(at(2))
    talk(at(2), one, two, three)
    assert not one.is_found(sought)  # the disk is full
    one.keep(at(3), disk)
    talk(at(3), one, two, three)
    assert one.is_found(sought)


def test_two_processes_that_take_themselves_for_one_member_do_not_end_each_others_holds() -> None:
    """Each would ask again at once, and end the other's: as fast as the network carries it."""
    one, other, two = member(A, A, B), member(A, A, B, life="another process"), member(B, A, B)
    talk(at(0), one, two)
    talk(at(0), other, two)
    exchange(one, two, at(0.5))
    hold = two.arrived(one.poll(B, at(1)).poll, at(1))
    assert isinstance(hold, Hold)
    assert isinstance(two.arrived(other.poll(B, at(1.1)).poll, at(1.1)), Hold)
    assert two.release(hold, at(1.2)) is None


def test_a_hold_whose_sender_waits_no_longer_is_never_answered() -> None:
    one, two = started(A, B)
    hold = two.arrived(one.poll(B, at(1)).poll, at(1))
    assert isinstance(hold, Hold)
    assert two.held == (hold,)
    two.drop(hold)
    two.append([deny("x")], at(1.1))
    assert two.held == ()
    assert two.release(hold, at(2)) is None
    two.drop(hold)


# Ready.


def test_each_call_returns_all_that_is_due_and_each_thing_once() -> None:
    one, two = started(A, B)
    hold, ready = two.quorum.arrived(one.poll(B, at(1)).poll, at(1))
    assert ready == Ready()
    _, ready = two.quorum.append([deny("x")], at(1.1))
    [(released, answer)] = ready.answers
    assert released is hold
    assert answer.entries == (deny("x"),)
    assert two.quorum.ready(at(1.2)) == Ready()


def test_a_refusal_is_due_at_once_and_holds_nothing() -> None:
    one, stranger = member(A, A, B), member(C, A, C)
    hold, ready = one.quorum.arrived(stranger.poll(A, at(0)).poll, at(0))
    assert [released for released, _ in ready.answers] == [hold]
    assert one.held == ()


# Durable and fenced.


def test_of_three_members_an_entry_is_durable_once_one_other_says_that_it_has_it() -> None:
    one, two, _ = started(A, B, C)
    receipt = one.append([deny("x")], at(1))
    assert one.standing(receipt) == "applied"
    assert one.fenced_by(receipt) is None
    exchange(two, one, at(1))  # has it
    assert one.standing(receipt) == "applied"
    exchange(two, one, at(2))  # says so
    assert one.standing(receipt) == "durable"
    assert one.fenced_by(receipt) == pytest.approx(at(2 + OVER_S).boot_s)


def test_of_three_members_an_entry_is_fenced_once_both_others_say_that_they_have_it() -> None:
    one, two, three = started(A, B, C)
    receipt = one.append([deny("x")], at(1))
    for other in (two, three, two):
        exchange(other, one, at(1))
        assert one.standing(receipt) != "fenced"
    exchange(three, one, at(1))
    assert one.standing(receipt) == "fenced"


def test_of_five_members_an_entry_is_durable_once_a_majority_has_been_heard_again_with_it() -> None:
    """Two others that each have it at a time of its own are no majority: the first may have forgotten before the second had it."""
    one, two, three, *_ = started(A, B, C, D, E)
    receipt = one.append([deny("x")], at(1))
    for _ in ("has it", "says so"):
        exchange(two, one, at(1))
        exchange(three, one, at(1))
    exchange(two, one, at(1))
    exchange(two, one, at(1))
    assert one.standing(receipt) == "applied"
    exchange(three, one, at(2))  # now both have said so again, after we heard both say so
    assert one.standing(receipt) == "durable"
    assert one.fenced_by(receipt) == pytest.approx(at(2 + OVER_S).boot_s)


def test_acknowledgements_from_before_the_members_changed_suffice_no_more() -> None:
    """Other members were needed at that time, and a member that forgot meanwhile may have learned from those."""
    one, two, three = started(A, B, C)
    receipt = one.append([deny("x")], at(1))
    exchange(two, one, at(1))
    one.quorum.fence.majorities = Majorities(A, [(A, B, C, D, E)])
    exchange(two, one, at(1))
    one.quorum.fence.go_by(Majorities(A, [(A, B, C)]))
    exchange(three, one, at(1))
    assert one.standing(receipt) == "applied"


def test_a_fence_ends_by_waiting() -> None:
    one, two, _ = started(A, B, C)
    receipt = one.append([deny("x")], at(1))
    for _ in range(3):
        exchange(two, one, at(1))
    one.tick(at(1 + OVER_S - 0.001))
    assert one.standing(receipt) == "durable"
    one.tick(at(1 + OVER_S + 0.001))
    assert one.standing(receipt) == "fenced"


def test_a_fence_ends_once_all_have_confirmed() -> None:
    one, two, three = started(A, B, C)
    receipt = one.append([deny("x")], at(1))
    for _ in range(4):
        exchange(two, one, at(1))
        exchange(three, one, at(1))
    assert one.standing(receipt) == "fenced"


def test_another_incarnation_has_confirmed_nothing() -> None:
    one, two, three = started(A, B, C)
    receipt = one.append([deny("x")], at(1))
    exchange(two, one, at(1))
    exchange(two, one, at(1))
    back = member(B, A, B, C, life="second", now=at(2))
    one.arrived(back.poll(A, at(2)).poll, at(2))
    for _ in range(3):
        exchange(three, one, at(2))
    assert one.standing(receipt) == "durable"


def test_the_fence_does_not_wait_for_a_member_out_of_contact_once_the_others_say_so() -> None:
    one, two, _ = started(A, B, C)
    late = at(OVER_S + 1)
    receipt = one.append([deny("x")], late)
    for _ in range(3):
        exchange(two, one, late)
    assert one.standing(receipt) == "fenced"


# Entries that end.


def test_entries_that_ended_leave_and_positions_stay() -> None:
    one, two = started(A, B)
    one.append([deny("short", NOW_MS + 60_000), deny("long", NOW_MS + HOUR_MS)], at(1))
    later = at(600)
    talk(later, one, two)
    for each in (one, two):
        each.tick(later)
        assert set(each.view.denied) == {"long"}
    third = exchange(member(B, A, B, life="second", now=later), one, later)
    assert third.entries == (deny("long"),)
    assert third.upto == 2
    assert one.append([deny("next")], later).position == 3


def test_a_learner_takes_the_floor_of_its_teacher_over() -> None:
    one, two = started(A, B)
    later = at(600)
    talk(later, one, two)
    one.tick(later)
    back = member(B, A, B, life="second", now=later)
    exchange(back, one, later)
    assert back.view.floor_ms == one.view.floor_ms > NOW_MS


def test_an_extended_denial_is_sent_with_its_later_end() -> None:
    one, two = started(A, B)
    one.append([deny("x", NOW_MS + HOUR_MS), deny("x", NOW_MS + 2 * HOUR_MS)], at(1))
    exchange(two, one, at(1))
    assert two.view.denied["x"] == NOW_MS + 2 * HOUR_MS


def test_all_kinds_of_entries_travel_the_replaced_ones_too() -> None:
    one, two = started(A, B)
    end = NOW_MS + HOUR_MS
    old = Cut(CutId(f"old~{end // 1000:x}"), "ada", end)
    new = Cut(CutId(f"new~{end // 1000:x}"), "ada", end, None, (old.id,))
    entries: list[Entry] = [deny("x"), old, new, DenyKey(KeyId("bad"), end)]
    one.append(entries, at(1))
    assert list(exchange(two, one, at(1)).entries) == entries
    assert two.view.live_cuts("ada") == (new.id,)
    assert "bad" in two.view.denied_keys


# A file.


def with_files(*urls: str) -> tuple[list[Member], list[list[Batch]]]:
    members, disks = [member(url, *urls, stored=()) for url in urls], [list[Batch]() for _ in urls]
    for _ in range(2):
        talk(at(0), *members)
        for one, disk in zip(members, disks, strict=True):
            one.keep(at(0), disk)
    talk(at(0), *members)
    assert not any(one.recovering for one in members)
    for one in members:
        one.take_events()
    return members, disks


def test_nothing_is_served_or_acknowledged_before_it_is_kept() -> None:
    (one, two), (disk_one, disk_two) = with_files(A, B)
    one.append([deny("x")], at(1))
    assert exchange(two, one, at(1)).entries == ()
    one.keep(at(1), disk_one)
    assert exchange(two, one, at(1)).entries == (deny("x"),)
    assert "x" in two.view.denied
    assert two.poll(A, at(1)).poll.position == 0
    two.keep(at(1), disk_two)
    assert two.poll(A, at(1)).poll.position == 1


def with_a_full_disk() -> tuple[list[Member], list[list[Batch]], Receipt]:
    """Three members, two of which keep a log-out. The third one has applied it, and cannot keep it."""
    members, disks = with_files(A, B, C)
    one, two, three = members
    receipt = one.append([deny("x")], at(1))
    one.keep(at(1), disks[0])
    exchange(two, one, at(1))
    exchange(three, one, at(1))
    two.keep(at(1), disks[1])
    assert "x" in three.view.denied
    return members, disks, receipt


def test_a_member_that_cannot_keep_a_log_out_enforces_it_and_no_log_out_waits_for_its_lease() -> None:
    (one, two, three), _, receipt = with_a_full_disk()
    exchange(three, one, at(1.1))
    exchange(two, one, at(1.1))
    assert one.standing(receipt) == "durable"
    exchange(three, one, at(1.2))  # the answer that it has seen by now was given when the entry was durable
    exchange(three, one, at(1.3))
    assert one.standing(receipt) == "fenced"
    assert three.poll(A, at(1.4)).poll.position == 0


def test_a_member_that_spoke_before_a_log_out_was_durable_may_have_ended_since() -> None:
    (one, two, three), (*_, disk), receipt = with_a_full_disk()
    exchange(three, one, at(1.1))
    back = member(C, A, B, C, life="second", now=at(1.1), stored=disk)
    exchange(two, one, at(1.1))
    assert one.standing(receipt) == "durable"
    sent = three.poll(A, at(1.2)).poll  # by the process that has ended: it is late, and has seen no later answer
    one.arrived(sent, at(1.2))
    assert one.standing(receipt) == "durable"
    for second in (1.2, 1.3):
        exchange(back, one, at(second))
    assert "x" in back.view.denied
    assert one.standing(receipt) == "fenced"


def test_a_member_that_cannot_keep_entries_makes_none_durable() -> None:
    (one, _, three), _, receipt = with_a_full_disk()
    for second in (1.1, 1.2, 1.3):
        exchange(three, one, at(second))
    assert one.standing(receipt) == "applied"


def test_one_batch_is_written_at_a_time_and_the_next_one_has_the_entries_since_then() -> None:
    (one, _), (disk, _) = with_files(A, B)
    one.append([deny("x")], at(1))
    first = one.batch
    one.append([deny("y")], at(1))
    one.append([deny("z")], at(1))
    assert one.batch is first
    one.keep(at(2), disk)
    assert [[entry for _, entry in batch.entries] for batch in disk[-2:]] == [[deny("x")], [deny("y"), deny("z")]]


def test_a_failed_batch_is_handed_out_again_with_the_entries_since_then() -> None:
    (one, two), (disk, _) = with_files(A, B)
    one.append([deny("x")], at(1))
    one.append([deny("y")], at(1))
    one.fail_to_keep(at(2))
    assert exchange(two, one, at(2)).entries == ()
    one.keep(at(3), disk)
    assert [entry for _, entry in disk[-1].entries] == [deny("x"), deny("y")]


def test_a_restart_with_its_file_forgets_nothing_and_asks_a_majority_only() -> None:
    (one, two, _), (_, disk, _) = with_files(A, B, C)
    two.append([deny("x")], at(1))
    two.keep(at(1), disk)
    back = member(B, A, B, C, life="second", now=at(2), stored=disk)
    assert back.incarnation == two.incarnation
    assert back.memory == "unchecked"
    exchange(back, one, at(2))
    assert not back.recovering
    assert back.view.denied == two.view.denied
    assert back.append([deny("y")], at(2)).position == 2


def test_members_that_all_restart_with_their_files_come_back() -> None:
    members, disks = with_files(A, B, C)
    members[0].append([deny("x")], at(1))
    members[0].keep(at(1), disks[0])
    back = [member(url, A, B, C, life=f"second {url}", now=at(2), stored=disk) for url, disk in zip((A, B, C), disks, strict=True)]
    talk(at(2), *back)
    assert not any(one.recovering for one in back)
    assert not any(PossibleLoss() in one.take_events() for one in back)


def test_a_crash_while_learning_does_not_hide_that_something_was_forgotten() -> None:
    (one, _, _), _ = with_files(A, B, C)
    disk: list[Batch] = []
    second = member(C, A, B, C, life="second", now=at(1), stored=())
    exchange(second, one, at(1))
    second.keep(at(1), disk)
    third = member(C, A, B, C, life="third", now=at(2), stored=disk)
    exchange(third, one, at(2))
    assert third.memory == "lost"


def test_a_file_older_than_a_peers_memory_counts_as_none() -> None:
    (one, two, _), (_, disk, _) = with_files(A, B, C)
    copy = list(disk)
    two.append([deny("x")], at(1))
    two.keep(at(1), disk)
    exchange(one, two, at(1))
    back = member(B, A, B, C, life="second", now=at(2), stored=copy)
    exchange(back, one, at(2))
    assert OldFile(A) in back.take_events()
    assert back.incarnation == "second"
    assert back.memory == "lost"
    assert back.batch is not None


def test_an_old_file_is_detected_by_the_acknowledgement_of_a_peer_too() -> None:
    (one, two, _), (_, disk, _) = with_files(A, B, C)
    copy = list(disk)
    two.append([deny("x")], at(1))
    two.keep(at(1), disk)
    exchange(one, two, at(1))
    one_disk: list[Batch] = []
    one.keep(at(1), one_disk)
    back = member(B, A, B, C, life="second", now=at(2), stored=copy)
    exchange(one, back, at(2))
    assert OldFile(A) in back.take_events()


def test_a_poll_held_while_the_callee_finds_its_file_old_is_answered_from_the_beginning() -> None:
    (one, two, three), (_, disk, _) = with_files(A, B, C)
    two.append([deny("x")], at(1))
    two.keep(at(1), disk)
    copy = list(disk)
    two.append([deny("y")], at(1))
    two.keep(at(1), disk)
    exchange(three, two, at(1))
    back = member(B, A, B, C, life="second", now=at(2), stored=copy)
    exchange(back, one, at(2))
    exchange(one, back, at(2))
    one.keep(at(2), [])
    for _ in range(3):
        exchange(one, back, at(2))
    asking = one.poll(B, at(3))
    assert asking.poll.position == 1
    hold = back.arrived(asking.poll, at(3))
    assert isinstance(hold, Hold)
    exchange(back, three, at(3))
    assert back.incarnation == "second"
    late = back.release(hold, at(3))
    assert late is not None
    assert (late.incarnation, late.since) == ("second", 0)


def test_a_file_may_be_replaced_by_batches_and_has_what_comes_in_between() -> None:
    (one, *_), (disk, *_) = with_files(A, B, C)
    one.append([deny(f"x{number}") for number in range(PAGE_ENTRIES + 100)], at(1))
    one.keep(at(1), disk)
    batches, rewritten = one.everything(), list[Batch]()
    for batch in batches:
        assert len(batch.entries) <= PAGE_ENTRIES
        if not rewritten:
            one.append([deny("in between")], at(1))
            one.keep(at(1), disk)
        rewritten.append(batch)
    whole = member(A, A, B, C, life="second", now=at(2), stored=disk)
    short = member(A, A, B, C, life="second", now=at(2), stored=rewritten)
    assert len(rewritten) == 2
    assert (whole.incarnation, whole.position, whole.view.denied) == (short.incarnation, short.position, short.view.denied)


# Members.


def test_members_that_come_drain_and_leave_are_events() -> None:
    one, two = member(A, A, B), member(B, A, B)
    exchange(one, two, at(0))
    assert MemberJoined(NodeId(B)) in one.take_events()
    two.drain()
    exchange(one, two, at(1))
    assert MemberDraining(NodeId(B)) in one.take_events()
    assert not two.is_ready(at(1))
    one.tick(at(1 + OVER_S + 1))
    assert MemberLeft(NodeId(B)) in one.take_events()


def test_a_quorum_is_the_members_that_polled_lately() -> None:
    one, two, _ = started(A, B, C)
    assert one.has_quorum(at(LIMIT_S))
    assert not one.has_quorum(at(LIMIT_S + 1))
    exchange(two, one, at(LIMIT_S + 1))
    assert one.has_quorum(at(LIMIT_S + 1))


def test_the_loss_and_return_of_a_quorum_are_one_event_each() -> None:
    one, two, _ = started(A, B, C)
    for s in (LIMIT_S, LIMIT_S + 1, LIMIT_S + 2):
        one.tick(at(s))
    assert [event for event in one.take_events() if not isinstance(event, MemberLeft)] == [LostQuorum()]
    for s in (LIMIT_S + 3, LIMIT_S + 4):
        exchange(two, one, at(s))
    assert [event for event in one.take_events() if not isinstance(event, MemberJoined)] == [FoundQuorum()]


def test_a_node_alone_has_a_quorum_from_the_start() -> None:
    assert FoundQuorum() in member(A, A).take_events()


def test_a_node_reports_whether_it_has_reached_a_clients_position() -> None:
    one, two, _ = started(A, B, C)
    one.append([deny("x")], at(1))
    assert one.has_reached(one.incarnation, 1)
    assert not two.has_reached(one.incarnation, 1)
    exchange(two, one, at(1))
    assert two.has_reached(one.incarnation, 1)
    assert two.has_reached("nobody any more", 7)


# Size and form.


@pytest.mark.long
@pytest.mark.parametrize("count", thinned([20_000, 100_000], kept=[20_000]))
def test_a_denial_that_is_learned_takes_a_few_bytes(count: int) -> None:
    one, two = started(A, B)
    one.checked = two.checked = False
    random = Random(1)
    one.append([deny(random_id(random), NOW_MS + number) for number in range(count)], at(1))
    tracemalloc.start()
    try:
        while not exchange(two, one, at(2)).complete:
            pass
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(two.view.denied) == count
    assert size <= (40 if count == 100_000 else 60) * count  # some are not packed yet


def test_a_poll_of_the_first_release_is_still_read() -> None:
    heartbeat = Heartbeat(NodeId("n"), "life", A, "ready", 7, NOW_MS, (KeyId("k"),), 5.0, HOUR_MS, "0.1")
    poll = Poll(
        version=1,
        digest="digest",
        sender=A,
        heartbeat=heartbeat,
        incarnation="i",
        sequence=3,
        recovering=False,
        callee="c",
        position=2,
        callee_life="l",
        echo=9,
        silent=(B,),
    )
    assert decode_poll(bytes.fromhex(POLL)) == poll


def test_an_answer_of_the_first_release_is_still_read() -> None:
    heartbeat = Heartbeat(NodeId("n"), "life", A, "ready", 7, NOW_MS, (KeyId("k"),), 5.0, HOUR_MS, "0.1")
    answer = Answer(
        version=1,
        digest="digest",
        sender=A,
        heartbeat=heartbeat,
        incarnation="i",
        memory="whole",
        stamp=4,
        since=1,
        upto=3,
        complete=True,
        entries=(Deny("x", 5), Cut(CutId("c~1"), None, 6, None, ()), DenyKey(KeyId("k"), 7)),
        floor_ms=8,
        known=9,
        known_before=False,
    )
    assert decode_answer(bytes.fromhex(ANSWER)) == answer


def test_a_batch_of_the_first_release_is_still_read() -> None:
    batch = Batch(version=1, incarnation="i", learned=True, floor_ms=2, upto=3, entries=((1, Deny("x", 5)), (3, DenyKey(KeyId("k"), 7))))
    assert decode_batch(bytes.fromhex(BATCH)) == batch


POLL = (
    "9c01a6646967657374b168747470733a2f2f612e6578616d706c659aa16ea46c696665b168747470733a2f2f612e6578616d706c65a572"
    "6561647907cf000001a3185c500091a16bcb4014000000000000ce0036ee80a3302e31a16903c2a16302a16c0991b168747470733a2f2f"
    "622e6578616d706c65"
)
ANSWER = (
    "9e01a6646967657374b168747470733a2f2f612e6578616d706c659aa16ea46c696665b168747470733a2f2f612e6578616d706c65a572"
    "6561647907cf000001a3185c500091a16bcb4014000000000000ce0036ee80a3302e31a169a577686f6c65040103c39393a164a1780596"
    "a163a3637e31c006c09093a16ba16b070809c2"
)
BATCH = "9601a169c3020392920193a164a17805920393a16ba16b07"
