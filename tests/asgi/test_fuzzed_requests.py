"""Fuzzed requests through the whole middleware. The oracle: nothing is accepted without an exact valid token in the request.

``FUZZED_REQUESTS`` says how many requests; ``make prove`` sends a million. ``FUZZED_SEED`` repeats a run.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from starlette.types import Message, Receive, Scope, Send

from ha_session_mw import SessionManager, SessionMiddleware, Settings, get_session
from ha_session_mw.manager import node_of
from ha_session_mw.testing import ManualClock

from .driver import OTHER_SECRET
from .fuzzed import MUTATIONS, Fuzzer

REQUESTS = int(os.environ.get("FUZZED_REQUESTS", "3000"))
SEED = int(os.environ.get("FUZZED_SEED", random.SystemRandom().randrange(10**9) if "FUZZED_REQUESTS" in os.environ else 0))
"""The same in each ``make test``, and another one in each ``make prove``."""
SECRET = "canary-secret-vG7qLw2ZnR9xTb4YkM8cJd5HsP3fA6uE"

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(4 * 3600)]


class Watcher(logging.Handler):
    """Keeps every log line that contains one of these texts."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self.texts = texts
        self.lines = 0
        self.caught: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.getMessage()} {record.__dict__!r}"
        self.lines += 1
        self.caught += [line for text in self.texts if text in line]


class Target:
    """A node with valid sessions, and tokens that it must not accept."""

    def __init__(self, detail: str) -> None:
        self.clock = clock = ManualClock()
        paths: dict[str, Any] = {"protect": "/private/*", "exempt": "/static/*", "relaxed": "/relaxed/*"}
        settings = Settings(secret_key=SECRET, track="on", devices="on", error_detail=detail, **paths)
        self.manager = SessionManager(settings, clock=clock)
        foreign = SessionManager(Settings(secret_key=OTHER_SECRET), clock=clock)
        self.app = SessionMiddleware(self.inner, manager=self.manager)
        self.valid = {self.token(self.manager, f"canary-{name}"): f"canary-{name}" for name in ("ada", "bob", "eve")}
        self.revoked = self.token(self.manager, "canary-revoked")
        self.others = [
            *(self.revoked, self.token(foreign, "canary-ada"), self.token(self.manager, "canary-old", idle_end_ms=1)),
            self.token(self.manager, "canary-over", absolute_end_ms=1),
        ]
        self.accepted: str | None = None
        self.called = False

    @staticmethod
    def token(manager: SessionManager, subject: str, **changes: int) -> bytes:
        node = node_of(manager)
        return node.sign(msgspec.structs.replace(node.issuer.issue(subject), **changes))

    def canaries(self) -> list[str]:
        """Texts that may stand in no log and no answer: the secret, the subjects, and pieces of each token."""
        return ["canary", *(piece[:24].decode() for token in (*self.valid, *self.others) for piece in token.split(b".")[3:])]

    async def inner(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        self.called, self.accepted = True, session.subject
        assert (session.id is None) == (session.subject is None)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

    async def send(self, scope: Scope) -> list[Message]:
        self.called, self.accepted = False, None
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        async def receive() -> Message:
            return {"type": "websocket.connect"} if scope["type"] == "websocket" else {"type": "http.request", "body": b""}

        await self.app(scope, receive, keep)
        return messages


@pytest.mark.parametrize("detail", ["safe", "full"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # once is enough: nothing waits
async def test_nothing_is_accepted_without_an_exact_valid_token(detail: str) -> None:
    target = Target(detail)
    await target.manager.revoke_subject("canary-revoked")
    fuzzer = Fuzzer(SEED, target.valid, target.others)
    watcher = Watcher(target.canaries())
    logger = logging.getLogger("ha_session_mw")
    level = logger.level
    logger.addHandler(watcher)
    logger.setLevel(logging.DEBUG)
    counts: Counter[str] = Counter()
    try:
        for number in range(REQUESTS // 2):
            fuzzed = fuzzer.request()
            told = f"FUZZED_SEED={SEED}, request {number}: {fuzzed.scope}"
            messages = await target.send(fuzzed.scope)
            status = messages[0].get("status", 0) if messages else 0
            assert status < 500, told
            assert target.accepted is None or target.accepted in fuzzed.may_be, told
            if target.called and fuzzed.scope["path"].startswith("/private/") and not fuzzed.scope["root_path"]:
                assert target.accepted is not None, told
            devices = fuzzed.scope["path"].startswith("/-/session/devices")
            if devices and status == 200 and fuzzed.scope["type"] == "http" and not target.called:
                assert fuzzed.may_be, told
            if devices and fuzzed.scope.get("method") == "DELETE" and status in (200, 202):
                target = await renewed(target, detail)
                fuzzer, watcher.texts = Fuzzer(SEED + number, target.valid, target.others), target.canaries()
            _look_for_canaries(messages, watcher.texts, told, may_name=devices and bool(fuzzed.may_be))
            counts["accepted" if target.accepted else "called" if target.called else f"status {status}"] += 1
    finally:
        logger.removeHandler(watcher)
        logger.setLevel(level)
    assert watcher.caught == []
    assert watcher.lines
    assert counts["accepted"] > REQUESTS / 300  # or the oracle was asked about nothing
    assert {"status 400", "status 401"} <= {*counts}, counts


async def renewed(target: Target, detail: str) -> Target:
    """A log-out of a fuzzed request ended sessions that the oracle still counts as valid, so all begins anew."""
    made = Target(detail)
    await made.manager.revoke_subject("canary-revoked")
    return made


def _look_for_canaries(messages: list[Message], texts: list[str], told: str, *, may_name: bool) -> None:
    sent = [pair for message in messages for pair in message.get("headers", ()) if pair[0] not in (b"set-cookie", b"session-token")]
    content = b"".join([*(b": ".join(pair) for pair in sent), *(message.get("body", b"") for message in messages)]).decode("latin-1")
    if not may_name:
        assert not [text for text in texts if text in content], told


async def test_the_oracle_knows_a_token_and_each_mutation_changes_it() -> None:
    target = Target("safe")
    token, other = [*target.valid][:2]
    dice = random.Random(1)
    for number, mutation in enumerate(MUTATIONS):
        assert any(mutation(dice, token, other) not in target.valid for _ in range(50)), number
    fuzzer = Fuzzer(3, target.valid, target.others)
    assert 20 < sum(bool(fuzzer.request().may_be) for _ in range(300)) < 200
