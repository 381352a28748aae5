"""All states that a few processes on one ordered log can reach, by any order of messages, restarts and the passing of time.

Only the engine makes no mistake: it gives each accepted change the next position. A process's request may arrive late, twice or never,
and so may its answer. The changes reach each process in their order, after any delay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .ordered_member import OrderedLooks, OrderedMember, OrderedQuestion, Put, Taken
from .search import Action
from .terms import DURABLE, FENCED, MADE, NOT_MADE, LogOut, Numbered, Request, added
from .workshop import Workshop


class OrderedState(NamedTuple):
    """The state of a cluster.

    Attributes:
        members: each one's number among all that were met.
        log: the changes in their order, by number.
        network: the messages under way, by number.
        log_outs: how far each has got.
        beats, restarts, units: how many more there may be.
        request: the one under way.
    """

    members: tuple[int, ...]
    log: tuple[int, ...]
    network: tuple[int, ...]
    log_outs: tuple[LogOut, ...]
    beats: int
    restarts: int
    units: int
    request: Request | None = None


Steps = Iterator[tuple[Action, OrderedState]]


class OrderedLog:
    """A healthy cluster, and its possible futures."""

    def __init__(self, question: OrderedQuestion) -> None:
        self.question = question
        self.workshop: Workshop[OrderedMember, OrderedLooks] = Workshop()
        self._puts: Numbered[Put] = Numbered()
        self._messages: Numbered[Put | Taken] = Numbered()

    def start(self) -> OrderedState:
        """All have loaded an empty log, have put a beat, and have read each other's."""
        members = [OrderedMember(number, self.question) for number in range(self.question.members)]
        for member in members:
            member.load(())
        puts = [member.beat() for member in members]
        for member in members:
            for put in puts:
                member.deliver(put, created=True)
        log = tuple(map(self._puts.number, puts))
        log_outs = (LogOut(),) * len(self.question.log_outs)
        asked = self.question
        return OrderedState(tuple(map(self.workshop.keep, members)), log, (), log_outs, asked.beats, asked.restarts, asked.units)

    # Next steps.

    def steps(self, state: OrderedState) -> Steps:
        """Yield each possible next step, and the state after it."""
        for action, after in self._steps(state):
            yield action, self._noted(after)

    def _steps(self, state: OrderedState) -> Steps:
        yield from self._log_outs(state)
        yield from self._arrivals(state)
        for member in range(len(state.members)):
            yield from self._steps_of(state, member)
        if state.units:
            yield ("time passes",), self._later(state)

    def _steps_of(self, state: OrderedState, member: int) -> Steps:
        looks = self._looks(state, member)
        if looks.needs_load:
            yield from self._loads(state, member, looks)
        else:
            yield from self._follows(state, member, looks)
        if state.restarts:
            number, _ = self.workshop.do(state.members[member], OrderedMember.restart)
            yield ("restarts", member), self._with(state, member, number)._replace(restarts=state.restarts - 1)
        if self.question.requests:
            yield from self._requests(state, member, looks)

    def _looks(self, state: OrderedState, member: int) -> OrderedLooks:
        return self.workshop.looks(state.members[member])

    def _with(self, state: OrderedState, member: int, number: int) -> OrderedState:
        return state._replace(members=(*state.members[:member], number, *state.members[member + 1 :]))

    def _sent(self, state: OrderedState, message: Put | Taken) -> Iterator[OrderedState]:
        for network in added(state.network, self._messages.number(message), self.question.in_flight):
            yield state._replace(network=tuple(sorted(network)))

    def _log_outs(self, state: OrderedState) -> Steps:
        for log_out, (member, so_far) in enumerate(zip(self.question.log_outs, state.log_outs, strict=True)):
            if so_far.standing == NOT_MADE:
                number, put = self.workshop.do(state.members[member], OrderedMember.log_out, log_out)
                made = (*state.log_outs[:log_out], LogOut(MADE), *state.log_outs[log_out + 1 :])
                for after in self._sent(self._with(state, member, number)._replace(log_outs=made), put):
                    yield ("logs out", member), after

    def _arrivals(self, state: OrderedState) -> Steps:
        for under_way in state.network:
            message = self._messages[under_way]
            left = state if self.question.doubles else state._replace(network=tuple(one for one in state.network if one != under_way))
            if isinstance(message, Put):
                yield from self._taken(left, message)
            elif message.put.life == self._looks(state, message.put.member).life:
                number, _ = self.workshop.do(state.members[message.put.member], OrderedMember.answered, message)
                yield ("has its answer", message.put.member, message.position), self._with(left, message.put.member, number)

    def _taken(self, state: OrderedState, put: Put) -> Steps:
        position = len(state.log) + 1
        for after in self._sent(state._replace(log=(*state.log, self._puts.number(put))), Taken(put, position)):
            yield ("is taken from", put.member, position), after

    def _loads(self, state: OrderedState, member: int, looks: OrderedLooks) -> Steps:
        """It was read at some position since the last that was applied, and has taken so long."""
        for position in range(looks.position, len(state.log) + 1):
            log = tuple(map(self._puts.__getitem__, state.log[:position]))
            yield (
                ("loads", member, position),
                self._with(state, member, self.workshop.do(state.members[member], OrderedMember.load, log)[0]),
            )

    def _follows(self, state: OrderedState, member: int, looks: OrderedLooks) -> Steps:
        if looks.position < len(state.log):
            number, _ = self._delivered(state, member, looks.position)
            yield ("is told of", member, looks.position + 1), self._with(state, member, number)
            if self.question.skips:
                number, _ = self.workshop.do(state.members[member], OrderedMember.skip, len(state.log))
                yield ("reconnects, and resumes at", member, len(state.log)), self._with(state, member, number)
        if state.beats:
            number, put = self.workshop.do(state.members[member], OrderedMember.beat)
            for after in self._sent(self._with(state, member, number)._replace(beats=state.beats - 1), put):
                yield ("puts a beat", member), after

    def _delivered(self, state: OrderedState, member: int, position: int) -> tuple[int, None]:
        put = self._puts[state.log[position]]
        created = all(self._puts[earlier].what != put.what for earlier in state.log[:position])

        return self.workshop.do(state.members[member], _deliver, put, created)

    def _later(self, state: OrderedState) -> OrderedState:
        members = tuple(self.workshop.do(number, OrderedMember.let_time_pass)[0] for number in state.members)
        return state._replace(members=members, log_outs=tuple(one.older() for one in state.log_outs), units=state.units - 1)

    def _requests(self, state: OrderedState, member: int, looks: OrderedLooks) -> Steps:
        """A request that begins once the log-out was acknowledged, and is answered later."""
        if state.request is None and state.log_outs[0].standing == FENCED:
            _, read = self.workshop.do(state.members[member], OrderedMember.reads)
            yield ("begins with a request", member), state._replace(request=Request(member, looks.life, read))
        elif state.request is not None and state.request[:2] == (member, looks.life):
            _, accepted = self.workshop.do(state.members[member], OrderedMember.answers, state.request.read)
            yield ("answers the request", member), state._replace(request=state.request._replace(accepted=accepted))

    def _noted(self, state: OrderedState) -> OrderedState:
        """Return the state with each member's current knowledge of its own log-outs."""
        found = {number: standing for member in range(len(state.members)) for number, standing in self._looks(state, member).standings}
        log_outs = tuple(one._replace(standing=max(one.standing, found.get(log_out, 0))) for log_out, one in enumerate(state.log_outs))
        return state._replace(log_outs=log_outs)

    # Forbidden states.

    def fault(self, state: OrderedState) -> str | None:
        """Return the fault of a state; None if there is none."""
        if state.request is not None and state.request.accepted:
            return f"{state.request.member} has accepted a request that began after the acknowledgement"
        for log_out, (standing, durable_age) in enumerate(state.log_outs):
            for member in range(len(state.members)):
                looks = self._looks(state, member)
                if standing == FENCED and looks.accepts[log_out]:
                    return f"{member} accepts what was acknowledged as fenced"
                if standing >= DURABLE and not looks.knows[log_out] and looks.fresh_age < durable_age:
                    return f"{member} is fresh as of later than it was known to be logged, and does not know of it"
        return None


def _deliver(member: OrderedMember, put: Put, created: bool) -> None:
    member.deliver(put, created=created)
