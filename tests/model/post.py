"""The messages of the quorum log in the model, by number: their content, and the part of it that has an effect."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import msgspec

from .quorum_member import Message, QuorumQuestion
from .terms import RATES, Numbered, aged


class Letter(NamedTuple):
    """The content of a message.

    Attributes:
        asker, asker_life: the member that asks, and its process.
        askee: the member that is asked.
        callee_life, echo: the process of it that the asker has read, and the newest number of that process' answers.
        step: of the asker's recovery.
        sent_s: when the asker asked.
        is_answer: whether this is the way back.
        askee_life, stamp: then, which process answers, and the number of the answer.
    """

    asker: int
    asker_life: str
    askee: int
    callee_life: str
    echo: int
    step: int
    sent_s: float
    is_answer: bool
    askee_life: str
    stamp: int

    @classmethod
    def on(cls, message: Message) -> Letter:
        sent, poll, answer = message.sent, message.sent.poll, message.answer
        asked = (message.asker, poll.heartbeat.life, message.askee, poll.callee_life, poll.echo, sent.step, sent.sent_s)
        return cls(*asked, False, "", 0) if answer is None else cls(*asked, True, answer.heartbeat.life, answer.stamp)

    def is_older(self, asker: int, askee: int, sent_s: float) -> bool:
        """Whether it belongs to a poll between these two that was sent before that."""
        return self.asker == asker and self.askee == askee and self.sent_s < sent_s


class Post:
    """All different messages that were met."""

    def __init__(self, question: QuorumQuestion) -> None:
        self._question = question
        self._all: Numbered[Message] = Numbered()
        self._letters: list[Letter] = []
        self._wiped: dict[tuple[int, bool, int, int, int], int] = {}

    def number(self, message: Message) -> int:
        answer = message.answer
        if answer is not None and self._question.reduced:
            # Both concern reports to operators, and forgotten cuts.
            message = replace(message, answer=msgspec.structs.replace(answer, majority_forgot=False, known_before=False))
        number = self._all.number(message)
        if number == len(self._letters):
            self._letters.append(Letter.on(message))
        return number

    def __getitem__(self, number: int) -> Message:
        return self._all[number]

    def letter(self, number: int) -> Letter:
        return self._letters[number]

    def older(self, number: int) -> int:
        """The same message, after a unit of time."""
        message = self._all[number]
        sent_s = aged(message.sent.sent_s, RATES[message.asker])
        return self.number(replace(message, sent=replace(message.sent, sent_s=sent_s)))

    def wiped(self, number: int, *, counts: bool, echo: int, stamp: int, step: int) -> int:
        """Return the same message, without the parts that have no effect.

        Args:
            counts: whether the asked one waits for its log-out, and so for acknowledgements.
            echo, stamp, step: these, renumbered.
        """
        key = (number, counts, echo, stamp, step)
        wiped = self._wiped.get(key)
        if wiped is None:
            wiped = self._wiped[key] = self.number(self._wipe(self._all[number], key))
        return wiped

    def _wipe(self, message: Message, key: tuple[int, bool, int, int, int]) -> Message:
        _, counts, echo, stamp, step = key
        sent, answer, files = message.sent, message.answer, self._question.files
        poll = msgspec.structs.replace(sent.poll, heartbeat=msgspec.structs.replace(sent.poll.heartbeat, sequence=0), echo=echo)
        if not counts:
            poll = msgspec.structs.replace(poll, callee="", position=0, callee_life="", silent=())
        if not files:  # a member without a file does not learn the size of its file
            poll = msgspec.structs.replace(poll, sequence=0)
        if answer is not None:
            answer = msgspec.structs.replace(answer, stamp=stamp, known=answer.known if files else 0)
        return Message(message.asker, message.askee, replace(sent, poll=poll, step=step), answer)
