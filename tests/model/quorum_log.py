"""All states that a few members of ``peers://`` can reach, by any order of messages, crashes and the passing of time.

The network is the set of messages that are under way: as many as the question allows, any of which gives way to a new one. A message
that is lost is one that never arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

from .post import Letter, Post
from .quorum_member import Message, QuorumLooks, QuorumMember, QuorumQuestion, Say
from .search import Action
from .terms import DURABLE, FENCED, MADE, NOT_MADE, LogOut, Request, added, order
from .workshop import Workshop

NOTHING = -1
"""The number of no message."""
NOBODY = -1
"""The number of no member."""


class QuorumState(NamedTuple):
    """One state of a cluster.

    Attributes:
        members: each one's number among all that were met.
        network: the messages under way, by theirs.
        log_outs: how far each has got.
        restarts: how many more there may be.
        units: how much more time may pass.
        request: the one under way.
    """

    members: tuple[int, ...]
    network: tuple[int, ...]
    log_outs: tuple[LogOut, ...]
    restarts: int
    units: int
    request: Request | None = None


Steps = Iterator[tuple[Action, QuorumState]]


class QuorumLog:
    """A healthy cluster, and all states that follow from it."""

    def __init__(self, question: QuorumQuestion) -> None:
        self.question = question
        everybody = range(question.members)
        self._links = question.links or tuple((asker, askee) for asker in everybody for askee in everybody if asker != askee)
        self._may_forget = question.members - (question.members // 2 + 1)
        self.workshop: Workshop[QuorumMember, QuorumLooks] = Workshop()
        self._post = Post(question)
        self._known: dict[QuorumState, QuorumState] = {}
        self._got: dict[tuple[object, ...], tuple[int, int]] = {}

    # One member.

    def _do(self, number: int, act: Callable[..., Message | None], *args: Hashable) -> tuple[int, int]:
        """Return the number of a member after it acts, and the number of the message that it sends."""
        after, said = self.workshop.do(number, act, *args)
        return after, NOTHING if said is None else self._post.number(said)

    def _get(self, number: int, act: Callable[..., Message | None], message: int) -> tuple[int, int]:
        """Return the same for a member that receives a message."""
        key = (number, act, message)
        got = self._got.get(key)
        if got is None:
            got = self._got[key] = self._do(number, act, self._post[message])
        return got

    # The start.

    def start(self) -> QuorumState:
        """Return the state in which all members are fresh and know each other, before any log-out."""
        members = [QuorumMember(number, self.question) for number in range(self.question.members)]
        while any(member.quorum.recovering for member in members):
            self._talk(members)
        self._talk(members)
        log_outs = (LogOut(),) * len(self.question.log_outs)
        asked = self.question
        return self._settled(QuorumState(tuple(map(self.workshop.keep, members)), (), log_outs, asked.restarts, asked.units))

    @staticmethod
    def _talk(members: list[QuorumMember]) -> None:
        for asker in members:
            for askee in members:
                if asker is not askee:
                    asker.learn(askee.hear(asker.ask(askee.number)))
            asker.write()

    # Next steps.

    def steps(self, state: QuorumState) -> Steps:
        """Yield each action that may happen next, with the state after it."""
        if self.question.reduced and self._nothing_can_go_wrong(state):
            return
        for action, after in self._steps(state):
            yield action, self._settled(after)

    def _steps(self, state: QuorumState) -> Steps:
        yield from self._appends(state)
        if self.question.in_flight is None:
            yield from self._exchanges(state)
        else:
            yield from self._polls(state, self.question.in_flight)
            yield from self._arrivals(state, self.question.in_flight)
        for member, number in enumerate(state.members):
            yield from self._steps_of(state, member, number, self.workshop.looks(number))
        if state.units and state.log_outs[0].standing >= (MADE if self.question.units > 1 else DURABLE):
            yield ("time passes",), self._later(state)

    def _steps_of(self, state: QuorumState, member: int, number: int, looks: QuorumLooks) -> Steps:
        if looks.standings:
            yield ("looks at the clock", member), self._with(state, member, self._do(number, QuorumMember.look)[0])
        if looks.must_write:
            yield ("writes", member), self._with(state, member, self._do(number, QuorumMember.write)[0])
        if state.restarts and (not self.question.mortal or member in self.question.mortal):
            yield from self._restarts(state, member, number)
        if self.question.requests:
            yield from self._requests(state, member, number, looks)

    def _nothing_can_go_wrong(self, state: QuorumState) -> bool:
        """Return whether all members know everything, and none can forget it any more."""
        knows_all = all(all(looks.knows) for looks in map(self.workshop.looks, state.members))
        return knows_all and not state.restarts and state.request is None

    def _with(self, state: QuorumState, member: int, number: int, network: tuple[int, ...] | None = None) -> QuorumState:
        members = (*state.members[:member], number, *state.members[member + 1 :])
        return state._replace(members=members, network=state.network if network is None else network)

    def _appends(self, state: QuorumState) -> Steps:
        for log_out, (member, so_far) in enumerate(zip(self.question.log_outs, state.log_outs, strict=True)):
            if so_far.standing == NOT_MADE:
                number, _ = self._do(state.members[member], QuorumMember.append, log_out)
                made = (*state.log_outs[:log_out], LogOut(MADE), *state.log_outs[log_out + 1 :])
                yield ("logs out", member), self._with(state, member, number)._replace(log_outs=made)

    def _polls(self, state: QuorumState, most: int) -> Steps:
        for asker, askee in self._links:
            number, poll = self._do(state.members[asker], QuorumMember.ask, askee)
            for network in added(state.network, poll, most):
                yield ("asks", asker, askee), self._with(state, asker, number, network)

    def _arrivals(self, state: QuorumState, most: int) -> Steps:
        for under_way in state.network:
            letter = self._post.letter(under_way)
            left = state.network if self.question.doubles else tuple(number for number in state.network if number != under_way)
            if letter.is_answer and letter.asker_life != self.workshop.looks(state.members[letter.asker]).life:
                continue  # its receiver no longer exists
            if letter.is_answer:
                number, _ = self._get(state.members[letter.asker], QuorumMember.learn, under_way)
                yield ("has an answer from", letter.asker, letter.askee), self._with(state, letter.asker, number, left)
            else:
                number, answer = self._get(state.members[letter.askee], QuorumMember.hear, under_way)
                for network in added(left, answer, most):
                    yield ("hears and answers", letter.askee, letter.asker), self._with(state, letter.askee, number, network)

    def _exchanges(self, state: QuorumState) -> Steps:
        for asker, askee in self._links:
            number, poll = self._do(state.members[asker], QuorumMember.ask, askee)
            asked = self._with(state, asker, number)
            number, answer = self._get(state.members[askee], QuorumMember.hear, poll)
            heard = self._with(asked, askee, number)
            yield ("asks, and hears nothing from", asker, askee), heard
            number, _ = self._get(heard.members[asker], QuorumMember.learn, answer)
            yield ("asks, and has an answer from", asker, askee), self._with(heard, asker, number)

    def _restarts(self, state: QuorumState, member: int, number: int) -> Steps:
        """Yield each crash, except those after which more members have forgotten at once than the design withstands."""
        forgetful = {other for other, it in enumerate(state.members) if self.workshop.looks(it).memory == "lost"}
        for how in self.question.ways:
            if how != "forgets" or len(forgetful | {member}) <= self._may_forget:
                started, _ = self._do(number, QuorumMember.restart, how)
                yield (f"restarts, and {how}", member), self._with(state, member, started)._replace(restarts=state.restarts - 1)

    def _requests(self, state: QuorumState, member: int, number: int, looks: QuorumLooks) -> Steps:
        """Yield the steps of a request that begins after the log-out was acknowledged, and is answered later."""
        if state.request is None and state.log_outs[0].standing == FENCED:
            _, read = self.workshop.do(number, QuorumMember.reads)
            yield ("begins with a request", member), state._replace(request=Request(member, looks.life, read))
        elif state.request is not None and state.request[:2] == (member, looks.life):
            _, accepted = self.workshop.do(number, QuorumMember.answers, state.request.read)
            yield ("answers the request", member), state._replace(request=state.request._replace(accepted=accepted))

    def _later(self, state: QuorumState) -> QuorumState:
        """Return the state after a unit of time, before any member acts on it."""
        members = tuple(self._do(number, QuorumMember.let_time_pass)[0] for number in state.members)
        network = tuple(map(self._post.older, state.network))
        log_outs = tuple(one.older() for one in state.log_outs)
        return state._replace(members=members, network=network, log_outs=log_outs, units=state.units - 1)

    # State with an effect.

    def _settled(self, state: QuorumState) -> QuorumState:
        """Return the state without the parts that can have no effect any more."""
        known = self._known.get(state)
        if known is None:
            known = self._known[state] = self._settle(state)
        return known

    def _settle(self, state: QuorumState) -> QuorumState:
        noted = self._noted(state)
        return self._wiped(noted) if self.question.reduced else noted

    def _wiped(self, state: QuorumState) -> QuorumState:
        looks = [self.workshop.looks(number) for number in state.members]
        awaited = tuple(self._is_awaited(look, state) for look in looks)
        network = [number for number in state.network if self._may_matter(self._post.letter(number), looks, awaited, state.request)]
        letters = [self._post.letter(number) for number in network]
        stamps = [order(self._stamps_of(member, looks, letters)) if waits else {} for member, waits in enumerate(awaited)]
        steps = [order(self._counts_of(member, look, letters)) for member, look in enumerate(looks)]
        members, asked = [], state.request.member if state.request is not None else NOBODY
        for member, (number, look) in enumerate(zip(state.members, looks, strict=True)):
            say = Say(
                awaited,
                self._silence(member, state),
                not all(look.knows) or asked == member,
                _if_moved(stamps[member]),
                _if_moved(steps[member]),
                tuple((peer, stamps[peer][echo]) for peer, life, echo in look.echoes if awaited[peer] and life == looks[peer].life),
                tuple(peer for peer, read_s in look.read if any(one.is_older(member, peer, read_s) for one in letters)),
            )
            members.append(self._do(number, QuorumMember.wipe, say)[0])
        kept = {
            self._post.wiped(
                number,
                counts=awaited[one.askee],
                echo=stamps[one.askee].get(one.echo, 0) if one.callee_life == looks[one.askee].life else 0,
                stamp=stamps[one.askee].get(one.stamp, 0) if one.askee_life == looks[one.askee].life else 0,
                step=steps[one.asker].get(one.step, 0),
            )
            for number, one in zip(network, letters, strict=True)
        }
        return state._replace(members=tuple(members), network=tuple(sorted(kept)))

    def _noted(self, state: QuorumState) -> QuorumState:
        """Return the state with each member's current knowledge of its own log-outs."""
        found = {log_out: standing for looks in map(self.workshop.looks, state.members) for log_out, standing in looks.standings}
        log_outs = tuple(one._replace(standing=max(one.standing, found.get(log_out, 0))) for log_out, one in enumerate(state.log_outs))
        return state._replace(log_outs=log_outs)

    def _is_awaited(self, look: QuorumLooks, state: QuorumState) -> bool:
        return any(state.log_outs[log_out].standing < FENCED for log_out, _ in look.standings)

    def _silence(self, member: int, state: QuorumState) -> frozenset[int]:
        """Return the members whose silence may matter to one that waits, or may wait, for its log-out to be fenced."""
        if not self.question.silence:
            return frozenset()
        told = {teller for teller, one in zip(self.question.log_outs, state.log_outs, strict=True) if one.standing < FENCED}
        return frozenset(peer for peer in range(len(state.members)) if told - {peer})

    def _may_matter(self, letter: Letter, looks: list[QuorumLooks], awaited: tuple[bool, ...], request: Request | None) -> bool:
        """Return whether a message can have an effect.

        No process gets an answer to an earlier process's poll. And a member that knows everything learns nothing, except
        for what it then has to say to a member that waits.
        """
        asker = looks[letter.asker]
        to_be_counted = awaited[letter.askee] or self.question.files
        if letter.asker_life != asker.life:
            return not letter.is_answer and to_be_counted
        is_asked = request is not None and request.member == letter.asker
        return to_be_counted or is_asked or asker.memory != "whole" or not all(asker.knows)

    def _stamps_of(self, member: int, looks: list[QuorumLooks], letters: list[Letter]) -> set[int]:
        """Return all numbers of a member's answers that some member remembers, or that are under way."""
        life = looks[member].life
        others = {echo for look in looks for peer, read, echo in look.echoes if peer == member and read == life}
        polls = {one.echo for one in letters if one.askee == member and one.callee_life == life}
        answers = {one.stamp for one in letters if one.askee == member and one.askee_life == life}
        return {0, *looks[member].stamps, *others, *polls, *answers}

    def _counts_of(self, member: int, look: QuorumLooks, letters: list[Letter]) -> set[int]:
        return {*look.steps, *(one.step for one in letters if one.asker == member and one.asker_life == look.life)} if look.steps else set()

    # Forbidden states.

    def fault(self, state: QuorumState) -> str | None:
        """Return the fault of a state; None if there is none."""
        if state.request is not None and state.request.accepted:
            return f"{state.request.member} has accepted a request that began after the acknowledgement"
        for log_out, (standing, durable_age) in enumerate(state.log_outs):
            for member, looks in enumerate(map(self.workshop.looks, state.members)):
                if standing == FENCED and looks.accepts[log_out]:
                    return f"{member} accepts what was acknowledged as fenced"
                if standing >= DURABLE and not looks.knows[log_out] and looks.fresh_age < durable_age:
                    return f"{member} is fresh as of later than it was known to be durable, and does not know of it"
        return None


def _if_moved(order: dict[int, int]) -> tuple[tuple[int, int], ...] | None:
    return tuple(order.items()) if any(number != place for number, place in order.items()) else None
