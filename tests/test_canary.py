"""Canaries: secrets, tokens, ids, subjects and data are sent through everything, and looked for where they must not be."""

from __future__ import annotations

import logging
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import msgspec
import pytest
from itsdangerous import TimestampSigner
from itsdangerous.encoding import base64_encode
from msgspec.structs import replace
from starlette.types import Message, Receive, Scope, Send

from ha_session_mw import ConfigurationError, Session, SessionError, SessionManager, SessionMiddleware, Settings, get_session
from ha_session_mw._core.accept_rule import CannotTell, Refuse
from ha_session_mw._core.records.session_data import Stored
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw._node.issuing import cookie_writer
from ha_session_mw._node.key_source import KeySource
from ha_session_mw.abc import Conflict, Record
from ha_session_mw.manager import node_of
from ha_session_mw.models import Claims, CutId, Deny, SessionId
from ha_session_mw.session.session import session_of, state_of
from ha_session_mw.session.state import RequestState
from ha_session_mw.testing import ManualClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

SECRET = "canary-secret-vG7qLw2ZnR9xTb4YkM8cJd5HsP3fA6uE"
OLD_SECRET = "canary-retired-0MZb4yUq6TfXkPa2sWc8RvHn1LdGj7-Qi"
SUBJECT = "canary-subject@example.com"
DATA = "canary-data"


class Cage:
    """Knows every canary, and everything that came out where none may be."""

    def __init__(self) -> None:
        self.birds = {"canary"}
        self.seen: list[tuple[str, str]] = []

    def keep(self, *birds: str | bytes) -> None:
        self.birds |= {bird.decode() if isinstance(bird, bytes) else bird for bird in birds}

    def keep_token(self, token: bytes, claims: Claims) -> None:
        self.keep(claims.sid, claims.family)
        # Not only the whole: its payload, its signature and any long piece of them are as bad.
        for part in token.split(b".")[3:]:
            self.keep(part, part[:20], part[-20:])

    def look_at(self, where: str, *things: object) -> None:
        self.seen += [(where, thing.decode("latin-1") if isinstance(thing, bytes) else str(thing)) for thing in things]

    def escaped(self) -> list[tuple[str, str]]:
        return [(where, bird) for where, text in self.seen for bird in self.birds if bird in text]


@pytest.fixture
def cage(caplog: pytest.LogCaptureFixture) -> Iterator[Cage]:
    caplog.set_level(logging.DEBUG)
    cage = Cage()
    yield cage
    cage.look_at("log", caplog.text, *(repr(record.__dict__) for record in caplog.records))
    assert cage.seen
    assert cage.escaped() == []


@pytest.fixture(params=["safe", "full"])
def manager(request: pytest.FixtureRequest, clock: ManualClock, cage: Cage) -> SessionManager:
    settings = Settings(
        secret_key=SECRET,
        secret_key_fallbacks=OLD_SECRET,
        node_id="node-a",
        protect="/private/*",
        legacy_cookies="starlette",
        error_detail=request.param,
    )
    return SessionManager(settings, clock=clock)


def log_in(manager: SessionManager, cage: Cage, **changes: Any) -> tuple[Claims, bytes]:
    claims = msgspec.structs.replace(
        node_of(manager).issuer.issue(SUBJECT), data=msgspec.msgpack.encode({"secret": DATA, "nested": [DATA]}), **changes
    )
    token = node_of(manager).sign(claims)
    cage.keep_token(token, claims)
    return claims, token


class Client:
    """Sends a request through the middleware, and puts into the cage all that comes back but the token's two header fields."""

    def __init__(self, manager: SessionManager, cage: Cage, act: Callable[[Session], Any] | None = None) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            session = get_session(scope)
            cage.look_at("problem", session.problem, repr(session.problem))
            if act is not None and (result := act(session)) is not None:
                await result
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        self.cage = cage
        self.middleware = SessionMiddleware(app, manager=manager)

    async def ask(self, *headers: tuple[bytes, bytes], path: str = "/private/x", kind: str = "http") -> int:
        messages: list[Message] = []

        async def send(message: Message) -> None:
            messages.append(message)

        async def receive() -> Message:
            return {"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request", "body": b"", "more_body": False}

        scope: Scope = {"type": kind, "method": "GET", "path": path, "root_path": "", "headers": list(headers), "query_string": b""}
        if path.endswith("offered"):
            scope["extensions"] = {"websocket.http.response": {}}
        try:
            await self.middleware(scope, receive, send)
        except SessionError as error:
            self.cage.look_at("raised", *told(error))
            return 500
        for message in messages:
            headers_sent = [pair for pair in message.get("headers", ()) if pair[0] not in (b"set-cookie", b"session-token")]
            self.cage.look_at("answer", *(b": ".join(pair) for pair in headers_sent), message.get("body", b""), message.get("reason", ""))
        return int(messages[0].get("status", messages[0].get("code", 0)))


def told(error: BaseException | None) -> list[str]:
    """Return the traceback of an error and its causes, without the lines of this file."""
    return [] if error is None else [repr(error), *traceback.format_exception_only(error), *told(error.__cause__ or error.__context__)]


def bearer(token: bytes) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + token


def cookie(token: bytes) -> tuple[bytes, bytes]:
    return b"cookie", b"session=" + token


# Refusals of every sort


async def test_no_refusal_sings(manager: SessionManager, cage: Cage, clock: ManualClock) -> None:
    claims, token = log_in(manager, cage)
    _, other_token = log_in(manager, cage)
    node_of(manager).view.forgotten_cuts_end_ms = 0.0  # as on a node of many, where somebody else may know of a cut
    _, unknown_cut = log_in(manager, cage, cuts=(CutId("unheard-of~ffffffffff"),))
    _, early = log_in(manager, cage, issued_ms=claims.issued_ms + 600_000)
    _, idle = log_in(manager, cage, idle_end_ms=claims.issued_ms)
    _, over = log_in(manager, cage, absolute_end_ms=claims.issued_ms)
    denied, denied_token = log_in(manager, cage)
    await node_of(manager).revoker.revoke_session(denied)
    foreign = SessionManager(Settings(secret_key="another-0123456789-abcdefghijklmnop"), clock=clock)
    foreign_token = node_of(foreign).sign(claims)
    cage.keep_token(foreign_token, claims)
    unreadable = token.rsplit(b".", 2)[0] + b"." + base64_encode(b"\x92\x02" + msgspec.msgpack.encode("canary-payload"))
    unreadable += b"." + node_of(manager).keys.ring.signing_key().signature(unreadable)
    starlettes = TimestampSigner(SECRET).sign(b64encode(b'["canary-legacy"]'))
    cage.keep(starlettes, b"canary-legacy")

    requests = {
        "missing": [],
        "ambiguous": [cookie(token), bearer(other_token)],
        "doubled": [cookie(token), cookie(other_token)],
        "large": [bearer(token + b"canary" * 1000)],
        "malformed": [bearer(token + b"=canary")],
        "altered": [cookie(token[:-6] + b"canary")],
        "foreign": [cookie(foreign_token)],
        "unreadable": [cookie(unreadable)],
        "early": [bearer(early)],
        "idle": [bearer(idle)],
        "over": [bearer(over)],
        "revoked": [bearer(denied_token)],
        "behind": [bearer(unknown_cut)],
        "legacy": [cookie(starlettes)],
        "legacy, altered": [cookie(starlettes + b"canary")],
    }
    client = Client(manager, cage)
    statuses = {}
    for name, headers in requests.items():
        for accept in (b"application/json", b"text/html"):
            statuses[name] = await client.ask(*headers, (b"accept", accept))
        await client.ask(*headers, path="/open")
        await client.ask(*headers, kind="websocket")
        await client.ask(*headers, path="/private/offered", kind="websocket")

    assert statuses.pop("behind") in (200, 503)  # whether it may have been forgotten by everybody, the log knows
    assert statuses == dict.fromkeys(requests.keys() - {"behind"}, 401) | {
        **dict.fromkeys(("ambiguous", "doubled", "large", "malformed"), 400),
        "unreadable": 503,
    }
    clock.advance(1)
    node_of(manager).view.fresh_at = -1e9
    assert await client.ask(bearer(token)) in (200, 503)


async def test_no_use_of_a_session_sings(manager: SessionManager, cage: Cage, clock: ManualClock) -> None:
    def too_large(session: Session) -> None:
        session["key"] = "canary" * 2000

    def strange(session: Session) -> None:
        session["fine"] = {"in": ["canary-value-in-a-set", {"canary-value-in-a-set"}]}

    def login(session: Session) -> None:
        session.login(SUBJECT + "-2")

    def nested(session: Session) -> None:
        session["nested"].append({"canary-value-in-a-set"})

    def change(session: Session) -> None:
        session["more"] = DATA

    actions: list[Callable[[Session], Any] | None] = [
        *(None, change, login, too_large, strange, nested, lambda session: session.cycle(), lambda session: session.clear()),
        *(lambda session: session.revoke(), lambda session: session.login(""), lambda session: session.login("canary" * 100)),
    ]
    for act in actions:
        _, token = log_in(manager, cage)
        for header in (cookie(token), bearer(token)):
            with suppress(ValueError):
                await Client(manager, cage, act).ask(header)
    _, token = log_in(manager, cage)
    clock.advance(20 * 60)
    assert await Client(manager, cage).ask(bearer(token)) == 200


async def test_no_record_contains_a_canary_in_any_outcome(manager: SessionManager, cage: Cage, clock: ManualClock) -> None:
    def large(session: Session) -> None:
        session["large"] = [DATA] * 1000

    def change(session: Session) -> None:
        session["more"] = DATA

    def strictly(session: Session) -> None:
        session.strict = True
        session["more"] = DATA

    records = node_of(manager).records
    assert records is not None
    store: Any = records._store
    cage.keep("canary-of-a-later-release")
    statuses = []

    async def stored() -> tuple[Record, tuple[bytes, bytes]]:
        """A session in the store, and its token."""
        claims, token = log_in(manager, cage)
        client = Client(manager, cage, large)
        assert await client.ask(bearer(token)) == 200
        record = await store.get(claims.family)
        new = node_of(manager).sign(node_of(manager).issuer.change_stored(claims, Stored.decode(record.version, record.content)))
        cage.keep_token(new, claims)
        cage.look_at("record", repr(record), repr(Stored.decode(record.version, record.content)), repr(records), repr(store))
        return record, bearer(new)

    def look(session: Session) -> None:
        dict(session)

    spoilers: list[Callable[[Record], Any]] = [
        lambda record: store.put(replace(record, content=b"\x93\x02canary-of-a-later-release")),
        lambda record: store.put(replace(record, content=record.content[:-5])),
        lambda record: store.delete(record.id),
    ]
    acts: list[Callable[[Session], Any]] = [look, change, strictly, lambda session: session.login(SUBJECT), lambda session: session.cycle()]
    for spoil in spoilers:
        record, token = await stored()
        assert await Client(manager, cage).ask(token) == 200  # by the copy
        await spoil(record)
        statuses += [await Client(manager, cage, act).ask(token) for act in acts]
    record, token = await stored()

    async def overtaken(session: Session) -> None:
        strictly(session)
        conflict = Conflict(await store.put(record))
        cage.look_at("conflict", repr(conflict), str(conflict), *told(conflict))

    statuses.append(await Client(manager, cage, overtaken).ask(token))
    with pytest.raises(ValueError) as too_long:  # noqa: PT011 - the only one
        await store.put(replace(record, content=DATA.encode() * 100_000))
    cage.look_at("too long", *told(too_long.value))
    await manager.revoke_subject(SUBJECT)
    statuses.append(await Client(manager, cage).ask(token))
    cage.look_at("status", await manager.status())
    assert {200, 401, 409, 503} == {*statuses}


# Objects that print themselves


async def test_no_repr_sings(manager: SessionManager, cage: Cage) -> None:
    claims, token = log_in(manager, cage)
    verified = node_of(manager).validator.validate(token)
    assert isinstance(verified, Verified)
    state = RequestState(manager, verified, "cookie")
    session = session_of(RequestState(manager))
    state_of(session).became = claims
    acknowledgement = await manager.revoke_subject(SUBJECT, except_session=claims.family)
    await manager.revoke_session(claims.sid)
    with pytest.raises(SessionError) as caught:
        node_of(manager).validator.validate(token)
    ring = node_of(manager).keys.ring

    things = [
        *(
            manager.settings,
            manager,
            cookie_writer(manager.settings),
            node_of(manager).view,
            manager.clock,
            node_of(manager).keys,
            node_of(manager).cache,
            node_of(manager).log,
        ),
        *(ring, *ring, ring.signing_key().signature, ring.signing_key().signer_for(b"x"), KeySource(manager.settings, 0.0)),
        *(claims, verified, state, session, session.problem, acknowledgement, *node_of(manager).view.entries(), Deny(claims.sid, 0)),
        *(Refuse(caught.value), CannotTell(caught.value), caught.value, SessionMiddleware(lambda *_: None, manager=manager)),  # type: ignore[arg-type]
    ]
    for thing in things:
        cage.look_at(type(thing).__name__, repr(thing), str(thing), f"{thing}")
    cage.look_at("status", await manager.status())


async def test_no_wrong_setting_sings(cage: Cage, tmp_path: Any) -> None:
    weak = "canary-short"
    file = tmp_path / "keys"
    file.write_text(f"{weak}\n{SECRET}")
    wrong: list[dict[str, Any]] = [
        {"secret_key": weak},
        {"secret_key": [SECRET, weak, SECRET]},
        {"secret_key": SECRET, "secret_key_fallbacks": [weak]},
        {"secret_key": SECRET, "cookie_name": SECRET},
        {"secret_key_file": file},
        {"secret_key": SECRET, "secret_key_file": file},
        {"secret_key": {SECRET}},
        {"secret_key": object(), "secret_key_fallbacks": {SECRET: SECRET}},
    ]
    for given in wrong:
        with pytest.raises(ConfigurationError) as caught:
            Settings(**given)
        cage.look_at("fault", *told(caught.value), *caught.value.faults)
    middleware = SessionMiddleware(lambda *_: None, secret_key=weak)  # type: ignore[arg-type]
    cage.look_at("middleware", repr(middleware.manager.settings))


async def test_the_cage_notices_a_canary_that_got_out() -> None:
    """Otherwise the tests above would prove nothing."""
    cage = Cage()
    cage.keep(SessionId("an-id"))
    cage.look_at("here", "<p>an-id</p>", b"x: canary-secret")

    assert sorted(cage.escaped()) == [("here", "an-id"), ("here", "canary")]


async def test_no_record_or_event_of_a_log_in_contains_a_canary(cage: Cage, clock: ManualClock) -> None:
    cage.keep("192.0.2.77")
    settings = Settings(secret_key=SECRET, track="on", track_address=True, devices="on", max_sessions=1, when_full="refuse")
    manager = SessionManager(settings, clock=clock)
    told: list[object] = []
    manager.on_event(told.append)
    claims, token = log_in(manager, cage)
    here = {"replaces": None, "user_agent": "canary-agent", "address": "192.0.2.77", "before_ending": anyio.lowlevel.checkpoint}
    async with manager.running():
        devices, as_signed = node_of(manager).require_devices(), node_of(manager).issuer.as_signed
        await devices.enter(as_signed(claims), **here)  # type: ignore[arg-type]
        cage.look_at("devices", *await manager.sessions_of(SUBJECT), *map(repr, await manager.sessions_of(SUBJECT)))
        for refused in (
            devices.enter(as_signed(msgspec.structs.replace(claims, family="canary-family")), **here),  # type: ignore[arg-type]
            manager.revoke_session_of("canary-somebody", claims.family),
        ):
            with pytest.raises(SessionError) as error:
                await refused
            cage.look_at("raised", error.value, repr(error.value))
        client = Client(manager, cage)
        await client.ask((b"authorization", b"Bearer " + token), path="/-/session/devices/canary-unknown")
        await manager.revoke_session_of(SUBJECT, claims.family)
        await manager.revoke_subject(SUBJECT)
        cage.look_at("status", await manager.status())
        await anyio.wait_all_tasks_blocked()
    assert len(told) == 2
    cage.look_at("events", *told, *map(repr, told))
