"""The calls of operators, as they travel: a name, a request and an answer in MessagePack.

A node refuses a field that it does not know: what a later release asks for with it would otherwise be left out in silence.
An answer is a map with ``result``, or with ``error``.
"""

from __future__ import annotations

from typing import Any

import msgspec

STATUS, SESSIONS, REVOKE, KEYS, DRAIN = "status", "sessions", "revoke", "keys", "drain"


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """The request of a call that needs none."""


class SessionsOf(msgspec.Struct, forbid_unknown_fields=True):
    """Asks for the devices of a subject."""

    subject: str


class Revoke(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Asks for a log-out. Exactly one of these is set.

    Attributes:
        session: the id or the family of a session.
        subject: all of whose sessions end.
        everybody: whether all sessions end.
        key: the id of a key.
    """

    session: str | None = None
    subject: str | None = None
    everybody: bool = False
    key: str | None = None

    def __post_init__(self) -> None:
        if [self.session is not None, self.subject is not None, self.everybody, self.key is not None].count(True) != 1:
            raise ValueError("exactly one of session, subject, everybody and key must be set")


class Drain(msgspec.Struct, forbid_unknown_fields=True):
    """Asks a process to drain.

    Attributes:
        wait: whether to answer only once its server may stop.
    """

    wait: bool = False


class Failure(msgspec.Struct):
    """Why a node did not do what it was asked.

    Attributes:
        code: of the problem, or ``usage``.
        message: for the operator.
    """

    code: str
    message: str


class Answer(msgspec.Struct, omit_defaults=True):
    """An answer: either of the two."""

    result: Any = None
    error: Failure | None = None


encode = msgspec.msgpack.Encoder().encode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
